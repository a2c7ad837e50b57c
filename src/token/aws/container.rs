//! The credentials endpoint of a container: ECS, Fargate, EKS Pod Identity, and whatever speaks like them.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::Method;

use super::endpoint::is_loopback;
use super::metadata::{Found, Service, misconfigured, variable};
use crate::base::{Destination, Environment, Host, HttpClients, Protocol, Secret};
use crate::source;
use crate::token::{Failure, FailureKind};

const NAME: &str = "the container's credentials endpoint";

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// Where ECS answers.
const ECS: &str = "http://169.254.170.2";

/// Who may be called without TLS beside loopback: ECS and EKS Pod Identity.
const CLEARTEXT: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// The agent calls STS for us.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The keys of the container's role.
///
/// # Errors
/// When the environment names an endpoint and it gives no keys.
pub(super) async fn load(
    environment: &dyn Environment,
    http: &dyn HttpClients,
    now: SystemTime,
) -> Result<Found, Failure> {
    let Some((url, path)) = address(environment)? else {
        return Ok(Found::Absent(format!("neither {RELATIVE} nor {FULL} is set")));
    };
    let service = Service::open(NAME, &url, TIMEOUT, http)?;
    let token = authorization(environment).await?;
    let header = token.as_ref().map(|token| ("authorization", token));
    let answer = service.call(Method::GET, &path, header).await;
    let answer = answer.map_err(|error| service.failure(FailureKind::Unavailable, error.detail))?;
    service.keys(&answer, "container credentials endpoint", now, token.as_ref()).map(Found::Keys)
}

/// The address and the path on it.
fn address(environment: &dyn Environment) -> Result<Option<(String, String)>, Failure> {
    if let Some(path) = variable(environment, RELATIVE) {
        if !path.starts_with('/') {
            return Err(misconfigured(format!("{RELATIVE} begins with `/`")));
        }
        return Ok(Some((ECS.to_owned(), path)));
    }
    let Some(url) = variable(environment, FULL) else { return Ok(None) };
    let unfit = |why: &str| misconfigured(format!("{FULL}: {why}"));
    let destination = Destination::from_upstream(&url).map_err(|refusal| unfit(&refusal.detail))?;
    let host = destination.host();
    let is_reserved = matches!(host, Host::Address(address) if CLEARTEXT.contains(address));
    if destination.protocol() == Protocol::Http && !is_reserved && !is_loopback(host) {
        return Err(unfit(
            "keys would travel unencrypted; http is for localhost, 169.254.170.2, 169.254.170.23 and [fd00:ec2::23], use \
             https",
        ));
    }
    let path = url.parse::<http::Uri>().ok().and_then(|uri| uri.path_and_query().map(ToString::to_string));
    Ok(Some((destination.to_string(), path.unwrap_or_else(|| "/".to_owned()))))
}

