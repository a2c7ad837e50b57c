# A WebSocket echo server with PyPI websockets, which the Autobahn cases run against.
#
#   echo_server.py [CERT.pem KEY.pem]    prints `listening PORT` (ws, or wss with a certificate), serves until it is ended
#
# With ECHO_AUTHORIZATION in the environment, a handshake without exactly that Authorization header gets a 401.
import asyncio
import os
import ssl
import sys

# Cases 9.3.1 and 9.4.1 send 4 MB in 64-byte fragments: 65,536 of them; the library's own limit is 4,096.
os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "100000"

from websockets.asyncio.server import serve  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

wanted = os.environ.get("ECHO_AUTHORIZATION")


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        # Most cases end a connection by force.
        pass


def check(connection, request):
    if wanted is not None and request.headers.get_all("Authorization") != [wanted]:
        return connection.respond(401, "wrong Authorization\n")


async def main():
    context = None
    if len(sys.argv) > 2:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    # max_size: the largest message of a case has 16 MiB.
    async with serve(echo, "127.0.0.1", 0, ssl=context, process_request=check, max_size=None) as server:
        print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.Future()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
