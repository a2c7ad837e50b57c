//! The keys that the host has for us, looked for in the order that AWS's own programs keep.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::endpoint::{StsEndpoint, is_region};
use super::keys::{Issued, Keys, moment};
use super::metadata::{Found, misconfigured, variable};
use super::profile::{Base, Plan, SESSION_NAME, plan, unknown};
use super::role::Role;
use super::shared_files::{Profile, SharedFiles};
use super::sts::Sts;
use super::{container, imds, process};
use crate::base::{Environment, HttpClients, Secret};
use crate::source;
use crate::token::{Failure, FailureKind};

const ENVIRONMENT: &str = "environment variables";
const SHARED_FILES: &str = "shared configuration files";
const WEB_IDENTITY: &str = "web identity token file";

/// What is said about the host's keys.
#[derive(Debug, Clone, Default)]
pub struct AmbientSettings {
    /// The one profile to use, and nothing else.
    pub profile: Option<String>,
    /// The STS that roles are asked from; without it, the regional one of the role's partition.
    pub sts_endpoint: Option<StsEndpoint>,
}

/// The host's keys.
#[derive(Debug, Clone)]
pub struct Ambient {
    environment: Arc<dyn Environment>,
    http: Arc<dyn HttpClients>,
    settings: AmbientSettings,
}

impl Ambient {
    /// The keys of this environment.
    pub fn new(environment: Arc<dyn Environment>, http: Arc<dyn HttpClients>, settings: AmbientSettings) -> Self {
        Self { environment, http, settings }
    }