/// The value of the Authorization header. The file is read every time: EKS writes a new token into it.
async fn authorization(environment: &dyn Environment) -> Result<Option<Secret>, Failure> {
    let Some(file) = variable(environment, TOKEN_FILE) else {
        return Ok(variable(environment, TOKEN).map(Secret::new));
    };
    match source::read_file(Path::new(&file)).await {
        Ok(token) if !token.is_empty() => Ok(Some(token)),
        Ok(_) => Err(misconfigured(format!("{TOKEN_FILE}: file {file} is empty"))),
        Err(why) => Err(misconfigured(format!("{TOKEN_FILE}: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Network, Variables, answer};
    use super::*;

    const KEYS: &str = r#"{"AccessKeyId":"ASIAIOSFODNN7EXAMPLE","SecretAccessKey":"s","Token":"t",
        "Expiration":"2100-01-01T00:00:00Z","RoleArn":"arn:aws:iam::1:role/x"}"#;

    async fn loaded(pairs: &[(&str, &str)], network: &Network) -> Result<Found, Failure> {
        load(&*Variables::of(pairs), network, SystemTime::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn the_relative_address_is_that_of_ecs_and_is_read_first() {
        let network = Network::answering([("GET http://169.254.170.2/v2/credentials/1?a=b", answer(200, KEYS))]);
        let found = loaded(&[(RELATIVE, "/v2/credentials/1?a=b"), (FULL, "https://other.test")], &network).await;
        let Ok(Found::Keys(issued)) = found else { panic!("{found:?}") };
        assert_eq!(
            (issued.keys.access_key.as_str(), issued.source),
            ("ASIAIOSFODNN7EXAMPLE", "container credentials endpoint")
        );
        let call = network.calls().remove(0);
        assert_eq!(call.options.allow_addresses, ["169.254.170.2/32".parse().unwrap()]);
        assert!(call.options.direct && !call.headers.contains_key("authorization"));
    }

    #[tokio::test]
    async fn without_tls_only_those_are_called_that_aws_reserves_and_this_host() {
        for url in [
            "http://169.254.170.2/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://127.0.0.1:51679/x",
            "http://[::1]:51679/x",
            "http://localhost:51679/x",
            "https://metadata.test/x",
            "https://10.0.0.7/x",
        ] {
            let network = Network::answering([(&*format!("GET {url}"), answer(200, KEYS))]);
            assert!(matches!(loaded(&[(FULL, url)], &network).await, Ok(Found::Keys(_))), "{url}");
        }
        for url in [
            "http://169.254.170.3/x",
            "http://169.254.169.254/x",
            "http://metadata.test/x",
            "http://localhost.test/x",
            "http://[fd00:ec2::24]/x",
            "http://8.8.8.8/x",
            "ftp://localhost/x",
            "nonsense",
        ] {
            let network = Network::default();
            let failure = loaded(&[(FULL, url)], &network).await.unwrap_err();
            assert!(failure.kind == FailureKind::Refused && failure.detail.starts_with(FULL), "{url}: {failure}");
            assert!(network.calls().is_empty());
        }
        let failure = loaded(&[(RELATIVE, "v2")], &Network::default()).await.unwrap_err();
        assert!(failure.detail.contains("begins with `/`"));
    }

    #[tokio::test]
    async fn the_token_file_is_read_at_every_call_and_wins() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let path = file.to_str().unwrap();
        let network = Network::answering([("GET http://169.254.170.23/v1/credentials", answer(200, KEYS))]);
        let pairs = [(FULL, "http://169.254.170.23/v1/credentials"), (TOKEN_FILE, path), (TOKEN, "from-variable")];
        for content in ["first\n", "second"] {
            std::fs::write(&file, content).unwrap();
            loaded(&pairs, &network).await.unwrap();
        }
        loaded(&[pairs[0], pairs[2]], &network).await.unwrap();
        let sent: Vec<_> = network.calls().iter().map(|call| call.headers["authorization"].clone()).collect();
        assert_eq!(sent, ["first", "second", "from-variable"]);
        std::fs::write(&file, "").unwrap();
        assert!(loaded(&pairs, &network).await.unwrap_err().detail.contains("is empty"));
        std::fs::write(&file, "a\nhidden: b").unwrap();
        let failure = loaded(&pairs, &network).await.unwrap_err();
        assert!(failure.detail.contains("cannot stand in a header") && !failure.detail.contains("hidden"), "{failure}");
        std::fs::remove_file(&file).unwrap();
        assert!(loaded(&pairs, &network).await.unwrap_err().detail.starts_with(TOKEN_FILE));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_named_and_fails_is_an_error_and_none_is_none() {
        let failure = loaded(&[(RELATIVE, "/x")], &Network::default()).await.unwrap_err();
        assert_eq!(failure.detail, format!("{NAME} at http://169.254.170.2: no route to host"));
        assert!(matches!(loaded(&[(TOKEN, "x")], &Network::default()).await, Ok(Found::Absent(_))));
        assert!(matches!(loaded(&[(FULL, " ")], &Network::default()).await, Ok(Found::Absent(_))));
    }
}
