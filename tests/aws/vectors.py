"""The independent signer: prints generated requests and how botocore and awscrt sign them, one JSON line each.

    vectors.py [--seed N] [--s3 1800] [--other 1800] [--v4a 500]

The same seed gives the same lines (but for `crt_signature`: ECDSA is random). The rows are described in README.md.

botocore signs nearly every header. Signed here are only host, content-type and x-amz-*: the classes below override
`headers_to_sign`, and `payload` to say which payload mode is meant; everything else is botocore's, called through
`add_auth` at a fixed time. In S3 paths a caller may leave reserved characters as they are; they are expected to go out
in %XX with existing escapes untouched, so botocore is given that path, which is the row's `wire`.

botocore has no SigV4a of its own, and awscrt does not show what it signed. The canonical request and the string to sign
of the v4a rows are made here, from the specification; a row is printed only after awscrt's signature of the same
request has been verified over that string with the key derived from the secret. Any that fails ends the program with 1.
"""

import argparse
import datetime
import hashlib
import io
import json
import random
import re
import string
import sys

import awscrt.auth
import awscrt.http
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from verify_v4a import private_key

UNSIGNED = "UNSIGNED-PAYLOAD"
TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
UNRESERVED = string.ascii_letters + string.digits + "-._~"
# What RFC 3986 lets a path have as it is; '/' separates.
RAW = "!$&'()*+,;=:@"
# Every other printable character, and some of two to four bytes; they go into %XX.
ESCAPED = RAW + '/ "#%<>?[]\\^`{|}'
UNICODE = "éßЖ日本😀"
REGIONS = ["us-east-1", "eu-central-1", "ap-southeast-2", "us-gov-west-1", "cn-north-1"]
SERVICES = ["sts", "iam", "dynamodb", "sqs", "lambda", "ec2", "execute-api", "organizations", "es"]
# The first day and the last second of a year, a leap day, the hour when summer time ends.
TIMES = [1440938160, 1704067199, 1704067200, 1709164800 + 3600, 1761440400, 4102444799]
METHODS = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"]

arguments = argparse.ArgumentParser()
arguments.add_argument("--seed", type=int, default=1)
arguments.add_argument("--s3", type=int, default=1800)
arguments.add_argument("--other", type=int, default=1800)
arguments.add_argument("--v4a", type=int, default=500)
arguments = arguments.parse_args()
dice = random.Random(arguments.seed)


def signed(name):
    return name in ("host", "content-type") or name.startswith("x-amz-")


class Chosen:
    """Which headers are signed and what stands for the body; keeps what was computed on the way."""

    mode = "hash"

    def headers_to_sign(self, request):
        chosen = HTTPHeaders()
        for name, value in request.headers.items():
            if signed(name.lower()):
                chosen[name.lower()] = value
        return chosen

    def payload(self, request):
        return super().payload(request) if self.mode == "hash" else self.mode

    def string_to_sign(self, request, canonical_request):
        self.canonical = canonical_request
        self.to_sign = super().string_to_sign(request, canonical_request)
        return self.to_sign


class Other(Chosen, botocore.auth.SigV4Auth):
    pass


class S3(Chosen, botocore.auth.S3SigV4Auth):
    pass


def escape(text, lower=False):
    done = "".join(f"%{byte:02X}" for byte in text.encode())
    return done.lower() if lower else done


def word(alphabet=UNRESERVED, least=1, most=8):
    return "".join(dice.choices(alphabet, k=dice.randint(least, most)))


