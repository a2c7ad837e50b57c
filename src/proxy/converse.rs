//! Requests with a credential that is asked before it can answer (digest, NTLM): a first leg gets the server's 401, which
//! asks, and the request itself carries the answer.
//!
//! NTLM's first leg, and that of a body which is not held here, is the head alone; such a body goes out once. The number of
//! legs is bounded, whatever a server says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::headers::remove_owned;
use super::pipeline::{Call, REPEATED_BODY, await_continue, judge_trailers};
use super::spool::{Spooled, spool};
use crate::base::{Authorizer, Body, BodyNeed, Challenge, Code, Holds, Mutations, Refusal, RequestView};
use crate::route::Talk;
use crate::upstream::{Egress, Link, Owner};

/// How long a body that may be short is waited for, to see whether it can be sent again.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// How often a server may say that the nonce was old which it gave for this very request: others may have used it up.
const STALE: usize = 1;

/// As much of the answer to a first leg is read, and for so long, to free its connection for the next.
const DRAINED: usize = 256 * 1024;
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// A request body, and whether it can be sent again.
enum Payload {
    Whole(Bytes),
    Spooled(Spooled),
    /// `None` once it has gone out.
    Streaming(Option<Body>),
}

impl Payload {
    fn body(&mut self) -> Option<Body> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Some(Body::empty()),
            Self::Whole(bytes) => Some(Body::full(bytes.clone())),
            Self::Spooled(spooled) => Some(spooled.body()),
            Self::Streaming(body) => body.take(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Streaming(_))
    }
}

/// What came of a conversation.
pub(super) struct Said {
    pub(super) response: Response<Body>,
    /// Lives as long as the answer, where the body waited.
    pub(super) holds: Option<oneshot::Sender<()>>,
    /// When the last leg that carried a proof was signed.
    pub(super) authorized: Option<Instant>,
}

/// One request while it is talked about.
struct Subject<'a> {
    call: &'a Call<'a>,
    egress: &'a Egress,
    talk: Talk,
    parts: Parts,
    removed: HeaderMap,
    payload: Payload,
    /// The caller sends its body when it is asked for it.
    waits: bool,
    /// Lives as long as the answer, where the body waits.
    holds: Option<oneshot::Sender<()>>,
    authorized: Option<Instant>,
    h1_only: bool,
}

impl Call<'_> {
    /// Asks the server where it has to be asked, answers, and sends the request. What comes back beside the answer lives as
    /// long as it does.
    ///
    /// # Errors
    /// `credential_rejected` when the server asks for what cannot be given, or does not stop asking; what sending refuses.
    pub(super) async fn converse(
        &self,
        talk: Talk,
        request: Request<Body>,
        egress: &Egress,
        h1_only: bool,
    ) -> Result<Said, Refusal> {
        if let Some(account) = self.account {
            talk.in_account(account)?;
        }
        let (mut parts, body) = request.into_parts();
        // It goes with the leg that has the body.
        let waits = parts.headers.remove(EXPECT).is_some();
        let removed = remove_owned(&mut parts.headers, talk.owned_headers());
        let body = judge_trailers(body, talk.owned_headers());
        let payload = self.held(body, !waits).await;
        let (holds, authorized) = (None, None);
        let mut subject =
            Subject { call: self, egress, talk, parts, removed, payload, waits, holds, authorized, h1_only };
        let response = match subject.talk.challenged().holds() {
            Holds::ForRequest => subject.by_request().await,
            Holds::ForConnection => subject.by_connection().await,
        }?;
        let Subject { holds, authorized, .. } = subject;
        Ok(Said { response: response.map(Body::incoming), holds, authorized })
    }

    /// Holds a body that is short; `may_read` unless the caller waits to be asked for it.
    async fn held(&self, mut body: Body, may_read: bool) -> Payload {
        if body.is_end_stream() {
            return Payload::Whole(Bytes::new());
        }
        if !may_read || body.size_hint().lower() > REPEATED_BODY as u64 {
            return Payload::Streaming(Some(body));
        }
        let patience = self.clock.sleep_until(self.clock.instant() + BODY_PATIENCE);
        let beginning = body.peek(REPEATED_BODY, patience).await;
        // Only of a body that came to its end is it known that nothing follows.
        match body.size_hint().exact() {
            Some(length) if length == beginning.len() as u64 => Payload::Whole(beginning),
            _ => Payload::Streaming(Some(body)),
        }
    }
}

