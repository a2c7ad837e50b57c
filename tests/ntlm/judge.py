"""Lets pyspnego judge third messages of one exchange: judge.py USERS FILE

USERS has lines `DOMAIN:user:password`, FILE is the certificate that the proof is to be bound to. Its stdin is one line of base64 each: the
first message, which it answers by a line with the second; then third messages. Each is judged by two acceptors that saw
nothing else, one that requires the binding and one that does not look at it, and answered by `{"bound", "unbound"}`: null
when it was accepted, else why not.
"""

import base64
import json
import os
import sys

import requests_ntlm.requests_ntlm
import spnego
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spnego._ntlm_raw.messages import FileTime
from spnego.channel_bindings import GssChannelBindings

os.environ["NTLM_USER_FILE"] = sys.argv[1]
with open(sys.argv[2], "rb") as file:
    der = x509.load_pem_x509_certificate(file.read()).public_bytes(Encoding.DER)
data = b"tls-server-end-point:" + requests_ntlm.requests_ntlm._get_certificate_hash(der)
bindings = GssChannelBindings(application_data=data)

# So that each acceptor asks what the first one asked.
challenge, now = os.urandom(8), FileTime.now()
os.urandom = lambda count: challenge[:count]
FileTime.now = lambda *_: now


def acceptor():
    context = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    return context, context.step(first)


def judged(third, bindings):
    context, asked = acceptor()
    assert asked == second
    try:
        context.step(third, channel_bindings=bindings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if context.complete else "not complete"


first = base64.b64decode(sys.stdin.readline())
_, second = acceptor()
print(base64.b64encode(second).decode(), flush=True)
for line in sys.stdin:
    third = base64.b64decode(line)
    print(json.dumps({"bound": judged(third, bindings), "unbound": judged(third, None)}), flush=True)
