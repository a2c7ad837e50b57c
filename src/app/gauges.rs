//! What is looked up when somebody asks for the metrics: the state of credentials, tokens, the store, the record and the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::probes::Probes;
use super::routes::Routes;
use super::secret_stores::{self, InUse};
use crate::base::{Deps, meter};
use crate::observe::Probed;
use crate::observe::metrics::Gauge;
use crate::proxy::Proxy;
use crate::route::Readiness;
use crate::scheme::Identity;

/// What there is to look at.
pub(super) struct Looked {
    pub(super) deps: Deps,
    pub(super) proxy: Arc<Proxy>,
    pub(super) stores: InUse,
    /// Where there is a store.
    pub(super) routes: Option<Arc<Routes>>,
    pub(super) probes: Arc<Probes>,
    pub(super) started: SystemTime,
}

/// The first configuration is in use.
pub(super) fn loaded(deps: &Deps) {
    // A series that begins with its first failure would never be seen to rise.
    for outcome in ["ok", "failed"] {
        metrics::counter!("countersign_reloads_total", "outcome" => outcome).increment(0);
    }
    metrics::gauge!("countersign_last_reload_timestamp_seconds").set(seconds(deps.clock.now()));
}

/// A configuration was loaded again, or refused.
pub(super) fn reloaded(deps: &Deps, ok: bool) {
    metrics::counter!("countersign_reloads_total", "outcome" => if ok { "ok" } else { "failed" }).increment(1);
    if ok {
        loaded(deps);
    }
}

fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn truth(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

impl Looked {
    /// As what the admin listener asks.
    pub(super) fn into_closure(self) -> impl Fn() -> Vec<Gauge> + Send + Sync + 'static {
        move || self.look()
    }

    fn look(&self) -> Vec<Gauge> {
        let build = Some(("version", env!("CARGO_PKG_VERSION").to_owned()));
        let mut gauges = vec![
            Gauge { name: "countersign_build_info", meaning: "The version that runs.", samples: vec![(build, 1.0)] },
            Gauge::of("countersign_start_time_seconds", "When this process started to serve.", seconds(self.started)),
            Gauge::of("countersign_ready", "Whether work is taken.", truth(self.probes.health().ready)),
            Gauge::of(
                "countersign_audit_blocked",
                "Whether the record cannot be written, so that no credential is used.",
                truth(self.deps.audit.blocked().is_some()),
            ),
        ];
        if let Some(routes) = &self.routes {
            let reachable = routes.trouble().is_none();
            gauges.push(Gauge::of(
                "countersign_store_reachable",
                "Whether the store can be reached.",
                truth(reachable),
            ));
        }
        let failing = self.stores.unusable().len() as f64;
        gauges.push(Gauge::of("countersign_secret_stores_failing", "Secret stores that cannot be used.", failing));
        gauges.extend(self.credentials());
        gauges.extend(process());
        gauges
    }

    /// Which credentials can be used, and for how long their tokens live.
    fn credentials(&self) -> [Gauge; 3] {
        let now = self.deps.clock.now();
        let (mut usable, mut expiry, mut ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let least = |all: &mut BTreeMap<String, f64>, label: String, until: SystemTime| {
            let left = match until.duration_since(now) {
                Ok(left) => left.as_secs_f64(),
                Err(past) => -past.duration().as_secs_f64(),
            };
            all.entry(label).and_modify(|least| *least = least.min(left)).or_insert(left);
        };
        for entry in self.proxy.state().routes.credentials().iter().filter(|entry| entry.enabled) {
            let label = meter::label(&entry.id).to_string();
            // Of those that share a label the worst is told.
            let fine = secret_stores::unusable(entry).is_none();
            usable.entry(label.clone()).and_modify(|all| *all &= fine).or_insert(fine);
            if let Some(until) = entry.ends {
                least(&mut ends, label.clone(), until);
            }
            let Readiness::Ready(scheme) = &*entry.readiness() else { continue };
            let Identity::Token(handle) = scheme.identity() else { continue };
            let Some(until) = handle.expires_at() else { continue };
            least(&mut expiry, label, until);
        }
        let label = |id| Some(("credential", id));
        [
            Gauge {
                name: "countersign_credential_usable",
                meaning: "Whether a credential can be used, as far as is known.",
                samples: usable.into_iter().map(|(id, fine)| (label(id), truth(fine))).collect(),
            },
            Gauge {
                name: "countersign_token_expiry_seconds",
                meaning: "Seconds until the token of a credential is no longer used.",
                samples: expiry.into_iter().map(|(id, left)| (label(id), left)).collect(),
            },
            Gauge {
                name: "countersign_secret_expiry_seconds",
                meaning: "Seconds until the secret of a credential ends, where its `expiresAt` tells.",
                samples: ends.into_iter().map(|(id, left)| (label(id), left)).collect(),
            },
        ]
    }
}

/// Memory and open files of this process, where the system tells.
fn process() -> Vec<Gauge> {
    let mut gauges = Vec::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(kib) = resident.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()) {
        let bytes = kib * 1024.0;
        gauges.push(Gauge::of("countersign_resident_memory_bytes", "Resident memory of this process.", bytes));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        gauges.push(Gauge::of("countersign_open_fds", "Files and sockets that are open.", files.count() as f64));
    }
    gauges
}
