//! A service account that is impersonated: IAM Credentials gives a token of it to whoever may ask.
//!
//! <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts>

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::document::{foreign, is_service};
use super::endpoint::{Access, Endpoint, generated, identity};
use crate::base::{ClientOptions, Secret};
use crate::token::{Failure, Token};

/// What a token must be good for that only asks for another.
pub(super) const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";

/// Whether a text can be the name of a service account, and nothing more than that in a path.
pub(super) fn is_account(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@.-_".contains(&byte))
}

/// A service account that IAM Credentials is asked for a token of.
#[derive(Debug)]
pub(super) struct Impersonation {
    pub(super) endpoint: Endpoint,
    /// `/v1/projects/-/serviceAccounts/` and the account.
    pub(super) account: String,
    pub(super) wanted: Impersonated,
}

/// What is asked for.
#[derive(Debug)]
pub(super) enum Impersonated {
    Access { scopes: Vec<String>, lifetime: Duration },
    Identity { audience: String },
}

const ACCOUNTS: &str = "/v1/projects/-/serviceAccounts/";

impl Impersonation {
    /// The account of a file's `service_account_impersonation_url`, at Google's own address or the operator's.
    pub(super) fn of_url(
        url: &str,
        universe: &str,
        iam_url: Option<&str>,
        access: &Access<'_>,
        wanted: Impersonated,
    ) -> Result<Self, String> {
        const FIELD: &str = "service_account_impersonation_url";
        let unfit =
            || format!("`{FIELD}` in it is not https://iamcredentials.{universe}{ACCOUNTS}…:generateAccessToken");
        let (front, account) = url.split_once(ACCOUNTS).ok_or_else(unfit)?;
        let account = account.strip_suffix(":generateAccessToken").ok_or_else(unfit)?;
        if iam_url.is_none() && !is_service(front, "iamcredentials", universe) {
            return Err(foreign(FIELD, &format!("https://iamcredentials.{universe}"), "iam_url"));
        }
        if !is_account(account) {
            return Err(unfit());
        }
        Self::of(account, iam_url, front, access, wanted)
    }

    /// An account by its name, which stands in a path.
    pub(super) fn of(
        account: &str,
        iam_url: Option<&str>,
        usual: &str,
        access: &Access<'_>,
        wanted: Impersonated,
    ) -> Result<Self, String> {
        let endpoint = match iam_url {
            Some(url) => access.written(url.trim_end_matches('/')).map_err(|why| format!("iam_url: {why}"))?,
            None => Endpoint::new(usual, access.http, &ClientOptions::default())?,
        };
        Ok(Self { endpoint, account: format!("{ACCOUNTS}{account}"), wanted })
    }

    /// A token of that account, for whoever has this access token.
    pub(super) async fn fetch(&self, bearer: &Secret, now: SystemTime) -> Result<Token, Failure> {
        match &self.wanted {
            Impersonated::Access { scopes, lifetime } => {
                let document = json!({ "scope": scopes, "lifetime": format!("{}s", lifetime.as_secs()) });
                let path = format!("{}:generateAccessToken", self.account);
                generated(&self.endpoint.document(&path, bearer, &document, now).await?)
            }
            Impersonated::Identity { audience } => {
                let document = json!({ "audience": audience, "includeEmail": true, "useEmailAzp": true });
                let path = format!("{}:generateIdToken", self.account);
                let reply = self.endpoint.document(&path, bearer, &document, now).await?;
                identity(reply.token("token")?, &reply)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::document::PUBLIC;
    use super::*;
    use crate::base::{CallError, Destination, HttpClient, HttpClients};

    #[derive(Debug)]
    struct Anybody;

    impl HttpClients for Anybody {
        fn client(&self, _: &Destination, _: &ClientOptions) -> Result<Arc<dyn HttpClient>, String> {
            Ok(Arc::new(Self))
        }
    }

    impl HttpClient for Anybody {
        fn call(
            &self,
            _: http::Request<Vec<u8>>,
        ) -> crate::base::BoxFuture<'_, Result<http::Response<Vec<u8>>, CallError>> {
            unreachable!("nothing is called")
        }
    }

    fn account(url: &str, iam_url: Option<&str>) -> Result<String, String> {
        let access = Access { http: &Anybody, options: ClientOptions::default(), allow_cleartext: false };
        let wanted = Impersonated::Identity { audience: "x".into() };
        Impersonation::of_url(url, PUBLIC, iam_url, &access, wanted).map(|made| made.account)
    }

    #[test]
    fn the_account_is_read_and_the_address_is_googles_or_the_operators() {
        let at =
            |front: &str, account: &str| format!("{front}/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        let google = "https://iamcredentials.googleapis.com";
        let own = "/v1/projects/-/serviceAccounts/a@b.iam.gserviceaccount.com";
        let name = "a@b.iam.gserviceaccount.com";
        assert_eq!(account(&at(google, name), None).unwrap(), own);
        assert_eq!(account(&at("https://iamcredentials.us-east1.rep.googleapis.com", name), None).unwrap(), own);
        assert_eq!(account(&at("https://iam.corp.test", name), Some("https://iam.corp.test/")).unwrap(), own);
        for (url, iam_url, why) in [
            (at("https://iam.corp.test", name), None, "leads elsewhere than to Google"),
            (at("http://iamcredentials.googleapis.com", name), None, "leads elsewhere"),
            (at(google, name), Some("http://iam.corp.test"), "iam_url: "),
            (at(google, "a/../b"), None, "generateAccessToken"),
            (at(google, "a?b"), None, "generateAccessToken"),
            (at(google, ""), None, "generateAccessToken"),
            (at(google, name).replace(":generateAccessToken", ":signJwt"), None, "generateAccessToken"),
            (google.to_owned(), None, "generateAccessToken"),
        ] {
            let error = account(&url, iam_url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
