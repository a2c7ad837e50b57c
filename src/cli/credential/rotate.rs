//! `countersign credential rotate`: a new secret at the provider, proven and stored before the old one is deleted.
//!
//! What is under way stands in the credential's tags, in the same version as what it is about, so that a run which was
//! killed is ended by the next one: before a client is made, which ones there were; with the new secret, which one it
//! replaces.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::{Client, Condition, Denied, path};
use super::super::output::{Output, cell};
use super::super::{Context, Failure};
use super::flexera::{Administrator, ORG, SERVICE_ACCOUNT, failed, setting, undone, uninterrupted};
use super::iam::{Iam, NewClient, ServiceAccount, Zone, is_id};
use crate::base::failpoint;

/// The clients that there were when a rotation began; `-` for none.
const ROTATING: &str = "flexera:rotating";
/// The client that the present one replaces and that is still to be deleted.
const RETIRED: &str = "flexera:retired";

/// So often what was stored is tried through Countersign itself, a second apart at first.
const TESTS: u32 = 5;

#[derive(Args)]
#[command(
    after_help = "Example:\n  countersign credential rotate flexera-1234 --refresh-token-file ~/.flexera-token\n\n\
    A service account has two places for clients. The second is filled, tried, stored and tried again through \
    Countersign; then the first is emptied. Killed at any moment, run it again.\n\n\
    Key pairs of Apptio are made in Frontdoor by a person: put the second one beside the first with\n  \
    countersign credential patch ID --set second.key_access=… --secret second.key_secret"
)]
pub(super) struct Rotate {
    /// The credential's id
    id: String,
    /// The organization, if the credential was not made by `setup flexera`
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    org: Option<u64>,
    /// The id of the service account, likewise
    #[arg(long, value_name = "ID")]
    service_account: Option<String>,
    #[command(flatten)]
    administrator: Administrator,
}

/// The credential that is rotated.
struct Subject<'a> {
    client: &'a Client,
    at: String,
    id: &'a str,
    document: Value,
}

impl Subject<'_> {
    fn setting(&self, name: &str) -> String {
        setting(&self.document, name)
    }

    fn tag(&self, name: &str) -> Option<&str> {
        self.document["tags"][name].as_str()
    }

    /// Its client, and the second one where it has two.
    fn clients(&self) -> Vec<String> {
        let second =
            ["client_id", "clientId"].iter().find_map(|key| self.document["settings"]["second"][*key].as_str());
        let clients = [self.setting("client_id"), second.unwrap_or_default().to_owned()];
        clients.into_iter().filter(|client| !client.is_empty()).collect()
    }

    /// Changes it, if nobody else did meanwhile.
    async fn change(&mut self, document: &Value) -> Result<(), Denied> {
        let version = self.document["version"].as_i64().map_or(Condition::None, Condition::Version);
        self.document = self.client.send(Method::PATCH, &self.at, document, version).await?.body;
        Ok(())
    }

    async fn tags(&mut self, tags: &Value) -> Result<(), Failure> {
        Ok(self.change(&json!({ "tags": tags })).await?)
    }
}

