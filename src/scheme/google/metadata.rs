//! The metadata server of Google Cloud: tokens of the service account that a machine, pod or service runs as.
//!
//! <https://cloud.google.com/compute/docs/access/authenticate-workloads#applications>,
//! <https://cloud.google.com/compute/docs/instances/verifying-instance-identity#request_signature>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use url::form_urlencoded;

use super::endpoint::{Endpoint, Wanted, identity, token};
use crate::base::{ClientOptions, Destination, Host, HttpClients, Protocol, Secret};
use crate::token::{Failure, Token};

/// An address and not a name: what DNS says about `metadata.google.internal` may be somebody else's word.
const ADDRESS: &str = "http://169.254.169.254";

/// Where `metadata.google.internal` is.
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254))];

const NAME: &str = "metadata.google.internal";

/// It answers from the next machine or not at all. On a new pod its first answer takes seconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A request without it is refused there; an answer without it is somebody else's.
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const GOOGLE: HeaderValue = HeaderValue::from_static("Google");

const ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";

/// The server, and what is asked of it.
#[derive(Debug)]
pub(super) struct Metadata {
    endpoint: Endpoint,
    path: String,
    wanted: Wanted,
}

/// What is to be had.
pub(super) enum Ask<'a> {
    /// An access token, with these scopes or those of the instance.
    Scopes(&'a [String]),
    /// An ID token for this audience.
    Audience(&'a str),
}

impl Metadata {
    /// The server at the address that the operator or his environment wrote, or at its own.
    pub(super) fn new(
        written: Option<&str>,
        allow_cleartext: bool,
        allow_addresses: &[IpNet],
        http: &dyn HttpClients,
        ask: &Ask<'_>,
    ) -> Result<Self, String> {
        let url = written.unwrap_or(ADDRESS).trim_end_matches('/');
        let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        if url.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#'])) {
            return Err("write it without a path, as in http://169.254.169.254".into());
        }
        let (is_own, mut addresses) = match destination.host() {
            Host::Address(address) => (OWN.contains(address), vec![IpNet::from(*address)]),
            Host::Name(name) => (&**name == NAME, OWN.map(IpNet::from).to_vec()),
        };
        if destination.protocol() == Protocol::Http && !is_own && !allow_cleartext {
            return Err(
                "tokens would travel unencrypted from another host than Google's own metadata server; use https, \
                        or set `allow_cleartext: true` on the credential"
                    .into(),
            );
        }
        addresses.extend(allow_addresses);
        let options = ClientOptions {
            allow_addresses: addresses,
            direct: true,
            timeout: Some(TIMEOUT),
            ..ClientOptions::default()
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        let (path, wanted) = match ask {
            Ask::Scopes([]) => (format!("{ACCOUNT}/token"), Wanted::Access),
            Ask::Scopes(scopes) => {
                query.append_pair("scopes", &scopes.join(","));
                (format!("{ACCOUNT}/token?{}", query.finish()), Wanted::Access)
            }
            Ask::Audience(audience) => {
                query.append_pair("audience", audience).append_pair("format", "full");
                (format!("{ACCOUNT}/identity?{}", query.finish()), Wanted::Identity)
            }
        };
        Ok(Self { endpoint: Endpoint::new(url, http, &options)?, path, wanted })
    }

    /// A token.
    pub(super) async fn fetch(&self, now: SystemTime) -> Result<Token, Failure> {
        let reply = self.endpoint.get(&self.path, vec![(FLAVOR, GOOGLE)], now).await.map_err(|mut failure| {
            failure.detail = format!("the metadata server: {}", failure.detail);
            failure
        })?;
        if reply.headers().get(FLAVOR) != Some(&GOOGLE) {
            return Err(reply.unusable(
                "without `Metadata-Flavor: Google`: it is not Google's metadata server; is this a host of Google Cloud?",
            ));
        }
        match self.wanted {
            Wanted::Access => token(&reply, self.wanted, now),
            Wanted::Identity => identity(Secret::new(reply.body().expose().trim_ascii()), &reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::base::{BoxFuture, CallError, HttpClient};

    /// Remembers how it was to be called.
    #[derive(Debug, Default)]
    struct Clients(Mutex<Vec<ClientOptions>>);

    impl HttpClients for Clients {
        fn client(&self, _: &Destination, options: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
            self.0.lock().unwrap().push(options.clone());
            Ok(Arc::new(Nobody))
        }
    }

    #[derive(Debug)]
    struct Nobody;

    impl HttpClient for Nobody {
        fn call(&self, _: http::Request<Vec<u8>>) -> BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
            unreachable!("nothing is called")
        }
    }

    fn made(written: Option<&str>, allow_cleartext: bool, more: &[IpNet]) -> Result<Vec<String>, String> {
        let clients = Clients::default();
        Metadata::new(written, allow_cleartext, more, &clients, &Ask::Scopes(&[]))?;
        let options = clients.0.lock().unwrap().remove(0);
        assert!(options.direct && options.timeout == Some(TIMEOUT) && options.identity.is_none());
        Ok(options.allow_addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn it_is_reached_at_its_own_addresses_and_elsewhere_only_as_the_operator_says() {
        let own = ["169.254.169.254/32", "fd20:ce::254/128"];
        for (written, allowed) in [
            (None, &own[..1]),
            (Some("http://169.254.169.254/"), &own[..1]),
            (Some("http://[fd20:ce::254]"), &own[1..]),
            (Some("http://metadata.google.internal"), &own[..]),
            (Some("https://10.1.2.3:8443"), &["10.1.2.3/32"][..]),
            (Some("https://metadata.corp.test"), &own[..]),
        ] {
            assert_eq!(made(written, false, &[]).unwrap(), allowed, "{written:?}");
        }
        let loopback: IpNet = "127.0.0.0/8".parse().unwrap();
        let emulator = made(Some("http://localhost:8080"), true, &[loopback]).unwrap();
        assert_eq!(emulator.last().unwrap(), "127.0.0.0/8");
        for (written, why) in [
            ("http://localhost:8080", "allow_cleartext"),
            ("http://10.1.2.3", "allow_cleartext"),
            ("http://metadata.google.internal.evil.test", "allow_cleartext"),
            ("http://169.254.169.254/computeMetadata", "without a path"),
            ("169.254.169.254", "http"),
        ] {
            let error = made(Some(written), false, &[]).unwrap_err();
            assert!(error.contains(why), "{written}: {error}");
        }
    }
}
