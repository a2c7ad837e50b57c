// A plain Node 20 script: fetch with undici's EnvHttpProxyAgent, because Node 20's own fetch looks at no proxy variable.
//
//   node node_client.mjs URL      environment: README.md (HTTPS_PROXY, http_proxy, NODE_EXTRA_CA_CERTS)
//
// undici is found through NODE_PATH (which `import` ignores and `require` honours) or in TESTKIT_NODE, the absolute
// path of the folder that holds node_modules (target/testkit/node).
// CLIENT_METHOD, CLIENT_BODY and CLIENT_HEADERS (a JSON object) shape the request. Prints one JSON line and exits 0
// when an answer came, whatever its status; exits 1 otherwise. fetch does not tell the HTTP version: it is null.
import { createRequire } from "node:module";
import { join } from "node:path";

const home = process.env.TESTKIT_NODE;
const require = createRequire(home ? join(home, "package.json") : import.meta.url);
const { EnvHttpProxyAgent, fetch, setGlobalDispatcher } = require("undici");

try {
  setGlobalDispatcher(new EnvHttpProxyAgent());
  const answer = await fetch(process.argv[2], {
    method: process.env.CLIENT_METHOD ?? "GET",
    body: process.env.CLIENT_BODY || undefined,
    headers: JSON.parse(process.env.CLIENT_HEADERS ?? "{}"),
    signal: AbortSignal.timeout(30_000),
  });
  const body = await answer.text();
  // Not process.exit() after console.log: it would cut a long line short on a pipe.
  console.log(JSON.stringify({ status: answer.status, version: null, body }));
} catch (error) {
  // fetch hides what went wrong in the causes.
  for (let e = error; e; e = e.cause) console.error(`${e.name}: ${e.code ?? ""} ${e.message}`);
  process.exitCode = 1;
}
