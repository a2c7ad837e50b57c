//! Flexera One's identity service, as far as service accounts need it: who there are, what they may do, their clients.
//!
//! <https://developer.flexera.com/docs/page/authentication>. A client's secret is shown by one answer and never again, and
//! a service account has two clients at most.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::base::{ClientOptions, Deps, Destination, HttpClients, Protocol, Secret};
use crate::token::{ClientAuth, Endpoint, Failure, FailureKind, Grant, Reply, Service, TokenRequest};

/// So often what may be over soon is tried, after 1, 2, 4 … seconds or what the service says.
const ATTEMPTS: u32 = 5;

/// No pause is longer, whatever `Retry-After` says: a person waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where an organization lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Zone {
    /// North America: flexera.com
    Nam,
    /// Europe: flexera.eu
    Eu,
    /// Asia and the Pacific: flexera.au
    Apac,
}

impl Zone {
    fn domain(self) -> &'static str {
        match self {
            Self::Nam => "flexera.com",
            Self::Eu => "flexera.eu",
            Self::Apac => "flexera.au",
        }
    }

    /// As the scheme's `zone` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nam => "nam",
            Self::Eu => "eu",
            Self::Apac => "apac",
        }
    }

    /// The zone of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Nam, Self::Eu, Self::Apac].into_iter().find(|zone| zone.name() == name)
    }

    /// Where tokens are asked for.
    pub(super) fn token_url(self) -> String {
        format!("https://login.{}/oidc/token", self.domain())
    }

    fn api(self) -> String {
        format!("https://api.{}", self.domain())
    }
}

/// Why a call was not successful.
#[derive(Debug)]
pub(super) struct IamError {
    /// The answer's status; none when there was no answer.
    status: Option<StatusCode>,
    failure: Failure,
}

impl IamError {
    fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }

    /// Whether the same call may succeed a little later.
    fn may_pass(&self) -> bool {
        self.status.is_none_or(|status| {
            status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
        })
    }

    /// Whether the call may have been carried out although its answer does not say so.
    pub(super) fn may_be_done(&self) -> bool {
        self.may_pass() && !self.is(StatusCode::TOO_MANY_REQUESTS)
    }
}

impl std::fmt::Display for IamError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.failure.fmt(f)
    }
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceAccount {
    pub(super) id: String,
    pub(super) name: String,
}

/// One of a service account's clients, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IamClient {
    pub(super) id: String,
    pub(super) made: String,
}

impl std::fmt::Display for IamClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)?;
        if self.made.is_empty() { Ok(()) } else { write!(f, " (made {})", self.made) }
    }
}

/// A client that was just made.
#[derive(Debug)]
pub(super) struct NewClient {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// The identity service of one organization, as somebody who may administer it.
pub(super) struct Iam {
    deps: Deps,
    org: u64,
    base: String,
    service: Service,
    login: Endpoint,
    /// An access token of the administrator.
    token: Secret,
    /// What no error may repeat.
    secrets: Vec<Secret>,
}

impl Iam {
    /// Exchanges a refresh token of an administrator.
    pub(super) async fn open(
        deps: &Deps,
        http: &dyn HttpClients,
        zone: Zone,
        token_url: Option<&str>,
        org: u64,
        refresh_token: Secret,
    ) -> Result<Self, String> {
        let base = zone.api();
        let client = |url: &str| {
            let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
            if destination.protocol() == Protocol::Http {
                return Err(format!("{url}: a new secret is not tried over http"));
            }
            Ok((http.client(&destination, &ClientOptions::default())?, destination))
        };
        let token_url = token_url.map_or_else(|| zone.token_url(), str::to_owned);
        let login = Endpoint::new(&token_url, client(&token_url)?.0, HeaderMap::new())?;
        let (http, destination) = client(&base)?;
        let service = Service::new(destination, http);
        let mut iam = Self {
            deps: deps.clone(),
            org,
            base,
            service,
            login,
            token: Secret::new(Vec::new()),
            secrets: vec![refresh_token.clone()],
        };
        let granted = iam.exchange(Grant::RefreshToken(&refresh_token), &ClientAuth::None(None)).await;
        let granted = granted.map_err(|failure| format!("the refresh token: {failure}"))?;
        if granted.refresh_token.is_some_and(|other| other.expose() != refresh_token.expose()) {
            eprintln!("countersign: Flexera replaced the refresh token; the one that was given may not work again");
        }
        iam.secrets.push(granted.access_token.clone());
        iam.token = granted.access_token;
        Ok(iam)
    }

    /// The organization.
    pub(super) fn org(&self) -> u64 {
        self.org
    }

