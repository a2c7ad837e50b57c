//! TLS towards upstreams: the system's roots plus the operator's, and nothing weaker than verification.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::Secret;

/// Root certificates that a TLS peer may be verified against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots(pub Vec<CertificateDer<'static>>);

/// The roots that the operating system (or SSL_CERT_FILE, SSL_CERT_DIR) provides, sorted, so that a change can be seen.
pub fn system_roots() -> Roots {
    let mut certs = rustls_native_certs::load_native_certs().certs;
    certs.sort_by(|one, two| one.as_ref().cmp(two.as_ref()));
    certs.dedup();
    Roots(certs)
}

impl Roots {
    /// The same roots and those of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn with_file(mut self, path: &Path) -> Result<Self, String> {
        let fail = |why: String| format!("{}: {why}", path.display());
        let certs = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fail(error.to_string()))?;
        if certs.is_empty() {
            return Err(fail("no certificate in it".into()));
        }
        self.0.extend(certs);
        Ok(self)
    }

    /// A client configuration that verifies against these roots. ALPN is set where the connection is made.
    ///
    /// # Errors
    /// When the TLS library takes none of the roots.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        Ok(self.verifying()?.with_no_client_auth())
    }

    /// The same, showing a client certificate (PEM, the leaf first) when the server asks for one.
    ///
    /// # Errors
    /// When certificate and key cannot be read or do not belong together. The text repeats nothing of them.
    pub fn client_config_with(&self, certificate: &Secret, key: &Secret) -> Result<ClientConfig, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.expose())
            .collect::<Result<_, _>>()
            .map_err(|_| "the client certificate is not PEM".to_owned())?;
        if chain.is_empty() {
            return Err("the client certificate is not PEM".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key.expose())
            .map_err(|_| "the key of the client certificate is not an unencrypted PEM key".to_owned())?;
        self.verifying()?
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the client certificate and its key cannot be used: {error}"))
    }

    fn verifying(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
        let mut store = RootCertStore::empty();
        // A system bundle may hold a certificate that rustls does not parse; the others still count.
        store.add_parsable_certificates(self.0.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(store))
    }
}
