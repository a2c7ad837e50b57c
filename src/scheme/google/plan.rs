//! From settings and files to a way of obtaining tokens: everything that can be known when a credential is written is
//! checked here.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use serde_json::{Map, Value};

use super::document::{Document, Form, PUBLIC, foreign, is_token_endpoint};
use super::endpoint::{Access, Endpoint, Wanted};
use super::federation::Federation;
use super::impersonation::{IAM_SCOPE, Impersonated, Impersonation, is_account};
use super::metadata::{Ask, Metadata};
use super::source::{HOUR, Source, Way};
use super::{Settings, Setup};
use crate::base::{ClientOptions, Public, Secret, Unavailable};
use crate::token::aws::{Ambient, AmbientSettings};
use crate::token::{Assertion, AssertionParts, PrivateKey, SigningKey};

/// The audience of every assertion that asks for a token: a constant in Google's own libraries, wherever it is sent.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";

/// What a token is good for when nothing is said: whatever its account may do.
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where Google's programs are told another metadata server.
pub(super) const METADATA_HOST: &str = "GCE_METADATA_HOST";

/// What is made of settings and secrets.
pub(super) struct Plan<'a> {
    settings: &'a Settings,
    setup: &'a Setup<'a>,
    target_audience: Option<String>,
    audience: Option<String>,
    subject: Option<String>,
    quota_project: Option<String>,
    scopes: Vec<String>,
}

type Made = (Way, Option<Impersonation>);

impl<'a> Plan<'a> {
    /// Reads what the settings refer to.
    pub(super) fn new(settings: &'a Settings, setup: &'a Setup<'a>) -> Result<Self, Unavailable> {
        let text = |field: &Option<Public>| field.as_ref().map(|field| setup.secrets.public(field)).transpose();
        Ok(Self {
            settings,
            setup,
            target_audience: text(&settings.target_audience)?,
            audience: text(&settings.audience)?,
            subject: text(&settings.subject)?,
            quota_project: text(&settings.quota_project)?,
            scopes: settings.scopes.0.iter().map(|scope| setup.secrets.public(scope)).collect::<Result<_, _>>()?,
        })
    }

    /// Where the tokens come from.
    pub(super) fn source(mut self) -> Result<Source, Unavailable> {
        let (way, then) = match self.settings.file() {
            None => (self.metadata()?, None),
            Some((form, field)) => {
                let content = self.setup.secrets.field(field)?;
                self.of_file(form, &content).map_err(|why| Unavailable(format!("{}: {why}", form.name())))?
            }
        };
        let quota = self.quota_project.filter(|_| self.target_audience.is_none());
        let quota = quota.map(|project| HeaderValue::from_str(&project)).transpose();
        let quota = quota.map_err(|_| Unavailable("quota_project: it cannot be sent in a header".into()))?;
        Ok(Source { way, then, quota, random: Arc::clone(&self.setup.outside.random) })
    }

    fn metadata(&self) -> Result<Way, Unavailable> {
        let settings = self.settings;
        let named = self.setup.outside.environment.variable(METADATA_HOST);
        let named = named.filter(|host| !host.trim().is_empty()).map(|host| format!("http://{}", host.trim()));
        let written = settings.metadata_url.as_ref().map(|url| url.0.clone());
        let key = if written.is_some() { "metadata_url" } else { METADATA_HOST };

        let ask = self.target_audience.as_deref().map_or(Ask::Scopes(&self.scopes), Ask::Audience);
        let (url, http) = (written.or(named), &*self.setup.outside.http);
        let metadata = Metadata::new(url.as_deref(), settings.allow_cleartext, &settings.allow_addresses, http, &ask);
        metadata.map(Way::Metadata).map_err(|why| Unavailable(format!("{key}: {why}")))
    }

    fn of_file(&mut self, form: Form, content: &Secret) -> Result<Made, String> {
        let document = Document::read(content, form)?;
        let universe = document.universe(self.settings.universe_domain.as_ref().map(|universe| universe.0.as_str()))?;
        if let (None, Some(project)) = (&self.quota_project, document.optional("quota_project_id")?) {
            self.quota_project = Some(project.to_owned());
        }
        match form {
            Form::ServiceAccount => self.service_account(&document, &universe),
            Form::ExternalAccount => self.external_account(&document, &universe),
            Form::AuthorizedUser => self.authorized_user(&document, &universe),
        }
    }

    fn service_account(&self, document: &Document, universe: &str) -> Result<Made, String> {
        let email = document.text("client_email")?;
        let key = PrivateKey::from_pem(&Secret::new(document.text("private_key")?), None);
        let key = key.map_err(|why| format!("`private_key` in it: {why}"))?;
        if !matches!(key, PrivateKey::Rsa(_)) {
            return Err("`private_key` in it is not an RSA key, and keys of Google's service accounts are".into());
        }
        let signer = Signer { key, email, kid: document.optional("private_key_id")? };
        // Another universe has no endpoint for assertions.
        let elsewhere = universe != PUBLIC;
        if elsewhere && let Some(audience) = &self.target_audience {
            if !is_account(email) {
                return Err("`client_email` in it is not a service account's".into());
            }
            let wanted = Impersonated::Identity { audience: audience.clone() };
            let iam = format!("https://iamcredentials.{universe}");
            let then = Impersonation::of(email, self.iam_url(), &iam, &self.access(), wanted)?;
            return Ok((Way::Signed(signer.self_signed("scope", IAM_SCOPE)?), Some(then)));
        }
        if let Some(audience) = &self.audience {
            return Ok((Way::Signed(signer.self_signed("aud", audience)?), None));
        }
        let scopes = self.scopes_or_all().join(" ");
        if self.settings.self_signed || elsewhere {
            return Ok((Way::Signed(signer.self_signed("scope", &scopes)?), None));
        }
        let (claim, value, wanted) = match &self.target_audience {
            Some(audience) => ("target_audience", audience, Wanted::Identity),
            None => ("scope", &scopes, Wanted::Access),
        };
        let assertion = signer.assertion(Some(AUDIENCE), self.subject.as_deref(), claim, value)?;
        let endpoint = self.token_endpoint(document.optional("token_uri")?, universe)?;
        Ok((Way::Granted { endpoint, assertion, wanted }, None))
    }

