//! `countersign policy run`: a command under a lease on what an applied policy may use. It gets a proxy that knows it by the
//! token of its run, and the run is over when the command is.
//!
//! **Never shows the token, never puts it into an argument.**

use std::ffi::OsString;

use clap::Args;
use http::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use url::Url;

use super::super::client::{Client, Condition, Denied, Target, is_this_host, path};
use super::super::output::{cell, plain};
use super::super::run::{Signals, StandIns, Way, supervise, variables_of};
use super::super::{Context, Failure, protect_memory, raise_file_limit};
use super::{Place, each};
use crate::app::{App, Private};
use crate::base::Secret;
use crate::config::Config;
use crate::route::DEFAULT_ACCOUNT;

/// The right to manage is not the command's.
const MANAGEMENT_TOKEN: &str = "COUNTERSIGN_TOKEN";

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    countersign policy run --applied snapshots -- python3 engine.py\n  \
    countersign policy run --applied snapshots --lifetime 12h --server https://cs.example:8190 -- ./engine\n\n\
    Without a server the proxy of the run is in this process, and over with it. The exit code is the command's.")]
pub(super) struct Run {
    /// The id of the applied policy
    #[arg(long, value_name = "ID")]
    applied: String,
    /// How long the run may last, a day at most: 90m, 12h [default: an hour]
    #[arg(long, value_name = "TIME")]
    #[arg(value_parser = humantime::parse_duration)]
    lifetime: Option<std::time::Duration>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    place: Place,
}

/// A run that has begun.
struct Begun {
    account: String,
    id: String,
    expires_at: String,
    /// `NAME:TOKEN`.
    proof: Secret,
    /// Where a Countersign that runs takes its requests, and the authority that it has there.
    proxy: Option<(Url, CertificateDer<'static>)>,
}

pub(super) async fn run(context: &Context, given: &Run) -> Result<u8, Failure> {
    raise_file_limit();
    protect_memory();
    // From here on no signal ends us before the run is over.
    let mut signals = Signals::new().map_err(|error| Failure::Other(error.to_string()))?;
    let account = given.place.account.as_str();
    let prepared = async {
        let (client, _) = given.place.open(context).await?;
        let policy = client.get(&path(account, &["applied-policies", &given.applied])).await.map_err(not_applied)?;
        let stand_ins = stand_ins(&client, account, &policy).await?;
        Ok::<_, Failure>((client, stand_ins))
    };
    let (client, stand_ins) = tokio::select! {
        prepared = prepared => prepared?,
        number = signals.before() => return Ok(128 + number),
    };
    let body = given.lifetime.map_or_else(|| json!({}), |lifetime| json!({ "lifetime": lifetime.as_secs() }));
    let at = path(account, &["applied-policies", &given.applied, "runs"]);
    let reply = tokio::select! {
        reply = client.send(Method::POST, &at, &body, Condition::None) => reply.map_err(not_applied)?,
        // Its token, if there is one, is with nobody.
        number = signals.before() => return Ok(128 + number),
    };
    let begun = Begun::read(account, &reply.body)?;
    let code = match client.is_local() {
        true => here(context, &begun, &given.command, stand_ins, &mut signals).await,
        false => match begun.way(&client, &given.place.target) {
            Ok(way) => supervise(context, &way, &given.command, &hidden(None), stand_ins, &mut signals).await,
            Err(failure) => Err(failure),
        },
    };
    // Whatever became of the command.
    tokio::select! {
        () = begun.end(&client) => {}
        _ = signals.before() => eprintln!("countersign: the run {} ends by itself at {}", begun.id, begun.expires_at),
    }
    code
}

fn not_applied(denied: Denied) -> Failure {
    let unknown = denied.is_unknown();
    let why = denied.why;
    Failure::Other(if unknown { format!("{why}; `countersign policy list` shows what is applied") } else { why })
}

/// What the command's tools get in place of the keys that the run signs with.
async fn stand_ins(client: &Client, account: &str, policy: &Value) -> Result<StandIns, Failure> {
    let (mut schemes, mut tenancy) = (Vec::new(), None);
    for id in policy["credentials"].as_object().into_iter().flat_map(|chosen| chosen.values()) {
        let at = path(account, &["credentials", id.as_str().unwrap_or_default()]);
        match client.get(&at).await {
            Ok(credential) => {
                tenancy = tenancy.or_else(|| credential["settings"]["tenancyOcid"].as_str().map(str::to_owned));
                schemes.push(cell(&credential, "scheme"));
            }
            // The run says of its requests that there is none.
            Err(denied) if denied.is_unknown() => {}
            Err(denied) => return Err(denied.into()),
        }
    }
    Ok(StandIns::of(&schemes.iter().map(String::as_str).collect::<Vec<_>>(), tenancy))
}

/// The proxy is in this process.
async fn here(
    context: &Context,
    begun: &Begun,
    command: &[OsString],
    stand_ins: StandIns,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let (_, config) = context.load()?;
    let hidden = hidden(Some(&config));
    let app = tokio::select! {
        app = App::start_private(config, context.deps.clone(), Private::Leased) => app?,
        number = signals.before() => return Ok(128 + number),
    };
    let code = match Way::to(&app) {
        Ok(way) => {
            let way = Way { proof: Some(begun.proof.clone()), ..way };
            supervise(context, &way, command, &hidden, stand_ins, signals).await
        }
        Err(failure) => Err(failure),
    };
    // What the run did is written down; a second signal ends us at once.
    tokio::select! {
        _ = app.drain() => {}
        _ = signals.before() => {}
    }
    code
}

/// The variables that are not for the command.
fn hidden(config: Option<&Config>) -> Vec<String> {
    let mut hidden = config.map(variables_of).unwrap_or_default();
    hidden.push(MANAGEMENT_TOKEN.to_owned());
    hidden
}

/// Where a proxy is: one that says that it is on its own host is on the host whose API was asked.
fn address(proxy: &Url, elsewhere: Option<&str>) -> String {
    let own = proxy.host_str().unwrap_or_default();
    let host = elsewhere.filter(|_| is_this_host(proxy.host())).unwrap_or(own);
    format!("{host}:{}", proxy.port_or_known_default().unwrap_or_default())
}

impl Begun {
    fn read(account: &str, answer: &Value) -> Result<Self, Failure> {
        let (caller, token) = (answer["caller"].as_str(), answer["token"].as_str());
        let (Some(caller), Some(token)) = (caller, token) else {
            return Err(Failure::Other("the answer has no token of a run in it".into()));
        };
        let url = answer["proxyUrl"].as_str().and_then(|url| Url::parse(url).ok());
        let pem = answer["caCertificate"].as_str();
        let certificate = pem.and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
        Ok(Self {
            account: account.to_owned(),
            id: plain(&cell(answer, "id")),
            expires_at: plain(&cell(answer, "expiresAt")),
            proof: Secret::new(format!("{caller}:{token}")),
            proxy: url.zip(certificate),
        })
    }

