//! `/v1/accounts/{account}/credentials`

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use serde::Deserialize;
use utoipa::IntoParams;

use super::documents::{
    CredentialBody, CredentialDocument, CredentialPatch, CredentialsDocument, RestoreBody, TestDocument, TestResult,
    TokenLifeDocument, UsageDocument, VersionDocument, VersionsDocument, writable,
};
use crate::api::error::ApiError;
use crate::api::web::{Asked, Asking, At, Document, Problem, typed};
use crate::api::{Api, Condition, Credential, Filter, Page, Tested, time};

/// A page when nothing is said.
const PAGE: usize = 100;
/// The largest.
const LARGEST: usize = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Selection {
    /// Those whose id comes after this one.
    after: Option<String>,
    /// So many at most; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// As cred/v2: `(id co 'azure-' and scheme eq 'oauth2') or tags.provider eq 'aws'`.
    filter: Option<String>,
    /// Those that were removed, too.
    removed: Option<bool>,
}

/// What must hold, as the headers say.
fn condition(headers: &HeaderMap) -> Result<Condition, ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) | (Some("*"), None) => Ok(Condition::None),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(tag), None) => {
            let version = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').parse();
            // A tag that we never gave matches no version.
            Ok(Condition::Version(version.unwrap_or(-1)))
        }
        _ => Err(ApiError::bad_request("`If-Match: \"VERSION\"` or `If-None-Match: *` is expected")),
    }
}

fn location(credential: &Credential) -> String {
    format!("/v1/accounts/{}/credentials/{}", credential.account, credential.id)
}

fn answer(status: StatusCode, credential: &Credential) -> impl IntoResponse + use<> {
    let tag = AppendHeaders([(header::ETAG, format!("\"{}\"", credential.version))]);
    let created = (status == StatusCode::CREATED).then(|| AppendHeaders([(header::LOCATION, location(credential))]));
    (status, tag, created, Json(CredentialDocument::from(credential)))
}

/// List credentials
#[utoipa::path(get, path = "/v1/accounts/{account}/credentials", tag = "credentials",
    operation_id = "listCredentials",
    params(("account" = String, Path), Selection),
    responses((status = 200, body = CredentialsDocument)))]
pub(super) async fn list(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
    Asked(selection): Asked<Selection>,
) -> Result<Json<CredentialsDocument>, Problem> {
    let limit = selection.limit.unwrap_or(PAGE);
    if !(1..=LARGEST).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` is from 1 to {LARGEST}")).into());
    }
    let filter = selection.filter.as_deref().filter(|text| !text.is_empty()).map(Filter::parse).transpose()?;
    let page =
        Page { after: selection.after, limit, filter: filter.as_ref(), removed: selection.removed.unwrap_or_default() };
    let listed = api.credentials(&principal, &account)?.list(&page).await?;
    let credentials = listed.credentials.iter().map(Into::into).collect();
    Ok(Json(CredentialsDocument { credentials, next: listed.next }))
}

/// Create a credential
#[utoipa::path(post, path = "/v1/accounts/{account}/credentials", tag = "credentials",
    operation_id = "createCredential",
    params(("account" = String, Path)), request_body = CredentialBody,
    responses((status = 201, body = CredentialDocument, headers(("location" = String), ("etag" = String)))))]
pub(super) async fn create(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    let credentials = api.credentials(&principal, &account)?;
    let body: CredentialBody = typed(writable(document))?;
    let created = credentials.create(body.into()).await?;
    Ok(answer(StatusCode::CREATED, &created))
}

/// Show a credential, never its secrets
#[utoipa::path(get, path = "/v1/accounts/{account}/credentials/{id}", tag = "credentials",
    operation_id = "showCredential",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = CredentialDocument, headers(("etag" = String)))))]
pub(super) async fn show(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<impl IntoResponse, Problem> {
    let credential = api.credentials(&principal, &account)?.get(&id).await?;
    Ok(answer(StatusCode::OK, &credential))
}

/// Create a credential, or replace its whole content
#[utoipa::path(put, path = "/v1/accounts/{account}/credentials/{id}", tag = "credentials",
    operation_id = "replaceCredential",
    params(("account" = String, Path), ("id" = String, Path),
        ("if-match" = Option<String>, Header, description = "The version that is replaced: `\"3\"`"),
        ("if-none-match" = Option<String>, Header, description = "`*` creates only")),
    request_body = CredentialBody,
    responses((status = 200, body = CredentialDocument, headers(("etag" = String))),
        (status = 201, body = CredentialDocument, headers(("location" = String), ("etag" = String)))))]
