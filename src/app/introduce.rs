//! What the other side must be told of a credential, asked of the scheme that would sign.

use super::build::{Builder, Parts};
use crate::base::SecretRef;
use crate::config::{Config, ConfigError, CredentialSettings};
use crate::scheme::{Introduction, Setup};

/// A credential's introduction.
#[derive(Debug)]
pub struct Introduced {
    /// Its id; `None` for what a credential without any key would be.
    pub credential: Option<String>,
    /// What to tell the other side.
    pub introduction: Introduction,
}

/// Why there is none.
#[derive(Debug)]
pub enum IntroduceError {
    /// The configuration is wrong.
    Config(Vec<ConfigError>),
    /// Anything else, said in a sentence.
    Other(String),
}

/// What the other side must be told of a credential of this scheme: of the one that is named, else of the only one there
/// is, else of one that has no keys in the configuration.
///
/// # Errors
/// When there is no such credential, or the scheme needs no introduction.
pub async fn introduce(
    config: Config,
    parts: Parts<'_>,
    scheme: &str,
    named: Option<&str>,
) -> Result<Introduced, IntroduceError> {
    let other = |why: String| IntroduceError::Other(why);
    let kind = crate::scheme::find(scheme).ok_or_else(|| {
        let names: Vec<_> = crate::scheme::KINDS.iter().map(|kind| kind.name).collect();
        other(format!("unknown scheme {scheme}; there are {}", names.join(", ")))
    })?;
    let mut builder = Builder::new(config, parts.deps).await;
    let upstream = builder.upstream(&parts);
    let Some(outside) = builder.outside(&parts, upstream.as_ref()) else {
        return Err(IntroduceError::Config(builder.errors));
    };
    let all = std::mem::take(&mut builder.config.credentials);
    let is_it = |one: &CredentialSettings| one.kind.name == kind.name && named.is_none_or(|id| one.id == id);
    let (mut fitting, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_it);
    let (id, draft) = match (fitting.pop(), fitting.is_empty(), named) {
        (Some(one), true, _) => (Some(one.id), one.draft),
        (Some(_), false, _) => {
            return Err(other(format!(
                "there are several credentials of scheme {}; name one with --credential",
                kind.name
            )));
        }
        (None, _, Some(id)) => return Err(other(format!("there is no credential {id} of scheme {}", kind.name))),
        (None, _, None) => {
            let draft = (kind.parse)(serde_json::json!({}));
            (None, draft.map_err(|_| other(format!("there is no credential of scheme {}", kind.name)))?)
        }
    };
    if draft.references().into_iter().any(|reference| matches!(reference, SecretRef::Store(_))) {
        // Whoever reads the stores is asked first.
        builder.config.credentials = others;
        builder.credentials(&parts, Some(&outside)).await;
        builder.sources.load_into(&mut builder.secrets, draft.references()).await;
    }
    let credential = id.as_deref().unwrap_or("new");
    let setup = Setup {
        account: crate::route::DEFAULT_ACCOUNT,
        credential,
        version: 0,
        secrets: &builder.secrets,
        outside: &outside,
    };
    let introduction = draft.introduce(&setup);
    let introduction =
        introduction.ok_or_else(|| other(format!("scheme {} needs no setup on the other side", kind.name)))?;
    let introduction = introduction.await.map_err(|error| other(error.0))?;
    Ok(Introduced { credential: id, introduction })
}