pub(super) async fn run(
    context: &Context,
    client: &Client,
    account: &str,
    output: Output,
    asked: &Rotate,
) -> Result<u8, Failure> {
    let at = path(account, &["credentials", &asked.id]);
    let document = client.get(&at).await?;
    let mut subject = Subject { client, at, id: &asked.id, document };
    let place = asked.check(&subject).map_err(Failure::Other)?;
    let url = Some(subject.setting("token_url")).filter(|url| !url.is_empty());
    let iam = asked.administrator.open(context, place.zone, url.as_deref(), place.org).await?;
    let found = iam.service_account(&place.service_account).await.map_err(failed)?;
    let gone = || {
        Failure::Other(format!("there is no service account {} in organization {}", place.service_account, place.org))
    };
    let service_account = found.ok_or_else(gone)?;
    if let Some(retired) = subject.tag(RETIRED).map(str::to_owned) {
        eprintln!("countersign: an earlier rotation stored its secret and was interrupted; it is ended");
        retire(context, &iam, &mut subject, &service_account, &retired).await?;
        output.done(&subject.document, &format!("{} has the client {}", asked.id, subject.setting("client_id")));
        return Ok(0);
    }
    if let Some(before) = subject.tag(ROTATING).map(str::to_owned) {
        stray(&iam, &subject, &service_account, &before).await?;
    }
    let used = subject.clients();
    let used: Vec<&str> = used.iter().map(String::as_str).collect();
    let before = asked.administrator.room(&iam, &service_account, &used).await?;
    let ids: Vec<&str> = before.iter().flatten().map(|client| client.id.as_str()).collect();
    let intent = if ids.is_empty() { "-".to_owned() } else { ids.join("+") };
    subject.tags(&json!({ ROTATING: intent })).await?;
    failpoint::reached("flexera.intended");
    let old = used.join("+");
    let filled = uninterrupted(async {
        let made = iam.create_client(&service_account.id, before.as_deref()).await;
        let made = made.map_err(|error| Unfilled { settled: !error.may_be_done(), failure: failed(error) })?;
        eprintln!("countersign: made the client {}", made.id);
        failpoint::reached("flexera.made");
        store(&iam, &mut subject, &service_account, &made, &old).await
    })
    .await;
    if let Err(Unfilled { failure, settled }) = filled {
        // What somebody makes by hand later must not be taken for ours.
        if settled && subject.tags(&json!({ ROTATING: null })).await.is_err() {
            eprintln!("countersign: {} keeps the tag {ROTATING}; take it away: --untag {ROTATING}", asked.id);
        }
        return Err(failure);
    }
    failpoint::reached("flexera.stored");
    retire(context, &iam, &mut subject, &service_account, &old).await?;
    output.done(&subject.document, &format!("{} has the client {}", asked.id, subject.setting("client_id")));
    Ok(0)
}

/// Why the new secret is not stored.
struct Unfilled {
    failure: Failure,
    /// Nothing of the attempt is left at the provider.
    settled: bool,
}

/// Where the service account is.
struct Place {
    zone: Zone,
    org: u64,
    service_account: String,
}

impl Rotate {
    fn check(&self, subject: &Subject<'_>) -> Result<Place, String> {
        let (id, document) = (subject.id, &subject.document);
        match document["scheme"].as_str().unwrap_or_default() {
            "flexera" => {}
            "apptio" => {
                return Err(format!(
                    "{id}: Frontdoor documents no way for a program to make key pairs. Make a second pair there, put it beside \
                     the first (countersign credential patch {id} --set second.key_access=… --secret second.key_secret), \
                     try it (countersign credential test {id}), and delete the first in Frontdoor"
                ));
            }
            other => {
                return Err(format!(
                    "{id} is of scheme {other}, whose secrets are made by a person: make a new one at the provider, then \
                     countersign credential patch {id} --secret FIELD"
                ));
            }
        }
        if document["source"] == "file" {
            return Err(format!("{id} is declared in the configuration file, which no command changes"));
        }
        if subject.clients().is_empty() {
            return Err(format!(
                "{id} has a refresh token and no client; `countersign credential setup flexera` makes one"
            ));
        }
        let missing = |what: &str, flag: &str| format!("{id} does not say of which {what} it is: write {flag}");
        let zone = Zone::named(&subject.setting("zone")).ok_or_else(|| format!("{id} has no zone"))?;
        let org = self.org.or_else(|| subject.tag(ORG).and_then(|org| org.parse().ok()));
        let org = org.ok_or_else(|| missing("organization", "--org NUMBER"))?;
        let account = self.service_account.as_deref().or_else(|| subject.tag(SERVICE_ACCOUNT));
        let account = account.ok_or_else(|| missing("service account", "--service-account ID"))?;
        if !is_id(account) {
            return Err(format!("`{account}` is not the id of a service account"));
        }
        Ok(Place { zone, org, service_account: account.to_owned() })
    }
}