    /// Looks for keys: in environment variables, the shared configuration files, a web identity token file, the container's
    /// endpoint, the instance metadata service. With a profile in the settings, in that profile only.
    ///
    /// # Errors
    /// When a source that is configured gives none: the next one might be somebody else's keys. When no source is
    /// configured, all that were looked for.
    pub async fn load(&self, now: SystemTime) -> Result<Issued, Failure> {
        let environment = &*self.environment;
        let only = self.settings.profile.as_deref();
        if only.is_none()
            && let Some(issued) = environment_keys(environment, now)?
        {
            return Ok(issued);
        }
        let files = SharedFiles::read(environment).await?;
        let named = only.map(str::to_owned);
        let named = named
            .or_else(|| ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"].iter().find_map(|name| variable(environment, name)));
        let name = named.as_deref().unwrap_or("default");
        let profile = files.profile(name);
        if profile.is_none() && named.is_some() {
            return Err(unknown(&files, name));
        }
        let region = self.region(profile)?;
        if profile.is_some()
            && let Some(plan) = plan(&files, name)?
        {
            return self
                .follow(plan, region.as_deref(), now)
                .await
                .map_err(|failure| within(&format!("profile `{name}`"), failure));
        }
        if only.is_some() {
            return Err(misconfigured(format!(
                "profile `{name}` has neither keys nor a role: looked in {}",
                files.places
            )));
        }
        if let Some(issued) = self.web_identity(region.as_deref(), now).await? {
            return Ok(issued);
        }
        let mut looked = format!(
            "AWS_ACCESS_KEY_ID is not set; profile `{name}` has no keys ({}); AWS_WEB_IDENTITY_TOKEN_FILE is not set",
            files.places
        );
        match container::load(environment, &*self.http, now).await? {
            Found::Keys(issued) => return Ok(issued),
            Found::Absent(why) => looked.extend(["; ", &why]),
        }
        match imds::load(environment, &*self.http, now).await? {
            Found::Keys(issued) => return Ok(issued),
            Found::Absent(why) => looked.extend(["; ", &why]),
        }
        // Not for a person alone to mend: a host that has just begun may have no metadata service for a moment.
        Err(Failure::new(FailureKind::Unavailable, format!("this host has no AWS keys: {looked}")))
    }

    /// The region that this host is in: as the environment or its profile says, else the instance metadata service.
    ///
    /// # Errors
    /// When none of them says one.
    pub async fn region_now(&self, now: SystemTime) -> Result<String, Failure> {
        let environment = &*self.environment;
        let files = SharedFiles::read(environment).await?;
        let named = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"].iter().find_map(|name| variable(environment, name));
        let name = self.settings.profile.as_deref().or(named.as_deref()).unwrap_or("default");
        match self.region(files.profile(name))? {
            Some(region) => Ok(region),
            None => imds::region(environment, &*self.http, now).await.map_err(|failure| {
                let detail = format!("{}; set AWS_REGION to the region that this host is in", failure.detail);
                Failure { detail, ..failure }
            }),
        }
    }

    /// The keys of a profile.
    async fn follow(&self, plan: Plan, region: Option<&str>, now: SystemTime) -> Result<Issued, Failure> {
        let environment = &*self.environment;
        let mut issued = match plan.base {
            Base::Keys(keys) => Issued { keys, expires_at: None, source: SHARED_FILES },
            Base::Process(words) => process::run(&words, SHARED_FILES, now).await?,
            Base::WebIdentity { file, role } => self.exchange(&file, &role, region, now).await?,
            Base::Environment => environment_keys(environment, now)?
                .ok_or_else(|| misconfigured("`credential_source` is Environment, and AWS_ACCESS_KEY_ID is not set"))?,
            Base::Container => wanted(container::load(environment, &*self.http, now).await?)?,
            Base::Instance => wanted(imds::load(environment, &*self.http, now).await?)?,
        };
        for role in &plan.roles {
            issued = self.sts(role, region)?.assume_role(role, &issued.keys, now).await?;
        }
        issued.source = SHARED_FILES;
        Ok(issued)
    }

    /// What EKS sets for pods with a service account's role.
    async fn web_identity(&self, region: Option<&str>, now: SystemTime) -> Result<Option<Issued>, Failure> {
        let environment = &*self.environment;
        let Some(file) = variable(environment, "AWS_WEB_IDENTITY_TOKEN_FILE") else { return Ok(None) };
        let arn = variable(environment, "AWS_ROLE_ARN")
            .ok_or_else(|| misconfigured("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not: set both"))?;
        let name = variable(environment, "AWS_ROLE_SESSION_NAME");
        let role = Role::new(arn, name.as_deref().unwrap_or(SESSION_NAME));
        role.check().map_err(|(key, why)| {
            let name = if key == "role_arn" { "AWS_ROLE_ARN" } else { "AWS_ROLE_SESSION_NAME" };
            misconfigured(format!("{name}: {why}"))
        })?;
        self.exchange(&file, &role, region, now).await.map(Some)
    }

    /// Exchanges the token in a file, which is read every time: it is renewed there.
    async fn exchange(
        &self,
        file: &str,
        role: &Role,
        region: Option<&str>,
        now: SystemTime,
    ) -> Result<Issued, Failure> {
        let token = source::read_file(Path::new(file)).await;
        let token = token.map_err(|why| misconfigured(format!("web identity token {why}")))?;
        let issued = self.sts(role, region)?.assume_role_with_web_identity(role, &token, now).await;
        let issued = issued.map_err(|error| within(&format!("web identity token file {file}"), error.into()))?;
        Ok(Issued { source: WEB_IDENTITY, ..issued })
    }

    fn sts(&self, role: &Role, region: Option<&str>) -> Result<Sts, Failure> {
        let endpoint = match &self.settings.sts_endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => StsEndpoint::for_role(&role.role_arn, region),
        };
        endpoint.and_then(|endpoint| endpoint.open(&*self.http)).map_err(|why| misconfigured(format!("STS: {why}")))
    }

    /// The region whose STS is asked.
    fn region(&self, profile: Option<&Profile>) -> Result<Option<String>, Failure> {
        let from_environment = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| variable(&*self.environment, name).map(|region| (*name, region)));
        let found = from_environment.or_else(|| Some(("`region` of the profile", profile?.get("region")?.to_owned())));
        match found {
            None => Ok(None),
            Some((_, region)) if is_region(region.trim()) => Ok(Some(region.trim().to_owned())),
            Some((name, _)) => Err(misconfigured(format!("{name} is not a region as in eu-central-1"))),
        }
    }
}

