//! `/cred/v2/{orgs|projects}/{id}/credentials` and `/cloud/projects/{id}/credentials`

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Goa;
use super::fields::{incoming, outgoing, without_nulls};
use crate::api::access::sha256;
use crate::api::error::ApiError;
use crate::api::json::snake;
use crate::api::web::{Asked, Asking, At, Document};
use crate::api::{
    Api, Condition, Credential, Credentials, Filter, Input, Listed, Page, Patch, Principal, TagsPatch, kinds, time,
};
use crate::scheme::Kind;
use crate::store::Change;

/// What is read and sent at once where everything is listed.
const BATCH: usize = 500;

/// Whose credentials.
#[derive(Debug, Clone)]
struct Place {
    /// `orgs` or `projects`.
    projects: bool,
    number: i64,
    account: String,
    zone: &'static str,
    /// The older paths: snake_case, `items`.
    old: bool,
}

impl Place {
    fn of(api: &Api, scope: &str, number: &str) -> Result<Self, ApiError> {
        let projects = match scope {
            "orgs" => false,
            "projects" => true,
            _ => return Err(ApiError::not_found(format!("{scope}: there are orgs and projects"))),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = number.parse().ok().filter(|number: &i64| digits && *number >= 1);
        let number = parsed.ok_or_else(|| ApiError::bad_request("the id of an org or project is a number from 1"))?;
        let account = if projects { number.to_string() } else { format!("org-{number}") };
        Ok(Self { projects, number, account, zone: api.access.load().zone.as_str(), old: false })
    }

    /// Of an older path.
    fn old(api: &Api, number: &str, headers: &HeaderMap) -> Result<Self, ApiError> {
        let version = headers.get("api-version").map(|version| version.to_str().unwrap_or_default().trim());
        if version.is_some_and(|version| version != "1.0") {
            return Err(ApiError::bad_request("Api-Version: 1.0 is the only one there is"));
        }
        Ok(Self { old: true, ..Self::of(api, "projects", number)? })
    }

    fn root(&self) -> String {
        match (self.old, self.projects) {
            (true, _) => format!("/cloud/projects/{}/credentials", self.number),
            (false, true) => format!("/cred/v2/projects/{}/credentials", self.number),
            (false, false) => format!("/cred/v2/orgs/{}/credentials", self.number),
        }
    }

    fn scheme(&self, scheme: &str) -> String {
        if self.old { scheme.to_owned() } else { scheme.replace('_', "-") }
    }

    fn href(&self, credential: &Credential) -> String {
        format!("{}/{}/{}", self.root(), self.scheme(&credential.scheme), credential.id)
    }

    fn reference(&self, credential: &Credential) -> String {
        let whose = if self.projects { format!(":project/{}", self.number) } else { format!("{}:", self.number) };
        let scheme = credential.scheme.replace('_', "-");
        format!("ref:{}:{whose}:cred:{scheme}-credential:{}", self.zone, credential.id)
    }

    fn principal(&self, change: &Change) -> PrincipalDocument {
        let name = change.by.name.clone();
        let person = name.starts_with("oidc:");
        let kind = if person { "iam:user" } else { "iam:service-account" };
        // Whoever changed it has a name here and a number there.
        let id = sha256(name.as_bytes())[..6].iter().fold(0_i64, |id, byte| id << 8 | i64::from(*byte));
        PrincipalDocument { id, kind, reference: format!("ref:{}:::{kind}:{id}", self.zone), name }
    }

    fn item(&self, credential: &Credential) -> ItemDocument {
        let scheme = self.scheme(&credential.scheme);
        ItemDocument {
            id: credential.id.clone(),
            name: credential.name.clone(),
            kind: format!("cred:{}-credential", credential.scheme.replace('_', "-")),
            reference: self.reference(credential),
            href: self.href(credential),
            scheme,
            created_at: credential.created.as_ref().map(|change| time::text(change.at)),
            created_by: credential.created.as_ref().map(|change| self.principal(change)),
            updated_at: credential.updated.as_ref().map(|change| time::text(change.at)),
            updated_by: credential.updated.as_ref().map(|change| self.principal(change)),
            tags: credential
                .tags
                .iter()
                .map(|(key, value)| TagDocument { key: key.clone(), value: value.clone() })
                .collect(),
            org_id: (!self.projects).then_some(self.number),
            project_id: self.projects.then_some(self.number),
        }
    }

    fn show(&self, credential: &Credential) -> Value {
        let document = ShowDocument {
            item: self.item(credential),
            description: credential.description.clone(),
            hosts: credential.hosts.clone(),
            enabled: credential.enabled,
            expires_at: credential.expires_at.map(time::text),
            fields: outgoing(credential),
        };
        let value = serde_json::to_value(document).unwrap_or_default();
        // Oracle's keys were camelCase in the older generation, too.
        if self.old && credential.scheme != "oracle" { snake(value) } else { value }
    }

    fn listed(&self, credential: &Credential) -> Value {
        let value = serde_json::to_value(self.item(credential)).unwrap_or_default();
        if self.old { snake(value) } else { value }
    }

    fn credentials<'a>(&'a self, api: &'a Api, principal: &'a Principal) -> Result<Credentials<'a>, ApiError> {
        api.credentials(principal, &self.account)
    }
}

