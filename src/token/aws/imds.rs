//! The instance metadata service of EC2, version 2.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>,
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>

use std::time::{Duration, SystemTime};

use http::{Method, Response, StatusCode};

use super::endpoint::is_region;
use super::metadata::{Found, Service, misconfigured, variable};
use crate::base::{CallError, Environment, HttpClients, Secret};
use crate::token::{Failure, FailureKind};

const NAME: &str = "the instance metadata service";

const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const MODE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const REGION: &str = "/latest/meta-data/placement/region";

/// How long the session token is asked for, in seconds. It is used at once; AWS's own programs ask for so much.
const TOKEN_LIFE: &str = "21600";

/// It answers from the next machine or not at all; half of this is for connecting.
const TIMEOUT: Duration = Duration::from_secs(2);

/// It drops requests when it is busy, and is late when the instance has just begun.
const ATTEMPTS: u32 = 3;

/// The keys of the role that is attached to the instance.
///
/// # Errors
/// When a service is there and gives no keys, or one that the environment names is not there.
pub(super) async fn load(
    environment: &dyn Environment,
    http: &dyn HttpClients,
    now: SystemTime,
) -> Result<Found, Failure> {
    if is_off(environment) {
        return Ok(Found::Absent(format!("{NAME} is switched off by {DISABLED}")));
    }
    let named = variable(environment, ENDPOINT);
    let service = opened(environment, named.as_deref(), http)?;
    let token = match session(&service).await {
        Ok(token) => token,
        Err(failure) if named.is_some() => return Err(failure),
        // Nobody, or somebody who is no EC2: other clouds use the same address.
        Err(failure) => return Ok(Found::Absent(failure.detail)),
    };
    let Some(role) = attached_role(&service, &token, now).await? else {
        return Ok(Found::Absent(format!("{NAME} has no role for this instance: attach an instance profile to it")));
    };
    let answer = get(&service, &format!("{ROLES}{role}"), &token).await?;
    service.keys(&answer, "instance metadata service", now, Some(&token)).map(Found::Keys).map_err(|mut failure| {
        // In an outage it hands out old keys, hoping that they are still taken (AWS: static stability). We do not use
        // what has ended.
        if failure.detail.contains("its keys ended at") {
            failure.detail.push_str("; it cannot renew them just now, or the clock of this host is wrong");
        }
        failure
    })
}

/// The region that the instance is in.
///
/// # Errors
/// When no service is there, or it does not say.
pub(super) async fn region(
    environment: &dyn Environment,
    http: &dyn HttpClients,
    now: SystemTime,
) -> Result<String, Failure> {
    if is_off(environment) {
        return Err(misconfigured(format!("{NAME} is switched off by {DISABLED}")));
    }
    let service = opened(environment, variable(environment, ENDPOINT).as_deref(), http)?;
    let token = session(&service).await?;
    let answer = get(&service, REGION, &token).await?;
    if answer.status() != StatusCode::OK {
        return Err(service.refusal(&answer, now, Some(&token)));
    }
    let region = String::from_utf8_lossy(answer.body()).trim().to_owned();
    match is_region(&region) {
        true => Ok(region),
        false => Err(service.failure(FailureKind::Unavailable, "what it calls the region is not a region's name")),
    }
}

fn is_off(environment: &dyn Environment) -> bool {
    variable(environment, DISABLED).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

fn opened(environment: &dyn Environment, named: Option<&str>, http: &dyn HttpClients) -> Result<Service, Failure> {
    let url = match named {
        Some(url) => url.trim().trim_end_matches('/'),
        None => default_endpoint(environment)?,
    };
    if url.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#'])) {
        return Err(misconfigured(format!("{ENDPOINT}: write a host without a path, as in http://169.254.169.254")));
    }
    Service::open(NAME, url, TIMEOUT, http)
}

fn default_endpoint(environment: &dyn Environment) -> Result<&'static str, Failure> {
    match variable(environment, MODE).unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "ipv4" => Ok("http://169.254.169.254"),
        "ipv6" => Ok("http://[fd00:ec2::254]"),
        _ => Err(misconfigured(format!("{MODE} is IPv4 or IPv6"))),
    }
}

