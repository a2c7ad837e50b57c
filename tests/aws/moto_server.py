"""AWS services that verify who calls: PyPI moto, with resources in it and its authentication armed.

    moto_server.py [--cert FILE --key FILE] [--session-seconds N]

Listens on 127.0.0.1, prints one JSON line (README.md) and ends with its stdin. With --cert and --key `port` speaks TLS,
and `admin` serves the same without; else both are one port. moto finds the service in the credential scope of the
Authorization header and the bucket in the Host header, so every AWS host name may be directed here.

moto itself never looks at the clock, and fails with 500 without an Authorization header; both are refused here, before
moto, an expired session in the words and with the status of the real service. --session-seconds makes sessions that
short, whatever was asked for.

GET /requests on `admin` lists the requests that arrived since the start, the bootstrap's left out.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import re
import ssl
import sys
import threading
import zipfile
from urllib.parse import parse_qsl, unquote

import boto3
from botocore.config import Config
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.utils import utcnow
from moto.iam.access_control import IAMRequestBase
from moto.iam.exceptions import NotFoundException
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sts.models import AssumedRole, sts_backends
from werkzeug.serving import make_server

REGION = "us-east-1"
EXTERNAL_ID = "countersign/external:id=1"
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}
SCOPE = re.compile(r"Credential=([^/,\s]+)/(\d{8})/([^/,\s]*)/([^/,\s]+)/")

arguments = argparse.ArgumentParser()
arguments.add_argument("--cert")
arguments.add_argument("--key")
arguments.add_argument("--session-seconds", type=int)
arguments = arguments.parse_args()

# The one line on stdout is ours; moto prints what it does not know.
answer_to = sys.stdout
sys.stdout = sys.stderr
logging.getLogger("werkzeug").setLevel(logging.ERROR)

armed = threading.Event()
arrived = threading.local()
lock = threading.Lock()
requests = []


class Handler(MotoRequestHandler):
    """Says nothing of each request, and closes quietly on a peer that speaks no TLS."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_):
        pass

    def log_error(self, *_):
        pass


def refusal(service, target, code, words):
    """Status, content type and body of a refusal that is made here, in the format of the service's family."""
    if service == "s3":
        return 403, "application/xml", f"<Error><Code>{code}</Code><Message>{words}</Message></Error>"
    if target:
        return 400, "application/x-amz-json-1.0", json.dumps({"__type": code, "message": words})
    return (
        403,
        "text/xml",
        f"<ErrorResponse><Error><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>",
    )


def expired(service, target, session):
    """What the real service answers for a session that has ended: status, content type, body; moto has nothing."""
    words = "The security token included in the request is expired"
    if service == "s3":
        return (
            400,
            "application/xml",
            (
                f"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
                f"<Token-0>{session.session_token}</Token-0></Error>"
            ),
        )
    if service == "ec2":
        return (
            400,
            "text/xml",
            (
                "<Response><Errors><Error><Code>RequestExpired</Code><Message>Request has expired.</Message></Error></Errors>"
                "<RequestID>0</RequestID></Response>"
            ),
        )
    if target:
        return (
            400,
            "application/x-amz-json-1.0",
            json.dumps({"__type": "com.amazon.coral.service#ExpiredTokenException", "message": words}),
        )
    if service == "lambda":
        return 403, "application/json", json.dumps({"__type": "ExpiredTokenException", "message": words})
    return (
        403,
        "text/xml",
        (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>{words}</Message></Error>"
            "<RequestId>0</RequestId></ErrorResponse>"
        ),
    )


def session_of(access_key):
    for backends in sts_backends.values():
        for backend in backends.values():
            for role in backend.assumed_roles:
                if role.access_key_id == access_key:
                    return role
    return None


