//! Our own certificate authority: one ECDSA P-256 key, leaves minted for exactly the host of a tunnel.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;

use crate::base::Host;
use crate::upstream::Roots;

/// Leaves kept at a time; a host that fell out is minted again in microseconds.
const LEAVES: u64 = 1024;

/// A year for the authority, renewed when a month is left; a leaf lives as long as its authority, at most a week.
const CA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
const CA_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Clocks of callers may be behind ours.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The `ca` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Holds the certificate and the key; made on the first start, 0700.
    pub directory: PathBuf,
    /// System roots plus ours: the only file to hand to callers.
    pub bundle: Option<PathBuf>,
    /// The variables that point tools at us and at the bundle, for a shell to read.
    pub environment: Option<PathBuf>,
    /// The roots of the bundle for Java, PKCS#12.
    pub trust_store: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { directory: PathBuf::from("state/ca"), bundle: None, environment: None, trust_store: None }
    }
}

impl Settings {
    /// Where the certificate is.
    pub fn certificate_path(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Where the key is.
    pub fn key_path(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    /// Where the bundle is: beside the directory unless said otherwise.
    pub fn bundle_path(&self) -> PathBuf {
        self.bundle.clone().unwrap_or_else(|| self.directory.with_file_name("ca-bundle.pem"))
    }
}

/// A failure to make, read or write what the authority consists of.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct CaError {
    /// The file.
    pub path: String,
    /// What went wrong.
    pub why: String,
}

fn error(path: &Path, why: impl ToString) -> CaError {
    CaError { path: path.display().to_string(), why: why.to_string() }
}

/// The authority, ready to mint.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    not_after: SystemTime,
    leaf_key: KeyPair,
    leaves: moka::sync::Cache<Host, Arc<ServerConfig>>,
}

impl Ca {
    /// An authority whose key exists in memory only.
    ///
    /// # Errors
    /// When the TLS library refuses, which it does not.
    pub fn in_memory(now: SystemTime) -> Result<Self, CaError> {
        let (key, pem) = generate(now)?;
        Self::from_parts(key, pem, now + CA_LIFETIME)
    }

    /// Loads the authority from its directory, or makes it there when it is not yet, or about to expire.
    ///
    /// # Errors
    /// When files cannot be read or written, or the key is readable by others.
    pub fn load_or_create(settings: &Settings, now: SystemTime) -> Result<Self, CaError> {
        let (certificate_path, key_path) = (settings.certificate_path(), settings.key_path());
        if certificate_path.exists() && key_path.exists() {
            let pem = fs::read_to_string(&certificate_path).map_err(|why| error(&certificate_path, why))?;
            let mode = fs::metadata(&key_path).map_err(|why| error(&key_path, why))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(error(
                    &key_path,
                    "others can read this key; run chmod 600 on it, or delete it to have a new one made",
                ));
            }
            let key = fs::read_to_string(&key_path).map_err(|why| error(&key_path, why))?;
            let not_after = not_after(&pem).map_err(|why| error(&certificate_path, why))?;
            if not_after > now + CA_RENEWAL {
                let key = KeyPair::from_pem(&key).map_err(|why| error(&key_path, why))?;
                if !belong_together(&pem, &key) {
                    return Err(error(
                        &key_path,
                        "this key is not the certificate's; delete both to have new ones made",
                    ));
                }
                return Self::from_parts(key, pem, not_after);
            }
        }
        let (key, pem) = generate(now)?;
        // What is above it (the bundle lives there) must stay readable to others.
        if let Some(parent) = settings.directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|why| error(parent, why))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&settings.directory) {
            Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => return Err(error(&settings.directory, why)),
            _ => {}
        }
        fs::set_permissions(&settings.directory, fs::Permissions::from_mode(0o700))
            .map_err(|why| error(&settings.directory, why))?;
        write_atomically(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        write_atomically(&certificate_path, pem.as_bytes(), 0o644)?;
        Self::from_parts(key, pem, now + CA_LIFETIME)
    }

    fn from_parts(key: KeyPair, pem: String, not_after: SystemTime) -> Result<Self, CaError> {
        let fail = |why: rcgen::Error| error(Path::new("certificate authority"), why);
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|why| error(Path::new("certificate authority"), why))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(fail)?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
        let leaves = moka::sync::Cache::builder().max_capacity(LEAVES).time_to_live(LEAF_LIFETIME / 2).build();
        Ok(Self { issuer, certificate, pem, not_after, leaf_key, leaves })
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A TLS server configuration with a leaf for exactly this host, offering HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the host cannot stand in a certificate.
    pub fn server_config(&self, host: &Host, now: SystemTime) -> Result<Arc<ServerConfig>, String> {
        self.leaves
            .try_get_with_by_ref(host, || self.mint(host, now).map(Arc::new))
            .map_err(|error: Arc<String>| error.to_string())
    }

    fn mint(&self, host: &Host, now: SystemTime) -> Result<ServerConfig, String> {
        let text = |error: rcgen::Error| error.to_string();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.to_string().try_into().map_err(text)?),
            Host::Address(address) => SanType::IpAddress(IpAddr::to_canonical(address)),
        }];
        let mut subject = DistinguishedName::new();
        // X.520 bounds the common name at 64 characters; the name that counts is the alternative one.
        let common: String = host.to_string().chars().take(64).collect();
        subject.push(DnType::CommonName, common);
        params.distinguished_name = subject;
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + LEAF_LIFETIME).min(self.not_after).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).map_err(text)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        server_config(vec![leaf.der().clone(), self.certificate.clone()], key, None)
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// A TLS server configuration that offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When the key does not fit the certificate.
pub(super) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Buffers of an idle connection are given back; a thousand of them must not cost tens of megabytes.
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn generate(now: SystemTime) -> Result<(KeyPair, String), CaError> {
    let fail = |why: rcgen::Error| error(Path::new("certificate authority"), why);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // Each authority has its own name, so that two installations are never taken for one another.
    let id: String = key.public_key_raw().iter().skip(1).take(4).map(|byte| format!("{byte:02x}")).collect();
    subject.push(DnType::CommonName, format!("Countersign local CA {id}"));
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + CA_LIFETIME).into();
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((key, certificate.pem()))
}

