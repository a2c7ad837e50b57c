//! The pipeline: what happens to one request, from the moment its destination and its caller are known.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::headers::{clean_request, clean_response, refuse_two_hosts, remove_owned, trailer_passes};
use super::leased::Leased;
use super::links::Links;
use super::record::{Marks, Place, Record};
use super::respond::problem;
use super::spool::{Spooled, spool};
use super::traced::Traced;
use super::upgrade;
use crate::base::body::{BoxError, Kept};
use crate::base::{
    AnswerView, AuditSink, Body, BodyNeed, Clock, Code, Deps, Destination, Refusal, RequestView, Voucher,
};
use crate::route::{Ask, Caller, CredentialEntry, Decision, Outcome, Passage, Permit, Receipt, RouteTable};
use crate::upstream::{Egress, Upstream, noting_connection};

/// A body up to here can be sent again after a refusal: API calls have less, uploads have more. One that was spooled can
/// be sent again whatever its size.
pub(super) const REPEATED_BODY: usize = 64 * 1024;

/// How much of an error is read to see what was wrong with a signature, and how long that may take.
const ERROR_BYTES: usize = 16 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(5);

/// What a listener makes of the bytes it got: a request with one destination and a proven caller.
#[derive(Debug)]
pub struct Inbound {
    /// The request, untouched.
    pub request: Request<Incoming>,
    /// Where it goes; nothing later changes that.
    pub destination: Destination,
    /// Who calls.
    pub caller: Arc<Caller>,
    /// The credential named by the channel (the user part of the proxy credentials, `run --credential`).
    pub named: Option<Arc<str>>,
    /// Which way it came in.
    pub via: Via,
}

/// Which way a request came in.
#[derive(Debug, Clone)]
pub enum Via {
    /// In absolute form on a forward listener.
    Forward,
    /// Inside an intercepted tunnel.
    Tunnel,
    /// On a connection that was redirected to a transparent listener.
    Transparent,
    /// On a route of a reverse listener.
    Route {
        /// The route's name, when it has a credential of its own.
        binding: Option<Arc<str>>,
        /// For rewriting the links of its answers.
        links: Box<Links>,
        /// The route's upstream has a path of its own, which dot segments must not escape.
        confined: bool,
    },
}

impl Via {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Tunnel => "tunnel",
            Self::Transparent => "transparent",
            Self::Route { .. } => "reverse",
        }
    }
}

/// Limits of the pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Concurrent requests of one caller.
    pub caller_requests: usize,
    /// Bytes of a body that must be hashed.
    pub hashed_body: u64,
    /// How long an upstream may take to answer `Expect: 100-continue` before the body is sent all the same.
    pub expect_continue: Duration,
}

/// Everything that a reload replaces at once.
#[derive(Debug)]
pub struct State {
    /// Who may use what where.
    pub routes: RouteTable,
    /// The ways out.
    pub upstream: Arc<Upstream>,
    /// Limits.
    pub limits: Limits,
    /// Whether each request is logged.
    pub log_requests: bool,
    /// Whether each request is counted.
    pub metered: bool,
    /// Who vouches for callers that show a token of another authority.
    pub voucher: Option<Arc<dyn Voucher>>,
}

impl State {
    /// Whether anybody wants to know when a request came how far.
    fn measures(&self) -> bool {
        self.log_requests || self.metered
    }

    /// The same while it is not known yet what the store binds: no call passes unbound.
    #[must_use]
    pub fn before_the_store(self) -> Self {
        Self { routes: self.routes.denying_unbound(), ..self }
    }
}

/// The proxy: shared by every listener and every connection.
#[derive(Debug)]
pub struct Proxy {
    state: ArcSwap<State>,
    deps: Deps,
    tasks: TaskTracker,
}

impl Proxy {
    /// A proxy in its first state.
    pub fn new(state: State, deps: Deps) -> Self {
        Self { state: ArcSwap::from_pointee(state), deps, tasks: TaskTracker::new() }
    }

