"""Oracle's SDK for Python as a user has it: whatever configuration it finds, the proxy and bundle of the environment.

    sdk_client.py [--expect-refused] [--instance]

Prints one JSON line for each operation, `{"operation", "ok", "status", "code"}`, and exits 1 when one went against the plan.
`--expect-refused`: each must be refused as NotAuthenticated. `--instance`: by the SDK's own instance principal, without
Countersign; this is how the server's own stub is checked.
"""

import io
import json
import sys
import types

import oci
import requests

expect_refused = "--expect-refused" in sys.argv
TENANCY = "ocid1.tenancy.oc1..aaaaaaaacountersign"
wrong = []


def run(operation, call, check=lambda data: True):
    line = {"operation": operation, "ok": True, "status": None, "code": None}
    try:
        answer = call()
        line["status"] = answer.status
        if not check(answer.data):
            line["ok"], line["detail"] = False, repr(answer.data)[:300]
    except oci.exceptions.ServiceError as error:
        line.update(ok=False, status=error.status, code=error.code, detail=str(error.message)[:300])
    except Exception as error:
        line.update(ok=False, detail=f"{type(error).__name__}: {error}"[:600])
    print(json.dumps(line), flush=True)
    as_planned = line["code"] == "NotAuthenticated" and line["status"] == 401 if expect_refused else line["ok"]
    # A HEAD has no body, and so no code.
    as_planned = as_planned or (expect_refused and line["status"] == 401 and operation.startswith("head"))
    if not as_planned:
        wrong.append(operation)


class Unseekable(io.RawIOBase):
    """A stream that can be read once."""

    def __init__(self, data):
        self.inner = io.BytesIO(data)

    def readable(self):
        return True

    def seekable(self):
        return False

    def readinto(self, buffer):
        return self.inner.readinto(buffer)


def raw(config, method, url):
    """A call by `requests` with the SDK's signer, as its documentation shows."""
    answer = requests.request(method, url, json={"description": "patched"}, auth=oci.signer.Signer.from_config(config))
    if answer.status_code >= 400:
        raise oci.exceptions.ServiceError(answer.status_code, answer.json()["code"], answer.headers, answer.json()["message"])
    return types.SimpleNamespace(status=answer.status_code, data=answer.json())


def main():
    extra = {"retry_strategy": oci.retry.NoneRetryStrategy()}
    if "--instance" in sys.argv:
        config = {"region": "us-ashburn-1"}
        extra["signer"] = oci.auth.signers.InstancePrincipalsSecurityTokenSigner()
    else:
        config = oci.config.from_file()
    identity = oci.identity.IdentityClient(config, **extra)
    run("list regions", identity.list_regions, lambda data: len(data) == 2)
    pages = lambda: oci.pagination.list_call_get_all_results(identity.list_users, TENANCY)
    run("list users, three pages", pages, lambda data: len(data) == 3)
    if "--instance" in sys.argv:
        sys.exit(1 if wrong else 0)
    create = oci.identity.models.CreateUserDetails(compartment_id=TENANCY, name="me ü", description="d")
    run("create user (POST with JSON)", lambda: identity.create_user(create), lambda data: data.name == "me ü")
    user = "ocid1.user.oc1..me ü"
    update = oci.identity.models.UpdateUserDetails(description="another")
    run("update user (PUT with JSON)", lambda: identity.update_user(user, update), lambda data: data.description == "another")
    patch = lambda: raw(config, "PATCH", f"https://identity.us-ashburn-1.oci.oraclecloud.com/20160918/users/{user}")
    run("patch user, by requests", patch, lambda data: data["description"] == "patched")
    run("delete user", lambda: identity.delete_user(user))
    compute = oci.core.ComputeClient(config, **extra)
    stop = lambda: compute.instance_action("ocid1.instance.oc1.iad.a", "STOP")
    run("instance action (POST without a body)", stop, lambda data: data.lifecycle_state == "STOPPING")
    listed = lambda: compute.list_instances(TENANCY, availability_domain="Pjwf: PHX-AD-1", display_name="a&b=c/d é")
    run("list instances, odd query", listed, lambda data: data == [])
    store = oci.object_storage.ObjectStorageClient(config, **extra)
    run("get namespace", store.get_namespace, lambda data: data == "space")
    big = bytes(range(256)) * 40960
    run("put object of 10 MB", lambda: store.put_object("space", "bucket", "big object/ü", io.BytesIO(big)))
    run("get it", lambda: store.get_object("space", "bucket", "big object/ü"), lambda data: data.content == big)
    run("head it", lambda: store.head_object("space", "bucket", "big object/ü"))
    run("put object from text", lambda: store.put_object("space", "bucket", "text", "hello"))
    run("put an empty object", lambda: store.put_object("space", "bucket", "empty", b""))
    uploads = oci.object_storage.UploadManager(store, allow_parallel_uploads=True, parallel_process_count=2)
    once = lambda: uploads.upload_stream("space", "bucket", "stream", Unseekable(big), part_size=4 << 20)
    run("multipart upload of a stream", once)
    whole = lambda: store.get_object("space", "bucket", "stream")
    run("get what was uploaded in parts", whole, lambda data: data.content == big)
    names = lambda data: {one.name for one in data.objects} == {"big object/ü", "text", "empty", "stream"}
    run("list objects", lambda: store.list_objects("space", "bucket"), names)
    run("delete object", lambda: store.delete_object("space", "bucket", "big object/ü"))
    logs = oci.log_analytics.LogAnalyticsClient(config, **extra)
    upload = lambda: logs.upload_log_file("space", "u", "source", "file", io.BytesIO(big))
    run("upload log file (POST that the SDK streams)", upload)
    sys.exit(1 if wrong else 0)


main()
