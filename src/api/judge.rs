//! What is judged of a secret's content before it is stored, beyond what its scheme says of it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ApiError;
use super::json::Confidential;
use super::kinds;
use crate::base::Secret;
use crate::scheme::Kind;

/// Judges the secrets that are about to be stored.
///
/// # Errors
/// `unprocessable`, at the key; nothing of a secret.
pub(super) async fn content(kind: &'static Kind, secrets: &BTreeMap<String, Secret>) -> Result<(), ApiError> {
    if let Some(document) = secrets.get("external_account").filter(|_| kind.name == "google") {
        let parsed = serde_json::from_slice(document.expose()).map(Confidential::new);
        // What is no JSON is refused by the scheme, in its own words.
        if let Ok(document) = parsed {
            let at = "settings.external_account";
            credential_source(document.expose()).map_err(|why| ApiError::unprocessable(at, why))?;
        }
    }
    if kinds::is_kept_only(kind) {
        let secrets = secrets.clone();
        // A passphrase is slow to derive on purpose.
        let checked = tokio::task::spawn_blocking(move || kinds::check_kept(&secrets)).await;
        let checked = checked.map_err(|_| ApiError::internal("the key could not be read"))?;
        checked.map_err(|error| ApiError::unprocessable(format!("settings.{}", error.path), error.message))?;
    }
    Ok(())
}

/// Whether the source of a workload identity's token is one that a client of the API may name: one that reads no file of
/// this host and lends nobody the host's own identity.
///
/// # Errors
/// What to change.
pub(super) fn credential_source(document: &Value) -> Result<(), &'static str> {
    let source = document.get("credential_source").ok_or("there is no `credential_source` in it")?;
    let url = source.get("url").and_then(Value::as_str);
    // The metadata services of AWS and Azure have this address; other private ones are refused when they are dialled.
    if source.get("environment_id").is_some() || url.is_some_and(|url| url.contains("169.254.")) {
        return Err(
            "its `credential_source` is this host's own identity, which only the operator lends, in the configuration file",
        );
    }
    if url.is_none() || source.get("file").is_some() {
        return Err(
            "its `credential_source` has no `url`: files of this host are named by the operator, in the configuration file",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn judged(kind: &str, secrets: &[(&str, String)]) -> Result<(), ApiError> {
        let secrets = secrets.iter().map(|(path, text)| ((*path).to_owned(), Secret::new(text.as_str()))).collect();
        content(kinds::find(kind).unwrap(), &secrets).await
    }

    #[tokio::test]
    async fn a_workload_identity_reads_no_file_here_and_is_not_the_hosts_own() {
        let of = |source: Value| json!({"type": "external_account", "credential_source": source}).to_string();
        let url = of(json!({"url": "https://idp.test/token"}));
        assert!(judged("google", &[("external_account", url)]).await.is_ok());
        for source in [
            json!({"file": "/etc/shadow"}),
            json!({"file": "/etc/shadow", "url": "https://idp.test/token"}),
            json!({"environment_id": "aws1", "url": "https://idp.test/token"}),
            json!({"url": "http://169.254.169.254/metadata/identity/oauth2/token?resource=x"}),
            json!({"executable": {"command": "id"}}),
            json!({}),
        ] {
            let error = judged("google", &[("external_account", of(source.clone()))]).await.unwrap_err();
            assert!(error.path.as_deref() == Some("settings.external_account"), "{source}: {error:?}");
        }
    }

    #[tokio::test]
    async fn an_ssh_key_and_its_passphrase_go_together_whichever_way_they_came_in() {
        let file = |name: &str| {
            std::fs::read_to_string(format!("{}/tests/tower/keys/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
        };
        let key = ("private_key", file("ed25519-encrypted"));
        assert!(judged("ssh", &[key.clone(), ("passphrase", "hunter2".into())]).await.is_ok());
        let wrong = judged("ssh", &[key.clone(), ("passphrase", "hunter3".into())]).await.unwrap_err();
        assert_eq!(wrong.path.as_deref(), Some("settings.passphrase"));
        assert_eq!(judged("ssh", &[key]).await.unwrap_err().path.as_deref(), Some("settings.passphrase"));
        let text = judged("ssh", &[("private_key", "canary".into())]).await.unwrap_err();
        assert!(text.path.as_deref() == Some("settings.private_key") && !text.detail.contains("canary"));
    }
}
