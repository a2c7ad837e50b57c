"""The independent signer: prints generated requests and how Oracle's SDK for Python signs them, one JSON line each.

    vectors.py KEYS_FOLDER [--seed N] [--count 1500]

The first line has the keys, `{"keys": [{"pem", "password", "fingerprint"}]}`, the fingerprints by `cryptography`; the others
are rows, described in README.md. The same seed gives the same lines: RSASSA-PKCS1-v1_5 has no randomness.

The SDK is called as it is (`oci.signer.Signer`, `SecurityTokenSigner`), with the date given. What it puts into a request
beside `authorization` stands in the row too. Where it signs an upload it is called `without_content_headers`, as its own
clients do.
"""

import argparse
import base64
import email.utils
import hashlib
import json
import pathlib
import random
import string

from cryptography.hazmat.primitives import serialization
from oci._vendor import requests
from oci.auth.signers import SecurityTokenSigner
from oci.signer import Signer

TENANCY = "ocid1.tenancy.oc1..aaaaaaaaba3pv6wkcr4jqae5f15p2b2m2yt2j6rx32uzr4h25vqstifsfdsq"
USER = "ocid1.user.oc1..aaaaaaaat5nvwcna5j6aqzjcaty5eqbb6qt2jvpkanghtgdaqedqw3rynjq"
KEYS = [
    ("rsa-pkcs1.pem", None),
    ("rsa-pkcs8.pem", None),
    ("rsa-with-a-label.pem", None),
    ("rsa-encrypted-aes256.pem", "hunter2"),
    ("rsa-legacy-encrypted.pem", "hunter2"),
    ("rsa-legacy-aes256.pem", "hunter2"),
    ("rsa-legacy-des3.pem", "hunter2"),
    ("rsa-4096.pem", None),
]
HOSTS = [
    "iaas.us-phoenix-1.oraclecloud.com",
    "identity.eu-frankfurt-1.oci.oraclecloud.com",
    "query.us-gov-ashburn-1.oci.oraclegovcloud.com",
    "optimizer.uk-gov-london-1.oci.oraclegovcloud.uk",
    "secrets.vaults.eu-jovanovac-1.oci.oraclecloud20.com",
]
STORES = ["objectstorage.us-ashburn-1.oraclecloud.com", "space.objectstorage.us-ashburn-1.oci.customer-oci.com"]
SAFE = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@"
ESCAPES = ["%20", "%2F", "%2f", "%25", "%3A", "%C3%BC", "%E2%82%AC", "%00", "%7E"]
TYPES = [None, "application/json", "application/json; charset=utf-8", "application/octet-stream", "text/plain", "a/b;c=\"d e\""]
# The first day and the last second of a year, a leap day, the hour when summer time ends.
TIMES = [1388957500, 1704067199, 1704067200, 1709164800 + 3600, 1761440400, 4102444799]

arguments = argparse.ArgumentParser()
arguments.add_argument("keys", type=pathlib.Path)
arguments.add_argument("--seed", type=int, default=1)
arguments.add_argument("--count", type=int, default=1500)
arguments = arguments.parse_args()
dice = random.Random(arguments.seed)


def segment():
    return "".join(dice.choice(ESCAPES) if dice.random() < 0.15 else dice.choice(SAFE) for _ in range(dice.randint(1, 12)))


def path():
    return "/" + "/".join(segment() for _ in range(dice.randint(0, 5))) + dice.choice(["", "", "/"])


def query():
    pairs = [segment() + dice.choice(["=", "=" + segment(), ""]) for _ in range(dice.randint(0, 5))]
    return "?" + dice.choice(["&", "&&"]).join(pairs) if pairs else dice.choice(["", "", "?"])


def upload():
    start = f"/n/{segment()}/b/{segment()}"
    name = "/".join(segment() for _ in range(dice.randint(1, 3)))
    if dice.random() < 0.5:
        return f"{start}/o/{name}"
    return f"{start}/u/{name}?uploadId={segment()}&uploadPartNum={dice.randint(1, 9999)}"


def session_token():
    part = lambda claims: base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return ".".join([part({"alg": "RS256"}), part({"exp": 4102444799 + 7200, "n": dice.random()}), segment_free(40)])


def segment_free(length):
    return "".join(dice.choice(string.ascii_letters + string.digits + "-_") for _ in range(length))


def row(signers):
    kind = dice.choices(["plain", "upload", "theirs"], [8, 2, 1])[0]
    index = dice.choices(range(len(signers)), [6, 1, 1, 1, 1, 1, 1, 1])[0]
    method = dice.choice(["GET", "HEAD", "DELETE", "POST", "PUT", "PATCH"])
    host = dice.choice(HOSTS)
    if kind == "upload":
        method, host, target = "PUT", dice.choice(STORES), upload()
    elif kind == "theirs":
        method, target = dice.choice(["POST", "PUT", "PATCH"]), path() + query()
    else:
        target = path() + query()
    port = dice.choice(["", "", ":8443", ":80"])
    body = dice.randbytes(dice.choice([0, 0, 1, 17, 1000])) if method in ("POST", "PUT", "PATCH") or dice.random() < 0.1 else b""
    content_type = dice.choice(TYPES)
    time = dice.choice([dice.randrange(1388957500, 4102444799), dice.choice(TIMES)])
    url = f"https://{host}{port}{target}"
    request = requests.Request(method, f"https://{host}{port}/", data=body).prepare()
    # As it goes out, without requests' own reading of escapes.
    request.url = url
    # What requests drops of a target on the wire, a bare `?`, is not signed by it either.
    target = request.path_url
    request.headers["date"] = email.utils.formatdate(time, usegmt=True)
    if content_type is not None:
        request.headers["content-type"] = content_type
    if method in ("POST", "PUT", "PATCH"):
        request.headers["content-length"] = str(len(body))
    token = session_token() if dice.random() < 0.1 else None
    signer = SecurityTokenSigner(token, signers[index].private_key) if token else signers[index]
    short = kind != "plain"
    signed = (signer.without_content_headers if short else signer)(request)
    return {
        "key": index,
        "token": token,
        "kind": kind,
        "method": method,
        "authority": host + port,
        "target": target,
        "content_type": content_type,
        "body": body.hex(),
        "time": time,
        "expect": {
            name: signed.headers.get(name)
            for name in ("authorization", "date", "content-type", "content-length", "x-content-sha256")
        },
    }


def main():
    keys = []
    for name, password in KEYS:
        pem = (arguments.keys / name).read_text()
        public = serialization.load_pem_private_key(pem.encode(), password.encode() if password else None).public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(digest[at : at + 2] for at in range(0, 32, 2))
        keys.append({"pem": pem, "password": password, "fingerprint": fingerprint})
    print(json.dumps({"keys": keys}))
    signers = [
        Signer(TENANCY, USER, key["fingerprint"], None, pass_phrase=key["password"], private_key_content=key["pem"])
        for key in keys
    ]
    for _ in range(arguments.count):
        print(json.dumps(row(signers)))


main()
