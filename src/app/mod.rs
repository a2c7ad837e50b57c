//! Wires the rooms: builds everything from a configuration, starts it, reloads it, drains it.
//!
//! **The only room that knows both the configuration and what is made of it; never handles a request.**

mod build;
mod engine;
mod file;
mod gauges;
mod inject;
mod introduce;
mod local;
mod management;
mod opening;
mod probes;
mod refresh;
mod routes;
mod runs;
mod secret_stores;
mod serve;
mod stored;
pub mod supervisor;
mod test;
mod traces;
mod watch;

pub use build::{Built, Draining, Parts, Private, build};
pub use inject::{inject, read_injector};
pub use introduce::{IntroduceError, Introduced, introduce};
pub use local::{LocalAudit, OpenStore, build_whole, manage, open_store};
pub use serve::{App, StartError};
