//! What Vault's answers say, in words that tell what to do.

use http::StatusCode;
use serde_json::Value;

use super::super::line::{Answer, Trouble, printable};
use crate::base::StoreRef;

/// Vault's own words: it writes lists of errors, and lists of those into one.
pub(super) fn words(body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = document["errors"].as_array().cloned().unwrap_or_default();
    let mut said: Vec<String> = Vec::new();
    for error in errors.iter().filter_map(Value::as_str) {
        for line in error.lines().map(str::trim) {
            let line = line.strip_prefix("* ").unwrap_or(line);
            let counts = line.ends_with("error occurred:") || line.ends_with("errors occurred:");
            if !line.is_empty() && !counts && !said.iter().any(|other| other == line) {
                said.push(line.to_owned());
            }
        }
    }
    printable(&said.join("; "))
}

/// The document of an answer that is a success.
pub(super) fn reply(answer: &Answer, what: &str) -> Result<Value, Trouble> {
    if !answer.status.is_success() {
        return Err(refused(answer.status, &answer.body, what));
    }
    let document: Value =
        serde_json::from_slice(&answer.body).map_err(|_| Trouble::store("its answer is not JSON; is this Vault?"))?;
    if document["wrap_info"].is_object() {
        return Err(Trouble::secret(
            "its answer is wrapped: a policy of the store's credential asks for that (min_wrapping_ttl); give it one without",
        ));
    }
    Ok(document)
}

/// What an answer that is none means.
pub(super) fn refused(status: StatusCode, body: &[u8], what: &str) -> Trouble {
    let words = words(body);
    match status {
        StatusCode::FORBIDDEN => Trouble::secret(format!(
            "permission denied: the policy of the store's credential does not allow {what} ({words})"
        )),
        StatusCode::NOT_FOUND => Trouble::secret(format!("there is no {what} {words}").trim_end()),
        _ => Trouble::secret(format!("it answers {} {words}", status.as_u16()).trim_end()),
    }
}

/// Why there is no such version of a secret of the key/value engine of version 2.
pub(super) fn absent(body: &[u8], reference: &StoreRef) -> Trouble {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let metadata = &document["data"]["metadata"];
    let version = metadata["version"].as_u64().map(|version| format!("version {version}")).unwrap_or_default();
    if metadata["destroyed"] == true {
        return Trouble::secret(format!("{version} was destroyed"));
    }
    if let Some(at) = metadata["deletion_time"].as_str().filter(|at| !at.is_empty()) {
        return Trouble::secret(format!("{version} was deleted at {}; undelete it or write another", printable(at)));
    }
    if reference.name.split('/').any(|segment| segment == "data") {
        return Trouble::secret("there is no such secret; leave `data/` out of its name, as `vault kv get` does");
    }
    Trouble::secret("there is no such secret, or no such version of it")
}