    /// Every task that serves somebody, so that a drain can wait for all of them.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// What leases are measured by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.deps.clock
    }

    /// Where what happens is written down.
    pub(super) fn audit(&self) -> &dyn AuditSink {
        &*self.deps.audit
    }

    /// The present state.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Replaces the route table and nothing else.
    pub fn reroute(&self, routes: RouteTable) {
        let now = self.state();
        let State { upstream, limits, log_requests, metered, voucher, .. } = &*now;
        self.replace(State {
            routes,
            upstream: Arc::clone(upstream),
            limits: *limits,
            log_requests: *log_requests,
            metered: *metered,
            voucher: voucher.clone(),
        });
    }

    /// Replaces the state; requests under way keep the one they began with.
    pub fn replace(&self, state: State) {
        for credential in state.routes.credentials() {
            credential.adopt();
        }
        let state = Arc::new(state);
        let old = self.state.swap(Arc::clone(&state));
        // What did not change is the same in both.
        let kept: HashSet<_> = state.routes.credentials().iter().map(Arc::as_ptr).collect();
        for credential in old.routes.credentials().iter().filter(|one| !kept.contains(&Arc::as_ptr(one))) {
            credential.retire();
        }
    }

    /// Handles one request to its answer. Never fails: a refusal is an answer.
    pub async fn handle(&self, inbound: Inbound) -> Response<Body> {
        let state = self.state.load_full();
        let clock = &self.deps.clock;
        let started = clock.instant();
        let trace = Traced::begin(&self.deps, inbound.request.headers(), started);
        let mut record = Record {
            clock: Arc::clone(clock),
            enabled: state.log_requests,
            measured: state.measures() || trace.is_some(),
            metered: state.metered,
            meter: None,
            started,
            trace,
            via: inbound.via.as_str(),
            method: inbound.request.method().clone(),
            destination: inbound.destination.clone(),
            caller: Arc::clone(&inbound.caller),
            binding: None,
            credential: None,
            alias: None,
            going: None,
            counted: false,
            named: None,
            status: None,
            refusal: None,
            marks: Marks::default(),
            bytes: 0,
            ended: None,
            place: None,
            holds: None,
        };
        match forward(&state, &self.deps, inbound, &mut record).await {
            Ok(Answer { mut response, caller: Some(caller) }) => {
                upgrade::join(&self.tasks, caller, &mut response, record);
                response.map(|_| Body::empty())
            }
            Ok(Answer { response, caller: None }) => response.map(|body| body.watched(Box::new(record))),
            Err(refusal) => {
                record.refused(&refusal);
                self.denied(&record.denial(), &refusal);
                problem(&refusal)
            }
        }
    }
}

/// An upstream's answer, and the caller's half of the connection when both switch protocols.
struct Answer {
    response: Response<Body>,
    caller: Option<hyper::upgrade::OnUpgrade>,
}