def path(s3, dots):
    """A path as a caller may write it."""
    if dice.random() < 0.04:
        return "/"
    segments = []
    for _ in range(dice.randint(1, 5)):
        kind = dice.random()
        if dots and kind < 0.08:
            segment = dice.choice([".", ".."])
        elif kind < 0.14:
            segment = ""  # A double slash.
        elif kind < 0.18:
            segment = dice.choice(["...", "..a", "a..", ".a", "%2E", "%2e%2E", "..%2F.."])
        else:
            segment = ""
            for _ in range(dice.randint(1, 4)):
                segment += dice.choice(
                    [
                        lambda: word(),
                        lambda: escape(word(ESCAPED, 1, 3)),
                        lambda: escape(dice.choice(ESCAPED), lower=True),
                        lambda: escape(word(UNICODE, 1, 2)),
                        lambda: escape(word(UNICODE, 1, 2), lower=True),
                        lambda: "%2F",
                        lambda: escape(dice.choice(UNRESERVED)),  # Needless, and to be left as it is.
                        lambda: word(RAW, 1, 3),
                    ]
                )()
        segments.append(segment)
    if segments[-1] in (".", ".."):
        # What is left of a last dot segment is `/` in RFC 3986 and nothing in botocore: no row is about it.
        segments.append("end")
    # On the wire "//a" at the start would be ambiguous in no way, but some HTTP libraries read an authority there.
    if segments[0] == "" and not s3:
        segments[0] = "first"
    return "/" + "/".join(segments) + dice.choice(["", "", "/"])


def query():
    """In the encoding of AWS: unreserved, or %XX in upper case. Names that are prefixes of each other are frequent."""
    if dice.random() < 0.35:
        return ""
    names = [
        "a",
        "a-",
        "a.",
        "a%20",
        "a%2B",
        "a0",
        "A",
        "a~",
        "prefix",
        "X-Thing",
        "%C3%A9",
        "list-type",
        "uploads",
        "acl",
    ]
    pairs = []
    for _ in range(dice.randint(1, 6)):
        name = dice.choice(names) if dice.random() < 0.7 else word()
        value = "".join(
            dice.choice([word(), escape(dice.choice(ESCAPED)), escape(dice.choice(UNICODE))])
            for _ in range(dice.randint(0, 2))
        )
        pairs.append(dice.choice([f"{name}={value}", f"{name}={value}", f"{name}=", name]))
        if dice.random() < 0.15:
            pairs.append(dice.choice([pairs[-1], f"{name}={word()}"]))
    dice.shuffle(pairs)
    return "?" + "&".join(pairs)


def case(name):
    return dice.choice([name, name.title(), name.upper()])


def headers(host, most=5):
    """As a caller sends them: also some that are not signed, repeated ones, and white space within values."""
    rows = []
    if dice.random() < 0.5:
        kinds = ["application/json", "text/plain; charset=utf-8", "application/x-amz-json-1.0", 'a/b;c="d  e"']
        rows.append([case("content-type"), dice.choice(kinds)])
    for _ in range(dice.randint(0, most)):
        name = dice.choice(
            [
                "x-amz-meta-a",
                "x-amz-meta-b",
                "x-amz-meta-a-b",
                "x-amz-target",
                "x-amz-acl",
                "x-amz-meta-" + word(string.ascii_lowercase),
            ]
        )
        value = dice.choice(
            [
                "",
                word(),
                "one  two   three",
                "  around  ",
                "a,b, c",
                '"quoted  twice"',
                "x" * 200,
                "~!@#$%^&*()_+=[]{}|;:<>?/",
            ]
        )
        rows.append([case(name), value])
    for name, value in [
        ("user-agent", "client/1  x"),
        ("accept", "*/*"),
        ("x-other", "not signed"),
        ("cache-control", "no-cache"),
    ]:
        if dice.random() < 0.3:
            rows.append([case(name), value])
    dice.shuffle(rows)
    return [[case("host"), host], *rows]


def body(method):
    if method in ("GET", "HEAD", "OPTIONS") or dice.random() < 0.2:
        return b""
    return dice.choice(
        [b"{}", b"Action=A&Version=1", "größe".encode(), dice.randbytes(dice.randint(1, 300)), bytes(range(256))]
    )


