"""Prints tests/vectors/google/google.json: what google-auth sends for each credential, recorded at a fixed time.

    vectors.py > ../vectors/google/google.json

What google-auth makes is the measure. JWTs are taken apart and written again with their fields in the order in which
Countersign writes them (typ, alg, kid; claims by name) and signed again by `cryptography` with the same key, since RS256
gives the same bytes for the same bytes: a vector is one exact request. The few fields in which google-auth says what
program it is, and `delegates` when there are none, are left out.
"""

import base64
import datetime
import json
import pathlib
import sys
import urllib.parse
from unittest import mock

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth import _helpers, identity_pool
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

NOW = 1_700_000_000
KEYS = pathlib.Path(__file__).parent.parent / "vectors" / "keys"
PEM = (KEYS / "rsa-pkcs8.pem").read_text()
KEY = serialization.load_pem_private_key(PEM.encode(), None)
EMAIL = "service-account@example.com"
PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
STORAGE = "https://www.googleapis.com/auth/devstorage.read_only"
AIP = "https://google.aip.dev/auth/"
KEY_FILE = {
    "type": "service_account",
    "project_id": "example-project",
    "private_key_id": "1",
    "private_key": PEM,
    "client_email": EMAIL,
    "client_id": "1234",
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
    "universe_domain": "googleapis.com",
}
POOL = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/POOL_ID/providers/PROVIDER_ID"
WORKFORCE = "//iam.googleapis.com/locations/global/workforcePools/POOL_ID/providers/PROVIDER_ID"
IMPERSONATION = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
SUBJECT_URL = "https://identity.example.com/token?audience=x"
FEDERATION = {
    "type": "external_account",
    "audience": POOL,
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {
        "url": SUBJECT_URL,
        "headers": {"Metadata": "True"},
        "format": {"type": "json", "subject_token_field_name": "access_token"},
    },
}
USER_FILE = {
    "type": "authorized_user",
    "client_id": "764086051850-x.apps.googleusercontent.com",
    "client_secret": "d-FL95Q19q7MQmFpd7hHD0Ty",
    "refresh_token": "1//refresh-token",
    "quota_project_id": "billing-project",
}
TARGET = "https://service-abc123-uc.a.run.app"


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def rewritten(jwt):
    """The same JWT in the other order of fields."""
    header, claims = (unb64(part) for part in jwt.split(".")[:2])
    header = {name: header[name] for name in ("typ", "alg", "kid") if name in header}
    claims = dict(sorted(claims.items()))
    message = f"{b64(compact(header))}.{b64(compact(claims))}"
    signature = KEY.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{message}.{b64(signature)}"


ID_TOKEN = f"{b64(compact({'alg': 'RS256'}))}.{b64(compact({'aud': TARGET, 'exp': NOW + 3600}))}.c2lnbmVk"


class Wire:
    """Records what google-auth asks, and answers."""

    def __init__(self):
        self.exchanges = []

    def __call__(self, url, method="GET", body=None, headers=None, **_):
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        answer, answer_headers = self.answer(url)
        kept = {name: headers[name] for name in ("content-type", "metadata", "metadata-flavor") if name in headers}
        kept["accept"] = "application/json"
        if "authorization" in headers:
            kind, _, token = headers["authorization"].partition(" ")
            token = rewritten(token) if token.startswith("eyJ") else token
            kept["authorization"] = f"{kind} {token}"
        form = (body or b"").decode()
        if "content-type" in kept and "json" in kept["content-type"]:
            document = json.loads(form)
            document = {name: value == "true" or value for name, value in document.items() if value is not None}
            form = compact(dict(sorted(document.items()))).decode()
        elif "assertion=" in form:
            fields = dict(urllib.parse.parse_qsl(form))
            assertion = rewritten(fields["assertion"])
            form = urllib.parse.urlencode({"grant_type": fields["grant_type"], "assertion": assertion})
        # JSON without its spaces, twice encoded.
        form = form.replace("%253A%2520", "%253A")
        self.exchanges.append({
            "method": method, "url": url, "headers": kept, "form": form,
            "status": 200, "answer_headers": answer_headers, "answer": answer,
        })
        response = mock.Mock(status=200, headers={"content-type": "application/json", **answer_headers})
        response.data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        return response

    def answer(self, url):
        flavor = {"metadata-flavor": "Google"}
        if url == SUBJECT_URL:
            return {"access_token": "subject.token.value", "expires_in": "3599"}, {}
        if url.endswith(":generateAccessToken"):
            return {"accessToken": "ya29.impersonated", "expireTime": "2023-11-14T23:13:20Z"}, {}
        if url.endswith(":generateIdToken"):
            return {"token": ID_TOKEN}, {}
        if "/identity?" in url:
            return ID_TOKEN, flavor
        answer = {"access_token": "ya29.access", "expires_in": 3599, "token_type": "Bearer"}
        return (answer, flavor) if "/computeMetadata/" in url else ({**answer, "id_token": ID_TOKEN}, {})


