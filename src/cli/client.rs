//! The management API as the commands use it: of a running Countersign, or of the store on this host.
//!
//! **Never takes a token from an argument, never sends one unencrypted to another machine, never follows a redirect.**

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use url::Url;

use super::{Context, Failure, variable};
use crate::base::Secret;
use crate::upstream::{Roots, system_roots};

/// Testing a credential is the longest that the API does: it waits for a provider.
const TIMEOUT: Duration = Duration::from_secs(120);

/// So many at once; the most that the API gives.
const PAGE: usize = 1000;

/// Where the commands are carried out, and how they answer.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Where and how")]
pub(super) struct Target {
    /// The admin listener of a running Countersign: https://HOST:PORT, http://127.0.0.1:8190, unix:/PATH [env:
    /// COUNTERSIGN_SERVER; without either, the store of the configuration on this host]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// A file that holds the management token for it [default: COUNTERSIGN_TOKEN of the environment]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Further root certificates to verify it against, PEM
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Let token and secrets travel unencrypted to a --server on another machine
    #[arg(long, global = true)]
    allow_cleartext_server: bool,
    /// Answer with JSON, as it is done where no terminal reads it
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Answer with a table, as it is done on a terminal
    #[arg(long, global = true, conflicts_with = "json")]
    pub(super) table: bool,
}

impl Target {
    /// What a Countersign that is called is verified against.
    pub(super) fn roots(&self) -> Result<Roots, Failure> {
        match &self.ca_file {
            Some(path) => system_roots().with_file(path).map_err(Failure::Other),
            None => Ok(system_roots()),
        }
    }
}

/// The management API.
pub(super) struct Client {
    transport: Transport,
    place: String,
}

enum Transport {
    /// A running Countersign.
    Remote { http: reqwest::Client, base: String, authorization: HeaderValue },
    /// The same API in this process, upon the store of this host, without a listener.
    Local(Router),
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// 200, 201, 204.
    pub(super) status: StatusCode,
    /// Its document; null for none.
    pub(super) body: Value,
}

/// Why a call was not successful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denied {
    /// The API's status; none when there was no answer, so that nothing is known of what became of the call.
    pub(super) status: Option<StatusCode>,
    /// A sentence.
    pub(super) why: String,
}

impl Denied {
    /// Whether there is nothing of that name.
    pub(super) fn is_unknown(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// Whether the call certainly changed nothing.
    pub(super) fn is_certain(&self) -> bool {
        self.status.is_some_and(|status| status.is_client_error())
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::Other(denied.why)
    }
}

/// What a call says beside its body.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Condition {
    /// Nothing.
    #[default]
    None,
    /// Only if this is the present version.
    Version(i64),
    /// Only if there is none yet.
    New,
}

impl Client {
    /// The API that the options and the environment name.
    pub(super) async fn open(context: &Context, target: &Target) -> Result<Self, Failure> {
        let server = target.server.clone().or_else(|| variable(context, "COUNTERSIGN_SERVER"));
        match server.filter(|server| !server.is_empty()) {
            Some(server) => Self::remote(context, target, &server).await,
            None if target.token_file.is_some() || target.ca_file.is_some() => Err(Failure::Usage(
                "--token-file and --ca-file go with --server; without it the store on this host is used, and no token is needed"
                    .into(),
            )),
            None => Self::local(context).await,
        }
    }

    async fn remote(context: &Context, target: &Target, server: &str) -> Result<Self, Failure> {
        let address = Address::parse("--server", server, target.allow_cleartext_server).map_err(Failure::Usage)?;
        let token = match &target.token_file {
            Some(path) => crate::source::read_file(path).await.map_err(|error| Failure::Other(error.0))?,
            None => {
                // Not state/admin-token by itself: whoever names a server has not said that this host's token is for it.
                let token = variable(context, "COUNTERSIGN_TOKEN").map(|token| Secret::new(token.into_bytes()));
                token.filter(|token| !token.is_empty()).ok_or_else(no_token)?
            }
        };
        let text = token.expose_str().map(str::trim).unwrap_or_default();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {text}"))
            .ok()
            .filter(|_| !text.is_empty())
            .ok_or_else(|| Failure::Other("the management token is empty or no text".into()))?;
        authorization.set_sensitive(true);
        let mut tls = target.roots()?.client_config().map_err(Failure::Other)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .timeout(TIMEOUT);
        if let Some(socket) = &address.socket {
            builder = builder.unix_socket(socket.clone());
        }
        let http = builder.build().map_err(|error| Failure::Other(error.without_url().to_string()))?;
        let place = server.trim_end_matches('/').to_owned();
        Ok(Self { transport: Transport::Remote { http, base: address.base, authorization }, place })
    }

    async fn local(context: &Context) -> Result<Self, Failure> {
        let (path, config) = context.load()?;
        context.start_quiet_logs();
        let (router, audit) = crate::app::manage(config, &context.deps).await?;
        context.closes(audit);
        Ok(Self { transport: Transport::Local(router), place: path.display().to_string() })
    }

