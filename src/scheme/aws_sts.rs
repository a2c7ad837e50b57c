//! `aws_sts`: a session of an IAM role, asked of STS and renewed, signing with Signature Version 4.
//!
//! The fields are those of Flexera cred/v2 `aws_sts`, with what else AssumeRole takes, roles assumed on the way, and other
//! accounts that a request may name. <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

mod introduction;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde::Deserialize;

use super::aws::{DEFAULT_HOSTS, NARROWS, check_access_key, foresight, take_signing};
use super::{Draft, Fields, Foresight, Identity, Introduction, Kind, Scheme, SettingsError, Setup, at, settings};
use crate::base::{BoxFuture, Code, Public, Refusal, RequestView, SecretField, SecretRef, Text, Unavailable};
use crate::sigv4::{self, OWNED_HEADERS, Skew};
use crate::token::aws::{
    Ambient, AmbientSession, AmbientSettings, Base, ExternalIds, Keys, Role, RoleSession, Signing, Sts, StsEndpoint,
    WebIdentitySession,
};
use crate::token::{Handle, KeyBuilder, TokenSource};

pub(super) const KIND: Kind = Kind {
    name: "aws_sts",
    about: "A session of an AWS role (AssumeRole), with keys of its own or the host's, signing as `aws` does",
    default_hosts: DEFAULT_HOSTS,
    strangers: sigv4::is_strangers,
    narrows: NARROWS,
    fields: Fields {
        secret: &["secret_key", "session_token"],
        leading: &["sts_endpoint", "allow_cleartext"],
        operators: &["allow_addresses", "profile", "web_identity"],
    },
    parse: |mut value| {
        let signing = take_signing(&mut value)?;
        let own: Own = settings(value)?;
        own.check()?;
        Ok(Box::new(Settings { own, signing }))
    },
};

/// The longest session of a role that another role's session assumes.
const LONGEST_CHAINED: u64 = 60;

