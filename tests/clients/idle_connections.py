# Opens many keep-alive connections, uses each once, and keeps them open: for measuring what an idle connection costs.
#
#   idle_connections.py HOST:PORT N TARGET
#
# TARGET is an http:// URL (sent in absolute form, as to a forward proxy) or a /path (as to a reverse proxy or server).
# CLIENT_HEADERS (a JSON object) adds request headers. Prints `ready` when every connection has had a whole answer with
# status 200 (or the status in IDLE_STATUS), waits for a line or the end on stdin, prints `open K`, the number that the
# peer has not closed meanwhile, and exits 0. Exits 1 when a connection or a request fails.
import asyncio
import json
import os
import resource
import socket
import sys
from urllib.parse import urlsplit

address, count, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
host, port = address.rsplit(":", 1)
status = os.environ.get("IDLE_STATUS", "200").encode()

# One descriptor for each connection and some for Python. The hard limit can be raised by root only.
need = count + 100
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if soft != resource.RLIM_INFINITY and soft < need:
    top = hard if hard == resource.RLIM_INFINITY else max(hard, need)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, top))
    except (ValueError, PermissionError) as error:
        sys.exit(f"{need} open files needed, the limit is {soft}/{hard}: {error}")

authority = urlsplit(target).netloc or address
headers = "".join(f"{k}: {v}\r\n" for k, v in json.loads(os.environ.get("CLIENT_HEADERS", "{}")).items())
request = f"GET {target} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n".encode()


async def one(index, limit):
    async with limit:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if host.startswith("127.") and count > 20000:
            # One source address has about 28,000 ports towards one destination; loopback has addresses enough.
            sock.bind((f"127.0.{1 + index // 20000}.1", 0))
        await loop.sock_connect(sock, (host.strip("[]"), int(port)))
        await loop.sock_sendall(sock, request)
        # The whole answer must be read, else it is no idle connection.
        data = b""

        async def more():
            nonlocal data
            part = await loop.sock_recv(sock, 65536)
            if not part:
                raise ConnectionError(f"connection {index} closed within the answer: {data[:200]!r}")
            data += part

        while b"\r\n\r\n" not in data:
            await more()
        head, _, data = data.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1] != status:
            raise ConnectionError(f"connection {index}: {head[:200]!r}")
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        if fields.get(b"connection", b"").lower() == b"close":
            raise ConnectionError(f"connection {index}: the peer will close it: {head[:200]!r}")
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            # Good enough for the small answers of a test: no trailers.
            while not data.endswith(b"0\r\n\r\n"):
                await more()
        else:
            while len(data) < int(fields.get(b"content-length", 0)):
                await more()
        return sock


async def main():
    limit = asyncio.Semaphore(100)
    return await asyncio.wait_for(asyncio.gather(*(one(i, limit) for i in range(count))), 300)


def is_open(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


try:
    sockets = asyncio.run(main())
except (OSError, asyncio.TimeoutError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("ready", flush=True)
sys.stdin.readline()
print(f"open {sum(map(is_open, sockets))}", flush=True)
