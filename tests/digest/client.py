"""aiohttp's client before server.py, without any proxy: that the server takes what somebody else makes of the RFC.

    client.py PORT USERNAME PASSWORD SEGMENT...

Sends two GETs and a POST below each segment, and prints {segment: [status, status, status]}.
"""

import asyncio
import hashlib
import json
import sys

import aiohttp
from aiohttp import client_middleware_digest_auth as digest
from yarl import URL

for name in ("SHA-512-256", "SHA-512-256-SESS"):
    digest.DigestFunctions[name] = lambda data: hashlib.new("sha512_256", data)


async def main(port, username, password, *segments):
    results = {}
    for segment in segments:
        middleware = digest.DigestAuthMiddleware(username, password)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:
            statuses = []
            for method, body in (("GET", None), ("GET", None), ("POST", b"some body")):
                url = URL(f"http://127.0.0.1:{port}/{segment}/a%2Fb?c=%20d", encoded=True)
                async with session.request(method, url, data=body) as answer:
                    statuses.append(answer.status)
            results[segment] = statuses
    print(json.dumps(results))


asyncio.run(main(*sys.argv[1:]))
