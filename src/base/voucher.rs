//! Somebody who vouches for callers that show a token of another authority: the seam that `token` implements and
//! `listen` asks.

use std::fmt;
use std::time::SystemTime;

use super::{BoxFuture, Secret};

/// Whom a token is of, and until when that may be believed without asking again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// `namespace/name` of a service account.
    pub account: String,
    /// Not after this moment.
    pub until: SystemTime,
}

/// Why nobody vouches for a token. Says nothing of the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotVouched {
    /// It is wrong.
    Refused(String),
    /// Nobody can tell at present.
    Unavailable(String),
}

/// Vouches for callers.
pub trait Voucher: Send + Sync + fmt::Debug {
    /// Whether a text looks like a token that this may be asked about. Costs next to nothing.
    fn concerns(&self, token: &[u8]) -> bool;

    /// What is remembered of a token.
    fn remembered(&self, token: &[u8]) -> Option<Result<Vouched, NotVouched>>;

    /// What is remembered, or else what the authority says.
    fn ask<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<Vouched, NotVouched>>;
}
