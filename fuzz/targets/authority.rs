//! Arbitrary text as a host, an authority, an absolute address and an upstream: total, normal, and one place only.
#![no_main]

use std::sync::LazyLock;

use countersign::base::{Destination, Host, Protocol};
use countersign_fuzz::{check_against_url, check_destination, check_host, check_refusal, whatwg};
use http::Uri;
use libfuzzer_sys::fuzz_target;

static FIXED: LazyLock<Vec<Destination>> = LazyLock::new(|| {
    let make = |authority| Destination::from_authority(Protocol::Https, authority).expect("a fixed authority");
    ["api.test", "api.test:8443", "10.0.0.1", "[::1]:8443", "xn--bcher-kva.test"].map(make).into()
});

fuzz_target!(|data: &[u8]| {
    let text = std::str::from_utf8(data);
    // A Host header may be any bytes.
    for destination in FIXED.iter() {
        if destination.is_named_by(data) {
            let same = text.ok().and_then(|text| Destination::from_authority(destination.protocol(), text).ok());
            assert_eq!(same.as_ref(), Some(destination));
        }
    }
    let Ok(text) = text else { return };

    match Host::parse(text) {
        Ok(host) => {
            check_host(&host);
            assert!(!text.contains(['@', '%', '/', '\\', '?', '#']), "{text:?} is a host");
            assert_eq!(whatwg(url::Host::parse(text).ok()), Some(host), "{text:?} is another host to a URL parser");
        }
        Err(refusal) => check_refusal(&refusal),
    }

    let of = |protocol| match Destination::from_authority(protocol, text) {
        Ok(destination) => {
            assert!(!text.contains('@'), "userinfo passed in {text:?}");
            assert_eq!(destination.protocol(), protocol);
            assert!(destination.is_named_by(data));
            check_destination(&destination);
            check_against_url(&format!("{}://{text}/", protocol.as_str()), &destination);
            Some(destination)
        }
        Err(refusal) => {
            check_refusal(&refusal);
            None
        }
    };
    let (http, https) = (of(Protocol::Http), of(Protocol::Https));
    // The protocol decides the port that is meant when none is written, and nothing else.
    assert_eq!(http.as_ref().map(Destination::host), https.as_ref().map(Destination::host));

    let upstream = Destination::from_upstream(text);
    match &upstream {
        Ok(destination) => {
            check_destination(destination);
            check_against_url(text, destination);
        }
        Err(refusal) => check_refusal(refusal),
    }

    let Ok(uri) = text.parse::<Uri>() else {
        assert!(upstream.is_err(), "{text:?}");
        return;
    };
    match Destination::from_absolute(&uri) {
        Ok(destination) => {
            assert_eq!(upstream.ok().as_ref(), Some(&destination));
            let authority = uri.authority().expect("a destination without an authority");
            assert!(!authority.as_str().contains('@'), "userinfo passed in {text:?}");
            assert!(destination.is_named_by(authority.as_str().as_bytes()));
            // hyper splits the authority by itself; it must not see another host or port.
            assert_eq!(Host::parse(authority.host()).ok().as_ref(), Some(destination.host()));
            let port = authority.port_u16().unwrap_or(destination.protocol().default_port());
            assert_eq!(port, destination.port());
        }
        Err(refusal) => {
            check_refusal(&refusal);
            assert!(upstream.is_err(), "{text:?}");
        }
    }
});
