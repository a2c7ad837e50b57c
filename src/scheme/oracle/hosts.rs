//! Which hosts below Oracle's domains are endpoints of Oracle's own services.
//!
//! The shapes are those of the endpoint templates of Oracle's SDK for Python. A customer's instance of a service (an
//! integration, a notebook, a function, a database) stands below the same domains under a name of its own.

use crate::sigv4::Skew;

/// The domains of every realm there is, and the one of Object Storage's dedicated endpoints.
pub(super) const DOMAINS: &[&str] = &[
    "*.oraclecloud.com",
    "*.oraclegovcloud.com",
    "*.oraclegovcloud.uk",
    "*.oraclecloud.eu",
    "*.oraclecloud8.com",
    "*.oraclecloud9.com",
    "*.oraclecloud10.com",
    "*.oraclecloud14.com",
    "*.oraclecloud15.com",
    "*.oraclecloud20.com",
    "*.oraclecloud21.com",
    "*.oraclecloud23.com",
    "*.oraclecloud24.com",
    "*.oraclecloud26.com",
    "*.oraclecloud29.com",
    "*.oraclecloud35.com",
    "*.oraclecloud42.com",
    "*.oraclecloud51.com",
    "*.oraclecloud52.com",
    "*.customer-oci.com",
];

/// What may stand between a region and the domain.
const BETWEEN: [&[&str]; 6] = [&[], &["oci"], &["ocp"], &["ocs"], &["ds", "oci"], &["ds"]];

/// Services whose parts have names of their own before the service's, none of which a customer can run.
const PARENTS: [&str; 17] = [
    "access-governance",
    "aiservice",
    "appmgmt",
    "artifacts",
    "desktops",
    "email",
    "generativeai",
    "javamanagement",
    "kms",
    "logging",
    "organizations",
    "osp",
    "product-catalog",
    "streaming",
    "vaults",
    "weblogicmanagement",
    "objectstorage",
];

/// The clock as Oracle's own endpoints tell it, and apart from it as others do.
pub(super) fn skew() -> Skew {
    Skew::of(|host| {
        let domain = host.rsplitn(3, '.').take(2).map(str::len).sum::<usize>() + 1;
        host.len() > domain && is_realm(&host[host.len() - domain..]) && is_service(host)
    })
}

/// Whether this is the domain of a realm of Oracle's.
pub(super) fn is_realm(domain: &str) -> bool {
    DOMAINS.iter().any(|own| own.strip_prefix("*.") == Some(domain))
}

/// Whether a host below one of the domains may be a customer's.
pub(super) fn is_strangers(host: &str) -> bool {
    !is_service(host)
}

fn is_service(host: &str) -> bool {
    let labels: Vec<&str> = host.split('.').collect();
    let Some((domain, rest)) = labels.split_at_checked(labels.len().saturating_sub(2)).map(|(a, b)| (b, a)) else {
        return false;
    };
    let Some(region) = rest.iter().rposition(|label| is_region(label)) else { return false };
    let (before, after) = (&rest[..region], &rest[region + 1..]);
    if !BETWEEN.contains(&after) {
        return false;
    }
    if domain == ["customer-oci", "com"] {
        return matches!(before, ["objectstorage"] | [_, "objectstorage"]);
    }
    match before {
        [] => false,
        [_service] => true,
        [.., parent] => PARENTS.contains(parent),
    }
}

/// `us-ashburn-1`, `us-gov-phoenix-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [land, places @ .., number] = &parts[..] else { return false };
    let letters = |part: &&str| part.len() >= 3 && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let number = number.len() <= 2 && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    land.len() == 2 && number && (1..=2).contains(&places.len()) && places.iter().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_services_are_oracles_own() {
        for host in [
            "iaas.us-ashburn-1.oraclecloud.com",
            "identity.eu-frankfurt-1.oci.oraclecloud.com",
            "objectstorage.us-phoenix-1.oraclecloud.com",
            "objectstorage.us-phoenix-1.ds.oci.oraclecloud.com",
            "namespace.objectstorage.us-phoenix-1.oci.customer-oci.com",
            "objectstorage.us-phoenix-1.oci.customer-oci.com",
            "query.us-gov-phoenix-1.oci.oraclegovcloud.com",
            "auth.uk-gov-london-1.oraclegovcloud.uk",
            "optimizer.eu-jovanovac-1.oci.oraclecloud20.com",
            "secrets.vaults.eu-madrid-2.oci.oraclecloud.eu",
            "abcdef-crypto.kms.us-ashburn-1.oraclecloud.com",
            "cell-1.streaming.us-ashburn-1.oci.oraclecloud.com",
            "cell0.submit.email.us-ashburn-1.oci.oraclecloud.com",
            "inference.generativeai.us-chicago-1.oci.oraclecloud.com",
            "integration.us-ashburn-1.ocp.oraclecloud.com",
            "functions.us-ashburn-1.oci.oraclecloud.com",
        ] {
            assert!(is_service(host), "{host}");
        }
    }

    #[test]
    fn what_customers_run_there_is_theirs() {
        for host in [
            "oraclecloud.com",
            "www.oraclecloud.com",
            "us-ashburn-1.oraclecloud.com",
            "abc.us-ashburn-1.functions.oci.oraclecloud.com",
            "abc.apigateway.us-ashburn-1.oci.customer-oci.com",
            "modeldeployment.us-ashburn-1.oci.customer-oci.com",
            "a.b.objectstorage.us-phoenix-1.oci.customer-oci.com",
            "mine-axyz-ia.integration.us-ashburn-1.ocp.oraclecloud.com",
            "mine.notebook.us-ashburn-1.oci.oraclecloud.com",
            "abc.analytics.us-ashburn-1.ocp.oraclecloud.com",
            "abc.adb.us-ashburn-1.oraclecloud.com",
            "abc.opensearch.us-ashburn-1.oci.oraclecloud.com",
            "idcs-0123.identity.oraclecloud.com",
            "mine.fa.us2.oraclecloud.com",
            "iaas.us-ashburn-1.evil.oraclecloud.com",
            "iaas.us-ashburn-1.oci.us-ashburn-1x.oraclecloud.com",
        ] {
            assert!(is_strangers(host), "{host}");
        }
    }

    #[test]
    fn regions_have_one_shape() {
        for (label, region) in [
            ("us-ashburn-1", true),
            ("ap-dcc-canberra-1", true),
            ("ashburn-1", false),
            ("us-1", false),
            ("us-ashburn", false),
            ("us-ash-burn-er-1", false),
            ("us--1", false),
        ] {
            assert_eq!(is_region(label), region, "{label}");
        }
    }
}
