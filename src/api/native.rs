//! The native API below `/v1`.

mod credentials;
mod documents;
mod others;
mod policies;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;

/// Its routes.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(credentials::list, credentials::create))
        .routes(routes!(credentials::show, credentials::replace, credentials::patch, credentials::remove))
        .routes(routes!(credentials::versions))
        .routes(routes!(credentials::restore))
        .routes(routes!(credentials::test))
        .routes(routes!(credentials::usage))
        .routes(routes!(others::whoami))
        .routes(routes!(others::status))
        .routes(routes!(others::schemes))
        .routes(routes!(others::accounts))
        .routes(routes!(others::bindings))
        .routes(routes!(others::put_binding, others::remove_binding))
        .routes(routes!(others::callers, others::add_caller))
        .routes(routes!(others::remove_caller))
        .routes(routes!(others::add_caller_token))
        .routes(routes!(others::remove_caller_token))
        .routes(routes!(others::tokens, others::add_token))
        .routes(routes!(others::remove_token))
        .routes(routes!(others::audit))
        .routes(routes!(policies::inspect))
        .routes(routes!(policies::judge))
        .routes(routes!(policies::list, policies::apply))
        .routes(routes!(policies::apply_to_many))
        .routes(routes!(policies::show, policies::remove))
        .routes(routes!(policies::runs, policies::start))
        .routes(routes!(policies::report, policies::end))
}
