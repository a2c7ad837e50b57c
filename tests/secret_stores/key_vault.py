"""An Azure Key Vault and Microsoft Entra's token endpoint before it, as strict as they are documented.

    key_vault.py CERT KEY      over TLS at `port`; `admin` takes PUT / with changes of its state

Prints {"port", "admin"} and ends with its standard input. One application: tenant `t`, client `app`, secret `app-secret`.
The state, each member of which PUT / may set: `secrets` {name: [{"version", "value", "attributes"}]}, the last being the
current one; `throttle`, so many requests for secrets get 429; `retry_after`; `down`, 503 for all of them; `resource`, what
the challenge asks for. {"revoke": true} kills the tokens there are. PUT answers with the state and with what was asked:
`tokens`, the requests for tokens; `reads`, those for secrets, with status, time and whether a token came.
"""

import json
import re
import secrets
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, urlsplit

AUTHORITY = "https://login.microsoftonline.com/t"
RESOURCE = "https://vault.azure.net"
VERSION = re.compile(r"(\d{4}-\d{2}-\d{2}|7\.\d)(-preview(\.\d)?)?")

lock = threading.Lock()
state = {"secrets": {}, "throttle": 0, "retry_after": None, "down": False, "resource": RESOURCE}
tokens, asked, reads = {}, [], []


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, document, **headers):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class Azure(Quiet):
    def do_POST(self):
        form = dict(parse_qsl(self.body().decode()))
        with lock:
            asked.append({"path": self.path, **{k: v for k, v in form.items() if k != "client_secret"}})
        wanted = form.get("resource") or form.get("scope", "").removesuffix("/.default")
        proven = form.get("client_id") == "app" and form.get("client_secret") == "app-secret"
        if form.get("grant_type") != "client_credentials" or not self.path.startswith("/t/oauth2/"):
            return self.answer(400, {"error": "invalid_request", "error_description": "AADSTS900144: the body is incomplete."})
        if not proven:
            return self.answer(401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."})
        token = "c4nary-token-" + secrets.token_hex(16)
        with lock:
            # As it was written: the audience is compared letter by letter, a slash at its end apart.
            tokens[token] = wanted
        self.answer(200, {"token_type": "Bearer", "expires_in": "3599", "resource": wanted, "access_token": token})

    def do_GET(self):
        status, document, headers = self.read()
        with lock:
            reads.append({"path": self.path, "status": status, "at": time.time(), "token": "Authorization" in self.headers})
        self.answer(status, document, **headers)

    def read(self):
        url = urlsplit(self.path)
        version = parse_qs(url.query).get("api-version", [""])[0]
        error = lambda code, message, inner=None: {"error": {"code": code, "message": message, **({"innererror": {"code": inner}} if inner else {})}}
        with lock:
            audience = tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")
            # One that asks for something else than vaults take refuses whatever comes.
            if audience.rstrip("/") != RESOURCE or state["resource"] != RESOURCE:
                challenge = f'Bearer authorization="{AUTHORITY}", resource="{state["resource"]}"'
                return 401, error("Unauthorized", "AKV10000: Request is missing a Bearer or PoP token."), {"WWW_Authenticate": challenge}
            if not VERSION.fullmatch(version) or version < "2016-10-01":
                return 400, error("BadParameter", "The specified version is not recognized. Consider using the latest supported version."), {}
            if state["down"]:
                return 503, error("ServiceUnavailable", "The service is not available."), {}
            if state["throttle"] > 0:
                state["throttle"] -= 1
                retry = {"Retry_After": str(state["retry_after"])} if state["retry_after"] else {}
                return 429, error("Throttled", "Request was not processed because too many requests were received."), retry
            path = url.path.strip("/").split("/")
            versions = state["secrets"].get(path[1], []) if len(path) in (2, 3) and path[0] == "secrets" else []
            if path[2:] == ["versions"]:
                listed = [self.item(path[1], one) for one in versions]
                return 200, {"value": listed, "nextLink": None}, {}
            found = [one for one in versions if path[2:] in ([], [one["version"]])]
            if not found:
                return 404, error("SecretNotFound", f"A secret with (name/id) {'/'.join(path[1:])} was not found in this key vault."), {}
            if not found[-1].get("attributes", {}).get("enabled", True):
                return 403, error("Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled"), {}
            return 200, {"value": found[-1]["value"], **self.item(path[1], found[-1])}, {}

    def item(self, name, one):
        host = self.headers["Host"]
        attributes = {"enabled": True, "created": 1700000000, "updated": 1700000000, "recoveryLevel": "Recoverable"}
        return {"id": f"https://{host}/secrets/{name}/{one['version']}", "attributes": {**attributes, **one.get("attributes", {})}}


class Admin(Quiet):
    def do_PUT(self):
        changes = json.loads(self.body())
        with lock:
            if changes.pop("revoke", False):
                tokens.clear()
            state["secrets"].update(changes.pop("secrets", {}))
            state.update(changes)
            self.answer(200, {**state, "tokens": asked, "reads": reads})


def listen(handler, context=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        # The handshake in the connection's own thread: a peer that says nothing must not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
print(json.dumps({"port": listen(Azure, context), "admin": listen(Admin)}), flush=True)
sys.stdin.buffer.read()
