//! Tower's providers, and which of their keys stand where in a credential's settings.

use serde_json::Value;

/// A provider of Tower's; none but these is ever shown, since its clients refuse a name that they do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Aws,
    Azure,
    AzureEntra,
    AzureCloud,
    Google,
    Github,
    GithubApp,
    Gitlab,
    Bitbucket,
    Gitea,
    AzureRepos,
    CodeCommit,
    ContainerReg,
    K8s,
    Ssh,
    S3,
    SeqeraCompute,
    TwAgent,
}

/// One key of a provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// As Tower writes it.
    pub(super) name: &'static str,
    /// Other names that it has or had, and keys that say the same.
    pub(super) aliases: &'static [&'static str],
    /// Where it stands in the settings, by scheme; the first that is there counts.
    pub(super) at: &'static [&'static str],
    /// Never shown.
    pub(super) secret: bool,
}

const fn public(name: &'static str, at: &'static [&'static str]) -> Field {
    Field { name, aliases: &[], at, secret: false }
}

const fn secret(name: &'static str, at: &'static [&'static str]) -> Field {
    Field { name, aliases: &[], at, secret: true }
}

/// A repository's password or token: Tower's clients put a token under either name.
const PASSWORD: Field = Field {
    name: "password",
    aliases: &["token", "accessToken"],
    at: &["password", "key", "secret_key"],
    secret: true,
};

const ACCESS_KEY: Field = public("accessKey", &["access_key"]);
const SECRET_KEY: Field = secret("secretKey", &["secret_key"]);
const AWS: &[Field] =
    &[ACCESS_KEY, SECRET_KEY, public("assumeRoleArn", &["role_arn"]), public("externalId", &["external_id"])];
const REPOSITORY: &[Field] = &[public("username", &["username", "access_key"]), PASSWORD];
const S3: &[Field] = &[ACCESS_KEY, SECRET_KEY];
const GOOGLE: &[Field] = &[secret("data", &["service_account", "external_account", "authorized_user"])];
const REGISTRY: &[Field] = &[public("userName", &["username"]), secret("password", &["password"])];
const K8S: &[Field] = &[secret("token", &["key"])];
const GITHUB_APP: &[Field] = &[secret("privateKey", &["signing_key"])];
const SSH: &[Field] = &[secret("privateKey", &["private_key"]), secret("passphrase", &["passphrase"])];
const AZURE: &[Field] =
    &[public("tenantId", &["tenant"]), public("clientId", &["client_id"]), secret("clientSecret", &["client_secret"])];

impl Provider {
    /// Every one, in the order of Tower's own list.
    pub(super) const ALL: [Self; 18] = [
        Self::Aws,
        Self::Azure,
        Self::AzureEntra,
        Self::Google,
        Self::Github,
        Self::GithubApp,
        Self::Gitlab,
        Self::Bitbucket,
        Self::Ssh,
        Self::K8s,
        Self::ContainerReg,
        Self::TwAgent,
        Self::CodeCommit,
        Self::Gitea,
        Self::AzureRepos,
        Self::SeqeraCompute,
        Self::AzureCloud,
        Self::S3,
    ];

    /// As Tower writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::AzureEntra => "azure_entra",
            Self::AzureCloud => "azure-cloud",
            Self::Google => "google",
            Self::Github => "github",
            Self::GithubApp => "github_app",
            Self::Gitlab => "gitlab",
            Self::Bitbucket => "bitbucket",
            Self::Gitea => "gitea",
            Self::AzureRepos => "azurerepos",
            Self::CodeCommit => "codecommit",
            Self::ContainerReg => "container-reg",
            Self::K8s => "k8s",
            Self::Ssh => "ssh",
            Self::S3 => "s3",
            Self::SeqeraCompute => "seqeracompute",
            Self::TwAgent => "tw-agent",
        }
    }

    /// The provider of a name, in whatever case, with `-`, `_` or neither.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let name = fold(name);
        Self::ALL.into_iter().find(|provider| fold(provider.name()) == name)
    }

    /// What a credential is that another way in made: by its tag `provider`, else by its scheme; `None` when Tower has
    /// no word for it.
    pub(super) fn of(tag: Option<&str>, scheme: &str) -> Option<Self> {
        let tagged = tag.and_then(|tag| match fold(tag).as_str() {
            "gce" | "gcp" => Some(Self::Google),
            "azurerm" | "azurestorage" | "azuregraph" => Some(Self::AzureEntra),
            "kubernetes" => Some(Self::K8s),
            "docker" => Some(Self::ContainerReg),
            _ => Self::parse(tag),
        });
        tagged.or(match scheme {
            "aws" | "aws_sts" => Some(Self::Aws),
            "google" => Some(Self::Google),
            "azure" => Some(Self::AzureEntra),
            "ssh" => Some(Self::Ssh),
            _ => None,
        })
    }

    /// Its keys, as far as they are kept in the settings.
    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            Self::Aws | Self::SeqeraCompute => AWS,
            Self::S3 => S3,
            Self::Google => GOOGLE,
            Self::Github | Self::Bitbucket | Self::Gitea | Self::AzureRepos | Self::CodeCommit | Self::Gitlab => {
                REPOSITORY
            }
            Self::ContainerReg => REGISTRY,
            Self::Azure | Self::AzureEntra | Self::AzureCloud => AZURE,
            Self::K8s => K8S,
            Self::GithubApp => GITHUB_APP,
            Self::Ssh => SSH,
            Self::TwAgent => &[],
        }
    }

    /// Keys that are kept beside the settings, since no scheme has them. None is secret.
    pub(super) fn kept(self) -> &'static [&'static str] {
        match self {
            Self::Azure | Self::AzureEntra => &["batchName", "storageName"],
            Self::AzureCloud => &["batchName", "storageName", "subscriptionId"],
            Self::ContainerReg => &["registry"],
            Self::GithubApp => &["appId", "clientId", "slug"],
            Self::Gitlab => &["username"],
            Self::S3 => &["pathStyleAccessEnabled"],
            Self::Ssh => &["algorithm", "fingerprint", "publicKey"],
            _ => &[],
        }
    }
}