/// A session token, which version 2 wants with every request.
async fn session(service: &Service) -> Result<Secret, Failure> {
    let life = Secret::new(TOKEN_LIFE);
    let header = ("x-aws-ec2-metadata-token-ttl-seconds", &life);
    let answer = repeated(|| service.call(Method::PUT, "/latest/api/token", Some(header))).await;
    let answer = answer.map_err(|error| {
        let hint = if error.sent { "; in a container, the instance's hop limit must be 2" } else { "" };
        service.failure(FailureKind::Unavailable, format!("{}{hint}", error.detail))
    })?;
    let token = Secret::new(answer.body().trim_ascii());
    if answer.status() != StatusCode::OK || token.is_empty() {
        let kind = if answer.status().is_client_error() { FailureKind::Refused } else { FailureKind::Unavailable };
        let why = format!("it gave no session token of version 2 ({})", answer.status().as_u16());
        return Err(service.failure(kind, why));
    }
    Ok(token)
}

/// The name of the role, if there is one.
async fn attached_role(service: &Service, token: &Secret, now: SystemTime) -> Result<Option<String>, Failure> {
    let answer = get(service, ROLES, token).await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if answer.status() != StatusCode::OK {
        return Err(service.refusal(&answer, now, Some(token)));
    }
    let text = String::from_utf8_lossy(answer.body());
    let role = text.lines().next().unwrap_or_default().trim();
    if role.is_empty() {
        return Ok(None);
    }
    // As IAM names roles; anything else would be another path.
    if role.len() > 64 || !role.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)) {
        return Err(service.failure(FailureKind::Unavailable, "what it calls the role is not a role's name"));
    }
    Ok(Some(role.to_owned()))
}

async fn get(service: &Service, path: &str, token: &Secret) -> Result<Response<Vec<u8>>, Failure> {
    let answer = repeated(|| service.call(Method::GET, path, Some(("x-aws-ec2-metadata-token", token)))).await;
    answer.map_err(|error| service.failure(FailureKind::Unavailable, error.detail))
}

