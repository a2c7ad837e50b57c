//! Pooled connections and sending: one [`Egress`] for each set of addresses that may be reached.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connect::{Connector, Dialer, unreachable};
use super::guard::{Guard, OwnAddresses};
use super::link::{Link, Links, Owner};
use super::plain::{Failure, Plain};
use super::tls::Roots;
use super::{ProxySettings, Settings};
use crate::base::Secrets;
use crate::base::body::{BoxError, Watch};
use crate::base::{Body, Code, Destination, Fault, Host, Protocol, Refusal};

/// Idle connections kept per destination and egress; more than this at once are closed after use.
const IDLE_PER_HOST: usize = 256;

/// HTTP/2 windows towards upstreams: room for a fast stream over a slow path, and little enough that ten of them fit.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Everything that goes out. Connections opened under a wider leave of the guard are never shared with a narrower one.
pub struct Upstream {
    settings: Settings,
    roots: Roots,
    own: OwnAddresses,
    resolve: Arc<HashMap<(Host, u16), std::net::SocketAddr>>,
    proxy: Option<Arc<Matcher>>,
    plain: Arc<Egress>,
    wider: Mutex<HashMap<Arc<[IpNet]>, Arc<Egress>>>,
}

impl Upstream {
    /// Prepares clients; connects to nothing.
    ///
    /// # Errors
    /// What is wrong with the section, with the path of its key.
    pub fn new(
        settings: Settings,
        secrets: &Secrets,
        system: &Roots,
        own: OwnAddresses,
    ) -> Result<Self, (String, String)> {
        let roots = match &settings.ca_file {
            Some(path) => system.clone().with_file(path).map_err(|why| ("ca_file".to_owned(), why))?,
            None => system.clone(),
        };
        let mut resolve = HashMap::new();
        for (name, address) in &settings.resolve {
            let key = format!("resolve.{name}");
            let destination = Destination::from_connect(name).map_err(|_| {
                (key, "write \"host:port\": address:port, as in \"api.example.com:443\": 127.0.0.1:4443".to_owned())
            })?;
            resolve.insert((destination.host().clone(), destination.port()), *address);
        }
        let resolve = Arc::new(resolve);
        let proxy = settings.proxy.as_ref().map(|proxy| matcher(proxy, secrets)).transpose()?.map(Arc::new);
        let allowed: Arc<[IpNet]> = settings.allow_addresses.clone().into();
        let guard = Guard::new(allowed, Arc::clone(&own));
        let plain =
            Egress::new(&settings, guard, &roots, &resolve, proxy.as_ref()).map_err(|why| (String::new(), why))?;
        Ok(Self { settings, roots, own, resolve, proxy, plain: Arc::new(plain), wider: Mutex::default() })
    }

    /// Whether this was built from the same settings and roots, so that its connections can be kept.
    pub fn is_same(&self, settings: &Settings, system: &Roots) -> bool {
        // A root file or a secret behind the proxy may have changed under the same name.
        self.settings == *settings
            && settings.ca_file.is_none()
            && settings.references().is_empty()
            && self.roots == *system
    }

    /// A dialer under another guard, with this room's names and corporate proxy.
    pub(super) fn dialer(&self, guard: Guard) -> Dialer {
        Dialer {
            guard,
            resolve: Arc::clone(&self.resolve),
            proxy: self.proxy.as_ref().map(Arc::clone),
            timeout: self.settings.connect_timeout,
        }
    }

    /// The settings it was built from.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The roots that TLS peers are verified against.
    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The addresses of our own listeners.
    pub(super) fn own(&self) -> &OwnAddresses {
        &self.own
    }

