"""What google-auth signs, field by field: one JSON object {name: {"header", "claims"}} for the cases that the test names.

    google_auth_assertions.py ACCOUNT.json

Of each the times are said as they are: `iat` is the time of this run.
"""

import base64
import json
import sys

from google.auth import jwt
from google.oauth2 import service_account

FILE = json.load(open(sys.argv[1]))
make = service_account.Credentials.from_service_account_info
PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
STORAGE = "https://www.googleapis.com/auth/devstorage.read_write"
RUN = "https://reports-abc123-uc.a.run.app"


def taken_apart(token):
    token = token.decode() if isinstance(token, bytes) else token
    part = lambda text: json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    header, claims, _ = token.split(".")
    return {"header": part(header), "claims": part(claims)}


def self_signed(credentials, audience=None):
    credentials._create_self_signed_jwt(audience)
    credentials.refresh(None)
    return credentials.token


print(json.dumps({name: taken_apart(token) for name, token in {
    "scopes": make(FILE, scopes=[PLATFORM])._make_authorization_grant_assertion(),
    "several-scopes": make(FILE, scopes=[STORAGE, PLATFORM])._make_authorization_grant_assertion(),
    "subject": make(FILE, scopes=[PLATFORM], subject="person@example.com")._make_authorization_grant_assertion(),
    "target-audience": service_account.IDTokenCredentials.from_service_account_info(FILE, target_audience=RUN)._make_authorization_grant_assertion(),
    "audience": self_signed(make(FILE), "https://secretmanager.googleapis.com/"),
    "self-signed": self_signed(make(FILE, scopes=[PLATFORM], always_use_jwt_access=True)),
}.items()}))
