// A token server that refuses wrong clients: npm oidc-provider, with what a test needs around it.
//
//   node oidc_provider.mjs       environment: IDP_CONFIG (README.md), TESTKIT_NODE (as in tests/clients/node_client.mjs)
//
// Listens on 127.0.0.1, prints one JSON line {"port", "admin", "issuer", "token_url", "me_url"}, and ends with its stdin.
// With `tls` in the configuration `port` speaks TLS and asks for a client certificate; /count, /refusals and /admin are
// then served, unencrypted, on `admin` only, where there is no /token.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { generateKeyPairSync } from "node:crypto";
import http from "node:http";
import https from "node:https";
import { join } from "node:path";

// The first line on stdout is for the test; the library writes its notices there.
console.info = console.error;

const home = process.env.TESTKIT_NODE;
const require = createRequire(home ? join(home, "package.json") : import.meta.url);
const { Provider, errors } = require("oidc-provider");
const jose = require("jose");

const JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const METHODS = [
  "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "tls_client_auth",
  "self_signed_tls_client_auth", "none",
];
const ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

const config = JSON.parse(process.env.IDP_CONFIG ?? "{}");
const scopes = config.scopes ?? ["openid", "offline_access", "read", "write"];
const lifetime = config.access_token_ttl ?? 300;
// None by default: the client runs on this machine, and a token that has just expired is to be refused at once.
const tolerance = config.leeway ?? 0;
const issuers = new Map((config.assertion_issuers ?? []).map((entry) => [entry.iss, entry]));

// The library's own store in memory forgets the oldest of 1,000 entries, so a long test would see tokens vanish.
class Store {
  static entries = new Map();
  constructor(model) { this.model = model; }
  key(id) { return `${this.model}:${id}`; }
  async find(id) { return Store.entries.get(this.key(id)); }
  async upsert(id, payload) { Store.entries.set(this.key(id), payload); }
  async consume(id) { Store.entries.get(this.key(id)).consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { Store.entries.delete(this.key(id)); }
  async revokeByGrantId(grantId) {
    for (const [key, entry] of Store.entries) if (entry.grantId === grantId) Store.entries.delete(key);
  }
}

// RFC 8705 §2.1.2. Node writes one attribute a line, in the certificate's order; RFC 4514 reverses it. No escaping: the
// tests' names are simple.
const subjectOf = (certificate) => certificate.subject.split("\n").reverse().join(",");
const SAN = { dns: "DNS:", uri: "URI:", ip: "IP Address:", email: "email:" };
const certificateOf = (ctx) => (ctx.socket.encrypted ? ctx.socket.getPeerX509Certificate() : undefined);

function certificateNames(certificate, property, expected) {
  if (property === "tls_client_auth_subject_dn") return subjectOf(certificate) === expected;
  const prefix = SAN[property.slice("tls_client_auth_san_".length)];
  return (certificate.subjectAltName ?? "").split(", ").includes(prefix + expected);
}

function build(issuer) {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return new Provider(issuer, {
    adapter: Store,
    clients: config.clients ?? [],
    clientDefaults: {
      grant_types: ["client_credentials"], response_types: [], redirect_uris: [], id_token_signed_response_alg: "ES256",
    },
    clientAuthMethods: METHODS,
    clockTolerance: tolerance,
    cookies: { keys: ["unused"] },
    enabledJWA: { clientAuthSigningAlgValues: ["HS256", "HS384", "HS512", ...ALGORITHMS] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        async getResourceServerInfo(ctx, resource) {
          if (config.resources && !config.resources.includes(resource)) throw new errors.InvalidTarget();
          return { scope: scopes.join(" "), audience: resource, accessTokenFormat: "opaque" };
        },
      },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        certificateBoundAccessTokens: true,
        getCertificate: (ctx) => certificateOf(ctx)?.toString(),
        certificateAuthorized: (ctx) => ctx.socket.authorized === true,
        certificateSubjectMatches: (ctx, property, expected) => certificateNames(certificateOf(ctx), property, expected),
      },
    },
    findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), alg: "ES256", use: "sig" }] },
    rotateRefreshToken: config.rotate_refresh_tokens ?? true,
    scopes,
    ttl: {
      AccessToken: lifetime,
      ClientCredentials: lifetime,
      RefreshToken: config.refresh_token_ttl ?? 86400,
      Grant: 86400,
      IdToken: 300,
    },
  });
}

// RFC 7523 §2.1, which the library does not have.
async function assertionGrant(ctx) {
  const { client, params, provider } = ctx.oidc;
  if (!params.assertion) throw new errors.InvalidRequest("missing required parameter(s) 'assertion'");
  let claims;
  try {
    const entry = issuers.get(jose.decodeJwt(params.assertion).iss);
    if (!entry) throw new Error("unknown issuer");
    ({ payload: claims } = await jose.jwtVerify(params.assertion, jose.createLocalJWKSet(entry.jwks), {
      issuer: entry.iss,
      audience: [provider.issuer, `${provider.issuer}/token`],
      algorithms: entry.algorithms ?? ALGORITHMS,
      clientAuthMethods: METHODS,
    clockTolerance: tolerance,
      requiredClaims: entry.require_jti === false ? ["sub", "exp"] : ["sub", "exp", "jti"],
    }));
    if (entry.subjects && !entry.subjects.includes(claims.sub)) throw new Error("unknown subject");
  } catch (cause) {
    throw new errors.InvalidGrant({ cause });
  }
  if (claims.jti && !(await provider.ReplayDetection.unique(claims.iss, claims.jti, claims.exp + tolerance))) {
    throw new errors.InvalidGrant("assertion already used");
  }
  // Unknown scopes are dropped without a word, as in the library's own grants.
  const scope = (params.scope ?? claims.scope ?? "").split(" ").filter((s) => scopes.includes(s)).join(" ") || undefined;
  const token = new provider.AccessToken({ client, accountId: claims.sub, gty: "jwt_bearer", scope });
  if (params.resource) token.setAudience(params.resource);
  ctx.body = { access_token: await token.save(), expires_in: token.expiration, token_type: "Bearer", scope };
}