async fn forward(state: &State, deps: &Deps, inbound: Inbound, record: &mut Record) -> Result<Answer, Refusal> {
    let clock = &*deps.clock;
    let Inbound { mut request, destination, caller, named, via } = inbound;
    record.place = Some(Place::take(&caller, state.limits.caller_requests).ok_or_else(|| too_many(state))?);
    refuse_two_hosts(request.headers())?;
    let named = named_credential(request.headers())?.or(named);
    record.named.clone_from(&named);
    let account = single(request.headers(), "countersign-aws-account")?.map(str::to_owned);
    let mut found = clean_request(request.headers_mut())?;
    if found.expects_continue && request.version() == Version::HTTP_2 {
        // hyper sends no interim answers on HTTP/2, so the upstream's could not be passed on.
        request.headers_mut().remove(EXPECT);
        found.expects_continue = false;
    }
    let route = match &via {
        Via::Route { binding, confined, .. } => {
            if *confined {
                crate::route::refuse_path_tricks(request.uri().path())?;
            }
            binding.as_deref()
        }
        Via::Forward | Via::Tunnel | Via::Transparent => None,
    };
    let call = Call {
        state,
        clock,
        audit: &*deps.audit,
        caller: &caller,
        destination: &destination,
        named: named.as_deref(),
        account: account.as_deref(),
        route,
    };
    let mut decision = call.decide(request.method(), request.uri(), request.headers());
    if let Decision::Wake(credential) = decision {
        decision = Box::pin(call.wake(&credential, &request)).await?;
    }
    record.marks.decided = record.mark();
    let on_upgrade = found.websocket.then(|| upgrade::of_request(&mut request));
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, Body::incoming(body));
    if !found.expects_continue {
        request.body_mut().look_ahead().await.map_err(|_| Refusal::bad_request("the request body is malformed"))?;
    }
    if let Some(lease) = &caller.lease {
        request = request.map(|body| Leased::body(body, lease));
    }
    let mut observed = None;
    let mut signed = None;
    let mut talk = None;
    let egress = match decision {
        Decision::Deny(refusal) => return Err(refusal),
        Decision::Wake(credential) => return Err(unloaded(&credential.id, "it was changed again and again")),
        Decision::Pass(passage) => {
            observed = Some(passage);
            request = request.map(|body| judge_trailers(body, &[]));
            state.upstream.egress(&Arc::default())?
        }
        Decision::Use(permit) => {
            record.binding = Some(Arc::clone(permit.binding()));
            record.credential = Some(Arc::clone(permit.credential()));
            record.alias = permit.alias().cloned();
            record.meter = permit.meter().filter(|_| record.metered).cloned();
            permit.usage().count(&caller.name, clock.now());
            if let Some(trace) = &record.trace {
                trace.announce(request.headers_mut());
            }
            let egress = state.upstream.egress(permit.allow_addresses())?;
            match permit.talk() {
                Ok(asked) => talk = Some(asked),
                Err(permit) => {
                    let repeat = permit.may_repeat().then(|| Repeat::of(&mut request));
                    let (ready, receipt, spooled) = call.sign(permit, request, record.trace.as_deref_mut()).await?;
                    signed = repeat.map(|repeat| (Repeat { spooled, ..repeat }, receipt));
                    request = ready;
                    record.marks.authorized = record.mark();
                }
            }
            egress
        }
    };
    if found.expects_continue && talk.is_none() {
        let (held, answer) = await_continue(request, state.limits.expect_continue);
        request = held;
        record.holds = Some(answer);
    }
    record.going = Some(if observed.is_some() { Outcome::Passed } else { Outcome::Used });
    let h1_only = found.websocket || found.expects_continue;
    record.sending();
    let mut response = match talk {
        None => {
            let sent;
            (sent, record.marks.connected) = noting_connection(egress.send(&destination, request, h1_only)).await;
            sent?.map(Body::incoming)
        }
        // In a box, as all that is rare: what is not awaited often must not make every request's future larger.
        Some(talk) => {
            let talked;
            (talked, record.marks.connected) =
                noting_connection(Box::pin(call.converse(talk, request, &egress, h1_only))).await;
            let said = talked?;
            record.holds = said.holds;
            record.marks.authorized = said.authorized.filter(|_| record.measured);
            said.response
        }
    };
    record.heard(response.status());
    if let Some((repeat, receipt)) = signed.filter(|(_, receipt)| is_suspicious(response.status(), receipt))
        && let Some(better) =
            Box::pin(call.again(repeat, &receipt, &mut response, &egress, h1_only, record.trace.as_deref_mut())).await
    {
        response = better;
        record.heard(response.status());
    }
    record.answered(response.status());
    if let Some(passage) = observed {
        log_observed(&passage, &destination);
    }
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched && on_upgrade.is_none() {
        return Err(Refusal::new(Code::UpstreamUnreachable, "the upstream switched protocols unasked")
            .with_proxy_error("http_protocol_error"));
    }
    clean_response(response.headers_mut(), switched);
    if let Via::Route { links, .. } = &via {
        links.rewrite(response.headers_mut(), &destination);
    }
    if let Some(lease) = &caller.lease {
        response = response.map(|body| Leased::body(body, lease));
    }
    Ok(Answer { response, caller: on_upgrade.filter(|_| switched) })
}

