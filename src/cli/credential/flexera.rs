//! `countersign credential setup flexera`: a service account of Flexera One with its roles and a client, whose secret goes
//! straight into the store.
//!
//! Run again, it finds what there is and makes only what is missing.

use std::sync::Arc;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::{Client, Condition, Target, path};
use super::super::output::Output;
use super::super::{Context, Failure, ask, variable};
use super::iam::{Iam, IamClient, IamError, NewClient, ServiceAccount, Zone, is_id};
use crate::base::{Secret, failpoint};
use crate::source::Sources;
use crate::upstream::{Upstream, system_roots};

/// Tags of a credential: of which organization, and which of its service accounts it is.
pub(super) const ORG: &str = "flexera:org";
pub(super) const SERVICE_ACCOUNT: &str = "flexera:service-account";

/// Who administers the organization.
#[derive(Args)]
#[command(next_help_heading = "Flexera One")]
pub(super) struct Administrator {
    /// A file with a refresh token of somebody who may administer the organization; - is standard input [default: it is
    /// asked for without echo]
    #[arg(long, value_name = "FILE", conflicts_with = "refresh_token_env")]
    refresh_token_file: Option<String>,
    /// An environment variable that holds it
    #[arg(long, value_name = "NAME")]
    refresh_token_env: Option<String>,
    /// A client of the service account that nothing uses any more: it is deleted first, which frees its place
    #[arg(long, value_name = "CLIENT_ID")]
    pub(super) remove_client: Option<String>,
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  countersign credential setup flexera --org 1234 --role policy_viewer --role observer\n\n\
    The refresh token is made in Flexera One under User settings > API credentials, by somebody with the role Administer \
    organization (iam_admin). Roles are named as the API names them: policy_viewer, observer, credential_viewer, \
    billing_center_viewer, enterprise_manager …\n\n\
    Nothing secret is shown. Run it again after a failure: it finds the service account by its name. \
    `countersign credential rotate` replaces the secret later."
)]
pub(super) struct Flexera {
    /// The organization's number
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    org: u64,
    /// A role to grant; repeat it for several
    #[arg(long = "role", value_name = "ROLE", required = true, value_delimiter = ',')]
    roles: Vec<String>,
    /// Where the organization lives
    #[arg(long, value_name = "ZONE", value_enum, default_value_t = Zone::Nam)]
    zone: Zone,
    /// The service account's name [default: countersign-ID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The credential's id [default: flexera-NUMBER]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    administrator: Administrator,
}

impl Administrator {
    async fn refresh_token(&self, context: &Context) -> Result<Secret, Failure> {
        let instead = "write --refresh-token-file FILE or --refresh-token-env NAME";
        let token = match (&self.refresh_token_file, &self.refresh_token_env) {
            (Some(file), _) => ask::secret_in(file).await?,
            (None, Some(name)) => {
                let value = variable(context, name).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| Failure::Other(format!("environment variable {name} is not set")))?;
                Secret::new(value)
            }
            (None, None) => ask::secret("Flexera refresh token", instead)?,
        };
        let text = token.expose_str().map(str::trim).unwrap_or_default();
        if text.is_empty() || text.chars().any(char::is_whitespace) {
            return Err(Failure::Other("the refresh token is empty, or no token: there are spaces in it".into()));
        }
        Ok(Secret::new(text))
    }

    /// The identity service as this administrator. Goes out by the ways of the configuration: roots, proxy, guard.
    pub(super) async fn open(
        &self,
        context: &Context,
        zone: Zone,
        token_url: Option<&str>,
        org: u64,
    ) -> Result<Iam, Failure> {
        let settings = super::own_config(context)?.upstream;
        let token = self.refresh_token(context).await?;
        let secrets = Sources::new(context.deps.clone()).load_all(settings.references()).await;
        let upstream = Upstream::new(settings, &secrets, &system_roots(), Arc::default());
        let upstream = upstream.map_err(|(key, why)| Failure::Other(format!("upstream.{key}: {why}")))?;
        Iam::open(&context.deps, &upstream, zone, token_url, org, token).await.map_err(Failure::Other)
    }

    /// Makes room for a client: there may be two.
    pub(super) async fn room(
        &self,
        iam: &Iam,
        account: &ServiceAccount,
        used: &[&str],
    ) -> Result<Option<Vec<IamClient>>, Failure> {
        let Some(mut clients) = iam.clients(&account.id).await.map_err(failed)? else {
            return match &self.remove_client {
                None => Ok(None),
                Some(id) => iam.delete_client(&account.id, id).await.map_err(failed).map(|()| None),
            };
        };
        if let Some(id) = &self.remove_client {
            if used.contains(&id.as_str()) {
                return Err(Failure::Usage(format!("--remove-client {id}: the credential uses this one")));
            }
            if !clients.iter().any(|client| client.id == *id) {
                return Err(Failure::Usage(format!("--remove-client {id}: {} has no such client", account.name)));
            }
            iam.delete_client(&account.id, id).await.map_err(failed)?;
            eprintln!("countersign: deleted the client {id}");
            clients.retain(|client| client.id != *id);
        }
        if clients.len() < 2 {
            return Ok(Some(clients));
        }
        let which = |client: &IamClient| match used.contains(&client.id.as_str()) {
            true => format!("{client}, which the credential uses"),
            false => client.to_string(),
        };
        Err(Failure::Other(format!(
            "the service account {} ({}) has two clients already, and Flexera allows no third: {}; delete the one that \
             nothing uses with --remove-client CLIENT_ID",
            account.name,
            account.id,
            clients.iter().map(which).collect::<Vec<_>>().join("; ")
        )))
    }
}

