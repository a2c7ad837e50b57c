//! The webhook as the API server calls it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::review::answer;
use super::settings::Settings;

/// The API server takes objects of three megabytes at most, and shows the old one too.
const LARGEST: usize = 8 * 1024 * 1024;

/// A body that comes slower than this is not waited for; the API server itself waits ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// `POST /mutate` and `GET /livez`.
pub fn router(settings: Arc<ArcSwap<Settings>>) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .route("/livez", get(|| async { "ok\n" }))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(LARGEST))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .layer(CatchPanicLayer::new())
        .with_state(settings)
}

async fn mutate(
    State(settings): State<Arc<ArcSwap<Settings>>>,
    headers: axum::http::HeaderMap,
    review: Bytes,
) -> Response {
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !json {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is expected\n").into_response();
    }
    match answer(&review, &settings.load()) {
        Ok(answer) => Json(answer).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}