VECTORS = []


def vector(name, source, credential, file, expect, exchange=None, url="https://storage.googleapis.com/b/o?x=1", extra=()):
    key = next((key for key in ("service_account", "external_account", "authorized_user") if key in credential), None)
    secrets = {} if key is None else {credential[key]["env"]: file if isinstance(file, str) else json.dumps(file)}
    one = {"name": name, "source": source, "credential": credential, "secrets": secrets}
    if exchange:
        one["exchange"] = exchange[0] if len(exchange) == 1 else exchange
    one["request"] = {"method": "GET", "url": url, "headers": [["Authorization", "Bearer worthless"], ["x-other", "1"], *extra]}
    one["expect"] = expect
    VECTORS.append(one)


def signed(bearer, project=None, target="/b/o?x=1", kept=()):
    headers = [["authorization", f"Bearer {bearer}"], ["x-other", "1"], *kept]
    if project:
        headers.append(["x-goog-user-project", project])
    return {"headers": headers, "target": target}


def accepted(name, source, credential, file, made, **options):
    """`made` is google-auth's credential; it is asked for its token once."""
    wire = Wire()
    token = {}
    with mock.patch.object(_helpers, "utcnow", lambda: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)):
        made.refresh(wire)
        made.apply(token)
    bearer = token["authorization"].removeprefix("Bearer ")
    if bearer.count(".") == 2 and bearer != ID_TOKEN:
        bearer = rewritten(bearer)
    project = options.pop("project", None)
    assert token.get("x-goog-user-project") == project, token
    exchange = options.pop("exchange", wire.exchanges)
    vector(name, source, credential, file, signed(bearer, project), exchange, **options)


def refused(name, credential, file, why, exchange=None, source="https://cloud.google.com/docs/authentication/client-libraries#external-credentials"):
    vector(name, source, credential, file, {"refused": why}, exchange)


def key_of(**changes):
    file = {**KEY_FILE, **changes}
    return {name: value for name, value in file.items() if value is not None}


SA = {"service_account": {"env": "KEY"}}
EXTERNAL = {"external_account": {"env": "CONFIG"}}
from_info = service_account.Credentials.from_service_account_info
id_from_info = service_account.IDTokenCredentials.from_service_account_info

accepted("a service account's key, everything it may do", AIP + "4112", SA, KEY_FILE, from_info(KEY_FILE, scopes=[PLATFORM]))
accepted("scopes, and a person to act for", "https://developers.google.com/identity/protocols/oauth2/service-account",
         {**SA, "scopes": [STORAGE, "email"], "subject": "person@example.com"}, KEY_FILE,
         from_info(KEY_FILE, scopes=[STORAGE, "email"], subject="person@example.com"))
