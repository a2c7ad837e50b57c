# A stub of Apptio Frontdoor and of a service with a login of its own: no registry has the real ones.
#
#   stub.py
#
# Written against the documented wire formats (README.md). It verifies what it is sent and refuses the rest. Listens on
# 127.0.0.1, prints one JSON line {"port"}, and ends with its stdin. PUT /admin merges into its state, GET /admin shows
# that and what was counted.
import asyncio
import base64
import json
import secrets
import sys
import time
from email.utils import formatdate

from aiohttp import web

state = {
    # Frontdoor: the key pairs that it knows.
    "pairs": {},
    # The service: its user, how it is told of him (form, json, basic, header) and where it puts its token.
    "user": ["countersign", "right-password"],
    # What a login answers: ok, no_token, redirect, unavailable, hostile_header, hostile_cookie, page.
    "mode": "ok",
    # Where the token is: header or cookie; of the service also json or body.
    "place": "header",
    # Where the end is said: header, dashed, body, cookie or nowhere; how: epoch, epoch_ms, rfc3339, http_date.
    "till": ["header", "epoch"],
    "seconds": 3600,
    # What a call with a dead session is answered.
    "dead": 401,
    "wait": 0.0,
}
tokens = {}
count = {"logins": 0, "refused": 0, "lookups": 0, "calls": 0, "denied": 0}
pairs_asked = []
ENVIRONMENT = "e0000000-0000-0000-0000-000000000001"


def till(form, seconds):
    end = time.time() + seconds
    return {
        "epoch": lambda: str(int(end)),
        "epoch_ms": lambda: str(int(end * 1000)),
        "rfc3339": lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end)),
        "http_date": lambda: formatdate(end, usegmt=True),
    }[form]()


def issue(name, csrf=None):
    """The answer to a login that was right."""
    mode = state["mode"]
    if mode == "redirect":
        return web.Response(status=302, headers={"Location": "https://elsewhere.test/login"})
    if mode == "unavailable":
        return web.Response(status=503, headers={"Retry-After": "7"})
    if mode == "page":
        return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
    token = f"token-{secrets.token_hex(8)}"
    tokens[token] = csrf
    answer = web.Response()
    document = {"user": "countersign"}
    place = "nowhere" if mode == "no_token" else state["place"]
    if place == "header":
        answer.headers[name] = token
    elif place == "cookie":
        answer.set_cookie(name, token, path="/", secure=True, httponly=True)
    elif place == "json":
        document["session"] = {"id": f"{token}\r\nX-Admin: 1" if mode == "hostile_header" else
                               f"{token}; admin=1" if mode == "hostile_cookie" else token}
    if csrf:
        answer.headers["X-CSRF-Token"] = csrf
    where, form = state["till"]
    end = till(form, state["seconds"])
    if where == "header":
        answer.headers["valid_till"] = end
    elif where == "dashed":
        answer.headers["Valid-Till"] = end
    elif where == "body":
        document["valid_till"] = int(end) if form.startswith("epoch") else end
    elif where == "cookie":
        answer.set_cookie(name, token, path="/", max_age=state["seconds"])
    answer.text = json.dumps(token) if place == "body" else json.dumps(document)
    answer.content_type = "application/json"
    return answer


def refuse(status, **document):
    count["refused"] += 1
    return web.json_response(document, status=status)


async def frontdoor_login(request):
    count["logins"] += 1
    await asyncio.sleep(state["wait"])
    if request.content_type != "application/json" or request.headers.get("Accept") != "application/json":
        return refuse(400, message="Content-Type and Accept are application/json")
    pair = await request.json()
    pairs_asked.append(pair.get("keyAccess"))
    if set(pair) != {"keyAccess", "keySecret"} or state["pairs"].get(pair["keyAccess"]) != pair["keySecret"]:
        # A server that repeats what it was sent.
        return refuse(400, message=f"unable to log in {pair}")
    return issue("apptio-opentoken")


async def environment(request):
    count["lookups"] += 1
    if request.headers.get("apptio-opentoken") not in tokens:
        return refuse(403, message="no token")
    if request.match_info["domain"] != "example.com":
        return refuse(400, message="unknown customer")
    if request.match_info["name"] != "main":
        return refuse(404, message="unknown environment")
    return web.json_response({"id": ENVIRONMENT, "name": "main"})


async def frontdoor_call(request):
    count["calls"] += 1
    where = request.headers.getall("apptio-current-environment", []) + request.headers.getall("apptio-environmentid", [])
    if request.headers.get("apptio-opentoken") not in tokens or where != [ENVIRONMENT]:
        count["denied"] += 1
        return web.json_response({"verdict": "denied"}, status=state["dead"])
    return web.json_response({"verdict": "right"})


async def login(request):
    count["logins"] += 1
    await asyncio.sleep(state["wait"])
    how = request.match_info["how"]
    if how == "form":
        form = await request.post()
        sent = [form.get("user"), form.get("password")]
    elif how == "json":
        user = (await request.json()).get("auth", {}).get("user", {})
        sent = [user.get("name"), user.get("password")]
    elif how == "header":
        # The proof of another credential.
        sent = [state["user"][0], request.headers.get("X-Proof")]
    else:
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        sent = base64.b64decode(pair).decode().split(":", 1) if scheme == "Basic" else None
    if sent != state["user"]:
        return refuse(401, error="denied", message=f"you sent {sent}")
    return issue("X-Session", csrf=secrets.token_hex(8))


async def call(request):
    count["calls"] += 1
    token = request.headers.get("X-Session") or request.cookies.get("sid")
    if token not in tokens or (request.method == "POST" and request.headers.get("X-CSRF-Token") != tokens[token]):
        count["denied"] += 1
        return web.json_response({"verdict": "denied"}, status=state["dead"])
    return web.json_response({"verdict": "right", "admin": request.headers.get("X-Admin")})


async def admin(request):
    if request.method == "PUT":
        change = await request.json()
        if change.pop("forget", False):
            tokens.clear()
        if change.pop("reset", False):
            count.update(dict.fromkeys(count, 0))
            pairs_asked.clear()
        state.update(change)
    return web.json_response({"state": state, "count": count, "pairs_asked": pairs_asked, "tokens": list(tokens)})


async def main():
    app = web.Application()
    app.router.add_post("/service/apikeylogin", frontdoor_login)
    app.router.add_get("/api/environment/{domain}/{name}", environment)
    app.router.add_get("/biit/api/v1/projects", frontdoor_call)
    app.router.add_post("/login/{how}", login)
    app.router.add_route("*", "/me", call)
    app.router.add_route("*", "/admin", admin)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


asyncio.run(main())
