//! Tokens of the identity that Azure gives a machine: a virtual machine's or a pod's (IMDS), an App Service's, an Arc server's.
//!
//! <https://learn.microsoft.com/en-us/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>,
//! <https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference>,
//! <https://learn.microsoft.com/en-us/azure/azure-arc/servers/managed-identity-authentication>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use ipnet::{IpNet, Ipv4Net};
use url::form_urlencoded;

use super::failure::{Failure, FailureKind};
use super::service::{Reply, Service};
use crate::base::{ClientOptions, Destination, Environment, Host, HttpClients, Protocol, Secret};
use crate::source;

const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const ARC: &str = "http://localhost:40342/metadata/identity/oauth2/token";

/// Where Arc's agent is installed, and where it writes the keys by which a local user proves to be one.
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";
const ARC_KEYS: &str = "/var/opt/azcmagent/tokens";
const LONGEST_ARC_KEY: usize = 4096;

/// A metadata service on this host or beside it answers at once, and asks Entra for us when it must.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which identity, where a machine has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityId {
    /// By its client id.
    Client(String),
    /// By its object id.
    Object(String),
    /// By its resource id.
    Resource(String),
}

#[derive(Debug)]
enum Platform {
    Imds,
    AppService {
        header: Secret,
    },
    /// The folder of its keys.
    Arc(PathBuf),
}

/// The identity of this machine.
#[derive(Debug)]
pub struct ManagedIdentity {
    platform: Platform,
    service: Service,
    /// The whole address to ask.
    url: String,
}

impl ManagedIdentity {
    /// The identity service that the environment tells of, as Azure's own libraries look for it, or the one at `url`, which
    /// speaks like a virtual machine's and may have these addresses.
    ///
    /// # Errors
    /// What is wrong with the address, or why the platform cannot be asked.
    pub fn open(
        environment: &dyn Environment,
        http: &dyn HttpClients,
        url: Option<(&str, &[IpNet])>,
        id: Option<&IdentityId>,
        resource: &str,
    ) -> Result<Self, String> {
        let variable = |name: &str| environment.variable(name).filter(|value| !value.trim().is_empty());
        let (endpoint, header) = (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER"));
        let own = |endpoint: &str, beside| local(endpoint, beside).map_err(|why| format!("IDENTITY_ENDPOINT: {why}"));
        let (platform, endpoint, allow) = match (url, endpoint, header) {
            (Some((url, allow)), _, _) => (Platform::Imds, url.to_owned(), allow.to_vec()),
            (None, Some(_), Some(_)) if variable("IDENTITY_SERVER_THUMBPRINT").is_some() => {
                return Err("managed identities of Service Fabric are not spoken; use a certificate or a secret".into());
            }
            (None, Some(endpoint), Some(header)) => {
                // On Linux its endpoint is outside the container, at a private address of the worker.
                let allow = own(&endpoint, true)?;
                (Platform::AppService { header: Secret::new(header) }, endpoint, allow)
            }
            (None, Some(endpoint), None) if variable("IMDS_ENDPOINT").is_some() => {
                let allow = own(&endpoint, false)?;
                (Platform::Arc(ARC_KEYS.into()), endpoint, allow)
            }
            (None, _, _) if Path::new(ARC_AGENT).exists() => {
                (Platform::Arc(ARC_KEYS.into()), ARC.into(), local(ARC, false)?)
            }
            (None, _, _) => (Platform::Imds, IMDS.into(), local(IMDS, false)?),
        };
        let destination = Destination::from_upstream(&endpoint).map_err(|refusal| refusal.detail.into_owned())?;
        let options =
            ClientOptions { allow_addresses: allow, direct: true, timeout: Some(TIMEOUT), ..ClientOptions::default() };
        let client = http.client(&destination, &options)?;
        let url = address(&endpoint, &platform, id, resource);
        Ok(Self { platform, service: Service::new(destination, Arc::clone(&client)), url })
    }

    /// What changes the token beside what is written: the platform and its address.
    pub fn inputs(&self) -> (&str, Option<&Secret>) {
        let header = match &self.platform {
            Platform::AppService { header } => Some(header),
            Platform::Imds | Platform::Arc(_) => None,
        };
        (&self.url, header)
    }

    /// A token and how long it lives.
    ///
    /// # Errors
    /// What the service said.
    pub async fn fetch(&self, now: SystemTime) -> Result<(Secret, Option<Duration>), Failure> {
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        if let Platform::AppService { header } = &self.platform {
            headers.insert("x-identity-header", confidential(header.expose())?);
            secrets.push(header.clone());
        }
        let mut answer = self.service.send(self.request(&headers)?, &secrets).await?;
        if let (Platform::Arc(folder), StatusCode::UNAUTHORIZED) = (&self.platform, answer.status()) {
            let key = arc_key(folder, answer.headers()).await?;
            headers.insert(AUTHORIZATION, confidential(&[b"Basic ", key.expose()].concat())?);
            secrets.push(key);
            answer = self.service.send(self.request(&headers)?, &secrets).await?;
        }
        let reply = self.read(answer, &secrets, now)?;
        Ok((reply.token("access_token")?, reply.lifetime(now)))
    }

    fn request(&self, headers: &HeaderMap) -> Result<Request<Vec<u8>>, Failure> {
        let unfit = |_| Failure::new(FailureKind::Refused, "the identity service's address cannot stand in a request");
        let mut request = Request::get(&self.url).body(Vec::new()).map_err(unfit)?;
        // What a web page or a forwarded request cannot send, so that only this host's own programs are answered.
        request.headers_mut().insert("metadata", HeaderValue::from_static("true"));
        request.headers_mut().extend(headers.clone());
        Ok(request)
    }

    fn read(&self, answer: Response<Vec<u8>>, secrets: &[Secret], now: SystemTime) -> Result<Reply, Failure> {
        let status = answer.status();
        let rejected = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        self.service.reply(answer, secrets, &rejected, now).map_err(|mut failure| {
            // While it is updated, and before the identity has come to the machine.
            if matches!(status, StatusCode::GONE | StatusCode::NOT_FOUND) {
                failure.kind = FailureKind::Unavailable;
            }
            failure
        })
    }
}

/// The addresses that an identity service on this host may have, or one beside it: a secret may go there without TLS.
fn local(url: &str, beside: bool) -> Result<Vec<IpNet>, String> {
    let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
    let loopback =
        || vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8)), IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))];
    match destination.host() {
        Host::Address(IpAddr::V4(address))
            if address.is_loopback() || address.is_link_local() || (beside && address.is_private()) =>
        {
            Ok(vec![IpNet::from(IpAddr::V4(*address))])
        }
        Host::Address(IpAddr::V6(address)) if address.is_loopback() => Ok(loopback()),
        Host::Name(name) if &**name == "localhost" => Ok(loopback()),
        _ if destination.protocol() == Protocol::Https => Ok(Vec::new()),
        _ => {
            let hosts = if beside { "localhost, link-local and private" } else { "localhost and link-local" };
            Err(format!("http is for {hosts} addresses; what it sends would travel unencrypted"))
        }
    }
}

