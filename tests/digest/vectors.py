"""What aiohttp's client answers to a challenge, with a client nonce and a count that are given.

Reads one JSON row a line (`challenge`, `cnonce`, `count`, `username`, `password`, `method`, `url`, `body` in hex) and prints
the Authorization header for each. SHA-512-256, which aiohttp has not, is hashlib's.
"""

import asyncio
import hashlib
import json
import sys

from aiohttp import client_middleware_digest_auth as digest
from aiohttp.payload import BytesPayload
from yarl import URL

for name in ("SHA-512-256", "SHA-512-256-SESS"):
    digest.DigestFunctions[name] = lambda data: hashlib.new("sha512_256", data)


class Whole(str):
    """aiohttp takes the first sixteen characters of a hash for its client nonce; of this it gets everything."""

    def __getitem__(self, _):
        return str(self)


class Fixed:
    """Stands for hashlib in aiohttp, its SHA-1 being the client nonce that is wanted."""

    def __init__(self, cnonce):
        self.cnonce = cnonce

    def sha1(self, _):
        return self

    def hexdigest(self):
        return Whole(self.cnonce)


def answer(row):
    client = digest.DigestAuthMiddleware(row["username"], row["password"])
    client._challenge = digest.parse_header_pairs(row["challenge"].partition(" ")[2])
    client._last_nonce_bytes = client._challenge["nonce"].encode()
    client._nonce_count = row["count"] - 1
    digest.hashlib = Fixed(row["cnonce"])
    try:
        url = URL(row["url"], encoded=True)
        return asyncio.run(client._encode(row["method"], url, BytesPayload(bytes.fromhex(row["body"]))))
    finally:
        digest.hashlib = hashlib


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