/// What stays the same however often a request is signed.
pub(super) struct Call<'a> {
    pub(super) state: &'a State,
    pub(super) clock: &'a dyn Clock,
    audit: &'a dyn AuditSink,
    pub(super) caller: &'a Caller,
    pub(super) destination: &'a Destination,
    named: Option<&'a str>,
    pub(super) account: Option<&'a str>,
    route: Option<&'a str>,
}

impl Call<'_> {
    fn decide(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Decision {
        let decision = self.state.routes.decide(&Ask {
            caller: self.caller,
            destination: self.destination,
            method,
            path: uri.path(),
            target: uri.path_and_query().map_or("/", PathAndQuery::as_str),
            headers,
            named: self.named,
            route: self.route,
            clock: self.clock,
        });
        match (decision, self.audit.blocked()) {
            (Decision::Use(_) | Decision::Wake(_), Some(unavailable)) => Decision::Deny(unavailable.into()),
            (decision, _) => decision,
        }
    }

    /// Brings the content of a credential that nobody used yet, and decides again.
    async fn wake<B>(&self, credential: &CredentialEntry, request: &Request<B>) -> Result<Decision, Refusal> {
        credential.wake().await.map_err(|error| unloaded(&credential.id, &error.0))?;
        Ok(self.decide(request.method(), request.uri(), request.headers()))
    }

    /// Consumes the permit: obtains what signs, removes the caller's copies, hashes the body if need be, applies what the
    /// scheme says.
    async fn sign(
        &self,
        permit: Permit,
        request: Request<Body>,
        trace: Option<&mut Traced>,
    ) -> Result<(Request<Body>, Receipt, Option<Spooled>), Refusal> {
        let signer = match &trace {
            None => permit.ready(self.account).await?,
            Some(trace) => Box::pin(trace.span().clone().around(permit.ready(self.account))).await?,
        };
        let trace = trace.map(|trace| (trace, self.clock.instant()));
        let (mut parts, mut body) = request.into_parts();
        let removed = remove_owned(&mut parts.headers, signer.owned_headers());
        body = judge_trailers(body, signer.owned_headers());
        let mut view = RequestView {
            method: &parts.method,
            path_and_query: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            headers: &parts.headers,
            removed: &removed,
            destination: self.destination,
            length: body.size_hint().exact(),
            body: None,
            narrowing: None,
        };
        let held = match signer.body_need(&view)? {
            BodyNeed::None => None,
            need => {
                let held = Box::pin(spool(body, self.state.limits.hashed_body, need)).await?;
                body = held.0.body();
                Some(held)
            }
        };
        view.body = held.as_ref().map(|(_, digest)| digest);
        self.still_leased()?;
        let (authorized, receipt) = signer.sign(&view, self.clock.now())?;
        if let Some((_, digest)) = &held {
            parts.headers.insert(CONTENT_LENGTH, digest.length.into());
        }
        authorized.mutations.apply(&mut parts)?;
        if let Some(rewrite) = authorized.rewrite {
            body = rewrite(body);
        }
        if let Some((trace, since)) = trace {
            trace.signed(since, self.clock);
        }
        Ok((Request::from_parts(parts, body), receipt, held.map(|(spooled, _)| spooled)))
    }

    /// A token or a body may have taken longer than the run's lease.
    pub(super) fn still_leased(&self) -> Result<(), Refusal> {
        self.caller.lease.as_ref().map_or(Ok(()), |lease| lease.check(self.clock.now()))
    }

    /// After a refusal of the upstream's: drops the token if it was that, and signs and sends once more if that is worth it
    /// and the body can be sent again. The binding is asked anew. Nothing when the caller must see what there is.
    async fn again(
        &self,
        repeat: Repeat,
        receipt: &Receipt,
        response: &mut Response<Body>,
        egress: &Egress,
        h1_only: bool,
        mut trace: Option<&mut Traced>,
    ) -> Option<Response<Body>> {
        // The token is dropped whether or not this request can use that.
        let worth_it = self.judge(response, receipt).await;
        let request = repeat.request().filter(|_| worth_it)?;
        let decision = self.decide(request.method(), request.uri(), request.headers());
        let Decision::Use(permit) = decision else { return None };
        let (request, receipt, _) = self.sign(permit, request, trace.as_deref_mut()).await.ok()?;
        if let Some(trace) = trace {
            trace.sending(self.clock);
        }
        let mut response = egress.send(self.destination, request, h1_only).await.ok()?.map(Body::incoming);
        if is_suspicious(response.status(), &receipt) {
            self.judge(&mut response, &receipt).await;
        }
        Some(response)
    }

    /// Whether what the upstream answered makes it worth while to sign once more.
    async fn judge(&self, response: &mut Response<Body>, receipt: &Receipt) -> bool {
        let mut beginning = Bytes::new();
        if receipt.reads_errors() {
            let patience = self.clock.sleep_until(self.clock.instant() + ERROR_PATIENCE);
            beginning = response.body_mut().peek(ERROR_BYTES, patience).await;
        }
        let answer = AnswerView {
            destination: self.destination,
            mark: 0,
            status: response.status(),
            headers: response.headers(),
            body: &beginning,
        };
        receipt.judge(&answer, self.clock.now())
    }
}

