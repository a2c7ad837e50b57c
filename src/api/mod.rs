//! The management API: accounts, credentials, bindings, callers; the ways in of Flexera's and Tower's clients; who may do
//! what.
//!
//! **Never shows a secret that it was given; never signs; never acts for somebody whose right it has not checked.**

mod engine;

pub use engine::{Declared, Engine, TestReport, Tested, TokenLife, WriteError};
