"""Writes tests/vectors/ntlm/pyspnego.json: whole exchanges as pyspnego and requests-ntlm compute them.

The messages are put together by pyspnego's structures and functions, the certificate is hashed by requests-ntlm. Only the
first message is written down here: pyspnego's names another version, and the integrity code covers it.
"""

import base64
import datetime
import json
import pathlib
import struct

import requests_ntlm.requests_ntlm
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spnego._ntlm_raw.crypto import compute_response_v2, hmac_md5, md5, ntowfv1, ntowfv2
from spnego._ntlm_raw.messages import Authenticate, AvFlags, AvId, Challenge, FileTime, TargetInfo, Version
from spnego.channel_bindings import GssChannelBindings

VECTORS = pathlib.Path(__file__).parent.parent / "vectors"
SOURCE = "https://github.com/jborean93/pyspnego/tree/v0.12.4/src/spnego/_ntlm_raw"
SPECIFICATION = "https://learn.microsoft.com/openspecs/windows_protocols/ms-nlmp/"
PASSWORD = "Passw0rd!"
NOW = datetime.datetime.fromtimestamp(1_700_000_000, datetime.timezone.utc)
NONCE = b"\xaa" * 8
VERSION = Version(10, 0, 0)
# What Internet Explorer sent with every NTLM request, but for OEM text and its version.
OFFERED = 0xA2088205
FIRST = b"NTLMSSP\0" + struct.pack("<II", 1, OFFERED) + bytes(16) + VERSION.pack()
SERVER_CHALLENGE = bytes.fromhex("0123456789abcdef")
# As Windows Server answers: everything asked for, target information, a server.
SERVER_FLAGS = OFFERED | 0x00820000


def target(*extra, timestamp=True):
    pairs = [(AvId.nb_domain_name, "INTRANET"), (AvId.nb_computer_name, "WEB01"), (AvId.dns_computer_name, "web01.intranet.test")]
    if timestamp:
        pairs.append((AvId.timestamp, FileTime(2023, 11, 14, 22, 13, 19)))
    return TargetInfo(pairs + list(extra))


def question(info, flags=SERVER_FLAGS):
    return Challenge(flags, SERVER_CHALLENGE, target_name="INTRANET", target_info=info, version=VERSION).pack()


def answer(second, info, domain, user, password, host, workstation=None, certificate=None):
    info = info.copy()
    time = info.get(AvId.timestamp) or FileTime.from_datetime(NOW)
    flags = info.pop(AvId.flags, AvFlags(0)) | AvFlags.mic
    info.pop(AvId.channel_bindings, None)
    info.pop(AvId.target_name, None)
    bindings = bytes(16)
    if certificate:
        der = x509.load_pem_x509_certificate((VECTORS / certificate).read_bytes()).public_bytes(Encoding.DER)
        data = b"tls-server-end-point:" + requests_ntlm.requests_ntlm._get_certificate_hash(der)
        bindings = md5(GssChannelBindings(application_data=data).pack())
    info[AvId.flags], info[AvId.target_name], info[AvId.channel_bindings] = flags, f"HTTP/{host}", bindings
    key = ntowfv2(user, ntowfv1(password), domain)
    nt, lm, session_key = compute_response_v2(key, SERVER_CHALLENGE, NONCE, time, info)
    lm = bytes(24) if AvId.timestamp in info else lm
    agreed = Challenge.unpack(second).flags & (OFFERED | 0x00800000)
    version = VERSION if agreed & 0x02000000 else Version(revision=0)
    third = Authenticate(agreed, lm, nt, domain, user, workstation, version=version)
    third.flags = agreed
    third.mic = hmac_md5(session_key, FIRST + second + third.pack())
    return third.pack()


def line(message):
    return "NTLM " + base64.b64encode(message).decode()


def vector(name, credential, expect, *, challenge=None, url="http://intranet.test/api?x=1", certificate=None, password=PASSWORD, source=SOURCE):
    row = {"name": name, "source": source, "credential": credential, "secrets": {"PASSWORD": password}}
    row["challenge"] = [["www-authenticate", value] for value in challenge or []]
    if certificate:
        row["certificate"] = certificate
    row["request"] = {"method": "GET", "url": url, "headers": [["authorization", "Bearer of-the-caller"]]}
    return row | {"expect": expect}


def credential(username, **more):
    return {"username": username, "password": {"env": "PASSWORD"}} | more


def accepted(name, keys, domain, user, *, info=None, flags=SERVER_FLAGS, offer=lambda own: [own], certificate=None, password=PASSWORD):
    info = info or target()
    second = question(info, flags)
    protocol = "https" if certificate else "http"
    third = answer(second, info, domain, user, password, "intranet.test", keys.get("workstation"), certificate)
    expect = {"headers": [["authorization", line(third)]], "target": "/api?x=1"}
    url = f"{protocol}://intranet.test/api?x=1"
    return vector(name, keys, expect, challenge=offer(line(second)), url=url, certificate=certificate, password=password)