#[derive(Debug)]
struct Settings {
    own: Own,
    signing: Arc<sigv4::Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Without it, what the base gives signs by itself.
    role_arn: Option<String>,
    role_session_name: Option<String>,
    external_id: Option<Text>,
    policy_json: Option<String>,
    #[serde(default)]
    policy_arns: Vec<String>,
    #[serde(default)]
    session_tags: BTreeMap<String, String>,
    #[serde(default)]
    transitive_tag_keys: Vec<String>,
    source_identity: Option<String>,
    #[serde(default = "hour")]
    max_minutes: u64,
    sts_endpoint: Option<String>,
    /// Let answers that hold keys come over `http://` from that endpoint.
    #[serde(default)]
    allow_cleartext: bool,
    /// Addresses normally refused that the endpoint may have.
    #[serde(default, deserialize_with = "crate::base::nets::deserialize")]
    allow_addresses: Vec<IpNet>,
    /// Accounts in which a request may ask for the same role.
    #[serde(default)]
    accounts: Vec<Text>,
    /// Roles assumed on the way to `role_arn`.
    #[serde(default)]
    chain: Vec<Hop>,
    access_key: Option<Public>,
    secret_key: Option<SecretField>,
    session_token: Option<SecretField>,
    profile: Option<String>,
    web_identity: Option<WebIdentity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hop {
    role_arn: String,
    role_session_name: Option<String>,
    external_id: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebIdentity {
    role_arn: String,
    role_session_name: Option<String>,
    token_file: PathBuf,
}

fn hour() -> u64 {
    60
}

/// Of what the field is called here.
fn here(field: &'static str) -> &'static str {
    match field {
        "session_name" => "role_session_name",
        "policy" => "policy_json",
        "tags" => "session_tags",
        other => other,
    }
}

const NOT_CHOSEN: &str = "with the host's own keys the external id is made here for each account and cannot be chosen, or one \
                          account could use another's trust; leave it out and put the one that \
                          `countersign credential setup aws_sts` prints into the trust policy";

impl Own {
    /// The web identity is the host's own, whatever it is called here.
    fn names_the_hosts_token(&self, setup: &Setup<'_>) -> bool {
        let own = setup.outside.environment.variable("AWS_WEB_IDENTITY_TOKEN_FILE");
        let same = |web: &WebIdentity, own: String| {
            let real = |path: &std::path::Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            real(&web.token_file) == real(own.as_ref())
        };
        self.web_identity.as_ref().zip(own).is_some_and(|(web, own)| same(web, own))
    }

    fn chooses_an_external_id(&self) -> bool {
        self.external_id.is_some() || self.chain.iter().any(|hop| hop.external_id.is_some())
    }

    fn is_ambient(&self) -> bool {
        self.access_key.is_none() && self.web_identity.is_none()
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.check_base()?;
        let Some(role) = self.role() else {
            return self.check_without_role();
        };
        if !(30..=720).contains(&self.max_minutes) {
            return Err(at("max_minutes", "from 30 to 720; the role's own maximum session duration must allow it"));
        }
        if self.max_minutes > LONGEST_CHAINED && (!self.chain.is_empty() || self.web_identity.is_some()) {
            let why = "a role that is assumed with another role's session lasts 60 minutes at most (role chaining)";
            return Err(at("max_minutes", why));
        }
        role.check().map_err(|(field, why)| at(here(field), why))?;
        for (index, hop) in self.chain.iter().enumerate() {
            let role = hop.role();
            role.check().map_err(|(field, why)| at(format!("chain[{index}].{}", here(field)), why))?;
        }
        for (index, Text(account)) in self.accounts.iter().enumerate() {
            if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(at(format!("accounts[{index}]"), "an account has 12 digits; put them in quotes"));
            }
        }
        Ok(())
    }

    fn check_base(&self) -> Result<(), SettingsError> {
        match (&self.access_key, &self.secret_key) {
            (Some(Public::Literal(key)), Some(_)) => check_access_key(key).map_err(|why| at("access_key", why))?,
            (Some(Public::Reference(_)), Some(_)) => {}
            (None, None) if self.session_token.is_none() => {}
            (None, _) => return Err(at("access_key", "`access_key` and `secret_key` go together")),
            (Some(_), None) => return Err(at("secret_key", "`access_key` and `secret_key` go together")),
        }
        let bases = [self.access_key.is_some(), self.profile.is_some(), self.web_identity.is_some()];
        if bases.into_iter().filter(|base| *base).count() > 1 {
            return Err(at("", "the keys that ask come from one place: `access_key`, `profile` or `web_identity`"));
        }
        if self.is_ambient() {
            let chosen = self.chain.iter().position(|hop| hop.external_id.is_some());
            let chosen = chosen.map(|index| format!("chain[{index}].external_id"));
            if let Some(path) = self.external_id.as_ref().map(|_| "external_id".to_owned()).or(chosen) {
                return Err(at(path, NOT_CHOSEN));
            }
        }
        if let Some(web) = &self.web_identity {
            let role = web.role();
            role.check().map_err(|(field, why)| at(format!("web_identity.{}", here(field)), why))?;
        }
        if let Some(url) = &self.sts_endpoint {
            self.endpoint(url, None).map_err(|why| at("sts_endpoint", why))?;
        }
        Ok(())
    }

    /// What goes with a role only.
    fn check_without_role(&self) -> Result<(), SettingsError> {
        if self.access_key.is_some() {
            return Err(at("role_arn", "`role_arn` is needed; the scheme `aws` signs with keys as they are"));
        }
        let set = [
            ("role_session_name", self.role_session_name.is_some()),
            ("policy_json", self.policy_json.is_some()),
            ("policy_arns", !self.policy_arns.is_empty()),
            ("session_tags", !self.session_tags.is_empty()),
            ("transitive_tag_keys", !self.transitive_tag_keys.is_empty()),
            ("source_identity", self.source_identity.is_some()),
            ("accounts", !self.accounts.is_empty()),
            ("chain", !self.chain.is_empty()),
            ("external_id", self.external_id.is_some()),
            ("max_minutes", self.max_minutes != hour()),
        ];
        match set.iter().find(|(_, set)| *set) {
            Some((key, _)) => Err(at(*key, "it goes with `role_arn`")),
            None => Ok(()),
        }
    }

    fn endpoint(&self, url: &str, region: Option<&str>) -> Result<StsEndpoint, String> {
        let mut endpoint = StsEndpoint::parse(url, region, self.allow_cleartext)?;
        endpoint.allow_addresses.clone_from(&self.allow_addresses);
        Ok(endpoint)
    }

    /// The role that signs in the end.
    fn role(&self) -> Option<Role> {
        let mut role = Role::new(self.role_arn.as_deref()?, session_name(self.role_session_name.as_deref()));
        role.external_id = self.external_id.as_ref().map(|id| id.0.clone());
        role.policy.clone_from(&self.policy_json);
        role.policy_arns.clone_from(&self.policy_arns);
        role.tags = self.session_tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        role.transitive_tag_keys.clone_from(&self.transitive_tag_keys);
        role.source_identity.clone_from(&self.source_identity);
        role.duration = Duration::from_secs(self.max_minutes.saturating_mul(60));
        Some(role)
    }
}

impl Hop {
    fn role(&self) -> Role {
        let role = Role::new(&self.role_arn, session_name(self.role_session_name.as_deref()));
        Role { external_id: self.external_id.as_ref().map(|id| id.0.clone()), ..role }
    }
}

impl WebIdentity {
    fn role(&self) -> Role {
        Role::new(&self.role_arn, session_name(self.role_session_name.as_deref()))
    }
}

fn session_name(name: Option<&str>) -> &str {
    name.unwrap_or("countersign")
}

impl Draft for Settings {
    fn references(&self) -> Vec<&SecretRef> {
        let Own { access_key, secret_key, session_token, .. } = &self.own;
        let secret = [secret_key.as_ref(), session_token.as_ref()];
        let public = access_key.as_ref().and_then(Public::reference);
        public.into_iter().chain(secret.into_iter().flatten().map(SecretField::reference)).collect()
    }

    fn accounts(&self) -> Vec<String> {
        let own = self.own.role_arn.as_deref().and_then(|arn| arn.split(':').nth(4));
        let own = own.map(str::to_owned).into_iter();
        own.chain(self.own.accounts.iter().map(|Text(account)| account.clone())).collect()
    }

    fn uses_host(&self) -> Option<SettingsError> {
        if !self.own.is_ambient() {
            return None;
        }
        // With a role, the external id that is made here is what keeps accounts apart; without one, or at an address that
        // somebody else chose, the host itself would be given away.
        match (&self.own.role_arn, &self.own.sts_endpoint) {
            (Some(_), None) => None,
            (None, _) => {
                Some(at("access_key", "without a role these would be the host's own keys: give keys, or `role_arn`"))
            }
            (Some(_), Some(_)) => {
                Some(at("sts_endpoint", "with the host's own keys only the operator names another STS"))
            }
        }
    }

    fn build(&self, setup: &Setup<'_>) -> Result<Arc<dyn Scheme>, Unavailable> {
        if self.own.names_the_hosts_token(setup) && self.own.chooses_an_external_id() {
            return Err(Unavailable(format!("external_id: {NOT_CHOSEN}")));
        }
        let key = self.key(setup)?;
        let mut steps = Steps { setup, settings: self, skew: Arc::default(), handles: Vec::new(), key };
        let mut base = steps.base()?;
        for (index, hop) in self.own.chain.iter().enumerate() {
            let session = steps.session(base, hop.role(), &format!("chain[{index}]"))?;
            base = Base::Session(session);
        }
        let Some(role) = self.own.role() else {
            let Base::Session(handle) = base else { return Err(Unavailable("role_arn: it is needed".into())) };
            return Ok(Arc::new(AwsSts {
                handle,
                accounts: BTreeMap::new(),
                handles: steps.handles,
                signing: Arc::clone(&self.signing),
            }));
        };
        let again = |base: &Base| match base {
            Base::Fixed(keys) => Base::Fixed(keys.clone()),
            Base::Session(handle) => Base::Session(Arc::clone(handle)),
        };
        let mut accounts = BTreeMap::new();
        for Text(account) in &self.own.accounts {
            let role = role.in_account(account);
            accounts.insert(account.clone(), steps.session(again(&base), role, &format!("account {account}"))?);
        }
        let own = role.role_arn.split(':').nth(4).unwrap_or_default().to_owned();
        let handle = steps.session(base, role, "")?;
        accounts.insert(own, Arc::clone(&handle));
        Ok(Arc::new(AwsSts { handle, accounts, handles: steps.handles, signing: Arc::clone(&self.signing) }))
    }

    fn introduce<'a>(&'a self, setup: &'a Setup<'a>) -> Option<BoxFuture<'a, Result<Introduction, Unavailable>>> {
        Some(Box::pin(self.introduction(setup)))
    }
}

