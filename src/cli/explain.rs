//! `countersign explain`: what would happen to a call, and why, asked of the code that would do it.

use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, Uri};
use serde_json::json;

use super::{Context, Failure};
use crate::app::{Parts, build};
use crate::base::{Destination, Refusal};
use crate::route::{Ask, Decision, RouteTable};
use crate::upstream::system_roots;

#[derive(Args)]
pub(super) struct Arguments {
    /// Who would call [default: the only listed caller, or `local` when none is listed]
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
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

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let (_, config) = context.load()?;
    let names: Vec<String> = config.callers.iter().map(|caller| caller.name.clone()).collect();
    let own = Arc::default();
    let roots = system_roots();
    let parts = Parts { deps: &context.deps, roots: &roots, own: &own, previous: None, private: None };
    let built = build(config, parts).await.map_err(Failure::Config)?;
    let caller = match (&arguments.caller, &names[..]) {
        (Some(name), _) => name.clone(),
        (None, []) => crate::route::LOCAL.to_owned(),
        (None, [only]) => only.clone(),
        (None, several) => {
            return Err(Failure::Other(format!("say who calls with --caller: one of {}", several.join(", "))));
        }
    };
    let answer = explain(&built.state.routes, &caller, arguments).map_err(Failure::Other)?;
    if arguments.json {
        println!("{}", answer.json());
    } else {
        println!("{}", answer.text());
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

fn explain(routes: &RouteTable, caller: &str, arguments: &Arguments) -> Result<Answer, String> {
    let method = crate::config::method(&arguments.method)?;
    let uri: Uri = arguments.url.parse().map_err(|_| format!("`{}` is not a URL", arguments.url))?;
    let caller = routes.callers().named(caller).ok_or_else(|| format!("there is no caller {caller}"))?;
    let destination = match Destination::from_absolute(&uri) {
        Ok(destination) => destination,
        Err(refusal) => return Ok(Answer::denied(None, &refusal)),
    };
    let ask = Ask {
        caller: &caller,
        destination: &destination,
        method: &method,
        path: uri.path(),
        headers: &HeaderMap::new(),
        named: arguments.credential.as_deref(),
        route: None,
    };
    let shown = Some(destination.to_string());
    Ok(match routes.decide(&ask) {
        Decision::Use(permit) => Answer {
            decision: "use",
            credential: Some(permit.credential().to_string()),
            binding: Some(permit.binding().to_string()),
            destination: shown,
            headers: permit.owned_headers().iter().map(ToString::to_string).collect(),
            code: None,
            reason: None,
        },
        Decision::Pass(passage) => Answer {
            decision: "pass",
            credential: None,
            binding: None,
            destination: shown,
            headers: Vec::new(),
            code: None,
            reason: Some(passage.observed().map_or_else(
                || "no binding; `unbound` lets it pass without a credential".to_owned(),
                |binding| format!("no binding; `unbound: observe` lets it pass; the binding would be {binding}"),
            )),
        },
        Decision::Deny(refusal) => Answer::denied(shown, &refusal),
    })
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
