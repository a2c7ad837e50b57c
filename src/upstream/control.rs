//! Countersign's own calls, to token endpoints and the like: `reqwest`, with this room's guard, roots and corporate proxy.
//!
//! A client is made for one endpoint and calls no other. Every call has a connection of its own: these calls are rare, and
//! one that was lost on a stale connection might have spent something.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::connect::{Dialer, lookup};
use super::guard::Guard;
use super::pool::Upstream;
use super::tls::Roots;
use crate::base::{BoxFuture, CallError, ClientOptions, Destination, Host, HttpClient, HttpClients, Refusal};

/// From the first byte to the last. Identity providers answer in a second; callers wait meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest token that was seen in the wild has a tenth of this.
const MAX_ANSWER: usize = 1024 * 1024;

impl HttpClients for Upstream {
    fn client(&self, endpoint: &Destination, options: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
        let text = |error: reqwest::Error| error.without_url().to_string();
        let allowed: Vec<_> = self.settings().allow_addresses.iter().chain(&options.allow_addresses).copied().collect();
        let dialer = self.dialer(Guard::new(allowed, Arc::clone(self.own())));
        let own = options.only_roots.as_ref().map(|file| Roots::default().with_file(file)).transpose()?;
        let roots = own.as_ref().unwrap_or(self.roots());
        let mut tls = match &options.identity {
            Some((certificate, key)) => roots.client_config_with(certificate, key)?,
            None => roots.client_config()?,
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let via = if options.direct { None } else { dialer.via(endpoint) };
        let timeout = options.timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            // Less than the whole, so that one which never connected is known not to have been sent.
            .connect_timeout(self.settings().connect_timeout.min(timeout / 2))
            .timeout(timeout)
            .referer(false)
            .no_proxy()
            .dns_resolver(Arc::new(Resolver {
                endpoint: via.is_none().then(|| endpoint.clone()),
                dialer: dialer.clone(),
            }));
        if let Some(intercept) = &via {
            let mut proxy = reqwest::Proxy::all(intercept.uri().to_string()).map_err(text)?;
            if let Some(auth) = intercept.basic_auth() {
                proxy = proxy.custom_http_auth(auth.clone());
            }
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(text)?;
        Ok(Arc::new(ControlClient { client, endpoint: endpoint.clone(), dialer, proxied: via.is_some(), timeout }))
    }
}

/// Names the addresses of the endpoint that the guard lets pass. Behind a corporate proxy it is asked only for that
/// proxy, which the operator named.
struct Resolver {
    endpoint: Option<Destination>,
    dialer: Dialer,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (dialer, endpoint) = (self.dialer.clone(), self.endpoint.clone());
        Box::pin(async move {
            let addresses = match endpoint {
                Some(endpoint) => dialer.addresses(&endpoint).await?,
                None => lookup(name.as_str(), 0).await?,
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

struct ControlClient {
    client: reqwest::Client,
    endpoint: Destination,
    dialer: Dialer,
    proxied: bool,
    timeout: Duration,
}

impl fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControlClient({})", self.endpoint)
    }
}

impl HttpClient for ControlClient {
    fn call(&self, request: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
        Box::pin(async move {
            let request = self.aimed(request).await?;
            let mut answer = self.client.execute(request).await.map_err(|error| explain(error, self.timeout))?;
            let mut head = http::Response::new(());
            *head.status_mut() = answer.status();
            *head.headers_mut() = answer.headers().clone();
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| explain(error, self.timeout))? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(CallError { detail: "the answer has more than 1 MiB".into(), sent: true });
                }
                body.extend_from_slice(&chunk);
            }
            Ok(head.map(|()| body))
        })
    }
}

impl ControlClient {
    /// The request, aimed at the address that the operator's `resolve` names, the endpoint's name staying in `Host`.
    async fn aimed(&self, request: http::Request<Vec<u8>>) -> Result<reqwest::Request, CallError> {
        let unsent = |detail: String| CallError { detail, sent: false };
        if Destination::from_absolute(request.uri()).ok().as_ref() != Some(&self.endpoint) {
            return Err(unsent(format!("this client calls {} only", self.endpoint)));
        }
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| unsent(error.without_url().to_string()))?;
        if let Host::Address(_) = self.endpoint.host() {
            // No resolver is asked about literals.
            self.dialer.addresses(&self.endpoint).await.map_err(|refusal| unsent(refusal.detail.into_owned()))?;
        }
        if let Some(address) = self.dialer.resolved(&self.endpoint).filter(|_| !self.proxied) {
            let host = HeaderValue::from_str(self.endpoint.authority().as_str());
            request.headers_mut().insert(HOST, host.map_err(|_| unsent("not a host".into()))?);
            let aimed = request.url_mut().set_port(Some(address.port())).is_ok()
                && (self.endpoint.host().name().is_some() || request.url_mut().set_ip_host(address.ip()).is_ok());
            if !aimed {
                return Err(unsent(format!("`resolve` cannot be followed for {}", self.endpoint)));
            }
        }
        Ok(request)
    }
}

