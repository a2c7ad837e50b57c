"""Stubs of Google's token services and APIs, and of whom they ask, strict by what is documented.

    google_server.py --cert F --key F --account KEY.pem [--ahead SECONDS]

Prints one JSON line {"tls", "grpc", "plain", "flavorless"} with its ports on 127.0.0.1, and ends when its stdin does.
Verification is of this file's own and of `cryptography`; nothing of google-auth or of Countersign is used.

Behind the TLS port, by the Host header:
  oauth2.googleapis.com           STUB of the token endpoint: assertions (RFC 7523) and refresh tokens
  sts.googleapis.com              STUB of the Security Token Service (RFC 8693), GetCallerIdentity proofs of AWS included
  iamcredentials.googleapis.com   STUB of IAM Credentials: generateAccessToken, generateIdToken
  storage.googleapis.com          STUB of Cloud Storage's JSON API, as far as the client library needs it
  secretmanager.googleapis.com    STUB of Secret Manager's REST API
  reports-abc123-uc.a.run.app     a service of a customer's that wants an ID token
The gRPC port is a STUB of Secret Manager. The plain port is a STUB of the metadata server, of AWS's instance metadata
service (version 2) and of another identity provider (/subject); /assertions and /bearers say what was received.
The flavorless port is the same metadata server without `Metadata-Flavor` in its answers.
"""

import argparse
import base64
import calendar
import hashlib
import hmac
import http.server
import json
import re
import secrets
import ssl
import sys
import threading
import time
import urllib.parse
from concurrent import futures

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.cloud.secretmanager_v1.types import service as secret_types

EMAIL = "service-account@example.com"
PERSON = "person@example.com"
KEY_ID = "1"
AUDIENCE = "https://oauth2.googleapis.com/token"
POOL = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/pool/providers/provider"
PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
STORAGE_SCOPES = {PLATFORM, "https://www.googleapis.com/auth/devstorage.read_write"}
IAM = "https://www.googleapis.com/auth/iam"
REFRESH_TOKEN = "1//a-refresh-token-of-a-person"
CLIENT = ("764086051850-x.apps.googleusercontent.com", "a-client-secret-of-32-characters")
AWS_KEYS = {"AKIDEXAMPLE0000000": ("wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY", None),
            "ASIAINSTANCE000000": ("instance-secret-access-key", "instance-session-token")}
RUN = "https://reports-abc123-uc.a.run.app"

options = argparse.ArgumentParser()
options.add_argument("--cert", required=True)
options.add_argument("--key", required=True)
options.add_argument("--account", required=True)
options.add_argument("--ahead", type=int, default=0)
options = options.parse_args()
PUBLIC = serialization.load_pem_private_key(open(options.account, "rb").read(), None).public_key()

lock = threading.Lock()
issued = {}  # token -> {"scopes": set | None, "audience": str | None, "who": str}
assertions, bearers, blobs = [], [], {}


class Refused(Exception):
    def __init__(self, status, error, description=""):
        self.status, self.error, self.description = status, error, description


def now():
    return time.time() + options.ahead


