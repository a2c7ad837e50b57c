"""Microsoft Entra, Azure's services and a machine's identity on loopback, as strict as they are documented.

Reads its facts as JSON from the variable ENTRA, prints one JSON line, ends when its standard input does. See README.md.
Assertions are verified with PyJWT and cryptography.
"""

import asyncio
import base64
import datetime
import hashlib
import json
import os
import secrets
import ssl
import sys
import time
import uuid
from urllib.parse import parse_qsl

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding

FACTS = json.loads(os.environ["ENTRA"])
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

# Which audience each host takes; a name that begins with a dot is a domain of customers.
HOSTS = {
    "management.azure.com": "https://management.azure.com",
    "management.usgovcloudapi.net": "https://management.usgovcloudapi.net",
    "management.chinacloudapi.cn": "https://management.chinacloudapi.cn",
    "graph.microsoft.com": "https://graph.microsoft.com",
    "microsoftgraph.chinacloudapi.cn": "https://microsoftgraph.chinacloudapi.cn",
    "api.loganalytics.io": "https://api.loganalytics.io",
    ".blob.core.windows.net": "https://storage.azure.com",
    ".vault.azure.net": "https://vault.azure.net",
    ".azuredatabricks.net": "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d",
}

tokens = {}  # access token -> {"aud", "appid", "exp"}
seen = []  # every request to an API
assertions = []  # every assertion that came, with what the answer was
used = set()  # jti of assertions
blobs, vault_secrets = {}, {}


class Refused(Exception):
    def __init__(self, status, error, number, text):
        super().__init__(text)
        self.status, self.error, self.number, self.text = status, error, number, text


def unpadded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def certificates(app):
    return [x509.load_pem_x509_certificate(pem.encode()) for pem in app.get("certificates", [])]


def der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


def certificate_of(app, header):
    """The registered certificate that the header names, or one with the trusted subject and issuer."""
    if "x5t#S256" in header and header["alg"] == "PS256":
        wanted, digest = header["x5t#S256"], hashlib.sha256
    elif "x5t" in header and header["alg"] == "RS256":
        wanted, digest = header["x5t"], hashlib.sha1
    else:
        raise Refused(401, "invalid_client", 700027, "The certificate with identifier used to sign the client assertion "
                      "is not registered: PS256 goes with x5t#S256, RS256 with x5t.")
    for certificate in certificates(app):
        if unpadded(digest(der(certificate)).digest()) == wanted:
            return certificate
    issuer = app.get("trusted_issuer")
    if issuer and "x5c" in header:
        issuer = x509.load_pem_x509_certificate(issuer.encode())
        own = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0], validate=True))
        issuer.public_key().verify(own.signature, own.tbs_certificate_bytes, padding.PKCS1v15(), own.signature_hash_algorithm)
        if own.subject.rfc4514_string() == app["subject"] and unpadded(digest(der(own)).digest()) == wanted:
            return own
    raise Refused(401, "invalid_client", 700027, "The certificate with identifier used to sign the client assertion is "
                  f"not registered on application. [Reason - The key was not found., Thumbprint: '{wanted}'].")


def by_certificate(app, client_id, assertion, url):
    header = jwt.get_unverified_header(assertion)
    certificate = certificate_of(app, header)
    now = datetime.datetime.now(datetime.timezone.utc)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Refused(401, "invalid_client", 700027, "The key used is expired.")
    need = ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"]
    claims = jwt.decode(assertion, certificate.public_key(), algorithms=[header["alg"]], audience=url,
                        options={"require": need}, leeway=0)
    if header.get("typ") != "JWT" or claims["iss"] != client_id or claims["sub"] != client_id:
        raise Refused(401, "invalid_client", 700021, "Client assertion application identifier doesn't match 'client_id'.")
    if claims["exp"] - claims["nbf"] > 600 or claims["jti"] in used:
        raise Refused(401, "invalid_client", 700024, "Client assertion is not within its valid time range.")
    used.add(claims["jti"])


