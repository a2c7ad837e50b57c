//! The paths of `/api/credentials` and their answers.

use std::borrow::Cow;

use axum::extract::{Extension, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use http::StatusCode;
use url::form_urlencoded;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::web::{Asking, At, Document, Surface};
use super::super::{Api, ApiError, ErrorKind};
use super::Wrong;
use super::service::{Memory, Spec, Tower};
use super::wire::{
    TowerConflicts, TowerCredentialsCreated, TowerCredentialsDescribed, TowerCredentialsList, TowerCredentialsRequest,
    TowerError, TowerValidation,
};
use crate::route::DEFAULT_ACCOUNT;

/// Its routes.
pub(in super::super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(validate_name))
        .routes(routes!(describe, update, remove))
        .routes(routes!(validate))
        .routes(routes!(keys))
        .layer(Extension(Memory::default()))
}

/// How a surface says no.
enum Refused {
    /// As everywhere in Tower: 403 for what is not there too.
    Usual(ApiError),
    /// Where Tower's documents have 404 and 409.
    Telling(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Usual(error)
    }
}

impl From<Wrong> for Refused {
    fn from(wrong: Wrong) -> Self {
        let path = (!wrong.path.is_empty()).then_some(wrong.path);
        Self::Usual(ApiError { path, ..ApiError::bad_request(wrong.message) })
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (mut error, telling) = match self {
            Self::Usual(error) => (error, false),
            Self::Telling(error) => (error, true),
        };
        error.kind = match error.kind {
            // Whether there is one is not told to who may not see it, and its clients read 403 as that.
            ErrorKind::NotFound if !telling => ErrorKind::Forbidden,
            ErrorKind::Conflict if !telling => ErrorKind::BadRequest,
            ErrorKind::Unprocessable | ErrorKind::Precondition => ErrorKind::BadRequest,
            other => other,
        };
        if let Some(path) = error.path.take() {
            error.detail = format!("{path}: {}", error.detail);
        }
        Surface::Tower.answer(&error)
    }
}

type Answer = Result<Response, Refused>;

/// What stands behind the `?`.
struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Query<'q> {
    fn read(query: Option<&'q str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        given.filter(|value| !value.is_empty())
    }

    /// The account of `workspaceId`; the one of the configuration file without it.
    fn account(&self) -> Result<String, Refused> {
        let Some(workspace) = self.get("workspaceId") else { return Ok(DEFAULT_ACCOUNT.to_owned()) };
        let number = workspace.parse::<i64>().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| Wrong::at("workspaceId", "the number of a workspace"))?;
        Ok(number.to_string())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Refused> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Wrong::at(name, "true or false").into()),
        }
    }
}

/// Lists the credentials of a workspace.
///
/// Those that Tower has a provider for, by name, whichever way in made them; never a secret. What was deleted is not among
/// them.
#[utoipa::path(
    get, path = "/api/credentials", operation_id = "ListCredentials", tag = "tower",
    params(
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("platformId" = Option<String>, Query, description = "Taken and of no effect"),
    ),
    responses(
        (status = 200, description = "Every credential", body = TowerCredentialsList),
        (status = 400, description = "A parameter cannot be read", body = TowerError),
        (status = 403, description = "The caller may not see this workspace"),
    )
)]
async fn list(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    RawQuery(query): RawQuery,
) -> Answer {
    let account = Query::read(query.as_deref()).account()?;
    let credentials = Tower::new(api, memory).list(&principal, &account).await?;
    Ok(Json(TowerCredentialsList { credentials }).into_response())
}

/// Creates a credential.
///
/// Its provider decides which scheme signs with it and for which hosts; `baseUrl`, or the `registry` of a container registry, names
/// another host. What nothing here can sign with is refused.
#[utoipa::path(
    post, path = "/api/credentials", operation_id = "CreateCredentials", tag = "tower",
    params(
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("useExternalId" = Option<bool>, Query, description = "aws with keys and a role: makes an external id, which `setupSnippet` shows"),
    ),
    request_body = TowerCredentialsRequest,
    responses(
        (status = 200, description = "It was created", body = TowerCredentialsCreated),
        (status = 400, description = "What to change, with the key that it is about", body = TowerError),
        (status = 403, description = "The caller may not manage credentials of this workspace"),
    )
)]
async fn create(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    RawQuery(query): RawQuery,
    Document(body): Document,
) -> Answer {
    let query = Query::read(query.as_deref());
    let (account, use_external_id) = (query.account()?, query.flag("useExternalId")?);
    let spec = Spec::read(body)?;
    let credentials_id = Tower::new(api, memory).create(&principal, &account, spec, use_external_id).await?;
    Ok(Json(TowerCredentialsCreated { credentials_id }).into_response())
}

/// Says whether a name is free.
#[utoipa::path(
    get, path = "/api/credentials/validate", operation_id = "ValidateCredentialsName", tag = "tower",
    params(
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("name" = Option<String>, Query, description = "The name: 2 to 100 letters, digits, `_` and `-`"),
    ),
    responses(
        (status = 204, description = "It is free"),
        (status = 400, description = "It can be no name", body = TowerError),
        (status = 403, description = "The caller may not see this workspace"),
        (status = 409, description = "It is taken", body = TowerError),
    )
)]
async fn validate_name(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = Query::read(query.as_deref());
    let account = query.account()?;
    let name = query.get("name").ok_or_else(|| Wrong::at("name", "a name is needed"))?;
    if Tower::new(api, memory).is_free(&principal, &account, name).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Refused::Telling(ApiError::conflict("there are credentials of that name in this workspace")))
}