pub(super) async fn replace(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    headers: HeaderMap,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    let credentials = api.credentials(&principal, &account)?;
    let body: CredentialBody = typed(writable(document))?;
    let (credential, new) = credentials.replace(&id, body.into(), condition(&headers)?).await?;
    Ok(answer(if new { StatusCode::CREATED } else { StatusCode::OK }, &credential))
}

/// Change some of a credential (JSON merge patch, RFC 7396)
#[utoipa::path(patch, path = "/v1/accounts/{account}/credentials/{id}", tag = "credentials",
    operation_id = "patchCredential",
    params(("account" = String, Path), ("id" = String, Path),
        ("if-match" = Option<String>, Header, description = "The version that is changed: `\"3\"`")),
    request_body(content((CredentialPatch = "application/merge-patch+json"), (CredentialPatch = "application/json"))),
    responses((status = 200, body = CredentialDocument, headers(("etag" = String)))))]
pub(super) async fn patch(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    headers: HeaderMap,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    let credentials = api.credentials(&principal, &account)?;
    let patch: CredentialPatch = typed(writable(document))?;
    let credential = credentials.patch(&id, &patch.of(&id)?, condition(&headers)?).await?;
    Ok(answer(StatusCode::OK, &credential))
}

/// Remove a credential; it can be restored
#[utoipa::path(delete, path = "/v1/accounts/{account}/credentials/{id}", tag = "credentials",
    operation_id = "removeCredential",
    params(("account" = String, Path), ("id" = String, Path),
        ("if-match" = Option<String>, Header, description = "The version that is removed: `\"3\"`")),
    responses((status = 204)))]
pub(super) async fn remove(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    api.credentials(&principal, &account)?.remove(&id, condition(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the versions of a credential
#[utoipa::path(get, path = "/v1/accounts/{account}/credentials/{id}/versions", tag = "credentials",
    operation_id = "listVersions",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = VersionsDocument)))]
pub(super) async fn versions(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<Json<VersionsDocument>, Problem> {
    let versions = api.credentials(&principal, &account)?.versions(&id).await?;
    Ok(Json(VersionsDocument { versions: versions.iter().map(VersionDocument::from).collect() }))
}

/// Restore an earlier version, or what was removed
#[utoipa::path(post, path = "/v1/accounts/{account}/credentials/{id}/restore", tag = "credentials",
    operation_id = "restoreCredential",
    params(("account" = String, Path), ("id" = String, Path)), request_body = Option<RestoreBody>,
    responses((status = 200, body = CredentialDocument, headers(("etag" = String)))))]
pub(super) async fn restore(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    let credentials = api.credentials(&principal, &account)?;
    let body: Option<RestoreBody> = typed(document)?;
    let restored = credentials.restore(&id, body.and_then(|body| body.version)).await?;
    Ok(answer(StatusCode::OK, &restored))
}

/// Use a credential for real and say what the provider answered
#[utoipa::path(post, path = "/v1/accounts/{account}/credentials/{id}/test", tag = "credentials",
    operation_id = "testCredential",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = TestDocument)))]
pub(super) async fn test(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<Json<TestDocument>, Problem> {
    let report = api.credentials(&principal, &account)?.test(&id).await?;
    let result = match report.tested {
        Tested::Accepted => TestResult::Accepted,
        Tested::Refused => TestResult::Refused,
        Tested::Unreachable => TestResult::Unreachable,
        Tested::Signed => TestResult::Signed,
    };
    let facts = report.facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Json(TestDocument { result, detail: report.detail, facts }))
}

/// Say how a credential is used
#[utoipa::path(get, path = "/v1/accounts/{account}/credentials/{id}/usage", tag = "credentials",
    operation_id = "showUsage",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = UsageDocument)))]
pub(super) async fn usage(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<Json<UsageDocument>, Problem> {
    let usage = api.credentials(&principal, &account)?.usage(&id).await?;
    let tokens = usage.tokens.into_iter();
    Ok(Json(UsageDocument {
        count: usage.count,
        last_used: usage.last_used.map(time::text),
        last_caller: usage.last_caller,
        tokens: tokens
            .map(|life| TokenLifeDocument { label: life.label, expires_at: time::text(life.expires_at) })
            .collect(),
        expires_at: usage.expires_at.map(time::text),
        warning: usage.warning,
    }))
}