/// Who made or changed something.
#[derive(Debug, Serialize, ToSchema)]
struct PrincipalDocument {
    id: i64,
    kind: &'static str,
    name: String,
    #[serde(rename = "ref")]
    reference: String,
}

/// A tag.
#[derive(Debug, Serialize, ToSchema)]
struct TagDocument {
    key: String,
    value: String,
}

/// A credential as it is listed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlexeraItem)]
pub(super) struct ItemDocument {
    id: String,
    name: String,
    /// `cred:aws-sts-credential`
    kind: String,
    #[serde(rename = "ref")]
    reference: String,
    href: String,
    scheme: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<PrincipalDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_by: Option<PrincipalDocument>,
    tags: Vec<TagDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<i64>,
}

/// A credential with the keys of its scheme, never its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlexeraCredential)]
pub(super) struct ShowDocument {
    #[serde(flatten)]
    item: ItemDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Countersign's own: where it may be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    hosts: Vec<String>,
    /// Countersign's own.
    enabled: bool,
    /// Countersign's own: when the secret itself ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = std::collections::HashMap<String, Value>)]
    fields: Map<String, Value>,
}

/// A list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FlexeraList)]
pub(super) struct ListDocument {
    values: Vec<ItemDocument>,
    count: u64,
    kind: String,
    not_modified: String,
    /// The value of `after` for the next page, when there was a `limit` and there is more.
    #[schema(required = false)]
    next: Option<String>,
}

/// A list of the older generation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlexeraOldList)]
pub(super) struct OldListDocument {
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
    count: u64,
    /// The value of `after` for the next page, when there was a `limit` and there is more.
    #[schema(required = false)]
    next: Option<String>,
}

/// A new credential: its name, and the keys of its scheme.
#[derive(Debug, ToSchema)]
#[schema(as = FlexeraBody)]
#[schema(example = json!({"name": "Jira", "username": "bot", "password": "the password",
    "hosts": ["jira.example.com"], "tags": [{"key": "provider", "value": "jira"}]}))]
#[expect(dead_code, reason = "what is read depends on the scheme; this describes what all have")]
pub(super) struct BodyDocument {
    name: String,
    description: Option<String>,
    /// `[{ key, value }]`
    #[schema(value_type = Option<Vec<Object>>)]
    tags: Option<Value>,
    /// Countersign's own: where it may be used.
    hosts: Option<Vec<String>>,
    /// Countersign's own.
    enabled: Option<bool>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// `(id co 'azure-' and scheme eq 'oauth2')`
    filter: Option<String>,
    /// Only those of this scheme.
    scheme: Option<String>,
    /// So many at most; without it everything is listed.
    #[param(minimum = 1, value_type = Option<u32>)]
    limit: Option<String>,
    /// With `limit`: those whose id comes after this one.
    after: Option<String>,
    /// Taken and ignored.
    #[serde(rename = "view")]
    #[param(rename = "view")]
    _view: Option<String>,
}

/// What to list.
struct Listing {
    api: Api,
    principal: Principal,
    place: Place,
    filter: Option<Filter>,
    limit: usize,
    after: Option<String>,
    /// Everything, page after page.
    whole: bool,
    count: usize,
    page: Option<Listed>,
    ended: bool,
}

impl Listing {
    async fn read(&self) -> Result<Listed, ApiError> {
        let page = Page { after: self.after.clone(), limit: self.limit, filter: self.filter.as_ref(), removed: false };
        self.place.credentials(&self.api, &self.principal)?.list(&page).await
    }

