"""A server that authenticates by digest (RFC 7616), written from the RFC with hashlib alone: everything a client can be asked.

    server.py [--username U] [--password P] [--self-test]

Listens on a free port of 127.0.0.1, prints {"port"} and ends when its stdin does. The first segment of a path says how it
is protected, `ALGORITHM[,ALGORITHM...][;FLAG[=VALUE]...]`, and is a protection space of its own; see README.md.
`GET /requests` lists what arrived.
"""

import argparse
import base64
import hashlib
import http.server
import json
import re
import secrets
import sys
import threading
import urllib.parse

HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
# RFC 9110 sections 5.6.2 and 5.6.4; nothing else is taken.
PARAMETER = re.compile(r'\s*([A-Za-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]+))\s*(?:,|$)', re.S)
QUOTED = {"username", "realm", "nonce", "uri", "response", "cnonce", "opaque"}
BARE = {"algorithm", "qop", "nc", "userhash", "username*"}


def hashed(algorithm, *parts):
    """H over parts joined with colons."""
    name = HASHES[algorithm.upper().removesuffix("-SESS")]
    joined = b":".join(part if isinstance(part, bytes) else part.encode("latin-1") for part in parts)
    return hashlib.new(name, joined).hexdigest()


def response(algorithm, key, nonce, request, qop=None, nc=None, cnonce=None):
    """`response`, and `rspauth`: RFC 7616 section 3.4.1, RFC 2617 section 3.2.2.1 without qop."""
    if qop is None:
        return hashed(algorithm, key, nonce, request)
    return hashed(algorithm, key, nonce, nc, cnonce, qop, request)


def parsed(header):
    """The parameters of an Authorization header, their quoting being what RFC 7616 section 3.4 asks."""
    scheme, _, rest = header.partition(" ")
    if scheme != "Digest":
        raise ValueError(f"the scheme is {scheme}")
    found = {}
    while rest.strip():
        match = PARAMETER.match(rest)
        if not match:
            raise ValueError(f"malformed at {rest[:20]!r}")
        name, quoted, bare = match.groups()
        if name in found:
            raise ValueError(f"{name} twice")
        if (quoted is None) != (name in BARE) or name not in QUOTED | BARE:
            raise ValueError(f"{name} is quoted wrongly, or unknown")
        found[name] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.S)
        rest = rest[match.end():]
    return found


class Policy:
    """How one space is protected."""

    def __init__(self, segment):
        names, *flags = urllib.parse.unquote(segment).split(";")
        self.segment = segment
        self.flags = dict(flag.partition("=")[::2] for flag in flags)
        self.algorithms = names.split(",")
        self.realm = f'"{names}", a \\ realm of {len(flags)}'
        self.qop = {"none": None, "both": ["auth", "auth-int"]}.get(*[self.flags.get("qop", "auth")] * 2)
        self.qop = [self.qop] if isinstance(self.qop, str) else self.qop
        self.domain = f"/{segment}/"

    def has(self, flag):
        return flag in self.flags