/// Asks again while there is no answer or the service says it is busy or broken.
async fn repeated<F>(ask: impl Fn() -> F) -> Result<Response<Vec<u8>>, CallError>
where
    F: Future<Output = Result<Response<Vec<u8>>, CallError>>,
{
    for _ in 1..ATTEMPTS {
        match ask().await {
            Ok(answer) if answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS => {}
            Ok(answer) => return Ok(answer),
            Err(_) => {}
        }
    }
    ask().await
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, Network, Variables, answer, failing};
    use super::*;

    const PUT: &str = "PUT http://169.254.169.254/latest/api/token";
    const LIST: &str = "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/";
    const ROLE: &str = "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/web";
    const KEYS: &str = r#"{"Code":"Success","LastUpdated":"2023-11-14T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":
        "ASIAIOSFODNN7EXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-15T00:00:00Z"}"#;

    fn network(list: Answer, role: Answer) -> Network {
        Network::answering([(PUT, answer(200, "session-token\n")), (LIST, list), (ROLE, role)])
    }

    async fn loaded(pairs: &[(&str, &str)], network: &Network) -> Result<Found, Failure> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        load(&*Variables::of(pairs), network, now).await
    }

    #[tokio::test]
    async fn the_region_is_told_by_the_second_version_too() {
        const REGION: &str = "GET http://169.254.169.254/latest/meta-data/placement/region";
        let now = SystemTime::UNIX_EPOCH;
        let asked = async |region: Answer, pairs: &[(&str, &str)]| {
            let network = Network::answering([(PUT, answer(200, "session-token")), (REGION, region)]);
            let region = super::region(&*Variables::of(pairs), &network, now).await;
            (region.map_err(|failure| failure.detail), network.lines())
        };
        assert_eq!(
            asked(answer(200, "eu-central-1\n"), &[]).await,
            (Ok("eu-central-1".into()), vec![PUT.into(), REGION.into()])
        );
        for (region, pairs, why) in [
            (answer(404, ""), &[][..], "404"),
            (answer(200, "../x"), &[], "not a region's name"),
            (failing("timed out"), &[], "timed out"),
            (answer(200, "eu-central-1"), &[(DISABLED, "true")], "switched off"),
        ] {
            let error = asked(region, pairs).await.0.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    fn absent(found: Result<Found, Failure>) -> String {
        match found {
            Ok(Found::Absent(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_session_then_the_role_then_its_keys() {
        let network = network(answer(200, "web\n"), answer(200, KEYS));
        let Ok(Found::Keys(issued)) = loaded(&[], &network).await else { panic!() };
        assert_eq!(
            (issued.keys.access_key.as_str(), issued.source),
            ("ASIAIOSFODNN7EXAMPLE", "instance metadata service")
        );
        assert!(issued.expires_at.is_some());
        assert_eq!(network.lines(), [PUT, LIST, ROLE]);
        let calls = network.calls();
        assert_eq!(calls[0].headers["x-aws-ec2-metadata-token-ttl-seconds"], "21600");
        for call in &calls {
            assert_eq!(call.options.allow_addresses, ["169.254.169.254/32".parse().unwrap()]);
            assert!(call.options.direct && call.options.timeout == Some(TIMEOUT));
        }
        assert!(calls[1..].iter().all(|call| call.headers["x-aws-ec2-metadata-token"] == "session-token"));
    }

    #[tokio::test]
    async fn the_environment_chooses_the_address_or_none() {
        for (pairs, host) in [
            (&[(MODE, "IPv6")][..], "http://[fd00:ec2::254]"),
            (&[(MODE, "IPv4")], "http://169.254.169.254"),
            (&[(ENDPOINT, "http://10.1.2.3:1338/"), (MODE, "IPv6")], "http://10.1.2.3:1338"),
        ] {
            let network = Network::default();
            let _ = loaded(pairs, &network).await;
            assert_eq!(network.lines()[0], format!("PUT {host}/latest/api/token"));
        }
        for value in ["true", "TRUE"] {
            let network = Network::default();
            assert!(absent(loaded(&[(DISABLED, value)], &network).await).contains(DISABLED));
            assert!(network.calls().is_empty());
        }
        assert!(loaded(&[(DISABLED, "false")], &network(answer(200, "web"), answer(200, KEYS))).await.is_ok());
        for (name, value) in [(MODE, "IPv5"), (ENDPOINT, "http://10.1.2.3/latest"), (ENDPOINT, "ssh://x")] {
            assert_eq!(loaded(&[(name, value)], &Network::default()).await.unwrap_err().kind, FailureKind::Refused);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_no_error_unless_the_environment_says_that_somebody_is() {
        let network = Network::default();
        assert!(absent(loaded(&[], &network).await).contains("no route to host"));
        assert_eq!(network.lines(), [PUT; 3]);
        let failure = loaded(&[(ENDPOINT, "http://10.1.2.3")], &Network::default()).await.unwrap_err();
        assert!(failure.kind == FailureKind::Unavailable && failure.detail.contains("http://10.1.2.3"), "{failure}");
        // Another cloud at the same address.
        let other = Network::answering([(PUT, answer(404, "no such thing"))]);
        assert!(absent(loaded(&[], &other).await).contains("404"));
        assert_eq!(other.lines(), [PUT]);
    }

    #[tokio::test]
    async fn an_instance_without_a_role_says_what_to_attach() {
        for list in [answer(404, ""), answer(200, "\n")] {
            assert!(absent(loaded(&[], &network(list, answer(500, ""))).await).contains("instance profile"));
        }
        let failure = loaded(&[], &network(answer(200, "../x"), answer(200, KEYS))).await.unwrap_err();
        assert!(failure.detail.contains("not a role's name"));
        let failure = loaded(&[], &network(answer(401, "session-token"), answer(200, KEYS))).await.unwrap_err();
        assert!(failure.detail.ends_with("it answered 401 [redacted]"), "{failure}");
    }

    #[tokio::test]
    async fn a_busy_service_is_asked_three_times_and_no_more() {
        let answers = [
            (PUT, failing("slow")),
            (PUT, answer(503, "")),
            (PUT, answer(200, "session-token")),
            (LIST, answer(429, "")),
            (LIST, answer(200, "web")),
            (ROLE, answer(500, "")),
        ];
        let network = Network::answering(answers);
        let failure = loaded(&[], &network).await.unwrap_err();
        assert!(failure.kind == FailureKind::Unavailable && failure.detail.contains("500"), "{failure}");
        assert_eq!(network.lines(), [PUT, PUT, PUT, LIST, LIST, ROLE, ROLE, ROLE]);
    }

    #[tokio::test]
    async fn keys_that_have_ended_are_not_used() {
        let old = KEYS.replace("2023-11-15", "2023-11-14");
        let failure = loaded(&[], &network(answer(200, "web"), answer(200, &old))).await.unwrap_err();
        assert!(failure.kind == FailureKind::Unavailable && failure.detail.contains("cannot renew them"), "{failure}");
        let unlucky = KEYS.replace("Success", "Failed");
        let failure = loaded(&[], &network(answer(200, "web"), answer(200, &unlucky))).await.unwrap_err();
        assert!(failure.detail.contains("Failed instead of Success"), "{failure}");
    }
}
