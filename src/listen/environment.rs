//! What points the tools of a caller at us: their variables, and the store of roots that Java reads.
//!
//! One list, for `run`, for `env`, for the file that a pod shares, and for the injector.

use std::path::Path;

use rustls_pki_types::CertificateDer;

use crate::upstream::Roots;

/// Java wants one; it protects nothing, the store holds public certificates.
const TRUST_STORE_PASSWORD: &str = "changeit";

/// Loopback services of the command's own are not for the proxy.
pub const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// The variables that name a file of roots.
const ROOTS: [&str; 17] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "OCI_CLI_CERT_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "BAO_CACERT",
    "VAULT_CACERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "DENO_CERT",
];

/// What the tools of a caller are told.
#[derive(Debug, Clone, Copy)]
pub struct Pointing<'a> {
    /// The address of the proxy, with what is shown there; without one (connections are redirected) only roots are named.
    pub proxy: Option<&'a str>,
    /// The file of roots, PEM.
    pub bundle: &'a Path,
    /// The same for Java, PKCS#12; without one Java is told nothing of roots.
    pub trust_store: Option<&'a Path>,
    /// What is called directly, beside loopback.
    pub no_proxy: &'a [String],
    /// Options of Java's that stay.
    pub java: Option<&'a str>,
}

impl Pointing<'_> {
    /// Every variable by which a client finds its proxy and the certificates it trusts, in both cases where clients differ.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if let Some(proxy) = self.proxy {
            for name in [
                "HTTP_PROXY",
                "http_proxy",
                "HTTPS_PROXY",
                "https_proxy",
                "ALL_PROXY",
                "all_proxy",
                "npm_config_proxy",
                "npm_config_https_proxy",
                "CARGO_HTTP_PROXY",
                "GRPC_PROXY",
                "grpc_proxy",
            ] {
                variables.push((name, proxy.to_owned()));
            }
            let direct = [&[NO_PROXY.to_owned()], self.no_proxy].concat().join(",");
            for name in ["NO_PROXY", "no_proxy", "npm_config_noproxy"] {
                variables.push((name, direct.clone()));
            }
            variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
        }
        let bundle = self.bundle.display().to_string();
        variables.extend(ROOTS.iter().map(|name| (*name, bundle.clone())));
        let java = self.java_options();
        if !java.is_empty() {
            let given = self.java.map(|given| format!("{given} ")).unwrap_or_default();
            variables.push(("JAVA_TOOL_OPTIONS", format!("{given}{}", java.join(" "))));
        }
        variables
    }

    /// Java shows its options to everybody, and would not take a token from there.
    fn java_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(proxy) = self.proxy {
            let address = proxy.rsplit_once("://").map_or(proxy, |(_, rest)| rest);
            let address = address.rsplit_once('@').map_or(address, |(_, address)| address).trim_end_matches('/');
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            for kind in ["http", "https"] {
                options.push(format!("-D{kind}.proxyHost={host}"));
                options.push(format!("-D{kind}.proxyPort={port}"));
            }
            // `.svc` means what is below it; Java writes a star.
            let more = self.no_proxy.iter().map(|one| match one.strip_prefix('.') {
                Some(below) => format!("|*.{below}"),
                None => format!("|{one}"),
            });
            options.push(format!("-Dhttp.nonProxyHosts=localhost|127.*|[::1]{}", more.collect::<String>()));
        }
        if let Some(store) = self.trust_store {
            options.push("-Djavax.net.ssl.trustStoreType=PKCS12".to_owned());
            options.push(format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"));
            options.push(format!("-Djavax.net.ssl.trustStore={}", store.display()));
        }
        options
    }

    /// The same as lines that a POSIX shell reads; `JAVA_TOOL_OPTIONS` of whoever reads them stay.
    pub fn shell(&self) -> String {
        let line = |(name, value): (&str, String)| {
            let before = if name == "JAVA_TOOL_OPTIONS" { "\"${JAVA_TOOL_OPTIONS:+$JAVA_TOOL_OPTIONS }\"" } else { "" };
            format!("export {name}={before}{}\n", quoted(&value))
        };
        self.variables().into_iter().map(line).collect()
    }
}