impl Settings {
    /// What makes the external ids, where they are not written: with the host's own keys.
    fn external_ids(&self, setup: &Setup<'_>) -> Option<ExternalIds> {
        let (state, random) = (&setup.outside.state, &setup.outside.random);
        let ids =
            || ExternalIds { state: Arc::clone(state), random: Arc::clone(random), account: setup.account.into() };
        (self.own.is_ambient() || self.own.names_the_hosts_token(setup)).then(ids)
    }

    /// Every input of every session: what is written, what its references gave.
    fn key(&self, setup: &Setup<'_>) -> Result<impl Fn(&str) -> KeyBuilder + use<>, Unavailable> {
        let mut inputs = vec![("settings".to_owned(), format!("{self:?}").into_bytes())];
        inputs.push(("state".to_owned(), setup.outside.state.fingerprint().to_vec()));
        for reference in self.references() {
            inputs.push((reference.to_string(), setup.secrets.get(reference)?.expose().to_vec()));
        }
        // A digest, so that no copy of a secret is kept here.
        let digest = inputs.iter().fold(setup.key(), |key, (name, value)| key.with(name, value));
        let (digest, account, credential) =
            (digest.finish().hex(), setup.account.to_owned(), setup.credential.to_owned());
        inputs.into_iter().for_each(|(_, value)| drop(zeroize::Zeroizing::new(value)));
        Ok(move |step: &str| KeyBuilder::new(&account, &credential).with("inputs", &digest).with("step", step))
    }
}

