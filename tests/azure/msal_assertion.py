"""The assertion that Microsoft's own library makes of a certificate: `msal_assertion.py PS256|RS256 TENANT CLIENT KEY CERT`.

Prints one JSON line, {"assertion", "form"}. Its HTTP client is one of ours that sends nothing.
"""

import hashlib
import json
import sys

import msal
from cryptography import x509
from cryptography.hazmat.primitives import serialization


class Answer:
    status_code, headers = 200, {}

    def __init__(self, document):
        self.text = json.dumps(document)

    def raise_for_status(self):
        pass


class Recorder:
    form = None

    def __init__(self, authority):
        self.authority = authority

    def get(self, url, **_):
        return Answer({"authorization_endpoint": f"{self.authority}/oauth2/v2.0/authorize", "issuer": f"{self.authority}/v2.0",
                       "token_endpoint": f"{self.authority}/oauth2/v2.0/token", "tenant_discovery_endpoint": url, "metadata": []})

    def post(self, url, data=None, **_):
        Recorder.form = dict(data)
        return Answer({"access_token": "t", "token_type": "Bearer", "expires_in": 3599})

    def close(self):
        pass


algorithm, tenant, client, key, cert = sys.argv[1:]
key, cert = open(key).read(), open(cert).read()
proof = {"private_key": key}
if algorithm == "PS256":
    proof["public_certificate"] = cert
else:
    first = x509.load_pem_x509_certificates(cert.encode())[0]
    proof["thumbprint"] = hashlib.sha1(first.public_bytes(serialization.Encoding.DER)).hexdigest()
authority = f"https://login.microsoftonline.com/{tenant}"
application = msal.ConfidentialClientApplication(client, client_credential=proof, authority=authority, http_client=Recorder(authority))
result = application.acquire_token_for_client(["https://management.azure.com/.default"])
assert "access_token" in result, result
assertion = Recorder.form["client_assertion"]
assertion = assertion.decode() if isinstance(assertion, bytes) else assertion
form = {name: value for name, value in Recorder.form.items() if isinstance(value, (str, bytes)) and name != "client_assertion"}
print(json.dumps({"assertion": assertion, "form": form}))