class Recorder:
    """The WSGI application: moto's, behind the list of requests and the check of a session's end."""

    def __init__(self, moto):
        self.moto = moto

    def __call__(self, environ, start_response):
        path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"]
        if path == "/requests":
            with lock:
                body = json.dumps(requests).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]
        if not armed.is_set() or path.startswith("/moto-api"):
            return self.moto(environ, start_response)

        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = (
            environ["wsgi.input"].read() if environ.get("wsgi.input_terminated") else environ["wsgi.input"].read(length)
        )
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        arrived.body = body
        record = self.describe(environ, path, body)
        with lock:
            requests.append(record)

        def started(status, headers, *more):
            record["status"] = int(status.split()[0])
            return start_response(status, headers, *more)

        answer = None
        target = environ.get("HTTP_X_AMZ_TARGET")
        session = session_of(record["access_key"])
        if "HTTP_AUTHORIZATION" not in environ:
            words = "moto_server.py verifies signatures in the Authorization header only"
            answer = refusal(record["service"] or "s3", target, "MissingAuthenticationToken", words)
        elif not record["access_key"]:
            answer = refusal(record["service"] or "s3", target, "IncompleteSignature", "no credential scope")
        elif session and session.expiration <= utcnow():
            answer = expired(record["service"], target, session)
        if answer:
            status, kind, text = answer
            raw = text.encode()
            started(f"{status} refused", [("Content-Type", kind), ("Content-Length", str(len(raw)))])
            return [raw]
        return self.moto(environ, started)

    def describe(self, environ, path, body):
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        scope = SCOPE.search(authorization) or SCOPE.search(
            "Credential=" + unquote(self.query(environ, "X-Amz-Credential")) + "/"
        )
        payload = environ.get("HTTP_X_AMZ_CONTENT_SHA256")
        record = {
            "method": environ["REQUEST_METHOD"],
            "host": environ.get("HTTP_HOST"),
            "path": path,
            "access_key": scope and scope[1],
            "region": scope and scope[3],
            "service": scope and scope[4],
            "algorithm": authorization.partition(" ")[0] or None,
            "signed_headers": re.findall(r"SignedHeaders=([^,\s]*)", authorization),
            "security_token": "HTTP_X_AMZ_SECURITY_TOKEN" in environ,
            "payload": payload,
            # moto does not compare these.
            "body_matches": None,
            "action": environ.get("HTTP_X_AMZ_TARGET"),
            "form": None,
            "status": None,
        }
        if payload and re.fullmatch("[0-9a-f]{64}", payload):
            record["body_matches"] = hashlib.sha256(body).hexdigest() == payload
        if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            record["action"] = form.get("Action")
            if record["service"] == "sts":
                record["form"] = form
        return record

    @staticmethod
    def query(environ, name):
        return next(
            (v for n, _, v in (p.partition("=") for p in environ.get("QUERY_STRING", "").split("&")) if n == name), ""
        )


def listen(tls):
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.cert, arguments.key)
        # The handshake in the connection's own thread: a peer that says nothing must not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.ssl_context = context
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(principal, **condition):
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": principal}}
    if condition:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": condition["external_id"]}}
    return policy(statement)


