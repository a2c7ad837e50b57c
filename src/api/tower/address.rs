//! Addresses as people write them for a provider: with or without a scheme, a port, a path.

use url::Url;

/// The longest `baseUrl` that Tower takes.
const LONGEST: usize = 200;

/// The host in an address, as a host pattern: with its port unless it is the usual one.
///
/// # Errors
/// What to change.
pub(super) fn host(address: &str) -> Result<String, &'static str> {
    const WANTED: &str = "an address such as https://git.example.com";
    let address = address.trim();
    if address.len() > LONGEST {
        return Err("an address has 200 characters at most");
    }
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let url = Url::parse(&with_scheme).map_err(|_| WANTED)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(WANTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address without a user name: that is a key of its own");
    }
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('*')).ok_or(WANTED)?;
    Ok(match url.port() {
        // Cleartext has another usual port than the one a pattern without a port is meant for; both are meant then.
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found_however_the_address_is_written() {
        for (address, expected) in [
            ("https://git.example.com", "git.example.com"),
            ("https://GitHub.com/seqeralabs", "github.com"),
            ("registry.example.com:5000/team", "registry.example.com:5000"),
            ("https://git.example.com:443/", "git.example.com"),
            (" http://10.0.0.7:9000 ", "10.0.0.7:9000"),
            ("https://[::1]:6443", "[::1]:6443"),
        ] {
            assert_eq!(host(address).as_deref(), Ok(expected), "{address}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_a_password_in_it_not_repeated() {
        let long = "a".repeat(201);
        for address in
            ["", "https://", "ftp://a.test", "https://u:canary@a.test", "https://*.a.test", "a b", long.as_str()]
        {
            let why = host(address).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
