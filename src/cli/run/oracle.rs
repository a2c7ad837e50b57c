//! What Oracle's programs get under `countersign run`: a configuration whose key is worth nothing. They do not ask before they
//! have signed, and Countersign signs again.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use md5::{Digest, Md5};

use super::supervise::write_private;
use crate::cli::{Context, variable};
use crate::config::Config;

/// Where they find keys, or another way to some: not for the command.
pub(super) const KEYS: [&str; 15] = [
    "OCI_CONFIG_FILE",
    "OCI_CLI_CONFIG_FILE",
    "OCI_CLI_PROFILE",
    "OCI_CLI_AUTH",
    "OCI_CLI_USER",
    "OCI_CLI_TENANCY",
    "OCI_CLI_FINGERPRINT",
    "OCI_CLI_KEY_FILE",
    "OCI_CLI_KEY_CONTENT",
    "OCI_CLI_PASSPHRASE",
    "OCI_CLI_SECURITY_TOKEN_FILE",
    "OCI_CLI_DELEGATION_TOKEN_FILE",
    "OCI_RESOURCE_PRINCIPAL_RPST",
    "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM",
    "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE",
];

/// Programs want a region before anything else; where neither variable says one, this is what `--region` changes.
const REGION: &str = "us-ashburn-1";

/// The tenancy of the first credential that names one, since programs ask for what is in "their" tenancy; it is no secret.
pub(super) fn tenancy(config: &Config) -> Option<String> {
    let own = config.credentials.iter().enumerate().filter(|(_, one)| one.enabled && one.kind.name == "oracle");
    let named = |index: usize| {
        let value = config.document.value(&format!("credentials[{index}].tenancy_ocid"));
        value.as_str().map(str::to_owned)
    };
    own.filter_map(|(index, _)| named(index)).next()
}

/// Writes the configuration; the variables that lead to it.
pub(super) fn stand_in(
    context: &Context,
    folder: &Path,
    tenancy: Option<String>,
) -> Result<[(&'static str, std::path::PathBuf); 2], String> {
    let (key, file) = (folder.join("oci-key.pem"), folder.join("oci-config"));
    let failed = |_| "no key can be made".to_owned();
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
    let fingerprint: Vec<String> = Md5::digest(public.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect();
    let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", private.as_ref()));
    let tenancy = tenancy.unwrap_or_else(|| "ocid1.tenancy.oc1..aaaaaaaaworthless".into());
    let region = variable(context, "OCI_CLI_REGION").or_else(|| variable(context, "OCI_REGION"));
    let text = format!(
        "[DEFAULT]\nuser=ocid1.user.oc1..aaaaaaaaworthless\ntenancy={tenancy}\nfingerprint={}\nkey_file={}\nregion={}\n",
        fingerprint.join(":"),
        key.display(),
        region.as_deref().unwrap_or(REGION),
    );
    let written = write_private(&key, pem.as_bytes()).and_then(|()| write_private(&file, text.as_bytes()));
    written.map_err(|error| error.to_string())?;
    Ok([("OCI_CONFIG_FILE", file.clone()), ("OCI_CLI_CONFIG_FILE", file)])
}