def by_federation(app, assertion):
    header, claims = jwt.get_unverified_header(assertion), jwt.decode(assertion, options={"verify_signature": False})
    trust = [one for one in app.get("federated", []) if one["issuer"] == claims.get("iss")]
    if not trust:
        raise Refused(401, "invalid_client", 700211, "No matching federated identity record found for presented assertion issuer.")
    key = serialization.load_pem_private_key(FACTS["oidc_key"].encode(), None).public_key()
    jwt.decode(assertion, key, algorithms=["RS256"], audience="api://AzureADTokenExchange", options={"require": ["exp", "sub"]})
    if header.get("kid") != "pod" or claims["sub"] != trust[0]["subject"]:
        raise Refused(401, "invalid_client", 700213, "No matching federated identity record found for presented assertion subject.")


def authenticated(form, url):
    client_id = form.get("client_id")
    app = FACTS["apps"].get(client_id)
    if app is None:
        raise Refused(400, "unauthorized_client", 700016, f"Application with identifier '{client_id}' was not found in the directory.")
    if "client_secret" in form and "client_assertion" in form:
        raise Refused(400, "invalid_request", 7000219, "Two client credentials.")
    if "client_secret" in form:
        if form["client_secret"] != app.get("secret"):
            raise Refused(401, "invalid_client", 7000215, "Invalid client secret provided. Ensure the secret being sent in the "
                          "request is the client secret value, not the client secret ID.")
        return client_id
    if form.get("client_assertion_type") != JWT_BEARER or "client_assertion" not in form:
        raise Refused(401, "invalid_client", 7000218, "The request body must contain: 'client_assertion' or 'client_secret'.")
    assertion = form["client_assertion"]
    record = {"assertion": assertion, "url": url, "accepted": False}
    assertions.append(record)
    try:
        if app.get("federated"):
            by_federation(app, assertion)
        else:
            by_certificate(app, client_id, assertion, url)
    except Refused:
        raise
    except Exception as error:  # Whatever these libraries do not like is refused.
        raise Refused(401, "invalid_client", 50027, f"JWT token is invalid or malformed. {type(error).__name__}") from error
    record["accepted"] = True
    return client_id


def issued(audience, client_id):
    token = "entra-" + secrets.token_urlsafe(24)
    tokens[token] = {"aud": audience.rstrip("/"), "appid": client_id, "exp": time.time() + 3599}
    return token