pub(super) fn failed(error: IamError) -> Failure {
    Failure::Other(error.to_string())
}

pub(super) async fn setup(
    context: &Context,
    target: &Target,
    account: &str,
    output: Output,
    asked: &Flexera,
) -> Result<u8, Failure> {
    let id = asked.id.clone().unwrap_or_else(|| format!("flexera-{}", asked.org));
    let name = asked.name.clone().unwrap_or_else(|| format!("countersign-{id}"));
    let client = Client::open(context, target).await?;
    let at = path(account, &["credentials", &id]);
    let present = present(&client, &at).await?;
    if let Some(present) = &present {
        asked.fits(present, &id).map_err(Failure::Other)?;
    }
    let iam = asked.administrator.open(context, asked.zone, None, asked.org).await?;
    let service_account = service_account(&iam, &name, &id, present.as_ref()).await?;
    for role in &asked.roles {
        let granted = iam.grant(role, &service_account.id).await;
        granted.map_err(|error| Failure::Other(format!("role {role}: {error}")))?;
        eprintln!("countersign: {} has the role {role}", service_account.name);
    }
    let used = present.as_ref().map(|present| setting(present, "client_id"));
    if let Some((present, used)) = present.as_ref().zip(used.as_deref()) {
        let clients = iam.clients(&service_account.id).await.map_err(failed)?;
        if clients.is_none_or(|clients| clients.iter().any(|client| client.id == used)) {
            let words = format!(
                "{id} is there already, with the client {used}; `countersign credential rotate {id}` replaces its secret"
            );
            output.done(present, &words);
            return Ok(0);
        }
        eprintln!("countersign: the client {used} of {id} is gone; it gets another");
    }
    let before = asked.administrator.room(&iam, &service_account, &[]).await?;
    let stored = client_into_store(&iam, &client, &at, &service_account, before.as_deref(), |made| {
        asked.document(&name, &service_account, made, present.as_ref())
    });
    let (made, stored) = uninterrupted(stored).await?;
    eprintln!("countersign: made the client {}; its secret is in the store", made.id);
    for other in before.iter().flatten() {
        eprintln!(
            "countersign: {} has another client, {other}; if nothing uses it, an earlier run was interrupted: \
             `countersign credential rotate {id} --remove-client {}` deletes it",
            service_account.name, other.id
        );
    }
    iam.prove(&service_account.id, &made).await.map_err(|why| {
        let what = "is stored, but Flexera does not accept its client yet";
        Failure::Other(format!("{id} {what} ({why}); try `countersign credential test {id}` in a few minutes"))
    })?;
    output.done(&stored, &format!("{id} works; account {account}, {}", client.place()));
    Ok(0)
}

impl Flexera {
    /// Whether a credential of that id is what this command would make.
    fn fits(&self, present: &Value, id: &str) -> Result<(), String> {
        let other = "choose another with --id";
        if present["source"] == "file" {
            return Err(format!("{id} is declared in the configuration file; {other}"));
        }
        let org = present["tags"][ORG].as_str();
        let same = present["scheme"] == "flexera"
            && org == Some(&self.org.to_string())
            && setting(present, "zone") == self.zone.name();
        let own = same && present["tags"][SERVICE_ACCOUNT].is_string() && !setting(present, "client_id").is_empty();
        if own { Ok(()) } else { Err(format!("there is a credential {id} already, which is another one; {other}")) }
    }

