"""An API that believes one library: verifies JWTs with PyJWT, joserfc or authlib, and hands some out. README.md says how."""

import base64
import hashlib
import json
import os
import sys
import threading
import time
import warnings
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# The old module of authlib and the old name of EdDSA are both meant.
warnings.simplefilter("ignore")

LIBRARY = sys.argv[1]
CONFIG = json.loads(os.environ["JWT_CONFIG"])

if LIBRARY == "pyjwt":
    import jwt as pyjwt

    def key_of(route):
        return pyjwt.PyJWK(route["jwk"], route["alg"]).key if "jwk" in route else base64.b64decode(route["secret"])

    def verify(token, route, now):
        # It knows no other clock than the system's; a negative leeway is one that is ahead.
        ahead = now - time.time()
        options = {"require": ["iat", "exp"], "verify_iat": ahead < 1}
        return pyjwt.decode(token, key_of(route), algorithms=[route["alg"]], audience=route["aud"], issuer=route["iss"],
                            leeway=-ahead, options=options)

    def issue(claims):
        return pyjwt.encode(claims, CONFIG["issuing_secret"], algorithm="HS256")

elif LIBRARY == "joserfc":
    from joserfc import jwt as joserfc_jwt
    from joserfc.jwk import OctKey, import_key

    def key_of(route):
        if "jwk" in route:
            return import_key(route["jwk"])
        return OctKey.import_key(base64.b64decode(route["secret"]))

    def verify(token, route, now):
        token = joserfc_jwt.decode(token, key_of(route), algorithms=[route["alg"]])
        essential = {"essential": True}
        registry = joserfc_jwt.JWTClaimsRegistry(
            now=int(now), iat=essential, exp=essential,
            iss={"essential": True, "value": route["iss"]}, aud={"essential": True, "value": route["aud"]},
        )
        registry.validate(token.claims)
        return token.claims

    def issue(claims):
        return joserfc_jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(CONFIG["issuing_secret"]))

elif LIBRARY == "authlib":
    import authlib.deprecate  # it has its warnings shown whatever was said before

    warnings.simplefilter("ignore")
    from authlib.jose import JsonWebKey, JsonWebToken

    def key_of(route):
        return JsonWebKey.import_key(route["jwk"]) if "jwk" in route else base64.b64decode(route["secret"])

    def verify(token, route, now):
        essential = {"essential": True}
        options = {
            "iat": essential, "exp": essential,
            "iss": {"essential": True, "value": route["iss"]}, "aud": {"essential": True, "value": route["aud"]},
        }
        claims = JsonWebToken([route["alg"]]).decode(token, key_of(route), claims_options=options)
        claims.validate(now=int(now))
        return dict(claims)

    def issue(claims):
        return JsonWebToken(["HS256"]).encode({"alg": "HS256"}, claims, CONFIG["issuing_secret"]).decode()

else:
    sys.exit(f"unknown library {LIBRARY}")


class Refused(Exception):
    pass


def snowflake(claims, headers):
    """What Snowflake checks beside the signature: the fingerprint of the key that its user has, and the type's header."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, Encoding, PublicFormat

    public = load_pem_public_key(CONFIG["snowflake_public_key"].encode())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
    if claims["iss"] != f"{claims['sub']}.{fingerprint}":
        raise Refused("JWT token is invalid: the issuer's fingerprint")
    if headers.get("X-Snowflake-Authorization-Token-Type") != "KEYPAIR_JWT":
        raise Refused("the type of the token is not told")


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    tokens = []
    fetches = 0
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def token_of(self, route):
        place, prefix = route.get("place", "header"), route.get("prefix", "Bearer ")
        if place == "header":
            text = self.headers.get(route.get("field", "Authorization"), "")
        elif place == "cookie":
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(route["field"])
            text = cookie.value if cookie else ""
        else:
            text = parse_qs(urlsplit(self.path).query).get(route["field"], [""])[0]
        if not text.startswith(prefix) or text == prefix:
            raise Refused("there is no token")
        return text[len(prefix):]

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/last":
            return self.answer(200, {"token": Api.tokens[-1], "fetches": Api.fetches})
        if path.startswith("/hand-out/"):
            return self.hand_out(path)
        route = CONFIG["routes"][path]
        try:
            token = self.token_of(route)
            claims = verify(token, route, time.time() + route.get("ahead", 0))
            if route.get("snowflake"):
                snowflake(claims, self.headers)
        except Exception as error:
            return self.answer(401, {"refused": f"{type(error).__name__}: {error}"})
        with Api.lock:
            Api.tokens.append(token)
        self.answer(200, {"claims": claims})

    def hand_out(self, path):
        """GET, authenticated in one of three ways; the token's own `exp` is all that tells its lifetime."""
        with Api.lock:
            Api.fetches += 1
        pair = base64.b64encode(f"caller:{CONFIG['password']}".encode()).decode()
        right = {
            "/hand-out/basic": self.headers.get("Authorization") == f"Basic {pair}",
            "/hand-out/api-key": self.headers.get("X-Api-Key") == CONFIG["api_key"],
            "/hand-out/unsigned": "Authorization" not in self.headers,
            "/hand-out/nothing": True,
        }[path]
        if not right:
            return self.answer(401, {"error": "unauthorized", "error_description": f"you sent {self.headers}"})
        if path == "/hand-out/nothing":
            return self.answer(200, {"token": "is not where it belongs"})
        now = int(time.time())
        claims = {"iss": "hand-out", "aud": "api", "sub": self.headers.get("X-Account", ""), "iat": now, "exp": now + 600}
        self.answer(200, {"access_token": issue(claims)})


server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
print(json.dumps({"port": server.server_port}), flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