    fn external_account(&self, document: &Document, universe: &str) -> Result<Made, String> {
        let scopes = self.scopes_or_all();
        let lifetime = match document.part("service_account_impersonation")? {
            Some(part) => part.number("token_lifetime_seconds")?.map_or(HOUR, Duration::from_secs),
            None => HOUR,
        };
        if !(600..=43_200).contains(&lifetime.as_secs()) {
            return Err("`service_account_impersonation.token_lifetime_seconds` in it is from 600 to 43200".into());
        }
        let wanted = match &self.target_audience {
            Some(audience) => Impersonated::Identity { audience: audience.clone() },
            None => Impersonated::Access { scopes: scopes.clone(), lifetime },
        };
        let then = match document.optional("service_account_impersonation_url")? {
            Some(url) => Some(Impersonation::of_url(url, universe, self.iam_url(), &self.access(), wanted)?),
            None if self.target_audience.is_some() => {
                return Err("an ID token is one of a service account's, and there is no \
                            `service_account_impersonation_url` in it; make the file anew with `--service-account`"
                    .into());
            }
            None if self.iam_url().is_some() => {
                return Err(
                    "`iam_url` is for impersonation, and there is no `service_account_impersonation_url` in it".into(),
                );
            }
            None => None,
        };
        let scopes = if then.is_some() { vec![IAM_SCOPE.to_owned()] } else { scopes };
        let token_url = self.settings.token_url.as_ref().map(|url| url.0.as_str());
        let federation = Federation::new(document, universe, token_url, &scopes, &self.access(), self.ambient())?;
        Ok((Way::Federated(Box::new(federation)), then))
    }

    fn authorized_user(&self, document: &Document, universe: &str) -> Result<Made, String> {
        // Google does not replace these refresh tokens; were one replaced, the old one is still good.
        let fields = ["client_id", "client_secret", "refresh_token"].map(|field| document.text(field).map(Secret::new));
        let [client_id, client_secret, refresh_token] = fields;
        Ok((
            Way::Refreshed {
                endpoint: self.token_endpoint(document.optional("token_uri")?, universe)?,
                client_id: client_id?,
                client_secret: client_secret?,
                refresh_token: refresh_token?,
                scope: self.scopes.join(" "),
            },
            None,
        ))
    }

    /// The operator's token endpoint, else the file's if it is Google's, else Google's.
    fn token_endpoint(&self, own: Option<&str>, universe: &str) -> Result<Endpoint, String> {
        if let Some(url) = &self.settings.token_url {
            return self.access().written(&url.0).map_err(|why| format!("token_url: {why}"));
        }
        let usual = format!("https://oauth2.{universe}/token");
        let url = own.unwrap_or(&usual);
        if !is_token_endpoint(url, universe) {
            return Err(foreign("token_uri", &usual, "token_url"));
        }
        Endpoint::new(url, &*self.setup.outside.http, &ClientOptions::default())
    }

    /// Those that are written, or the one for whatever the account may do.
    fn scopes_or_all(&self) -> Vec<String> {
        if self.scopes.is_empty() { vec![CLOUD_PLATFORM.to_owned()] } else { self.scopes.clone() }
    }

    fn iam_url(&self) -> Option<&str> {
        self.settings.iam_url.as_ref().map(|url| url.0.as_str())
    }

    /// The keys of this host, for AWS.
    fn ambient(&self) -> Ambient {
        let outside = self.setup.outside;
        Ambient::new(Arc::clone(&outside.environment), Arc::clone(&outside.http), AmbientSettings::default())
    }

    fn access(&self) -> Access<'_> {
        let allow_addresses = self.settings.allow_addresses.clone();
        Access {
            http: &*self.setup.outside.http,
            options: ClientOptions { allow_addresses, ..ClientOptions::default() },
            allow_cleartext: self.settings.allow_cleartext,
        }
    }
}

/// What signs for a service account.
struct Signer<'a> {
    key: PrivateKey,
    email: &'a str,
    kid: Option<&'a str>,
}

impl Signer<'_> {
    /// A JWT that is sent as it is, for one API (`aud`) or with scopes, and then without an audience
    /// (<https://google.aip.dev/auth/4111>).
    fn self_signed(self, claim: &str, value: &str) -> Result<Assertion, String> {
        let email = self.email;
        self.assertion(None, Some(email), claim, value)
    }

    fn assertion(
        self,
        audience: Option<&str>,
        subject: Option<&str>,
        claim: &str,
        value: &str,
    ) -> Result<Assertion, String> {
        let one = |name: &str, value: &str| Map::from_iter([(name.to_owned(), Value::from(value))]);
        Assertion::new(AssertionParts {
            key: SigningKey::Private(self.key),
            algorithm: None,
            issuer: Some(self.email.to_owned()),
            subject: subject.map(str::to_owned),
            audience: audience.map(str::to_owned),
            claims: one(claim, value),
            headers: self.kid.map(|kid| one("kid", kid)).unwrap_or_default(),
            include_jti: false,
            lifetime: HOUR,
            backdate: Duration::ZERO,
        })
    }
}
