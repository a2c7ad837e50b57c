//! Testing a credential: what it signs with is obtained for real, past any pause, and AWS is asked who it is.

use std::sync::Arc;

use http::{Request, StatusCode, header};

use super::file::FilePart;
use crate::api::{TestReport, Tested};
use crate::base::{ClientOptions, Code, Destination, HttpClients, Refusal};
use crate::route::{CredentialEntry, Lending, Readiness};
use crate::scheme::{Identity, Lender, Scheme};
use crate::token::aws::read_caller_identity;

/// What a test of this credential finds.
pub(super) async fn test(entry: &Arc<CredentialEntry>, file: &FilePart) -> TestReport {
    if !entry.enabled {
        return report(Tested::Refused, "it is switched off");
    }
    if let Err(error) = entry.wake().await {
        return report(Tested::Unreachable, format!("it cannot be loaded: {}", error.0));
    }
    let scheme = match &*entry.readiness() {
        Readiness::Ready(scheme) => Arc::clone(scheme),
        Readiness::Unusable(why) => return report(Tested::Refused, why.clone()),
        Readiness::Resting(_) => return report(Tested::Unreachable, "it was changed while it was loaded; try again"),
    };
    let mut found = minted(&*scheme).await;
    if matches!(found.tested, Tested::Accepted | Tested::Signed) && matches!(entry.scheme, "aws" | "aws_sts") {
        who_am_i(entry, file, &mut found).await;
    }
    found
}

fn report(tested: Tested, detail: impl Into<String>) -> TestReport {
    TestReport { tested, detail: detail.into(), facts: Vec::new() }
}

fn refused(refusal: &Refusal) -> TestReport {
    let tested = match refusal.code {
        Code::TokenEndpointUnavailable | Code::UpstreamUnreachable | Code::UpstreamTimeout => Tested::Unreachable,
        _ => Tested::Refused,
    };
    report(tested, format!("{}: {}", refusal.code.as_str(), refusal.detail))
}

/// Obtains a token, if the scheme needs one.
async fn minted(scheme: &dyn Scheme) -> TestReport {
    match scheme.identity() {
        Identity::Token(handle) => match handle.mint().await {
            Ok(_) => {
                let mut report = report(Tested::Accepted, "a token was obtained");
                let end = handle.expires_at().map(|end| humantime::format_rfc3339_seconds(end).to_string());
                report.facts.extend(end.map(|end| ("expiresAt", end)));
                report
            }
            Err(refusal) => refused(&refusal),
        },
        Identity::Fixed(_) => report(Tested::Signed, "it signs by itself; only a call shows whether it is accepted"),
        Identity::Challenged(_) => {
            report(Tested::Signed, "it answers what a server asks; only a call shows whether it is accepted")
        }
    }
}

/// Asks STS whose keys they are, signed by the credential itself.
async fn who_am_i(entry: &Arc<CredentialEntry>, file: &FilePart, found: &mut TestReport) {
    let Some(endpoint) = sts_of(entry) else {
        found.detail.push_str("; STS is not among its hosts, so it was not asked who this is");
        return;
    };
    let outcome = ask(entry, file, &endpoint).await;
    match outcome {
        Ok((arn, account)) => {
            found.tested = Tested::Accepted;
            found.detail = format!("{} says it is {arn}", endpoint.host());
            found.facts.extend([("arn", arn), ("account", account)]);
        }
        // The provider took it; that STS could not be asked besides says nothing against it.
        Err(other) if other.tested == Tested::Unreachable && found.tested == Tested::Accepted => {
            found.detail.push_str("; STS could not be asked who this is: ");
            found.detail.push_str(&other.detail);
        }
        Err(other) => *found = other,
    }
}

/// The STS that its hosts let it call: a regional one that they name, else the global one.
fn sts_of(entry: &CredentialEntry) -> Option<Destination> {
    let named = entry.hosts.iter().map(ToString::to_string);
    let regional = named.filter(|host| host.starts_with("sts.") && !host.contains('*'));
    let usual = ["sts.us-east-1.amazonaws.com", "sts.us-gov-west-1.amazonaws.com", "sts.cn-north-1.amazonaws.com.cn"];
    let candidates = regional.chain(usual.into_iter().map(str::to_owned));
    let destinations =
        candidates.filter_map(|host| Destination::from_absolute(&format!("https://{host}/").parse().ok()?).ok());
    let mut fitting = destinations.filter(|destination| entry.hosts.iter().any(|host| host.matches(destination)));
    fitting.next()
}

async fn ask(
    entry: &Arc<CredentialEntry>,
    file: &FilePart,
    endpoint: &Destination,
) -> Result<(String, String), TestReport> {
    let unreachable = |why: String| report(Tested::Unreachable, why);
    let known = [(entry.id.to_string(), String::new())].into_iter().collect();
    let lending = Lending::new(Arc::clone(&file.outside.clock), known);
    lending.open([entry].into_iter());
    let request = Request::post(format!("https://{}:{}/", endpoint.host(), endpoint.port()))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
        .body(b"Action=GetCallerIdentity&Version=2011-06-15".to_vec())
        .map_err(|error| unreachable(error.to_string()))?;
    let lent = Lender::sign(&lending, &entry.id, request).await.map_err(|refusal| refused(&refusal))?;
    let client = file.upstream.client(endpoint, &ClientOptions::default()).map_err(unreachable)?;
    let answer = client.call(lent.request).await.map_err(|error| unreachable(error.detail))?;
    match read_caller_identity(&answer) {
        Ok(identity) => Ok((identity.arn, identity.account)),
        Err(said) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Err(unreachable(said)),
        Err(said) => Err(report(Tested::Refused, format!("{}: {said}", endpoint.host()))),
    }
}