/// Whether an answer of this status may be about the signature.
fn is_suspicious(status: StatusCode, receipt: &Receipt) -> bool {
    !status.is_success() && receipt.suspects(status)
}

/// A request as it was before signing, for the case that its token is refused.
struct Repeat {
    method: Method,
    uri: Uri,
    /// `name:value` and a line end for each header: one piece of memory, since nearly every copy is thrown away unread.
    headers: Vec<u8>,
    /// `None` for a request without a body.
    body: Option<Kept>,
    /// The body, if it had to be spooled.
    spooled: Option<Spooled>,
}

impl Repeat {
    /// Keeps the head, and the body as it passes.
    fn of(request: &mut Request<Body>) -> Self {
        let body = if request.body().is_end_stream() {
            None
        } else {
            let (body, kept) = std::mem::replace(request.body_mut(), Body::empty()).keeping(REPEATED_BODY);
            *request.body_mut() = body;
            Some(kept)
        };
        let mut headers = Vec::with_capacity(512);
        for (name, value) in request.headers() {
            headers.extend_from_slice(name.as_str().as_bytes());
            headers.push(b':');
            headers.extend_from_slice(value.as_bytes());
            headers.push(b'\n');
        }
        Self { method: request.method().clone(), uri: request.uri().clone(), headers, body, spooled: None }
    }

    fn request(self) -> Option<Request<Body>> {
        let body = match (self.spooled, self.body) {
            (Some(spooled), _) => spooled.body(),
            (None, None) => Body::empty(),
            (None, Some(kept)) => kept.again()?,
        };
        let mut request = Request::new(body);
        // Neither a name holds a colon nor a value a line end, so what was written is read back.
        for line in self.headers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            request
                .headers_mut()
                .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(&value[1..]).ok()?);
        }
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        Some(request)
    }
}

/// A credential's content cannot be brought now.
fn unloaded(credential: &str, why: &str) -> Refusal {
    Refusal::new(Code::SecretUnavailable, format!("credential {credential} cannot be used: {why}"))
}

fn too_many(state: &State) -> Refusal {
    let limit = state.limits.caller_requests;
    Refusal::new(Code::Overloaded, format!("this caller has {limit} requests under way (`limits.caller_requests`)"))
        .with_retry_after(Duration::from_secs(1))
}

/// The credential that the request itself names, by header.
fn named_credential(headers: &HeaderMap) -> Result<Option<Arc<str>>, Refusal> {
    Ok(single(headers, "countersign-credential")?.map(Arc::from))
}

