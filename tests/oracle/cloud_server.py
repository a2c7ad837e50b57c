"""A small Oracle Cloud on loopback that verifies every request by means of its own: `httpsig` and hashlib.

    cloud_server.py --cert FILE --key FILE [--session-seconds N]

A stub, since no registry has such a server; the forms are those of Oracle's documentation and of its SDK for Python. Prints
one JSON line, `{"port", "plain", "tenancy", "user", "fingerprint", "pem", "other_pem", "other_fingerprint", "rpst", "rpst_pem",
"account_token"}`, and ends when its standard input does. README.md says what it answers.
"""

import argparse
import base64
import datetime
import email.utils
import hashlib
import http.server
import json
import re
import ssl
import sys
import threading
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from httpsig.verify import HeaderVerifier

arguments = argparse.ArgumentParser()
arguments.add_argument("--cert", required=True)
arguments.add_argument("--key", required=True)
arguments.add_argument("--session-seconds", type=int, default=3600)
arguments = arguments.parse_args()

TENANCY = "ocid1.tenancy.oc1..aaaaaaaacountersign"
USER = "ocid1.user.oc1..aaaaaaaacountersign"
HEAD = ["date", "(request-target)", "host"]
BODY = HEAD + ["content-length", "content-type", "x-content-sha256"]
# Operations whose bodies no signature needs to cover, by host and target.
STREAMED = [
    (r"objectstorage\.", r"PUT /n/[^/]+/b/[^/]+/o/."),
    (r"objectstorage\.", r"PUT /n/[^/]+/b/[^/]+/u/[^?]+\?.*uploadPartNum="),
    (r"loganalytics\.", r"POST /20200601/namespaces/[^/]+/actions/uploadLogFile"),
]


def pem(key):
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def public_der(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(public):
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(key):
    digest = hashlib.md5(public_der(key.public_key()), usedforsecurity=False).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, 32, 2))


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(names, public, issuer_name, issuer_key):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(names).issuer_name(issuer_name).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    return builder.not_valid_after(now + datetime.timedelta(hours=1)).sign(issuer_key, hashes.SHA256())


def name(*attributes):
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


class Refused(Exception):
    """A 401, or another status with its code."""

    def __init__(self, why, status=401, code="NotAuthenticated"):
        super().__init__(why)
        self.status, self.code = status, code


