# A gRPC server over TLS with one bidirectional streaming method, /echo.Echo/Chat, without protoc: messages are bytes.
#
#   grpc_echo_server.py CERT.pem KEY.pem AUTHORIZATION      prints `listening PORT`, serves until it is ended
#
# It answers each message at once with the same bytes and ends with the trailing metadata `echo-count: N` and status OK.
# A message `fail` ends the call with NOT_FOUND (and the same trailing metadata). A call whose metadata `authorization`
# is not exactly AUTHORIZATION (for example "Bearer abc") ends with UNAUTHENTICATED.
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

cert, key, authorization = sys.argv[1:4]


def chat(messages, context):
    given = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if given != [authorization]:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"not the right authorization ({len(given)} values given)")
    count = 0
    for message in messages:
        if message == b"fail":
            context.set_trailing_metadata((("echo-count", str(count)),))
            context.abort(grpc.StatusCode.NOT_FOUND, "a message said fail")
        count += 1
        yield message
    context.set_trailing_metadata((("echo-count", str(count)),))


def read(path):
    with open(path, "rb") as file:
        return file.read()


server = grpc.server(ThreadPoolExecutor(max_workers=16))
# No serialisers: the handler gets and gives bytes.
handler = grpc.stream_stream_rpc_method_handler(chat)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Chat": handler}),))
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(read(key), read(cert))]))
server.start()
print(f"listening {port}", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.wait_for_termination()
