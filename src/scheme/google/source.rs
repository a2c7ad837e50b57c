//! Obtaining a token in one of the ways there are, and signing with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::endpoint::{Endpoint, Wanted, token};
use super::federation::Federation;
use super::impersonation::Impersonation;
use super::metadata::Metadata;
use crate::base::{Authorizer, BoxFuture, Mutations, Prepared, Random, Secret};
use crate::scheme::bearer;
use crate::token::{Assertion, Failure, FailureKind, Token, TokenSource};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Google takes no assertion that lives longer.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

const USER_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");

/// How a token is obtained.
#[derive(Debug)]
pub(super) enum Way {
    /// Signed here.
    Signed(Assertion),
    /// Granted for an assertion.
    Granted { endpoint: Endpoint, assertion: Assertion, wanted: Wanted },
    /// Granted for a person's refresh token.
    Refreshed { endpoint: Endpoint, client_id: Secret, client_secret: Secret, refresh_token: Secret, scope: String },
    /// Exchanged for another provider's.
    Federated(Box<Federation>),
    /// Asked of the metadata server.
    Metadata(Metadata),
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) way: Way,
    /// What follows with the token that the way gives.
    pub(super) then: Option<Impersonation>,
    pub(super) quota: Option<HeaderValue>,
    pub(super) random: Arc<dyn Random>,
}

impl Source {
    /// What it sets.
    pub(super) fn owned_headers(&self) -> Vec<HeaderName> {
        if self.quota.is_some() { vec![AUTHORIZATION, USER_PROJECT] } else { vec![AUTHORIZATION] }
    }

    fn signed(&self, assertion: &Assertion, now: SystemTime) -> Result<Secret, Failure> {
        assertion.sign(now, &*self.random).map_err(|why| Failure::new(FailureKind::Unavailable, why))
    }

    async fn first(&self, now: SystemTime) -> Result<Token, Failure> {
        match &self.way {
            Way::Signed(assertion) => Ok(Token { secret: self.signed(assertion, now)?, expires_at: now + HOUR }),
            Way::Granted { endpoint, assertion, wanted } => {
                let signed = self.signed(assertion, now)?;
                let text = signed.expose_str().unwrap_or_default();
                let fields = [("grant_type", JWT_BEARER), ("assertion", text)];
                let reply = endpoint.form(&fields, None, std::slice::from_ref(&signed), now).await?;
                token(&reply, *wanted, now)
            }
            Way::Refreshed { endpoint, client_id, client_secret, refresh_token, scope } => {
                let text = |secret| Secret::expose_str(secret).unwrap_or_default();
                let mut fields = vec![
                    ("grant_type", "refresh_token"),
                    ("client_id", text(client_id)),
                    ("client_secret", text(client_secret)),
                    ("refresh_token", text(refresh_token)),
                ];
                fields.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
                let secrets = [client_secret.clone(), refresh_token.clone()];
                let reply =
                    endpoint.form(&fields, None, &secrets, now).await.map_err(|failure| match failure.kind {
                        // Revoked, or not used for half a year.
                        FailureKind::Rejected if failure.detail.contains("invalid_grant") => {
                            let detail = format!(
                                "{}; log in again with `gcloud auth application-default login`",
                                failure.detail
                            );
                            Failure { kind: FailureKind::Reauthorize, detail, ..failure }
                        }
                        _ => failure,
                    })?;
                token(&reply, Wanted::Access, now)
            }
            Way::Federated(federation) => federation.fetch(now).await,
            Way::Metadata(metadata) => metadata.fetch(now).await,
        }
    }
}

impl TokenSource for Source {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let first = self.first(now).await?;
            match &self.then {
                Some(impersonation) => impersonation.fetch(&first.secret, now).await,
                None => Ok(first),
            }
        })
    }

    /// Neither what is signed here without asking anybody, nor what this host is: a federated identity is read from its
    /// files and services.
    fn shareable(&self) -> bool {
        match &self.way {
            Way::Granted { .. } | Way::Refreshed { .. } => true,
            Way::Signed(_) => self.then.is_some(),
            Way::Federated(_) | Way::Metadata(_) => false,
        }
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let mut set = vec![(AUTHORIZATION, bearer::line(token)?)];
        set.extend(self.quota.iter().map(|project| (USER_PROJECT, project.clone())));
        Ok(Arc::new(Prepared::new(Mutations { set, ..Mutations::default() })))
    }
}
