//! One login, what its answer gives, and what signs with that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::super::{Lender, Lent, LentToken};
use super::inject::Injection;
use crate::base::{AnswerView, Authorized, Authorizer, BoxFuture, Mutations, Refusal, RequestView, Secret, Verdict};
use crate::token::{Failure, FailureKind, Moment, Place, Reply, Service, Token, TokenSource};

/// Longer ones fit into no head.
const LONGEST_TOKEN: usize = 32 * 1024;

/// The request that logs in.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) service: Service,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Secret,
    pub(super) borrowed: Option<Borrowed>,
    /// What no error may repeat.
    pub(super) confidential: Vec<Secret>,
    /// Statuses by which the credential is refused.
    pub(super) rejected: Vec<StatusCode>,
}

/// Another credential that authenticates the login.
#[derive(Debug)]
pub(super) struct Borrowed {
    pub(super) id: String,
    pub(super) lender: Arc<dyn Lender>,
}

/// What the answer is to hold.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) tokens: Vec<(String, Place)>,
    pub(super) lifetime: Option<(Place, Option<Moment>)>,
    pub(super) unsaid_lifetime: Duration,
}

/// A login, and what becomes of its tokens.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) login: Login,
    pub(super) wanted: Wanted,
    pub(super) injections: Vec<Injection>,
    /// Statuses of calls that mean that the token is no longer good.
    pub(super) expired: Arc<[StatusCode]>,
}

impl Login {
    /// Logs in. A token of the borrowed credential that is refused is dropped, and a new one tried once.
    async fn call(&self, now: SystemTime) -> Result<Answered, Failure> {
        let (outcome, token) = self.attempt(now).await?;
        match (outcome, token) {
            (Err(failure), Some(token)) if failure.kind == FailureKind::Rejected && token.refused() => {
                self.attempt(now).await?.0
            }
            (outcome, _) => outcome,
        }
    }

    async fn attempt(&self, now: SystemTime) -> Result<(Result<Answered, Failure>, Option<LentToken>), Failure> {
        let mut request = Request::new(self.body.expose().to_vec());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let Lent { request, token } = match &self.borrowed {
            None => Lent { request, token: None },
            Some(Borrowed { id, lender }) => {
                let lent = lender.sign(id, request).await;
                lent.map_err(|refusal| Failure::of_refusal(&refusal))?
            }
        };
        let mut confidential = self.confidential.clone();
        let marked = request.headers().values().filter(|value| value.is_sensitive());
        confidential.extend(marked.map(|value| Secret::new(value.as_bytes())));
        // What was lent may stand in the query.
        let query = request.uri().query().unwrap_or_default();
        confidential
            .extend(url::form_urlencoded::parse(query.as_bytes()).map(|(_, value)| Secret::new(value.into_owned())));
        let reply = self.service.call(request, &confidential, &self.rejected, now).await;
        Ok((reply.map(|reply| Answered { reply, confidential }), token))
    }
}

/// What the service answered, and what of the request no error may repeat.
struct Answered {
    reply: Reply,
    confidential: Vec<Secret>,
}

impl Wanted {
    fn of(&self, reply: &Reply, confidential: &[Secret], now: SystemTime) -> Result<Token, Failure> {
        let mut tokens = BTreeMap::new();
        for (name, place) in &self.tokens {
            let what = || {
                if name == super::settings::TOKEN { format!("token {place}") } else { format!("token {name} {place}") }
            };
            let text = place.text(reply).ok_or_else(|| reply.without(&what(), confidential))?;
            if text.expose().len() > LONGEST_TOKEN {
                return Err(reply.unusable("its token is longer than any header"));
            }
            let text = text.expose_str().ok_or_else(|| reply.unusable("its token is not text"))?;
            tokens.insert(name, text.to_owned());
        }
        let secret = serde_json::to_vec(&tokens).map_err(|_| reply.unusable("its token is not text"))?;
        Ok(Token { secret: Secret::new(secret), expires_at: now + self.lifetime(reply, now) })
    }

    /// As the answer says where it was told to look, or of a cookie, or by the field of RFC 6749.
    fn lifetime(&self, reply: &Reply, now: SystemTime) -> Duration {
        let said = match &self.lifetime {
            Some((place, form)) => place.lifetime(reply, *form, now),
            None => {
                let cookies = self.tokens.iter().filter(|(_, place)| matches!(place, Place::Cookie(_)));
                let lives = cookies.filter_map(|(_, place)| place.lifetime(reply, None, now));
                lives.min().or_else(|| reply.lifetime(now))
            }
        };
        said.unwrap_or(self.unsaid_lifetime)
    }
}

impl TokenSource for Session {
    fn fetch(&self, now: SystemTime) -> BoxFuture<'_, Result<Token, Failure>> {
        Box::pin(async move {
            let Answered { reply, confidential } = self.login.call(now).await?;
            self.wanted.of(&reply, &confidential, now)
        })
    }

    /// With a borrowed credential nobody here knows whose identity it is: it may be this host's.
    fn shareable(&self) -> bool {
        self.login.borrowed.is_none()
    }

    fn authorizer(&self, token: &Token) -> Result<Arc<dyn Authorizer>, Failure> {
        let unusable = |why: String| Failure::new(FailureKind::Unavailable, format!("the login's answer: {why}"));
        let tokens = serde_json::from_slice(token.secret.expose()).map_err(|_| unusable("it cannot be read".into()))?;
        let mut mutations = Mutations::default();
        for injection in &self.injections {
            injection.fill(&tokens, &mut mutations).map_err(unusable)?;
        }
        Ok(Arc::new(Ticket { mutations: Arc::new(mutations), expired: Arc::clone(&self.expired) }))
    }
}

/// Signs with the tokens of one login.
#[derive(Debug)]
struct Ticket {
    mutations: Arc<Mutations>,
    expired: Arc<[StatusCode]>,
}

impl Authorizer for Ticket {
    fn authorize(&self, _: &RequestView<'_>, _: SystemTime) -> Result<Authorized, Refusal> {
        Ok(Authorized { mutations: Arc::clone(&self.mutations), rewrite: None, mark: 0 })
    }

    fn suspects(&self, status: StatusCode) -> bool {
        self.expired.contains(&status)
    }

    fn verdict(&self, answer: &AnswerView<'_>, _: SystemTime) -> Verdict {
        if self.suspects(answer.status) { Verdict::Token } else { Verdict::Fine }
    }
}
