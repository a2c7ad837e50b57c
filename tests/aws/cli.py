"""Runs the AWS command line, version 1, as a user would; it knows nothing of a proxy.

    cli.py AWS [--endpoint URL] [--expect-refused]

AWS is the program `aws` of the test kit. Keys, region, HTTPS_PROXY and AWS_CA_BUNDLE come from the environment, and HOME
should be an empty folder. Expects the resources of moto_server.py. With --expect-refused every command must be refused
for its keys. One JSON line for each command.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import uuid

import requests

from operations import REFUSALS, Operations, Refused

arguments = argparse.ArgumentParser()
arguments.add_argument("program", metavar="AWS")
arguments.add_argument("--endpoint")
arguments.add_argument(
    "--presigned", action="store_true", help="use presigned URLs, which moto refuses without the proxy"
)
arguments.add_argument("--expect-refused", action="store_true")
arguments = arguments.parse_args()

operations = Operations(arguments.expect_refused)
bucket = "countersign-plain"
name = f"a folder/größe {uuid.uuid4().hex[:8]}.bin"
data = os.urandom(9 * 1024 * 1024)  # Above the command line's 8 MiB: a multipart upload, and a download in ranges.


def aws(*words, parse=True):
    command = [arguments.program]
    if arguments.endpoint:
        command += ["--endpoint-url", arguments.endpoint]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    if done.returncode:
        # The rest is moto's: XML for a client that expects JSON.
        found = re.search("<Code>(.*?)</Code>", done.stderr) or re.search(r"error occurred \(([^)]+)\)", done.stderr)
        if found and found[1] in REFUSALS:
            raise Refused(found[1])
        raise RuntimeError(done.stderr.strip() or f"status {done.returncode}")
    return json.loads(done.stdout) if parse else done.stdout


def check(condition, words):
    if not condition:
        raise AssertionError(words)


with tempfile.TemporaryDirectory() as folder:
    up, down = os.path.join(folder, "up"), os.path.join(folder, "down")
    with open(up, "wb") as file:
        file.write(data)
    url = f"s3://{bucket}/{name}"

    def download():
        aws("s3", "cp", url, down, parse=False)
        with open(down, "rb") as file:
            check(file.read() == data, "another content came down")

    def presign():
        signed = aws("s3", "presign", url, parse=False).strip()
        if not arguments.presigned:
            return
        answer = requests.get(signed, timeout=30, verify=os.environ.get("AWS_CA_BUNDLE") or True)
        if answer.status_code != 200:
            raise Refused(answer.text.partition("<Code>")[2].partition("</Code>")[0], answer.status_code)
        check(answer.content == data, "another content came down")

    operations.run("s3 cp up", lambda: aws("s3", "cp", up, url, parse=False) and None)
    operations.run(
        "s3 ls",
        lambda: check(
            name.rpartition("/")[2] in aws("s3", "ls", url.rpartition("/")[0] + "/", parse=False), "not listed"
        ),
    )
    operations.run("s3 cp down", download)
    # Signing a URL asks nobody: it can't be refused, only using it can.
    if arguments.presigned or not arguments.expect_refused:
        operations.run("s3 presign", presign)
    operations.run("s3 rm", lambda: aws("s3", "rm", url, parse=False) and None)

key = json.dumps({"id": {"S": name}, "at": {"N": "7"}})
operations.run(
    "dynamodb put-item",
    lambda: aws("dynamodb", "put-item", "--table-name", "countersign", "--item", key, parse=False) and None,
)
operations.run(
    "dynamodb get-item",
    lambda: check(
        aws("dynamodb", "get-item", "--table-name", "countersign", "--key", key)["Item"]["at"]["N"] == "7", "item"
    ),
)
operations.run(
    "dynamodb describe-table", lambda: aws("dynamodb", "describe-table", "--table-name", "countersign") and None
)
operations.run(
    "sqs send-message",
    lambda: (
        aws(
            "sqs",
            "send-message",
            "--queue-url",
            "https://sqs.us-east-1.amazonaws.com/123456789012/countersign",
            "--message-body",
            "a b+c é",
        )
        and None
    ),
)
operations.run("sts get-caller-identity", lambda: {"arn": aws("sts", "get-caller-identity")["Arn"]})
operations.run("ec2 describe-volumes", lambda: {"volumes": len(aws("ec2", "describe-volumes")["Volumes"])})
operations.run("iam list-users", lambda: {"users": len(aws("iam", "list-users")["Users"])})
operations.end()
