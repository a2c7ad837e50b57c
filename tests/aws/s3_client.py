"""An ordinary boto3 program that uses S3; it knows nothing of a proxy.

    s3_client.py [--endpoint URL] [--addressing virtual|path] [--server moto|s3s-fs] [--expect-refused]

Keys, region, HTTPS_PROXY and AWS_CA_BUNDLE come from the environment. Without --endpoint it asks
`https://BUCKET.s3.us-east-1.amazonaws.com` (or the path style of it). --server leaves out what that server can't do
(CANNOT, below). With --expect-refused every operation must be refused for its keys. One JSON line for each operation.
"""

import argparse
import io
import os
import tempfile
import uuid

import boto3
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from operations import Operations, Refused

# Each tried without a proxy and with the right keys; the reason is the server's or its engine's, not a signature.
CANNOT = {
    None: {},
    "moto": {
        "Presigned:PUT": "moto verifies no presigned URL; a proxy that signs in the header makes it pass",
        "Presigned:GET": "as Presigned:PUT",
    },
    "s3s-fs": {
        "List:plus": "it does not encode keys for encoding-type=url, and botocore decodes them: + becomes a space",
    },
}
KEYS = {
    "plain": "plain.txt",
    "space": "a folder/a file",
    "unicode": "größe/日本語/😀.txt",
    "plus": "1+1=2",
    "colon": "urn:a:b",
    "double-slash": "a//b///c",
    "percent-escape": "a%2Fb%20c%zz%",
    "dots": "a/..b/...c/.d/e..",
    "dot-segments": "a/../b/./c",
    "tilde-and-more": "~*'()!,;@&=$",
    "query-like": 'a?b=c#d[e]{f}|\\^`"<>',
}
MIB = 1024 * 1024

arguments = argparse.ArgumentParser()
arguments.add_argument("--endpoint")
arguments.add_argument("--addressing", choices=["virtual", "path"], default="virtual")
arguments.add_argument("--server", choices=["moto", "s3s-fs"])
arguments.add_argument("--expect-refused", action="store_true")
arguments = arguments.parse_args()

operations = Operations(arguments.expect_refused, CANNOT[arguments.server])
bucket = f"countersign-{uuid.uuid4().hex[:12]}"
session = boto3.Session()


def client(**settings):
    s3 = {"addressing_style": arguments.addressing, **settings.pop("s3", {})}
    # Once: a proxy that fails is to be seen, not retried. But s3s-fs closes the connection on whom it refuses, which a
    # client notices only when it uses it again; a refusal itself is final.
    retries = {"total_max_attempts": 4 if arguments.expect_refused else 1}
    config = Config(s3=s3, retries=retries, connect_timeout=10, read_timeout=30, **settings)
    return session.client("s3", endpoint_url=arguments.endpoint, config=config)


def check(condition, words):
    if not condition:
        raise AssertionError(words)


