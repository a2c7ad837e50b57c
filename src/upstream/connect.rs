//! Making a connection to a destination: DNS, the guard, TCP, a corporate proxy where there is one, TLS.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::guard::Guard;
use super::moment;
use crate::base::{Code, Destination, Host, Protocol, Refusal};

/// Probes an idle peer after a minute, so that a vanished one does not hold a connection for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection to an upstream.
pub(super) enum Stream {
    Plain { io: TcpStream, proxied: bool, _open: Open },
    Tls(Box<TlsStream<TcpStream>>, #[expect(dead_code, reason = "counts as long as it is there")] Open),
}

/// Counts a connection as long as it is open.
pub(super) struct Open(metrics::Gauge);

impl Open {
    fn new(protocol: &'static str) -> Self {
        metrics::counter!("countersign_upstream_connections_total", "protocol" => protocol).increment(1);
        let open = metrics::gauge!("countersign_upstream_connections_open", "protocol" => protocol);
        open.increment(1);
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// What every dial needs; one per egress.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) guard: Guard,
    pub(super) resolve: Arc<HashMap<(Host, u16), SocketAddr>>,
    pub(super) proxy: Option<Arc<Matcher>>,
    pub(super) timeout: Duration,
}

impl Dialer {
    /// A TCP connection to a destination, guarded.
    ///
    /// # Errors
    /// `upstream_unreachable`, `upstream_timeout`, `destination_forbidden`.
    pub(super) async fn dial(&self, destination: &Destination) -> Result<TcpStream, Refusal> {
        let (host, port) = (destination.host(), destination.port());
        let addresses = self.addresses(destination).await?;
        let stream = connect_any(&addresses).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "destination_ip_unroutable",
                _ => "destination_unavailable",
            };
            unreachable(kind, format!("no connection to {host} port {port}: {error}"))
        })?;
        if let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) {
            self.guard.check_connected(local, peer)?;
        }
        configure(&stream);
        Ok(stream)
    }

    /// The addresses of a destination that may be dialled: what `resolve` says, or else DNS; each seen by the guard.
    ///
    /// # Errors
    /// `upstream_unreachable` when there is none, `destination_forbidden` when the guard refuses all.
    pub(super) async fn addresses(&self, destination: &Destination) -> Result<Vec<SocketAddr>, Refusal> {
        let (host, port) = (destination.host(), destination.port());
        let mut addresses: Vec<SocketAddr> = match (self.resolved(destination), host) {
            (Some(address), _) => vec![address],
            (None, Host::Address(ip)) => vec![SocketAddr::new(*ip, port)],
            (None, Host::Name(name)) => lookup(name, port).await?,
        };
        let mut refusal = None;
        addresses.retain(|address| match self.guard.check(*address) {
            Ok(()) => true,
            Err(refused) => {
                refusal = Some(refused);
                false
            }
        });
        if addresses.is_empty() {
            return Err(refusal.unwrap_or_else(|| unreachable("dns_error", format!("{host} has no address"))));
        }
        Ok(addresses)
    }

    /// The address that the operator wrote for a destination, if any.
    pub(super) fn resolved(&self, destination: &Destination) -> Option<SocketAddr> {
        self.resolve.get(destination.place()).copied()
    }

    /// A connection that carries the destination's bytes, through the corporate proxy where one is set: a CONNECT
    /// tunnel for TLS (and for `raw` use), the bare connection to the proxy for cleartext HTTP.
    pub(super) async fn reach(&self, destination: &Destination, raw: bool) -> Result<(TcpStream, bool), Refusal> {
        let Some(intercept) = self.via(destination) else {
            return Ok((self.dial(destination).await?, false));
        };
        if let Host::Address(ip) = destination.host() {
            // The proxy resolves names; a literal is all that can be checked here.
            self.guard.check(SocketAddr::new(*ip, destination.port()))?;
        }
        let proxy = intercept.uri().clone();
        if destination.protocol() == Protocol::Http && !raw {
            return Ok((dial_proxy(&proxy).await?, true));
        }
        let connector = ProxyConnector;
        let mut tunnel = Tunnel::new(proxy, connector);
        if let Some(auth) = intercept.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        let target = format!("{}://{}:{}/", destination.protocol().as_str(), destination.host(), destination.port());
        let target: Uri = target.parse().map_err(|_| unreachable("proxy_internal_error", "not a tunnel target"))?;
        let io = tunnel.call(target).await.map_err(|error| {
            unreachable("destination_unavailable", format!("the upstream proxy opened no tunnel: {error}"))
        })?;
        Ok((io.into_inner(), false))
    }

    /// The corporate proxy for a destination, if it goes through one.
    pub(super) fn via(&self, destination: &Destination) -> Option<hyper_util::client::proxy::matcher::Intercept> {
        let matcher = self.proxy.as_ref()?;
        let uri: Uri = destination.to_string().parse().ok()?;
        matcher.intercept(&uri)
    }
}