/// Deletes what an interrupted rotation made and did not store: nobody knows its secret.
async fn stray(iam: &Iam, subject: &Subject<'_>, account: &ServiceAccount, before: &str) -> Result<(), Failure> {
    let used = subject.clients();
    let known = |id: &str| before.split('+').any(|known| known == id) || used.iter().any(|used| used == id);
    for client in iam.clients(&account.id).await.map_err(failed)?.iter().flatten().filter(|client| !known(&client.id)) {
        iam.delete_client(&account.id, &client.id).await.map_err(failed)?;
        eprintln!("countersign: deleted the client {client}, whose secret an interrupted rotation did not store");
    }
    Ok(())
}

/// Proves a new client and puts it in the place of the old one.
async fn store(
    iam: &Iam,
    subject: &mut Subject<'_>,
    account: &ServiceAccount,
    made: &NewClient,
    old: &str,
) -> Result<(), Unfilled> {
    if let Err(why) = iam.prove(&account.id, made).await {
        let (failure, settled) =
            undone(iam, account, made, &format!("Flexera does not accept the new client ({why})")).await;
        return Err(Unfilled { failure, settled });
    }
    let secret = made.secret.expose_str().unwrap_or_default();
    let document = json!({
        "settings": { "client_id": made.id, "client_secret": secret, "second": null },
        "tags": { ROTATING: null, RETIRED: old, ORG: iam.org().to_string(), SERVICE_ACCOUNT: account.id },
    });
    let Err(denied) = subject.change(&document).await else { return Ok(()) };
    if denied.is_certain() {
        let (failure, settled) = undone(iam, account, made, &denied.why).await;
        return Err(Unfilled { failure, settled });
    }
    match subject.client.get(&subject.at).await {
        Ok(stored) if setting(&stored, "client_id") == made.id => {
            subject.document = stored;
            Ok(())
        }
        // It may be stored yet: whatever comes of it, the tags say it to the next run.
        _ => {
            let what = "whether the new secret was stored is not known, so both clients were left";
            let failure = Failure::Other(format!("{}; {what}: run this again", denied.why));
            Err(Unfilled { failure, settled: false })
        }
    }
}

/// Tries what is stored through Countersign itself, then deletes what it replaces.
async fn retire(
    context: &Context,
    iam: &Iam,
    subject: &mut Subject<'_>,
    account: &ServiceAccount,
    old: &str,
) -> Result<(), Failure> {
    if subject.document["enabled"] != false {
        tested(context, subject).await?;
    }
    let used = subject.clients();
    for client in old.split('+').filter(|client| !client.is_empty() && used.iter().all(|used| used != client)) {
        let deleted = iam.delete_client(&account.id, client).await;
        deleted.map_err(|error| {
            let id = subject.id;
            Failure::Other(format!(
                "{id} has its new client, but the old one, {client}, could not be deleted: {error}; run this again"
            ))
        })?;
        eprintln!("countersign: deleted the client {client}");
    }
    failpoint::reached("flexera.deleted");
    subject.tags(&json!({ RETIRED: null })).await
}

async fn tested(context: &Context, subject: &Subject<'_>) -> Result<(), Failure> {
    let at = format!("{}/test", subject.at);
    let clock = &context.deps.clock;
    let mut attempt = 0;
    loop {
        let report = subject.client.send(Method::POST, &at, &json!({}), Condition::None).await?.body;
        if super::works(&report) {
            return Ok(());
        }
        attempt += 1;
        if attempt >= TESTS {
            return Err(Failure::Other(format!(
                "the new secret is stored, but {} cannot use it: {}; the old client was left: run this again",
                subject.client.place(),
                cell(&report, "detail")
            )));
        }
        clock.sleep_until(clock.instant() + Duration::from_secs(1 << (attempt - 1))).await;
    }
}
