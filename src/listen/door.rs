//! A listener's rules, ready to use: built at load, replaced whole by a reload.

use std::sync::Arc;

use http::uri::{PathAndQuery, Uri};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ca::server_config;
use super::handed::HandedOver;
use super::settings::{Address, Forward, Mode, Reverse, Route as RouteSettings, Tls, Transparent};
use super::socket::Bound;
use crate::base::Secrets;
use crate::base::{Destination, Host, Refusal};
use crate::route::{Caller, Callers, PathPrefix};

/// What a listener does with a connection.
#[derive(Debug)]
pub struct Door {
    /// Where it is.
    pub address: Address,
    /// Permissions of a unix socket.
    pub mode: u32,
    pub(super) kind: Kind,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) allow_anonymous: bool,
    pub(super) same_user: bool,
    /// `run`: every connection is this caller, and this credential is meant.
    pub(super) run: Option<(Arc<Caller>, Option<Arc<str>>)>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Forward {
        intercept: bool,
    },
    Reverse {
        server_names: Vec<Host>,
        routes: Vec<Route>,
    },
    /// `caller`: whom the operator says everybody here is.
    Transparent {
        tproxy: bool,
        caller: Option<Arc<Caller>>,
    },
}

/// A route of a reverse listener, ready to use.
#[derive(Debug)]
pub struct Route {
    /// For logs, and the name of its binding.
    pub name: Arc<str>,
    /// Whether it has a credential of its own.
    pub bound: bool,
    /// What is stripped.
    pub prefix: PathPrefix,
    /// Where it leads.
    pub destination: Destination,
    /// The path put before the rest; without a slash at its end, usually empty.
    pub base: Arc<str>,
    /// Web pages that may use it.
    pub allow_origins: Vec<String>,
}

impl Door {
    /// A forward listener's rules.
    ///
    /// # Errors
    /// What is wrong, below which key.
    pub fn forward(settings: &Forward, secrets: &Secrets, has_callers: bool) -> Result<Self, (String, String)> {
        check_reach(&settings.address, settings.allow_anonymous, has_callers)?;
        Ok(Self {
            address: settings.address.clone(),
            mode: settings.mode.map_or(0o600, |Mode(mode)| mode),
            kind: Kind::Forward { intercept: settings.intercept },
            tls: tls(settings.tls.as_ref(), secrets)?,
            allow_anonymous: settings.allow_anonymous,
            same_user: settings.same_user,
            run: None,
        })
    }

    /// A reverse listener's rules; `name` begins the names of its routes.
    ///
    /// # Errors
    /// What is wrong, below which key.
    pub fn reverse(
        settings: &Reverse,
        secrets: &Secrets,
        has_callers: bool,
        name: &str,
    ) -> Result<Self, (String, String)> {
        check_reach(&settings.address, settings.allow_anonymous, has_callers)?;
        let mut server_names = Vec::new();
        for (index, text) in settings.server_names.iter().enumerate() {
            let host =
                Host::parse(text).map_err(|refusal| (format!("server_names[{index}]"), refusal.detail.into_owned()))?;
            server_names.push(host);
        }
        let mut routes = Vec::new();
        for (index, route) in settings.routes.iter().enumerate() {
            let path = format!("routes[{index}]");
            let route = Route::new(route, format!("{name}.{path}").into())
                .map_err(|(key, why)| (format!("{path}.{key}"), why))?;
            routes.push(route);
        }
        if routes.is_empty() {
            return Err(("routes".into(), "a reverse listener needs a route".into()));
        }
        routes.sort_by(|one, two| two.prefix.len().cmp(&one.prefix.len()).then_with(|| one.prefix.cmp(&two.prefix)));
        if let Some(pair) = routes.windows(2).find(|pair| pair[0].prefix == pair[1].prefix) {
            return Err(("routes".into(), format!("two routes have the prefix {}", pair[0].prefix)));
        }
        Ok(Self {
            address: settings.address.clone(),
            mode: settings.mode.map_or(0o600, |Mode(mode)| mode),
            kind: Kind::Reverse { server_names, routes },
            tls: tls(settings.tls.as_ref(), secrets)?,
            allow_anonymous: settings.allow_anonymous,
            same_user: settings.same_user,
            run: None,
        })
    }