old = key_of(token_uri="https://www.googleapis.com/oauth2/v4/token", private_key_id=None, universe_domain=None)
made = from_info({**old, "private_key_id": None}, scopes=[PLATFORM])
accepted("an old file: its token_uri is another, aud is not; no kid", AIP + "4112", SA, old, made)
elsewhere = "https://token.example.com/path?q=1"
accepted("the operator's token endpoint: aud is Google's all the same", AIP + "4112", {**SA, "token_url": elsewhere}, KEY_FILE,
         from_info(KEY_FILE, scopes=[PLATFORM]).with_token_uri(elsewhere))
accepted("an ID token", AIP + "4112", {**SA, "target_audience": TARGET}, KEY_FILE,
         id_from_info(KEY_FILE, target_audience=TARGET))
made = from_info(KEY_FILE)
made._create_self_signed_jwt("https://pubsub.googleapis.com/")
accepted("a JWT of our own for one API", AIP + "4111", {**SA, "audience": "https://pubsub.googleapis.com/"}, KEY_FILE, made)
accepted("a JWT of our own with scopes, and then without an audience", AIP + "4111",
         {**SA, "self_signed": True, "scopes": [PLATFORM, "email"]}, KEY_FILE,
         from_info(KEY_FILE, scopes=[PLATFORM, "email"], always_use_jwt_access=True))
accepted("the project that pays, in place of the caller's", "https://cloud.google.com/docs/quotas/set-quota-project",
         {**SA, "quota_project": "billing-project"}, KEY_FILE,
         from_info(KEY_FILE, scopes=[PLATFORM]).with_quota_project("billing-project"), project="billing-project",
         extra=[["X-Goog-User-Project", "somebody-elses"]])
away = key_of(universe_domain="cloud.example", token_uri="https://oauth2.cloud.example/token")
accepted("another universe has no token endpoint: a JWT of our own", AIP + "4111", {**SA, "universe_domain": "cloud.example"}, away,
         from_info(away, scopes=[PLATFORM]))
accepted("an ID token in another universe, by IAM Credentials", "https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken",
         {**SA, "universe_domain": "cloud.example", "target_audience": TARGET}, away,
         id_from_info(away, target_audience=TARGET))

pool = identity_pool.Credentials.from_info
accepted("federation: a token from an address, exchanged", AIP + "4117", EXTERNAL, FEDERATION, pool(FEDERATION, scopes=[PLATFORM]))
acting = {**FEDERATION, "service_account_impersonation_url": IMPERSONATION, "service_account_impersonation": {"token_lifetime_seconds": 2800}}
accepted("federation: a service account is impersonated with what the exchange gives", AIP + "4117",
         {**EXTERNAL, "scopes": [STORAGE]}, acting, pool(acting, scopes=[STORAGE]))
