//! Accounts, bindings, callers, management tokens, the audit record, and what there is to know.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::documents::{
    AccountDocument, AccountsDocument, AuditDocument, BindingBody, BindingDocument, BindingsDocument, CallerBody,
    CallerDocument, CallerTokenBody, CallerTokenDocument, CallersDocument, GrantDocument, NewCallerTokenDocument,
    NewTokenDocument, SchemeDocument, TokenBody, TokenDocument, TokensDocument, WhoamiDocument, writable,
};
use crate::api::error::ApiError;
use crate::api::web::{Asked, Asking, At, Document, Problem, typed};
use crate::api::{Api, NewCallerToken, Origin, TokenEntry, kinds, time};
use crate::base::Secret;
use crate::store::{AuditQuery, Role};

/// Lines of the audit record when nothing is said.
const LINES: usize = 100;
/// At most.
const MOST_LINES: usize = 1000;

/// A token that is told once.
fn told(token: &Secret) -> String {
    token.expose_str().unwrap_or_default().to_owned()
}

/// Say who asks
#[utoipa::path(get, path = "/v1/whoami", tag = "about", operation_id = "whoami",
    responses((status = 200, body = WhoamiDocument)))]
pub(super) async fn whoami(Asking(principal): Asking) -> Result<Json<WhoamiDocument>, Problem> {
    let highest = principal.highest().cloned();
    let highest = highest.ok_or_else(|| ApiError::forbidden(format!("{} has no role here", principal.name)))?;
    let grants = principal.grants.iter();
    Ok(Json(WhoamiDocument {
        grants: grants.map(|one| GrantDocument { role: one.role.into(), account: one.account.clone() }).collect(),
        name: principal.name,
        role: highest.role.into(),
        account: highest.account,
    }))
}

/// Say how the process is
#[utoipa::path(get, path = "/v1/status", tag = "about", operation_id = "status",
    responses((status = 200, body = Object)))]
pub(super) async fn status(State(api): State<Api>, Asking(principal): Asking) -> Result<Json<Value>, Problem> {
    principal.may_everywhere(Role::Viewer)?;
    Ok(Json(api.engine.status()))
}

/// List the schemes and which of their keys are secret
#[utoipa::path(get, path = "/v1/schemes", tag = "about", operation_id = "listSchemes",
    responses((status = 200, body = Vec<SchemeDocument>)))]
pub(super) async fn schemes() -> Json<Vec<SchemeDocument>> {
    let of = |kind: &'static crate::scheme::Kind| SchemeDocument {
        name: kind.name,
        about: kind.about,
        secret: kind.fields.secret.to_vec(),
        leading: kind.fields.leading.to_vec(),
        operators: kind.fields.operators.to_vec(),
    };
    Json(kinds::all().map(of).collect())
}

/// List the accounts that the caller may see
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", operation_id = "listAccounts",
    responses((status = 200, body = AccountsDocument)))]
pub(super) async fn accounts(
    State(api): State<Api>,
    Asking(principal): Asking,
) -> Result<Json<AccountsDocument>, Problem> {
    let accounts = api.accounts(&principal).await?.into_iter();
    let accounts = accounts.map(|(name, created)| AccountDocument { name, created: (&created).into() }).collect();
    Ok(Json(AccountsDocument { accounts }))
}

/// List the bindings of an account
#[utoipa::path(get, path = "/v1/accounts/{account}/bindings", tag = "bindings", operation_id = "listBindings",
    params(("account" = String, Path)),
    responses((status = 200, body = BindingsDocument)))]
pub(super) async fn bindings(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
) -> Result<Json<BindingsDocument>, Problem> {
    let bindings = api.bindings(&principal, &account).await?;
    Ok(Json(BindingsDocument { bindings: bindings.into_iter().map(Into::into).collect() }))
}

/// Create or replace a binding
#[utoipa::path(put, path = "/v1/accounts/{account}/bindings/{id}", tag = "bindings", operation_id = "putBinding",
    params(("account" = String, Path), ("id" = String, Path)), request_body = BindingBody,
    responses((status = 200, body = BindingDocument),
        (status = 201, body = BindingDocument, headers(("location" = String)))))]
pub(super) async fn put_binding(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: BindingBody = typed(writable(document))?;
    let binding = body.of(account, id)?;
    let new = api.put_binding(&principal, binding.clone()).await?;
    let at = format!("/v1/accounts/{}/bindings/{}", binding.account, binding.id);
    let created = new.then(|| AppendHeaders([(header::LOCATION, at)]));
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, created, Json(BindingDocument::from(binding))))
}

/// Remove a binding
#[utoipa::path(delete, path = "/v1/accounts/{account}/bindings/{id}", tag = "bindings",
    operation_id = "removeBinding",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove_binding(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.remove_binding(&principal, &account, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the callers of an account
#[utoipa::path(get, path = "/v1/accounts/{account}/callers", tag = "callers", operation_id = "listCallers",
    params(("account" = String, Path)),
    responses((status = 200, body = CallersDocument)))]
pub(super) async fn callers(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
) -> Result<Json<CallersDocument>, Problem> {
    let callers = api.callers(&principal, &account).await?.into_iter();
    let of = |caller: crate::api::CallerEntry| CallerDocument {
        name: caller.name,
        source: caller.origin.into(),
        tokens: caller
            .tokens
            .into_iter()
            .map(|(id, created, end)| CallerTokenDocument {
                id,
                created_at: time::text(created),
                expires_at: end.map(time::text),
            })
            .collect(),
    };
    Ok(Json(CallersDocument { callers: callers.map(of).collect() }))
}

