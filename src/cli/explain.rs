//! `countersign explain`: what would happen to a call, and why, asked of the code that would do it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::Args;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use serde_json::json;

use super::{Context, Failure};
use crate::app::{Built, Parts, build_whole};
use crate::base::{Code, Destination, Protocol, Refusal, RequestView, SystemClock};
use crate::listen::{Address, Door};
use crate::route::{Ask, DEFAULT_ACCOUNT, Decision, refuse_path_tricks};
use crate::token::Tokens;
use crate::upstream::{OwnAddresses, system_roots};

#[derive(Args)]
pub(super) struct Arguments {
    /// Who would call [default: the only listed caller, or `local` when none is listed]
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// The account of the caller
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ACCOUNT)]
    account: String,
    /// The credential that the request would name
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// The method
    method: String,
    /// The URL
    url: String,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let (_, config) = context.load()?;
    let names: Vec<String> = config.callers.iter().map(|caller| caller.name.clone()).collect();
    // The guard refuses our own listeners; those with a port of their own are known before they are bound.
    let forward = config.listeners.forward.iter().map(|listener| &listener.address);
    let reverse = config.listeners.reverse.iter().map(|listener| &listener.address);
    let transparent = config.listeners.transparent.iter().map(|listener| &listener.address);
    let admin = config.admin.iter().map(|admin| &admin.address);
    let sockets = forward.chain(reverse).chain(transparent).chain(admin).filter_map(|address| match address {
        Address::Tcp(socket) if socket.port() != 0 => Some(*socket),
        Address::Tcp(_) | Address::Unix(_) => None,
    });
    let own: OwnAddresses = Arc::new(ArcSwap::from_pointee(sockets.collect()));
    let roots = system_roots();
    let tokens = Tokens::new(&context.deps);
    let parts = Parts {
        deps: &context.deps,
        roots: &roots,
        own: &own,
        tokens: &tokens,
        stores: None,
        previous: None,
        private: None,
    };
    let built = build_whole(config, parts).await.map_err(Failure::Config)?;
    let caller = match (&arguments.caller, &names[..]) {
        (Some(name), _) => name.clone(),
        (None, []) => crate::route::LOCAL.to_owned(),
        (None, [only]) => only.clone(),
        (None, several) => {
            return Err(Failure::Other(format!("say who calls with --caller: one of {}", several.join(", "))));
        }
    };
    let answer = explain(&built, &caller, arguments).await.map_err(Failure::Other)?;
    if arguments.json {
        say!("{}", answer.json());
    } else {
        say!("{}", answer.text());
    }
    Ok(0)
}

/// The answer, field by field.
struct Answer {
    decision: &'static str,
    credential: Option<String>,
    binding: Option<String>,
    destination: Option<String>,
    headers: Vec<String>,
    code: Option<&'static str>,
    reason: Option<String>,
}