    /// Which Countersign this is, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Whether it is the store on this host, and nothing listens.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.transport, Transport::Local(_))
    }

    /// The host of a Countersign on another machine.
    pub(super) fn elsewhere(&self) -> Option<String> {
        let Transport::Remote { base, .. } = &self.transport else { return None };
        let url = Url::parse(base).ok().filter(|url| !is_this_host(url.host()))?;
        url.host_str().map(str::to_owned)
    }

    /// Asks for something.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Denied> {
        Ok(self.call(Method::GET, path, None, Condition::None).await?.body)
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Denied> {
        self.call(Method::DELETE, path, None, Condition::None).await.map(drop)
    }

    /// Sends a document.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        condition: Condition,
    ) -> Result<Reply, Denied> {
        self.call(method, path, Some(body), condition).await
    }

    /// Everything of a list, page by page.
    pub(super) async fn all(&self, path: &str, key: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Denied> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut pairs = url::form_urlencoded::Serializer::new(String::new());
            pairs.extend_pairs(query).append_pair("limit", &PAGE.to_string());
            if let Some(after) = &after {
                pairs.append_pair("after", after);
            }
            let mut page = self.get(&format!("{path}?{}", pairs.finish())).await?;
            let Some(Value::Array(items)) = page.get_mut(key).map(Value::take) else {
                return Err(self.strange(None, &format!("there is no list `{key}` in its answer")));
            };
            all.extend(items);
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            // The same place again would never end.
            if next.is_none() || next == after {
                return Ok(all);
            }
            after = next;
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        condition: Condition,
    ) -> Result<Reply, Denied> {
        let bytes = zeroize::Zeroizing::new(body.map(Value::to_string).unwrap_or_default().into_bytes());
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if body.is_some() {
            let patch = method == Method::PATCH;
            let kind = if patch { "application/merge-patch+json" } else { "application/json" };
            headers.push((CONTENT_TYPE, HeaderValue::from_static(kind)));
        }
        match condition {
            Condition::None => {}
            Condition::New => headers.push((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Condition::Version(version) => {
                let tag = HeaderValue::from_str(&format!("\"{version}\""));
                headers.extend(tag.ok().map(|tag| (IF_MATCH, tag)));
            }
        }
        let lost = |why: String| Denied { status: None, why: format!("no answer from {}: {why}", self.place) };
        let (status, answer) = match &self.transport {
            Transport::Remote { http, base, authorization } => {
                let mut request = http.request(method, format!("{base}{path}"));
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let request = request.header(AUTHORIZATION, authorization.clone()).body(bytes.to_vec());
                let answer = request.send().await.map_err(|error| lost(innermost(&error.without_url())))?;
                let status = answer.status();
                let answer = answer.bytes().await.map_err(|error| lost(innermost(&error.without_url())))?;
                (status, answer)
            }
            Transport::Local(router) => {
                let mut request = Request::builder().method(method).uri(path);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let request = request.header(http::header::HOST, "localhost");
                let request = request.body(axum::body::Body::from(bytes.to_vec()));
                let request = request.map_err(|error| lost(error.to_string()))?;
                let answer = router.clone().oneshot(request).await.map_err(|never| lost(never.to_string()))?;
                let status = answer.status();
                let answer = answer.into_body().collect().await.map_err(|error| lost(error.to_string()))?;
                (status, answer.to_bytes())
            }
        };
        self.read(status, &answer)
    }

    fn read(&self, status: StatusCode, answer: &[u8]) -> Result<Reply, Denied> {
        let document: Option<Value> = serde_json::from_slice(answer).ok();
        if status.is_success() {
            return match document {
                Some(body) => Ok(Reply { status, body }),
                None if answer.is_empty() => Ok(Reply { status, body: Value::Null }),
                None => Err(self.strange(Some(status), "its answer is not JSON")),
            };
        }
        let text = |key: &str| document.as_ref().and_then(|document| document.get(key)).and_then(Value::as_str);
        let Some(said) = text("detail").or_else(|| text("title")) else {
            return Err(self.strange(Some(status), &format!("it answered {status}")));
        };
        let at = text("path").filter(|path| !path.is_empty()).map(|path| format!("{path}: ")).unwrap_or_default();
        let why = match status {
            StatusCode::UNAUTHORIZED => format!("{} does not accept the management token: {said}", self.place),
            _ => format!("{at}{said}"),
        };
        Err(Denied { status: Some(status), why })
    }

    /// Something answers there that is not the API.
    fn strange(&self, status: Option<StatusCode>, why: &str) -> Denied {
        let why = format!("{} is no admin listener of Countersign with a management API: {why}", self.place);
        Denied { status, why }
    }
}

fn no_token() -> Failure {
    Failure::Usage(
        "a management token is needed: set COUNTERSIGN_TOKEN, or name a file with --token-file (the first one that a \
         Countersign makes is in the file admin-token beside its store)"
            .into(),
    )
}

/// The cause at the bottom says what happened; those above it repeat that something did.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Where the admin listener is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What stands before every path.
    pub(super) base: String,
    /// The socket that leads there, in place of a host.
    pub(super) socket: Option<PathBuf>,
}

