"""An S3 server that verifies signatures with code of its own: the crate s3s-fs, on a free port.

    s3_server.py S3S_FS [--cert FILE --key FILE] [--domain NAME]

S3S_FS is the program that tests/testkit/install builds. Keeps its objects in a folder of its own, removed at the end.
Prints one JSON line {"port", "plain", "access_key", "secret_key"} and ends with its stdin. With --cert and --key `port`
speaks TLS and is relayed byte by byte to `plain`, where s3s-fs listens; else both are one port. --domain (may be
repeated) names the hosts below which a bucket may be a subdomain; other hosts are asked with the bucket in the path.
"""

import argparse
import asyncio
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("program", metavar="S3S_FS")
arguments.add_argument("--cert")
arguments.add_argument("--key")
arguments.add_argument("--domain", action="append", default=[])
arguments = arguments.parse_args()


def start(folder, access_key, secret_key):
    """Starts it on a free port; another process may take that port in between, hence more than one attempt."""
    domains = [part for domain in arguments.domain for part in ("--domain", domain)]
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        # It logs to stdout.
        process = subprocess.Popen(
            [arguments.program, "--host", "127.0.0.1", "--port", str(port), "--access-key", access_key]
            + ["--secret-key", secret_key, *domains, folder],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={"RUST_LOG": "warn"},
        )
        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process, port
            except OSError:
                time.sleep(0.05)
        process.kill()
    sys.exit("s3s-fs does not start")


async def relay(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def tls_front(plain, announce):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.cert, arguments.key)

    async def serve(reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", plain)
        except OSError:
            writer.close()
            return
        there = asyncio.create_task(relay(reader, inner_writer))
        # TLS has no half-closed state here: the end of the answer ends the connection.
        await relay(inner_reader, writer)
        writer.close()
        inner_writer.close()
        there.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


with tempfile.TemporaryDirectory() as folder:
    access_key, secret_key = "AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30)
    process, plain = start(folder, access_key, secret_key)

    def announce(port):
        print(
            json.dumps({"port": port, "plain": plain, "access_key": access_key, "secret_key": secret_key}), flush=True
        )

    try:
        if arguments.cert:
            threading.Thread(target=lambda: asyncio.run(tls_front(plain, announce)), daemon=True).start()
        else:
            announce(plain)
        sys.stdin.buffer.read()
    finally:
        process.kill()
        process.wait()
os._exit(0)