    /// To the proxy of the Countersign that it was begun at.
    fn way(&self, client: &Client, target: &Target) -> Result<Way, Failure> {
        let Some((url, certificate)) = &self.proxy else {
            let why = "has no listener that runs could call: `listeners.forward` needs one on TCP that intercepts";
            return Err(Failure::Other(format!("{} {why}", client.place())));
        };
        Ok(Way {
            scheme: url.scheme().to_owned(),
            address: address(url, client.elsewhere().as_deref()),
            proof: Some(self.proof.clone()),
            certificate: certificate.clone(),
            // A listener with TLS of its own has to be trusted as well.
            roots: target.roots()?,
        })
    }

    /// Ends it, and says what it did.
    async fn end(&self, client: &Client) {
        let at = path(&self.account, &["runs", &self.id]);
        match client.delete(&at).await {
            Ok(()) => {}
            // Somebody removed it meanwhile.
            Err(denied) if denied.is_unknown() => {}
            Err(denied) => {
                let (id, until) = (&self.id, &self.expires_at);
                eprintln!(
                    "countersign: the run {id} could not be ended, and ends by itself at {until}: {}",
                    denied.why
                );
            }
        }
        if let Ok(report) = client.get(&at).await {
            eprintln!("countersign: {}", self.summary(&report));
        }
    }

    fn summary(&self, report: &Value) -> String {
        let count = |key: &str| each(report, key).filter_map(|one| one["count"].as_i64()).sum::<i64>();
        let calls = |count: i64| format!("{count} call{}", if count == 1 { "" } else { "s" });
        let more = match self.account.as_str() {
            DEFAULT_ACCOUNT => String::new(),
            account => format!(" --account {account}"),
        };
        let (made, refused, id) = (calls(count("uses")), count("refused"), &self.id);
        let early = report["lives"] == false && report["ended"].is_null();
        let early = if early { "; its time was over before the command was (--lifetime gives it more)" } else { "" };
        format!(
            "the run made {made}, and {refused} more were refused{early}; see `countersign policy show{more} --run {id}`"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(account: &str) -> Begun {
        let answer =
            json!({ "id": "r1", "caller": "run-r1", "token": "cs_t0ken", "expiresAt": "2027-01-01T00:00:00Z" });
        Begun::read(account, &answer).unwrap()
    }

    #[test]
    fn a_proxy_on_its_own_loopback_is_on_the_host_that_was_asked_and_any_other_where_it_says() {
        for (proxy, elsewhere, expected) in [
            ("http://run-1:t@127.0.0.1:8180", None, "127.0.0.1:8180"),
            ("http://run-1:t@127.0.0.1:8180", Some("cs.example"), "cs.example:8180"),
            ("http://run-1:t@[::1]:8180", Some("[2001:db8::1]"), "[2001:db8::1]:8180"),
            ("https://run-1:t@[::1]:443", None, "[::1]:443"),
            ("http://run-1:t@10.0.0.7:80", Some("cs.example"), "10.0.0.7:80"),
        ] {
            assert_eq!(address(&Url::parse(proxy).unwrap(), elsewhere), expected, "{proxy}");
        }
    }

    #[test]
    fn what_a_run_did_is_counted_and_where_more_is_shown_is_said() {
        let report = json!({ "uses": [{ "count": 3 }, { "count": 2 }], "refused": [{ "count": 1 }] });
        let text = begun("default").summary(&report);
        assert!(text.contains("5 calls, and 1 more") && text.contains("`countersign policy show --run r1`"), "{text}");
        assert!(!text.contains("--lifetime"), "{text}");
        let text = begun("default").summary(&json!({ "lives": false, "expiresAt": "2027-01-01T00:00:00Z" }));
        assert!(text.contains("--lifetime"), "{text}");
        let text = begun("default").summary(&json!({ "lives": false, "ended": { "by": "local" } }));
        assert!(!text.contains("--lifetime"), "{text}");
        let text = begun("team-a").summary(&json!({ "uses": [{ "count": 1 }] }));
        assert!(text.contains("1 call, and 0 more") && text.contains("show --account team-a --run r1`"), "{text}");
    }

    #[test]
    fn an_answer_without_a_token_begins_nothing() {
        assert!(Begun::read("default", &json!({ "id": "r1", "caller": "run-r1" })).is_err());
        assert!(begun("default").proxy.is_none());
    }
}
