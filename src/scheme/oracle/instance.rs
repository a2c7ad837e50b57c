//! The principal of a compute instance: its certificate, from the metadata service, is exchanged for a session token.
//!
//! <https://docs.oracle.com/en-us/iaas/Content/Identity/Tasks/callingservicesfrominstances.htm>; the exchange is as Oracle's
//! SDKs have it (`X509FederationClient`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::{Method, Request, StatusCode};
use ipnet::IpNet;
use serde_json::json;

use super::hosts;
use super::principal::{SessionKey, authorizer, issued};
use super::signer::{SigningKey, X_CONTENT_SHA256, authorization, pairs};
use crate::base::{Authorizer, BoxFuture, ClientOptions, Destination, Host, HttpClients, Protocol, Secret};
use crate::sigv4::Skew;
use crate::token::{Failure, FailureKind, PrivateKey, Reply, Service, Token, TokenSource};

const METADATA: &str = "http://169.254.169.254/opc/v2";

/// It answers from the next machine or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);

const HINT: &str = "instance principals are for compute instances of Oracle's";

/// What the metadata service says the instance is.
struct Certificate {
    /// The leaf, in DER.
    leaf: Vec<u8>,
    intermediate: Vec<u8>,
    key: SigningKey,
    tenancy: String,
}

/// The instance that this runs on.
pub(super) struct Instance {
    base: String,
    metadata: Service,
    federation: Option<String>,
    allow_addresses: Vec<IpNet>,
    http: Arc<dyn HttpClients>,
    skew: Arc<Skew>,
}

impl Instance {
    /// Calls nobody yet.
    ///
    /// # Errors
    /// When an address is none.
    pub(super) fn new(
        metadata: Option<&str>,
        federation: Option<String>,
        (allow_cleartext, allow_addresses): (bool, Vec<IpNet>),
        http: Arc<dyn HttpClients>,
    ) -> Result<Self, String> {
        let base = metadata.unwrap_or(METADATA).trim().trim_end_matches('/').to_owned();
        let unfit = |why: String| format!("metadata_url: {why}");
        let destination = metadata_address(&base, allow_cleartext).map_err(unfit)?;
        // Exactly the address that is meant, which nothing else of ours may dial.
        let addresses = match destination.host() {
            Host::Address(address) => vec![IpNet::from(*address)],
            Host::Name(_) => allow_addresses.clone(),
        };
        let options = ClientOptions {
            allow_addresses: addresses,
            direct: true,
            timeout: Some(TIMEOUT),
            ..ClientOptions::default()
        };
        let client = http.client(&destination, &options).map_err(unfit)?;
        let metadata = Service::new(destination, client);
        Ok(Self { base, metadata, federation, allow_addresses, http, skew: Arc::new(hosts::skew()) })
    }

    async fn get(&self, path: &str, now: SystemTime) -> Result<Reply, Failure> {
        let request = Request::builder()
            .uri(format!("{}/{path}", self.base))
            // Whoever can set a header is no page that was made to call this address.
            .header(AUTHORIZATION, "Bearer Oracle")
            .body(Vec::new())
            .map_err(|_| Failure::new(FailureKind::Refused, "metadata_url cannot stand in a request"))?;
        let answer = self.metadata.call(request, &[], &[], now).await;
        answer.map_err(|failure| {
            let detail = format!("the instance metadata service: {}; {HINT}", failure.detail);
            Failure::new(failure.kind, detail).with_retry_after(failure.retry_after)
        })
    }

    async fn certificate(&self, now: SystemTime) -> Result<Certificate, Failure> {
        let leaf = self.get("identity/cert.pem", now).await?;
        let key = self.get("identity/key.pem", now).await?;
        let intermediate = self.get("identity/intermediate.pem", now).await?;
        let der = |reply: &Reply, what: &str| {
            let block = pem::parse(reply.body().expose()).ok().filter(|block| block.tag() == "CERTIFICATE");
            block.map(pem::Pem::into_contents).ok_or_else(|| reply.unusable(&format!("{what} is no certificate")))
        };
        let (leaf_der, intermediate) = (der(&leaf, "cert.pem")?, der(&intermediate, "intermediate.pem")?);
        let tenancy = tenancy(&leaf_der).ok_or_else(|| leaf.unusable("the certificate names no tenancy"))?;
        let unusable = |why: String| key.unusable(&format!("key.pem cannot be used: {why}"));
        let private = PrivateKey::from_pem(key.body(), None).map_err(unusable)?;
        let signing = SigningKey::new(&private).map_err(unusable)?;
        // The two were asked for one after the other, and may have been replaced in between.
        let own = x509_parser::parse_x509_certificate(&leaf_der)
            .is_ok_and(|(_, leaf)| signing.public().is_ok_and(|public| leaf.public_key().raw == public));
        if !own {
            return Err(key.unusable("key.pem and cert.pem do not belong together"));
        }
        Ok(Certificate { leaf: leaf_der, intermediate, key: signing, tenancy })
    }