/// Keys in our environment.
fn environment_keys(environment: &dyn Environment, now: SystemTime) -> Result<Option<Issued>, Failure> {
    const ID: &str = "AWS_ACCESS_KEY_ID";
    const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
    let value = |name| variable(environment, name);
    let (id, secret) = match (value(ID), value(SECRET)) {
        (None, None) => return Ok(None),
        (Some(id), Some(secret)) => (id, secret),
        (Some(_), None) => return Err(misconfigured(format!("{ID} is set, and {SECRET} is not: set both or none"))),
        (None, Some(_)) => return Err(misconfigured(format!("{SECRET} is set, and {ID} is not: set both or none"))),
    };
    let keys = Keys::new(id, Secret::new(secret), value("AWS_SESSION_TOKEN").map(Secret::new))
        .map_err(|why| misconfigured(format!("{ENVIRONMENT}: {why}")))?;
    let expires_at = match value("AWS_CREDENTIAL_EXPIRATION") {
        None => None,
        Some(text) => match moment(&text) {
            Some(end) if end > now => Some(end),
            Some(_) => return Err(misconfigured("AWS_CREDENTIAL_EXPIRATION has passed: start with new keys")),
            None => return Err(misconfigured("AWS_CREDENTIAL_EXPIRATION is not a date as in 2030-01-31T12:00:00Z")),
        },
    };
    Ok(Some(Issued { keys, expires_at, source: ENVIRONMENT }))
}

/// A source that a profile names must be there.
fn wanted(found: Found) -> Result<Issued, Failure> {
    match found {
        Found::Keys(issued) => Ok(issued),
        Found::Absent(why) => Err(Failure::new(FailureKind::Unavailable, format!("`credential_source`: {why}"))),
    }
}

