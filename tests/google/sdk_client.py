"""Google's own client libraries, unmodified: Cloud Storage and Secret Manager over REST and gRPC.

    sdk_client.py [--credentials default|anonymous] [--grpc-endpoint HOST] [--expect-refused]

Run by `countersign run`, or with the proxy and CA variables that it sets. `default`: whatever google.auth.default()
finds. Prints {"operations": [...]} with the names of those that ended as they must, and exits 1 if one did not.
"""

import argparse
import json
import os
import sys

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import secretmanager, storage

options = argparse.ArgumentParser()
options.add_argument("--credentials", choices=["default", "anonymous"], default="default")
options.add_argument("--grpc-endpoint", default="secretmanager.googleapis.com")
options.add_argument("--expect-refused", action="store_true")
options = options.parse_args()
credentials = {} if options.credentials == "default" else {"credentials": AnonymousCredentials()}

done, failed = [], []


def operation(name, act):
    try:
        outcome = act()
        ended, detail = not options.expect_refused, repr(outcome)
    except Exception as error:  # whatever the library makes of it
        ended, detail = options.expect_refused and not isinstance(error, (ImportError, AttributeError, TypeError)), repr(error)
    (done if ended else failed).append(name if ended else f"{name}: {detail}")


def expect(value, wanted):
    assert value == wanted, (value, wanted)


# What a person has set is not for the program that Countersign runs: the test's values say that they are real.
expect([name for name, value in os.environ.items() if value.startswith("a-real-")], [])
bucket = storage.Client(project="example-project", **credentials).bucket("reports")
content = b"0123456789" * 1000
once = {"retry": None, "timeout": 20}
operation("storage upload", lambda: bucket.blob("a b/c.csv").upload_from_string(content, **once))
operation("storage list", lambda: expect([blob.name for blob in bucket.list_blobs(**once)], ["a b/c.csv"]))
operation("storage download", lambda: expect(bucket.blob("a b/c.csv").download_as_bytes(**once), content))
operation("storage delete", lambda: bucket.blob("a b/c.csv").delete(**once))
name = "projects/example-project/secrets/colour/versions/latest"
rest = secretmanager.SecretManagerServiceClient(transport="rest", **credentials)
operation("secret manager over REST", lambda: expect(rest.access_secret_version(name=name, **once).payload.data, b"blue"))
over_grpc = secretmanager.SecretManagerServiceClient(client_options={"api_endpoint": options.grpc_endpoint}, **credentials)
operation("secret manager over gRPC", lambda: expect(over_grpc.access_secret_version(name=name, **once).payload.data, b"blue"))
print(json.dumps({"operations": done, "failed": failed}))
sys.exit(bool(failed))