class Cloud:
    def __init__(self):
        self.lock = threading.Lock()
        self.key, self.other = new_key(), new_key()
        self.requests, self.objects, self.parts, self.users = [], {}, {}, {}
        self.sessions, self.issued = {}, 0
        self.behind = 0
        # The instance: a leaf that an intermediate signed.
        oid = x509.NameOID
        self.instance_key, intermediate_key = new_key(), new_key()
        issuer = name((oid.COMMON_NAME, "PKISVC Identity Intermediate"))
        self.intermediate = certificate(issuer, intermediate_key.public_key(), issuer, intermediate_key)
        subject = name(
            (oid.COMMON_NAME, "ocid1.instance.oc1.iad.abuwcljr"),
            (oid.ORGANIZATIONAL_UNIT_NAME, "opc-certtype:instance"),
            (oid.ORGANIZATIONAL_UNIT_NAME, f"opc-tenant:{TENANCY}"),
        )
        self.leaf = certificate(subject, self.instance_key.public_key(), issuer, intermediate_key)
        self.resource_key = new_key()
        self.account_token = "service-account-token"

    def session(self, public):
        """A session token for a key; any text in the form of a JWT will do, nobody else reads it."""
        part = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=").decode()
        exp = int(time.time()) + arguments.session_seconds
        # Two of one second are two.
        self.issued += 1
        claims = {"sub": "ocid1.instance.oc1.iad.abuwcljr", "exp": exp, "iat": int(time.time()), "n": self.issued}
        token = ".".join([part(b'{"alg":"RS256"}'), part(json.dumps(claims).encode()), part(b"signature")])
        self.sessions[token] = (public, exp)
        return token

    def public_of(self, key_id):
        if key_id == f"{TENANCY}/{USER}/{fingerprint(self.key)}":
            return self.key.public_key()
        if key_id.startswith("ST$") and key_id[3:] in self.sessions:
            public, exp = self.sessions[key_id[3:]]
            if time.time() < exp:
                return public
            raise Refused("the session has ended")
        raise Refused("the key is not known")

    def verify(self, method, target, headers, body):
        """Returns what was signed."""
        if "authorization" not in headers:
            raise Refused("no credential")
        found = dict(re.findall(r'(\w+)="([^"]*)"', headers["authorization"]))
        if found.get("version") != "1" or found.get("algorithm") != "rsa-sha256":
            raise Refused("not a signature of version 1")
        host = headers["host"]
        line = f"{method} {target}"
        streamed = any(re.search(name, host) and re.match(shape, line) for name, shape in STREAMED)
        needed = BODY if method in ("POST", "PUT", "PATCH") and not streamed else HEAD
        public = self.public_of(found.get("keyId", ""))
        self.judge(headers, public, needed, method, target, host)
        signed = found["headers"].split(" ")
        if "x-content-sha256" in signed:
            if headers["x-content-sha256"] != base64.b64encode(hashlib.sha256(body).digest()).decode():
                raise Refused("the body is not the one that was hashed", 400, "InvalidContent")
            if int(headers["content-length"]) != len(body):
                raise Refused("the length is not the one that was signed")
        return signed

    def judge(self, headers, public, needed, method, target, host):
        date = email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp() if headers.get("date") else 0
        if abs(self.now() - date) > 300:
            raise Refused("the date is more than five minutes away")
        try:
            right = HeaderVerifier(
                headers, public_pem(public), required_headers=needed, method=method, path=target, host=host
            ).verify()
        except Exception as error:
            raise Refused(f"not verifiable: {error}") from None
        if not right:
            raise Refused("the signature is wrong")

    def now(self):
        return time.time() + self.behind

    def federate(self, method, target, headers, body):
        """What `auth.REGION` answers to a certificate."""
        found = dict(re.findall(r'(\w+)="([^"]*)"', headers["authorization"]))
        details = json.loads(body)
        leaf = x509.load_der_x509_certificate(base64.b64decode(details["certificate"], validate=True))
        intermediate = x509.load_der_x509_certificate(base64.b64decode(details["intermediateCertificates"][0], validate=True))
        leaf.verify_directly_issued_by(intermediate)
        digest = ":".join(f"{byte:02X}" for byte in leaf.fingerprint(hashes.SHA1()))
        if leaf != self.leaf or found.get("keyId") != f"{TENANCY}/fed-x509/{digest}":
            raise Refused("the certificate is not known")
        self.judge(headers, leaf.public_key(), ["date", "(request-target)"] + BODY[3:], method, target, headers["host"])
        if headers["x-content-sha256"] != base64.b64encode(hashlib.sha256(body).digest()).decode():
            raise Refused("the body is not the one that was hashed")
        public = serialization.load_der_public_key(base64.b64decode(details["publicKey"], validate=True))
        return {"token": self.session(public)}

    def answer(self, method, host, target, headers, body):
        """Status, headers and a document (or bytes) for a verified request."""
        split = urllib.parse.urlsplit(target)
        path, query = urllib.parse.unquote(split.path), dict(urllib.parse.parse_qsl(split.query))
        service = next((label for label in host.split(".") if label in ("objectstorage", "loganalytics")), host.split(".")[0])
        if service == "objectstorage":
            return self.store(method, path, query, headers, body)
        if service == "loganalytics":
            return 200, {}, {"opc-meta-loggrpid": hashlib.md5(body, usedforsecurity=False).hexdigest()}
        if path == "/20160918/regions":
            return 200, {}, [{"key": "IAD", "name": "us-ashburn-1"}, {"key": "PHX", "name": "us-phoenix-1"}]
        if path == "/20160918/users" and method == "GET":
            page = int(query.get("page", "0"))
            more = {"opc-next-page": str(page + 1)} if page < 2 else {}
            return 200, more, [self.user(f"user-{page}")]
        if path == "/20160918/users" and method == "POST":
            user = self.user(json.loads(body)["name"])
            self.users[user["id"]] = user
            return 200, {"etag": "1"}, user
        if path.startswith("/20160918/users/"):
            user = self.users.get(path.split("/")[3])
            if user is None:
                raise Refused("no such user", 404, "NotAuthorizedOrNotFound")
            if method == "DELETE":
                self.users.pop(user["id"])
                return 204, {}, None
            if method in ("PUT", "PATCH"):
                user["description"] = json.loads(body)["description"]
            return 200, {"etag": "2"}, user
        if path.startswith("/20160918/instances/") and method == "POST":
            state = {"STOP": "STOPPING"}[query["action"]]
            return 200, {}, {"id": path.split("/")[3], "lifecycleState": state}
        if path == "/20160918/instances":
            return 200, {}, []
        raise Refused(f"no such operation: {method} {path}", 404, "NotFound")

    def user(self, name):
        return {"id": f"ocid1.user.oc1..{name}", "compartmentId": TENANCY, "name": name, "description": "d", "lifecycleState": "ACTIVE"}

    def store(self, method, path, query, headers, body):
        parts = path.split("/", 6)
        md5 = lambda value: base64.b64encode(hashlib.md5(value, usedforsecurity=False).digest()).decode()
        if path in ("/n", "/n/"):
            return 200, {}, "space"
        kind, key = parts[5] if len(parts) > 5 else "", parts[6] if len(parts) > 6 else ""
        if method == "GET" and kind == "o" and not key:
            objects = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
            return 200, {}, {"objects": [{"name": name, "size": len(self.objects[name])} for name in objects], "prefixes": []}
        if kind == "o" and method == "PUT":
            self.objects[key] = body
            return 200, {"etag": "e", "opc-content-md5": md5(body)}, None
        if kind == "o" and key in self.objects:
            if method == "DELETE":
                self.objects.pop(key)
                return 204, {}, None
            return 200, {"etag": "e", "content-type": "application/octet-stream"}, self.objects[key]
        if kind == "u" and method == "POST" and not key:
            name = json.loads(body)["object"]
            upload = f"upload-{len(self.parts)}"
            self.parts[upload] = {}
            return 200, {}, {"namespace": "space", "bucket": parts[4], "object": name, "uploadId": upload}
        if kind == "u" and method == "PUT":
            self.parts[query["uploadId"]][int(query["uploadPartNum"])] = body
            return 200, {"etag": query["uploadPartNum"], "opc-content-md5": md5(body)}, None
        if kind == "u" and method == "POST":
            all_parts = self.parts.pop(query["uploadId"])
            listed = [part["partNum"] for part in json.loads(body)["partsToCommit"]]
            self.objects[key] = b"".join(all_parts[number] for number in sorted(listed))
            return 200, {"etag": "e", "opc-multipart-md5": "x"}, None
        if kind == "u" and method == "GET":
            return 200, {}, []
        if len(parts) == 5 and method in ("GET", "HEAD"):
            return 200, {"etag": "b"}, {"name": parts[4], "namespace": "space", "compartmentId": TENANCY}
        raise Refused(f"no such object: {method} {path}", 404, "ObjectNotFound")


