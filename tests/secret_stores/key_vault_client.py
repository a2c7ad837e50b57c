"""Microsoft's own client against key_vault.py: what it understands of the stub's answers. Prints one JSON line.

    key_vault_client.py PORT CA"""

import json
import sys
import time
import urllib.parse
import urllib.request
import ssl

from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.secrets import SecretClient

port, ca = sys.argv[1:]
asked = []


class Application:
    """Obtains its token from the stub, for the scope that the client took from the challenge."""

    def __init__(self, secret="app-secret"):
        self.secret = secret

    def get_token(self, *scopes, **options):
        asked.append({"scopes": scopes, "tenant": options.get("tenant_id")})
        form = {"grant_type": "client_credentials", "client_id": "app", "client_secret": self.secret, "scope": scopes[0]}
        request = urllib.request.Request(f"https://localhost:{port}/t/oauth2/v2.0/token", urllib.parse.urlencode(form).encode())
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca))
        )
        with opener.open(request) as answer:
            return AccessToken(json.load(answer)["access_token"], int(time.time()) + 3600)


def client(version):
    # The stub is no name of Azure's here, which is what the client would else compare the challenge with.
    return SecretClient(f"https://localhost:{port}", Application(), verify_challenge_resource=False, api_version=version,
                        connection_verify=ca, retry_total=1, proxies={"http": "", "https": ""})


def error(call):
    try:
        call()
    except HttpResponseError as failed:
        inner = getattr(getattr(failed, "error", None), "innererror", None)
        return [type(failed).__name__, failed.status_code, failed.error.code if failed.error else None, str(bool(inner))]
    return None


secrets = client("7.4")
current = secrets.get_secret("db")
first = secrets.get_secret("db", "1" * 32)
listed = [one.version for one in secrets.list_properties_of_secret_versions("db")]
print(json.dumps({
    "current": [current.value, current.name, current.properties.version, current.properties.enabled],
    "first": first.value,
    "listed": listed,
    "scopes": asked[0]["scopes"],
    "tenant": asked[0]["tenant"],
    "missing": error(lambda: secrets.get_secret("none")),
    "disabled": error(lambda: secrets.get_secret("off")),
    "expires": secrets.get_secret("ends").properties.expires_on.timestamp(),
    "old": client("2016-10-01").get_secret("db").value,
    "throttled": error(lambda: secrets.get_secret("throttled")),
}))
