"""Writes secrets into the Secrets Manager of tests/aws/moto_server.py, as AWS's own client does. Prints one JSON line.

    secrets_manager.py ENDPOINT ACCESS_KEY SECRET_KEY REGION ACTION JSON

`create` and `put` take the members of CreateSecret and PutSecretValue, `bytes` among them for SecretBinary in base64."""

import base64
import json
import sys

import boto3
from botocore.config import Config

endpoint, access_key, secret_key, region, action, document = sys.argv[1:]
client = boto3.client(
    "secretsmanager",
    endpoint_url=endpoint,
    region_name=region,
    aws_access_key_id=access_key,
    aws_secret_access_key=secret_key,
    config=Config(proxies={}),
)
members = json.loads(document)
if "bytes" in members:
    members["SecretBinary"] = base64.b64decode(members.pop("bytes"))
answer = {"create": client.create_secret, "put": client.put_secret_value, "delete": client.delete_secret}[action](**members)
print(json.dumps({"VersionId": answer.get("VersionId"), "ARN": answer["ARN"]}))