CLOUD = Cloud()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(CLOUD.now() if timestamp is None else timestamp, usegmt=True)

    def handle_one(self):
        length = self.headers.get("content-length")
        if self.headers.get("transfer-encoding"):
            return self.send(411, {}, {"code": "LengthRequired", "message": "no length"})
        body = self.rfile.read(int(length)) if length else b""
        headers = {key.lower(): value for key, value in self.headers.items()}
        try:
            status, more, document = self.route(headers, body)
        except Refused as refused:
            status, more, document = refused.status, {}, {"code": refused.code, "message": str(refused)}
        self.send(status, {"opc-request-id": headers.get("opc-request-id", "none"), **more}, document)

    def send(self, status, more, document):
        raw = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if not isinstance(document, (bytes, type(None))):
            self.send_header("content-type", "application/json")
        for key, value in more.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("content-length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one


class Api(Handler):
    def route(self, headers, body):
        with CLOUD.lock:
            host = headers["host"]
            seen = {"method": self.command, "target": self.path, "host": host, "length": len(body)}
            CLOUD.requests.append(seen)
            if host.startswith("auth.") and self.path == "/v1/x509" and self.command == "POST":
                return 200, {}, CLOUD.federate(self.command, self.path, headers, body)
            if self.path == "/resourcePrincipalSessionTokens" and self.command == "POST":
                if headers.get("authorization") != f"Bearer {CLOUD.account_token}":
                    raise Refused("not this cluster's service account", 403, "NotAuthorized")
                public = serialization.load_der_public_key(base64.b64decode(json.loads(body)["podKey"], validate=True))
                answer = json.dumps({"token": "ST$" + CLOUD.session(public)}).encode()
                return 200, {}, base64.b64encode(answer).decode()
            try:
                seen["signed"] = CLOUD.verify(self.command, self.path, headers, body)
            except Refused as refused:
                seen["refused"] = str(refused)
                raise
            seen["session"] = "ST$" in headers["authorization"]
            return CLOUD.answer(self.command, host, self.path, headers, body)


class Plain(Handler):
    """The metadata service of the instance, and what tests ask."""

    def route(self, headers, body):
        with CLOUD.lock:
            if self.path == "/requests":
                return 200, {}, CLOUD.requests
            if self.path == "/revoke":
                # Every session there is; a new one for the resource.
                CLOUD.sessions.clear()
                return 200, {}, CLOUD.session(CLOUD.resource_key.public_key())
            if self.path.startswith("/clock/"):
                CLOUD.behind = int(self.path[7:])
                return 200, {}, "set"
            if headers.get("authorization") != "Bearer Oracle":
                raise Refused("the header is missing", 403, "Forbidden")
            text = lambda certificate: certificate.public_bytes(serialization.Encoding.PEM)
            region = {"realmKey": "oc1", "realmDomainComponent": "oraclecloud.com", "regionKey": "IAD", "regionIdentifier": "us-ashburn-1"}
            found = {
                "/opc/v2/instance/region": b"iad",
                "/opc/v2/instance/regionInfo": region,
                "/opc/v2/identity/cert.pem": text(CLOUD.leaf),
                "/opc/v2/identity/intermediate.pem": text(CLOUD.intermediate),
                "/opc/v2/identity/key.pem": pem(CLOUD.instance_key).encode(),
            }
            if self.path not in found:
                raise Refused("no such metadata", 404, "NotFound")
            return 200, {}, found[self.path]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(arguments.cert, arguments.key)
    secure, plain = Server(("127.0.0.1", 0), Api), Server(("127.0.0.1", 0), Plain)
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    for server in (secure, plain):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    facts = {
        "port": secure.server_port,
        "plain": plain.server_port,
        "tenancy": TENANCY,
        "user": USER,
        "fingerprint": fingerprint(CLOUD.key),
        "pem": pem(CLOUD.key),
        "other_fingerprint": fingerprint(CLOUD.other),
        "other_pem": pem(CLOUD.other),
        "rpst": CLOUD.session(CLOUD.resource_key.public_key()),
        "rpst_pem": pem(CLOUD.resource_key),
        "account_token": CLOUD.account_token,
    }
    print(json.dumps(facts), flush=True)
    sys.stdin.read()


main()
