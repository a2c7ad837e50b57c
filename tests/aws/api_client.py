"""An ordinary boto3 program that uses seven AWS services; it knows nothing of a proxy.

    api_client.py [--endpoint URL] [--expect-refused] [SERVICE...]

Keys, region, HTTPS_PROXY and AWS_CA_BUNDLE come from the environment, as for any such program. Expects the resources of
moto_server.py. SERVICE: sts, iam, dynamodb, sqs, lambda, ec2, organizations (all). With --endpoint every service is
asked there. With --expect-refused every operation must be refused for its keys. One JSON line for each operation.
"""

import argparse
import uuid

import boto3
from botocore.config import Config

from operations import Operations

arguments = argparse.ArgumentParser()
arguments.add_argument("--endpoint")
arguments.add_argument("--expect-refused", action="store_true")
arguments.add_argument("services", nargs="*", metavar="SERVICE")
arguments = arguments.parse_args()

operations = Operations(arguments.expect_refused)
# Once: a refusal is final, and a proxy that fails is to be seen, not retried.
config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30)


def client(name):
    return boto3.client(name, endpoint_url=arguments.endpoint, config=config)


def check(condition, words):
    if not condition:
        raise AssertionError(words)


def sts():
    service = client("sts")
    operations.run("sts:GetCallerIdentity", lambda: {"arn": service.get_caller_identity()["Arn"]})


def iam():
    service = client("iam")

    def users():
        return {"users": sorted(user["UserName"] for user in service.list_users()["Users"])}

    operations.run("iam:ListUsers", users)
    operations.run("iam:GetRole", lambda: {"role": service.get_role(RoleName="trusting")["Role"]["Arn"]})


def dynamodb():
    service = client("dynamodb")
    # Not ASCII, and with what a signature must not confuse.
    mark = f"é +%2F {uuid.uuid4()}"
    key = {"id": {"S": mark}, "at": {"N": "1"}}

    def put():
        for at in ("1", "2", "3"):
            service.put_item(TableName="countersign", Item={**key, "at": {"N": at}, "value": {"S": mark * 100}})

    def get():
        item = service.get_item(TableName="countersign", Key=key)["Item"]
        check(item["value"]["S"] == mark * 100, "another item came back")

    def query():
        pages = service.get_paginator("query").paginate(
            TableName="countersign",
            KeyConditionExpression="id = :id AND #at >= :from",
            ExpressionAttributeNames={"#at": "at"},
            ExpressionAttributeValues={":id": {"S": mark}, ":from": {"N": "2"}},
            PaginationConfig={"PageSize": 1},
        )
        items = [item for page in pages for item in page["Items"]]
        check(len(items) == 2, f"{len(items)} items")

    operations.run("dynamodb:PutItem", put)
    operations.run("dynamodb:GetItem", get)
    operations.run("dynamodb:Query", query)


def sqs():
    service = client("sqs")
    text = f"<a & b> é {uuid.uuid4()}"
    found = operations.run(
        "sqs:GetQueueUrl", lambda: {"url": service.get_queue_url(QueueName="countersign")["QueueUrl"]}
    )
    url = found["url"] if found else "https://sqs.us-east-1.amazonaws.com/123456789012/countersign"

    def receive():
        for _ in range(20):
            for message in service.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
                service.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                if message["Body"] == text:
                    return
        raise AssertionError("the message did not come back")

    operations.run("sqs:SendMessage", lambda: service.send_message(QueueUrl=url, MessageBody=text) and None)
    operations.run("sqs:ReceiveMessage", receive)


def functions():
    service = client("lambda")
    operations.run(
        "lambda:ListFunctions",
        lambda: {"functions": [f["FunctionName"] for f in service.list_functions()["Functions"]]},
    )
    # An ARN in the path: its colons are %3A on the wire.
    arn = "arn:aws:lambda:us-east-1:123456789012:function:countersign"
    operations.run(
        "lambda:GetFunction", lambda: {"arn": service.get_function(FunctionName=arn)["Configuration"]["FunctionArn"]}
    )


def ec2():
    service = client("ec2")

    def regions():
        count = len(service.describe_regions()["Regions"])
        check(count > 10, f"{count} regions")

    def instances():
        filters = [
            {"Name": "tag:Name", "Values": ["blue", "no such/one *"]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        found = [i for r in service.describe_instances(Filters=filters)["Reservations"] for i in r["Instances"]]
        check(len(found) == 1, f"{len(found)} instances")

    operations.run("ec2:DescribeRegions", regions)
    operations.run("ec2:DescribeInstances", instances)


def organizations():
    service = client("organizations")
    operations.run(
        "organizations:DescribeOrganization", lambda: {"id": service.describe_organization()["Organization"]["Id"]}
    )


ALL = {
    "sts": sts,
    "iam": iam,
    "dynamodb": dynamodb,
    "sqs": sqs,
    "lambda": functions,
    "ec2": ec2,
    "organizations": organizations,
}
for name in arguments.services or ALL:
    ALL[name]()
operations.end()
