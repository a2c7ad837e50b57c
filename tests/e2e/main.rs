//! End-to-end tests: they drive the real binary, as a user would, against servers of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and drives the real outside"
)]
#![expect(unreachable_pub, reason = "the modules of one test program share what they mark pub")]

mod api;
mod audit;
mod aws;
mod aws_bodies;
mod aws_sessions;
mod aws_signing;
mod azure;
mod bad_input;
mod callers;
mod cli_management;
mod cli_policies;
mod clients;
mod commands;
mod deploy;
mod desync;
mod digest;
mod environment;
mod fleet;
mod flexera;
mod flexera_api;
mod flexera_setup;
mod forward;
mod google;
mod identity_providers;
mod inject;
mod jwt;
mod life;
mod login;
mod management;
mod metrics;
mod ntlm;
mod operations;
mod oracle;
mod oracle_signing;
mod policies;
mod policy_inspect;
mod protocols;
mod recipes;
mod reverse;
mod rotation;
mod secret_stores;
mod secrets;
mod service_accounts;
mod shared_rotation;
mod shared_tokens;
mod store;
mod support;
mod systemd;
mod tokens;
mod tower_api;
mod traces;
mod transparent;
mod transparent_rules;