fn not_after(pem: &str) -> Result<SystemTime, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).map_err(|error| error.to_string())?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn belong_together(pem: &str, key: &KeyPair) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes()).is_ok_and(|der| {
        x509_parser::parse_x509_certificate(&der)
            .is_ok_and(|(_, certificate)| *certificate.public_key().subject_public_key.data == *key.public_key_raw())
    })
}

/// System roots and ours, as PEM.
pub fn bundle(system: &Roots, ca: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let mut text = String::with_capacity(256 * 1024);
    text.push_str("# System roots and the Countersign CA. Made by Countersign; rewritten when either changes.\n");
    for certificate in system.0.iter().map(AsRef::as_ref).chain([ca.as_ref()]) {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).unwrap_or_default());
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Writes the bundle when its content is not what stands there. Says whether it wrote.
///
/// # Errors
/// When it cannot be written.
pub fn write_bundle(path: &Path, system: &Roots, ca: &Ca) -> Result<bool, CaError> {
    let text = bundle(system, &ca.certificate);
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|why| error(parent, why))?;
    }
    write_atomically(path, text.as_bytes(), 0o644)?;
    Ok(true)
}

/// Writes what a caller's tools read beside the bundle, where it is asked for: never a key, never a token.
///
/// # Errors
/// When it cannot be written.
pub fn write_environment(settings: &Settings, system: &Roots, ca: &Ca, proxy: Option<&str>) -> Result<(), CaError> {
    use super::environment::{Pointing, trust_store};
    let made = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(|why| error(parent, why)))
    };
    if let Some(path) = &settings.trust_store {
        let store = trust_store(system, &ca.certificate).map_err(|why| error(path, why))?;
        made(path)?;
        write_atomically(path, &store, 0o644)?;
    }
    if let Some(path) = &settings.environment {
        let bundle = std::path::absolute(settings.bundle_path()).map_err(|why| error(path, why))?;
        let store = settings.trust_store.as_ref().map(std::path::absolute).transpose();
        let store = store.map_err(|why| error(path, why))?;
        let trust_store = store.as_deref();
        let text = Pointing { proxy, bundle: &bundle, trust_store, no_proxy: &[], java: None }.shell();
        let text = format!("# Written by Countersign; rewritten when it changes.\n{text}");
        if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        made(path)?;
        write_atomically(path, text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// A file that is there whole or not at all, whenever the process is killed.
fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new-{}", std::process::id()));
    let new = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        // One left by a process that was killed under the same number.
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|why| error(path, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, deps::SystemClock};

    fn settings(directory: &Path) -> Settings {
        Settings { directory: directory.join("ca"), ..Settings::default() }
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let now = SystemClock.now();
        let first = Ca::load_or_create(&settings, now).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(settings.key_path()), 0o600);
        assert_eq!(mode(settings.directory.clone()), 0o700);
        assert_eq!(Ca::load_or_create(&settings, now).unwrap().pem(), first.pem());
        let later = now + CA_LIFETIME - CA_RENEWAL / 2;
        assert_ne!(Ca::load_or_create(&settings, later).unwrap().pem(), first.pem());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        Ca::load_or_create(&settings, SystemClock.now()).unwrap();
        fs::set_permissions(settings.key_path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Ca::load_or_create(&settings, SystemClock.now()).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn the_certificate_is_a_ca_with_path_length_zero_for_servers() {
        let ca = Ca::in_memory(SystemClock.now()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(ca.certificate()).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint == Some(0));
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    }

    #[test]
    fn leaves_are_minted_once_for_a_host() {
        let ca = Ca::in_memory(SystemClock.now()).unwrap();
        let one = ca.server_config(&Host::parse("api.test").unwrap(), SystemClock.now()).unwrap();
        let again = ca.server_config(&Host::parse("API.test.").unwrap(), SystemClock.now()).unwrap();
        assert!(Arc::ptr_eq(&one, &again));
        assert!(ca.server_config(&Host::parse("[::1]").unwrap(), SystemClock.now()).is_ok());
        let long = format!("{}.test", "a".repeat(63));
        assert!(ca.server_config(&Host::parse(&long).unwrap(), SystemClock.now()).is_ok());
    }

    #[test]
    fn the_bundle_is_rewritten_only_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/bundle.pem");
        let ca = Ca::in_memory(SystemClock.now()).unwrap();
        let other = Ca::in_memory(SystemClock.now()).unwrap();
        let system = Roots(vec![other.certificate().clone()]);
        assert!(write_bundle(&path, &system, &ca).unwrap());
        assert!(!write_bundle(&path, &system, &ca).unwrap());
        assert!(write_bundle(&path, &Roots::default(), &ca).unwrap());
        let certs: Vec<_> = CertificateDer::pem_file_iter(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(certs, [ca.certificate().clone()]);
    }
}