impl Address {
    /// Reads what the option `option` says.
    pub(super) fn parse(option: &str, text: &str, allow_cleartext: bool) -> Result<Self, String> {
        let wrong = |why: &str| format!("{option} {text}: {why}");
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(wrong("a unix socket needs a path from the root: unix:/run/countersign/admin.sock"));
            }
            return Ok(Self { base: "http://localhost".into(), socket: Some(Path::new(path).into()) });
        }
        // As listeners have it: 127.0.0.1:8190, localhost:8190.
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let what = "write https://HOST:PORT, http://127.0.0.1:8190 or unix:/path";
        let url = Url::parse(&full).map_err(|_| wrong(what))?;
        if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
            return Err(wrong(what));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{option}: no token or password stands in an address; set COUNTERSIGN_TOKEN"));
        }
        if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
            return Err(wrong("only scheme, host and port"));
        }
        if url.scheme() == "http" && !is_this_host(url.host()) && !allow_cleartext {
            return Err(wrong(
                "token and secrets would travel unencrypted; use https, or say --allow-cleartext-server",
            ));
        }
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), socket: None })
    }
}

/// Whether a host's name or address never leads away from this one.
pub(super) fn is_this_host(host: Option<url::Host<&str>>) -> bool {
    match host {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A path of the API below an account: each segment is encoded.
pub(super) fn path(account: &str, segments: &[&str]) -> String {
    below(&[&["accounts", account], segments].concat())
}

/// A path of the API.
pub(super) fn below(segments: &[&str]) -> String {
    let mut path = String::from("/v1");
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Json, extract::Query};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_leads_to_this_host_or_is_encrypted() {
        for (text, base) in [
            ("https://cs.example:8190", "https://cs.example:8190"),
            ("https://cs.example/", "https://cs.example"),
            ("127.0.0.1:8190", "http://127.0.0.1:8190"),
            ("http://localhost:8190", "http://localhost:8190"),
            ("http://[::1]:8190", "http://[::1]:8190"),
        ] {
            assert_eq!(Address::parse("--server", text, false).unwrap().base, base);
        }
        let socket = Address::parse("--server", "unix:/run/a.sock", false).unwrap();
        assert_eq!(socket.socket, Some(PathBuf::from("/run/a.sock")));
        for text in [
            "http://cs.example:8190",
            "10.0.0.1:8190",
            "http://localhost.evil.test",
            "unix:run/a.sock",
            "ftp://127.0.0.1",
            "https://",
            "https://me:secret@cs.example",
            "https://cs.example/api",
            "https://cs.example/?a=b",
        ] {
            let error = Address::parse("--server", text, false).unwrap_err();
            assert!(!error.contains("secret@"), "{error}");
        }
        assert!(Address::parse("--server", "http://cs.example:8190", true).is_ok());
    }

    #[test]
    fn no_id_leads_to_another_path() {
        assert_eq!(
            path("default", &["credentials", "a b/../c?d"]),
            "/v1/accounts/default/credentials/a%20b%2F..%2Fc%3Fd"
        );
    }

    fn local(router: Router) -> Client {
        Client { transport: Transport::Local(router), place: "here".into() }
    }

    #[tokio::test]
    async fn every_page_of_a_list_is_asked_for_and_one_that_leads_to_itself_ends() {
        #[derive(serde::Deserialize)]
        struct Asked {
            after: Option<String>,
            limit: usize,
            filter: Option<String>,
        }
        let answer = |Query(asked): Query<Asked>| async move {
            assert_eq!((asked.limit, asked.filter.as_deref()), (PAGE, Some("id eq 'a b'")));
            Json(match asked.after.as_deref() {
                None => json!({"things": [1, 2], "next": "2"}),
                Some("2") => json!({"things": [3], "next": "3"}),
                Some(_) => json!({"things": [4], "next": "3"}),
            })
        };
        let client = local(Router::new().route("/v1/things", get(answer)));
        let all = client.all("/v1/things", "things", &[("filter", "id eq 'a b'")]).await.unwrap();
        assert_eq!(Value::from(all), json!([1, 2, 3, 4]));
        assert!(client.all("/v1/things", "others", &[("filter", "id eq 'a b'")]).await.is_err());
    }

    #[tokio::test]
    async fn a_problem_is_said_with_its_place_and_what_is_no_problem_document_is_told_as_that() {
        let problem = || async {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"detail": "not a URL", "path": "settings.token_url"})))
        };
        let router = Router::new()
            .route("/v1/a", get(problem))
            .route("/v1/b", get(|| async { (StatusCode::BAD_GATEWAY, "<html>") }))
            .route("/v1/c", get(|| async { "pong" }));
        let client = local(router);
        let denied = client.get("/v1/a").await.unwrap_err();
        assert_eq!(denied.why, "settings.token_url: not a URL");
        assert!(denied.is_certain());
        let denied = client.get("/v1/b").await.unwrap_err();
        assert!(denied.why.contains("no admin listener") && !denied.is_certain(), "{denied:?}");
        assert!(client.get("/v1/c").await.unwrap_err().why.contains("not JSON"));
        assert!(client.get("/v1/d").await.unwrap_err().is_unknown());
    }
}