/// A name as it is compared: in lower case, without `-` and `_`.
pub(super) fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

impl Field {
    /// Where it stands in these settings, and what stands there.
    pub(super) fn find<'v>(&self, settings: &'v Value) -> Option<(&'static str, &'v Value)> {
        self.at.iter().find_map(|path| Some((*path, settings.get(path)?)))
    }

    /// Whether a folded name means it.
    pub(super) fn is_called(&self, folded: &str) -> bool {
        fold(self.name) == folded || self.aliases.iter().any(|alias| fold(alias) == folded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_in_every_spelling_and_no_other_is() {
        for provider in Provider::ALL {
            assert_eq!(Provider::parse(provider.name()), Some(provider));
            assert_eq!(Provider::parse(&provider.name().to_uppercase().replace('-', "_")), Some(provider));
        }
        for name in ["", "awss", "tower", "local", "git hub"] {
            assert_eq!(Provider::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_other_ways_in_made_has_towers_word_or_none() {
        assert_eq!(Provider::of(Some("gce"), "oauth2"), Some(Provider::Google));
        assert_eq!(Provider::of(Some("Azure_RM"), "oauth2"), Some(Provider::AzureEntra));
        assert_eq!(Provider::of(Some("spotinst"), "aws_sts"), Some(Provider::Aws));
        assert_eq!(Provider::of(None, "basic"), None);
        assert_eq!(Provider::of(Some("spotinst"), "api_key"), None);
    }

    /// What a scheme calls secret is never shown as a public key.
    #[test]
    fn no_public_key_stands_where_a_secret_does() {
        for provider in Provider::ALL {
            for field in provider.fields().iter().filter(|field| !field.secret) {
                for path in field.at {
                    let kinds = ["aws", "aws_sts", "basic", "azure"];
                    let secret = kinds
                        .iter()
                        .filter_map(|kind| crate::scheme::find(kind))
                        .any(|kind| crate::scheme::is_at(kind.fields.secret, path));
                    assert!(!secret, "{} {path}", field.name);
                }
            }
        }
    }
}
