"""A client of Tower's `/credentials`, written after its documents: the guide of 2020 and the API of today.

    client.py BASE < REQUEST

BASE ends in `/api`. TOWER_ACCESS_TOKEN holds the token. REQUEST is one JSON object:
{"workspaceId": 7, "credentials": [{"name", "provider", …}], "secrets": ["what no answer may hold"]}.
Creates each, as it is given; lists, describes, changes and validates it; then prints one JSON line {"ids": {NAME: ID}, "calls": N}.
Whatever goes against the documents ends the program with a message.
"""

import json
import os
import re
import sys

import requests

PROVIDERS = set(
    "aws azure azure_entra google github github_app gitlab bitbucket ssh k8s container-reg tw-agent codecommit gitea azurerepos "
    "seqeracompute azure-cloud s3".split()
)
LISTED = "id name description provider category deleted lastUsed dateCreated lastUpdated".split()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Tower:
    def __init__(self, base, token, workspace, secrets):
        self.base = base
        self.workspace = workspace
        self.secrets = secrets
        self.calls = 0
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method, path, expected, body=None, **query):
        if self.workspace:
            query["workspaceId"] = self.workspace
        answer = self.session.request(method, self.base + path, params=query, json=body, timeout=60)
        self.calls += 1
        told = f"{answer.headers} {answer.text}"
        for secret in self.secrets:
            assert secret not in told, f"{method} {path}: an answer holds a secret"
        assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text}"
        if expected in (204, 403):
            assert not answer.content, f"{method} {path}: {expected} has no body"
            return None
        assert answer.headers["Content-Type"].startswith("application/json"), f"{method} {path}"
        document = answer.json()
        if expected >= 400 and "conflicts" not in document:
            assert isinstance(document["message"], str) and document["message"], f"{method} {path}"
        return document


def known(one):
    assert all(key in one for key in LISTED), f"{one}"
    assert one["provider"] in PROVIDERS and one["deleted"] is False and one["status"] in ("AVAILABLE", "INVALID"), f"{one}"
    assert all(one[key] is None or TIME.fullmatch(one[key]) for key in ("dateCreated", "lastUpdated", "lastUsed")), f"{one}"
    return one


def main():
    request = json.load(sys.stdin)
    tower = Tower(sys.argv[1], os.environ["TOWER_ACCESS_TOKEN"], request.get("workspaceId"), request["secrets"])
    ids = {}
    for credentials in request["credentials"]:
        name = credentials["name"]
        tower.call("GET", "/credentials/validate", 204, name=name)
        created = tower.call("POST", "/credentials", 200, {"credentials": credentials})
        assert set(created) == {"credentialsId"}, f"{created}"
        ids[name] = identity = created["credentialsId"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,22}", identity), identity
        tower.call("GET", "/credentials/validate", 409, name=name)
        tower.call("POST", "/credentials", 400, {"credentials": credentials})
        described = known(tower.call("GET", f"/credentials/{identity}", 200)["credentials"])
        assert described["name"] == name and described["keys"]["discriminator"] == described["provider"], f"{described}"
        # As Terraform's provider and the user interface do: what was read goes back with a change.
        described["description"] = "changed by a test"
        tower.call("PUT", f"/credentials/{identity}", 204, {"credentials": described})
        # As the command line does: the keys once more, by the name of their provider.
        again = {"id": identity, "name": name, "provider": described["provider"]}
        again["keys"] = {**credentials.get("keys", {}), "provider": described["provider"]}
        tower.call("PUT", f"/credentials/{identity}", 204, {"credentials": again})
        assert tower.call("GET", f"/credentials/{identity}", 200)["credentials"]["description"] == "changed by a test"
        tower.call("GET", f"/credentials/{identity}/keys", 403, pairingId="wave")
    listed = [known(one) for one in tower.call("GET", "/credentials", 200)["credentials"]]
    missing = set(ids.values()) - {one["id"] for one in listed}
    assert not missing, f"{missing} are not listed"
    tower.call("GET", "/credentials/1cz5A8cuBkB5iJliCwJCFU", 403)
    tower.call("DELETE", "/credentials/1cz5A8cuBkB5iJliCwJCFU", 403)
    tower.call("POST", "/credentials/1cz5A8cuBkB5iJliCwJCFU/validate", 404)
    tower.call("POST", "/credentials", 400, {"credentials": {"name": "agent", "provider": "tw-agent", "keys": {"connectionId": "c"}}})
    print(json.dumps({"ids": ids, "calls": tower.calls}))


main()