    /// The way out for a binding that may also reach these addresses.
    ///
    /// # Errors
    /// When the TLS library refuses the roots, which it did not when this was built.
    pub fn egress(&self, also: &Arc<[IpNet]>) -> Result<Arc<Egress>, Refusal> {
        if also.is_empty() {
            return Ok(Arc::clone(&self.plain));
        }
        let mut wider = self.wider.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(egress) = wider.get(also) {
            return Ok(Arc::clone(egress));
        }
        let allowed: Vec<IpNet> = self.settings.allow_addresses.iter().chain(also.iter()).copied().collect();
        let guard = Guard::new(allowed, Arc::clone(&self.own));
        let egress = Egress::new(&self.settings, guard, &self.roots, &self.resolve, self.proxy.as_ref())
            .map_err(|why| unreachable("proxy_internal_error", why))?;
        let egress = Arc::new(egress);
        wider.insert(Arc::clone(also), Arc::clone(&egress));
        Ok(egress)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The proxy matcher of the settings.
fn matcher(settings: &ProxySettings, secrets: &Secrets) -> Result<Matcher, (String, String)> {
    let at = |key: &str, why: String| (format!("proxy{key}"), why);
    let (address, credentials, exceptions, literal) = match settings {
        ProxySettings::Address(address) => (address.clone(), None, String::new(), true),
        ProxySettings::Full(parts) => {
            let address = secrets.public(&parts.url).map_err(|error| at(".url", error.0))?;
            let username = parts.username.as_ref().map(|field| secrets.public(field)).transpose();
            let username = username.map_err(|error| at(".username", error.0))?;
            let password = parts.password.as_ref().map(|field| secrets.field(field)).transpose();
            let password = password.map_err(|error| at(".password", error.0))?;
            let credentials = match (username, password) {
                (Some(username), Some(password)) => Some((username, password)),
                (None, None) => None,
                _ => return Err(at("", "`username` and `password` go together".into())),
            };
            (address, credentials, parts.no_proxy.join(","), parts.url.reference().is_none())
        }
    };
    let mut url = url::Url::parse(&address).map_err(|_| at("", "not an address; write http://host:port".into()))?;
    if url.scheme() != "http" || url.host().is_none() {
        return Err(at("", "only http:// proxies can be chained to; write http://host:port".into()));
    }
    if literal && (!url.username().is_empty() || url.password().is_some()) {
        return Err(at(
            "",
            "a secret does not stand in this file; use `username` and `password: { env: NAME }`".into(),
        ));
    }
    if let Some((username, password)) = credentials {
        let password = password.expose_str().ok_or_else(|| at(".password", "not text".into()))?;
        let set = url.set_username(&username).and_then(|()| url.set_password(Some(password)));
        set.map_err(|()| at("", "this address cannot carry credentials".into()))?;
    }
    Ok(Matcher::builder().all(String::from(url)).no(exceptions).build())
}

/// A way out: a guard, and the connections that were opened under it.
pub struct Egress {
    any: Client<Connector, Body>,
    h1: Client<Connector, Body>,
    plain: Arc<Plain>,
    links: Arc<Links>,
    dialer: Dialer,
    response_timeout: Duration,
}

/// A request that brought no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub refusal: Refusal,
    /// None of it went out.
    pub untouched: bool,
}

impl Egress {
    fn new(
        settings: &Settings,
        guard: Guard,
        roots: &Roots,
        resolve: &Arc<HashMap<(Host, u16), std::net::SocketAddr>>,
        proxy: Option<&Arc<Matcher>>,
    ) -> Result<Self, String> {
        let dialer = Dialer {
            guard,
            resolve: Arc::clone(resolve),
            proxy: proxy.map(Arc::clone),
            timeout: settings.connect_timeout,
        };
        let connector = |protocols: &[&[u8]]| -> Result<Connector, String> {
            let mut tls = roots.client_config()?;
            tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok(Connector { dialer: dialer.clone(), tls: Arc::new(tls) })
        };
        let client = |connector: Connector| -> Client<Connector, Body> {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(settings.idle_timeout)
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .build(connector)
        };
        let any = client(connector(&[b"h2", b"http/1.1"])?);
        let only_h1 = connector(&[b"http/1.1"])?;
        let plain = Arc::new(Plain::new(only_h1.clone(), IDLE_PER_HOST, settings.idle_timeout));
        let links = Arc::new(Links::new(only_h1.clone(), settings.idle_timeout));
        let h1 = client(only_h1);
        Ok(Self { any, h1, plain, links, dialer, response_timeout: settings.response_timeout })
    }