    /// A transparent listener's rules.
    ///
    /// # Errors
    /// What is wrong, below which key.
    pub fn transparent(settings: &Transparent, callers: &Callers) -> Result<Self, (String, String)> {
        if let Address::Unix(_) = settings.address {
            return Err((
                "address".into(),
                "connections are redirected to a TCP address: write 127.0.0.1:15001".into(),
            ));
        }
        check_reach(&settings.address, settings.allow_anonymous, !callers.is_empty())?;
        let known = |name: &String| match callers.knows(name) {
            true => Ok(Arc::new(Caller::of_listener(name))),
            false => Err(("caller".to_owned(), format!("there is no caller {name}"))),
        };
        let caller = settings.caller.as_ref().map(known).transpose()?;
        Ok(Self {
            address: settings.address.clone(),
            mode: 0o600,
            kind: Kind::Transparent { tproxy: settings.tproxy, caller },
            tls: None,
            allow_anonymous: settings.allow_anonymous,
            same_user: settings.same_user,
            run: None,
        })
    }

    /// The private listener of `run`: intercepting, for our own uid, every connection being this caller.
    pub fn private(address: Address, caller: &str, credential: Option<&str>) -> Self {
        let run = Some((Arc::new(Caller::of_listener(caller)), credential.map(Into::into)));
        Self { run, ..Self::leased(address) }
    }

    /// The private listener of `policy run`: the same, but each request shows the token of the run.
    pub fn leased(address: Address) -> Self {
        Self {
            address,
            mode: 0o600,
            kind: Kind::Forward { intercept: true },
            tls: None,
            allow_anonymous: false,
            same_user: true,
            run: None,
        }
    }

    /// Binds its address.
    ///
    /// # Errors
    /// A sentence that names the address and why it cannot be bound.
    pub async fn bind(&self, handed: &HandedOver) -> Result<Bound, String> {
        if let Some(bound) = handed.bound(&self.address) {
            return bound;
        }
        match self.kind {
            Kind::Transparent { tproxy: true, .. } => Bound::standing_for_others(&self.address),
            _ => Bound::new(&self.address, self.mode).await,
        }
    }

    /// `forward`, `reverse` or `transparent`.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Forward { .. } => "forward",
            Kind::Reverse { .. } => "reverse",
            Kind::Transparent { .. } => "transparent",
        }
    }

    /// Whether whoever calls has to speak TLS with it.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a forward listener terminates TLS; `None` for any other.
    pub fn intercepts(&self) -> Option<bool> {
        match self.kind {
            Kind::Forward { intercept } => Some(intercept),
            Kind::Reverse { .. } | Kind::Transparent { .. } => None,
        }
    }

    /// What a request to this listener's own address becomes: its route and its target at the upstream. `None` when the
    /// address is not this listener's, or when no route has the path.
    pub fn routed(&self, called: &Destination, uri: &Uri) -> Option<(&Route, Uri)> {
        let Address::Tcp(own) = self.address else { return None };
        let here = match called.host() {
            Host::Address(ip) => own.ip() == *ip || own.ip().is_unspecified(),
            Host::Name(name) => &**name == "localhost",
        };
        if !here || own.port() != called.port() {
            return None;
        }
        let route = self.routes().iter().find(|route| route.prefix.matches(uri.path()))?;
        Some((route, route.target(uri).ok()?))
    }

    /// The routes of a reverse listener.
    pub fn routes(&self) -> &[Route] {
        match &self.kind {
            Kind::Forward { .. } | Kind::Transparent { .. } => &[],
            Kind::Reverse { routes, .. } => routes,
        }
    }
}

