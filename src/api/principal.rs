//! Who asks, and what they may do.

use super::error::ApiError;
use crate::store::{Actor, Role};

/// A role, in one account or in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// Where; everywhere if no account is named.
    pub account: Option<String>,
}

/// Somebody whom the API has proven: a management token, a person or service of an issuer, the command line on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Such as `token:ci`, `oidc:anna@example.com`, `local`.
    pub name: String,
    /// What it may do; a token has one of these, an issuer's person may have several.
    pub grants: Vec<Grant>,
}

impl Principal {
    /// Somebody with one role.
    pub fn new(name: impl Into<String>, role: Role, account: Option<String>) -> Self {
        Self { name: name.into(), grants: vec![Grant { role, account }] }
    }

    /// The command line on this host, which holds the store's key anyway.
    pub fn local() -> Self {
        Self::new("local", Role::Admin, None)
    }

    /// Whether it has this role, or a higher one, in an account.
    ///
    /// # Errors
    /// `forbidden`, the same for an account that exists and for one that does not.
    pub fn may(&self, role: Role, account: &str) -> Result<(), ApiError> {
        let has = |grant: &Grant| grant.role >= role && grant.account.as_deref().is_none_or(|own| own == account);
        if self.grants.iter().any(has) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!("{} lacks the role {} in the account {account}", self.name, name(role))))
    }

    /// Whether it has this role, or a higher one, everywhere.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn may_everywhere(&self, role: Role) -> Result<(), ApiError> {
        if self.grants.iter().any(|grant| grant.role >= role && grant.account.is_none()) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!("{} lacks the role {} over all accounts", self.name, name(role))))
    }

    /// The accounts it has this role in, or a higher one; `None` for all.
    pub fn accounts(&self, role: Role) -> Option<Vec<&str>> {
        if self.may_everywhere(role).is_ok() {
            return None;
        }
        let own = self.grants.iter().filter(|grant| grant.role >= role).filter_map(|grant| grant.account.as_deref());
        Some(own.collect())
    }

    /// The highest of its roles, one over all accounts before one in an account.
    pub fn highest(&self) -> Option<&Grant> {
        self.grants.iter().max_by_key(|grant| (grant.role, grant.account.is_none()))
    }

    /// As the store notes it.
    pub fn actor(&self) -> Actor {
        Actor { name: self.name.clone() }
    }
}

/// The name of a role.
pub(super) fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Manager => "manager",
        Role::Admin => "admin",
    }
}

/// Checks an account's name.
///
/// # Errors
/// `bad_request` when it is none.
pub fn check_account(account: &str) -> Result<(), ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&account.len()) && account.bytes().all(plain) {
        return Ok(());
    }
    Err(ApiError::bad_request("an account's name has 1 to 64 letters, digits, `.`, `_` and `-`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_holds_in_its_account_and_includes_the_lower_ones() {
        let manager = Principal::new("m", Role::Manager, Some("a".into()));
        assert!(manager.may(Role::Viewer, "a").is_ok() && manager.may(Role::Manager, "a").is_ok());
        assert!(manager.may(Role::Admin, "a").is_err() && manager.may(Role::Viewer, "b").is_err());
        assert!(manager.may_everywhere(Role::Viewer).is_err());
        assert_eq!(manager.accounts(Role::Viewer), Some(vec!["a"]));
        let viewer = Principal::new("v", Role::Viewer, None);
        assert!(viewer.may(Role::Viewer, "b").is_ok() && viewer.may(Role::Manager, "b").is_err());
        assert_eq!(viewer.accounts(Role::Viewer), None);
    }

    #[test]
    fn of_several_roles_each_counts_where_it_holds() {
        let grants =
            vec![Grant { role: Role::Viewer, account: None }, Grant { role: Role::Admin, account: Some("a".into()) }];
        let both = Principal { name: "p".into(), grants };
        assert!(both.may(Role::Admin, "a").is_ok() && both.may(Role::Viewer, "b").is_ok());
        assert!(both.may(Role::Manager, "b").is_err());
        assert_eq!(both.highest().unwrap().role, Role::Admin);
    }

    #[test]
    fn an_account_has_a_plain_name() {
        for name in ["default", "org-1", "a.b_c", &"x".repeat(64)] {
            assert!(check_account(name).is_ok(), "{name}");
        }
        for name in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(check_account(name).is_err(), "{name}");
        }
    }
}