    /// Sends a request to its destination and returns the head of the answer with its body still on the way.
    ///
    /// The target is rebuilt from the destination; `h1_only` is for upgrades and for `Expect: 100-continue`, which
    /// HTTP/2 does not carry here.
    ///
    /// # Errors
    /// `upstream_unreachable`, `upstream_timeout`, `destination_forbidden`, `bad_request` when the caller's body broke.
    pub async fn send(
        &self,
        destination: &Destination,
        request: Request<Body>,
        h1_only: bool,
    ) -> Result<Response<Incoming>, Refusal> {
        let way = match destination.protocol() {
            _ if h1_only => Way::Client(&self.h1),
            Protocol::Http if self.dialer.proxy.is_none() && *request.method() != Method::CONNECT => Way::Plain,
            Protocol::Http | Protocol::Https => Way::Client(&self.any),
        };
        self.send_by(way, destination, request).await.map_err(|unsent| unsent.refusal)
    }

    /// An idle connection of this owner, on which its credential was proven.
    pub fn proven_link(&self, owner: &Owner, destination: &Destination) -> Option<Link> {
        self.links.take(owner, destination)
    }

    /// A new connection that nobody else will use.
    ///
    /// # Errors
    /// As [`Egress::send`].
    pub async fn link(&self, destination: &Destination) -> Result<Link, Refusal> {
        self.links.connect(destination).await.map_err(|failure| match failure {
            Failure::Connect(refusal) => refusal,
            Failure::Broken(error) => explain(&error),
        })
    }

    /// Sends a request over a connection of one owner.
    ///
    /// # Errors
    /// As [`Egress::send`], and whether anything of the request went out.
    pub async fn send_over(&self, link: &mut Link, request: Request<Body>) -> Result<Response<Incoming>, Unanswered> {
        let destination = link.destination().clone();
        self.send_by(Way::Link(link), &destination, request).await
    }

    /// Keeps a connection for its owner, once the answer on it has been read. `spare` ones are not kept beside another.
    pub fn keep(&self, owner: Owner, link: Link, spare: bool) {
        if !(spare && self.links.has(&owner, link.destination())) {
            self.links.keep(owner, link);
        }
    }

    #[cfg(test)]
    pub(super) fn links(&self) -> &Arc<Links> {
        &self.links
    }

