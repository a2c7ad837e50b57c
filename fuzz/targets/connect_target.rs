//! Arbitrary text as the target of a CONNECT: exactly a host and a port, the port written and never 0.
#![no_main]

use countersign::base::{Destination, Host, Protocol};
use countersign_fuzz::{check_against_url, check_destination, check_refusal};
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let authority = Destination::from_authority(Protocol::Https, text);
    match Destination::from_connect(text) {
        Ok(destination) => {
            assert_eq!(destination.protocol(), Protocol::Https);
            assert!(!text.contains('@'), "userinfo passed in {text:?}");
            check_destination(&destination);
            check_against_url(&format!("https://{text}/"), &destination);
            assert!(destination.is_named_by(text.as_bytes()));
            // The same text as a Host header must name the same place.
            assert_eq!(authority.ok().as_ref(), Some(&destination));
            let (_, port) = text.rsplit_once(':').expect("a CONNECT target without a port");
            assert_eq!(port.parse().ok(), Some(destination.port()));
            // hyper hands the target over as an `Authority`, which splits it by itself.
            if let Ok(authority) = text.parse::<Authority>() {
                assert_eq!(Host::parse(authority.host()).ok().as_ref(), Some(destination.host()));
                assert_eq!(authority.port_u16(), Some(destination.port()));
            }
        }
        Err(refusal) => {
            check_refusal(&refusal);
            // Only a port that is not written makes a good authority a bad target.
            if let Ok(destination) = authority {
                let with_port = format!("{text}:{}", destination.port());
                assert_eq!(Destination::from_connect(&with_port).ok(), Some(destination), "{text:?}");
            }
        }
    }
});