/// Makes one session after the other.
struct Steps<'a, F> {
    setup: &'a Setup<'a>,
    settings: &'a Settings,
    skew: Arc<Skew>,
    handles: Vec<Arc<Handle>>,
    key: F,
}

impl<F: Fn(&str) -> KeyBuilder> Steps<'_, F> {
    /// The keys that ask first.
    fn base(&mut self) -> Result<Base, Unavailable> {
        let own = &self.settings.own;
        let secrets = self.setup.secrets;
        if let (Some(access_key), Some(secret_key)) = (&own.access_key, &own.secret_key) {
            let token = own.session_token.as_ref().map(|token| secrets.field(token)).transpose()?;
            let access_key = secrets.public(access_key)?;
            check_access_key(&access_key).map_err(|why| Unavailable(format!("access_key: {why}")))?;
            let keys = Keys { access_key, secret_key: secrets.field(secret_key)?, session_token: token };
            return Ok(Base::Fixed(keys));
        }
        let signing = self.signing();
        let source: Arc<dyn TokenSource> = match &own.web_identity {
            Some(web) => {
                let (role, token_file) = (web.role(), web.token_file.clone());
                Arc::new(WebIdentitySession { sts: self.sts(&role)?, role, token_file, signing })
            }
            None => {
                let endpoint = own.sts_endpoint.as_ref().map(|url| self.endpoint(url)).transpose()?;
                let settings = AmbientSettings { profile: own.profile.clone(), sts_endpoint: endpoint };
                let (environment, http) = (&self.setup.outside.environment, &self.setup.outside.http);
                let ambient = Ambient::new(Arc::clone(environment), Arc::clone(http), settings);
                Arc::new(AmbientSession { ambient, signing })
            }
        };
        Ok(Base::Session(self.keep("base", source)))
    }

    fn session(&mut self, base: Base, role: Role, step: &str) -> Result<Arc<Handle>, Unavailable> {
        let (sts, signing) = (self.sts(&role)?, self.signing());
        let external_ids = self.settings.external_ids(self.setup);
        Ok(self.keep(step, Arc::new(RoleSession { base, role, external_ids, sts, signing })))
    }

    fn keep(&mut self, step: &str, source: Arc<dyn TokenSource>) -> Arc<Handle> {
        let key = (self.key)(step).finish();
        let handle = Arc::new(self.setup.outside.tokens.handle(key, self.setup.account, self.setup.credential, source));
        self.handles.push(Arc::clone(&handle));
        handle
    }

    fn signing(&self) -> Signing {
        Signing {
            settings: Arc::clone(&self.settings.signing),
            skew: Arc::clone(&self.skew),
            clock: Arc::clone(&self.setup.outside.clock),
        }
    }

    fn endpoint(&self, url: &str) -> Result<StsEndpoint, Unavailable> {
        let region = self.settings.signing.region.as_deref();
        self.settings.own.endpoint(url, region).map_err(|why| Unavailable(format!("sts_endpoint: {why}")))
    }

    /// The region that this host is in, as AWS's own tools are told: its STS is near, and may be the only one in reach.
    fn own_region(&self) -> Option<String> {
        let environment = &self.setup.outside.environment;
        let named = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| environment.variable(name).filter(|value| !value.trim().is_empty()));
        named.filter(|_| self.settings.own.is_ambient())
    }

    /// The STS that a role is asked of.
    fn sts(&self, role: &Role) -> Result<Sts, Unavailable> {
        let endpoint = match &self.settings.own.sts_endpoint {
            Some(url) => self.endpoint(url)?,
            None => {
                let region = self.settings.signing.region.clone().or_else(|| self.own_region());
                let endpoint = StsEndpoint::for_role(&role.role_arn, region.as_deref());
                endpoint.map_err(|why| Unavailable(format!("sts_endpoint: {why}")))?
            }
        };
        endpoint.open(&*self.setup.outside.http).map_err(|why| Unavailable(format!("sts_endpoint: {why}")))
    }
}

#[derive(Debug)]
struct AwsSts {
    handle: Arc<Handle>,
    /// The same role in other accounts, and in its own.
    accounts: BTreeMap<String, Arc<Handle>>,
    handles: Vec<Arc<Handle>>,
    signing: Arc<sigv4::Settings>,
}

impl Scheme for AwsSts {
    fn owned_headers(&self) -> &[HeaderName] {
        &OWNED_HEADERS
    }

    fn identity(&self) -> Identity<'_> {
        Identity::Token(&self.handle)
    }

    fn reaches(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        sigv4::reaches(&self.signing, view)
    }

    fn foresee(&self, view: &RequestView<'_>) -> Result<Foresight, Refusal> {
        foresight(&self.signing, true, view)
    }

    fn identity_in(&self, account: &str) -> Result<Identity<'_>, Refusal> {
        let unlisted = || {
            let why = "Countersign-Aws-Account names an account that the credential does not list under `accounts`";
            Refusal::new(Code::CredentialUnknown, why)
        };
        self.accounts.get(account).map(Identity::Token).ok_or_else(unlisted)
    }

    fn handles(&self) -> Vec<&Arc<Handle>> {
        self.handles.iter().collect()
    }
}