    /// Where certificates are exchanged in the region of this instance.
    async fn federation(&self, now: SystemTime) -> Result<String, Failure> {
        if let Some(url) = &self.federation {
            return Ok(url.clone());
        }
        let reply = self.get("instance/regionInfo", now).await?;
        let info = reply.object()?;
        let text = |name: &str| info.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let host = format!("auth.{}.{}", text("regionIdentifier"), text("realmDomainComponent"));
        // Whoever answers in the metadata service's place must not choose who gets the certificate.
        if !hosts::is_realm(text("realmDomainComponent")) || hosts::is_strangers(&host) {
            return Err(reply.unusable("it names no region of Oracle's; write `federation_url`"));
        }
        Ok(format!("https://{host}/v1/x509"))
    }
}

/// The address of a metadata service. The instance's key comes from there, so without TLS it is one beside us.
///
/// # Errors
/// When it is no address, or the key would travel unencrypted.
pub(super) fn metadata_address(url: &str, allow_cleartext: bool) -> Result<Destination, String> {
    let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
    let beside = match destination.host() {
        Host::Address(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Host::Address(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unique_local()
        }
        Host::Name(name) => &**name == "localhost",
    };
    if destination.protocol() == Protocol::Http && !beside && !allow_cleartext {
        return Err("the instance's key would travel unencrypted; use a link-local address, https, or set `allow_cleartext: true` on it".into());
    }
    Ok(destination)
}

/// The OCID of the tenancy, which stands in one of the names of the certificate's subject.
fn tenancy(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject().iter_attributes().filter_map(|name| name.as_str().ok());
    let named =
        |name: &str| name.strip_prefix("opc-tenant:").or_else(|| name.strip_prefix("opc-identity:")).map(str::to_owned);
    names.filter_map(named).next()
}

/// The request for a session token. `host` is not among what is signed, as in Oracle's SDKs.
fn exchange(
    url: &str,
    certificate: &Certificate,
    public: &str,
    now: SystemTime,
) -> Result<(Destination, Request<Vec<u8>>), Failure> {
    let refused = |why: String| Failure::new(FailureKind::Refused, format!("federation_url: {why}"));
    let destination = Destination::from_upstream(url).map_err(|refusal| refused(refusal.detail.into_owned()))?;
    let uri: http::Uri = url.parse().map_err(|_| refused("it is not an address".into()))?;
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let body = json!({
        "certificate": STANDARD.encode(&certificate.leaf),
        "publicKey": public,
        "intermediateCertificates": [STANDARD.encode(&certificate.intermediate)],
    });
    let body = body.to_string().into_bytes();
    let (date, hash) = (httpdate::fmt_http_date(now), STANDARD.encode(digest(&SHA256, &body)));
    let text = format!(
        "date: {date}\n(request-target): post {target}\ncontent-length: {}\ncontent-type: application/json\nx-content-sha256: {hash}",
        body.len()
    );
    let fingerprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &certificate.leaf);
    let fingerprint = pairs(fingerprint.as_ref(), |byte| format!("{byte:02X}"));
    let id = format!("{}/fed-x509/{fingerprint}", certificate.tenancy);
    let names = "date (request-target) content-length content-type x-content-sha256";
    let signed = authorization(&certificate.key, &id, names, text.as_bytes());
    let signed = signed.map_err(|refusal| refused(refusal.detail.into_owned()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/json")
        .header(DATE, date)
        .header(X_CONTENT_SHA256, hash)
        .header(AUTHORIZATION, signed)
        .body(body);
    Ok((destination, request.map_err(|_| refused("the request cannot be made".into()))?))
}

impl TokenSource for Instance {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let url = self.federation(now).await?;
            let certificate = self.certificate(now).await?;
            let key = SessionKey::generate().await?;
            let (destination, request) = exchange(&url, &certificate, &key.public, now)?;
            let options = ClientOptions { allow_addresses: self.allow_addresses.clone(), ..ClientOptions::default() };
            let client = self.http.client(&destination, &options);
            let client = client.map_err(|why| Failure::new(FailureKind::Refused, format!("federation_url: {why}")))?;
            let service = Service::new(destination, client);
            let rejected = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            let reply = service.call(request, &[] as &[Secret], &rejected, now).await?;
            issued(&reply.token("token")?, key.private.expose(), now, "is the clock of this instance right?")
        })
    }

    /// This instance's own.
    fn shareable(&self) -> bool {
        false
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        authorizer(token, &self.skew)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({:?})", self.metadata)
    }
}
