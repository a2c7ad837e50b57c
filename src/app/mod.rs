//! Wires the rooms: builds everything from a configuration, starts it, reloads it, drains it.
//!
//! **The only room that knows both the configuration and what is made of it; never handles a request.**

mod build;
mod introduce;
mod refresh;
mod serve;
mod watch;

pub use build::{Built, Parts, build};
pub use introduce::{IntroduceError, Introduced, introduce};
pub use serve::{App, StartError};
