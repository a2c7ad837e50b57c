//! Wires the rooms: builds everything from a configuration, starts it, reloads it, drains it.
//!
//! **The only room that knows both the configuration and what is made of it; never handles a request.**

mod build;
#[allow(dead_code, reason = "wired with the store")]
mod engine;
#[allow(dead_code, reason = "wired with the store")]
mod file;
mod introduce;
#[allow(dead_code, reason = "wired with the store")]
mod management;
mod refresh;
#[allow(dead_code, reason = "wired with the store")]
mod routes;
mod serve;
#[allow(dead_code, reason = "wired with the store")]
mod stored;
#[allow(dead_code, reason = "wired with the store")]
mod test;
mod watch;

pub use build::{Built, Parts, build};
pub use introduce::{IntroduceError, Introduced, introduce};
pub use serve::{App, StartError};