async def token(request):
    tenant, version = request.match_info["tenant"], request.match_info["version"]
    form = dict(parse_qsl((await request.text()), keep_blank_values=True, strict_parsing=True))
    # The authority's own name, whatever port it is here.
    url = f"https://{request.host.split(':')[0]}{request.path}" if request.secure else str(request.url)
    try:
        if request.content_type != "application/x-www-form-urlencoded" or form.get("grant_type") != "client_credentials":
            raise Refused(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if tenant != FACTS["tenant"]:
            raise Refused(400, "invalid_request", 90002, f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.")
        client_id = authenticated(form, url)
        known = set(HOSTS.values()) | set(FACTS.get("resources", []))
        if version == "v2.0/token":
            if "resource" in form:
                raise Refused(400, "invalid_request", 901002, "The 'resource' request parameter isn't supported.")
            scope = form.get("scope", "")
            if not scope.endswith("/.default") or " " in scope:
                raise Refused(400, "invalid_scope", 1002012, f"The provided value for scope {scope} is not valid.")
            resource, fields = scope.removesuffix("/.default"), {"expires_in": 3599, "ext_expires_in": 3599}
        else:
            if "resource" not in form:
                raise Refused(400, "invalid_request", 900144, "The request body must contain the following parameter: 'resource'.")
            resource = form["resource"]
            end = int(time.time()) + 3599
            fields = {"expires_in": "3599", "expires_on": str(end), "not_before": str(end - 3899), "resource": resource}
        if resource.rstrip("/") not in known:
            raise Refused(400, "invalid_resource", 500011, f"The resource principal named {resource} was not found in the tenant.")
    except Refused as refused:
        return refusal(refused)
    return web.json_response({"token_type": "Bearer", **fields, "access_token": issued(resource, client_id)})


def refusal(refused):
    stamp = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    text = f"AADSTS{refused.number}: {refused.text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}"
    document = {"error": refused.error, "error_description": text, "error_codes": [refused.number], "timestamp": stamp,
                "trace_id": trace, "correlation_id": correlation}
    return web.json_response(document, status=refused.status)


def audience_of(host):
    for name, audience in HOSTS.items():
        if host == name or (name.startswith(".") and host.endswith(name)):
            return audience
    return FACTS.get("own_hosts", {}).get(host)


def bearer(request, audience):
    """The token's facts, or nothing when there is none, it is not one of ours, it ended or is for another service."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    token = tokens.get(value) if kind == "Bearer" else None
    return token if token and token["aud"] == audience and token["exp"] > time.time() else None


async def api(request):
    host = request.host.split(":")[0]
    audience = audience_of(host)
    token, body = bearer(request, audience), await request.read()
    seen.append({"host": host, "method": request.method, "path": request.path_qs, "signed": "authorization" in request.headers,
                 "accepted": token is not None, "version": request.headers.get("x-ms-version"), "length": len(body)})
    if host.endswith(".vault.azure.net"):
        return vault(request, host, token, body)
    if host.endswith(".blob.core.windows.net"):
        return blob(request, host, token, body)
    if token is None:
        challenge = f'Bearer authorization_uri="https://login.microsoftonline.com/{FACTS["tenant"]}", error="invalid_token"'
        document = {"error": {"code": "InvalidAuthenticationToken", "message": "The access token is invalid."}}
        return web.json_response(document, status=401, headers={"WWW-Authenticate": challenge})
    if host.startswith("management."):
        return management(request, body)
    return web.json_response({"audience": audience, **token})


def management(request, body):
    if "api-version" not in request.query:
        return web.json_response({"error": {"code": "MissingApiVersionParameter", "message": "api-version"}}, status=400)
    group = lambda name, **more: {"id": f"/subscriptions/s/resourceGroups/{name}", "name": name, "type": "Microsoft.Resources/resourceGroups",
                                  "location": "westeurope", "properties": {"provisioningState": "Succeeded"}, **more}
    if request.method == "PUT":
        sent = json.loads(body)
        return web.json_response(group(request.path.rsplit("/", 1)[1], tags=sent.get("tags")), status=201)
    return web.json_response({"value": [group("one"), group("two")]})


def blob(request, host, token, body):
    version = request.headers.get("x-ms-version", "")
    error = lambda status, code: web.Response(status=status, content_type="application/xml", headers={"x-ms-error-code": code},
                                              text=f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>")
    if version < "2017-11-09":
        # What the service says of a token without a version.
        return error(401, "NoAuthenticationInformation")
    if token is None:
        return error(401, "InvalidAuthenticationInfo")
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    common = {"x-ms-version": version, "ETag": '"0x1"', "Last-Modified": stamp, "x-ms-request-id": str(uuid.uuid4())}
    key = (host, request.path)
    if request.method == "PUT" and request.query.get("restype") == "container":
        return web.Response(status=201, headers=common)
    if request.method == "PUT" and request.query.get("comp") == "block":
        blobs.setdefault((*key, "blocks"), {})[request.query["blockid"]] = body
        return web.Response(status=201, headers=common)
    if request.method == "PUT" and request.query.get("comp") == "blocklist":
        blobs[key] = b"".join(blobs[(*key, "blocks")].values())
        return web.Response(status=201, headers=common)
    if request.method == "PUT":
        blobs[key] = body
        return web.Response(status=201, headers=common)
    if request.query.get("comp") == "list" and request.query.get("restype") == "container":
        prefix = request.path + "/"
        names = [path.removeprefix(prefix) for (place, path, *rest) in blobs if place == host and path.startswith(prefix) and not rest]
        rows = "".join(f"<Blob><Name>{name}</Name><Properties><Content-Length>{len(blobs[(host, prefix + name)])}</Content-Length>"
                       f"<BlobType>BlockBlob</BlobType></Properties></Blob>" for name in names)
        text = f"<?xml version='1.0' encoding='utf-8'?><EnumerationResults><Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>"
        return web.Response(content_type="application/xml", headers=common, text=text)
    if key not in blobs:
        return error(404, "BlobNotFound")
    whole = blobs[key]
    headers = {**common, "x-ms-blob-type": "BlockBlob", "Accept-Ranges": "bytes"}
    first, _, last = (request.headers.get("x-ms-range") or request.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")
    part = whole[int(first):int(last) + 1 if last else None]
    headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(whole)}"
    return web.Response(status=206, headers=headers, body=part)


def vault(request, host, token, body):
    error = lambda status, code, **more: web.json_response({"error": {"code": code, "message": code}}, status=status, **more)
    if token is None:
        # https://learn.microsoft.com/en-us/azure/key-vault/general/authentication-requests-and-responses
        challenge = f'Bearer authorization="https://login.microsoftonline.com/{FACTS["tenant"]}", resource="https://vault.azure.net"'
        return error(401, "Unauthorized", headers={"WWW-Authenticate": challenge})
    if "api-version" not in request.query:
        return error(400, "BadParameter")
    parts = request.path.strip("/").split("/")
    if parts[0] != "secrets":
        return error(404, "NotFound")
    bundle = lambda name: {"value": vault_secrets[(host, name)], "id": f"https://{host}/secrets/{name}/0a1b",
                           "attributes": {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}}
    if len(parts) == 1:
        rows = [{key: value for key, value in bundle(name).items() if key != "value"} for (place, name) in vault_secrets if place == host]
        return web.json_response({"value": rows, "nextLink": None})
    name = parts[1]
    if request.method == "PUT":
        if not body:
            return error(400, "BadParameter")
        vault_secrets[(host, name)] = json.loads(body)["value"]
        return web.json_response(bundle(name))
    if (host, name) not in vault_secrets:
        return error(404, "SecretNotFound")
    return web.json_response(bundle(name))


# --- A stub of a machine's identity, for there is none outside Azure. ---

async def machine(request):
    """IMDS, and App Service's endpoint, as they are documented."""
    service = request.path.startswith("/msi")
    error = lambda status, code, text: web.json_response({"error": code, "error_description": text}, status=status)
    if request.headers.get("metadata") != "true" or "x-forwarded-for" in request.headers:
        return error(400, "bad_request_102", "Required metadata header not specified")
    if service and request.headers.get("x-identity-header") != FACTS["identity_header"]:
        return web.json_response({"statusCode": 401, "message": "no identity header"}, status=401)
    if request.query.get("api-version") != ("2019-08-01" if service else "2018-02-01") or "resource" not in request.query:
        return error(400, "invalid_request", "Required query variable is missing")
    ids = {"client_id", "object_id", "mi_res_id" if service else "msi_res_id"} & set(request.query)
    named = [request.query[key] for key in ids]
    if set(request.query) - ids - {"api-version", "resource"} or any(one not in FACTS["identities"] for one in named):
        return error(400, "invalid_request", "Identity not found")
    resource = request.query["resource"]
    end = str(int(time.time()) + 86399)
    document = {"access_token": issued(resource, named[0] if named else "system"), "expires_on": end, "resource": resource, "token_type": "Bearer"}
    if not service:
        document |= {"expires_in": "86399", "ext_expires_in": "86399", "not_before": "1"}
    return web.json_response(document)


async def revoke(_):
    tokens.clear()
    return web.json_response({})


async def federated(request):
    """A token of a pod's service account, as its cluster would write it."""
    now = int(time.time())
    sent = await request.json()
    claims = {"iss": "https://oidc.cluster.test/", "aud": "api://AzureADTokenExchange", "iat": now, "exp": now + 3600, "jti": str(uuid.uuid4()), **sent}
    key = sent.pop("key", None) or FACTS["oidc_key"]
    claims.pop("key", None)
    return web.json_response({"token": jwt.encode(claims, key, algorithm="RS256", headers={"kid": "pod"})})


async def main():
    azure = web.Application()
    azure.router.add_post("/{tenant}/oauth2/{version:token|v2.0/token}", token)
    azure.router.add_route("*", "/{path:.*}", api)
    beside = web.Application()
    beside.router.add_get("/metadata/identity/oauth2/token", machine)
    beside.router.add_get("/msi/token", machine)
    beside.router.add_get("/seen", lambda _: answer(seen))
    beside.router.add_get("/assertions", lambda _: answer(assertions))
    beside.router.add_post("/revoke", revoke)
    beside.router.add_post("/federated", federated)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(FACTS["certificate"], FACTS["certificate_key"])
    ports = []
    for application, context in [(azure, tls), (beside, None)]:
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        ports.append(site._server.sockets[0].getsockname()[1])
    print(json.dumps({"port": ports[0], "admin": ports[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def answer(rows):
    return web.json_response(rows)


asyncio.run(main())
