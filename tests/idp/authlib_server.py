# A token server that refuses wrong clients and wrong assertions: PyPI authlib, on the standard library's HTTP server.
#
#   authlib_server.py            environment: IDP_CONFIG (README.md)
#
# Listens on 127.0.0.1, prints one JSON line {"port", "admin", "issuer", "token_url", "me_url"}, and ends with its stdin.
# With `tls` in the configuration `port` speaks TLS; /count, /refusals and /admin are then served, unencrypted, on
# `admin` only, where there is no token endpoint. `shape` makes requests and answers those of Google or Azure.
import base64
import json
import os
import secrets
import ssl
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

# authlib refuses plain http unless told so; here it never leaves this machine.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Request, TokenMixin
from authlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
)
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion, JWTBearerGrant
from joserfc.jwk import KeySet, OctKey
from joserfc.jws import JWSRegistry

# authlib names no algorithms to its JWT library, which then knows only those it recommends: not PS256, which Azure
# wants for certificates.
JWSRegistry.recommended.extend({"PS256", "ES384", "EdDSA"} - set(JWSRegistry.recommended))

config = json.loads(os.environ.get("IDP_CONFIG", "{}"))
shape = config.get("shape", "plain")
azure = shape in ("azure_v1", "azure_v2")
# None by default: the client runs on this machine, and what has just expired is to be refused at once.
leeway = config.get("leeway", 0)
lifetime = config.get("access_token_ttl", 300)
rotate = config.get("rotate_refresh_tokens", True)
# None: any. Only a plain server has a short list; those of the public clouds are endless.
scopes = config.get("scopes", ["read", "write"] if shape == "plain" else None)
TOKEN_PATH = {"azure_v1": "/tenant/oauth2/token", "azure_v2": "/tenant/oauth2/v2.0/token"}.get(shape, "/token")
JWT_BEARER = JWTBearerGrant.GRANT_TYPE
METHODS = ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"]

lock = threading.Lock()  # Around every request: what follows is plain state.
count = {"token": 0, "granted": 0, "refused": 0}
refusals = []
access_tokens, refresh_tokens, used_ids = {}, {}, {}


class Client(ClientMixin):
    def __init__(self, data):
        self.client_id = data["client_id"]
        self.secret = data.get("client_secret")
        self.method = data.get("token_endpoint_auth_method", "client_secret_basic")
        self.algorithm = data.get("token_endpoint_auth_signing_alg")
        self.grant_types = data.get("grant_types", ["client_credentials"])
        self.scopes = data["scope"].split() if "scope" in data else scopes
        self.keys = data.get("jwks", {}).get("keys", [])
        self.subjects = data.get("subjects")
        # Google's own clients send none.
        self.require_jti = data.get("require_jti", shape != "google")

    def get_client_id(self):
        return self.client_id

    # None makes authlib answer invalid_scope.
    def get_allowed_scope(self, scope):
        asked = (scope or "").split()
        return None if self.scopes is not None and not set(asked) <= set(self.scopes) else " ".join(asked)

    def check_client_secret(self, given):
        return self.secret is not None and secrets.compare_digest(self.secret.encode(), given.encode())

    def check_endpoint_auth_method(self, method, endpoint):
        return method == self.method

    def check_grant_type(self, grant_type):
        return grant_type in self.grant_types


clients = {data["client_id"]: Client(data) for data in config.get("clients", [])}
issuers = {
    data["iss"]: Client({**data, "client_id": data["iss"], "grant_types": [JWT_BEARER]})
    for data in config.get("assertion_issuers", [])
}


@dataclass(eq=False)
class Token(TokenMixin):
    client_id: str
    sub: str
    scope: str
    aud: str | None
    family: str
    expires_at: float
    used: bool = False
    revoked: bool = False

    def check_client(self, client):
        return self.client_id == client.client_id

    def get_scope(self):
        return self.scope

    def good(self):
        return not self.used and not self.revoked and time.time() < self.expires_at


def first_use(issuer, jti):
    if (issuer, jti) in used_ids:
        return False
    used_ids[issuer, jti] = True
    return True


def revoke_family(family):
    for token in [*access_tokens.values(), *refresh_tokens.values()]:
        if token.family == family:
            token.revoked = True


class Request(OAuth2Request):
    def __init__(self, uri, headers, form):
        super().__init__("POST", uri, headers=headers)
        self._form = form
        self.payload = BasicOAuth2Payload(form)
        self.audience = None

    @property
    def form(self):
        return self._form


