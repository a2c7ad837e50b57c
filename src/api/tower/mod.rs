//! The way in of Nextflow Tower's clients (Seqera Platform): `/api/credentials`.
//!
//! **Never hands out keys, encrypted or not: what Tower gives to services that are paired with it, it refuses.**

mod address;
mod http;
mod ids;
mod keys;
mod map;
mod provider;
mod service;
mod shown;
mod ssh;
#[cfg(test)]
mod tests;
mod wire;

pub(super) use self::http::routes;
pub(super) use self::ssh::check as check_ssh_key;

/// What is wrong with a request, and at which of Tower's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrong {
    path: String,
    message: String,
}

impl Wrong {
    fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}
