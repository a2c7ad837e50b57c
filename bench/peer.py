"""A stand-in for `bench/run --peer`: about the smallest proxy that signs with Signature Version 4, to try the option
where there is no other. README.md beside it lists the environment that it reads. Its figures tell of Python only.
"""

import datetime
import hashlib
import hmac
import http.client
import http.server
import os
import threading

UPSTREAM, HOST = os.environ["UPSTREAM"], os.environ["UPSTREAM_HOST"]
ID, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
REGION = os.environ["AWS_REGION"]
SIGNED = "host;x-amz-content-sha256;x-amz-date"


def signature(method, path, body):
    """The headers of a request without a query, as
    <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html> says."""
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    lines = f"host:{HOST}\nx-amz-content-sha256:{digest}\nx-amz-date:{stamp}\n"
    canonical = hashlib.sha256(f"{method}\n{path}\n\n{lines}\n{SIGNED}\n{digest}".encode()).hexdigest()
    parts = [stamp[:8], REGION, "s3", "aws4_request"]
    scope = "/".join(parts)
    key = f"AWS4{SECRET}".encode()
    for text in [*parts, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}"]:
        key = hmac.digest(key, text.encode(), "sha256")
    line = f"AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders={SIGNED}, Signature={key.hex()}"
    return {"Host": HOST, "X-Amz-Content-Sha256": digest, "X-Amz-Date": stamp, "Authorization": line}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    kept = threading.local()

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not hasattr(self.kept, "upstream"):
            self.kept.upstream = http.client.HTTPConnection(UPSTREAM)
        self.kept.upstream.request(self.command, self.path, body or None, signature(self.command, self.path, body))
        answer = self.kept.upstream.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
