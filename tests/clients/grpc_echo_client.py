# A plain gRPC client of grpc_echo_server.py: it knows nothing of a proxy or of its CA.
#
#   grpc_echo_client.py HOST:PORT [N]    environment: README.md (https_proxy, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH)
#
# Sends N messages (default 5), each only after the answer to the one before came, which works only when both directions
# really stream. CLIENT_HEADERS (a JSON object, lower-case names) is the call's metadata; CLIENT_FAIL=1 sends `fail`
# as the last message. Prints {"messages": answers, "code": ..., "details": ..., "trailers": {...}} and exits 0 whatever
# the status is, but 1 when no connection came about (UNAVAILABLE or DEADLINE_EXCEEDED) or an answer was not the message.
import json
import os
import queue
import sys

import grpc

target = sys.argv[1]
count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
messages = [f"message {i}".encode() for i in range(count)]
if os.environ.get("CLIENT_FAIL") == "1":
    messages.append(b"fail")

answers = 0
with grpc.secure_channel(target, grpc.ssl_channel_credentials()) as channel:
    to_send = queue.Queue()
    chat = channel.stream_stream("/echo.Echo/Chat")
    metadata = list(json.loads(os.environ.get("CLIENT_HEADERS", "{}")).items())
    call = chat(iter(to_send.get, None), metadata=metadata, timeout=30)
    try:
        for message in messages:
            to_send.put(message)
            if next(call) != message:
                sys.exit("an answer is not the message")
            answers += 1
        to_send.put(None)
        for _ in call:
            sys.exit("an answer too many")
    except (grpc.RpcError, StopIteration):
        # The call's status below says it.
        to_send.put(None)
    code, details = call.code(), call.details()
    trailers = {name: value for name, value in call.trailing_metadata() or () if isinstance(value, str)}

print(json.dumps({"messages": answers, "code": code.name, "details": details, "trailers": trailers}))
sys.exit(code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED))
