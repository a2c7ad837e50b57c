//! What stands in for keys while a command runs: its tools get something worthless, and none of the keys that lie about.

use std::path::Path;
use std::sync::Arc;

use tokio::process::Command;

use super::azure::{self, Azure};
use super::google::{self, Google};
use super::oracle;
use crate::cli::{Context, Failure};

/// Where tools of AWS's find keys, or another way to some: not for the command.
const AWS_KEYS: [&str; 17] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_ROLE_SESSION_NAME",
    "AWS_BEARER_TOKEN_BEDROCK",
];

/// What tools of AWS's get in their place: they sign with these, and Countersign signs again.
const WORTHLESS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIACOUNTERSIGN00000"),
    ("AWS_SECRET_ACCESS_KEY", "worthless/countersign/signs/what/is/sent"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// For whose programs the command gets what stands in for keys.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct StandIns {
    aws: bool,
    azure: bool,
    google: bool,
    oracle: bool,
    /// For Oracle's.
    tenancy: Option<String>,
}

/// What is there for as long as the command is.
pub(super) struct Standing {
    _azure: Option<Azure>,
    _google: Option<Google>,
}

impl StandIns {
    /// For credentials of these schemes.
    pub(in crate::cli) fn of(schemes: &[&str], tenancy: Option<String>) -> Self {
        // A tool of AWS's that finds no keys does not even ask; one that finds real ones would not need us.
        let has = |prefix: &str| schemes.iter().any(|scheme| scheme.starts_with(prefix));
        Self { aws: has("aws"), azure: has("azure"), google: has("google"), oracle: has("oracle"), tenancy }
    }

    /// The variables in which such programs find keys of their own: not for the command.
    pub(super) fn hidden(&self) -> impl Iterator<Item = &'static str> {
        // A configuration of Google's may prove itself with AWS's keys.
        let groups: [(bool, &'static [&'static str]); 4] = [
            (self.aws || self.google, &AWS_KEYS),
            (self.azure, &azure::KEYS),
            (self.google, &google::KEYS),
            (self.oracle, &oracle::KEYS),
        ];
        groups.into_iter().filter(|(has, _)| *has).flat_map(|(_, names)| names).copied()
    }

    /// Makes them, and shows the command where they are.
    pub(super) async fn begin(
        self,
        context: &Context,
        folder: &Path,
        command: &mut Command,
    ) -> Result<Standing, Failure> {
        if self.aws {
            command.envs(WORTHLESS);
        }
        let mut standing = Standing { _azure: None, _google: None };
        if self.azure {
            let azure = Azure::begin(&context.deps).await;
            let azure =
                azure.map_err(|why| Failure::Other(format!("Azure's programs cannot be given a token: {why}")))?;
            command.envs(azure.variables());
            standing._azure = Some(azure);
        }
        if self.google {
            let google = Google::begin(folder, Arc::clone(&context.deps.clock)).await;
            let google =
                google.map_err(|why| Failure::Other(format!("Google's programs cannot be given a key: {why}")))?;
            command.envs(google.variables());
            standing._google = Some(google);
        }
        if self.oracle {
            let made = oracle::stand_in(context, folder, self.tenancy);
            command
                .envs(made.map_err(|why| Failure::Other(format!("Oracle's programs cannot be given a key: {why}")))?);
        }
        Ok(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_brings_its_own_stand_ins_and_hides_its_own_keys() {
        let hidden = |schemes: &[&str]| StandIns::of(schemes, None).hidden().collect::<Vec<_>>();
        assert!(hidden(&["aws_sts"]).contains(&"AWS_PROFILE") && !hidden(&["aws_sts"]).contains(&"ARM_CLIENT_SECRET"));
        assert!(hidden(&["basic", "azure"]).contains(&"ARM_CLIENT_SECRET"));
        assert!(hidden(&["google"]).contains(&"AWS_ACCESS_KEY_ID"));
        assert!(hidden(&["oracle"]).contains(&"OCI_CLI_AUTH"));
        assert!(hidden(&["api_key", "oauth2"]).is_empty());
    }
}