def bootstrap(endpoint):
    """Makes everything that the clients in this folder and the policies in policies/ ask for; returns the facts."""
    # Neither a proxy nor credentials from the environment have a part in this.
    session = boto3.Session("bootstrap", "bootstrap", region_name=REGION)
    config = Config(proxies={}, s3={"addressing_style": "path"})

    def service(name):
        return session.client(name, endpoint_url=endpoint, config=config)

    iam = service("iam")
    user = iam.create_user(UserName="countersign")["User"]
    iam.put_user_policy(UserName="countersign", PolicyName="everything", PolicyDocument=policy(EVERYTHING))
    key = iam.create_access_key(UserName="countersign")["AccessKey"]
    iam.create_user(UserName="denied", Tags=[{"Key": "owner", "Value": "nobody"}])
    denied = iam.create_access_key(UserName="denied")["AccessKey"]

    def role(name, document):
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="everything", PolicyDocument=policy(EVERYTHING))
        return arn

    role_arn = role("trusting", trust(user["Arn"]))
    external_role_arn = role("external", trust(user["Arn"], external_id=EXTERNAL_ID))
    untrusting_role_arn = role("untrusting", trust("arn:aws:iam::123456789012:user/denied"))

    s3 = service("s3")
    for bucket in ("countersign-plain", "countersign-bare", "countersign-encrypted"):
        s3.create_bucket(Bucket=bucket)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    s3.put_bucket_encryption(Bucket="countersign-encrypted", ServerSideEncryptionConfiguration={"Rules": [rule]})

    service("dynamodb").create_table(
        TableName="countersign",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": "id", "AttributeType": "S"},
            {"AttributeName": "at", "AttributeType": "N"},
        ],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}],
    )
    sqs = service("sqs")
    queue = sqs.create_queue(QueueName="countersign")["QueueUrl"]
    sqs.create_queue(QueueName="countersign-encrypted", Attributes={"KmsMasterKeyId": "alias/aws/sqs"})

    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    return event\n")
    service("lambda").create_function(
        FunctionName="countersign",
        Runtime="python3.11",
        Role=role_arn,
        Handler="index.handler",
        Code={"ZipFile": code.getvalue()},
    )

    ec2 = service("ec2")
    for tags in ({}, {}, {"owner": "someone"}):
        volume = ec2.create_volume(AvailabilityZone=REGION + "a", Size=1)["VolumeId"]
        if tags:
            ec2.create_tags(Resources=[volume], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for name in ("blue", "green"):
        tags = [
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}, {"Key": "owner", "Value": "someone"}]}
        ]
        ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=tags)

    service("organizations").create_organization(FeatureSet="ALL")
    return {
        "access_key": key["AccessKeyId"],
        "secret_key": key["SecretAccessKey"],
        "user_arn": user["Arn"],
        "denied_access_key": denied["AccessKeyId"],
        "denied_secret_key": denied["SecretAccessKey"],
        "role_arn": role_arn,
        "external_role_arn": external_role_arn,
        "external_id": EXTERNAL_ID,
        "untrusting_role_arn": untrusting_role_arn,
        "region": REGION,
        "queue": queue.rsplit("/", 1)[-1],
        "table": "countersign",
    }


if arguments.session_seconds:
    make_session = AssumedRole.__init__

    def make_short_session(self, *positional, duration, **named):
        make_session(self, *positional, duration=min(duration, arguments.session_seconds), **named)

    AssumedRole.__init__ = make_short_session

make_request = IAMRequestBase._create_aws_request


def make_request_of_what_arrived(self):
    """moto takes a form apart, and the headers for the body when there is none; here it is the bytes on the wire."""
    request = make_request(self)
    request.data = arrived.body
    return request


IAMRequestBase._create_aws_request = make_request_of_what_arrived
check_policies = IAMRequestBase.check_action_permitted


def check_policies_and_role(self, resource):
    """moto lets a role be assumed that does not exist, and without the external id that the role asks for."""
    check_policies(self, resource)
    if self._action != "sts:AssumeRole":
        return
    try:
        document = self.backend.get_role_by_arn(self._data["RoleArn"][0]).assume_role_policy_document
    except NotFoundException:
        self._raise_access_denied()
    if "sts:ExternalId" in document and not self._data.get("ExternalId"):
        self._raise_access_denied()


IAMRequestBase.check_action_permitted = check_policies_and_role

app = Recorder(DomainDispatcherApplication(create_backend_app))
admin = listen(False)
facts = bootstrap(f"http://127.0.0.1:{admin}")
port = listen(True) if arguments.cert else admin
# From here on every request is verified. Counting the unverified ones, as INITIAL_NO_AUTH_ACTION_COUNT in the
# environment does, would leave some over whenever the bootstrap changes.
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
ActionAuthenticatorMixin.request_count = 0
armed.set()
print(json.dumps({"port": port, "admin": admin, **facts}), file=answer_to, flush=True)
sys.stdin.buffer.read()
os._exit(0)