/// Describes a credential.
///
/// Its keys as far as they are not secret; for a role of AWS the trust policy that lets Countersign assume it.
#[utoipa::path(
    get, path = "/api/credentials/{credentialsId}", operation_id = "DescribeCredentials", tag = "tower",
    params(
        ("credentialsId" = String, Path, description = "The id"),
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
    ),
    responses(
        (status = 200, description = "The credential", body = TowerCredentialsDescribed),
        (status = 400, description = "A parameter cannot be read", body = TowerError),
        (status = 403, description = "There is none of that id, or the caller may not see it"),
    )
)]
async fn describe(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    At(id): At<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let account = Query::read(query.as_deref()).account()?;
    let credentials = Tower::new(api, memory).describe(&principal, &account, &id).await?;
    Ok(Json(TowerCredentialsDescribed { credentials }).into_response())
}

/// Changes a credential.
///
/// What is left out stays, secrets too; but whoever changes where a secret goes gives it anew.
#[utoipa::path(
    put, path = "/api/credentials/{credentialsId}", operation_id = "UpdateCredentials", tag = "tower",
    params(
        ("credentialsId" = String, Path, description = "The id"),
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("useExternalId" = Option<bool>, Query, description = "aws with keys and a role: makes an external id unless there is one; false takes it away"),
    ),
    request_body = TowerCredentialsRequest,
    responses(
        (status = 204, description = "It was changed"),
        (status = 400, description = "What to change, with the key that it is about", body = TowerError),
        (status = 403, description = "There is none of that id, or the caller may not manage it"),
    )
)]
async fn update(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    At(id): At<String>,
    RawQuery(query): RawQuery,
    Document(body): Document,
) -> Answer {
    let query = Query::read(query.as_deref());
    let (account, use_external_id) = (query.account()?, query.flag("useExternalId")?);
    let spec = Spec::read(body)?;
    Tower::new(api, memory).update(&principal, &account, &id, spec, use_external_id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a credential.
///
/// Bindings that name it stay, and refuse every request. With `checked=true` it is not deleted while there are any.
#[utoipa::path(
    delete, path = "/api/credentials/{credentialsId}", operation_id = "DeleteCredentials", tag = "tower",
    params(
        ("credentialsId" = String, Path, description = "The id"),
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("checked" = Option<bool>, Query, description = "Only if no binding names it"),
    ),
    responses(
        (status = 204, description = "It was deleted"),
        (status = 400, description = "A parameter cannot be read, or the configuration file declares it", body = TowerError),
        (status = 403, description = "There is none of that id, or the caller may not manage it"),
        (status = 409, description = "These bindings name it", body = TowerConflicts),
    )
)]
async fn remove(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    At(id): At<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = Query::read(query.as_deref());
    let (account, checked) = (query.account()?, query.flag("checked")?.unwrap_or_default());
    let conflicts = Tower::new(api, memory).remove(&principal, &account, &id, checked).await?;
    if conflicts.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok((StatusCode::CONFLICT, Json(TowerConflicts { credentials_id: id, conflicts })).into_response())
}

/// Uses a credential for real and says what the provider answered.
#[utoipa::path(
    post, path = "/api/credentials/{credentialsId}/validate", operation_id = "ValidateCredentials", tag = "tower",
    params(
        ("credentialsId" = String, Path, description = "The id"),
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "The account `N`; without it, `default`"),
        ("force" = Option<bool>, Query, description = "Asks nobody and takes back that it is INVALID"),
    ),
    responses(
        (status = 200, description = "What was found", body = TowerValidation),
        (status = 400, description = "A parameter cannot be read", body = TowerError),
        (status = 403, description = "The caller may not manage credentials of this workspace"),
        (status = 404, description = "There is none of that id", body = TowerError),
        (status = 409, description = "It is switched off; or `force`, and it is not INVALID", body = TowerError),
    )
)]
async fn validate(
    State(api): State<Api>,
    Extension(memory): Extension<Memory>,
    Asking(principal): Asking,
    At(id): At<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = Query::read(query.as_deref());
    let (account, force) = (query.account()?, query.flag("force")?.unwrap_or_default());
    let found = Tower::new(api, memory).validate(&principal, &account, &id, force).await.map_err(Refused::Telling)?;
    Ok(Json::<TowerValidation>(found).into_response())
}

/// Refuses to hand out keys.
///
/// Tower gives a credential's keys, encrypted, to services that are paired with it. Nothing here ever gives a secret away, so
/// that the answer is 403 whoever asks and whatever for.
#[utoipa::path(
    get, path = "/api/credentials/{credentialsId}/keys", operation_id = "GetCredentialsKeys", tag = "tower",
    params(
        ("credentialsId" = String, Path, description = "The id"),
        ("workspaceId" = Option<i64>, Query, minimum = 1, description = "Of no effect"),
        ("pairingId" = Option<String>, Query, description = "Of no effect"),
    ),
    responses(
        (status = 403, description = "Always: secrets never leave"),
    )
)]
async fn keys() -> StatusCode {
    StatusCode::FORBIDDEN
}