class Stream(io.RawIOBase):
    """A body that can only be read once, from its start to its end."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(buffer)


s3 = client()
data = bytes(range(256)) * 300 + "ä".encode()


def same(key, expected=data, service=s3):
    got = service.get_object(Bucket=bucket, Key=key)["Body"].read()
    check(got == expected, f"{len(got)} bytes came back, {len(expected)} were sent, and they differ")


def put_and_get(service=s3, key="object", body=None, **more):
    service.put_object(Bucket=bucket, Key=key, Body=data if body is None else body, **more)
    if not arguments.expect_refused:
        same(key, service=service)


def buckets():
    operations.run("CreateBucket", lambda: s3.create_bucket(Bucket=bucket) and None)
    operations.run(
        "ListBuckets", lambda: check(bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]], "not listed")
    )
    operations.run("HeadBucket", lambda: s3.head_bucket(Bucket=bucket) and None)


def objects():
    # Checksums, and with them the way in which the body is sent: with a hash of it or in aws-chunked with a trailer.
    for when in ("when_supported", "when_required"):
        for signed in (True, False):
            service = client(request_checksum_calculation=when, s3={"payload_signing_enabled": signed})
            name = f"Put:{when}:{'signed' if signed else 'unsigned'}"
            operations.run(name, lambda: put_and_get(service))
            operations.run(name + ":empty", lambda: service.put_object(Bucket=bucket, Key="empty", Body=b"") and None)
            operations.run(name + ":file", lambda: put_file(service))
            operations.run(
                name + ":stream",
                lambda: service.upload_fileobj(Stream(data), bucket, "stream") or check_unless_refused("stream"),
            )
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
        operations.run(f"Put:{algorithm}", lambda: put_and_get(ChecksumAlgorithm=algorithm))
        operations.run(f"Put:{algorithm}:file", lambda: put_file(s3, ChecksumAlgorithm=algorithm))
    operations.run(
        "Put:headers",
        lambda: put_and_get(
            ContentType="text/plain; charset=utf-8",
            CacheControl="no-cache",
            Metadata={"a": "two  spaces", "b": "x,y", "long": "z" * 500},
            ContentDisposition='attachment; filename="a b.txt"',
        ),
    )
    for name, key in KEYS.items():
        operations.run(f"Put:key:{name}", lambda: put_and_get(key=key))
        operations.run(
            f"Head:key:{name}",
            lambda: check(s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(data), "length"),
        )
        operations.run(f"Delete:key:{name}", lambda: s3.delete_object(Bucket=bucket, Key=key) and None)
    operations.run(
        "Get:range",
        lambda: check(
            s3.get_object(Bucket=bucket, Key="object", Range="bytes=10-19")["Body"].read() == data[10:20], "range"
        ),
    )


def check_unless_refused(key):
    if not arguments.expect_refused:
        same(key)


def put_file(service, **more):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        put_and_get(service, key="file", body=file, **more)


def listings():
    names = ["list/a", "list/b c", "list/d/e", "list/ü &", "list/z"]

    def prepare():
        for name in names:
            s3.put_object(Bucket=bucket, Key=name, Body=b"x")

    def list_v2():
        got = s3.list_objects_v2(Bucket=bucket, Prefix="list/", Delimiter="/")
        check({c["Key"] for c in got["Contents"]} == {n for n in names if n != "list/d/e"}, "contents")
        check([p["Prefix"] for p in got["CommonPrefixes"]] == ["list/d/"], "prefixes")

    def list_v1():
        got = s3.list_objects(Bucket=bucket, Prefix="list/ü &", EncodingType="url")
        check(len(got.get("Contents", [])) == 1, "contents")

    def plus():
        s3.put_object(Bucket=bucket, Key="plus/1+1", Body=b"x")
        got = [c["Key"] for c in s3.list_objects_v2(Bucket=bucket, Prefix="plus/1+").get("Contents", [])]
        check(got == ["plus/1+1"], f"{got}")

    def pages():
        pager = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix="list/", PaginationConfig={"PageSize": 2}
        )
        found = [[c["Key"] for c in page.get("Contents", [])] for page in pager]
        check(sum(found, []) and sorted(sum(found, [])) == sorted(names), f"{found}")
        check(len(found) == 3, f"{len(found)} pages")

    operations.run("List:prepare", prepare)
    operations.run("List:v2", list_v2)
    operations.run("List:v1", list_v1)
    operations.run("List:plus", plus)
    operations.run("List:pages", pages)


def multipart():
    large = os.urandom(5 * MIB) + os.urandom(5 * MIB) + b"the end"

    def upload(**more):
        config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=3)
        s3.upload_fileobj(io.BytesIO(large), bucket, "a large/object ü", Config=config, ExtraArgs=more)
        if not arguments.expect_refused:
            same("a large/object ü", large)

    def upload_part_copy():
        there = {"Bucket": bucket, "Key": "part copy"}
        number = s3.create_multipart_upload(**there)["UploadId"]
        source = {"Bucket": bucket, "Key": "a large/object ü"}
        part = s3.upload_part_copy(
            **there, UploadId=number, PartNumber=1, CopySource=source, CopySourceRange="bytes=0-1023"
        )
        parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
        s3.complete_multipart_upload(**there, UploadId=number, MultipartUpload={"Parts": parts})
        same("part copy", large[:1024])

    def abort():
        number = s3.create_multipart_upload(Bucket=bucket, Key="aborted")["UploadId"]
        s3.abort_multipart_upload(Bucket=bucket, Key="aborted", UploadId=number)

    operations.run("Multipart", upload)
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA256"):
        operations.run(f"Multipart:{algorithm}", lambda: upload(ChecksumAlgorithm=algorithm))
    operations.run("UploadPartCopy", upload_part_copy)
    operations.run("AbortMultipart", abort)


def copies():
    def copy():
        s3.copy_object(Bucket=bucket, Key="a copy ü", CopySource={"Bucket": bucket, "Key": "object"})
        same("a copy ü")

    operations.run("Copy", copy)


def presigned():
    # What an unmodified requests does with a signed URL. The keys that signed it are those of this process, which
    # behind the proxy are worth nothing.
    def answered(answer):
        if answer.status_code >= 300:
            code = answer.text.partition("<Code>")[2].partition("</Code>")[0]
            raise Refused(code or str(answer.status_code), answer.status_code)
        return answer

    def call(method, key, **more):
        url = s3.generate_presigned_url(
            {"GET": "get_object", "PUT": "put_object"}[method], Params={"Bucket": bucket, "Key": key}, ExpiresIn=300
        )
        ca = os.environ.get("AWS_CA_BUNDLE") or True
        return answered(requests.request(method, url, timeout=30, verify=ca, **more))

    operations.run("Presigned:PUT", lambda: call("PUT", "presigned +ü", data=b"presigned") and None)
    operations.run("Presigned:GET", lambda: check(call("GET", "presigned +ü").content == b"presigned", "another body"))
    # Here, because a listing of s3s-fs does not name it rightly.
    operations.run("Delete:presigned", lambda: s3.delete_object(Bucket=bucket, Key="presigned +ü") and None)


def deletions():
    operations.run("Delete", lambda: s3.delete_object(Bucket=bucket, Key="object") and None)

    def rest():
        keys = [c["Key"] for c in s3.list_objects_v2(Bucket=bucket).get("Contents", [])] or ["none"]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
        check(not answer.get("Errors"), f"{answer.get('Errors')}")
        left = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        check(not left, f"{len(left)} objects left")

    operations.run("DeleteObjects", rest)
    operations.run("DeleteBucket", lambda: s3.delete_bucket(Bucket=bucket) and None)


buckets()
objects()
listings()
multipart()
copies()
presigned()
deletions()
operations.end()