/// The value of a header of ours, of which there may be one.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::bad_request(format!("two {name} headers")));
    }
    let text = value.to_str().map_err(|_| Refusal::bad_request(format!("{name} is not text")))?;
    Ok(Some(text.trim()))
}

fn log_observed(passage: &Passage, destination: &Destination) {
    if let Some(binding) = passage.observed() {
        tracing::info!(target: "countersign::observe", %destination, binding, "no binding; passed because `unbound: observe`");
    }
}

/// Trailers are judged as the headers were, `owned` being those that a scheme sets.
pub(super) fn judge_trailers(body: Body, owned: &[HeaderName]) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let owned = owned.to_vec();
    body.filtering_trailers(Box::new(move |name| trailer_passes(name, &owned)))
}

/// Holds the body back until the upstream says `100 Continue`, so that the caller is asked for it only then. An upstream
/// that says nothing (many do not know the header) gets the body after `patience`, as RFC 9110 section 10.1.1 advises.
/// The returned sender lives as long as the answer; when it is dropped, a body that was never wanted is given up.
pub(super) fn await_continue(request: Request<Body>, patience: Duration) -> (Request<Body>, oneshot::Sender<()>) {
    let (go, word) = oneshot::channel();
    let (answer, over) = oneshot::channel();
    let go = std::sync::Mutex::new(Some(go));
    let mut request = request.map(|body| {
        let hint = body.size_hint();
        Body::boxed(Held { body, hint, over, hold: Hold::Waiting { word, patience, timer: None } })
    });
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Ok(mut go) = go.lock()
            && let Some(go) = go.take()
        {
            // The body may be gone already, when the final answer came first.
            let _ = go.send(());
        }
    });
    (request, answer)
}

/// Whether the upstream has asked for a body yet.
enum Hold {
    /// Not yet.
    Waiting {
        word: oneshot::Receiver<()>,
        patience: Duration,
        /// Begins when the body is first asked for, that is, when the head is on its way.
        timer: Option<Pin<Box<tokio::time::Sleep>>>,
    },
    /// It has, or it said nothing for too long.
    Wanted,
    /// The final answer came first: the body is not wanted any more, and the caller must not be asked for it.
    Unwanted,
}

/// A body that waits for the upstream's word.
struct Held {
    body: Body,
    /// The length that was announced, whatever becomes of the body.
    hint: SizeHint,
    hold: Hold,
    /// Resolves when the answer is over.
    over: oneshot::Receiver<()>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Hold::Waiting { word, patience, timer } = &mut self.hold {
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*patience)));
            self.hold = match Pin::new(word).poll(cx) {
                Poll::Ready(Ok(())) => Hold::Wanted,
                Poll::Ready(Err(_)) => {
                    // The caller's half is let go at once, so that its connection can end after the answer.
                    self.body = Body::empty();
                    Hold::Unwanted
                }
                Poll::Pending if timer.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending => Hold::Wanted,
            };
        }
        match self.hold {
            Hold::Wanted => Pin::new(&mut self.body).poll_frame(cx),
            // An error now would cut an answer that is still on its way; after it, it closes the half-written connection.
            Hold::Waiting { .. } | Hold::Unwanted => Pin::new(&mut self.over)
                .poll(cx)
                .map(|_| Some(Err("the answer came before the body was wanted".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.hold, Hold::Unwanted) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.hold {
            Hold::Unwanted => self.hint,
            Hold::Wanted | Hold::Waiting { .. } => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_is_the_same_request() {
        let mut request = Request::builder()
            .method("POST")
            .uri("http://api.test/a%2Fb?c=d")
            .header("x-two", "1")
            .header("x-two", "2:\t3")
            .header("x-bytes", &b"\xff\xfe"[..])
            .header("x-empty", "")
            .body(Body::empty())
            .unwrap();
        let again = Repeat::of(&mut request).request().unwrap();
        assert_eq!((again.method(), again.uri()), (request.method(), request.uri()));
        assert_eq!(again.headers(), request.headers());
    }
}