    /// The next piece of the answer.
    async fn piece(mut self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        if self.ended {
            return Ok(None);
        }
        let first = self.count == 0 && self.page.is_some();
        let listed = match self.page.take() {
            Some(listed) => listed,
            // The head is sent: all that is left to say is that this is not the end.
            None => self.read().await.map_err(std::io::Error::other)?,
        };
        let mut text = String::new();
        if first {
            text.push_str(if self.place.old { "{\"items\":[" } else { "{\"values\":[" });
        }
        for credential in &listed.credentials {
            if self.count > 0 {
                text.push(',');
            }
            self.count += 1;
            text.push_str(&self.place.listed(credential).to_string());
        }
        if self.whole && listed.next.is_some() {
            self.after = listed.next;
        } else {
            self.ended = true;
            text.push_str(&format!("],\"count\":{}", self.count));
            if !self.place.old {
                text.push_str(",\"kind\":\"cred:credentials-list\",\"notModified\":\"false\"");
            }
            if let Some(next) = listed.next {
                text.push_str(&format!(",\"next\":{}", Value::String(next)));
            }
            text.push('}');
        }
        Ok(Some((text.into(), self)))
    }
}

async fn listing(
    api: Api,
    principal: Principal,
    place: Place,
    selection: Selection,
    headers: &HeaderMap,
) -> Result<Response, Goa> {
    let mut text = selection.filter.unwrap_or_default();
    if let Some(scheme) = &selection.scheme {
        let name = kinds::find(scheme).map(|kind| kind.name);
        let name = name.ok_or_else(|| ApiError::bad_request("`scheme`: there is no such scheme"))?;
        let own = format!("scheme eq '{name}'");
        text = if text.trim().is_empty() { own } else { format!("({text}) and {own}") };
    }
    let filter = (!text.trim().is_empty()).then(|| Filter::parse(&text)).transpose()?;
    let limit = match selection.limit.as_deref().filter(|limit| !limit.is_empty()) {
        None => None,
        Some(limit) => {
            let limit = limit.parse().ok().filter(|limit: &usize| *limit >= 1);
            Some(limit.ok_or_else(|| ApiError::bad_request("`limit` is a number from 1"))?)
        }
    };
    let revision = {
        let credentials = place.credentials(&api, &principal)?;
        credentials.revision().await?
    };
    let seed = format!("{revision} {text} {limit:?} {:?}", selection.after);
    let tag = format!("\"{}\"", &crate::base::text::hex(&sha256(seed.as_bytes()))[..24]);
    let tags = [(header::ETAG.as_str(), tag.clone()), ("e-tag", tag.clone())];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    if known.any(|known| known == "*" || known.trim_start_matches("W/") == tag || known == tag.trim_matches('"')) {
        return Ok((StatusCode::NOT_MODIFIED, AppendHeaders(tags)).into_response());
    }
    // A larger page is built of several.
    let whole = limit.is_none();
    let limit = limit.unwrap_or(BATCH).min(100_000);
    let mut listing = Listing {
        api,
        principal,
        place,
        filter,
        limit,
        after: selection.after,
        whole,
        count: 0,
        page: None,
        ended: false,
    };
    // What is wrong with the first page can still be said.
    listing.page = Some(listing.read().await?);
    let body = Body::from_stream(stream::try_unfold(listing, Listing::piece));
    let json = HeaderValue::from_static("application/json");
    Ok((AppendHeaders(tags), [(header::CONTENT_TYPE, json)], body).into_response())
}

/// A scheme as a path names it.
fn scheme(name: &str) -> Result<&'static Kind, ApiError> {
    kinds::find(name).ok_or_else(|| ApiError::not_found(format!("scheme {name}")))
}