async fn explain(built: &Built, caller: &str, arguments: &Arguments) -> Result<Answer, String> {
    let routes = &built.state.routes;
    let method = crate::config::method(&arguments.method)?;
    let uri: Uri = arguments.url.parse().map_err(|_| format!("`{}` is not a URL", arguments.url))?;
    let caller = routes.callers().named_in(&arguments.account, caller);
    let caller = caller.ok_or_else(|| format!("there is no such caller in account {}", arguments.account))?;
    let called = match Destination::from_absolute(&uri) {
        Ok(called) => called,
        Err(refusal) => return Ok(Answer::denied(None, &refusal)),
    };
    // The address of one of our own reverse listeners stands for what its route calls.
    let routed = built.doors.iter().find_map(|door| door.routed(&called, &uri));
    let (destination, uri, route) = match routed {
        Some((route, target)) => (route.destination.clone(), target, Some(route)),
        None => (called, uri, None),
    };
    let shown = Some(destination.to_string());
    let denied = |refusal: &Refusal| Ok(Answer::denied(shown.clone(), refusal));
    if let Some(Err(refusal)) = route.filter(|route| !route.base.is_empty()).map(|_| refuse_path_tricks(uri.path())) {
        return denied(&refusal);
    }
    let ask = Ask {
        caller: &caller,
        destination: &destination,
        method: &method,
        path: uri.path(),
        target: uri.path_and_query().map_or("/", PathAndQuery::as_str),
        headers: &HeaderMap::new(),
        named: arguments.credential.as_deref(),
        route: route.filter(|route| route.bound).map(|route| &*route.name),
        clock: &SystemClock,
    };
    let foreseen = |addresses| built.state.upstream.egress(addresses).and_then(|egress| egress.foresee(&destination));
    let mut decision = routes.decide(&ask);
    if let Decision::Wake(credential) = &decision {
        // What is told of it is what it would do.
        if let Err(error) = credential.wake().await {
            let why = format!("credential {} cannot be loaded: {}", credential.id, error.0);
            return denied(&Refusal::new(Code::SecretUnavailable, why));
        }
        decision = routes.decide(&ask);
    }
    match decision {
        Decision::Deny(refusal) => denied(&refusal),
        Decision::Wake(credential) => denied(&Refusal::new(
            Code::SecretUnavailable,
            format!("credential {} cannot be loaded from the store", credential.id),
        )),
        Decision::Use(permit) => {
            if let Err(refusal) = foreseen(permit.allow_addresses()) {
                return denied(&refusal);
            }
            let forward: Vec<bool> = built.doors.iter().filter_map(Door::intercepts).collect();
            if route.is_none()
                && destination.protocol() == Protocol::Https
                && !forward.is_empty()
                && !forward.contains(&true)
            {
                let why = "no forward listener has `intercept: true`, so a tunnel to this host is refused";
                return denied(&Refusal::new(Code::InterceptionOff, why));
            }
            let view = RequestView {
                method: &method,
                path_and_query: uri.path_and_query().map_or("/", PathAndQuery::as_str),
                headers: &HeaderMap::new(),
                removed: &HeaderMap::new(),
                destination: &destination,
                length: None,
                body: None,
                narrowing: None,
            };
            let foresight = match permit.foresee(&view) {
                Ok(foresight) => foresight,
                Err(refusal) => return denied(&refusal),
            };
            Ok(Answer {
                decision: "use",
                credential: Some(permit.credential().to_string()),
                binding: Some(permit.binding().to_string()),
                headers: foresight.adds,
                destination: shown,
                code: None,
                reason: foresight.note,
            })
        }
        Decision::Pass(passage) => match foreseen(&Arc::default()) {
            Err(refusal) => denied(&refusal),
            Ok(()) => Ok(Answer {
                decision: "pass",
                credential: None,
                binding: None,
                headers: Vec::new(),
                destination: shown,
                code: None,
                reason: Some(passage.observed().map_or_else(
                    || "no binding; `unbound` lets it pass without a credential".to_owned(),
                    |binding| format!("no binding; `unbound: observe` lets it pass; the binding would be {binding}"),
                )),
            }),
        },
    }
}

impl Answer {
    fn denied(destination: Option<String>, refusal: &Refusal) -> Self {
        Self {
            decision: "deny",
            credential: None,
            binding: None,
            destination,
            headers: Vec::new(),
            code: Some(refusal.code.as_str()),
            reason: Some(refusal.detail.to_string()),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "decision": self.decision,
            "credential": self.credential,
            "binding": self.binding,
            "destination": self.destination,
            "headers": self.headers,
            "code": self.code,
            "reason": self.reason,
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("decision     {}", self.decision)];
        let mut line = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                lines.push(format!("{name:<13}{value}"));
            }
        };
        line("destination", self.destination.as_deref());
        line("credential", self.credential.as_deref());
        line("binding", self.binding.as_deref());
        let headers = self.headers.join(", ");
        line("headers", Some(&*headers).filter(|headers| !headers.is_empty()));
        line("code", self.code);
        line("reason", self.reason.as_deref());
        lines.join("\n")
    }
}
