"""An HTTP/1.1 server with Windows authentication, as IIS does it: pyspnego judges, connection by connection.

    ntlm_server.py USERS [--cert F --key F] [--binding F]

USERS has lines `DOMAIN:user:password`. With --cert and --key it speaks TLS. With --binding it requires that the proof is
bound to the certificate in F, as extended protection does. Prints one JSON line `{"port", "admin"}` and ends with its stdin.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import ssl
import sys

import requests_ntlm.requests_ntlm
import spnego
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spnego._ntlm_raw.messages import Authenticate, AvFlags, AvId, NTClientChallengeV2
from spnego.channel_bindings import GssChannelBindings

# What each connection was sent, in order; and how many bytes of which body have come.
seen = []
arrived = {}
connections = 0


class Connection:
    def __init__(self, number, reader, writer, bindings):
        self.number, self.reader, self.writer, self.bindings = number, reader, writer, bindings
        self.context = self.user = None
        self.facts = {}

    async def serve(self):
        try:
            while await self.request():
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.writer.close()

    async def request(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.rstrip("\r\n").split("\r\n")
        method, target, version = line.split(" ")
        headers = {}
        for field in fields:
            name, value = field.split(":", 1)
            headers[name.lower()] = value.strip()
        path = target.split("?")[0]
        entry = {"connection": self.number, "method": method, "target": target, "version": version, "legs": self.leg(headers)}
        seen.append(entry)
        entry["authorization"] = "authorization" in headers
        if headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest = hashlib.sha256()
        entry["length"] = 0
        async for piece in self.body(headers):
            digest.update(piece)
            entry["length"] += len(piece)
            arrived[target] = entry["length"]
        status, offers, close = self.judge(path, headers)
        entry["status"], entry["user"] = status, self.user
        answer = {"user": self.user, "connection": self.number, "length": entry["length"], "sha256": digest.hexdigest()} | self.facts
        body = json.dumps(answer).encode()
        lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"WWW-Authenticate: {offer}" for offer in offers]
        lines += ["Connection: close"] if close == "said" else []
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == "HEAD" else body))
        await self.writer.drain()
        if path == "/once":
            # As authPersistSingleRequest does it.
            self.user = None
        return not close

    async def body(self, headers):
        if headers.get("transfer-encoding"):
            while size := int(await self.reader.readline(), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        left = int(headers.get("content-length", 0))
        while left:
            piece = await self.reader.read(min(left, 65536))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            yield piece

    @staticmethod
    def message(headers):
        scheme, _, text = headers.get("authorization", "").partition(" ")
        return (scheme, base64.b64decode(text)) if scheme in ("NTLM", "Negotiate") else (scheme, b"")

    def leg(self, headers):
        scheme, message = self.message(headers)
        return f"{scheme} {message[8]}" if len(message) > 8 else scheme or "none"

    def judge(self, path, headers):
        """Status, what is offered, and whether the connection ends."""
        _, message = self.message(headers)
        match path:
            case "/open":
                return 200, [], None
            case "/basic":
                return 401, ['Basic realm="files, NTLM"'], None
            case "/negotiate":
                return 401, ["Negotiate"], None
            case "/nothing":
                return 401, [], None
            case "/loop":
                return 401, [self.challenge(message)] if message else ["NTLM"], None
            case "/close" | "/hang-up" if not self.user:
                return 401, [self.challenge(message)], "said" if path == "/close" else "unsaid"
            case "/ntlmv1":
                challenge = bytearray(base64.b64decode(self.challenge(message)[5:]))
                challenge[22] &= 0x7F
                return 401, ["NTLM " + base64.b64encode(challenge).decode()], None
            case "/garbage":
                return 401, ["NTLM TlRMTVNTUAACAAAA"], None
        if message:
            self.user = None
            if message[8] == 1:
                return 401, ["Negotiate", self.challenge(message)], None
            if not self.proves(message):
                return 401, ["Negotiate", "NTLM"], None
        if not self.user:
            return 401, ["Negotiate", "NTLM"], None
        if path == "/not-for-you":
            return 401, ["Negotiate", "NTLM"], None
        return 200, [], None

    def challenge(self, message):
        self.context = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        first = message if message[8:9] == b"\1" else FIRST
        return "NTLM " + base64.b64encode(self.context.step(first)).decode()

    def proves(self, message):
        context, self.context = self.context, None
        if context is None:
            return False
        try:
            pairs = NTClientChallengeV2.unpack(Authenticate.unpack(message).nt_challenge_response[16:]).av_pairs
            # pyspnego takes zeros for any binding; extended protection does not.
            bound = pairs.get(AvId.channel_bindings, bytes(16)) != bytes(16)
            if self.bindings and not bound:
                return False
            context.step(message, channel_bindings=self.bindings)
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
            return False
        self.user = context.client_principal
        flags = pairs.get(AvId.flags, AvFlags(0))
        self.facts = {"target": pairs.get(AvId.target_name), "bound": bound, "mic": bool(flags & AvFlags.mic)}
        return True


# For challenges to whoever sent no first message.
FIRST = base64.b64decode("TlRMTVNTUAABAAAABYIIogAAAAAAAAAAAAAAAAAAAAAKAAAAAAAADw==")


async def admin(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = json.dumps({"connections": connections, "requests": seen, "arrived": arrived}).encode()
    if head.startswith("POST"):
        seen.clear()
        arrived.clear()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("users")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--binding")
    arguments = parser.parse_args()
    os.environ["NTLM_USER_FILE"] = arguments.users
    tls = bindings = None
    if arguments.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.cert, arguments.key)
    if arguments.binding:
        with open(arguments.binding, "rb") as file:
            der = x509.load_pem_x509_certificate(file.read()).public_bytes(Encoding.DER)
        data = b"tls-server-end-point:" + requests_ntlm.requests_ntlm._get_certificate_hash(der)
        bindings = GssChannelBindings(application_data=data)

    async def accept(reader, writer):
        global connections
        connections += 1
        await Connection(connections, reader, writer, bindings).serve()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    other = await asyncio.start_server(admin, "127.0.0.1", 0)
    port, admin_port = (each.sockets[0].getsockname()[1] for each in (server, other))
    print(json.dumps({"port": port, "admin": admin_port}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