fn address(endpoint: &str, platform: &Platform, id: Option<&IdentityId>, resource: &str) -> String {
    let (version, resource_id) = match platform {
        Platform::Imds => ("2018-02-01", "msi_res_id"),
        Platform::AppService { .. } => ("2019-08-01", "mi_res_id"),
        Platform::Arc(_) => ("2020-06-01", "msi_res_id"),
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("api-version", version).append_pair("resource", resource);
    match id {
        None => {}
        Some(IdentityId::Client(id)) => drop(query.append_pair("client_id", id)),
        Some(IdentityId::Object(id)) => drop(query.append_pair("object_id", id)),
        Some(IdentityId::Resource(id)) => drop(query.append_pair(resource_id, id)),
    }
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    format!("{endpoint}{separator}{}", query.finish())
}

/// The key that Arc's agent wrote for us: only whoever may read that folder gets a token.
async fn arc_key(folder: &Path, headers: &HeaderMap) -> Result<Secret, Failure> {
    let unfit = |why: &str| Failure::new(FailureKind::Refused, format!("Azure Arc's agent: {why}"));
    let challenge = headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = challenge.split_once("realm=").map(|(_, path)| Path::new(path.trim().trim_matches('"')));
    let path = path.ok_or_else(|| unfit("its 401 names no key file"))?;
    // Whatever answers at that port must not have us read another file to it.
    let is_key = path.parent() == Some(folder) && path.extension().is_some_and(|extension| extension == "key");
    if !is_key {
        return Err(unfit(&format!("its 401 names a file that is no key in {}", folder.display())));
    }
    let key = source::read_file(path).await.map_err(|why| unfit(&format!("{why}; join the group himds")))?;
    if key.is_empty() || key.expose().len() > LONGEST_ARC_KEY {
        return Err(unfit("its key file is empty or too long"));
    }
    Ok(key)
}

fn confidential(value: &[u8]) -> Result<HeaderValue, Failure> {
    let unfit = |_| Failure::new(FailureKind::Refused, "the identity service's key cannot stand in a header");
    let mut value = HeaderValue::from_bytes(value).map_err(unfit)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::aws::{Answer, Network, Variables, answer};
    use super::*;

    const TOKEN: &str = r#"{"access_token":"t","expires_in":"86399","expires_on":"1700086399","token_type":"Bearer"}"#;
    const QUERY: &str = "resource=https%3A%2F%2Fmanagement.azure.com";
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn opened(
        pairs: &[(&str, &str)],
        network: &Network,
        url: Option<&str>,
        id: Option<IdentityId>,
    ) -> Result<ManagedIdentity, String> {
        let url = url.map(|url| (url, &[][..]));
        ManagedIdentity::open(&*Variables::of(pairs), network, url, id.as_ref(), "https://management.azure.com")
    }

    async fn fetched(pairs: &[(&str, &str)], network: &Network) -> Result<(Secret, Option<Duration>), Failure> {
        opened(pairs, network, None, None).unwrap().fetch(NOW).await
    }

    #[tokio::test]
    async fn a_virtual_machine_is_asked_at_its_fixed_address_with_the_header_that_pages_cannot_send() {
        let line = format!("GET {IMDS}?api-version=2018-02-01&{QUERY}");
        let network = Network::answering([(&*line, answer(200, TOKEN))]);
        let (token, lifetime) = fetched(&[], &network).await.unwrap();
        assert_eq!((token.expose(), lifetime), (&b"t"[..], Some(Duration::from_secs(86399))));
        let call = network.calls().remove(0);
        assert_eq!(call.options.allow_addresses, ["169.254.169.254/32".parse().unwrap()]);
        assert!(call.options.direct && call.headers["metadata"] == "true" && call.headers.len() == 1);
    }

    #[tokio::test]
    async fn an_identity_is_named_as_each_platform_names_it() {
        let service = [("IDENTITY_ENDPOINT", "http://169.254.129.3:8081/msi/token"), ("IDENTITY_HEADER", "h")];
        let arc = [("IDENTITY_ENDPOINT", "http://localhost:40342/x"), ("IMDS_ENDPOINT", "http://localhost:40342")];
        let id = "/subscriptions/1";
        for (pairs, id, asked) in [
            (&[][..], IdentityId::Client("a b".into()), "api-version=2018-02-01&R&client_id=a+b"),
            (&[], IdentityId::Object("o".into()), "api-version=2018-02-01&R&object_id=o"),
            (&[], IdentityId::Resource(id.into()), "api-version=2018-02-01&R&msi_res_id=%2Fsubscriptions%2F1"),
            (&service, IdentityId::Client("c".into()), "api-version=2019-08-01&R&client_id=c"),
            (&service, IdentityId::Resource(id.into()), "api-version=2019-08-01&R&mi_res_id=%2Fsubscriptions%2F1"),
            (&arc, IdentityId::Resource(id.into()), "api-version=2020-06-01&R&msi_res_id=%2Fsubscriptions%2F1"),
        ] {
            let identity = opened(pairs, &Network::default(), None, Some(id)).unwrap();
            assert_eq!(identity.url.split_once('?').unwrap().1, asked.replace("R&", &format!("{QUERY}&")));
        }
    }

    #[tokio::test]
    async fn an_app_service_gets_the_header_that_only_its_own_processes_know() {
        let url = "http://127.0.0.1:41741/msi/token";
        let line = format!("GET {url}?api-version=2019-08-01&{QUERY}");
        let pairs = [("IDENTITY_ENDPOINT", url), ("IDENTITY_HEADER", "the-identity-header")];
        let expires = r#"{"access_token":"t","expires_on":"3600"}"#;
        let network = Network::answering([(&*line, answer(200, expires))]);
        assert_eq!(fetched(&pairs, &network).await.unwrap().1, Some(Duration::from_secs(3600)));
        let call = network.calls().remove(0);
        assert!(
            call.headers["x-identity-header"] == "the-identity-header"
                && call.headers["x-identity-header"].is_sensitive()
        );
        let network = Network::answering([(&*line, answer(401, r#"{"message":"no the-identity-header"}"#))]);
        let failure = fetched(&pairs, &network).await.unwrap_err();
        assert_eq!((failure.kind, &*failure.detail), (FailureKind::Rejected, "127.0.0.1 answered 401 no [redacted]"));
    }

    #[tokio::test]
    async fn an_app_service_on_linux_is_asked_at_its_private_address_and_no_other() {
        for (url, only) in [
            ("http://172.16.5.3:8081/msi/token", "172.16.5.3/32"),
            ("http://10.0.0.7/msi", "10.0.0.7/32"),
            ("http://192.168.1.1/msi", "192.168.1.1/32"),
        ] {
            let line = format!("GET {url}?api-version=2019-08-01&{QUERY}");
            let network = Network::answering([(&*line, answer(200, TOKEN))]);
            fetched(&[("IDENTITY_ENDPOINT", url), ("IDENTITY_HEADER", "h")], &network).await.unwrap();
            assert_eq!(network.calls().remove(0).options.allow_addresses, [only.parse().unwrap()]);
        }
    }

    #[tokio::test]
    async fn an_address_that_would_show_the_header_to_others_is_refused() {
        for url in [
            "http://8.8.8.8/msi",
            "http://172.32.0.1/msi",
            "http://[fd00::1]/msi",
            "http://msi.test/x",
            "http://localhost.test/x",
            "ftp://localhost/x",
            "x",
        ] {
            let pairs = [("IDENTITY_ENDPOINT", url), ("IDENTITY_HEADER", "h")];
            let error = opened(&pairs, &Network::default(), None, None).unwrap_err();
            assert!(error.starts_with("IDENTITY_ENDPOINT: "), "{url}: {error}");
        }
        // What has no header is Arc's agent, on this very host.
        let arc = [("IDENTITY_ENDPOINT", "http://10.0.0.7/x"), ("IMDS_ENDPOINT", "http://10.0.0.7")];
        assert!(opened(&arc, &Network::default(), None, None).unwrap_err().contains("http is for localhost"));
        let fabric = [
            ("IDENTITY_ENDPOINT", "https://localhost:2377/x"),
            ("IDENTITY_HEADER", "h"),
            ("IDENTITY_SERVER_THUMBPRINT", "00"),
        ];
        assert!(opened(&fabric, &Network::default(), None, None).unwrap_err().contains("Service Fabric"));
    }

    fn challenge(path: &str) -> Answer {
        let mut asked = answer(401, "").unwrap();
        asked.headers_mut().insert(WWW_AUTHENTICATE, format!("Basic realm={path}").parse().unwrap());
        Ok(asked)
    }

    #[tokio::test]
    async fn arcs_key_is_read_where_its_agent_writes_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("8ad1.key");
        std::fs::write(&key, "arc-key-0123456789").unwrap();
        std::fs::write(folder.path().join("long.key"), "x".repeat(LONGEST_ARC_KEY + 1)).unwrap();
        let line = format!("GET {ARC}?api-version=2020-06-01&{QUERY}");
        let pairs = [("IDENTITY_ENDPOINT", ARC), ("IMDS_ENDPOINT", "http://localhost:40342")];
        let asked = |path: String, second: Answer| {
            let network = Network::answering([(&*line, challenge(&path)), (&*line, second)]);
            let mut identity = opened(&pairs, &network, None, None).unwrap();
            identity.platform = Platform::Arc(folder.path().to_owned());
            (identity, network)
        };
        let (identity, network) = asked(key.display().to_string(), answer(200, TOKEN));
        assert_eq!(identity.fetch(NOW).await.unwrap().0.expose(), b"t");
        assert_eq!(network.calls()[1].headers["authorization"], "Basic arc-key-0123456789");
        assert!(!network.calls()[0].headers.contains_key("authorization"));
        let (identity, _) = asked(key.display().to_string(), answer(401, r#"{"error":"bad arc-key-0123456789"}"#));
        let failure = identity.fetch(NOW).await.unwrap_err();
        assert!(failure.kind == FailureKind::Rejected && failure.detail.contains("[redacted]"), "{failure}");
        for path in [
            "/etc/passwd".to_owned(),
            folder.path().join("../x.key").display().to_string(),
            folder.path().join("x.txt").display().to_string(),
            folder.path().join("gone.key").display().to_string(),
            folder.path().join("long.key").display().to_string(),
            String::new(),
        ] {
            let (identity, network) = asked(path.clone(), answer(200, TOKEN));
            let failure = identity.fetch(NOW).await.unwrap_err();
            assert!(failure.kind == FailureKind::Refused && network.calls().len() == 1, "{path}: {failure}");
        }
    }

    #[tokio::test]
    async fn what_may_be_over_soon_is_told_from_what_a_person_must_mend() {
        let line = format!("GET {IMDS}?api-version=2018-02-01&{QUERY}");
        for (status, body, kind) in [
            (400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#, FailureKind::Refused),
            (403, "", FailureKind::Rejected),
            (404, "", FailureKind::Unavailable),
            (410, "", FailureKind::Unavailable),
            (429, "", FailureKind::Unavailable),
            (500, "", FailureKind::Unavailable),
            (302, "", FailureKind::Unavailable),
            (200, "<html>", FailureKind::Unavailable),
            (200, r#"{"expires_in":"1"}"#, FailureKind::Unavailable),
        ] {
            let network = Network::answering([(&*line, answer(status, body))]);
            let failure = fetched(&[], &network).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{status} {body}: {failure}");
        }
        assert_eq!(fetched(&[], &Network::default()).await.unwrap_err().kind, FailureKind::Unavailable);
    }
}