def unb64(text):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ValueError("not base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def verified(jwt):
    """Header and claims of a JWT of the service account; whatever is not as documented is refused."""
    try:
        head, body, signature = jwt.split(".")
        header, claims = json.loads(unb64(head)), json.loads(unb64(body))
        PUBLIC.verify(unb64(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise Refused(400, "invalid_grant", "Invalid JWT Signature.")
    except ValueError as error:
        raise Refused(400, "invalid_grant", f"Invalid JWT: {error}")
    if header != {"typ": "JWT", "alg": "RS256", "kid": KEY_ID}:
        raise Refused(400, "invalid_grant", f"Invalid JWT header: {sorted(header)}")
    if claims.get("iss") != EMAIL:
        raise Refused(400, "invalid_grant", "Invalid issuer: Not found; invalid gaia id")
    issued_at, ends = claims.get("iat"), claims.get("exp")
    if not isinstance(issued_at, int) or not isinstance(ends, int):
        raise Refused(400, "invalid_grant", "Invalid JWT: iat and exp")
    if ends <= now() or issued_at > now() + 60 or ends - issued_at > 3600:
        raise Refused(400, "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.")
    return header, claims


def access_token(scopes, who):
    token = f"ya29.{secrets.token_urlsafe(32)}"
    with lock:
        issued[token] = {"scopes": set(scopes), "audience": None, "who": who}
    return token


def id_token(audience, who):
    payload = {"iss": "https://accounts.google.com", "aud": audience, "sub": who, "exp": int(now()) + 3600}
    token = f"{b64(b'{}')}.{b64(json.dumps(payload).encode())}.{secrets.token_urlsafe(16)}"
    with lock:
        issued[token] = {"scopes": None, "audience": audience, "who": who}
    return token


def oauth2(form):
    kind = form.get("grant_type")
    if kind == "refresh_token":
        if (form.get("client_id"), form.get("client_secret")) != CLIENT:
            raise Refused(401, "invalid_client", "The OAuth client was not found.")
        if form.get("refresh_token") != REFRESH_TOKEN:
            raise Refused(400, "invalid_grant", "Token has been expired or revoked.")
        return {"access_token": access_token([PLATFORM], PERSON), "expires_in": 3599, "token_type": "Bearer", "id_token": id_token(CLIENT[0], PERSON)}
    if kind != "urn:ietf:params:oauth:grant-type:jwt-bearer" or set(form) != {"grant_type", "assertion"}:
        raise Refused(400, "unsupported_grant_type", "Invalid grant_type")
    header, claims = verified(form["assertion"])
    with lock:
        assertions.append({"header": header, "claims": claims})
    if claims["aud"] != AUDIENCE:
        raise Refused(400, "invalid_grant", "Invalid JWT: aud")
    if set(claims) == {"iss", "aud", "iat", "exp", "target_audience"}:
        return {"id_token": id_token(claims["target_audience"], EMAIL)}
    if set(claims) - {"sub"} != {"iss", "aud", "iat", "exp", "scope"} or not claims["scope"]:
        raise Refused(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    who = claims.get("sub", EMAIL)
    if who not in (EMAIL, PERSON):
        raise Refused(401, "unauthorized_client", "Client is unauthorized to retrieve access tokens using this method")
    return {"access_token": access_token(claims["scope"].split(" "), who), "expires_in": 3599, "token_type": "Bearer"}


def aws_signed(token):
    """A GetCallerIdentity of AWS, verified as AWS does (Signature Version 4, written from its documentation)."""
    request = json.loads(urllib.parse.unquote(token))
    headers = {one["key"].lower(): one["value"] for one in request["headers"]}
    place = re.fullmatch(r"https://sts\.([a-z0-9-]+)\.amazonaws\.com/?\?Action=GetCallerIdentity&Version=2011-06-15", request["url"])
    form = r"AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/(\d{8})/([a-z0-9-]+)/sts/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
    signed = re.fullmatch(form, headers["authorization"])
    if not place or not signed or request["method"] != "POST" or place[1] != signed[3]:
        raise ValueError("not a GetCallerIdentity of one region")
    key_id, day, region, names, signature = signed.groups()
    secret, session = AWS_KEYS[key_id]
    if headers.get("x-amz-security-token") != session or headers["host"] != f"sts.{region}.amazonaws.com":
        raise ValueError("another session or host")
    wanted = {"host", "x-amz-date", "x-goog-cloud-target-resource"} | ({"x-amz-security-token"} if session else set())
    if set(names.split(";")) != wanted or headers["x-goog-cloud-target-resource"] != POOL:
        raise ValueError("it is not made for this pool")
    canonical = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
    empty = hashlib.sha256(b"").hexdigest()
    text = f"POST\n/\nAction=GetCallerIdentity&Version=2011-06-15\n{canonical}\n{names}\n{empty}"
    scope = f"{day}/{region}/sts/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(text.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), signature):
        raise ValueError("the signature is wrong")
    made = calendar.timegm(time.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
    if abs(made - now()) > 900:
        raise ValueError("the signature is too old")


def sts(form):
    fixed = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": POOL,
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    if any(form.get(name) != value for name, value in fixed.items()) or set(form) - set(fixed) != {"scope", "subject_token", "subject_token_type"}:
        raise Refused(400, "invalid_request", "Invalid value for a field of the request")
    try:
        if form["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request":
            aws_signed(form["subject_token"])
        elif form["subject_token_type"] != "urn:ietf:params:oauth:token-type:jwt" or not re.fullmatch(r"good-subject-[a-z0-9]+", form["subject_token"]):
            raise ValueError("the subject token is nobody's")
    except (KeyError, ValueError) as error:
        raise Refused(400, "invalid_grant", f"Error connecting to the given credential's issuer: {error}")
    with lock:
        assertions.append({"subject_token": form["subject_token"], "scope": form["scope"]})
    return {"access_token": access_token(form["scope"].split(" "), "pool"), "issued_token_type": fixed["requested_token_type"],
            "token_type": "Bearer", "expires_in": 3599}


def google_error(status, code, message):
    return status, {"error": {"code": status, "message": message, "status": code}}


def iam(path, bearer, document):
    permitted = issued.get(bearer)
    if not permitted or permitted["who"] != "pool" or IAM not in (permitted["scopes"] or ()):
        return google_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
    account = f"/v1/projects/-/serviceAccounts/{EMAIL}"
    if path == f"{account}:generateAccessToken" and set(document) == {"scope", "lifetime"} and document["lifetime"] == "3600s":
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now() + 3600))
        return 200, {"accessToken": access_token(document["scope"], EMAIL), "expireTime": ends}
    if path == f"{account}:generateIdToken" and set(document) == {"audience", "includeEmail", "useEmailAzp"}:
        return 200, {"token": id_token(document["audience"], EMAIL)}
    return google_error(403, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied")


def may(bearer, api, scopes):
    """Whether a bearer token opens an API: one that was issued with a scope, or a JWT of the account's own for it."""
    with lock:
        bearers.append(bearer)
        found = issued.get(bearer)
    if found:
        return found["scopes"] is not None and bool(found["scopes"] & scopes)
    try:
        header, claims = verified(bearer)
    except (Refused, AttributeError):
        return False
    with lock:
        assertions.append({"header": header, "claims": claims})
    if claims.get("sub") != EMAIL:
        return False
    names = {"iss", "sub", "iat", "exp"}
    if set(claims) == names | {"aud"}:
        return claims["aud"] == f"https://{api}/"
    return set(claims) == names | {"scope"} and bool(set(claims["scope"].split(" ")) & scopes)


def storage(method, path, query, headers, body):
    """The few calls that the client library makes for buckets and objects."""
    whole = urllib.parse.unquote(path)
    resource = lambda name: {"kind": "storage#object", "name": name, "bucket": "reports", "size": str(len(blobs[name])), "generation": "1",
                             "md5Hash": base64.b64encode(hashlib.md5(blobs[name]).digest()).decode()}
    if method == "POST" and path == "/upload/storage/v1/b/reports/o" and query.get("uploadType") == "multipart":
        boundary = headers["content-type"].split("boundary=")[1].strip("'\"").encode()
        parts = body.split(b"--" + boundary)
        name = json.loads(parts[1].split(b"\r\n\r\n", 1)[1])["name"]
        blobs[name] = parts[2].split(b"\r\n\r\n", 1)[1][:-2]
        return 200, resource(name)
    if method == "GET" and path == "/storage/v1/b/reports":
        return 200, {"kind": "storage#bucket", "name": "reports"}
    if method == "GET" and path == "/storage/v1/b/reports/o":
        return 200, {"kind": "storage#objects", "items": [resource(name) for name in sorted(blobs)]}
    name = whole.rsplit("/o/", 1)[-1]
    if "/b/reports/o/" in whole and name in blobs:
        if method == "DELETE":
            del blobs[name]
            return 204, None
        if query.get("alt") == "media" or path.startswith("/download/"):
            return 200, blobs[name]
        return 200, resource(name)
    return google_error(404, "NOT_FOUND", "No such object")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answered(self, status, document, headers=()):
        body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/octet-stream" if isinstance(document, bytes) else "application/json")
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if status != 204 else b"")

    def handle_request(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        parts = urllib.parse.urlsplit(self.path)
        self.respond(parts.path, dict(urllib.parse.parse_qsl(parts.query)), body)

    do_GET = do_POST = do_PUT = do_DELETE = handle_request

    def bearer(self):
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if kind == "Bearer" and self.headers.get_all("Authorization") else None


class Google(Handler):
    def respond(self, path, query, body):
        host = self.headers["Host"].split(":")[0]
        try:
            if host in ("oauth2.googleapis.com", "sts.googleapis.com"):
                wanted = "/token" if host.startswith("oauth2") else "/v1/token"
                right = self.command == "POST" and path == wanted and self.headers["Content-Type"] == "application/x-www-form-urlencoded"
                if not right or self.headers.get("Authorization"):
                    raise Refused(400, "invalid_request", "not a token request")
                form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True, keep_blank_values=True))
                return self.answered(200, (oauth2 if host.startswith("oauth2") else sts)(form))
        except Refused as refused:
            return self.answered(refused.status, {"error": refused.error, "error_description": refused.description})
        if host == "iamcredentials.googleapis.com":
            return self.answered(*iam(path, self.bearer(), json.loads(body or b"{}")))
        if host == "reports-abc123-uc.a.run.app":
            found = issued.get(self.bearer())
            right = found and found["audience"] == RUN
            return self.answered(200 if right else 401, {"who": found["who"]} if right else {"error": "not an ID token for this service"})
        scopes = {"storage.googleapis.com": STORAGE_SCOPES, "secretmanager.googleapis.com": {PLATFORM}}.get(host)
        if scopes is None or not may(self.bearer(), host, scopes):
            return self.answered(*google_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."))
        if host == "storage.googleapis.com":
            return self.answered(*storage(self.command, path, query, self.headers, body))
        found = issued.get(self.bearer(), {"who": EMAIL})
        if path == "/v1/projects/example-project/secrets/colour/versions/latest:access":
            return self.answered(200, {"name": "projects/1/secrets/colour/versions/1", "payload": {"data": base64.b64encode(b"blue").decode()}})
        self.answered(200, {"path": path, "who": found["who"], "project": self.headers.get("X-Goog-User-Project")})


class Plain(Handler):
    flavor = [("Metadata-Flavor", "Google")]

    def respond(self, path, query, body):
        if path == "/assertions":
            with lock:
                return self.answered(200, assertions)
        if path == "/bearers":
            with lock:
                return self.answered(200, bearers)
        if path == "/subject":
            right = self.headers.get("X-Request-Token") == "a-request-token" and query == {"audience": "pool"}
            return self.answered(200 if right else 401, {"value": "good-subject-url"} if right else {"error": "who are you?"})
        if path.startswith("/latest/"):
            return self.instance(path)
        if self.headers.get("Metadata-Flavor") != "Google" or self.headers.get("X-Forwarded-For"):
            return self.answered(403, b"Missing Metadata-Flavor:Google header.", self.flavor)
        account = "/computeMetadata/v1/instance/service-accounts/default"
        if path == f"{account}/token" and not set(query) - {"scopes"}:
            token = access_token(query.get("scopes", PLATFORM).split(","), "instance")
            return self.answered(200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}, self.flavor)
        if path == f"{account}/identity" and query.get("format") == "full":
            return self.answered(200, id_token(query["audience"], "instance").encode(), self.flavor)
        self.answered(404, b"", self.flavor)

    def instance(self, path):
        """AWS's instance metadata service: nothing without a session."""
        if path == "/latest/api/token" and self.command == "PUT" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return self.answered(200, b"imds-session")
        if self.headers.get("X-aws-ec2-metadata-token") != "imds-session":
            return self.answered(401, b"")
        key = "ASIAINSTANCE000000"
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        roles = "/latest/meta-data/iam/security-credentials/"
        known = {
            "/latest/meta-data/placement/region": b"eu-central-1",
            roles: b"role",
            f"{roles}role": {"Code": "Success", "AccessKeyId": key, "SecretAccessKey": AWS_KEYS[key][0], "Token": AWS_KEYS[key][1], "Expiration": ends},
        }
        self.answered(200 if path in known else 404, known.get(path, b""))


class Flavorless(Plain):
    flavor = []


def access_secret(request, context):
    metadata = dict(context.invocation_metadata())
    token = metadata.get("authorization", "").removeprefix("Bearer ")
    if not may(token, "secretmanager.googleapis.com", {PLATFORM}):
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials.")
    return secret_types.AccessSecretVersionResponse(name=request.name, payload={"data": b"blue"})


def grpc_server(certificate, key):
    request, response = secret_types.AccessSecretVersionRequest, secret_types.AccessSecretVersionResponse
    method = grpc.unary_unary_rpc_method_handler(access_secret, request.deserialize, response.serialize)
    name = "google.cloud.secretmanager.v1.SecretManagerService"
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"AccessSecretVersion": method})])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    return server, port


def serve(handler, context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.server_bind()
    server.server_activate()
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(options.cert, options.key)
keeper, grpc_port = grpc_server(open(options.cert, "rb").read(), open(options.key, "rb").read())
ports = {"tls": serve(Google, context), "grpc": grpc_port, "plain": serve(Plain), "flavorless": serve(Flavorless)}
print(json.dumps(ports), flush=True)
sys.stdin.read()