class Server(AuthorizationServer):
    def query_client(self, client_id):
        return clients.get(client_id)

    # Whose token it is, is in the request; a refreshed token stays in the family of the one it came from.
    def save_token(self, token, request):
        old = request.refresh_token
        kept = {
            "client_id": request.client.client_id,
            "sub": request.user or request.client.client_id,
            "scope": token.get("scope", ""),
            "aud": request.audience or (old.aud if old else None),
            "family": old.family if old else secrets.token_hex(8),
        }
        access_tokens[token["access_token"]] = Token(**kept, expires_at=time.time() + lifetime)
        if "refresh_token" in token:
            refresh_tokens[token["refresh_token"]] = Token(**kept, expires_at=time.time() + 86400)

    def send_signal(self, name, *args, **kwargs):
        pass

    def create_oauth2_request(self, request):
        return request

    def handle_response(self, status, body, headers):
        return status, body, headers


class ClientAssertion(JWTBearerClientAssertion):
    def __init__(self, method):
        super().__init__(leeway=leeway)
        self.CLIENT_AUTH_METHOD = method

    # authlib tries the methods in turn; each must leave the others' clients alone, or it would use up their jti.
    def __call__(self, find_client, request):
        assertion = request.form.get("client_assertion")
        if assertion is None:
            return None
        headers, claims = self.extract_assertion(assertion)
        client = clients.get(claims.get("sub")) if isinstance(claims.get("sub"), str) else None
        if client and client.method != self.CLIENT_AUTH_METHOD:
            return None
        if client and client.algorithm not in (None, headers.get("alg")):
            raise InvalidClientError(description="The assertion's algorithm is not the registered one.")
        self.keys = client.keys if client else []
        if client and azure:
            named = {name: headers[name] for name in ("x5t#S256", "x5t", "kid") if name in headers}
            if not named:
                raise InvalidClientError(description="The assertion's header has no x5t, x5t#S256 or kid.")
            self.keys = [key for key in client.keys if named.items() <= key.items()]
            if not self.keys:
                raise InvalidClientError(description="The certificate that the assertion names is not registered.")
        return super().__call__(find_client, request)

    def get_audiences(self):
        return audiences()

    def validate_jti(self, claims, jti):
        return first_use(claims["sub"], jti)

    def resolve_client_public_key(self, client):
        if self.CLIENT_AUTH_METHOD == "client_secret_jwt":
            return OctKey.import_key(client.secret)
        return KeySet.import_key_set({"keys": self.keys})


# Flexera's way: a refresh token alone, which tells whose it is. The library knows public clients by their client_id only.
def by_refresh_token(find_client, request):
    form = request.form
    if request.headers.get("Authorization") or form.keys() != {"grant_type", "refresh_token"}:
        return None
    token = refresh_tokens.get(form["refresh_token"])
    if not token:
        raise InvalidGrantError(description="Refresh token unknown, expired or revoked.")
    return find_client(token.client_id)


# What each cloud calls the thing that the token is for.
def audience_of(form):
    if shape == "azure_v1":
        if not form.get("resource"):
            raise InvalidRequestError("The request body must contain the following parameter: 'resource'.")
        audience = form["resource"]
    elif shape == "azure_v2":
        if not form.get("scope", "").endswith("/.default"):
            raise InvalidScopeError("Client credential flows must have a scope value with /.default suffixed.")
        audience = form["scope"].removesuffix("/.default")
    else:
        audience = form.get("resource") or form.get("audience")
    if audience and audience not in config.get("resources", [audience]):
        raise OAuth2Error(error="invalid_target", description="unknown resource")
    return audience


class Authenticated:
    TOKEN_ENDPOINT_AUTH_METHODS = [*METHODS, "refresh_token"]

    # RFC 6749 §2.3: one method in each request; RFC 7521 §4.2: client_id, if sent, is that of the assertion.
    def authenticate_token_endpoint_client(self):
        form = self.request.form
        ways = [bool(self.request.headers.get("Authorization")), "client_secret" in form, "client_assertion" in form]
        if sum(ways) > 1:
            raise InvalidRequestError("More than one mechanism to authenticate the client.")
        client = super().authenticate_token_endpoint_client()
        if form.get("client_id", client.client_id) != client.client_id:
            raise InvalidClientError(description="client_id is not the authenticated client.")
        return client


class ClientCredentials(Authenticated, ClientCredentialsGrant):
    def validate_token_request(self):
        super().validate_token_request()
        self.request.audience = audience_of(self.request.form)


class Refresh(Authenticated, RefreshTokenGrant):
    INCLUDE_NEW_REFRESH_TOKEN = rotate

    # RFC 9700 §4.14.2: a token that was used before is known to a thief too, so the whole family ends.
    def authenticate_refresh_token(self, value):
        token = refresh_tokens.get(value)
        if token and token.used and token.check_client(self.request.client):
            revoke_family(token.family)
            raise InvalidGrantError(description="Refresh token already used.")
        if not token or not token.good():
            raise InvalidGrantError(description="Refresh token unknown, expired or revoked.")
        return token

    def authenticate_user(self, token):
        return token.sub

    def revoke_old_credential(self, token):
        token.used = rotate