def refused(name, words, *, keys=None, challenge=None, **more):
    more.setdefault("source", SPECIFICATION)
    return vector(name, keys or credential("INTRANET\\anna"), {"refused": words}, challenge=challenge, **more)


def main():
    windows = credential("INTRANET\\anna")
    principal = credential("anna@intranet.test")
    full = question(target())
    rows = [
        accepted("domain and user", windows, "INTRANET", "anna"),
        accepted("a user principal name goes out as it is", principal, "", "anna@intranet.test"),
        accepted("the domain in a key of its own, and a workstation", credential("anna", domain="INTRANET", workstation="RUNNER7"), "INTRANET", "anna"),
        accepted("a user whom the server knows without a domain", credential("anna"), "", "anna"),
        accepted("names and a password that are not ASCII", credential("Bücher\\łukasz"), "Bücher", "łukasz", password="Gänsefüßchen „пароль“ 🔑"),
        accepted("a server that does not tell its time", windows, "INTRANET", "anna", info=target(timestamp=False)),
        accepted("a server that names no version", windows, "INTRANET", "anna", flags=SERVER_FLAGS & ~0x02000000),
        accepted(
            "what the server says of flags, target and channel is replaced",
            windows, "INTRANET", "anna",
            info=target((AvId.channel_bindings, b"\xcc" * 16), (AvId.flags, AvFlags(1)), (AvId.target_name, "HTTP/elsewhere.test"), (AvId.dns_tree_name, "intranet.test")),
        ),
        accepted("Negotiate and NTLM get NTLM", windows, "INTRANET", "anna", offer=lambda own: ["Negotiate", own, 'Basic realm="x"']),
        accepted("several challenges in one line", windows, "INTRANET", "anna", offer=lambda own: [f'Basic realm="NTLM a, NTLM b", charset=UTF-8, {own.replace("NTLM", "ntlm")}, Negotiate']),
    ]
    for kind in ["ecdsa-sha256", "ecdsa-sha384", "rsa-sha1", "rsa-sha512", "rsa-pss-sha384", "ed25519"]:
        rows.append(accepted(f"bound to the certificate of the server, {kind}", windows, "INTRANET", "anna", certificate=f"certificates/{kind}.pem"))
    bare = bytearray(full)
    bare[20:24] = struct.pack("<I", SERVER_FLAGS & ~0x00800000)
    oem = bytearray(full)
    oem[20:24] = struct.pack("<I", SERVER_FLAGS & ~1 | 2)
    far = bytearray(full)
    far[44:48] = b"\xff" * 4
    endless = bytearray(full)
    endless[40:42] = struct.pack("<H", struct.unpack("<H", full[40:42])[0] - 4)
    huge = question(target((AvId.dns_tree_name, "x" * 5000)))
    rows += [
        refused("a server that offers Basic only", "asks for Basic and not for NTLM", challenge=['Basic realm="x"']),
        refused("a server that offers Negotiate only", "add the provider NTLM", challenge=["Negotiate"]),
        refused("a server that does not go on", "does not go on with it", challenge=["Negotiate", "NTLM"]),
        refused("a 401 that asks for nothing", "does not say what it wants", challenge=[]),
        refused("a challenge that is not base64", "not base64", challenge=["NTLM TlRM*"]),
        refused("a challenge that is something else", "not an NTLM message", challenge=[line(b"NTLMSSQ\0" + full[8:])]),
        refused("the first message in place of the second", "not the second message", challenge=[line(FIRST)]),
        refused("a challenge without its end", "lies outside", challenge=[line(full[:-1])]),
        refused("a challenge of nothing but a beginning", "cut short", challenge=[line(full[:30])]),
        refused("target information that lies elsewhere", "lies outside", challenge=[line(far)]),
        refused("target information without an end", "has no end", challenge=[line(endless)]),
        refused("a challenge longer than any", "longer than 8 KiB", challenge=[line(huge)]),
        refused("a server that knows NTLMv1 only", "NTLMv1", challenge=[line(bare)]),
        refused("a server that speaks no Unicode", "Unicode", challenge=[line(oem)]),
        refused("TLS without a certificate to bind to", "cannot be bound", challenge=[line(full)], url="https://intranet.test/"),
        refused("two domains in one name", "two domains", keys=credential("INTRANET\\anna@intranet.test")),
        refused("a domain written twice", "domain: the user name holds a domain already", keys=credential("INTRANET\\anna", domain="INTRANET")),
        refused("a principal and a domain", "domain: the user name holds a domain already", keys=credential("anna@intranet.test", domain="INTRANET")),
        refused("no user", "username: it is empty", keys=credential("")),
        refused("a domain and no user", "username: a domain, one backslash and a user", keys=credential("INTRANET\\")),
        refused("no password", "password: it is empty", password=""),
    ]
    path = VECTORS / "ntlm" / "pyspnego.json"
    # One vector a line keeps the differences readable.
    path.write_text("[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


main()
