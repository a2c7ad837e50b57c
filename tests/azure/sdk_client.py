"""Azure's own clients, unmodified, with a token that is worth nothing. One JSON line for each operation; see README.md."""

import json
import os
import sys
import time

from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.storage.blob import BlobServiceClient

EXPECT_REFUSED = "--expect-refused" in sys.argv

# What Countersign may prove itself with is not for the program that it runs: the test's values say that they are real.
assert not [name for name, value in os.environ.items() if value.startswith("real-")]


class Worthless:
    """What a program that holds no key gives its client."""

    def get_token(self, *scopes, **_):
        return AccessToken("worthless", int(time.time()) + 3600)

    def close(self):
        pass


def operations():
    # A program that was written for a machine of Azure's is handed nothing.
    finding = {"--default": DefaultAzureCredential, "--managed": ManagedIdentityCredential}
    credential = next((make for name, make in finding.items() if name in sys.argv), Worthless)()
    management = ResourceManagementClient(credential, "s", retry_total=0)
    yield "groups", lambda: [group.name for group in management.resource_groups.list()] == ["one", "two"]
    create = lambda: management.resource_groups.create_or_update("new", {"location": "westeurope", "tags": {"a": "b"}})
    yield "create group", lambda: create().tags == {"a": "b"}
    small = {"max_single_put_size": 1 << 20, "max_block_size": 1 << 20}
    account = BlobServiceClient("https://myaccount.blob.core.windows.net", credential, retry_total=0, **small)
    container = account.get_container_client("box")
    yield "create container", lambda: container.create_container() is not None
    yield "upload", lambda: container.upload_blob("small", b"hello") is not None
    data = bytes(range(256)) * 4096 * 5
    yield "upload in blocks", lambda: container.upload_blob("large", data) is not None
    yield "list", lambda: sorted(blob.name for blob in container.list_blobs()) == ["large", "small"]
    yield "download", lambda: container.download_blob("small").readall() == b"hello"
    yield "download in parts", lambda: container.download_blob("large").readall() == data
    vault = SecretClient("https://myvault.vault.azure.net", credential, retry_total=0)
    # Its first request goes without body and token, to be refused; with a body, which it keeps back.
    yield "set secret", lambda: vault.set_secret("name", "value").value == "value"
    yield "get secret", lambda: vault.get_secret("name").value == "value"
    yield "list secrets", lambda: [one.name for one in vault.list_properties_of_secrets()] == ["name"]
    # A new client knows nothing of the vault yet, and reads first.
    from azure.keyvault.secrets._shared import http_challenge_cache

    http_challenge_cache.clear()
    again = SecretClient("https://myvault.vault.azure.net", credential, retry_total=0)
    yield "get secret at once", lambda: again.get_secret("name").value == "value"
    yield "set secret again", lambda: again.set_secret("name", "other").value == "other"


failed = False
for name, run in operations():
    row = {"operation": name}
    try:
        row["ok"] = bool(run())
    except AzureError as error:
        answer = getattr(error, "response", None)
        row |= {"ok": False, "status": getattr(answer, "status_code", None), "detail": f"{type(error).__name__} {error}"[:300]}
    print(json.dumps(row), flush=True)
    failed |= row["ok"] == EXPECT_REFUSED or (EXPECT_REFUSED and row.get("status") not in (401, 502))
sys.exit(failed)