class Assertion(Authenticated, JWTBearerGrant):
    LEEWAY = leeway

    def get_audiences(self):
        return audiences()

    def resolve_issuer_client(self, issuer):
        return issuers.get(issuer)

    def resolve_client_public_key(self, client):
        return KeySet.import_key_set({"keys": client.keys})

    # RFC 7521 §4.1: a client need not authenticate here, but if it does, then rightly.
    def validate_token_request(self):
        form = self.request.form
        if self.request.headers.get("Authorization") or "client_secret" in form or "client_assertion" in form:
            self.authenticate_token_endpoint_client()
        super().validate_token_request()
        self.request.audience = audience_of(form) if not azure else None

    def process_assertion_claims(self, assertion):
        claims = super().process_assertion_claims(assertion)
        if shape == "google":
            iat, exp = claims.get("iat"), claims["exp"]
            if not isinstance(iat, int) or exp - iat > 3600:
                raise InvalidGrantError(
                    description="Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable "
                    "timeframe. Check your iat and exp values in the JWT claim."
                )
            if not claims.get("scope"):
                raise InvalidScopeError("Empty or missing scope not allowed.")
            self.request.payload.data["scope"] = claims["scope"]
        elif "sub" not in claims:
            raise InvalidGrantError(description="Missing claim: 'sub'")
        issuer = issuers[claims["iss"]]
        if "jti" not in claims and issuer.require_jti:
            raise InvalidGrantError(description="Missing claim: 'jti'")
        if "jti" in claims and not first_use(claims["iss"], claims["jti"]):
            raise InvalidGrantError(description="JWT ID is used before.")
        return claims

    def authenticate_user(self, subject):
        subjects = self.request.client.subjects
        return subject if subjects is None or subject in subjects else None

    def has_granted_permission(self, client, user):
        return True


class Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = METHODS

    def query_token(self, value, hint):
        return refresh_tokens.get(value) or access_tokens.get(value)

    def revoke_token(self, token, request):
        if token in refresh_tokens.values():
            revoke_family(token.family)
        token.revoked = True


def fresh_value(**_):
    return secrets.token_urlsafe(32)


server = Server()
server.register_token_generator("default", BearerTokenGenerator(fresh_value, fresh_value, lambda *_: lifetime))
for method in METHODS[2:]:
    server.register_client_auth_method(method, ClientAssertion(method))
server.register_client_auth_method("refresh_token", by_refresh_token)
for grant in (ClientCredentials, Refresh, Assertion):
    server.register_grant(grant)
server.register_endpoint(Revocation)


# The answers as the clouds give them. Azure v1 writes every number as a string.
def shaped(token, request):
    if azure:
        token.pop("scope", None)
        token["ext_expires_in"] = token["expires_in"]
    if shape == "azure_v1":
        now = int(time.time())
        token |= {"expires_on": now + token["expires_in"], "not_before": now, "resource": request.audience}
        token = {name: str(value) for name, value in token.items()}
    if shape == "google" and request.form.get("grant_type") == JWT_BEARER:
        token.pop("scope", None)
    return token


AADSTS = {"invalid_client": 7000215, "invalid_request": 900144, "invalid_scope": 1002012, "invalid_grant": 70000}


def shaped_error(status, error, form):
    description = error.get("error_description", "")
    if azure:
        number = AADSTS.get(error["error"], 500011)
        number = 700027 if number == 7000215 and "client_assertion" in form else number
        error["error_description"] = f"AADSTS{number}: {description} Trace ID: 0 Correlation ID: 0"
        error |= {"error_codes": [number], "timestamp": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())}
        error |= {"trace_id": "0", "correlation_id": "0"}
        status = 401 if error["error"] == "invalid_client" else status
    # What authlib says of a wrong signature: nothing.
    if shape == "google" and form.get("grant_type") == JWT_BEARER and not description:
        error["error_description"] = "Invalid JWT Signature."
    return status, error


def token_response(request):
    count["token"] += 1
    try:
        status, answer, headers = server.create_token_response(request)
    except Exception:
        # A flaw of this server must not look like a granted token or like a broken connection.
        traceback.print_exc()
        status, answer, headers = 500, {"error": "server_error"}, []
    count["granted" if status == 200 else "refused"] += 1
    if status == 200:
        return status, shaped(answer, request), headers
    refusals.append({"error": answer["error"], "error_description": answer.get("error_description"), "detail": None})
    return *shaped_error(status, answer, request.form), headers


