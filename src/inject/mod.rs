//! Puts a sidecar into the pods that ask for one: what a mutating admission webhook answers.
//!
//! **Never changes a pod by half, never admits one that asked and cannot be given what it asked for, never asks the
//! cluster anything, never sees a secret: it only names them.**

mod pod;
mod review;
mod settings;
mod web;

pub use pod::{Patch, patch};
pub use review::answer;
pub use settings::{Mode, Settings, TokenSettings};
pub use web::router;