impl Subject<'_> {
    fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.parts.method,
            path_and_query: self.parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            headers: &self.parts.headers,
            removed: &self.removed,
            destination: self.call.destination,
            length: match &self.payload {
                Payload::Whole(bytes) => Some(bytes.len() as u64),
                Payload::Spooled(spooled) => spooled.body().size_hint().exact(),
                Payload::Streaming(body) => body.as_ref().and_then(|body| body.size_hint().exact()),
            },
            body: None,
            narrowing: None,
        }
    }

    /// For what is proven by each request: any connection will do, and what the server asked last time is answered unasked.
    async fn by_request(&mut self) -> Result<Response<Incoming>, Refusal> {
        let challenged = Arc::clone(self.talk.challenged());
        let remembered = challenged.remembered(&self.view()).filter(|_| self.payload.is_repeatable());
        let mut proven = remembered.is_some();
        let mut asked = match remembered {
            Some(authorizer) => {
                let request = self.signed(&*authorizer).await?;
                let response = self.send(request).await?;
                if !self.heard(&response) {
                    return Ok(response);
                }
                response
            }
            // With its body: a server that does not ask has the whole request then, and once.
            None if self.payload.is_repeatable() => {
                let request = self.plain()?;
                let response = self.send(request).await?;
                if response.status() != StatusCode::UNAUTHORIZED {
                    return Ok(response);
                }
                response
            }
            None => match self.open().await? {
                Opened::Asked(response) => response,
                Opened::Answered(response) => return Ok(response),
                Opened::Unasked => {
                    let request = self.plain()?;
                    return self.send(request).await;
                }
            },
        };
        for last in (0..=STALE).rev() {
            let challenge = Challenge { headers: asked.headers(), certificate: None };
            let authorizer = match challenged.answer(&self.view(), &challenge) {
                Ok(authorizer) => authorizer,
                // It asked properly before: this 401 is about something else.
                Err(_) if proven => return Ok(asked),
                Err(refusal) => return Err(refusal),
            };
            self.drain(Body::incoming(asked.into_body())).await;
            let request = self.signed(&*authorizer).await?;
            let response = self.send(request).await?;
            let again = self.heard(&response) && challenged.is_stale(response.headers());
            if !again || last == 0 || !self.payload.is_repeatable() {
                return Ok(response);
            }
            (asked, proven) = (response, true);
        }
        Ok(asked)
    }

    /// Tells the scheme what the server said beside its answer. Says whether the server refused.
    fn heard(&self, response: &Response<Incoming>) -> bool {
        let refused = response.status() == StatusCode::UNAUTHORIZED;
        self.talk.challenged().heard(&self.view(), response.headers(), refused);
        refused
    }

    /// For what is proven once on a connection, which then belongs to this credential and caller.
    async fn by_connection(&mut self) -> Result<Response<Incoming>, Refusal> {
        let challenged = Arc::clone(self.talk.challenged());
        let owner = Owner::new(&challenged, self.talk.account(), &self.call.caller.name);
        // A body that can be sent once goes over a connection that was proven a moment ago, which will not be refused. Such a
        // connection is one too many afterwards, if there is another.
        let again = self.payload.is_repeatable();
        let proven = || again.then(|| self.egress.proven_link(&owner, self.call.destination)).flatten();
        while let Some(mut link) = proven() {
            let request = self.plain()?;
            match self.egress.send_over(&mut link, request).await {
                // What was proven may have ended with a restart over there: it is proven anew.
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => break,
                Ok(response) => {
                    self.egress.keep(owner, link, !again);
                    return Ok(response);
                }
                // It was closed while nobody looked.
                Err(unsent) if unsent.untouched => {}
                Err(unsent) => return Err(unsent.refusal),
            }
        }
        let mut link = self.egress.link(self.call.destination).await?;
        let opening = self.opening()?;
        let asked = self.over(&mut link, opening).await?;
        if asked.status() != StatusCode::UNAUTHORIZED {
            // Whoever is let in without being asked has proven nothing: the connection is nobody's afterwards.
            if self.payload.is_empty() || is_final(asked.status()) {
                return Ok(asked);
            }
            drop(asked);
            let request = self.plain()?;
            return self.send(request).await;
        }
        let challenge = Challenge { headers: asked.headers(), certificate: link.certificate() };
        let authorizer = challenged.answer(&self.view(), &challenge)?;
        self.drain(Body::incoming(asked.into_body())).await;
        self.await_next(&mut link).await?;
        let request = self.signed(&*authorizer).await?;
        let response = self.over(&mut link, request).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            self.egress.keep(owner, link, !again);
            return Ok(response);
        }
        let challenge = Challenge { headers: response.headers(), certificate: link.certificate() };
        match challenged.answer(&self.view(), &challenge) {
            Ok(_) => Err(self.rejected("the server asks again and again, whatever it is answered")),
            // It says no, and that is its answer.
            Err(_) => Ok(response),
        }
    }

    async fn await_next(&self, link: &mut Link) -> Result<(), Refusal> {
        let patience = self.call.clock.sleep_until(self.call.clock.instant() + DRAIN_PATIENCE);
        tokio::select! {
            ready = link.is_ready() => if ready { Ok(()) } else {
                Err(self.rejected(
                    "the server asks and does not keep the connection open for the answer, which is good for it alone",
                ))
            },
            () = patience => Err(Refusal::new(Code::UpstreamTimeout, "the server's challenge does not end")),
        }
    }

    fn rejected(&self, why: &str) -> Refusal {
        let (id, host) = (self.talk.credential(), self.call.destination.host());
        Refusal::new(Code::CredentialRejected, format!("credential {id} at {host}: {why}"))
    }

    /// The first leg of a request whose proof holds for itself, and whose body is not held here.
    async fn open(&mut self) -> Result<Opened, Refusal> {
        let opening = self.opening()?;
        let response = self.send(opening).await?;
        Ok(match response.status() {
            StatusCode::UNAUTHORIZED => Opened::Asked(response),
            status if is_final(status) => Opened::Answered(response),
            _ => {
                self.drain(Body::incoming(response.into_body())).await;
                Opened::Unasked
            }
        })
    }

    /// The head alone, with what begins a conversation.
    fn opening(&self) -> Result<Request<Body>, Refusal> {
        let mut parts = self.parts.clone();
        if !self.payload.is_empty() || parts.headers.contains_key(CONTENT_LENGTH) {
            parts.headers.insert(CONTENT_LENGTH, 0.into());
        }
        let opening: Mutations = self.talk.challenged().opening()?;
        opening.apply(&mut parts)?;
        Ok(Request::from_parts(parts, Body::empty()))
    }

    /// The request without any proof: the connection has it, or nobody asked for one.
    fn plain(&mut self) -> Result<Request<Body>, Refusal> {
        let parts = self.parts.clone();
        self.whole(parts)
    }

    /// A head and the body, which the server is asked about first if the caller wants that.
    fn whole(&mut self, mut parts: Parts) -> Result<Request<Body>, Refusal> {
        let waits = self.waits && !self.payload.is_repeatable();
        let body = self.payload.body().ok_or_else(spent)?;
        if !waits {
            return Ok(Request::from_parts(parts, body));
        }
        parts.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        let patience = self.call.state.limits.expect_continue;
        let (request, holds) = await_continue(Request::from_parts(parts, body), patience);
        self.holds = Some(holds);
        Ok(request)
    }

    /// The request with its proof.
    async fn signed(&mut self, authorizer: &dyn Authorizer) -> Result<Request<Body>, Refusal> {
        let need = authorizer.body_need(&self.view())?;
        let mut facts = None;
        if need != BodyNeed::None {
            let body = self.payload.body().ok_or_else(spent)?;
            let (spooled, digest) = Box::pin(spool(body, self.call.state.limits.hashed_body, need)).await?;
            self.payload = Payload::Spooled(spooled);
            facts = Some(digest);
        }
        let view = RequestView { body: facts.as_ref(), ..self.view() };
        self.call.still_leased()?;
        let authorized = self.talk.sign(authorizer, &view, self.call.clock.now())?;
        self.authorized = Some(self.call.clock.instant());
        let mut parts = self.parts.clone();
        if let Some(facts) = &facts {
            parts.headers.insert(CONTENT_LENGTH, facts.length.into());
        }
        authorized.mutations.apply(&mut parts)?;
        self.whole(parts)
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Refusal> {
        self.egress.send(self.call.destination, request, self.h1_only).await
    }

    async fn over(&self, link: &mut Link, request: Request<Body>) -> Result<Response<Incoming>, Refusal> {
        self.egress.send_over(link, request).await.map_err(|unsent| unsent.refusal)
    }

    /// Reads an answer that nobody wants, so that its connection is free for the next leg.
    async fn drain(&self, mut body: Body) {
        let patience = self.call.clock.sleep_until(self.call.clock.instant() + DRAIN_PATIENCE);
        body.peek(DRAINED, patience).await;
    }
}

/// What came of a first leg.
enum Opened {
    /// The server asks.
    Asked(Response<Incoming>),
    /// It did not have to ask, and this is its answer.
    Answered(Response<Incoming>),
    /// It did not ask, and the body has not gone out yet.
    Unasked,
}

/// Whether an answer to a head alone is the answer to its request as well: it is not about the body that was missing.
fn is_final(status: StatusCode) -> bool {
    use StatusCode as S;
    let about_the_head = [S::FORBIDDEN, S::NOT_FOUND, S::METHOD_NOT_ALLOWED, S::GONE, S::TOO_MANY_REQUESTS];
    status.is_redirection() || status.is_server_error() || about_the_head.contains(&status)
}

fn spent() -> Refusal {
    Refusal::new(
        Code::UpstreamUnreachable,
        "the server asked for another proof when the body had been sent, and the body is too long to be held here",
    )
}