def me(headers):
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    token = access_tokens.get(value) if scheme == "Bearer" else None
    if not token or not token.good():
        return 401, {"error": "invalid_token"}, [("WWW-Authenticate", 'Bearer error="invalid_token"')]
    return 200, {"sub": token.sub, "client_id": token.client_id, "scope": token.scope, "aud": token.aud}, []


# The login that would give the first refresh token, without the person.
def new_refresh_token(body):
    if body["client_id"] not in clients:
        return None
    value = fresh_value()
    refresh_tokens[value] = Token(
        client_id=body["client_id"],
        sub=body.get("sub", "user"),
        scope=body.get("scope", "read"),
        aud=body.get("resource"),
        family=secrets.token_hex(8),
        expires_at=time.time() + body.get("expires_in", 86400),
    )
    return {"refresh_token": value}


# A refresh token goes with its whole family, an access token alone.
def revoke(body):
    refresh = refresh_tokens.get(body.get("refresh_token"))
    access = access_tokens.get(body.get("access_token"))
    if refresh:
        revoke_family(refresh.family)
    if access:
        access.revoked = True
    return {"revoked": True} if refresh or access else None


def administer(line, raw):
    answer = {
        "GET /count": lambda: count,
        "GET /refusals": lambda: refusals,
        "POST /admin/refresh-token": lambda: new_refresh_token(json.loads(raw)),
        "POST /admin/revoke": lambda: revoke(json.loads(raw)),
    }.get(line, lambda: None)()
    return (404, {"error": "not found"}, []) if answer is None else (200, answer, [])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The answer in one write: head and body apart would wait for each other's acknowledgement.
    wbufsize = -1

    def do_GET(self):
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return self.answer(411, {"error": "length required"}, [])
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        path = urlsplit(self.path).path
        secure, apart = isinstance(self.connection, ssl.SSLSocket), "tls" in config
        with lock:
            if path == "/me":
                answer = me(self.headers)
            elif self.command == "POST" and path in (TOKEN_PATH, "/revoke") and secure == apart:
                answer = self.oauth(path, raw)
            elif not secure:
                answer = administer(f"{self.command} {path}", raw)
            else:
                answer = 404, {"error": "not found"}, []
        return self.answer(*answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def oauth(self, path, raw):
        fault = None
        pairs = []
        if self.headers.get_content_type() != "application/x-www-form-urlencoded":
            fault = "The body is not application/x-www-form-urlencoded."
        else:
            pairs = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True)
            if len(dict(pairs)) != len(pairs):
                fault = "A parameter is there twice."
        # authlib fails on a pair that is no UTF-8.
        scheme, _, pair = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                base64.b64decode(pair, validate=True).decode()
            except ValueError:
                fault = "The Authorization header is not base64 of UTF-8."
        request = Request(issuer + path, self.headers, dict(pairs))
        if fault:
            count["token"] += path == TOKEN_PATH
            count["refused"] += path == TOKEN_PATH
            refusals.append({"error": "invalid_request", "error_description": fault, "detail": None})
            return 400, {"error": "invalid_request", "error_description": fault}, []
        if path == TOKEN_PATH:
            return token_response(request)
        return server.create_endpoint_response("revocation", request)

    def answer(self, status, body, headers):
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", len(raw))]:
            self.send_header(name, str(value))
        if "Content-Type" not in dict(headers):
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


# A path as it is; a PEM text through a file, because that is what the ssl module reads.
def pem_file(value, folder, name):
    if "-----BEGIN" not in value:
        return value
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(value)
    return path


# The clouds take their token URL only.
def audiences():
    return [issuer, token_url] if shape == "plain" else [token_url]


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


listener = Listener(("127.0.0.1", 0), Handler)
port = admin = listener.server_port
if "tls" in config:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(
            pem_file(config["tls"]["cert"], folder, "cert"), pem_file(config["tls"]["key"], folder, "key")
        )
    # The handshake in the connection's own thread: a peer that says nothing must not hold up the others.
    listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    admin_listener = Listener(("127.0.0.1", 0), Handler)
    admin = admin_listener.server_port
    threading.Thread(target=admin_listener.serve_forever, daemon=True).start()
issuer = f"{'https' if 'tls' in config else 'http'}://{config.get('host', '127.0.0.1')}:{port}"
token_url = issuer + TOKEN_PATH
threading.Thread(target=listener.serve_forever, daemon=True).start()
line = {"port": port, "admin": admin, "issuer": issuer, "token_url": token_url, "me_url": f"{issuer}/me"}
print(json.dumps(line), flush=True)
sys.stdin.buffer.read()
os._exit(0)