/// The failure, with where it happened.
fn within(place: &str, failure: Failure) -> Failure {
    let already = failure.detail.starts_with(place);
    if already { failure } else { Failure { detail: format!("{place}: {}", failure.detail), ..failure } }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{Network, Variables, answer};
    use super::*;

    const STS: &str = "POST https://sts.us-east-1.amazonaws.com/";
    const ROLE: &str = "arn:aws:iam::123456789012:role/reader";
    const ECS: &str = "GET http://169.254.170.2/x";
    const IMDS: [&str; 3] = [
        "PUT http://169.254.169.254/latest/api/token",
        "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/web",
    ];

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn assumed(id: &str) -> String {
        format!(
            "<R><AssumeRoleResult><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>2023-11-14T23:13:20Z</Expiration></Credentials></AssumeRoleResult></R>"
        )
    }

    fn document(id: &str) -> String {
        format!(r#"{{"AccessKeyId":"{id}","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-15T00:00:00Z"}}"#)
    }

    /// Everybody answers.
    fn everybody() -> Network {
        Network::answering([
            (STS, answer(200, &assumed("ASIAFROMSTS000000000"))),
            (ECS, answer(200, &document("ASIAFROMECS000000000"))),
            (IMDS[0], answer(200, "session")),
            (IMDS[1], answer(200, "web")),
            (IMDS[2], answer(200, &document("ASIAFROMIMDS00000000"))),
        ])
    }

    struct Host {
        home: tempfile::TempDir,
        variables: Vec<(&'static str, String)>,
        settings: AmbientSettings,
    }

    impl Host {
        /// With a credentials file and a token file.
        fn new(credentials: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir(home.path().join(".aws")).unwrap();
            std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
            std::fs::write(home.path().join("jwt"), "a.b.c\n").unwrap();
            let variables = vec![("HOME", home.path().to_str().unwrap().to_owned())];
            Self { home, variables, settings: AmbientSettings::default() }
        }

        fn with(mut self, name: &'static str, value: &str) -> Self {
            self.variables.push((name, value.to_owned()));
            self
        }

        fn without(mut self, name: &str) -> Self {
            self.variables.retain(|(variable, _)| *variable != name);
            self
        }

        fn profile(mut self, name: &str) -> Self {
            self.settings.profile = Some(name.to_owned());
            self
        }

        fn jwt(&self) -> String {
            self.home.path().join("jwt").to_str().unwrap().to_owned()
        }

        async fn load(&self, network: &Network) -> Result<Issued, Failure> {
            let pairs: Vec<_> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let environment = Variables::of(&pairs);
            Ambient::new(environment, Arc::new(network.clone()), self.settings.clone()).load(now()).await
        }

        async fn found(&self, network: &Network) -> (String, &'static str) {
            let issued = self.load(network).await.unwrap();
            (issued.keys.access_key, issued.source)
        }

        async fn refused(&self, network: &Network) -> String {
            let detail = self.load(network).await.unwrap_err().detail;
            assert!(!detail.contains("hidden"), "{detail}");
            detail
        }
    }

    const FILE: &str = "[default]\naws_access_key_id = AKIAFROMFILE00000000\naws_secret_access_key = hidden\n";

    /// Every source is configured.
    fn full() -> Host {
        let host = Host::new(FILE);
        let jwt = host.jwt();
        host.with("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
            .with("AWS_SECRET_ACCESS_KEY", "hidden")
            .with("AWS_WEB_IDENTITY_TOKEN_FILE", &jwt)
            .with("AWS_ROLE_ARN", ROLE)
            .with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")
    }

    #[tokio::test]
    async fn sources_are_asked_in_the_order_of_aws_and_those_that_are_not_configured_are_skipped() {
        let network = everybody();
        let host = full();
        assert_eq!(host.found(&network).await, ("AKIAFROMENVIRONMENT0".into(), "environment variables"));
        let host = host.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY");
        assert_eq!(host.found(&network).await, ("AKIAFROMFILE00000000".into(), "shared configuration files"));
        assert!(network.calls().is_empty());
        std::fs::write(host.home.path().join(".aws/credentials"), "[default]\nregion = us-east-1\n").unwrap();
        assert_eq!(host.found(&network).await, ("ASIAFROMSTS000000000".into(), "web identity token file"));
        assert_eq!(network.lines(), [STS]);
        let host = host.without("AWS_WEB_IDENTITY_TOKEN_FILE");
        assert_eq!(host.found(&network).await, ("ASIAFROMECS000000000".into(), "container credentials endpoint"));
        assert_eq!(network.lines(), [STS, ECS]);
        let host = host.without("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        assert_eq!(host.found(&network).await, ("ASIAFROMIMDS00000000".into(), "instance metadata service"));
        let host = host.with("AWS_EC2_METADATA_DISABLED", "true");
        let said = host.refused(&network).await;
        for part in [
            "AWS_ACCESS_KEY_ID",
            "`default`",
            ".aws/credentials",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "RELATIVE_URI",
            "AWS_EC2_METADATA_DISABLED",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[tokio::test]
    async fn a_source_that_is_configured_and_fails_is_named_and_ends_the_search() {
        let network = everybody();
        let broken_file = Host::new("[default]\naws_access_key_id = AKIAFROMFILE00000000\n");
        assert!(broken_file.refused(&network).await.starts_with("profile `default`"));
        let half = full().without("AWS_SECRET_ACCESS_KEY");
        assert!(half.refused(&network).await.contains("AWS_SECRET_ACCESS_KEY is not: set both"));
        assert!(
            full().without("AWS_ACCESS_KEY_ID").refused(&network).await.contains("AWS_ACCESS_KEY_ID is not: set both")
        );
        let host = Host::new("").with("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/file").with("AWS_ROLE_ARN", ROLE);
        assert!(host.refused(&network).await.contains("/no/such/file"));
        assert!(host.without("AWS_ROLE_ARN").refused(&network).await.contains("AWS_ROLE_ARN is not"));
        assert!(network.calls().is_empty());
        let only_imds = Network::answering(IMDS.map(|line| (line, answer(200, "web"))));
        let host = Host::new("").with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x");
        assert!(host.refused(&only_imds).await.starts_with("the container's credentials endpoint"));
        assert_eq!(only_imds.lines(), [ECS]);
    }

    #[tokio::test]
    async fn keys_of_the_environment_may_be_a_sessions_and_may_end() {
        let host = || {
            Host::new("")
                .with("AWS_ACCESS_KEY_ID", "ASIAFROMENVIRONMENT0")
                .with("AWS_SECRET_ACCESS_KEY", "hidden")
                .with("AWS_SESSION_TOKEN", "hidden-token")
        };
        let issued = host().load(&Network::default()).await.unwrap();
        assert_eq!(issued.keys.session_token.unwrap().expose(), b"hidden-token");
        assert_eq!(issued.expires_at, None);
        let ending = |end: &str| host().with("AWS_CREDENTIAL_EXPIRATION", end);
        assert!(ending("2023-11-15T00:00:00Z").load(&Network::default()).await.unwrap().expires_at.is_some());
        assert!(ending("2023-11-14T00:00:00Z").refused(&Network::default()).await.contains("has passed"));
        assert!(ending("soon").refused(&Network::default()).await.contains("not a date"));
        let broken = host().without("AWS_ACCESS_KEY_ID").with("AWS_ACCESS_KEY_ID", "x");
        assert!(broken.refused(&Network::default()).await.starts_with("environment variables: the access key id"));
    }

    #[tokio::test]
    async fn a_profile_that_is_asked_for_is_used_alone() {
        let network = everybody();
        let other =
            format!("{FILE}[other]\naws_access_key_id = AKIAFROMOTHER0000000\naws_secret_access_key = s\n[empty]\n");
        let host = || full().with("AWS_PROFILE", "other");
        let write = |host: &Host| std::fs::write(host.home.path().join(".aws/credentials"), &other).unwrap();
        let explicit = host().profile("default");
        write(&explicit);
        assert_eq!(explicit.found(&network).await.0, "AKIAFROMFILE00000000", "before the environment's keys");
        let empty = host().profile("empty");
        write(&empty);
        assert!(empty.refused(&network).await.contains("neither keys nor a role"));
        let gone = host().profile("gone");
        write(&gone);
        assert!(gone.refused(&network).await.contains("no profile `gone`"));
        // The environment's choice comes after its keys, as everywhere.
        let named = host();
        write(&named);
        assert_eq!(named.found(&network).await.0, "AKIAFROMENVIRONMENT0");
        for name in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
            let named = Host::new(&other).with(name, "other");
            assert_eq!(named.found(&network).await.0, "AKIAFROMOTHER0000000");
            assert!(Host::new(&other).with(name, "gone").refused(&network).await.contains("no profile `gone`"));
        }
        assert!(network.calls().is_empty());
    }

    #[tokio::test]
    async fn the_roles_of_a_profile_are_assumed_one_with_the_keys_of_the_other() {
        let network = Network::answering([
            ("POST https://sts.eu-west-1.amazonaws.com/", answer(200, &assumed("ASIAFIRST00000000000"))),
            ("POST https://sts.eu-west-1.amazonaws.com/", answer(200, &assumed("ASIASECOND0000000000"))),
        ]);
        let chain = format!(
            "{FILE}[b]\nrole_arn = {ROLE}\nsource_profile = default\n\
             [a]\nrole_arn = {ROLE}2\nsource_profile = b\nregion = eu-west-1\nexternal_id = hidden-id\n"
        );
        let host = Host::new(&chain).profile("a");
        let issued = host.load(&network).await.unwrap();
        assert_eq!(
            (issued.keys.access_key.as_str(), issued.source),
            ("ASIASECOND0000000000", "shared configuration files")
        );
        assert!(issued.expires_at.is_some());
        let calls = network.calls();
        let signed_by = |index: usize| calls[index].headers["authorization"].to_str().unwrap().to_owned();
        assert!(signed_by(0).contains("AKIAFROMFILE00000000/20231114/eu-west-1/sts"));
        assert!(signed_by(1).contains("ASIAFIRST00000000000/") && calls[1].body.contains("ExternalId=hidden-id"));
        assert!(!calls[0].options.direct && calls[0].options.allow_addresses.is_empty());
        let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>hidden-id is wrong</Message></Error></ErrorResponse>";
        let network = Network::answering([("POST https://sts.eu-west-1.amazonaws.com/", answer(403, denied))]);
        let failure = host.load(&network).await.unwrap_err();
        assert!(
            failure.kind == FailureKind::Rejected && failure.detail.starts_with("profile `a`: sts.eu-west-1"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn a_profile_may_take_its_first_keys_from_elsewhere() {
        let chain = |source: &str| format!("[default]\nrole_arn = {ROLE}\ncredential_source = {source}\n");
        for (source, lines) in
            [("EcsContainer", &[ECS, STS][..]), ("Ec2InstanceMetadata", &[IMDS[0], IMDS[1], IMDS[2], STS])]
        {
            let network = everybody();
            let host = Host::new(&chain(source)).with("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x");
            assert_eq!(host.found(&network).await, ("ASIAFROMSTS000000000".into(), "shared configuration files"));
            assert_eq!(network.lines(), lines);
            let nobody = Host::new(&chain(source)).refused(&Network::default()).await;
            assert!(nobody.starts_with("profile `default`: `credential_source`"), "{nobody}");
        }
        let network = everybody();
        let host = full().profile("default");
        std::fs::write(host.home.path().join(".aws/credentials"), chain("Environment")).unwrap();
        assert_eq!(host.found(&network).await.0, "ASIAFROMSTS000000000");
        assert!(network.calls()[0].headers["authorization"].to_str().unwrap().contains("AKIAFROMENVIRONMENT0"));
        assert!(
            host.without("AWS_ACCESS_KEY_ID")
                .without("AWS_SECRET_ACCESS_KEY")
                .refused(&network)
                .await
                .contains("is not set")
        );
    }

    #[tokio::test]
    async fn a_program_gives_the_keys_of_a_profile() {
        let file = "[default]\ncredential_process = printf '{\"Version\":1,\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"s\"}' \
            AKIAFROMPROCESS00000\n";
        let network = Network::default();
        assert_eq!(
            Host::new(file).found(&network).await,
            ("AKIAFROMPROCESS00000".into(), "shared configuration files")
        );
        let failing = Host::new("[default]\ncredential_process = false\n").refused(&network).await;
        assert!(failing.starts_with("profile `default`: `credential_process`: command false"), "{failing}");
    }

    #[tokio::test]
    async fn the_web_identity_file_is_read_again_at_every_exchange_and_named_when_it_fails() {
        let host = Host::new("").with("AWS_ROLE_ARN", ROLE).with("AWS_REGION", "eu-central-1");
        let jwt = host.jwt();
        let host = host.with("AWS_WEB_IDENTITY_TOKEN_FILE", &jwt);
        let line = "POST https://sts.eu-central-1.amazonaws.com/";
        let network = Network::answering([(line, answer(200, &assumed("ASIAFROMSTS000000000")))]);
        host.load(&network).await.unwrap();
        std::fs::write(&jwt, "d.e.f").unwrap();
        let host = host.with("AWS_ROLE_SESSION_NAME", "pod");
        host.load(&network).await.unwrap();
        let bodies: Vec<_> = network.calls().into_iter().map(|call| call.body).collect();
        assert!(bodies[0].contains("WebIdentityToken=a.b.c") && bodies[0].contains("RoleSessionName=countersign"));
        assert!(bodies[1].contains("WebIdentityToken=d.e.f") && bodies[1].contains("RoleSessionName=pod"));
        let expired =
            "<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>d.e.f</Message></Error></ErrorResponse>";
        let network = Network::answering([(line, answer(400, expired))]);
        let said = host.refused(&network).await;
        assert!(
            said.starts_with(&format!("web identity token file {jwt}: sts.eu")) && !said.contains("d.e.f"),
            "{said}"
        );
        let host = host.without("AWS_ROLE_SESSION_NAME").with("AWS_ROLE_SESSION_NAME", "a b");
        assert!(host.refused(&network).await.starts_with("AWS_ROLE_SESSION_NAME: "));
        let host = host.without("AWS_REGION").with("AWS_REGION", "x/y");
        assert!(host.refused(&network).await.starts_with("AWS_REGION is not a region"));
    }

    #[tokio::test]
    async fn the_sts_that_is_named_is_asked() {
        let network =
            Network::answering([("POST http://127.0.0.1:4566/", answer(200, &assumed("ASIAFROMLOCAL0000000")))]);
        let mut host = Host::new(&format!("{FILE}[a]\nrole_arn = {ROLE}\nsource_profile = default\n")).profile("a");
        let mut endpoint = StsEndpoint::parse("http://127.0.0.1:4566", Some("eu-west-3"), true).unwrap();
        endpoint.allow_addresses = vec!["127.0.0.1/32".parse().unwrap()];
        host.settings.sts_endpoint = Some(endpoint);
        assert_eq!(host.found(&network).await.0, "ASIAFROMLOCAL0000000");
        let call = network.calls().remove(0);
        assert_eq!(call.options.allow_addresses.len(), 1);
        assert!(call.headers["authorization"].to_str().unwrap().contains("/eu-west-3/sts/"));
    }
}