impl Route {
    /// The target at the upstream: the prefix stripped, the route's own path put before, every other byte as it came.
    ///
    /// # Errors
    /// `bad_request` when the outcome is no target.
    pub(super) fn target(&self, uri: &Uri) -> Result<Uri, Refusal> {
        let rest = self.prefix.rest(uri.path()).unwrap_or("/");
        let slash = if self.base.is_empty() && rest.is_empty() { "/" } else { "" };
        let text = match uri.query() {
            None => [&*self.base, slash, rest].concat(),
            Some(query) => [&*self.base, slash, rest, "?", query].concat(),
        };
        let bad = |_| Refusal::bad_request("not a path");
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| bad(()))?);
        Uri::from_parts(parts).map_err(|_| bad(()))
    }

    fn new(settings: &RouteSettings, name: Arc<str>) -> Result<Self, (String, String)> {
        let at = |key: &str, why: String| (key.to_owned(), why);
        let prefix = PathPrefix::parse(&settings.prefix).map_err(|why| at("prefix", why))?;
        let destination = Destination::from_upstream(&settings.upstream).map_err(|refusal| {
            at("upstream", format!("write https://host or https://host/path: {}", refusal.detail))
        })?;
        let uri: http::Uri = settings.upstream.parse().map_err(|_| at("upstream", "not an address".into()))?;
        if uri.query().is_some() {
            return Err(at("upstream", "an upstream has no query".into()));
        }
        let base = PathPrefix::parse(uri.path()).map_err(|why| at("upstream", why))?;
        Ok(Self {
            name,
            bound: settings.credential.is_some(),
            prefix,
            destination,
            base: base.as_str().into(),
            allow_origins: settings.allow_origins.clone(),
        })
    }
}

/// A listener that others can reach must know who is calling.
fn check_reach(address: &Address, allow_anonymous: bool, has_callers: bool) -> Result<(), (String, String)> {
    if address.is_local() || allow_anonymous || has_callers {
        return Ok(());
    }
    Err((
        "address".into(),
        format!(
            "{address} is reachable from other machines and no `callers` are listed; list callers, listen on 127.0.0.1, \
             or set `allow_anonymous: true` to let everybody use the credentials"
        ),
    ))
}

/// TLS of a listener, if it has any.
///
/// # Errors
/// The key that is wrong, and what to change.
pub fn tls(settings: Option<&Tls>, secrets: &Secrets) -> Result<Option<Arc<ServerConfig>>, (String, String)> {
    let Some(settings) = settings else { return Ok(None) };
    let at = |key: &str, why: String| (format!("tls.{key}"), why);
    let certificates = |path: &std::path::Path| {
        let certs = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        certs.map_err(|error| format!("{}: {error}", path.display()))
    };
    let chain = certificates(&settings.certificate).map_err(|why| at("certificate", why))?;
    let key = secrets.field(&settings.key).map_err(|error| at("key", error.0))?;
    let key =
        PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| at("key", "no private key in PEM form".into()))?;
    let verifier = match &settings.client_ca {
        None => None,
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(path).map_err(|why| at("client_ca", why))? {
                roots.add(certificate).map_err(|error| at("client_ca", error.to_string()))?;
            }
            // A caller may also prove itself by a token, so a certificate is asked for and not required here; a listener
            // with callers serves nobody who proves nothing.
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
            Some(verifier.map_err(|error| at("client_ca", error.to_string()))?)
        }
    };
    server_config(chain, key, verifier).map(Arc::new).map(Some).map_err(|why| at("certificate", why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::CallerRule;

    fn transparent(settings: &str, callers: &Callers) -> String {
        let settings: Transparent = serde_json::from_str(settings).unwrap();
        match Door::transparent(&settings, callers) {
            Ok(door) => door.kind().to_owned(),
            Err((key, _)) => key,
        }
    }

    #[test]
    fn a_transparent_listener_is_on_tcp_and_knows_its_caller_and_who_reaches_it() {
        let (none, some) = (Callers::default(), Callers::new([CallerRule::uid("pod", 1000)]));
        for (settings, callers, found) in [
            (r#"{ "address": "127.0.0.1:0" }"#, &none, "transparent"),
            (r#"{ "address": "[::1]:0", "tproxy": true, "caller": "pod" }"#, &some, "transparent"),
            (r#"{ "address": "127.0.0.1:0", "caller": "pod" }"#, &none, "caller"),
            (r#"{ "address": "127.0.0.1:0", "caller": "local" }"#, &none, "caller"),
            (r#"{ "address": "unix:/run/x" }"#, &some, "address"),
            (r#"{ "address": "10.0.0.1:1" }"#, &none, "address"),
            (r#"{ "address": "10.0.0.1:1", "allow_anonymous": true }"#, &none, "transparent"),
            (r#"{ "address": "10.0.0.1:1", "caller": "pod" }"#, &some, "transparent"),
        ] {
            assert_eq!(transparent(settings, callers), found, "{settings}");
        }
    }
}
