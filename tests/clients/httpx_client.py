# A plain script with Python httpx, HTTP/2 enabled: it knows nothing of a proxy or of its CA.
#
#   httpx_client.py URL          environment: README.md (HTTPS_PROXY, http_proxy, SSL_CERT_FILE)
#
# CLIENT_METHOD, CLIENT_BODY and CLIENT_HEADERS (a JSON object) shape the request. Prints one JSON line and exits 0
# when an answer came, whatever its status; exits 1 otherwise.
import json
import os
import sys

import httpx

try:
    with httpx.Client(http2=True, timeout=30) as client:
        answer = client.request(
            os.environ.get("CLIENT_METHOD", "GET"),
            sys.argv[1],
            content=os.environ.get("CLIENT_BODY", "").encode() or None,
            headers=json.loads(os.environ.get("CLIENT_HEADERS", "{}")),
        )
except httpx.HTTPError as error:
    sys.exit(f"{type(error).__name__}: {error}")
body = answer.content.decode("utf-8", "replace")
print(json.dumps({"status": answer.status_code, "version": answer.http_version, "body": body}))
