# A stub of Flexera One's login and identity service: no registry has the real ones.
#
#   iam.py CERTIFICATE KEY
#
# Written against the documented wire formats (README.md). It verifies what it is sent and refuses the rest; what no client
# should send at all it notes as a complaint. Listens on 127.0.0.1, with TLS for clients and without for the test; prints
# one JSON line {"port", "control"} and ends with its stdin. PUT /admin on the control port merges into its state, GET
# /admin shows that and what there is.
import asyncio
import json
import re
import secrets
import ssl
import sys
import time

from aiohttp import web

ORG = "1234"
ROLES = {"policy_viewer", "observer", "credential_viewer", "iam_admin"}

state = {
    "refresh_tokens": ["refresh-token-of-an-administrator"],
    "viewer_tokens": ["refresh-token-of-somebody-else"],
    # Whether clients are listed, as {"values": []} or at all.
    "listing": "array",
    # [{"call": "POST /service-accounts/1/clients", "status": 503, "done": true, "headers": {}}]: taken one by one.
    "faults": [],
    # So many exchanges of a new client are refused, since logins learn of it later.
    "late": 0,
    "echo": True,
}
accounts = {}
tokens = {}
calls = []
complaints = []
next_id = [10826]


def complain(request, why):
    complaints.append(f"{request.method} {request.path}: {why}")


def goa(status, name, message, headers=None):
    body = {"name": name, "id": secrets.token_hex(4), "message": message, "temporary": status in (429, 503), "timeout": False, "fault": status >= 500}
    return web.Response(status=status, text=json.dumps(body), content_type="application/vnd.goa.error", headers=headers)


def clients():
    return {client["clientId"]: (account, client) for account in accounts.values() for client in account["clients"]}


async def token(request):
    if request.host.split(":")[0] != "login.flexera.com" or request.path != "/oidc/token":
        complain(request, f"host {request.host}")
        return goa(404, "not_found", "no such service")
    if request.content_type != "application/x-www-form-urlencoded" or "authorization" in request.headers:
        complain(request, "not a form, or with a header")
        return goa(400, "bad_request", "request is invalid")
    form = await request.post()
    names, grant = list(form), form.get("grant_type")
    calls.append(f"token {grant}")
    if grant == "refresh_token" and names == ["grant_type", "refresh_token"]:
        given = form["refresh_token"]
        if given in state["refresh_tokens"]:
            who = "admin"
        elif given in state["viewer_tokens"]:
            who = "viewer"
        else:
            return goa(401, "unauthorized", f"refresh token {given} is invalid")
        return issue(who, {"refresh_token": given} if state["echo"] else {})
    if grant == "client_credentials" and names == ["grant_type", "client_id", "client_secret"]:
        account, client = clients().get(form["client_id"], (None, None))
        if client is None or not secrets.compare_digest(client["clientSecret"], form["client_secret"]):
            return goa(401, "unauthorized", f"client secret {form['client_secret']} is invalid")
        if state["late"] > 0:
            state["late"] -= 1
            return goa(401, "unauthorized", "client is invalid")
        return issue(client["clientId"], {})
    complain(request, f"fields {names}")
    return goa(400, "bad_request", "request is invalid")


def issue(who, more):
    value = "access-" + secrets.token_urlsafe(24)
    tokens[value] = (who, time.time() + 3600)
    return web.json_response({"access_token": value, "expires_in": 3600, "token_type": "Bearer", **more})


def principal(request):
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    who, end = tokens.get(value, (None, 0))
    if scheme != "Bearer" or end < time.time():
        return None
    return who if who in ("admin", "viewer") or who in clients() else None


async def iam(request):
    if request.host.split(":")[0] != "api.flexera.com" or request.query_string:
        complain(request, f"host {request.host}, query {request.query_string}")
        return goa(404, "not_found", "no such service")
    found = re.fullmatch(r"/iam/v1/orgs/(\d+)(/.*)", request.path)
    if not found:
        complain(request, "no such path")
        return goa(404, "not_found", "no such path")
    who = principal(request)
    if who is None:
        return goa(401, "unauthorized", "access token is invalid")
    if found[1] != ORG:
        return goa(403, "forbidden", "access token does not have sufficient privileges")
    call = f"{request.method} {found[2]}"
    calls.append(call)
    body = await request.read()
    if body:
        if request.content_type != "application/json":
            complain(request, f"content type {request.content_type}")
        body = json.loads(body)
    # Whoever is no administrator of the organization may see nothing of this.
    roles = {"admin": {"iam_admin"}, "viewer": set()}.get(who) or (clients()[who][0]["roles"] if who in clients() else set())
    if "iam_admin" not in roles:
        return goa(403, "forbidden", "access token does not have sufficient privileges")
    fault = next((fault for fault in state["faults"] if re.fullmatch(fault["call"], call)), None)
    if fault:
        state["faults"].remove(fault)
        if fault.get("done"):
            answer(request, call, body)
        if fault["status"] == 0:
            request.transport.close()
            return web.Response()
        return goa(fault["status"], "bad_gateway", "try again", headers=fault.get("headers"))
    return answer(request, call, body)


