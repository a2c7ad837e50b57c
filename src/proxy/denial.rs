//! What is written down of a refused use: who asked for what, where, and why not. Never a header, never a query string, and a
//! path only in the binding that would have been needed.

use std::sync::Arc;

use http::Method;

use super::pipeline::Proxy;
use crate::base::{AuditEvent, Clock, Destination, Refusal};
use crate::route::{Caller, Outcome};

/// A refused use.
#[derive(Debug, Clone, Copy)]
pub struct Denial<'a> {
    /// Which way it came in.
    pub via: &'static str,
    /// Who asked, if that was found out.
    pub caller: Option<&'a Caller>,
    /// Where it would have gone, if that was found out.
    pub destination: Option<&'a Destination>,
    /// With which method, if it was known.
    pub method: Option<&'a Method>,
    /// The credential that was named, or was found.
    pub credential: Option<&'a Arc<str>>,
}

impl Proxy {
    /// Writes down that a use was refused, if that is what the refusal says.
    pub fn denied(&self, denial: &Denial<'_>, refusal: &Refusal) {
        if refusal.code.is_denial() {
            self.audit().note(denial.event(refusal));
        }
    }
}

impl Denial<'_> {
    /// Counts a tunnel that was refused among what a run did; a request is counted by its record.
    pub fn count(&self, refusal: &Refusal, clock: &dyn Clock) {
        if let (Some(lease), Some(destination)) =
            (self.caller.and_then(|caller| caller.lease.as_ref()), self.destination)
        {
            let (method, outcome) = (self.method.unwrap_or(&Method::CONNECT), Outcome::Refused(refusal.code.as_str()));
            lease.book.count(None, destination, method, outcome, clock.now());
        }
    }

    fn event(&self, refusal: &Refusal) -> AuditEvent {
        let account = self.caller.map_or_else(String::new, |caller| caller.account.to_string());
        let mut event = AuditEvent::new("use.denied", account, refusal.code.as_str());
        event.subject = self.credential.map(ToString::to_string);
        event.actor = self.caller.map(|caller| caller.name.to_string());
        event = event.fact("via", self.via);
        if let Some(method) = self.method {
            event = event.fact("method", method.as_str());
        }
        if let Some(destination) = self.destination {
            event = event.fact("destination", destination.to_string());
        }
        event.fact("reason", refusal.detail.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Code;

    #[test]
    fn a_refused_use_is_written_down_with_who_what_where_and_why() {
        let (caller, destination) = (Caller::local(), Destination::from_connect("a.test:8443").unwrap());
        let denial = Denial {
            via: "forward",
            caller: Some(&caller),
            destination: Some(&destination),
            method: Some(&Method::PUT),
            credential: Some(&"spot".into()),
        };
        let expected = AuditEvent::new("use.denied", "default", "cleartext_refused")
            .of("spot")
            .by("local")
            .fact("via", "forward")
            .fact("method", "PUT")
            .fact("destination", destination.to_string())
            .fact("reason", "why");
        assert_eq!(denial.event(&Refusal::new(Code::CleartextRefused, "why")), expected);
        let unknown = Denial { via: "reverse", caller: None, destination: None, method: None, credential: None };
        let expected = AuditEvent::new("use.denied", "", "caller_unknown").fact("via", "reverse").fact("reason", "who");
        assert_eq!(unknown.event(&Refusal::new(Code::CallerUnknown, "who")), expected);
    }
}
