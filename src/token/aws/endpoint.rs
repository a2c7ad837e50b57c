//! Where STS is: a partition, a region, an address.
//!
//! <https://docs.aws.amazon.com/general/latest/gr/sts.html>; partitions as botocore's `partitions.json` has them.

use std::sync::Arc;

use ipnet::IpNet;

use super::sts::Sts;
use crate::base::{ClientOptions, Destination, Host, HttpClients, Protocol};

/// A partition: its name, how its regions begin, what its hosts end in, the region that is meant when none is named.
struct Partition {
    name: &'static str,
    regions: &'static str,
    suffix: &'static str,
    default: &'static str,
}

/// Longer beginnings of regions stand before shorter ones.
const PARTITIONS: &[Partition] = &[
    partition("aws-cn", "cn-", "amazonaws.com.cn", "cn-north-1"),
    partition("aws-us-gov", "us-gov-", "amazonaws.com", "us-gov-west-1"),
    partition("aws-iso", "us-iso-", "c2s.ic.gov", "us-iso-east-1"),
    partition("aws-iso-b", "us-isob-", "sc2s.sgov.gov", "us-isob-east-1"),
    partition("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "eu-isoe-west-1"),
    partition("aws-iso-f", "us-isof-", "csp.hci.ic.gov", "us-isof-south-1"),
    partition("aws-eusc", "eusc-", "amazonaws.eu", "eusc-de-east-1"),
    partition("aws", "", "amazonaws.com", "us-east-1"),
];

const fn partition(
    name: &'static str,
    regions: &'static str,
    suffix: &'static str,
    default: &'static str,
) -> Partition {
    Partition { name, regions, suffix, default }
}

fn named(name: &str) -> &'static Partition {
    let commercial = &PARTITIONS[PARTITIONS.len() - 1];
    PARTITIONS.iter().find(|partition| partition.name == name).unwrap_or(commercial)
}

/// The partition of a region: `aws`, `aws-cn`, `aws-us-gov` and so on.
pub fn partition_of_region(region: &str) -> &'static str {
    PARTITIONS.iter().find(|partition| region.starts_with(partition.regions)).map_or("aws", |partition| partition.name)
}

/// The partition of an ARN, or of a text that is a partition's name; `aws` for one that is not known.
pub fn partition_of_arn(role_arn_or_partition: &str) -> &'static str {
    let mut parts = role_arn_or_partition.split(':');
    match (parts.next(), parts.next()) {
        (Some("arn"), Some(partition)) => named(partition).name,
        _ => named(role_arn_or_partition).name,
    }
}

/// The region whose STS serves a role or partition: the one named, if it lies in that partition and can stand in a host
/// name, or else the partition's default.
pub fn region_for(role_arn_or_partition: &str, region: Option<&str>) -> String {
    let partition = partition_of_arn(role_arn_or_partition);
    region
        .filter(|region| is_region(region) && partition_of_region(region) == partition)
        .unwrap_or(named(partition).default)
        .to_owned()
}

/// The address of the regional STS for a role or partition: `https://sts.{region}.amazonaws.com` and the like.
pub fn endpoint_for(role_arn_or_partition: &str, region: Option<&str>) -> String {
    let partition = named(partition_of_arn(role_arn_or_partition));
    format!("https://sts.{}.{}", region_for(role_arn_or_partition, region), partition.suffix)
}

/// Whether a text can be a region, and stand in a host name.
pub(super) fn is_region(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    plain && !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-')
}

/// An STS to call.
#[derive(Debug, Clone)]
pub struct StsEndpoint {
    /// Its address.
    pub destination: Destination,
    /// The region that requests to it are signed for.
    pub region: String,
    /// Addresses that are normally refused and that it may have.
    pub allow_addresses: Vec<IpNet>,
}

impl StsEndpoint {
    /// The address that an operator wrote. Requests are signed for the region that its host names, else for the one given,
    /// else for `us-east-1`.
    ///
    /// # Errors
    /// What is wrong with the address: answers hold keys, so it is https unless the operator allows otherwise.
    pub fn parse(url: &str, region: Option<&str>, allow_cleartext: bool) -> Result<Self, String> {
        let destination = Destination::from_upstream(url).map_err(|refusal| refusal.detail.into_owned())?;
        let path = url.parse::<http::Uri>().ok().and_then(|uri| uri.path_and_query().map(ToString::to_string));
        if path.is_some_and(|path| path != "/") {
            return Err("the address of STS has no path: write https://sts.us-east-1.amazonaws.com".into());
        }
        if destination.protocol() == Protocol::Http && !allow_cleartext {
            return Err("answers of STS hold keys and would travel unencrypted; use https, or set \
                        `allow_cleartext: true` on the credential"
                .into());
        }
        // The host knows best; only one that tells none is signed for as the operator says.
        let told = region_of(destination.host());
        let region = told.or(region.filter(|region| is_region(region))).unwrap_or("us-east-1").to_owned();
        Ok(Self { destination, region, allow_addresses: Vec::new() })
    }

    /// The regional STS for a role's ARN or a partition.
    ///
    /// # Errors
    /// Does not fail for a partition that is known.
    pub fn for_role(role_arn_or_partition: &str, region: Option<&str>) -> Result<Self, String> {
        let region = region_for(role_arn_or_partition, region);
        Self::parse(&endpoint_for(role_arn_or_partition, Some(&region)), Some(&region), false)
    }