def answer(request, call, body):
    if call == "GET /service-accounts":
        return web.json_response([shown(account) for account in accounts.values()])
    if call == "POST /service-accounts":
        if not isinstance(body, dict) or set(body) != {"name", "description"} or not 0 < len(body["name"]) <= 512:
            complain(request, f"body {body}")
            return goa(400, "bad_request", "request is invalid")
        next_id[0] += 1
        account = {"id": next_id[0], "name": body["name"], "description": body["description"], "roles": set(), "clients": []}
        accounts[str(account["id"])] = account
        return web.Response(status=201, headers={"Location": f"/iam/v1/orgs/{ORG}/service-accounts/{account['id']}"})
    if call == "PUT /access-rules/grant":
        if set(body) != {"role", "subject"} or set(body["role"]) != {"name"} or set(body["subject"]) != {"ref"}:
            complain(request, f"body {body}")
            return goa(400, "bad_request", "request is invalid")
        subject = re.fullmatch(r"ref::::iam:service-account:(\d+)", body["subject"]["ref"])
        if not subject or subject[1] not in accounts:
            return goa(400, "bad_request", "no such subject")
        if body["role"]["name"] not in ROLES:
            return goa(400, "bad_request", f"no such role {body['role']['name']}")
        accounts[subject[1]]["roles"].add(body["role"]["name"])
        return web.Response(status=204)
    found = re.fullmatch(r"(GET|POST|DELETE) /service-accounts/(\d+)(/clients)?(?:/([\w-]+))?", call)
    account = accounts.get(found[2]) if found else None
    if account is None:
        return goa(404, "not_found", "not found")
    verb, _, below, client = found.groups()
    if verb == "GET" and not below:
        return web.json_response(shown(account))
    if not below:
        complain(request, "nobody deletes service accounts")
        return goa(403, "forbidden", "no")
    if verb == "GET" and client is None:
        if state["listing"] == "none":
            return goa(404, "not_found", "not found")
        known = [{k: v for k, v in one.items() if k != "clientSecret"} for one in account["clients"]]
        return web.json_response({"values": known} if state["listing"] == "values" else known)
    if verb == "POST" and client is None:
        if body:
            complain(request, f"body {body}")
        if len(account["clients"]) >= 2:
            return goa(409, "conflict", "service account has the maximum number of clients")
        made = {
            "clientId": "client-" + secrets.token_hex(6),
            "clientSecret": "secret-" + secrets.token_urlsafe(24),
            "createdAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "kind": "iam#service-account-client",
        }
        account["clients"].append(made)
        return web.json_response(made, status=201)
    if verb == "DELETE" and client:
        if all(one["clientId"] != client for one in account["clients"]):
            return goa(404, "not_found", "not found")
        account["clients"] = [one for one in account["clients"] if one["clientId"] != client]
        return web.Response(status=204)
    complain(request, "no such call")
    return goa(405, "method_not_allowed", "no such call")


def shown(account):
    return {"id": account["id"], "name": account["name"], "kind": "iam:service-account", "ref": f"iam#service-account:{account['id']}"}


async def admin(request):
    if request.method == "PUT":
        change = await request.json()
        for name in change.pop("accounts", []):
            answer(request, "POST /service-accounts", {"name": name, "description": "made by the test"})
        for account in change.pop("clients", []):
            answer(request, f"POST /service-accounts/{account}/clients", b"")
        if change.pop("clear", False):
            calls.clear()
        state.update(change)
    seen = {key: {**account, "roles": sorted(account["roles"])} for key, account in accounts.items()}
    return web.json_response({"accounts": seen, "calls": calls, "complaints": complaints, "state": state})


async def serve(certificate, key):
    app = web.Application()
    app.router.add_route("POST", "/oidc/token", token)
    app.router.add_route("*", "/{path:.*}", iam)
    control = web.Application()
    control.router.add_route("*", "/admin", admin)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    ports = []
    for one, context in ((app, tls), (control, None)):
        runner = web.AppRunner(one, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        ports.append(site._server.sockets[0].getsockname()[1])
    print(json.dumps({"port": ports[0], "control": ports[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(serve(sys.argv[1], sys.argv[2]))