    /// The service accounts of this name.
    pub(super) async fn service_accounts(&self, name: &str) -> Result<Vec<ServiceAccount>, IamError> {
        let reply = self.call(Method::GET, "/service-accounts", None).await?;
        let accounts =
            values(&reply).into_iter().map(|one| ServiceAccount { id: text(&one, "id"), name: text(&one, "name") });
        Ok(accounts.filter(|one| one.name == name && !one.id.is_empty()).collect())
    }

    /// The service account of this id.
    pub(super) async fn service_account(&self, id: &str) -> Result<Option<ServiceAccount>, IamError> {
        match self.call(Method::GET, &format!("/service-accounts/{id}"), None).await {
            Ok(reply) => {
                let name = reply.object().map(|fields| text(&fields.into(), "name")).unwrap_or_default();
                Ok(Some(ServiceAccount { id: id.to_owned(), name }))
            }
            Err(error) if error.is(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a service account. Whoever calls has looked that there is none of this name; an answer that was lost is looked
    /// for by the name.
    pub(super) async fn create_service_account(&self, name: &str, about: &str) -> Result<ServiceAccount, IamError> {
        let body = json!({ "name": name, "description": about });
        let mut attempt = 1;
        loop {
            let made = self.once(Method::POST, "/service-accounts", Some(&body), &self.token).await;
            let error = match made {
                Ok(reply) => {
                    let place = reply.headers().get(LOCATION).and_then(|place| place.to_str().ok());
                    let id = place.and_then(|place| place.trim_end_matches('/').rsplit('/').next());
                    if let Some(id) = id.filter(|id| is_id(id)) {
                        return Ok(ServiceAccount { id: id.to_owned(), name: name.to_owned() });
                    }
                    IamError { status: None, failure: reply.unusable("it does not say which service account was made") }
                }
                Err(error) => error,
            };
            if error.may_be_done()
                && let [only] = &self.service_accounts(name).await?[..]
            {
                return Ok(only.clone());
            }
            self.pause(&error, &mut attempt).await.map_err(|()| error)?;
        }
    }

    /// Grants a role to a service account in the organization; granting it again changes nothing.
    pub(super) async fn grant(&self, role: &str, account: &str) -> Result<(), IamError> {
        let subject = format!("ref::::iam:service-account:{account}");
        let body = json!({ "role": { "name": role }, "subject": { "ref": subject } });
        self.call(Method::PUT, "/access-rules/grant", Some(&body)).await.map(drop)
    }

    /// The clients of a service account; nothing where Flexera does not list them.
    pub(super) async fn clients(&self, account: &str) -> Result<Option<Vec<IamClient>>, IamError> {
        match self.call(Method::GET, &format!("/service-accounts/{account}/clients"), None).await {
            Ok(reply) => {
                let clients = values(&reply).into_iter();
                let clients =
                    clients.map(|one| IamClient { id: text(&one, "clientId"), made: text(&one, "createdAt") });
                Ok(Some(clients.filter(|one| !one.id.is_empty()).collect()))
            }
            Err(error) if error.is(StatusCode::NOT_FOUND) || error.is(StatusCode::METHOD_NOT_ALLOWED) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a client. `before` are those that there were: one that an answer got lost of is deleted again, since nobody
    /// knows its secret.
    pub(super) async fn create_client(
        &self,
        account: &str,
        before: Option<&[IamClient]>,
    ) -> Result<NewClient, IamError> {
        let path = format!("/service-accounts/{account}/clients");
        let mut attempt = 1;
        loop {
            let error = match self.once(Method::POST, &path, None, &self.token).await {
                Ok(reply) => match made(&reply) {
                    Some(client) => return Ok(client),
                    None => {
                        IamError { status: None, failure: reply.unusable("there is no client with a secret in it") }
                    }
                },
                Err(error) => error,
            };
            if error.may_be_done() {
                // Without knowing what there was, another attempt would take the other slot as well.
                let (Some(before), Some(now)) = (before, self.clients(account).await?) else { return Err(error) };
                for stray in now.iter().filter(|one| before.iter().all(|other| other.id != one.id)) {
                    self.delete_client(account, &stray.id).await?;
                }
            }
            self.pause(&error, &mut attempt).await.map_err(|()| error)?;
        }
    }

    /// Deletes a client; one that is gone is gone.
    pub(super) async fn delete_client(&self, account: &str, client: &str) -> Result<(), IamError> {
        let path = format!("/service-accounts/{account}/clients/{}", segment(client));
        match self.call(Method::DELETE, &path, None).await {
            Err(error) if !error.is(StatusCode::NOT_FOUND) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a client works: it gets a token, and the API knows that token. A role may be missing for what is asked, so
    /// that 403 is a good answer; a new client may take a moment to be known everywhere.
    pub(super) async fn prove(&self, account: &str, client: &NewClient) -> Result<(), String> {
        let auth = ClientAuth::Form(client.id.clone(), client.secret.clone());
        let mut attempt = 1;
        loop {
            let error = match self.exchange(Grant::ClientCredentials, &auth).await {
                Ok(answer) => {
                    let path = format!("/service-accounts/{account}");
                    match self.once(Method::GET, &path, None, &answer.access_token).await {
                        Ok(_) => return Ok(()),
                        Err(error) if error.is(StatusCode::FORBIDDEN) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(failure) => IamError { status: None, failure },
            };
            self.pause(&error, &mut attempt).await.map_err(|()| error.to_string())?;
        }
    }

    async fn exchange(&self, grant: Grant<'_>, client: &ClientAuth) -> Result<crate::token::Answer, Failure> {
        let request = TokenRequest { grant, client, scopes: &[], params: &[] };
        let answer = self.login.exchange(&request, self.deps.clock.now(), &*self.deps.random).await;
        answer.map_err(|error| error.failure)
    }

    /// A call that may be repeated.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, IamError> {
        let mut attempt = 1;
        loop {
            match self.once(method.clone(), path, body, &self.token).await {
                Ok(reply) => return Ok(reply),
                Err(error) if error.may_pass() => self.pause(&error, &mut attempt).await.map_err(|()| error)?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn once(&self, method: Method, path: &str, body: Option<&Value>, token: &Secret) -> Result<Reply, IamError> {
        let none = |why: String| IamError { status: None, failure: Failure::new(FailureKind::Unavailable, why) };
        let bearer = [b"Bearer ", token.expose()].concat();
        let mut bearer = HeaderValue::from_bytes(&bearer).map_err(|_| none("the token is no header value".into()))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/iam/v1/orgs/{}{path}", self.base, self.org))
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default());
        let request = request.map_err(|error| none(error.to_string()))?;
        let mut secrets = self.secrets.clone();
        secrets.push(token.clone());
        let answer =
            self.service.send(request, &secrets).await.map_err(|failure| IamError { status: None, failure })?;
        let status = Some(answer.status());
        let reply = self.service.reply(answer, &secrets, &[StatusCode::UNAUTHORIZED], self.deps.clock.now());
        reply.map_err(|failure| IamError { status, failure })
    }

    /// Waits before the next attempt, and says so; an error when there is none.
    async fn pause(&self, error: &IamError, attempt: &mut u32) -> Result<(), ()> {
        if *attempt >= ATTEMPTS || !error.may_pass() {
            return Err(());
        }
        let grown = Duration::from_secs(1 << (*attempt - 1));
        let pause = error.failure.retry_after.unwrap_or(grown).min(LONGEST_PAUSE);
        eprintln!("countersign: {error}; again in {} s", pause.as_secs());
        *attempt += 1;
        let clock = Arc::clone(&self.deps.clock);
        clock.sleep_until(clock.instant() + pause).await;
        Ok(())
    }
}

/// A list is an array, or stands under `values`.
fn values(reply: &Reply) -> Vec<Value> {
    match reply.document() {
        Some(Value::Array(values)) => values,
        Some(Value::Object(mut fields)) => match fields.remove("values") {
            Some(Value::Array(values)) => values,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Ids come as numbers and as texts.
fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

fn made(reply: &Reply) -> Option<NewClient> {
    let mut fields = reply.object().ok()?;
    match (fields.remove("clientId"), fields.remove("clientSecret")) {
        (Some(Value::String(id)), Some(Value::String(secret))) if !id.is_empty() && !secret.is_empty() => {
            Some(NewClient { id, secret: Secret::new(secret) })
        }
        _ => None,
    }
}

/// What may stand in a path as it is.
pub(super) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn segment(text: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_the_schemes_zone() {
        let kind = crate::scheme::find("flexera").unwrap();
        for zone in [Zone::Nam, Zone::Eu, Zone::Apac] {
            let settings = json!({ "zone": zone.name(), "refresh_token": { "env": "R" } });
            let draft = (kind.parse)(settings).unwrap();
            let api = Destination::from_upstream(&zone.api()).unwrap();
            assert_eq!(draft.default_hosts().unwrap()[0], api.host().to_string());
            assert_eq!(Zone::named(zone.name()), Some(zone));
        }
        assert_eq!(Zone::named("us"), None);
    }

    #[test]
    fn an_id_from_outside_leads_to_no_other_path() {
        assert!(is_id("10827") && is_id("a-b_c"));
        assert!(!is_id("") && !is_id("a/b") && !is_id("..") && !is_id("a?b"));
        assert_eq!(segment("../x"), "..%2Fx");
    }
}