    /// Ready to call.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn open(&self, http: &dyn HttpClients) -> Result<Sts, String> {
        let options = ClientOptions { allow_addresses: self.allow_addresses.clone(), ..ClientOptions::default() };
        let client = http.client(&self.destination, &options)?;
        Ok(Sts::new(self.destination.clone(), Arc::clone(&client), self.region.clone()))
    }
}

/// `localhost` (RFC 6761) or a loopback address.
pub(super) fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
        Host::Address(address) => address.is_loopback(),
    }
}

/// The region in `sts.{region}.amazonaws.com`, `sts-fips.{region}.…` or `vpce-….sts.{region}.vpce.…`; the global endpoint
/// is signed for `us-east-1`.
fn region_of(host: &Host) -> Option<&str> {
    let name = host.name().unwrap_or_default();
    // Elsewhere a label that looks like a region may be anything.
    let of_aws =
        PARTITIONS.iter().any(|partition| name.strip_suffix(partition.suffix).is_some_and(|rest| rest.ends_with('.')))
            || name.ends_with(".api.aws");
    if !of_aws {
        return None;
    }
    let mut labels = name.split('.');
    let after = labels.find(|label| *label == "sts" || *label == "sts-fips").and_then(|_| labels.next());
    let told = after.filter(|label| is_region(label) && label.contains('-'));
    // The global endpoint is the one of this region.
    told.or((name == "sts.amazonaws.com").then_some("us-east-1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_own_hosts_and_its_own_default_region() {
        let arn = |partition: &str| format!("arn:{partition}:iam::123456789012:role/x");
        for (partition, region, expected) in [
            ("aws", None, "https://sts.us-east-1.amazonaws.com"),
            ("aws", Some("eu-central-1"), "https://sts.eu-central-1.amazonaws.com"),
            ("aws-cn", None, "https://sts.cn-north-1.amazonaws.com.cn"),
            ("aws-cn", Some("cn-northwest-1"), "https://sts.cn-northwest-1.amazonaws.com.cn"),
            ("aws-us-gov", None, "https://sts.us-gov-west-1.amazonaws.com"),
            ("aws-iso", None, "https://sts.us-iso-east-1.c2s.ic.gov"),
            ("aws-iso-b", Some("us-isob-east-1"), "https://sts.us-isob-east-1.sc2s.sgov.gov"),
            ("aws-iso-e", None, "https://sts.eu-isoe-west-1.cloud.adc-e.uk"),
            ("aws-iso-f", None, "https://sts.us-isof-south-1.csp.hci.ic.gov"),
            ("aws-eusc", None, "https://sts.eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(endpoint_for(&arn(partition), region), expected);
            assert_eq!(endpoint_for(partition, region), expected);
            assert_eq!(partition_of_region(&region_for(partition, region)), partition);
        }
    }

    #[test]
    fn a_region_of_another_partition_or_that_is_none_is_not_taken() {
        let role = "arn:aws-cn:iam::123456789012:role/x";
        assert_eq!(endpoint_for(role, Some("us-east-1")), "https://sts.cn-north-1.amazonaws.com.cn");
        for region in ["evil.test/", "", "us east", "US-EAST-1", "-x", "a@b"] {
            assert_eq!(endpoint_for("aws", Some(region)), "https://sts.us-east-1.amazonaws.com", "{region}");
        }
    }

    #[test]
    fn the_host_names_the_region_that_requests_are_signed_for() {
        let region = |url: &str| StsEndpoint::parse(url, None, true).unwrap().region;
        for (url, expected) in [
            ("https://sts.amazonaws.com", "us-east-1"),
            ("https://sts.eu-west-2.amazonaws.com/", "eu-west-2"),
            ("https://sts-fips.us-west-2.amazonaws.com", "us-west-2"),
            ("https://vpce-0a1b-2c.sts.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
            ("https://sts.example.test", "us-east-1"),
            ("http://127.0.0.1:4566", "us-east-1"),
        ] {
            assert_eq!(region(url), expected, "{url}");
        }
        assert_eq!(StsEndpoint::parse("http://localhost:4566", Some("eu-west-3"), true).unwrap().region, "eu-west-3");
    }

    #[test]
    fn an_address_that_would_show_keys_or_is_none_is_refused() {
        for (url, said) in [
            ("http://sts.amazonaws.com", "use https"),
            ("http://localhost.evil.test", "use https"),
            ("https://sts.amazonaws.com/path", "no path"),
            ("https://sts.amazonaws.com/?x=y", "no path"),
            ("ftp://sts.amazonaws.com", "https://"),
            ("sts", "https://"),
        ] {
            let error = StsEndpoint::parse(url, None, false).unwrap_err();
            assert!(error.contains(said), "{url}: {error}");
        }
    }

    #[test]
    fn a_host_that_names_its_region_is_signed_for_that_one_whatever_is_fixed() {
        let region = |url: &str, fixed| StsEndpoint::parse(url, Some(fixed), false).unwrap().region;
        assert_eq!(region("https://sts.eu-west-1.amazonaws.com", "us-east-1"), "eu-west-1");
        assert_eq!(region("https://sts.amazonaws.com", "eu-central-1"), "us-east-1");
        assert_eq!(region("https://sts.example.test", "eu-central-1"), "eu-central-1");
        assert_eq!(region("https://sts.example.test", "*"), "us-east-1", "a set is no region");
        assert_eq!(region("https://sts.my-corp.example", "eu-central-1"), "eu-central-1", "nor is any label");
    }
}