def keys():
    access = dice.choice(["AKIA", "ASIA"]) + "".join(dice.choices(string.ascii_uppercase + "234567", k=16))
    secret = "".join(dice.choices(string.ascii_letters + string.digits + "/+", k=40))
    token = (
        "".join(dice.choices(string.ascii_letters + string.digits + "/+=", k=dice.choice([100, 400])))
        if dice.random() < 0.4
        else None
    )
    return access, secret, token


def request(s3, dots=True):
    region, service = dice.choice(REGIONS), "s3" if s3 else dice.choice(SERVICES)
    host = f"bucket.s3.{region}.amazonaws.com" if s3 else f"{service}.{region}.amazonaws.com"
    host = dice.choice([host, host, host, host + ":8443", "internal.test:8080"])
    method = dice.choice(METHODS)
    access, secret, token = keys()
    modes = ["hash", "hash", UNSIGNED, TRAILER] if s3 else ["hash", "hash", "hash", "hash-in-header"]
    at = dice.choice(TIMES) if dice.random() < 0.3 else dice.randint(1_400_000_000, 2_000_000_000)
    row = {
        "kind": "s3" if s3 else "other",
        "method": method,
        "path_and_query": path(s3, dots) + query(),
        "host": host,
        "headers": headers(host),
        "body": body(method).hex(),
        "access_key": access,
        "secret_key": secret,
        "session_token": token,
        "region": region,
        "service": service,
        "time": at,
        "payload": dice.choice(modes),
    }
    if row["payload"] == "hash-in-header":
        # A caller of another service than S3 may say the hash; then it is signed with the other x-amz-*.
        row["payload"] = "hash"
        row["headers"].append(["X-Amz-Content-Sha256", hashlib.sha256(bytes.fromhex(row["body"])).hexdigest()])
    row["wire"] = wire(row["path_and_query"]) if s3 else row["path_and_query"]
    row["canonical_escapes"] = canonical_escapes(row["wire"].partition("?")[0])
    return row


def canonical_escapes(path):
    """Whether every escape is in upper case and needed: what a server makes of the path that it decoded."""
    return all(e == e.upper() and chr(int(e[1:], 16)) not in UNRESERVED for e in re.findall("%..", path))


def wire(path_and_query):
    """The path with all but unreserved characters, '/' and existing escapes in %XX; the query as it is."""
    plain, mark, rest = path_and_query.partition("?")
    plain = re.sub(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9\-._~/]", lambda m: m[0] if len(m[0]) == 3 else escape(m[0]), plain)
    return plain + mark + rest


def when(at):
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc)


def v4(row):
    made = AWSRequest(method=row["method"], url=f"https://{row['host']}{row['wire']}", data=bytes.fromhex(row["body"]))
    for name, value in row["headers"]:
        made.headers.add_header(name, value)
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: when(row["time"]).replace(tzinfo=None)
    signer = (S3 if row["kind"] == "s3" else Other)(
        Credentials(row["access_key"], row["secret_key"], row["session_token"]), row["service"], row["region"]
    )
    signer.mode = row["payload"]
    signer.add_auth(made)
    row["expect"] = {
        "authorization": made.headers["Authorization"],
        "canonical_request": signer.canonical,
        "string_to_sign": signer.to_sign,
        "x-amz-content-sha256": made.headers["X-Amz-Content-SHA256"],
    }
    return row


def canonical_query(wire_path):
    pairs = [pair.partition("=") for pair in wire_path.partition("?")[2].split("&")] if "?" in wire_path else []
    return "&".join(f"{name}={value}" for name, value in sorted((name, value) for name, _, value in pairs))


def canonical_path(row):
    plain = row["wire"].partition("?")[0]
    if row["service"] == "s3":
        return plain
    kept = []
    for segment in plain.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    normal = "/" + "/".join(kept) + ("/" if plain.endswith("/") and kept else "")
    return re.sub(r"[^A-Za-z0-9\-._~/]", lambda m: escape(m[0]), normal)