async fn creation(
    api: Api,
    principal: Principal,
    place: Place,
    (kind, id): (&'static Kind, String),
    Document(document): Document,
) -> Result<Response, Goa> {
    let credentials = place.credentials(&api, &principal)?;
    let incoming = incoming(kind.name, document)?;
    let name = incoming.name.ok_or_else(|| ApiError::bad_request("name: every credential has one"))?;
    let input = Input {
        id: Some(id),
        name: Some(name),
        description: incoming.description.flatten(),
        scheme: kind.name.to_owned(),
        hosts: incoming.hosts.unwrap_or_default(),
        tags: incoming.tags.unwrap_or_default(),
        enabled: incoming.enabled.unwrap_or(true),
        expires_at: incoming.expires_at.flatten(),
        settings: without_nulls(incoming.settings),
        extra: Value::Null,
    };
    let created = credentials.create(input).await?;
    let headers = [(header::LOCATION.as_str(), place.href(&created)), ("x-ref", place.reference(&created))];
    Ok((StatusCode::CREATED, AppendHeaders(headers)).into_response())
}

/// The credential, if it is of the scheme that the path names.
async fn found(credentials: &Credentials<'_>, kind: &Kind, id: &str) -> Result<Credential, ApiError> {
    let credential = credentials.get(id).await?;
    if credential.scheme == kind.name {
        return Ok(credential);
    }
    let account = credentials.account();
    Err(ApiError::not_found(format!("credential {id} of the scheme {} in the account {account}", kind.name)))
}

async fn change(
    api: Api,
    principal: Principal,
    place: Place,
    (kind, id): (&'static Kind, String),
    Document(document): Document,
) -> Result<StatusCode, Goa> {
    let credentials = place.credentials(&api, &principal)?;
    found(&credentials, kind, &id).await?;
    let incoming = incoming(kind.name, document)?;
    let patch = Patch {
        name: incoming.name,
        description: incoming.description,
        hosts: incoming.hosts,
        tags: incoming.tags.map(TagsPatch::Replace),
        enabled: incoming.enabled,
        expires_at: incoming.expires_at,
        settings: Some(incoming.settings),
        ..Patch::default()
    };
    credentials.patch(&id, &patch, Condition::None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn showing(
    api: Api,
    principal: Principal,
    place: Place,
    (kind, id): (&'static Kind, String),
) -> Result<Json<Value>, Goa> {
    let credentials = place.credentials(&api, &principal)?;
    Ok(Json(place.show(&found(&credentials, kind, &id).await?)))
}

async fn removal(
    api: Api,
    principal: Principal,
    place: Place,
    (kind, id): (&'static Kind, String),
) -> Result<StatusCode, Goa> {
    let credentials = place.credentials(&api, &principal)?;
    found(&credentials, kind, &id).await?;
    credentials.remove(&id, Condition::None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List credentials (cred/v2)
#[utoipa::path(get, path = "/cred/v2/{scope}/{number}/credentials", tag = "flexera",
    operation_id = "credIndex",
    params(("scope" = inline(Scope), Path), ("number" = i64, Path, minimum = 1), Selection,
        ("if-none-match" = Option<String>, Header, description = "An `E-Tag` of before")),
    responses(
        (status = 200, body = ListDocument, headers(("e-tag" = String), ("etag" = String))),
        (status = 304, description = "Nothing changed", headers(("e-tag" = String), ("etag" = String)))))]
pub(super) async fn list(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((scope, number)): At<(String, String)>,
    Asked(selection): Asked<Selection>,
    headers: HeaderMap,
) -> Result<Response, Goa> {
    let place = Place::of(&api, &scope, &number)?;
    listing(api, principal, place, selection, &headers).await
}

/// Orgs or projects.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "read by hand, since others are not found")]
pub(super) enum Scope {
    /// An org.
    Orgs,
    /// A project.
    Projects,
}

/// Create a credential (cred/v2)
#[utoipa::path(put, path = "/cred/v2/{scope}/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "credCreate",
    params(("scope" = inline(Scope), Path), ("number" = i64, Path, minimum = 1), ("scheme" = String, Path),
        ("id" = String, Path)),
    request_body = BodyDocument,
    responses((status = 201, description = "Created", headers(("location" = String), ("x-ref" = String)))))]
pub(super) async fn create(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((scope, number, name, id)): At<(String, String, String, String)>,
    document: Document,
) -> Result<Response, Goa> {
    let place = Place::of(&api, &scope, &number)?;
    creation(api, principal, place, (scheme(&name)?, id), document).await
}

/// Change a credential (cred/v2)
#[utoipa::path(patch, path = "/cred/v2/{scope}/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "credUpdate",
    params(("scope" = inline(Scope), Path), ("number" = i64, Path, minimum = 1), ("scheme" = String, Path),
        ("id" = String, Path)),
    request_body = Object,
    responses((status = 204, description = "Changed")))]
pub(super) async fn patch(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((scope, number, name, id)): At<(String, String, String, String)>,
    document: Document,
) -> Result<StatusCode, Goa> {
    let place = Place::of(&api, &scope, &number)?;
    change(api, principal, place, (scheme(&name)?, id), document).await
}

/// Show a credential, never its secrets (cred/v2)
#[utoipa::path(get, path = "/cred/v2/{scope}/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "credShow",
    params(("scope" = inline(Scope), Path), ("number" = i64, Path, minimum = 1), ("scheme" = String, Path),
        ("id" = String, Path)),
    responses((status = 200, body = ShowDocument)))]