pub(super) async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    match tokio::net::lookup_host((name, port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(unreachable("dns_error", format!("{name} cannot be resolved: {error}"))),
    }
}

/// Tries the addresses in the resolver's order, each for a part of the time, the last for what is left.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (index, address) in addresses.iter().enumerate() {
        let attempt = TcpStream::connect(address);
        let result = if index + 1 == addresses.len() {
            attempt.await
        } else {
            // A dead first address (IPv6 without a route is the usual one) must not use up the whole time.
            tokio::time::timeout(Duration::from_secs(2), attempt)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn configure(stream: &TcpStream) {
    // Both are improvements, not conditions: a socket that refuses them still works.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE));
}

/// The operator named the proxy, so its address needs no leave of the guard.
async fn dial_proxy(proxy: &Uri) -> Result<TcpStream, Refusal> {
    let host = proxy.host().unwrap_or_default();
    let port = proxy.port_u16().unwrap_or(80);
    let fail = |error: io::Error| {
        unreachable(
            "destination_unavailable",
            format!("no connection to the upstream proxy {host} port {port}: {error}"),
        )
    };
    let addresses: Vec<_> =
        tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await.map_err(fail)?.collect();
    let stream = connect_any(&addresses).await.map_err(fail)?;
    configure(&stream);
    Ok(stream)
}

#[derive(Clone, Copy)]
struct ProxyConnector;

impl Service<Uri> for ProxyConnector {
    type Response = TokioIo<TcpStream>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        Box::pin(async move { dial_proxy(&proxy).await.map(TokioIo::new) })
    }
}

pub(super) fn unreachable(kind: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::UpstreamUnreachable, detail.into()).with_proxy_error(kind)
}

/// The connector of a client: a URI made from a [`Destination`] in, a connection out.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) dialer: Dialer,
    pub(super) tls: Arc<ClientConfig>,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, Refusal> {
        self.connect_to(&Destination::from_absolute(&uri)?).await
    }

    /// A connection to a destination, within the time that connecting may take.
    pub(super) async fn connect_to(&self, destination: &Destination) -> Result<TokioIo<Stream>, Refusal> {
        self.connect_through(destination, false).await
    }

    /// The same by a tunnel where there is a corporate proxy, for cleartext too.
    pub(super) async fn connect_end_to_end(&self, destination: &Destination) -> Result<TokioIo<Stream>, Refusal> {
        self.connect_through(destination, true).await
    }

    async fn connect_through(&self, destination: &Destination, raw: bool) -> Result<TokioIo<Stream>, Refusal> {
        let timeout = self.dialer.timeout;
        let connecting = async {
            let (tcp, proxied) = self.dialer.reach(destination, raw).await?;
            if destination.protocol() == Protocol::Http {
                return Ok(Stream::Plain { io: tcp, proxied, _open: Open::new("http") });
            }
            let name = server_name(destination)?;
            let stream = TlsConnector::from(Arc::clone(&self.tls))
                .connect(name, tcp)
                .await
                .map_err(|error| tls_error(destination, &error))?;
            Ok(Stream::Tls(Box::new(stream), Open::new("https")))
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(stream) => stream.map(TokioIo::new).inspect(|_| moment::made()),
            Err(_) => Err(Refusal::new(
                Code::UpstreamTimeout,
                format!("no connection to {} within {} s", destination.host(), timeout.as_secs_f32()),
            )
            .with_proxy_error("connection_timeout")),
        }
    }
}

fn server_name(destination: &Destination) -> Result<ServerName<'static>, Refusal> {
    match destination.host() {
        Host::Address(ip) => Ok(ServerName::from(*ip)),
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| Refusal::bad_request(format!("{name} cannot be a TLS server name"))),
    }
}

fn tls_error(destination: &Destination, error: &io::Error) -> Refusal {
    let kind = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        _ => "tls_protocol_error",
    };
    unreachable(kind, format!("TLS with {} failed: {error}", destination.host()))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl Stream {
    /// The end-entity certificate of the other side in DER, over TLS.
    pub(super) fn peer_certificate(&self) -> Option<Arc<[u8]>> {
        match self {
            Self::Plain { .. } => None,
            Self::Tls(stream, _) => stream.get_ref().1.peer_certificates()?.first().map(|der| Arc::from(der.as_ref())),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain { proxied, .. } => Connected::new().proxy(*proxied),
            Self::Tls(stream, _) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Self::Tls(..) => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io, _) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io, _) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io, _) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { io, .. } => io.is_write_vectored(),
            Self::Tls(io, _) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_flush(cx),
            Self::Tls(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