/// What went wrong, from the innermost cause, without the address (its query may hold a secret).
fn explain(error: reqwest::Error, within: Duration) -> CallError {
    let sent = !error.is_connect() && !error.is_builder();
    let timeout = error.is_timeout();
    let error = error.without_url();
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            detail = refusal.detail.to_string();
            break;
        }
        detail = inner.to_string();
        source = inner.source();
    }
    if timeout {
        detail = format!("no whole answer within {} s", within.as_secs_f32());
    }
    CallError { detail, sent }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::base::Secrets;
    use crate::upstream::Settings;

    fn upstream() -> Upstream {
        let own = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Upstream::new(Settings::default(), &Secrets::default(), &Roots::default(), own).unwrap()
    }

    async fn refused(endpoint: &str, called: &str) -> CallError {
        let endpoint = Destination::from_upstream(endpoint).unwrap();
        let client = upstream().client(&endpoint, &ClientOptions::default()).unwrap();
        client.call(http::Request::builder().uri(called).body(Vec::new()).unwrap()).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_private_address_is_not_called_whether_literal_or_named() {
        for url in ["http://127.0.0.1:9/t", "https://[::1]/t", "http://169.254.169.254/t", "http://2130706433:9/t"] {
            let error = refused(url, url).await;
            assert!(error.detail.contains("allow_addresses") && !error.sent, "{url}: {error}");
        }
        let error = refused("http://localhost:9/t", "http://localhost:9/t").await;
        assert!(error.detail.contains("allow_addresses") && !error.sent, "{error}");
    }

    /// What came of calling a local server, as the corporate proxy `proxy` stands in the way.
    async fn called(server: &tokio::net::TcpListener, proxy: &str, options: ClientOptions) -> Result<u16, CallError> {
        let own = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let settings = Settings { proxy: Some(serde_json::from_value(proxy.into()).unwrap()), ..Settings::default() };
        let upstream = Upstream::new(settings, &Secrets::default(), &Roots::default(), own).unwrap();
        let url = format!("http://{}/t", server.local_addr().unwrap());
        let client = upstream.client(&Destination::from_upstream(&url).unwrap(), &options).unwrap();
        let request = http::Request::builder().uri(url).body(Vec::new()).unwrap();
        client.call(request).await.map(|answer| answer.status().as_u16())
    }

    #[tokio::test]
    async fn a_direct_client_passes_the_corporate_proxy_by_and_another_does_not() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let allow_addresses = vec!["127.0.0.1".parse::<std::net::IpAddr>().unwrap().into()];
        let options = |direct| ClientOptions { direct, allow_addresses: allow_addresses.clone(), ..Default::default() };
        let answering = async {
            let (mut io, _) = server.accept().await.unwrap();
            tokio::io::AsyncReadExt::read(&mut io, &mut [0; 1024]).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut io, b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            io
        };
        let (answer, _io) = tokio::join!(called(&server, "http://127.0.0.1:9", options(true)), answering);
        assert_eq!(answer, Ok(204));
        assert!(called(&server, "http://127.0.0.1:9", options(false)).await.is_err());
    }

    #[tokio::test]
    async fn a_shorter_time_is_kept_and_named() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ClientOptions {
            direct: true,
            timeout: Some(Duration::from_millis(200)),
            allow_addresses: vec!["127.0.0.1".parse::<std::net::IpAddr>().unwrap().into()],
            ..Default::default()
        };
        // Nobody accepts: the connection stands in the backlog and no answer comes.
        let error = called(&server, "http://127.0.0.1:9", options).await.unwrap_err();
        assert_eq!(error.detail, "no whole answer within 0.2 s");
    }

    #[tokio::test]
    async fn a_client_calls_no_other_endpoint_than_its_own() {
        let error = refused("https://login.test", "https://evil.test/t").await;
        assert!(error.detail.contains("https://login.test only") && !error.sent, "{error}");
    }
}