class State:
    """What the server remembers."""

    def __init__(self, username, password):
        self.username, self.password = username.encode(), password.encode()
        self.lock = threading.Lock()
        # Each nonce with its policy's segment, algorithm, opaque, the counts that were used, and the nonces of its session.
        self.nonces = {}
        self.seen = []

    def issue(self, segment, algorithm, session=None, opaque=None):
        nonce = base64.b64encode(secrets.token_bytes(24)).decode()
        self.nonces[nonce] = {
            "segment": segment, "algorithm": algorithm, "opaque": opaque or secrets.token_hex(8), "counts": set(),
            "session": session,
        }  # fmt: skip
        return nonce

    def challenges(self, policy, stale):
        escape = lambda text: re.sub(r'(["\\])', r"\\\1", text)
        for algorithm in policy.algorithms:
            nonce = self.issue(policy.segment, algorithm)
            parts = [f'realm="{escape(policy.realm)}"', f'nonce="{nonce}"', f'opaque="{self.nonces[nonce]["opaque"]}"']
            parts += [f"algorithm={algorithm}"] if not policy.has("silent") else []
            parts += [f'qop="{", ".join(policy.qop)}"'] if policy.qop else []
            parts += [f'domain="{policy.domain}"', "stale=true" if stale else "stale=FALSE"]
            parts += ["charset=UTF-8"] if policy.has("utf8") else []
            parts += ["userhash=true"] if policy.has("userhash") else []
            yield "Digest " + ", ".join(parts)

    def judge(self, policy, method, target, header, body):
        """(right, stale, why or the parameters, the hash of A1, the record of the nonce)"""
        try:
            given = parsed(header)
        except ValueError as why:
            return False, False, str(why), None, None
        missing = {"realm", "nonce", "uri", "response"} - given.keys()
        if missing:
            return False, False, f"no {sorted(missing)}", None, None
        if given["realm"] != policy.realm:
            return False, False, f"the realm is {given['realm']}", None, None
        if given["uri"] != target:
            return False, False, f"the uri is {given['uri']}, the target {target}", None, None
        known = self.nonces.get(given["nonce"])
        if known is None or known["segment"] != policy.segment:
            return False, True, "the nonce is not known", None, None
        algorithm = known["algorithm"]
        if given.get("algorithm") != (None if policy.has("silent") else algorithm) or given.get("opaque") != known["opaque"]:
            return False, False, "another algorithm or opaque", None, None
        if (name := self.named(policy, algorithm, given)) != self.username:
            return False, False, f"the user is {name!r}", None, None
        qop, nc, cnonce = given.get("qop"), given.get("nc"), given.get("cnonce")
        if policy.qop:
            if qop not in policy.qop or not re.fullmatch("[0-9a-f]{8}", nc or "") or not cnonce:
                return False, False, "qop, nc or cnonce is wrong", None, None
        elif qop or nc:
            return False, False, "qop was not offered", None, None
        key = hashed(algorithm, self.username, policy.realm, self.password)
        session = known["session"] or (given["nonce"], cnonce)
        if algorithm.lower().endswith("-sess"):
            key = hashed(algorithm, key, *session)
        request = [method, target] + ([hashed(algorithm, body)] if qop == "auth-int" else [])
        if response(algorithm, key, given["nonce"], hashed(algorithm, *request), qop, nc, cnonce) != given["response"]:
            return False, False, "the response is wrong", None, None
        if policy.qop:
            # Only what is right is counted: nobody can use up a nonce for somebody else.
            count = int(nc, 16)
            if count in known["counts"]:
                return False, False, "replayed", None, None
            if "uses" in policy.flags and len(known["counts"]) >= int(policy.flags["uses"]):
                return False, True, "the nonce is used up", None, None
            known["counts"].add(count)
        known["session"] = session
        return True, False, given, key, known

    def named(self, policy, algorithm, given):
        """The user that a request means, as bytes."""
        if given.get("userhash") == "true":
            if not policy.has("userhash") or given.get("username") != hashed(algorithm, self.username, policy.realm):
                return b"another hash"
            return self.username
        if policy.has("userhash") and not policy.has("lenient"):
            return b"a name in clear"
        if "username*" in given and "username" not in given and policy.has("utf8"):
            charset, _, text = given["username*"].split("'")
            return urllib.parse.unquote_to_bytes(text) if charset == "UTF-8" else b"another charset"
        return given.get("username", "").encode("latin-1")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def handle_one(self):
        length = int(self.headers.get("Content-Length", 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        if self.path == "/requests":
            with self.state.lock:
                return self.answer(200, [], json.dumps(self.state.seen).encode())
        policy = Policy(self.path.split("/")[1])
        header = self.headers.get("Authorization")
        with self.state.lock:
            status, headers, body_out, why = self.decide(policy, header, body)
            self.state.seen.append({
                "method": self.command, "target": self.path, "status": status, "length": len(body), "why": why,
                "authorization": header, "sha256": hashlib.sha256(body).hexdigest(),
                "client": self.client_address[1],
            })  # fmt: skip
        return self.answer(status, headers, body_out)

    def decide(self, policy, header, body):
        if "raw" in policy.flags:
            lines = base64.urlsafe_b64decode(policy.flags["raw"]).decode("latin-1").split("\n")
            return 401, [("WWW-Authenticate", line) for line in lines if line], b"", "asked"
        if policy.has("open") and self.command in policy.flags["open"].split(","):
            return 200, [], b"open", "not asked"
        if header is None:
            right, stale, why = False, False, "asked"
        else:
            right, stale, why, key, known = self.state.judge(policy, self.command, self.path, header, body)
        if not right:
            lines = [("WWW-Authenticate", line) for line in self.state.challenges(policy, stale)]
            if policy.has("crowd"):
                lines = [("WWW-Authenticate", 'Basic realm="a, Digest nonce=\\"b\\"", Negotiate'), *lines, ("WWW-Authenticate", "NTLM")]
            return 401, lines, b"", why
        given, algorithm = why, known["algorithm"]
        info = []
        if given.get("qop"):
            # Over the method's place being empty (RFC 7616 section 3.5).
            request = ["", self.path] + ([hashed(algorithm, b"right")] if given["qop"] == "auth-int" else [])
            proof = response(algorithm, key, given["nonce"], hashed(algorithm, *request), given["qop"], given["nc"], given["cnonce"])
            info += [f'rspauth="{proof}"', f'qop={given["qop"]}', f'nc={given["nc"]}', f'cnonce="{given["cnonce"]}"']
        if policy.has("nextnonce"):
            next_nonce = self.state.issue(policy.segment, algorithm, known["session"], known["opaque"])
            info.append(f'nextnonce="{next_nonce}"')
        return 200, [("Authentication-Info", ", ".join(info))] if info else [], b"right", "right"

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_one

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        """A connection that a client drops is no matter here."""


def self_test():
    """The examples of RFC 2617 section 3.5, RFC 7616 section 3.9.1, and section 3.9.2 as erratum 4897 has it."""
    nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    for algorithm, wanted in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        key = hashed(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
        request = hashed(algorithm, "GET", "/dir/index.html")
        assert response(algorithm, key, nonce, request, "auth", "00000001", cnonce) == wanted
    user = "J\u00e4s\u00f8n Doe".encode()
    assert hashed("SHA-512-256", user, "api@example.org") == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    key = hashed("SHA-512-256", user, "api@example.org", "Secret, or not?")
    nonce, cnonce = "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
    wanted = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert response("SHA-512-256", key, nonce, hashed("SHA-512-256", "GET", "/doe.json"), "auth", "00000001", cnonce) == wanted
    key = hashed("MD5", "Mufasa", "testrealm@host.com", "Circle Of Life")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    wanted = "6629fae49393a05397450978507c4ef1"
    assert response("MD5", key, nonce, hashed("MD5", "GET", "/dir/index.html"), "auth", "00000001", "0a4f113b") == wanted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--username", default="Mufasa")
    parser.add_argument("--password", default="Circle of Life")
    options = parser.parse_args()
    self_test()
    Handler.state = State(options.username, options.password)
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": server.server_port}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
