-- What wrk sends for bench/bench.py, and the one line of JSON it hands back. wrk passes no arguments to a script before
-- it resolves the host, so everything comes in the environment:
--   BENCH_DIAL   dial 127.0.0.1 on this port, whatever the URL says; the URL stays what SNI and Host name
--   BENCH_URIS   request targets, separated by spaces, sent in turn; absolute ones (http://...) are for a forward proxy
--   BENCH_BODY   length of a body, which is sent with PUT; nothing or 0: GET
--   BENCH_HEADERS  `Name: value` lines that every request has besides
--   BENCH_DELAY  mean pause in milliseconds between an answer and the next request of a connection: a fixed rate
local dial = os.getenv("BENCH_DIAL")
local delay_ms = tonumber(os.getenv("BENCH_DELAY") or "")
local uris = {}
for uri in (os.getenv("BENCH_URIS") or ""):gmatch("%S+") do uris[#uris + 1] = uri end

if dial then
  function wrk.resolve() wrk.addrs = wrk.lookup("127.0.0.1", dial) end
end

-- For the static request only: sections with more than one target send plain GETs.
local length = tonumber(os.getenv("BENCH_BODY") or "") or 0
if length > 0 then wrk.method, wrk.body = "PUT", ("x"):rep(length) end
for name, value in (os.getenv("BENCH_HEADERS") or ""):gmatch("([^:\n]+): ([^\n]*)") do wrk.headers[name] = value end

local function headers(uri)
  local host = uri:match("^http://([^/]+)")
  return host and { Host = host } or nil
end

if #uris == 1 then
  -- Left static: wrk formats it once.
  wrk.path = uris[1]
  local own = headers(uris[1])
  if own then wrk.headers["Host"] = own.Host end
elseif #uris > 1 then
  local requests, turn = {}, 0
  function init()
    for i, uri in ipairs(uris) do requests[i] = wrk.format("GET", uri, headers(uri)) end
  end
  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

if delay_ms then
  -- Uniform around the mean, so that connections do not march in step.
  function delay() return math.random(0, math.floor(2 * delay_ms)) end
end

function done(summary, latency)
  local errors = summary.errors
  local form = '\nbench {"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, '
    .. '"refused": %d, "broken": %d, "timeouts": %d}\n'
  io.write(form:format(summary.requests, summary.duration, summary.bytes, latency:percentile(50),
    latency:percentile(99), errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
