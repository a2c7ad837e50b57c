"""The benchmark behind bench/run: starts everything on loopback, alternates the sides under wrk, prints ratios.

Only ratios are judged: the two sides of each take turns in one run, under the same load, before the same origin.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import http.client
import http.server
import itertools
import json
import os
import pathlib
import platform
import re
import resource
import selectors
import shutil
import signal
import socket
import ssl
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
KEY = "bench-key"
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
CONNECTIONS = {"1k": 32, "1m": 8, "put": 32}
SIZES = {"1k": 1024, "1m": 1024 * 1024}
TABLE = "{:1}  {:<66} {:>6}  {:<12} {:<13} {:<7}  {}"
CALLERS = 2000
# What is signed: the host tells service and region. The name of the bare pass is as long.
ACCESS_KEY, REGION, SIGNED, BARE = "AKIDBENCH", "us-east-1", "s3.us-east-1.amazonaws.com", "bare.us-east-1.origin.test"
SIGNATURE = (
    rf"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/\d{{8}}/{REGION}/s3/aws4_request, ?SignedHeaders=.* ?Signature=\w{{64}}"
)
# A host that asks, the bare pass of a name as long, and what an answer looks like.
ASKS, UNASKED = "digest.test", "plain0.test"
CHALLENGE = 'Digest realm="bench", nonce="%s", algorithm=SHA-256, qop="auth"' % ("n" * 44)
ANSWER = r'Digest username="bench", realm="bench", .*, qop=auth, nc=\w{8}, .*, response="\w{64}"'
MIB = 1024 * 1024
SMALL, LARGE = 64 * 1024, 100 * MIB
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
UPLOADERS = 4
# What an SDK with worthless keys sends; the date is as old as one likes.
WORTHLESS = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential=AKIDWORTHLESS/20260101/{REGION}/s3/aws4_request, "
    f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}",
    "X-Amz-Date": "20260101T000000Z",
}
ROUTES = [
    {"prefix": "/h", "upstream": "http://origin.test", "credential": "key", "allow_cleartext": True},
    {"prefix": "/s", "upstream": "https://origin.test", "credential": "key"},
]
MANY, FEW = 10_000, 10
SECTIONS = {
    "a": "against nginx",
    "b": "CONNECT against mitmproxy",
    "c": "oauth2 against api_key",
    "d": "a credential against the bare pass",
    "e": "many bindings against few",
    "f": "cold callers",
    "g": "SigV4 against the bare pass",
    "h": "another signing proxy (--peer)",
    "i": "Oracle's signatures against the bare pass and against the signature alone",
    "j": "digest against the bare pass",
    "k": "100,000 stored credentials against 10",
    "l": "policy inspect against grep -c",
}


class Skip(Exception):
    """Why a section cannot be measured here."""


class Failed(Exception):
    """Something that should work did not; and what it wrote itself, where that helps."""

    def __init__(self, why, output=()):
        super().__init__(why)
        self.output = output


class Stalled(Exception):
    """The machine stood still for a whole run; its round counts for nothing."""


# --- processes -------------------------------------------------------------------------------------------------------


class Process:
    """A child in a process group of its own, so that its workers are counted and ended with it."""

    def __init__(self, bench, name, command, env=None):
        self.name = name
        # A folder of their own: Countersign watches the folders of the files that it reads; a log growing there costs.
        self.log = bench.dir / "logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                cwd=bench.dir,
                env=os.environ | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pids(self):
        """The whole group: nginx works in the children of its master."""
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.child.pid:
                    # Its own, and that of children that ended.
                    yield int(stat.parent.name), sum(map(int, fields[11:15])) * TICK_NS

    def processor(self):
        """Processor time so far: nanoseconds by thread, and by process in clock ticks."""
        threads, ticks = {}, {}
        for pid, total in self.pids():
            ticks[pid] = total
            for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    threads[pid, path.parent.name] = int(path.read_text().split()[0])
        return threads, ticks

    @staticmethod
    def spent(before, after):
        """Nanoseconds between two calls of `processor`. The scheduler counts threads exactly but forgets those that
        end, also one for each connection that came and went in between; then the process's own ticks, which keep them,
        are the better figure."""
        exact, ticks = (sum(after[index].values()) - sum(before[index].values()) for index in (0, 1))
        whole = before[0] and before[0].keys() <= after[0].keys() and ticks - exact < 2 * TICK_NS * len(after[1])
        return exact if whole else ticks

    def peak(self):
        """The most memory that was resident so far, in bytes."""
        pages = (pathlib.Path(f"/proc/{pid}/status").read_text() for pid, _ in self.pids())
        return sum(int(re.search(r"^VmHWM:\s+(\d+) kB$", page, re.M)[1]) * 1024 for page in pages)

    def ready(self, port, patience):
        """Waits until the port answers, so many seconds."""
        for _ in range(patience * 20):
            if self.child.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return self
            time.sleep(0.05)
        tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        raise Failed(f"{self.name} did not start: {' / '.join(tail)}")

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@dataclasses.dataclass
class Target:
    """One side: where wrk connects, what it writes as request targets, whose processor time counts."""

    name: str
    process: Process
    port: int
    url: str
    prefixes: list
    # A pattern of what the origin should see: `Authorization`, and after a space `x-amz-content-sha256`.
    expect: str = f"Bearer {KEY}"
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b""

    def uris(self, path):
        return [f"{prefix}/{path}" for prefix in self.prefixes]

    @contextlib.contextmanager
    def connected(self, uri):
        """A connection for requests outside wrk: a function that sends one and returns its answer."""
        host = re.match(r"https?://([^/]+)", uri if "://" in uri else self.url)[1]
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        if self.url.startswith("https:"):
            context = ssl._create_unverified_context()
            plain = context.wrap_socket(plain, server_hostname=host)
        connection = http.client.HTTPConnection(host)
        connection.sock = plain

        def send():
            method = "PUT" if self.body else "GET"
            connection.request(method, uri, self.body or None, {"Host": host} | self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

        with contextlib.closing(connection):
            yield send

    def fetch(self, uri):
        """One request outside the measurement."""
        with self.connected(uri) as send:
            return send()

    def put(self, send, uri):
        """Sends the body, which must arrive whole and covered as it should be."""
        status, body = send()
        seen, _, length = body.decode(errors="replace").partition("|")
        if status != 200 or not re.fullmatch(self.expect, seen.strip()) or int(length) < len(self.body):
            raise Failed(f"{self.name}: PUT {uri} got {status}, the origin saw {body[:300]!r}")

    def check(self):
        """Every request target gets the right answer, with the credential that it should have and no other."""
        if self.body:
            for uri in self.uris("put"):
                with self.connected(uri) as send:
                    self.put(send, uri)
            return None
        for echo, uri in zip(self.uris("echo"), self.uris("1k"), strict=True):
            status, body = self.fetch(echo)
            seen, _, cipher = body.decode(errors="replace").partition("|")
            if status != 200 or not re.fullmatch(self.expect, seen.strip()):
                raise Failed(f"{self.name}: {echo} got {status}, the origin saw {seen[:200]!r}")
            status, body = self.fetch(uri)
            if status != 200 or len(body) != SIZES["1k"]:
                raise Failed(f"{self.name}: {uri} got {status}, {len(body)} bytes")
        return cipher


class TokenEndpoint:
    """Answers client_credentials requests and counts them; slow enough for a burst to be there before the answer."""

    def __init__(self, delay):
        endpoint = self
        self.delay, self.count, self.lock = delay, 0, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with endpoint.lock:
                    endpoint.count += 1
                time.sleep(endpoint.delay)
                body = json.dumps({"access_token": "bench-token", "token_type": "Bearer", "expires_in": 3600}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 4096

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


# --- the bench -------------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options, directory):
        self.dir = directory
        self.rounds, self.seconds, self.peer = options.rounds, options.seconds, options.peer
        self.binary = os.environ["COUNTERSIGN_BIN"]
        self.deadline = time.monotonic() + options.limit
        self.processes, self.lines, self.runs, self.notes = [], [], [], []
        self.origin()

    # Parts.

    def start(self, name, command, port, env=None, patience=30):
        process = Process(self, name, command, env)
        self.processes.append(process)
        return process.ready(port, patience)

    def stop(self, *processes):
        for process in processes:
            process.stop()
            self.processes.remove(process)

    def nginx(self, name, port, workers, http_section):
        """An nginx of our own in the foreground, all its files below our directory."""
        home = self.dir / name
        home.mkdir(exist_ok=True)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"  {kind}_temp_path {home}/{kind};" for kind in kinds)
        # Workers that give up root could not read our directory.
        user = "user root;" if os.geteuid() == 0 else ""
        (home / "nginx.conf").write_text(f"""\
{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {home}/pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
{paths}
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
{http_section}
}}
""")
        return self.start(name, ["nginx", "-p", home, "-e", "stderr", "-c", home / "nginx.conf"], port)

    def origin(self):
        """What every proxy stands in front of: static answers, HTTP/1.1 only, and an echo of the credential sent."""
        www = self.dir / "www"
        www.mkdir()
        for name, size in SIZES.items():
            (www / name).write_bytes(os.urandom(size))
        (www / "put").touch()
        self.certificate, key = self.dir / "origin.pem", self.dir / "origin.key"
        # Its own root, yet no CA: a verifier may refuse a server that shows a CA's certificate.
        request = self.dir / "origin.conf"
        request.write_text(
            "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n[name]\nCN = origin.test\n"
            "[extensions]\nbasicConstraints = critical, CA:FALSE\n"
            f"subjectAltName = DNS:origin.test, DNS:bound.test, DNS:{SIGNED}, DNS:{BARE}\n"
        )
        subprocess.run(
            ["openssl", "req", "-x509", "-config", request, "-days", "2", "-keyout", key, "-out", self.certificate,
             "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.http, self.https = free_port(), free_port()
        self.nginx("origin", self.http, 1, f"""\
  access_log off;
  sendfile on;
  open_file_cache max=10 inactive=1h;
  ssl_protocols TLSv1.3;
  ssl_certificate {self.certificate};
  ssl_certificate_key {key};
  client_max_body_size 0;
  client_body_buffer_size 128k;
  server {{
    listen 127.0.0.1:{self.http} backlog=4096;
    listen 127.0.0.1:{self.https} ssl backlog=4096;
    root {www};
    location = /echo {{ return 200 "$http_authorization $http_x_amz_content_sha256|$ssl_protocol $ssl_cipher"; }}
    # A body is read to its end before the answer: by the mirror, since nothing else here looks at it.
    location = /put {{ mirror /mirror; error_page 405 =200 @taken; }}
    location = /mirror {{ internal; return 204; }}
    location @taken {{ return 200 "$http_authorization $http_x_amz_content_sha256|$request_length"; }}
    location /p/ {{ rewrite ^/p/[0-9]+(/.*)$ $1 last; }}
  }}
  server {{
    listen 127.0.0.1:{self.http};
    server_name {ASKS};
    root {www};
    add_header WWW-Authenticate '{CHALLENGE}' always;
    if ($http_authorization = "") {{ return 401; }}
    location = /echo {{ return 200 "$http_authorization|"; }}
  }}""")  # fmt: skip

    def rival(self, logs):
        """nginx as it would be set up to add a key: both upstreams verified and kept alive, no answer put on disk."""
        name, port = f"nginx-logs-{logs}", free_port()
        headers = f"""proxy_set_header Authorization "Bearer {KEY}"; proxy_set_header Host origin.test;"""
        common = f"""{headers} proxy_set_header Connection "";"""
        kept = "keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h;"
        process = self.nginx(name, port, 2, f"""\
  access_log {f"{self.dir}/logs/{name}-access.log" if logs == "on" else "off"};
  proxy_http_version 1.1;
  proxy_max_temp_file_size 0;
  proxy_ssl_protocols TLSv1.3;
  proxy_ssl_server_name on;
  proxy_ssl_name origin.test;
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate {self.certificate};
  proxy_ssl_session_reuse on;
  upstream plain {{ server 127.0.0.1:{self.http}; {kept} }}
  upstream secure {{ server 127.0.0.1:{self.https}; {kept} }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /h/ {{ proxy_pass http://plain/; {common} }}
    location /s/ {{ proxy_pass https://secure/; {common} }}
  }}""")  # fmt: skip
        return process, port

    def countersign(self, name, *, hosts=("bound.test",), routes=(), logs="off", **more):
        """Countersign with api_key bindings; returns it with the ports of its forward and its reverse listener."""
        forward, reverse = free_port(), free_port()
        names = {*hosts, *more.pop("names", ()), "origin.test"}
        keys = [{"id": "key", "scheme": "api_key", "key": {"env": "BENCH_KEY"}, "hosts": [*hosts, "origin.test"]}]
        config = {
            "listeners": {"forward": [{"address": f"127.0.0.1:{forward}"}]},
            "credentials": keys,
            "bindings": [{"credential": "key", "hosts": list(hosts), "allow_cleartext": True}],
            "log": {"requests": logs == "on", "level": "info" if logs == "on" else "warn"},
            "ca": {"directory": str(self.dir / f"{name}-ca")},
            "upstream": {
                "allow_addresses": ["127.0.0.0/8"],
                "ca_file": str(self.certificate),
                "resolve": {f"{host}:80": f"127.0.0.1:{self.http}" for host in names}
                | {f"{host}:443": f"127.0.0.1:{self.https}" for host in names},
            },
        }
        if routes:
            config["listeners"]["reverse"] = [{
                "address": f"127.0.0.1:{reverse}", "server_names": [SIGNED], "routes": list(routes),
            }]  # fmt: skip
        config["upstream"]["resolve"] |= more.pop("resolve", {})
        for section in ("credentials", "bindings"):
            config[section] = more.pop(f"only_{section}", config[section] + more.pop(section, []))
        config |= more
        path = self.dir / f"{name}.yaml"
        path.write_text(json.dumps(config, indent=1))  # JSON is YAML
        env = {"BENCH_KEY": KEY}
        checked = subprocess.run(
            [self.binary, "check", "--config", path], env=os.environ | env, cwd=self.dir, capture_output=True, text=True
        )
        if checked.returncode != 0:
            why = (checked.stderr + checked.stdout).strip().partition("\n")[0].rpartition(".yaml: ")[2]
            raise (Skip if "unknown scheme" in why else Failed)(f"countersign check says: {why}")
        began = time.monotonic()
        process = self.start(name, [self.binary, "serve", "--config", path], forward, env)
        self.runs.append({"started": name, "seconds": time.monotonic() - began})
        return process, forward, reverse

    # Measuring.

    def load(self, target, size, seconds, rate=None):
        """One run of wrk and what the proxy spent on it."""
        connections = CONNECTIONS[size]
        env = {"BENCH_DIAL": str(target.port), "BENCH_URIS": " ".join(target.uris(size))}
        env["BENCH_HEADERS"] = "\n".join(f"{name}: {value}" for name, value in target.headers.items())
        env["BENCH_BODY"] = str(len(target.body))
        if rate:
            # Every connection sends once in about 20 ms, which wrk's timers of whole milliseconds can still spread.
            connections = max(8, min(256, round(rate / 50)))
            env["BENCH_DELAY"] = str(1000 * connections / rate)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua"]
        command.append(target.url)
        before = target.process.processor()
        done = subprocess.run(
            [str(part) for part in command], env=os.environ | env, capture_output=True, text=True, timeout=seconds + 60
        )
        after = target.process.processor()
        found = re.search(r"^bench (\{.*\})$", done.stdout, re.M)
        if not found:
            raise Failed(f"wrk against {target.name}: {(done.stderr or done.stdout).strip()[-300:]}")
        run = json.loads(found[1])
        wrong = {what: run[what] for what in ("refused", "broken", "timeouts") if run[what]}
        if wrong:
            self.notes.append(f"{target.name}, {size}: {wrong} beside {run['requests']} requests")
            if sum(wrong.values()) > run["requests"] / 100:
                raise Failed(self.notes[-1])
        if not run["requests"]:
            raise Stalled(f"{target.name} answered nothing for {seconds} s")
        run["cpu_us"] = Process.spent(before, after) / 1000 / run["requests"]
        run["rate"] = run["requests"] / run["duration_us"] * 1e6
        return run

    def uploads(self, target, count):
        """So many bodies one after the other on one connection, and what the proxy spent on each."""
        uri = target.uris("put")[0]
        before, began = target.process.processor(), time.monotonic()
        with target.connected(uri) as send:
            for _ in range(count):
                target.put(send, uri)
        took, spent = time.monotonic() - began, Process.spent(before, target.process.processor())
        return {"requests": count, "cpu_us": spent / 1000 / count, "rate": count * len(target.body) / took}

    def alternate(self, label, targets, size="1k", rate=None, seconds=None, uploads=None):
        """Runs the targets in turns, under wrk or with so many uploads; answers the runs of each."""
        seconds = seconds or self.seconds
        for target in targets:
            target.check()
        if not rate and not uploads and self.rounds > 2:
            for target in targets:
                with contextlib.suppress(Stalled):
                    self.load(target, size, 1)  # warm: pools filled, pages touched
        runs = [[] for _ in targets]
        for number in range(self.rounds):
            if number and time.monotonic() > self.deadline:
                self.notes.append(f"{label}: {number} of {self.rounds} rounds, the time was up")
                break
            try:
                if uploads:
                    turns = [self.uploads(target, uploads) for target in targets]
                else:
                    turns = [self.load(target, size, seconds, rate) for target in targets]
            except Stalled as why:
                self.notes.append(f"{label}: round {number} left out, {why}")
                continue
            for target, mine, run in zip(targets, runs, turns, strict=True):
                mine.append(run)
                about = {"what": label, "target": target.name, "round": number, "size": size, "asked_rate": rate}
                self.runs.append(about | run)
        if not runs[0]:
            raise Failed(f"{label}: no round could be measured")
        return runs

    def ratio(self, section, what, key, over, under, unit, target=None, scale=1):
        """One line: the median of the ratios of each round."""
        ratios = [a[key] / max(b[key], 1e-9) for a, b in zip(over, under, strict=True)]
        value = statistics.median(ratios)
        medians = [statistics.median(run[key] for run in side) * scale for side in (over, under)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        absolute = f"{figure(medians[0])} / {figure(medians[1])} {unit}"
        self.line(section, what, f"{value:.2f}", spread, target, value, absolute)

    def count(self, section, what, value, wanted):
        self.line(section, what, f"{value:,}", "", ("=", wanted), value)

    def line(self, section, what, shown, spread="", target=None, value=None, absolute=""):
        asked = verdict = ""
        if target:
            asked = " ".join(map(str, target))
            met = {"<=": value <= target[1], ">=": value >= target[1], "=": value == target[1]}[target[0]]
            verdict = "met" if met else "NOT MET"
        self.lines.append({
            "section": section, "what": what, "value": value, "shown": shown, "spread": spread, "target": asked,
            "verdict": verdict, "medians": absolute,
        })  # fmt: skip
        print(TABLE.format(section, what, shown, spread, asked, verdict, absolute).rstrip(), flush=True)


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# --- the sections ----------------------------------------------------------------------------------------------------


def section_a(bench):
    sides = {}
    for logs in ("off", "on"):
        nginx, port = bench.rival(logs)
        ours, forward, reverse = bench.countersign(f"countersign-logs-{logs}", routes=ROUTES, logs=logs)
        for scheme, prefix in (("http", "/h"), ("https", "/s")):
            sides[logs, scheme] = [
                Target(nginx.name, nginx, port, f"http://127.0.0.1:{port}", [prefix]),
                Target(ours.name, ours, reverse, f"http://127.0.0.1:{reverse}", [prefix]),
            ]
        sides[logs, "forward"] = forward_target(ours, forward, "bound.test", f"Bearer {KEY}")
    ciphers = {target.check() for target in sides["off", "https"]}
    if len(ciphers) > 1:
        bench.notes.append(f"a: the sides agreed with the origin on different ciphers: {', '.join(sorted(ciphers))}")

    cases = ["off http 1k", "on http 1k", "off http 1m", "off https 1k", "off https 1m"]
    for logs, scheme, size in map(str.split, cases):
        targets = list(sides[logs, scheme])
        plain = (logs, scheme, size) == ("off", "http", "1k")
        if plain:
            targets.append(sides["off", "forward"])
        label = f"{size[0]} {'kB' if size == '1k' else 'MB'}, {scheme}, logs {logs}"
        nginx, ours, *forward = bench.alternate(f"a {label}", targets, size)
        bench.ratio("a", f"{label}: processor time / nginx", "cpu_us", ours, nginx, "us", ("<=", 1.5, "aim 1"))
        bench.ratio("a", f"{label}: throughput / nginx", "rate", ours, nginx, "per s")
        for runs in forward:
            bench.ratio("a", f"{label}, forward listener: processor time / nginx", "cpu_us", runs, nginx, "us")
            bench.ratio("a", f"{label}, forward listener: throughput / nginx", "rate", runs, nginx, "per s")
        if logs == "on":
            continue
        rate = 0.3 * statistics.median(run["rate"] for run in nginx)
        nginx, ours = bench.alternate(f"a {label} at a fixed rate", targets[:2], size, rate, max(1, bench.seconds // 2))
        label += f" at {figure(rate)}/s"
        bench.ratio("a", f"{label}: p50 / nginx", "p50_us", ours, nginx, "us")
        bench.ratio("a", f"{label}: p99 / nginx", "p99_us", ours, nginx, "us")
        bench.ratio("a", f"{label}: processor time / nginx", "cpu_us", ours, nginx, "us")


def section_b(bench):
    mitmdump = mitmproxy()
    addon = bench.dir / "addon.py"
    addon.write_text(f'def request(flow):\n    flow.request.headers["authorization"] = "Bearer {KEY}"\n')
    port = free_port()
    mitm = bench.start("mitmproxy", [
        mitmdump, "-q", "--listen-host", "127.0.0.1", "--listen-port", port, "--set", f"confdir={bench.dir}/mitmproxy",
        "--set", f"ssl_verify_upstream_trusted_ca={bench.certificate}", "-s", addon,
    ], port)  # fmt: skip
    ours, forward, _ = bench.countersign("countersign-tunnel")

    def tunnel(process, proxy, destination):
        # wrk does not speak CONNECT: socat says it for each of wrk's connections and then copies bytes. It costs the
        # faster side more, so the ratio is a low estimate.
        relay = free_port()
        bench.start(f"relay-{process.name}", [
            "socat", "-b", "65536", f"TCP-LISTEN:{relay},bind=127.0.0.1,fork,backlog=256,nodelay",
            f"PROXY:127.0.0.1:{destination},proxyport={proxy},nodelay",
        ], relay)  # fmt: skip
        return Target(process.name, process, relay, "https://bound.test", [""])

    # mitmproxy has no `resolve`; it takes the name for TLS from the caller's SNI.
    targets = [tunnel(mitm, port, f"127.0.0.1:{bench.https}"), tunnel(ours, forward, "bound.test:443")]
    theirs, mine = bench.alternate("b 1 kB in a tunnel", targets)
    bench.ratio("b", "1 kB, intercepted: throughput / mitmproxy", "rate", mine, theirs, "per s", (">=", 20))
    bench.ratio("b", "1 kB, intercepted: processor time / mitmproxy", "cpu_us", mine, theirs, "us")


def oauth2(bench, name, endpoint):
    """Countersign with an oauth2 credential for token.test beside the api_key for bound.test."""
    credential = {
        "id": "token", "scheme": "oauth2", "grant_type": "client_credentials", "client_id": "bench",
        "client_secret": {"env": "BENCH_KEY"}, "hosts": ["token.test"],
        "token_url": f"http://idp.test:{endpoint.port}/token", "allow_cleartext": True,
    }  # fmt: skip
    return bench.countersign(
        name,
        names=["token.test"],
        credentials=[credential],
        bindings=[{"credential": "token", "allow_cleartext": True}],
        resolve={f"idp.test:{endpoint.port}": f"127.0.0.1:{endpoint.port}"},
    )


def forward_target(process, port, host, expect):
    return Target(f"{process.name} {host}", process, port, f"http://{host}", [f"http://{host}"], expect)


def section_c(bench):
    process, port, _ = oauth2(bench, "countersign-oauth2", TokenEndpoint(0.0))
    targets = [
        forward_target(process, port, "bound.test", f"Bearer {KEY}"),
        forward_target(process, port, "token.test", "Bearer bench-token"),
    ]
    key, token = bench.alternate("c", targets)
    bench.ratio("c", "oauth2, warm / api_key: processor time", "cpu_us", token, key, "us", ("<=", 1.05))


def section_d(bench):
    process, port, _ = bench.countersign("countersign-pass", names=["bare0.test"], unbound="pass")
    # Both names are equally long, and one process serves both.
    targets = [
        forward_target(process, port, "bare0.test", ""),
        forward_target(process, port, "bound.test", f"Bearer {KEY}"),
    ]
    bare, bound = bench.alternate("d", targets)
    bench.ratio("d", "api_key / the bare pass: processor time", "cpu_us", bound, bare, "us", ("<=", 1.10))


def section_e(bench):
    def credential(number, host):
        return {"id": f"key-{number:05}", "scheme": "api_key", "key": {"env": "BENCH_KEY"}, "hosts": [host]}

    def by_host(count):
        hosts = [f"host-{number:05}.test" for number in range(count)]
        return (
            [credential(number, host) for number, host in enumerate(hosts)],
            [{"credential": f"key-{number:05}", "allow_cleartext": True} for number in range(count)],
            [f"http://{host}" for host in hosts],
        )

    def by_path(count):
        return (
            [credential(number, "bound.test") for number in range(count)],
            [
                {"credential": f"key-{number:05}", "paths": [f"/p/{number:05}"], "allow_cleartext": True}
                for number in range(count)
            ],
            [f"http://bound.test/p/{number:05}" for number in range(count)],
        )

    def target(kind, make, count):
        credentials, bindings, prefixes = make(count)
        # Ten of them in turn on both sides, evenly spread: as many connections to the origin, and no place in a list
        # that happens to be cheap.
        prefixes = prefixes[count // FEW - 1 :: count // FEW]
        process, port, _ = bench.countersign(
            f"countersign-{count}-{kind}",
            names=[re.match("http://([^/]+)", prefix)[1] for prefix in prefixes],
            only_credentials=credentials,
            only_bindings=bindings,
        )
        return Target(process.name, process, port, "http://bound.test", prefixes)

    for kind, make, what in (("hosts", by_host, "hosts"), ("paths", by_path, "paths of one host")):
        targets = [target(kind, make, FEW), target(kind, make, MANY)]
        few, many = bench.alternate(f"e {kind}", targets)
        what = f"{MANY:,} bindings / {FEW}, on {what}: processor time"
        bench.ratio("e", what, "cpu_us", many, few, "us", ("<=", 1.05))
        bench.stop(*(target.process for target in targets))


def section_f(bench):
    def burst(target):
        before = target.process.processor()
        run = cold_callers(target.port, target.uris("1k")[0])
        run["cpu_us"] = Process.spent(before, target.process.processor()) / 1000 / CALLERS
        bench.runs.append({"what": "f", "target": target.name} | run)
        return run

    nginx, ours = [], []
    for _ in range(bench.rounds):
        # Cold means cold: every burst meets a process that has just started.
        process, port = bench.rival("off")
        nginx.append(burst(Target("nginx cold", process, port, f"http://127.0.0.1:{port}", ["/h"])))
        bench.stop(process)
        process, _, port = bench.countersign("countersign-cold", routes=ROUTES)
        ours.append(burst(Target("countersign cold", process, port, f"http://127.0.0.1:{port}", ["/h"])))
        bench.stop(process)
    what = f"{CALLERS:,} cold callers, api_key"
    bench.count("f", f"{what}: fewest that got 200", min(run["served"] for run in ours), CALLERS)
    bench.ratio("f", f"{what}: processor time / nginx", "cpu_us", ours, nginx, "us")
    bench.ratio("f", f"{what}: time until all are connected / nginx", "connected_s", ours, nginx, "ms", scale=1000)
    bench.ratio("f", f"{what}: time until all are answered / nginx", "answered_s", ours, nginx, "ms", scale=1000)

    exchanges, served = [], []
    for _ in range(bench.rounds):
        endpoint = TokenEndpoint(0.3)
        process, port, _ = oauth2(bench, "countersign-cold-oauth2", endpoint)
        target = forward_target(process, port, "token.test", "Bearer bench-token")
        served.append(burst(target)["served"])
        target.check()
        exchanges.append(endpoint.count)
        bench.stop(process)
        endpoint.server.shutdown()
    what = f"{CALLERS:,} cold callers, oauth2"
    bench.count("f", f"{what}: most token exchanges", max(exchanges), 1)
    bench.count("f", f"{what}: fewest that got 200", min(served), CALLERS)


def signing(bench, name, **more):
    """Countersign with AWS keys for the signed host, and the bare pass for the other one."""
    credential = {
        "id": "aws", "scheme": "aws", "access_key": ACCESS_KEY, "secret_key": {"env": "BENCH_KEY"}, "hosts": [SIGNED],
    }  # fmt: skip
    return bench.countersign(
        name,
        names=[SIGNED, BARE],
        credentials=[credential],
        bindings=[{"credential": "aws", "allow_cleartext": True}],
        unbound="pass",
        **more,
    )


def sides(process, port, protocol="http", headers=(), body=b"", covered=None):
    """The same request to the forward listener, for the bare pass and for the host that it is signed for."""
    headers = dict(headers)
    covered = covered or hashlib.sha256(body).hexdigest()
    passed = " ".join(headers[name] for name in ("Authorization", "X-Amz-Content-Sha256") if name in headers)
    return [
        Target(host, process, port, f"http://{host}", [f"{protocol}://{host}"], expect, headers, body)
        for host, expect in ((BARE, re.escape(passed)), (SIGNED, f"{SIGNATURE} {covered}"))
    ]


def aws_chunked(size):
    """A body as an SDK signs it chunk by chunk, here with worthless signatures; and its headers."""
    chunk = 128 * 1024
    piece = f"{chunk:x};chunk-signature={'0' * 64}\r\n".encode() + b"x" * chunk + b"\r\n"
    end = f"0;chunk-signature={'0' * 64}\r\n\r\n".encode()
    return piece * (size // chunk) + end, WORTHLESS | {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Content-Sha256": STREAMING,
        "X-Amz-Decoded-Content-Length": str(size),
    }


def streams(size):
    """What is asked of a large body: a name, and the arguments of `sides`."""
    body, headers = aws_chunked(size)
    yield "unsigned", {"protocol": "https", "body": b"x" * size, "covered": "UNSIGNED-PAYLOAD"}
    yield "signed again", {"protocol": "https", "headers": headers, "body": body, "covered": STREAMING}
    yield "hashed", {"protocol": "http", "body": b"x" * size}


def peak(bench, work, count):
    """The memory of a process that has just started, and its peak after so many uploads on each of some connections."""
    process, port, _ = signing(bench, "countersign-memory")
    _, target = sides(process, port, **work)
    run = {"before": process.peak()}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(bench.uploads, target, count) for _ in range(UPLOADERS)]:
            done.result()
    run["peak"] = process.peak()
    bench.stop(process)
    bench.runs.append({"what": "g memory", "bytes": len(target.body)} | run)
    return run


def section_g(bench):
    process, port, _ = signing(bench, "countersign-sigv4")
    bare, signed = bench.alternate("g 1 kB", sides(process, port))
    bench.ratio("g", "1 kB GET, sigv4 / the bare pass: processor time", "cpu_us", signed, bare, "us", ("<=", 1.6))
    bench.ratio("g", "1 kB GET, sigv4 / the bare pass: throughput", "rate", signed, bare, "per s")
    headers = WORTHLESS | {"X-Amz-Content-Sha256": hashlib.sha256().hexdigest()}
    bare, signed = bench.alternate("g 1 kB of an SDK", sides(process, port, headers=headers))
    what = "1 kB GET of an SDK, sigv4 / the bare pass: processor time"
    bench.ratio("g", what, "cpu_us", signed, bare, "us", ("<=", 1.6))
    # In cleartext S3's bodies are hashed.
    bare, signed = bench.alternate("g 64 kB", sides(process, port, body=b"x" * SMALL), "put")
    bench.ratio("g", "64 kB PUT, hashed / the bare pass: processor time", "cpu_us", signed, bare, "us")
    bench.ratio("g", "64 kB PUT, hashed / the bare pass: throughput", "rate", signed, bare, "per s")
    for how, work in itertools.islice(streams(LARGE), 2):
        what = f"100 MB PUT, https, {how} / the bare pass"
        bare, signed = bench.alternate(f"g {what}", sides(process, port, **work), uploads=3)
        bench.ratio("g", f"{what}: processor time", "cpu_us", signed, bare, "ms", scale=1e-3)
        bench.ratio("g", f"{what}: throughput", "rate", signed, bare, "MB/s", scale=1e-6)
    # As many bytes on as many connections, so that only the length of a body differs.
    for (how, large), (_, small) in zip(streams(LARGE), streams(MIB), strict=True):
        turns = [(peak(bench, large, 1), peak(bench, small, LARGE // MIB)) for _ in range(min(3, bench.rounds))]
        over, under = zip(*turns, strict=True)
        before = statistics.median(run["before"] for turn in turns for run in turn) / MIB
        what = f"{UPLOADERS} PUTs at once, {how}, 100 MB / 1 MB: peak memory"
        bench.ratio("g", what, "peak", over, under, f"MB, {before:.1f} before", ("<=", 1.5), scale=1 / MIB)


def section_h(bench):
    port = free_port()
    env = {
        "PORT": str(port),
        "UPSTREAM": f"127.0.0.1:{bench.http}",
        "UPSTREAM_HOST": SIGNED,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION": REGION,
    }
    route = {"prefix": "/", "upstream": f"http://{SIGNED}", "credential": "aws", "allow_cleartext": True}
    ours, _, reverse = signing(bench, "countersign-reverse", routes=[route])
    log = bench.dir / "logs" / "peer.log"
    try:
        peer = bench.start("peer", ["sh", "-c", bench.peer], port, env, patience=120)

        def turns(body=b""):
            covered = hashlib.sha256(body).hexdigest() + ("" if body else "|UNSIGNED-PAYLOAD")
            expect = f"{SIGNATURE} ({covered})"
            return [
                Target(process.name, process, at, f"http://{SIGNED}", [""], expect, body=body)
                for process, at in ((ours, reverse), (peer, port))
            ]

        for what, body, size in (("1 kB GET", b"", "1k"), ("64 kB PUT, hashed", b"x" * SMALL, "put")):
            mine, theirs = bench.alternate(f"h {what}", turns(body), size)
            bench.ratio("h", f"{what}, peer / countersign: processor time", "cpu_us", theirs, mine, "us")
            bench.ratio("h", f"{what}, peer / countersign: throughput", "rate", theirs, mine, "per s")
    except (Failed, OSError, http.client.HTTPException) as why:
        output = log.read_text(errors="replace").strip().splitlines()[-20:]
        raise Failed(why, output or ["(it wrote nothing)"]) from why


def section_i(bench):
    key = bench.dir / "oracle.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    public = subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-outform", "DER"], check=True, capture_output=True)
    digits = hashlib.md5(public.stdout, usedforsecurity=False).hexdigest()
    tenancy, user = "ocid1.tenancy.oc1..aaaabench", "ocid1.user.oc1..aaaabench"
    fingerprint = ":".join(digits[at : at + 2] for at in range(0, 32, 2))
    # Both names are equally long.
    signed, bare = "iaas.us-phoenix-1.oraclecloud.com", "bare.us-phoenix-1.origin-cld.test"
    assert len(signed) == len(bare)
    credential = {
        "id": "oracle", "scheme": "oracle", "tenancy_ocid": tenancy, "user_ocid": user, "fingerprint": fingerprint,
        "private_key": {"file": str(key)}, "hosts": [signed],
    }  # fmt: skip
    process, port, _ = bench.countersign(
        "countersign-oracle",
        names=[signed, bare],
        credentials=[credential],
        bindings=[{"credential": "oracle", "allow_cleartext": True}],
        unbound="pass",
    )
    line = (
        r'Signature algorithm="rsa-sha256",headers="date \(request-target\) host",'
        rf'keyId="{tenancy}/{user}/{fingerprint}",signature="[^"]*",version="1"'
    )
    targets = [forward_target(process, port, host, expect) for host, expect in ((bare, ""), (signed, line))]
    passed, made = bench.alternate("i 1 kB", targets)
    bench.ratio("i", "1 kB GET, oracle / the bare pass: processor time", "cpu_us", made, passed, "us")
    bench.ratio("i", "1 kB GET, oracle / the bare pass: throughput", "rate", made, passed, "per s")
    if not shutil.which("cargo"):
        raise Skip("cargo is not here, which runs benches/hot_path.rs")
    over, under = [], []
    for _ in range(bench.rounds):
        own, alone = piecewise()
        over.append({"cpu_us": own})
        under.append({"cpu_us": alone})
        bench.runs.append({"what": "i piecewise", "authorize": own, "alone": alone})
    what = "authorize of oracle / the RSA signature alone: time"
    bench.ratio("i", what, "cpu_us", over, under, "us", ("<=", 1.2))


def piecewise():
    """The medians of `authorize` with Oracle's key and of the library's signature, in microseconds, by benches/hot_path.rs."""
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "hot_path", "--", "authorize", "rsa_signature"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    units = {"ns": 1e-3, "µs": 1, "ms": 1e3}
    found = []
    for name in ("oracle", "rsa_signature"):
        # fastest, slowest and median stand in columns behind the name.
        columns = re.search(rf"{name}\s+[\d.]+ \S+\s+│ [\d.]+ \S+\s+│ ([\d.]+) (\S+)", done.stdout)
        if not columns:
            raise Failed(f"benches/hot_path.rs: {(done.stderr or done.stdout).strip()[-300:]}")
        found.append(float(columns[1]) * units[columns[2]])
    return found


def section_j(bench):
    credential = {
        "id": "digest", "scheme": "digest", "username": "bench", "password": {"env": "BENCH_KEY"}, "hosts": [ASKS],
    }  # fmt: skip
    process, port, _ = bench.countersign(
        "countersign-digest",
        names=[ASKS, UNASKED],
        credentials=[credential],
        bindings=[{"credential": "digest", "allow_cleartext": True}],
        unbound="pass",
    )
    targets = [forward_target(process, port, UNASKED, ""), forward_target(process, port, ASKS, ANSWER)]
    bare, digest = bench.alternate("j 1 kB", targets)
    what = "1 kB GET, digest after one challenge / the bare pass: "
    bench.ratio("j", what + "processor time", "cpu_us", digest, bare, "us", ("<=", 1.3))
    bench.ratio("j", what + "throughput", "rate", digest, bare, "per s")


STORED = 100_000


def stored(bench, name, count):
    """Countersign with so many credentials in its store, of which ten are bound, started on a database that has them."""
    home = bench.dir / name
    home.mkdir()
    admin = free_port()
    more = {
        "names": [BARE],
        "only_credentials": [],
        "only_bindings": [],
        "admin": {"address": f"127.0.0.1:{admin}"},
        "store": {"url": f"sqlite:{home}/store.db"},
        "audit": {"directory": str(home / "audit")},
        "unbound": "pass",
    }
    first, _, _ = bench.countersign(f"{name}-first", **more)
    tokens = [path for path in (home, bench.dir / "state") for path in path.glob("admin-token")]
    token = tokens[0].read_text().strip()

    def call(method, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{admin}/v1/accounts/default{path}", json.dumps(body).encode(), method=method,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=10).close()

    for index in range(FEW):
        key = {"id": f"c{index}", "name": f"c{index}", "scheme": "api_key", "hosts": ["bound.test"], "settings": {"key": KEY}}
        call("POST", "/credentials", key)
        only = {"credential": f"c{index}", "hosts": ["bound.test"], "allowCleartext": True, "onlyNamed": index > 0}
        call("PUT", f"/bindings/c{index}", only)
    bench.stop(first)
    with contextlib.closing(sqlite3.connect(home / "store.db")) as database:
        # As many more as are wanted, each with a version and a secret of its own that nobody opens here.
        for table in ("credentials", "credential_versions", "secrets"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            chosen = ", ".join("'x' || n.value" if column == "id" else f"t.{column}" for column in columns)
            database.execute(
                f"WITH RECURSIVE n(value) AS (SELECT {FEW} UNION ALL SELECT value + 1 FROM n WHERE value < {count - 1}) "
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM {table} t, n "
                f"WHERE t.id = 'c1' AND {count} > {FEW}"
            )  # fmt: skip
        database.commit()
        found = database.execute("SELECT count(*) FROM credentials").fetchone()[0]
    bench.count("k", f"{name}: credentials in the store", found, count)
    return more


def section_k(bench):
    few, many = stored(bench, "store-few", FEW), stored(bench, "store-many", STORED)
    starts = {"few": [], "many": []}
    for number in range(max(bench.rounds, 5)):
        for kind, more in (("few", few), ("many", many)):
            process, _, _ = bench.countersign(f"store-{kind}-start{number}", **json.loads(json.dumps(more)))
            starts[kind].append({"seconds": bench.runs[-1]["seconds"], "cpu_us": Process.spent(({}, {}), process.processor()) / 1000})
            bench.stop(process)
    for key, what, scale in (("seconds", "time", 1000), ("cpu_us", "processor time", 0.001)):
        bench.ratio("k", f"start-up with {STORED:,} / {FEW}: {what}", key, starts["many"], starts["few"], "ms", ("<=", 2), scale)
    targets = []
    for kind, more in (("few", few), ("many", many)):
        process, port, _ = bench.countersign(f"store-{kind}-run", **json.loads(json.dumps(more)))
        targets.append(forward_target(process, port, "bound.test", f"Bearer {KEY}|"))
    side_few, side_many = bench.alternate("k 1 kB", targets)
    what = f"1 kB GET with {STORED:,} / {FEW} stored credentials: "
    bench.ratio("k", what + "processor time", "cpu_us", side_many, side_few, "us", ("<=", 1.05))
    bench.ratio("k", what + "throughput", "rate", side_many, side_few, "per s")


TEMPLATES, TEMPLATE_SIZE = 600, 45_000
# What most of a template is: a script that asks nobody.
WORK = """
script "js_work_%(number)d", type: "javascript" do
  parameters "ds_things", "param_tags"
  result "result"
  code <<-EOS
  comparators = _.map(param_tags, function(item) {
    // Of a key without a value, every value is meant
    if (item.indexOf('==') != -1) {
      return { comparison: '==', key: item.split('==')[0], value: item.split('==')[1], string: item }
    }
    if (item.indexOf('=~') != -1) {
      value = item.split('=~')[1]
      return { comparison: '=~', key: item.split('=~')[0], value: new RegExp(value.slice(1, value.length - 1)), string: item }
    }
    return { comparison: 'key', key: item, value: null, string: item }
  })
  if (param_tags.length > 0) {
    result = _.reject(ds_things, function(resource) {
      resource_tags = {}
      _.each(resource['tags'], function(tag) {
        resource_tags[tag['key']] = tag['value']
      })
      found = _.filter(comparators, function(comparator) {
        return comparator['comparison'] == 'key' && resource_tags[comparator['key']] != undefined
      })
      return found.length > 0
    })
  } else {
    result = ds_things
  }
  message = ["The above settings can be changed by editing the applied policy and ", "its parameters."].join('')
EOS
end
"""


def templates(directory):
    """A folder of templates, the same every time: one with all its blocks, then others' requests and scripts."""
    folder = ROOT / "tests" / "policies"
    whole = [(folder / name).read_text() for name in ("aws_snapshots.pt", "requests.pt", "workflows.pt")]
    parts = [
        part
        for text in whole
        for part in re.findall(r"^(?:parameter|datasource|script|policy|define) .*?^end$", text, re.DOTALL | re.MULTILINE)
    ]
    directory.mkdir()
    for number in range(TEMPLATES):
        text, count = whole[number % len(whole)], number
        while len(text) < TEMPLATE_SIZE:
            text += f"\n{parts[count % len(parts)]}\n" + WORK % {"number": count}
            count += 1
        (directory / f"{number:03}.pt").write_text(text)
    return sorted(directory.iterdir())


def one_core(*command):
    """What a command took on one core: the time, and the time of the processor."""
    core = str(min(os.sched_getaffinity(0)))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(
            ["taskset", "-c", core, *command], stdout=out, stderr=subprocess.PIPE, check=False, env=os.environ | {"LC_ALL": "C"}
        )
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise Failed(f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-300:]}")
        out.seek(0)
        answer = out.read()
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "spent": spent}, answer


def section_l(bench):
    inspect = (bench.binary, "policy", "inspect", "--json")
    help_text = subprocess.run([*inspect[:2], "--help"], capture_output=True, text=True, check=False).stdout
    if "inspect" not in help_text:
        raise Skip("this binary does not know policies")
    files = templates(bench.dir / "templates")
    size = sum(path.stat().st_size for path in files)
    ours, theirs = [], []
    for _ in range(max(bench.rounds, 5) * 2):
        counted, _ = one_core("grep", "-c", "credentials", *map(str, files))
        read, answer = one_core(*inspect, str(files[0].parent))
        ours.append(read)
        theirs.append(counted)
        bench.runs += [{"what": "l grep -c"} | counted, {"what": "l inspect"} | read]
    report = json.loads(answer)
    bench.count("l", "templates read, all with their blocks", sum(bool(one["credentials"]) for one in report), TEMPLATES)
    for key, what in (("seconds", "time"), ("spent", "processor time")):
        asked = f"{TEMPLATES} templates, {size / 1e6:.0f} MB: policy inspect --json / grep -c: {what}"
        bench.ratio("l", asked, key, ours, theirs, "ms", ("<=", 10), 1000)
    large = bench.dir / "large.pt"
    large.write_text("".join(path.read_text() for path in files)[: 10 * 1000 * 1000])
    seconds = statistics.median(one_core(*inspect, str(large))[0]["seconds"] for _ in range(5))
    bench.line("l", "one template of 10 MB: seconds", f"{seconds:.2f}", "", ("<=", 1), seconds)


def cold_callers(port, uri):
    """So many connections at once, then one request on each at once. Answers how many got a whole 200, and the seconds
    until all were connected and until all were answered."""
    host = uri.split("/")[2] if "://" in uri else f"127.0.0.1:{port}"
    request = f"GET {uri} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    began = time.monotonic()
    end = began + 30
    answers = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(CALLERS):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
            answers[caller] = b""
            selector.register(caller, selectors.EVENT_WRITE)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(1):
                selector.unregister(key.fileobj)
        connected = time.monotonic() - began
        for caller in answers:
            with contextlib.suppress(OSError):  # counted below, as a caller without an answer
                caller.sendall(request)
            with contextlib.suppress(KeyError):
                selector.unregister(caller)
            selector.register(caller, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(1):
                piece = b""
                with contextlib.suppress(OSError):
                    piece = key.fileobj.recv(65536)
                answers[key.fileobj] += piece
                if not piece:
                    selector.unregister(key.fileobj)
        answered = time.monotonic() - began
    served = 0
    for caller, answer in answers.items():
        caller.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        served += head.startswith(b"HTTP/1.1 200 ") and len(body) == SIZES["1k"]
    return {"served": served, "connected_s": connected, "answered_s": answered}


def mitmproxy():
    """mitmdump from a venv of ours, made on first use."""
    venv = ROOT / "target" / "bench" / "venv"
    command, stamp, wanted = venv / "bin" / "mitmdump", venv / "requirements.txt", HERE / "requirements.txt"
    if command.exists() and stamp.exists() and stamp.read_text() == wanted.read_text():
        return command
    print("installing mitmproxy into target/bench/venv", file=sys.stderr)
    shutil.rmtree(venv, ignore_errors=True)
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    for step in (
        [sys.executable, "-m", "venv", venv],
        [*pip, "--only-binary=:all:", "--no-deps", "-r", wanted],
        [command, "--version"],
    ):
        done = subprocess.run([str(part) for part in step], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise Skip(f"mitmproxy cannot be installed: {' '.join((done.stderr or done.stdout).split())[-200:]}")
    shutil.copy(wanted, stamp)
    return command


# --- the run ---------------------------------------------------------------------------------------------------------


def first_line(*command):
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    except OSError:
        return "absent"
    return ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]


def machine():
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": os.getloadavg()[0],
    }


def versions(binary, chosen):
    mitm = ROOT / "target" / "bench" / "venv" / "bin" / "mitmdump"
    return {
        "countersign": first_line(binary, "--version").removeprefix("countersign "),
        "nginx": first_line("nginx", "-v").rpartition("/")[2],
        "wrk": (first_line("wrk", "-v").split() or ["?", "?"])[1],
        "mitmproxy": first_line(mitm, "--version").removeprefix("Mitmproxy: ") if "b" in chosen else "not used",
    }


def main():
    parser = argparse.ArgumentParser(prog="bench/run", description="Ratios of Countersign to others and to itself.")
    parser.add_argument("--quick", action="store_true", help="two rounds of one second each: about a minute, rough")
    parser.add_argument("--only", metavar="a,c", help="; ".join(f"{key}: {what}" for key, what in SECTIONS.items()))
    parser.add_argument("--rounds", type=int, help="turns of each pair (5)")
    parser.add_argument("--seconds", type=int, help="length of a run of wrk (2)")
    parser.add_argument("--limit", type=int, default=480, help="seconds after which no further round is begun (480)")
    parser.add_argument("--peer", metavar="COMMAND", help="another signing proxy for section h (README.md)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write every raw figure there")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2)
    everything = [key for key in SECTIONS if key != "h" or options.peer]
    chosen = [part.strip() for part in options.only.split(",")] if options.only else everything
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if ("h" in chosen) != bool(options.peer):
        parser.error("section h and --peer go together")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    signal.alarm(options.limit + 240)  # whatever hangs
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    with tempfile.TemporaryDirectory(prefix="countersign-bench-") as directory:
        bench = None
        status = 0
        try:
            if "b" in chosen:
                with contextlib.suppress(Skip):
                    mitmproxy()
            here, there = machine(), versions(os.environ["COUNTERSIGN_BIN"], chosen)
            print(f"machine   {here['processor']}, {here['cores']} cores, {here['kernel']}, load {here['load']:.2f}")
            print("versions  " + ", ".join(f"{name} {version}" for name, version in there.items()))
            print(f"method    {options.rounds} rounds of {options.seconds} s, in turns; median and spread of their ratios\n")
            print(TABLE.format("", "what", "ratio", "spread", "target", "", "medians here"))
            bench = Bench(options, pathlib.Path(directory))
            for section in chosen:
                if time.monotonic() > bench.deadline:
                    bench.line(section, f"skipped: the time was up ({SECTIONS[section]})", "-")
                    continue
                kept = list(bench.processes)
                try:
                    globals()[f"section_{section}"](bench)
                except Skip as why:
                    bench.line(section, f"skipped: {why}", "-")
                except (Failed, http.client.HTTPException, subprocess.SubprocessError, OSError) as why:
                    status = 1
                    bench.line(section, f"failed: {why}", "-")
                    for line in getattr(why, "output", ()):
                        print(f"   | {line}")
                bench.stop(*(process for process in list(bench.processes) if process not in kept))
            for note in bench.notes:
                print(f"note: {note}")
            print(f"load at the end {os.getloadavg()[0]:.2f}")
            if options.json:
                raw = {"machine": here, "versions": there, "lines": bench.lines, "notes": bench.notes}
                options.json.write_text(json.dumps(raw | {"runs": bench.runs}, indent=1) + "\n")
        finally:
            # No second signal may interrupt this.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            for process in bench.processes if bench else []:
                process.stop()
    return status


if __name__ == "__main__":
    sys.exit(main())