// What is a bearer token worth to an API? Asks the store, so that expiry and revocation count at once.
async function me(ctx, provider) {
  const value = /^Bearer (\S+)$/.exec(ctx.get("authorization"))?.[1];
  const token = (await provider.ClientCredentials.find(value)) ?? (await provider.AccessToken.find(value));
  const bound = token?.["x5t#S256"];
  const shown = bound && certificateOf(ctx)?.fingerprint256.replaceAll(":", "");
  if (!token || (bound && Buffer.from(shown ?? "", "hex").toString("base64url") !== bound)) {
    ctx.status = 401;
    ctx.set("www-authenticate", 'Bearer error="invalid_token"');
    ctx.body = { error: "invalid_token" };
    return;
  }
  const { clientId, accountId = clientId, scope = "", aud = null } = token;
  ctx.body = { sub: accountId, client_id: clientId, scope, aud };
}

// The login that would give the first refresh token, without the person.
async function newRefreshToken(provider, { client_id, scope = "read", sub = "user", resource, expires_in }) {
  const client = await provider.Client.find(client_id);
  if (!client) return undefined;
  const grant = new provider.Grant({ accountId: sub, client });
  grant.addOIDCScope(scope);
  if (resource) grant.addResourceScope(resource, scope);
  const grantId = await grant.save();
  const token = new provider.RefreshToken({
    accountId: sub, client, grantId, scope, resource, gty: "authorization_code", expiresIn: expires_in,
  });
  return { refresh_token: await token.save() };
}

// A refresh token goes with its whole grant, an access token alone.
async function revoke(provider, { refresh_token, access_token }) {
  const refresh = await provider.RefreshToken.find(refresh_token);
  const access = (await provider.ClientCredentials.find(access_token)) ?? (await provider.AccessToken.find(access_token));
  if (refresh) {
    await provider.RefreshToken.revokeByGrantId(refresh.grantId);
    await provider.Grant.adapter.destroy(refresh.grantId);
  }
  await access?.destroy();
  return refresh || access ? { revoked: true } : undefined;
}

const count = { token: 0, granted: 0, refused: 0 };
const refusals = [];

async function around(ctx, next, provider) {
  const admin = ctx.socket.localPort === ports.admin;
  const own = {
    "GET /count": () => count,
    "GET /refusals": () => refusals,
    "POST /admin/refresh-token": async () => newRefreshToken(provider, await body(ctx)),
    "POST /admin/revoke": async () => revoke(provider, await body(ctx)),
  }[`${ctx.method} ${ctx.path}`];
  if (ctx.path === "/me") return me(ctx, provider);
  if (own) {
    if (admin) ctx.body = (await own()) ?? ctx.throw(404);
    return;
  }
  if (admin && ports.admin !== ports.port) return;
  await next();
  if (ctx.method !== "POST" || ctx.path !== "/token") return;
  count.token += 1;
  count[ctx.status === 200 ? "granted" : "refused"] += 1;
}

async function body(ctx) {
  const parts = [];
  for await (const part of ctx.req) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}

// Listens first: the issuer names the port.
const listen = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
const pem = (value) => (value === undefined || value.includes("-----BEGIN") ? value : readFileSync(value));
const tls = config.tls && {
  cert: pem(config.tls.cert), key: pem(config.tls.key), ca: pem(config.tls.client_ca),
  // A client without or with an unknown certificate is refused as a client, not in the handshake.
  requestCert: true, rejectUnauthorized: false,
};
const server = tls ? https.createServer(tls) : http.createServer();
const adminServer = tls ? http.createServer() : server;
const ports = { port: await listen(server) };
ports.admin = tls ? await listen(adminServer) : ports.port;

const issuer = `${tls ? "https" : "http"}://${config.host ?? "127.0.0.1"}:${ports.port}`;
const provider = build(issuer);
provider.registerGrantType(JWT_BEARER, assertionGrant, ["assertion", "scope", "resource"]);
provider.use((ctx, next) => around(ctx, next, provider));
provider.on("server_error", (ctx, error) => console.error(error));
provider.on("grant.error", (ctx, { error, error_description, error_detail }) => {
  // The answer keeps the detail back, rightly; a test that fails wants it.
  refusals.push({ error, error_description, detail: error_detail ?? null });
});
// The library lets a client_secret_basic client use client_secret_post and the other way round; many servers don't.
const compare = provider.Client.prototype.compareClientSecret;
provider.Client.prototype.compareClientSecret = function compareClientSecret(given) {
  const used = Provider.ctx.headers.authorization === undefined ? "client_secret_post" : "client_secret_basic";
  return (config.any_secret_method || used === this.clientAuthMethod) && compare.call(this, given);
};
// The library checks a client at its first use. Here a mistake ends the server before it says that it listens.
for (const { client_id } of config.clients ?? []) await provider.Client.find(client_id);

const handle = provider.callback();
server.on("request", handle);
if (adminServer !== server) adminServer.on("request", handle);
process.stdin.resume().on("end", () => process.exit(0));
console.log(JSON.stringify({ ...ports, issuer, token_url: `${issuer}/token`, me_url: `${issuer}/me` }));