/// Quoted for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A PKCS#12 store of trusted roots, as Java reads it.
///
/// # Errors
/// When it cannot be made.
pub fn trust_store(roots: &Roots, ca: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
    let mut store = KeyStore::new();
    for (index, certificate) in roots.0.iter().map(AsRef::as_ref).chain([ca.as_ref()]).enumerate() {
        // A root that this library cannot read is one that Java does without.
        if let Ok(certificate) = Certificate::from_der(certificate) {
            store.add_entry(&format!("root-{index}"), KeyStoreEntry::Certificate(certificate));
        }
    }
    let written = store.writer(TRUST_STORE_PASSWORD).write();
    written.map_err(|error| format!("the Java trust store cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointing<'a>(proxy: Option<&'a str>) -> Pointing<'a> {
        let (bundle, store) = (Path::new("/t/b.pem"), Path::new("/t/s.p12"));
        Pointing { proxy, bundle, trust_store: Some(store), no_proxy: &[], java: Some("-Xmx1g") }
    }

    fn get(pointing: &Pointing<'_>, name: &str) -> Option<String> {
        pointing.variables().into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn a_token_goes_into_the_address_of_the_proxy_and_nowhere_else() {
        let pointing = pointing(Some("http://run-1:t0ken@127.0.0.1:9"));
        assert_eq!(get(&pointing, "https_proxy").unwrap(), "http://run-1:t0ken@127.0.0.1:9");
        let java = get(&pointing, "JAVA_TOOL_OPTIONS").unwrap();
        assert!(java.contains("-Dhttps.proxyHost=127.0.0.1 ") && !java.contains("t0ken"), "{java}");
    }

    #[test]
    fn proxy_variables_are_set_in_both_cases_and_javas_own_options_stay() {
        let pointing = pointing(Some("http://127.0.0.1:9"));
        assert_eq!(get(&pointing, "HTTPS_PROXY"), get(&pointing, "https_proxy"));
        assert_eq!(get(&pointing, "http_proxy").unwrap(), "http://127.0.0.1:9");
        assert_eq!(get(&pointing, "SSL_CERT_FILE").unwrap(), "/t/b.pem");
        let java = get(&pointing, "JAVA_TOOL_OPTIONS").unwrap();
        assert!(
            java.starts_with("-Xmx1g -D") && java.contains("-Dhttps.proxyPort=9 ") && java.ends_with("=/t/s.p12"),
            "{java}"
        );
    }

    #[test]
    fn a_shell_keeps_the_options_that_it_has_for_java() {
        let script = format!("{}printf %s \"$JAVA_TOOL_OPTIONS\"", pointing(Some("http://127.0.0.1:9")).shell());
        let run = |own: Option<&str>| {
            let mut shell = std::process::Command::new("sh");
            shell.env_remove("JAVA_TOOL_OPTIONS").envs(own.map(|own| ("JAVA_TOOL_OPTIONS", own)));
            String::from_utf8(shell.args(["-c", &script]).output().unwrap().stdout).unwrap()
        };
        assert!(run(Some("-Xss1m")).starts_with("-Xss1m -"));
        assert!(run(None).starts_with('-'));
    }

    #[test]
    fn where_connections_are_redirected_only_roots_are_named() {
        let pointing = pointing(None);
        assert_eq!(get(&pointing, "http_proxy"), None);
        assert_eq!(get(&pointing, "NODE_USE_ENV_PROXY"), None);
        assert_eq!(get(&pointing, "CURL_CA_BUNDLE").unwrap(), "/t/b.pem");
        assert!(!get(&pointing, "JAVA_TOOL_OPTIONS").unwrap().contains("proxyHost"));
    }

    #[test]
    fn what_a_shell_would_read_as_more_than_a_text_is_quoted() {
        assert_eq!(quoted("a'b $(c)"), r"'a'\''b $(c)'");
    }
}