def v4a(row):
    row["kind"] = "v4a"
    row["region_set"] = dice.choice(["*", "us-east-1", "us-east-1,eu-west-1", "us-west-*"])
    s3 = row["service"] == "s3"
    content = row["payload"] if row["payload"] != "hash" else hashlib.sha256(bytes.fromhex(row["body"])).hexdigest()
    stamp = when(row["time"]).strftime("%Y%m%dT%H%M%SZ")
    sent = [[name, value] for name, value in row["headers"] if signed(name.lower())]

    added = [["x-amz-date", stamp], ["x-amz-region-set", row["region_set"]]]
    if row["session_token"]:
        added.append(["x-amz-security-token", row["session_token"]])
    if s3:
        added.append(["x-amz-content-sha256", content])
    fields = {}
    for name, value in sent + added:
        fields.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(fields))
    lines = "".join(f"{name}:{','.join(fields[name])}\n" for name in sorted(fields))
    canonical = "\n".join([row["method"], canonical_path(row), canonical_query(row["wire"]), lines, names, content])
    scope = f"{stamp[:8]}/{row['service']}/aws4_request"
    to_sign = "\n".join(["AWS4-ECDSA-P256-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])

    made = awscrt.http.HttpRequest(
        method=row["method"],
        path=row["wire"],
        headers=awscrt.http.HttpHeaders([(name, value) for name, value in sent]),
        body_stream=io.BytesIO(bytes.fromhex(row["body"])) if row["body"] else None,
    )
    kinds = awscrt.auth.AwsSignedBodyHeaderType
    config = awscrt.auth.AwsSigningConfig(
        algorithm=awscrt.auth.AwsSigningAlgorithm.V4_ASYMMETRIC,
        signature_type=awscrt.auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=awscrt.auth.AwsCredentialsProvider.new_static(
            row["access_key"], row["secret_key"], row["session_token"]
        ),
        region=row["region_set"],
        service=row["service"],
        date=when(row["time"]),
        use_double_uri_encode=not s3,
        should_normalize_uri_path=not s3,
        signed_body_value=None if row["payload"] == "hash" else row["payload"],
        signed_body_header_type=kinds.X_AMZ_CONTENT_SHA_256 if s3 else kinds.NONE,
    )
    awscrt.auth.aws_sign_request(made, config).result()
    authorization = made.headers.get("Authorization")
    start, _, signature = authorization.partition(", Signature=")
    key = private_key(row["access_key"], row["secret_key"]).public_key()
    expected = f"AWS4-ECDSA-P256-SHA256 Credential={row['access_key']}/{scope}, SignedHeaders={names}"
    if start != expected:
        raise ValueError(f"awscrt says {start}, here it is {expected}")
    key.verify(bytes.fromhex(signature), to_sign.encode(), ec.ECDSA(hashes.SHA256()))
    public = key.public_numbers()
    row["expect"] = {
        "authorization_start": start + ", Signature=",
        "canonical_request": canonical,
        "string_to_sign": to_sign,
        "x-amz-content-sha256": content if s3 else None,
        "public_x": f"{public.x:064x}",
        "public_y": f"{public.y:064x}",
        "crt_signature": signature,
    }
    return row


for s3, count in ((True, arguments.s3), (False, arguments.other)):
    for _ in range(count):
        print(json.dumps(v4(request(s3))))
for number in range(arguments.v4a):
    row = request(number % 2 == 0)
    # That header is awscrt's to add.
    row["headers"] = [[name, value] for name, value in row["headers"] if name.lower() != "x-amz-content-sha256"]
    if row["service"] != "s3":
        # awscrt reads a path with ":/" in it as an absolute URL: it fails, or signs another path.
        for part in ("path_and_query", "wire"):
            row[part] = row[part].replace(":/", "/")
    try:
        print(json.dumps(v4a(row)))
    except (InvalidSignature, ValueError) as error:
        sys.exit(f"{type(error).__name__} {error}: {json.dumps(row)}")
