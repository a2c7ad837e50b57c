//! The surface of Flexera's credential service: cred/v2, and the older paths below `/cloud`.

mod credentials;
mod fields;

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::{ApiError, ErrorKind};
use super::web::Surface;

/// Its routes.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(credentials::list))
        .routes(routes!(credentials::create, credentials::patch, credentials::show, credentials::remove))
        .routes(routes!(credentials::old_list))
        .routes(routes!(
            credentials::old_create,
            credentials::old_patch,
            credentials::old_show,
            credentials::old_remove
        ))
}

/// Numbers the errors of this process.
static ERRORS: AtomicU64 = AtomicU64::new(1);

/// An error in Goa's media type.
pub(super) fn goa(error: &ApiError) -> Response {
    let name = match error.kind {
        ErrorKind::Unprocessable => "unprocessable_entity",
        ErrorKind::Unavailable => "service_unavailable",
        ErrorKind::Internal => "internal_error",
        _ => error.code(),
    };
    let passing = matches!(error.kind, ErrorKind::TooMany | ErrorKind::Unavailable);
    let message = match &error.path {
        Some(path) => format!("{path}: {}", error.detail),
        None => error.detail.clone(),
    };
    let document = json!({
        "name": name,
        // As Goa's: eight signs that are this error's alone.
        "id": format!("{:08x}", ERRORS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B1) & 0xFFFF_FFFF),
        "message": message,
        "temporary": passing,
        "timeout": false,
        "fault": error.kind == ErrorKind::Internal,
    });
    ([(header::CONTENT_TYPE, "application/vnd.goa.error")], document.to_string()).into_response()
}

/// An error as handlers return it.
#[derive(Debug)]
pub(super) struct Goa(ApiError);

impl From<ApiError> for Goa {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Goa {
    fn into_response(self) -> Response {
        Surface::Flexera.answer(&self.0)
    }
}