    fn document(&self, name: &str, account: &ServiceAccount, made: &NewClient, present: Option<&Value>) -> Value {
        let secret = made.secret.expose_str().unwrap_or_default();
        let settings = json!({ "zone": self.zone.name(), "client_id": made.id, "client_secret": secret });
        if present.is_some() {
            return json!({ "settings": settings });
        }
        json!({
            "name": name,
            "description": format!("Service account {} ({}) of the Flexera organization {}", account.name, account.id, self.org),
            "scheme": "flexera",
            "tags": { "provider": "flexera", ORG: self.org.to_string(), SERVICE_ACCOUNT: account.id },
            "settings": settings,
        })
    }
}

/// A credential of the store, if there is one.
async fn present(client: &Client, at: &str) -> Result<Option<Value>, Failure> {
    match client.get(at).await {
        Ok(present) => Ok(Some(present).filter(|present| present["removed"] != true)),
        Err(denied) if denied.is_unknown() => Ok(None),
        Err(denied) => Err(denied.into()),
    }
}

/// A public field of a credential's settings, in either of the API's spellings.
pub(super) fn setting(credential: &Value, name: &str) -> String {
    let mut camel = String::new();
    for (index, word) in name.split('_').enumerate() {
        let (first, rest) = word.split_at(usize::from(index > 0).min(word.len()));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    let settings = &credential["settings"];
    settings[name].as_str().or_else(|| settings[&camel].as_str()).unwrap_or_default().to_owned()
}

/// The service account of the credential, or of the name; made if there is none.
async fn service_account(iam: &Iam, name: &str, id: &str, present: Option<&Value>) -> Result<ServiceAccount, Failure> {
    if let Some(own) = present.and_then(|present| present["tags"][SERVICE_ACCOUNT].as_str()).filter(|own| is_id(own)) {
        let found = iam.service_account(own).await.map_err(failed)?;
        let gone = || format!("the service account {own} of {id} is gone; remove the credential, then run this again");
        return found.ok_or_else(|| Failure::Other(gone()));
    }
    let found = iam.service_accounts(name).await.map_err(failed)?;
    match &found[..] {
        [only] => {
            eprintln!("countersign: there is a service account {name} already ({}), which is used", only.id);
            Ok(only.clone())
        }
        [] => {
            let about = format!("Used by Countersign as its credential {id}");
            let made = iam.create_service_account(name, &about).await.map_err(failed)?;
            eprintln!("countersign: made the service account {name} ({})", made.id);
            failpoint::reached("flexera.account_made");
            Ok(made)
        }
        several => {
            let ids: Vec<_> = several.iter().map(|one| one.id.as_str()).collect();
            let why = format!("there are several service accounts {name} ({}); choose another --name", ids.join(", "));
            Err(Failure::Other(why))
        }
    }
}

/// Makes a client and stores its secret; one whose secret could not be stored is deleted again.
async fn client_into_store(
    iam: &Iam,
    client: &Client,
    at: &str,
    account: &ServiceAccount,
    before: Option<&[IamClient]>,
    document: impl Fn(&NewClient) -> Value,
) -> Result<(NewClient, Value), Failure> {
    let made = iam.create_client(&account.id, before).await.map_err(failed)?;
    failpoint::reached("flexera.client_made");
    let document = document(&made);
    let new = document.get("scheme").is_some();
    let (method, condition) = if new { (Method::PUT, Condition::New) } else { (Method::PATCH, Condition::None) };
    let denied = match client.send(method, at, &document, condition).await {
        Ok(reply) => return Ok((made, reply.body)),
        // It may have been stored all the same.
        Err(denied) => match client.get(at).await {
            Ok(stored) if !denied.is_certain() && setting(&stored, "client_id") == made.id => {
                return Ok((made, stored));
            }
            _ => denied,
        },
    };
    Err(undone(iam, account, &made, &denied.why).await.0)
}

/// Deletes a client whose secret is in no store; whether that succeeded.
pub(super) async fn undone(iam: &Iam, account: &ServiceAccount, made: &NewClient, why: &str) -> (Failure, bool) {
    match iam.delete_client(&account.id, &made.id).await {
        Ok(()) => {
            let why = format!("the new secret was not stored: {why}; the client {} was deleted again", made.id);
            (Failure::Other(why), true)
        }
        Err(error) => {
            let why = format!(
                "the new secret was not stored: {why}; nor could the client be deleted again: {error}. Delete the client {} \
                 of the service account {} ({}) in Flexera, or run this again with --remove-client {}",
                made.id, account.name, account.id, made.id
            );
            (Failure::Other(why), false)
        }
    }
}

/// Runs to its end though Ctrl-C is pressed: a secret that was made and not stored would be lost.
pub(super) async fn uninterrupted<T>(work: impl Future<Output = T>) -> T {
    use tokio::signal::unix::{SignalKind, signal};
    // From here on the process gets the signal instead of ending by it.
    let signals =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(|kind| signal(kind).ok());
    let done = work.await;
    drop(signals);
    done
}
