//! The collector of traces: made of a configuration, followed through reloads, and given what is left at the end.

use std::sync::Arc;

use super::build::{Builder, Parts};
use crate::base::{Deps, Host, HttpClients};
use crate::observe::traces::{Collector, Traces};
use crate::upstream::{Guard, Upstream};

impl Builder {
    /// Where traces go, if they go anywhere. A header that cannot be loaded is no reason to serve nobody: then there are none.
    pub(super) fn collector(&mut self, parts: &Parts<'_>, upstream: Option<&Arc<Upstream>>) -> Option<Collector> {
        let settings = self.config.traces.clone()?;
        let (to, options) = (settings.endpoint.destination(), settings.client_options());
        if let Host::Address(address) = to.host() {
            // Whoever watches nothing but traces would see nothing of the refusal.
            let allowed: Vec<_> =
                self.config.upstream.allow_addresses.iter().chain(&options.allow_addresses).copied().collect();
            let guard = Guard::new(allowed, Arc::clone(parts.own));
            if let Err(refusal) = guard.check((*address, to.port()).into()) {
                self.warning("traces.endpoint", refusal.detail.into_owned());
            }
        }
        let headers = settings.headers(&self.secrets);
        let client = upstream?.client(to, &options);
        match (headers, client) {
            (Ok(headers), Ok(client)) => Some(Collector { settings, client, headers }),
            (Err((key, why)), _) => {
                self.unresolved(&format!("traces.{key}"), format!("nothing is traced: {why}"));
                None
            }
            (_, Err(why)) => {
                self.error("traces.endpoint", why);
                None
            }
        }
    }
}

/// What sends the traces of this process, and the ways out that it was made with.
#[derive(Debug, Default)]
pub(super) struct Collecting(Option<(Traces, Arc<Upstream>)>);

impl Collecting {
    /// Sends them to this collector from now on. One that stays is not disturbed; the one before gets what is left.
    pub(super) fn follow(&mut self, wanted: Option<Collector>, upstream: &Arc<Upstream>, deps: &Deps) {
        let stays = match (&self.0, &wanted) {
            (Some((traces, way)), Some(wanted)) => traces.is_to(wanted) && Arc::ptr_eq(way, upstream),
            (None, None) => true,
            _ => false,
        };
        if stays {
            return;
        }
        let new = wanted.and_then(|collector| {
            let started = Traces::start(collector, deps);
            started.map_err(|error| tracing::error!(error, "nothing is traced")).ok()
        });
        deps.tracer.turn(new.as_ref().map(|traces| traces.tracing(deps)));
        let old = std::mem::replace(&mut self.0, new.map(|traces| (traces, Arc::clone(upstream))));
        if let Some((old, _)) = old {
            tokio::spawn(old.close());
        }
    }

    /// Sends what is left, for a moment at most.
    pub(super) async fn close(self, deps: &Deps) {
        deps.tracer.turn(None);
        if let Some((traces, _)) = self.0 {
            traces.close().await;
        }
    }
}
