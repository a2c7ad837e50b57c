"""Verifies SigV4a signatures: reads JSON lines {"access_key", "secret_key", "string_to_sign", "signature"}.

    verify_v4a.py < LINES

`signature` is the DER form in hex, as in the Authorization header. The key pair is derived from the access key and the
secret key as SigV4a says. Prints {"verified": N, "failed": M} and exits 1 when one failed, or none was there.
"""

import hashlib
import hmac
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
LABEL = b"AWS4-ECDSA-P256-SHA256"


def private_key(access_key, secret_key):
    """NIST SP 800-108 in counter mode, one round, until the candidate is small enough."""
    for counter in range(1, 255):
        given = b"\x00\x00\x00\x01" + LABEL + b"\x00" + access_key.encode() + bytes([counter]) + b"\x00\x00\x01\x00"
        candidate = int.from_bytes(hmac.digest(b"AWS4A" + secret_key.encode(), given, hashlib.sha256), "big")
        if candidate <= ORDER - 2:
            return ec.derive_private_key(candidate + 1, ec.SECP256R1())
    raise ValueError("no key for this secret")


def main():
    verified = failed = 0
    for number, line in enumerate(sys.stdin, 1):
        row = json.loads(line)
        try:
            key = private_key(row["access_key"], row["secret_key"]).public_key()
            key.verify(bytes.fromhex(row["signature"]), row["string_to_sign"].encode(), ec.ECDSA(hashes.SHA256()))
            verified += 1
        except (InvalidSignature, ValueError) as error:
            failed += 1
            print(f"line {number}: {type(error).__name__} {error}", file=sys.stderr)
    print(json.dumps({"verified": verified, "failed": failed}))
    return 1 if failed or not verified else 0


if __name__ == "__main__":
    sys.exit(main())