workforce = {**FEDERATION, "audience": WORKFORCE, "workforce_pool_user_project": "workforce-project",
             "subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "credential_source": {"url": SUBJECT_URL, "format": {"type": "json", "subject_token_field_name": "access_token"}}}
accepted("federation of a workforce pool: the project stands in the options", AIP + "4117", EXTERNAL, workforce, pool(workforce, scopes=[PLATFORM]))
client = {**workforce, "client_id": "client:1", "client_secret": "a client+secret of%20 32 characters"}
accepted("federation of a workforce pool: a client authenticates by Basic", AIP + "4117", EXTERNAL, client, pool(client, scopes=[PLATFORM]))

# google-auth has no ID tokens of federation; its parts are those of the vectors before.
before = json.loads(json.dumps(VECTORS[-3]))
exchanges = before["exchange"][:2] + [{
    "method": "POST", "url": IMPERSONATION.replace("generateAccessToken", "generateIdToken"),
    "headers": {"content-type": "application/json", "accept": "application/json", "authorization": "Bearer ya29.access"},
    "form": compact({"audience": TARGET, "includeEmail": True, "useEmailAzp": True}).decode(), "status": 200, "answer": {"token": ID_TOKEN},
}]
vector("federation: an ID token of the impersonated service account", "https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken",
       {**EXTERNAL, "target_audience": TARGET}, acting, signed(ID_TOKEN), exchanges)

accepted("a person's own file", AIP + "4113", {"authorized_user": {"env": "FILE"}}, USER_FILE,
         user_credentials.Credentials.from_authorized_user_info(USER_FILE), project="billing-project")

METADATA = "https://cloud.google.com/compute/docs/access/authenticate-workloads"
SERVER = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default"


def metadata_exchange(url, **changes):
    answer, answer_headers = Wire().answer(url)
    exchange = {"method": "GET", "url": url, "headers": {"metadata-flavor": "Google"}, "status": 200,
                "answer_headers": answer_headers, "answer": answer}
    return [{**exchange, **changes}]


vector("the metadata server, with the scopes of the instance", METADATA, {"metadata": True}, None, signed("ya29.access"),
       metadata_exchange(f"{SERVER}/token"))
vector("the metadata server, with scopes", METADATA, {"metadata": True, "scopes": [STORAGE, "email"]}, None, signed("ya29.access"),
       metadata_exchange(f"{SERVER}/token?scopes={urllib.parse.quote(STORAGE, safe='')}%2Cemail"))
vector("the metadata server gives an ID token", "https://cloud.google.com/compute/docs/instances/verifying-instance-identity",
       {"metadata": True, "target_audience": TARGET}, None, signed(ID_TOKEN),
       metadata_exchange(f"{SERVER}/identity?audience={urllib.parse.quote(TARGET, safe='')}&format=full"))

refused("an answer that is not of Google's metadata server", {"metadata": True}, None, "Metadata-Flavor",
        metadata_exchange(f"{SERVER}/token", answer_headers={}), METADATA)
refused("no service account is attached", {"metadata": True}, None, "404", metadata_exchange(f"{SERVER}/token", status=404, answer=""), METADATA)
refused("an ID token that is none", {"metadata": True, "target_audience": TARGET}, None, "tells when it ends",
        metadata_exchange(f"{SERVER}/identity?audience={urllib.parse.quote(TARGET, safe='')}&format=full", answer="opaque"), METADATA)

first = VECTORS[0]["exchange"]
grant = "https://developers.google.com/identity/protocols/oauth2/service-account#error-codes"
refused("a key that was deleted", SA, KEY_FILE, "invalid_grant",
        [{**first, "status": 400, "answer": {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}}], grant)
refused("Google asks to come back", SA, KEY_FILE, "internal_failure",
        [{**first, "status": 400, "answer": {"error": "internal_failure", "error_description": "Backend Error"}}], grant)
refused("an ID token was asked for and none came", {**SA, "target_audience": TARGET}, KEY_FILE, "there is no id_token in it",
        [{**VECTORS[4]["exchange"], "answer": {"access_token": "ya29.access"}}], grant)
impersonated = next(one for one in VECTORS if "is impersonated" in one["name"])["exchange"]
refused("the pool may not impersonate", {**EXTERNAL, "scopes": [STORAGE]}, acting, "PERMISSION_DENIED",
        impersonated[:2] + [{**impersonated[2], "status": 403, "answer": {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.getAccessToken' denied", "status": "PERMISSION_DENIED"}}}])
refused("the subject token is not where the file says", EXTERNAL, FEDERATION, "subject_token_field_name",
        [{**impersonated[0], "answer": {"id_token": "x"}}])

for name, file, why in [
    ("a person's file where a service account's is needed", USER_FILE, "write it under `authorized_user`"),
    ("a pool's configuration where a key is needed", FEDERATION, "write it under `external_account`"),
    ("an OAuth client's file", {"installed": {"client_id": "x", "client_secret": "y"}}, "an OAuth client's file"),
    ("the key without the file around it", PEM, "it is a key alone"),
    ("half a file", json.dumps(KEY_FILE)[:300], "not the whole of one"),
    ("a file without a key", key_of(private_key=None), "there is no `private_key` in it"),
    ("a file without an address", key_of(client_email=None), "there is no `client_email` in it"),
    ("an elliptic curve key", key_of(private_key=(KEYS / "p256-pkcs8.pem").read_text()), "not an RSA key"),
    ("an RSA key of 1024 bits", key_of(private_key=(KEYS / "rsa-1024.pem").read_text()), "1024 bits"),
    ("a key that is damaged", key_of(private_key=PEM.replace("A", "B", 3)), "`private_key` in it"),
    ("a token_uri that would take the assertion elsewhere", key_of(token_uri="https://oauth2.googleapis.com.evil.example/token"), "leads elsewhere than to Google"),
    ("a token_uri without TLS", key_of(token_uri="http://oauth2.googleapis.com/token"), "leads elsewhere than to Google"),
    ("a universe that nobody asked for", key_of(universe_domain="evil.example"), "another universe"),
]:
    refused(name, SA, file, why)
for name, change, why in [
    ("a key where a pool's configuration is needed", KEY_FILE, "write it under `service_account`"),
    ("a token_url that would take the subject token elsewhere", {"token_url": "https://sts.evil.example/v1/token"}, "`token_url` in it leads elsewhere"),
    ("an impersonation that would take the token elsewhere", {"service_account_impersonation_url": IMPERSONATION.replace("googleapis.com", "evil.example")}, "`service_account_impersonation_url` in it leads elsewhere"),
    ("an impersonation of another path", {"service_account_impersonation_url": IMPERSONATION + "/../x"}, "generateAccessToken"),
    ("a program that a file names", {"credential_source": {"executable": {"command": "/bin/true"}}}, "is not run here"),
    ("a source of two kinds", {"credential_source": {"file": "a", "url": SUBJECT_URL}}, "both a file and a url"),
    ("a source of no kind", {"credential_source": {}}, "neither `file` nor `url`"),
    ("no source", {"credential_source": None}, "no `credential_source`"),
    ("an address of this network without TLS", {"credential_source": {"url": "http://10.0.0.1/token"}}, "allow_cleartext"),
    ("a metadata service that gives more than tokens", {"credential_source": {"url": "http://169.254.169.254/latest/meta-data/iam/security-credentials/x"}}, "allow_cleartext"),
    ("AWS at somebody else's address", {"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request", "credential_source": {"environment_id": "aws1", "regional_cred_verification_url": "https://sts.evil.example?Action=GetCallerIdentity&Version=2011-06-15"}}, "is not AWS's"),
    ("AWS with keys from elsewhere", {"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request", "credential_source": {"environment_id": "aws1", "url": "http://10.0.0.1/keys", "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"}}, "instance metadata service"),
    ("an AWS that is not known", {"credential_source": {"environment_id": "aws2"}}, "another than aws1"),
]:
    refused(name, EXTERNAL, {**FEDERATION, **change}, why)
refused("an ID token of nobody", {**EXTERNAL, "target_audience": TARGET}, FEDERATION, "an ID token is one of a service account's")

for name, credential, why in [
    ("no source", {}, "write one of"),
    ("two sources", {**SA, **EXTERNAL}, "write one of"),
    ("an audience and scopes", {**SA, "audience": "https://pubsub.googleapis.com/", "scopes": [PLATFORM]}, "not both"),
    ("an ID token with scopes", {**SA, "target_audience": TARGET, "scopes": [PLATFORM]}, "has no scopes"),
    ("nobody is acted for with a JWT of our own", {**SA, "self_signed": True, "subject": "a@example.com"}, "nobody is acted for"),
    ("a token endpoint without TLS", {**SA, "token_url": "http://token.example.com"}, "allow_cleartext"),
    ("a metadata server elsewhere", {"metadata": True, "metadata_url": "http://10.0.0.1"}, "allow_cleartext"),
    ("two scopes in one", {**SA, "scopes": ["a b"]}, "one scope"),
    ("a person's ID token", {"authorized_user": {"env": "FILE"}, "target_audience": TARGET}, "no person has ID tokens"),
]:
    refused(name, credential, KEY_FILE, why)

json.dump(VECTORS, sys.stdout, indent=2)
print()