fn new_caller_token(name: String, new: NewCallerToken) -> (StatusCode, Json<NewCallerTokenDocument>) {
    let NewCallerToken { id, token, expires_at } = new;
    let expires_at = expires_at.map(time::text);
    (StatusCode::CREATED, Json(NewCallerTokenDocument { name, id, token: told(&token), expires_at }))
}

/// Create a caller; its token is shown this once
#[utoipa::path(post, path = "/v1/accounts/{account}/callers", tag = "callers", operation_id = "addCaller",
    params(("account" = String, Path)), request_body = CallerBody,
    responses((status = 201, body = NewCallerTokenDocument)))]
pub(super) async fn add_caller(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: CallerBody = typed(document)?;
    let new = api.add_caller(&principal, &account, &body.name, body.expires_at).await?;
    Ok(new_caller_token(body.name, new))
}

/// Give a caller a further token, shown this once
#[utoipa::path(post, path = "/v1/accounts/{account}/callers/{name}/tokens", tag = "callers",
    operation_id = "addCallerToken",
    params(("account" = String, Path), ("name" = String, Path)), request_body = Option<CallerTokenBody>,
    responses((status = 201, body = NewCallerTokenDocument)))]
pub(super) async fn add_caller_token(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, name)): At<(String, String)>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: Option<CallerTokenBody> = typed(document)?;
    let new = api.add_caller_token(&principal, &account, &name, body.and_then(|body| body.expires_at)).await?;
    Ok(new_caller_token(name, new))
}

/// Remove a caller with all of its tokens
#[utoipa::path(delete, path = "/v1/accounts/{account}/callers/{name}", tag = "callers",
    operation_id = "removeCaller",
    params(("account" = String, Path), ("name" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove_caller(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, name)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.remove_caller(&principal, &account, &name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove one token of a caller
#[utoipa::path(delete, path = "/v1/accounts/{account}/callers/{name}/tokens/{id}", tag = "callers",
    operation_id = "removeCallerToken",
    params(("account" = String, Path), ("name" = String, Path), ("id" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove_caller_token(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, name, id)): At<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    api.remove_caller(&principal, &account, &name, Some(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the management tokens
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", operation_id = "listTokens",
    responses((status = 200, body = TokensDocument)))]
pub(super) async fn tokens(State(api): State<Api>, Asking(principal): Asking) -> Result<Json<TokensDocument>, Problem> {
    let tokens = api.tokens(&principal).await?.into_iter();
    let of = |token: TokenEntry| TokenDocument {
        name: token.name,
        role: token.role.into(),
        account: token.account,
        expires_at: token.expires_at.map(time::text),
        source: token.origin.into(),
    };
    Ok(Json(TokensDocument { tokens: tokens.map(of).collect() }))
}

/// Create a management token, shown this once
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", operation_id = "addToken", request_body = TokenBody,
    responses((status = 201, body = NewTokenDocument)))]
pub(super) async fn add_token(
    State(api): State<Api>,
    Asking(principal): Asking,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    let body: TokenBody = typed(document)?;
    let entry = TokenEntry {
        name: body.name,
        role: body.role.into(),
        account: body.account,
        expires_at: body.expires_at,
        origin: Origin::Store,
    };
    let (entry, token) = api.add_token(&principal, entry).await?;
    let document = NewTokenDocument {
        name: entry.name,
        role: entry.role.into(),
        account: entry.account,
        expires_at: entry.expires_at.map(time::text),
        token: told(&token),
    };
    Ok((StatusCode::CREATED, Json(document)))
}

/// Remove a management token
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "tokens", operation_id = "removeToken",
    params(("name" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove_token(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(name): At<String>,
) -> Result<StatusCode, Problem> {
    api.remove_token(&principal, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// The account; needed by an admin who is not one of all accounts.
    account: Option<String>,
    /// What it happened to.
    subject: Option<String>,
    /// Who did it.
    actor: Option<String>,
    /// What happened: `credential.update`, or `credential.` for all that begins so.
    action: Option<String>,
    /// From this time.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// So many at most; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Search the audit record, the newest first
#[utoipa::path(get, path = "/v1/audit", tag = "audit", operation_id = "searchAudit", params(Search),
    responses((status = 200, body = AuditDocument)))]
pub(super) async fn audit(
    State(api): State<Api>,
    Asking(principal): Asking,
    Asked(search): Asked<Search>,
) -> Result<Json<AuditDocument>, Problem> {
    let time = |name: &str, text: Option<String>| {
        let wrong = || ApiError::bad_request(format!("`{name}`: a time is written 2026-01-31T12:00:00Z"));
        text.map(|text| time::parse(&text).ok_or_else(wrong)).transpose()
    };
    let limit = search.limit.unwrap_or(LINES);
    if !(1..=MOST_LINES).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` is from 1 to {MOST_LINES}")).into());
    }
    let query = AuditQuery {
        account: search.account,
        subject: search.subject,
        actor: search.actor,
        action: search.action,
        since: time("since", search.since)?,
        until: time("until", search.until)?,
        limit,
    };
    let rows = api.audit(&principal, &query).await?.into_iter();
    let line = |row: crate::store::AuditRow| serde_json::from_str(&row.line).unwrap_or(Value::String(row.line));
    Ok(Json(AuditDocument { events: rows.map(line).collect() }))
}