    async fn send_by(
        &self,
        way: Way<'_>,
        destination: &Destination,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let unsent = |refusal| Unanswered { refusal, untouched: true };
        let mut target = std::mem::take(request.uri_mut()).into_parts();
        (target.scheme, target.authority) = match (&way, destination.protocol()) {
            (Way::Plain | Way::Link(_), _) => (None, None),
            (_, Protocol::Http) => (Some(http::uri::Scheme::HTTP), Some(destination.authority().clone())),
            (_, Protocol::Https) => (Some(http::uri::Scheme::HTTPS), Some(destination.authority().clone())),
        };
        if target.path_and_query.is_none() {
            target.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        *request.uri_mut() =
            Uri::from_parts(target).map_err(|_| unsent(Refusal::bad_request("not a request target")))?;
        *request.version_mut() = http::Version::HTTP_11;
        if destination.protocol() == Protocol::Http
            && !matches!(way, Way::Link(_))
            && self.dialer.proxy.is_some()
            && let Some(auth) = self.dialer.via(destination).as_ref().and_then(|proxy| proxy.basic_auth())
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        if destination.protocol() == Protocol::Http || matches!(way, Way::Link(_)) {
            // The client would write the same text anew for every request. Over TLS it may come to speak HTTP/2, which has
            // no Host.
            request.headers_mut().insert(HOST, destination.host_header().clone());
        }
        if request.body().is_end_stream() {
            return match tokio::time::timeout(self.response_timeout, self.exchange(way, destination, request)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.no_answer().into()),
            };
        }
        let unknown_length =
            request.body().size_hint().exact().is_none() && !request.headers().contains_key(CONTENT_LENGTH);
        if unknown_length && matches!(*request.method(), Method::GET | Method::HEAD) {
            // hyper sends no body with these methods unless it is told how.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // While the body moves, the upstream cannot be expected to answer: the time starts again with every frame.
        let progress =
            Arc::new(Progress { began: Instant::now(), last: AtomicU64::new(0), starved: AtomicBool::new(false) });
        let request = request.map(|body| body.watched(Box::new(Watched(Arc::clone(&progress)))));
        let mut answer = std::pin::pin!(self.exchange(way, destination, request));
        loop {
            let last = Duration::from_micros(progress.last.load(Ordering::Relaxed));
            let until = progress.began + last + self.response_timeout;
            match tokio::time::timeout_at(until, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if Duration::from_micros(progress.last.load(Ordering::Relaxed)) > last => {}
                Err(_) if progress.starved.load(Ordering::Relaxed) => return Err(self.no_body().into()),
                Err(_) => return Err(self.no_answer().into()),
            }
        }
    }

    async fn exchange(
        &self,
        way: Way<'_>,
        destination: &Destination,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Unanswered> {
        match way {
            Way::Client(client) => client.request(request).await.map_err(|error| explain(&error).into()),
            Way::Plain => self.plain.send(destination, request).await.map_err(|failure| match failure {
                Failure::Connect(refusal) => refusal.into(),
                Failure::Broken(error) => explain(&error).into(),
            }),
            Way::Link(link) => link.sender.try_send_request(request).await.map_err(|mut error| {
                let untouched = error.take_message().is_some();
                Unanswered { refusal: explain(&error.into_error()), untouched }
            }),
        }
    }

    /// What the guard would say of a destination whose address is known without DNS: a literal, or one in `resolve`.
    ///
    /// # Errors
    /// `destination_forbidden`.
    pub fn foresee(&self, destination: &Destination) -> Result<(), Refusal> {
        let port = destination.port();
        let known = match (self.dialer.resolve.get(destination.place()), destination.host()) {
            (Some(address), _) => Some(*address),
            (None, Host::Address(ip)) => Some(std::net::SocketAddr::new(*ip, port)),
            (None, Host::Name(_)) => None,
        };
        known.map_or(Ok(()), |address| self.dialer.guard.check(address))
    }

    /// What the guard says of where a redirected connection was going: see [`super::Guard::check_captured`].
    ///
    /// # Errors
    /// `destination_forbidden`.
    pub fn check_captured(&self, captured: std::net::SocketAddr, peer: std::net::SocketAddr) -> Result<(), Refusal> {
        self.dialer.guard.check_captured(captured, peer)
    }

    /// A connection for a blind tunnel.
    ///
    /// # Errors
    /// As [`Egress::send`].
    pub async fn tunnel(&self, destination: &Destination) -> Result<TcpStream, Refusal> {
        let timeout = self.dialer.timeout;
        match tokio::time::timeout(timeout, self.dialer.reach(destination, true)).await {
            Ok(reached) => reached.map(|(stream, _)| stream),
            Err(_) => Err(Refusal::new(Code::UpstreamTimeout, format!("no connection to {}", destination.host()))
                .with_proxy_error("connection_timeout")),
        }
    }

    fn no_body(&self) -> Refusal {
        Refusal::new(
            Code::Overloaded,
            format!("no more of the request body came within {} s", self.response_timeout.as_secs_f32()),
        )
        .with_status(StatusCode::REQUEST_TIMEOUT)
        .with_proxy_error("http_request_error")
        .with_fault(Fault::Caller)
    }

    fn no_answer(&self) -> Refusal {
        Refusal::new(
            Code::UpstreamTimeout,
            format!("no answer within {} s (`upstream.response_timeout`)", self.response_timeout.as_secs_f32()),
        )
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Egress")
    }
}

/// How a request goes out.
enum Way<'a> {
    /// By a client that makes its choice by TLS, or knows how to speak to a corporate proxy.
    Client(&'a Client<Connector, Body>),
    /// By a cleartext connection of our own.
    Plain,
    /// By a connection that has an owner.
    Link(&'a mut Link),
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, untouched: false }
    }
}

/// How a request body moves.
struct Progress {
    began: Instant,
    /// When something was last sent, in microseconds since it began.
    last: AtomicU64,
    /// We would send more, and the caller gives nothing.
    starved: AtomicBool,
}

struct Watched(Arc<Progress>);

impl Watch for Watched {
    fn passed(&mut self, _: usize) {
        let last = self.0.began.elapsed().as_micros() as u64;
        self.0.last.store(last, Ordering::Relaxed);
        self.0.starved.store(false, Ordering::Relaxed);
    }
    fn waiting(&mut self) {
        self.0.starved.store(true, Ordering::Relaxed);
    }
    fn ended(&mut self) {
        self.passed(0);
    }
    fn failed(&mut self, _: &BoxError) {}
}

/// Turns a client error into a refusal: our own from the connector as it is, the rest by what broke.
fn explain(error: &(dyn std::error::Error + 'static)) -> Refusal {
    let mut source = Some(error);
    let mut body_broke = false;
    let mut incomplete = false;
    let mut last = String::new();
    while let Some(inner) = source {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return refusal.clone();
        }
        if let Some(inner) = inner.downcast_ref::<hyper::Error>() {
            body_broke |= inner.is_user();
            incomplete |= inner.is_incomplete_message() || inner.is_canceled() || inner.is_closed();
        }
        last = inner.to_string();
        source = inner.source();
    }
    if body_broke {
        return Refusal::bad_request("the request body ended before it was complete, or is malformed");
    }
    let kind = if incomplete { "connection_terminated" } else { "http_protocol_error" };
    unreachable(kind, format!("the upstream gave no answer: {last}"))
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;

    fn build(settings: Settings) -> Result<Upstream, (String, String)> {
        let own = Arc::new(ArcSwap::from_pointee(Vec::new()));
        Upstream::new(settings, &Secrets::default(), &Roots::default(), own)
    }

    #[test]
    fn a_proxy_address_with_a_password_in_it_is_refused_and_not_repeated() {
        let proxy =
            |address: &str| Settings { proxy: Some(ProxySettings::Address(address.into())), ..Settings::default() };
        assert!(build(proxy("http://proxy.test:3128")).is_ok());
        for address in
            ["http://u:hunter2@proxy.test:3128", "https://proxy.test", "proxy.test:3128", "socks5://proxy.test"]
        {
            let (path, why) = build(proxy(address)).unwrap_err();
            assert!(path.starts_with("proxy") && !why.contains("hunter2"), "{address}: {why}");
        }
    }

    #[test]
    fn exceptions_are_dialled_directly() {
        let parts = super::super::ProxyParts {
            url: crate::base::Public::Literal("http://proxy.test:3128".into()),
            username: None,
            password: None,
            no_proxy: vec!["direct.test".into(), ".corp.test".into(), "10.0.0.0/8".into()],
        };
        let upstream = build(Settings { proxy: Some(ProxySettings::Full(parts)), ..Settings::default() }).unwrap();
        let via = |host: &str| upstream.plain.dialer.via(&Destination::from_connect(host).unwrap()).is_some();
        assert!(via("api.test:443") && via("11.0.0.1:443"));
        assert!(!via("direct.test:443") && !via("a.corp.test:443") && !via("10.2.3.4:443"));
    }

    #[test]
    fn a_resolve_entry_needs_a_port() {
        let settings = |name: &str| Settings {
            resolve: [(name.to_owned(), "127.0.0.1:1".parse().unwrap())].into(),
            ..Settings::default()
        };
        assert!(build(settings("api.test:443")).is_ok());
        assert!(build(settings("api.test")).is_err());
    }
}
