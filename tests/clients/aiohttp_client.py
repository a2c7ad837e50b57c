# A plain script with Python aiohttp: it knows nothing of a proxy or of its CA, but says trust_env=True, without which
# aiohttp looks at no proxy variable at all.
#
#   aiohttp_client.py URL        environment: README.md (HTTPS_PROXY, http_proxy, SSL_CERT_FILE)
#
# CLIENT_METHOD, CLIENT_BODY and CLIENT_HEADERS (a JSON object) shape the request. Prints one JSON line and exits 0
# when an answer came, whatever its status; exits 1 otherwise.
import asyncio
import json
import os
import sys

import aiohttp


async def main():
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
        async with session.request(
            os.environ.get("CLIENT_METHOD", "GET"),
            sys.argv[1],
            data=os.environ.get("CLIENT_BODY", "").encode() or None,
            headers=json.loads(os.environ.get("CLIENT_HEADERS", "{}")),
        ) as answer:
            body = (await answer.read()).decode("utf-8", "replace")
            version = f"HTTP/{answer.version.major}.{answer.version.minor}"
            print(json.dumps({"status": answer.status, "version": version, "body": body}))


try:
    asyncio.run(main())
except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