pub(super) async fn show(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((scope, number, name, id)): At<(String, String, String, String)>,
) -> Result<Json<Value>, Goa> {
    let place = Place::of(&api, &scope, &number)?;
    showing(api, principal, place, (scheme(&name)?, id)).await
}

/// Remove a credential (cred/v2)
#[utoipa::path(delete, path = "/cred/v2/{scope}/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "credDelete",
    params(("scope" = inline(Scope), Path), ("number" = i64, Path, minimum = 1), ("scheme" = String, Path),
        ("id" = String, Path)),
    responses((status = 204, description = "Removed")))]
pub(super) async fn remove(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((scope, number, name, id)): At<(String, String, String, String)>,
) -> Result<StatusCode, Goa> {
    let place = Place::of(&api, &scope, &number)?;
    removal(api, principal, place, (scheme(&name)?, id)).await
}

/// List credentials (the older paths)
#[utoipa::path(get, path = "/cloud/projects/{number}/credentials", tag = "flexera", operation_id = "cloudIndex",
    params(("number" = i64, Path, minimum = 1), Selection,
        ("api-version" = Option<String>, Header, description = "1.0"),
        ("if-none-match" = Option<String>, Header, description = "An `E-Tag` of before")),
    responses(
        (status = 200, body = OldListDocument, headers(("e-tag" = String), ("etag" = String))),
        (status = 304, description = "Nothing changed", headers(("e-tag" = String), ("etag" = String)))))]
pub(super) async fn old_list(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(number): At<String>,
    Asked(selection): Asked<Selection>,
    headers: HeaderMap,
) -> Result<Response, Goa> {
    let place = Place::old(&api, &number, &headers)?;
    listing(api, principal, place, selection, &headers).await
}

/// Create a credential (the older paths)
#[utoipa::path(put, path = "/cloud/projects/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "cloudCreate",
    params(("number" = i64, Path, minimum = 1), ("scheme" = String, Path), ("id" = String, Path),
        ("api-version" = Option<String>, Header, description = "1.0")),
    request_body = BodyDocument,
    responses((status = 201, description = "Created", headers(("location" = String), ("x-ref" = String)))))]
pub(super) async fn old_create(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((number, name, id)): At<(String, String, String)>,
    headers: HeaderMap,
    document: Document,
) -> Result<Response, Goa> {
    let place = Place::old(&api, &number, &headers)?;
    creation(api, principal, place, (scheme(&name)?, id), document).await
}

/// Change a credential (the older paths)
#[utoipa::path(patch, path = "/cloud/projects/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "cloudUpdate",
    params(("number" = i64, Path, minimum = 1), ("scheme" = String, Path), ("id" = String, Path),
        ("api-version" = Option<String>, Header, description = "1.0")),
    request_body = Object,
    responses((status = 204, description = "Changed")))]
pub(super) async fn old_patch(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((number, name, id)): At<(String, String, String)>,
    headers: HeaderMap,
    document: Document,
) -> Result<StatusCode, Goa> {
    let place = Place::old(&api, &number, &headers)?;
    change(api, principal, place, (scheme(&name)?, id), document).await
}

/// Show a credential, never its secrets (the older paths)
#[utoipa::path(get, path = "/cloud/projects/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "cloudShow",
    params(("number" = i64, Path, minimum = 1), ("scheme" = String, Path), ("id" = String, Path),
        ("api-version" = Option<String>, Header, description = "1.0")),
    responses((status = 200, body = Object)))]
pub(super) async fn old_show(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((number, name, id)): At<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Goa> {
    let place = Place::old(&api, &number, &headers)?;
    showing(api, principal, place, (scheme(&name)?, id)).await
}

/// Remove a credential (the older paths)
#[utoipa::path(delete, path = "/cloud/projects/{number}/credentials/{scheme}/{id}", tag = "flexera",
    operation_id = "cloudDelete",
    params(("number" = i64, Path, minimum = 1), ("scheme" = String, Path), ("id" = String, Path),
        ("api-version" = Option<String>, Header, description = "1.0")),
    responses((status = 204, description = "Removed")))]
pub(super) async fn old_remove(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((number, name, id)): At<(String, String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Goa> {
    let place = Place::old(&api, &number, &headers)?;
    removal(api, principal, place, (scheme(&name)?, id)).await
}
