# A plain script with Python requests, as a user would write it: it knows nothing of a proxy or of its CA.
#
#   requests_client.py URL       environment: README.md (HTTPS_PROXY, http_proxy, REQUESTS_CA_BUNDLE)
#
# CLIENT_METHOD, CLIENT_BODY and CLIENT_HEADERS (a JSON object) shape the request. Prints one JSON line and exits 0
# when an answer came, whatever its status; exits 1 otherwise.
import json
import os
import sys

import requests

try:
    answer = requests.request(
        os.environ.get("CLIENT_METHOD", "GET"),
        sys.argv[1],
        data=os.environ.get("CLIENT_BODY", "").encode() or None,
        headers=json.loads(os.environ.get("CLIENT_HEADERS", "{}")),
        timeout=30,
    )
except requests.RequestException as error:
    sys.exit(f"{type(error).__name__}: {error}")
# urllib3 says 11 or 20; there is no text form.
version = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}.get(answer.raw.version)
body = answer.content.decode("utf-8", "replace")
print(json.dumps({"status": answer.status_code, "version": version, "body": body}))
