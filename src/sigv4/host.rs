//! What a host of AWS says about the signature that it expects: the signing name and the signing region.
//!
//! The rules are those of botocore's endpoint rule sets and of the endpoint pages of AWS. Hosts are read from the right,
//! where AWS writes and its customers do not, so a bucket with dots in its name cannot pass for another service.
//!
//! **Never guesses: a host that does not tell both is refused, with a reason.**

use std::borrow::Cow;

use super::hosts_table::{NAMES, PAIRS};

/// What a host tells of the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told<'a> {
    /// The signing name.
    pub(super) service: Cow<'a, str>,
    /// The signing region; for an asymmetric signature the region set.
    pub(super) region: Cow<'a, str>,
    /// Whether the signature must be asymmetric (SigV4a), since more than one region may answer.
    pub(super) asymmetric: bool,
}

/// Reads a lower-case DNS name without a port.
///
/// # Errors
/// A reason for a person, when the host does not tell service and region.
pub(super) fn infer(host: &str) -> Result<Told<'_>, &'static str> {
    match read(host) {
        Ok(known) => Ok(known.told),
        Err(no) => Err(no.reason()),
    }
}

/// Whether a host is under a domain of AWS but may be answered by, or on behalf of, any customer of AWS.
///
/// Such hosts must not be among those that a credential serves by default: what answers there sees the session token.
/// So this errs to `true` for whatever is under these domains and not known to be run by AWS. Buckets are not counted:
/// S3 itself answers for them.
pub(super) fn is_strangers(host: &str) -> bool {
    match read(host) {
        Ok(known) => known.strangers,
        Err(no) => no.strangers() && UNDER_AWS.iter().any(|domain| front(host, domain).is_some()),
    }
}

/// A host that was understood.
struct Known<'a> {
    told: Told<'a>,
    strangers: bool,
}

/// Why a host was not understood.
#[derive(Clone, Copy)]
enum No {
    /// It is under no domain of the APIs of AWS.
    Foreign,
    /// S3 Transfer Acceleration.
    Accelerated,
    /// Two services answer there, each with its own signing name.
    Shared,
    /// AWS answers there, but not to signatures.
    Unsigned,
    /// A service of AWS without a region.
    Placeless,
    /// A private endpoint of a service that is not of AWS.
    Private,
    /// None of the forms that are known.
    Unknown,
}

impl No {
    fn reason(self) -> &'static str {
        match self {
            Self::Foreign => "not a host of AWS",
            Self::Accelerated => "the host names no region: S3 Transfer Acceleration serves buckets of every region",
            Self::Shared => "the host is shared by two services that sign with different names",
            Self::Unsigned => "what answers at this host takes no AWS signature",
            Self::Placeless => "the host names no region",
            Self::Private => "the host is the private endpoint of a service that is not of AWS",
            Self::Unknown => "the host is under a domain of AWS but in no form that tells service and region",
        }
    }

    fn strangers(self) -> bool {
        matches!(self, Self::Foreign | Self::Private | Self::Unknown)
    }
}

type Answer<'a> = Result<Known<'a>, No>;

/// A domain under which AWS has its APIs.
struct Domain {
    suffix: &'static str,
    /// The region that global services of the partition sign with.
    home: &'static str,
    /// How the names of its regions begin.
    regions: &'static str,
    /// Whether it is the one for IPv4 and IPv6; S3 has its hosts under the other one only.
    dual: bool,
}

const fn domain(suffix: &'static str, dual: bool, home: &'static str, regions: &'static str) -> Domain {
    Domain { suffix, home, regions, dual }
}

/// The domains of every partition of botocore's `partitions.json`, the usual ones first.
const DOMAINS: [Domain; 14] = [
    domain("amazonaws.com", false, "us-east-1", ""),
    domain("api.aws", true, "us-east-1", ""),
    domain("amazonaws.com.cn", false, "cn-northwest-1", "cn-"),
    domain("api.amazonwebservices.com.cn", true, "cn-northwest-1", "cn-"),
    domain("amazonaws.eu", false, "eusc-de-east-1", "eusc-"),
    domain("api.amazonwebservices.eu", true, "eusc-de-east-1", "eusc-"),
    domain("c2s.ic.gov", false, "us-iso-east-1", "us-iso-"),
    domain("api.aws.ic.gov", true, "us-iso-east-1", "us-iso-"),
    domain("sc2s.sgov.gov", false, "us-isob-east-1", "us-isob-"),
    domain("api.aws.scloud", true, "us-isob-east-1", "us-isob-"),
    domain("cloud.adc-e.uk", false, "eu-isoe-west-1", "eu-isoe-"),
    domain("api.cloud-aws.adc-e.uk", true, "eu-isoe-west-1", "eu-isoe-"),
    domain("csp.hci.ic.gov", false, "us-isof-south-1", "us-isof-"),
    domain("api.aws.hci.ic.gov", true, "us-isof-south-1", "us-isof-"),
];

/// The domains again, as wide as AWS has them, and those under which its customers get names.
const UNDER_AWS: [&str; 20] = [
    "amazonaws.com",
    "api.aws",
    "on.aws",
    "amazonaws.com.cn",
    "amazonwebservices.com.cn",
    "amazonaws.eu",
    "amazonwebservices.eu",
    "c2s.ic.gov",
    "aws.ic.gov",
    "sc2s.sgov.gov",
    "aws.scloud",
    "cloud.adc-e.uk",
    "cloud-aws.adc-e.uk",
    "csp.hci.ic.gov",
    "aws.hci.ic.gov",
    "amazoncognito.com",
    "amplifyapp.com",
    "awsapprunner.com",
    "cloudfront.net",
    "elasticbeanstalk.com",
];

impl Domain {
    /// Whether this is a region of the domain's partition.
    fn has(&self, name: &str) -> bool {
        is_region(name) && name.starts_with(self.regions) && (!self.regions.is_empty() || !is_apart(name))
    }

    /// Whether it is the domain of the commercial regions, which has some older forms that no other has.
    fn is_first(&self) -> bool {
        self.suffix == "amazonaws.com"
    }
}

/// Whether the shape is that of a region: `us-west-2`, `ap-southeast-1`, `us-gov-west-1`, `eusc-de-east-1`.
///
/// A label such as `fips-us-west-2` has nearly that shape, so the area is checked closely.
fn is_region(name: &str) -> bool {
    let Some((place, number)) = name.rsplit_once('-') else { return false };
    let Some((area, direction)) = place.rsplit_once('-') else { return false };
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let area_fits = match area.split_once('-') {
        None => area.len() == 2 && letters(area),
        Some(("us", part)) => part == "gov" || (part.starts_with("iso") && letters(part)),
        Some(("eu", part)) => part.starts_with("iso") && letters(part),
        Some(("eusc", part)) => part.len() == 2 && letters(part),
        Some(_) => false,
    };
    area_fits
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && matches!(
            direction,
            "central" | "east" | "north" | "northeast" | "northwest" | "south" | "southeast" | "southwest" | "west"
        )
}

/// Whether a region is of a partition whose domains are its own.
fn is_apart(region: &str) -> bool {
    ["cn-", "eusc-", "us-iso", "eu-iso"].iter().any(|start| region.starts_with(start))
}

/// What stands before a domain.
fn front<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    host.strip_suffix(domain)?.strip_suffix('.').filter(|front| !front.is_empty())
}

/// The last label and what stands before it.
fn last(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// Whether this is one label (that a customer's name or an identifier may be).
fn is_one(name: &str) -> bool {
    !name.is_empty() && !name.contains('.')
}

fn is_account(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| b.is_ascii_digit())
}

/// A cell of Timestream, which its endpoint discovery hands out.
fn is_cell(name: &str) -> bool {
    is_one(name) && (name.starts_with("query-cell") || name.starts_with("ingest-cell"))
}

/// A label without the mark of a FIPS endpoint.
fn plain(label: &str) -> &str {
    label.strip_suffix("-fips").unwrap_or(label)
}

fn known<'a>(service: &'a str, region: &'a str) -> Answer<'a> {
    let told = Told { service: Cow::Borrowed(service), region: Cow::Borrowed(region), asymmetric: false };
    Ok(Known { told, strangers: false })
}

fn everywhere(service: &str) -> Answer<'_> {
    let told = Told { service: Cow::Borrowed(service), region: Cow::Borrowed("*"), asymmetric: true };
    Ok(Known { told, strangers: false })
}

/// What belongs to a customer.
fn customers<'a>(service: &'a str, region: &'a str) -> Answer<'a> {
    known(service, region).map(|known| Known { strangers: true, ..known })
}

fn read(host: &str) -> Answer<'_> {
    if let Some(front) = front(host, "on.aws") {
        return if front.split('.').any(str::is_empty) { Err(No::Foreign) } else { on_aws(front) };
    }
    let found = DOMAINS.iter().find_map(|domain| Some((front(host, domain.suffix)?, domain)));
    let Some((front, domain)) = found else { return Err(No::Foreign) };
    if front.split('.').any(str::is_empty) {
        return Err(No::Foreign);
    }
    match last(front) {
        ("", region) if domain.has(region) => Err(No::Unknown),
        (rest, region) if domain.has(region) => regional(rest, region, domain),
        _ => global(front, domain).unwrap_or_else(|| odd(front, domain)),
    }
}

/// Hosts of services that are one for all regions of a partition.
fn global<'a>(front: &'a str, domain: &'static Domain) -> Option<Answer<'a>> {
    let (name, place) = front.split_once('.').unwrap_or((front, ""));
    let home = if place == "us-gov" { "us-gov-west-1" } else { domain.home };
    let placed = match place {
        // Nothing answers at `iam.api.aws`: the host for both is `iam.global.api.aws`.
        "" => domain.suffix != "api.aws",
        "global" => true,
        "us-gov" => domain.regions.is_empty(),
        _ => false,
    };
    let answer = match plain(name) {
        "iam" if placed && domain.regions == "cn-" => known("iam", "cn-north-1"),
        service @ ("budgets" | "cloudfront" | "iam" | "route53" | "savingsplans") if placed => known(service, home),
        service @ ("partnercentral-channel" | "sustainability") if placed && domain.dual => everywhere(service),
        "partnercentral-prm" if placed && domain.dual => everywhere("partnercentral"),
        "global" if place == "health" => known("health", domain.home),
        "global" if place == "health.us-gov" && domain.is_first() => known("health", "us-gov-west-1"),
        service if place.is_empty() && domain.is_first() => alone(service)?,
        _ => return None,
    };
    Some(answer)
}

/// Hosts of one label under `amazonaws.com`: global services, and those that began in one region.
fn alone(name: &str) -> Option<Answer<'_>> {
    let first = "us-east-1";
    Some(match name {
        "autoscaling" | "ec2" | "elasticloadbalancing" | "elasticmapreduce" | "rds" | "sdb" | "sts" | "waf" => {
            known(name, first)
        }
        "importexport" => known("IngestionService", first),
        "queue" => known("sqs", first),
        _ => return None,
    })
}

/// Hosts whose last label is not the region.
fn odd<'a>(front: &'a str, domain: &Domain) -> Answer<'a> {
    let (rest, name) = last(front);
    let (id, region) = last(rest);
    let placed = domain.has(region);
    match name {
        "s3" | "s3-external-1" if domain.is_first() => known("s3", "us-east-1"),
        "s3-accelerate" => Err(No::Accelerated),
        "dualstack" if region == "s3-accelerate" => Err(No::Accelerated),
        "s3-global" if rest.strip_suffix(".mrap.accesspoint").is_some_and(is_one) => everywhere("s3"),
        "events" if has_identifier(rest, "endpoint") => everywhere("events"),
        "email" if has_identifier(rest, "endpoints") => everywhere("ses"),
        "global" if rest.strip_suffix(".cloudfront-kvs").is_some_and(is_account) && domain.suffix == "api.aws" => {
            everywhere("cloudfront-keyvaluestore")
        }
        "global" | "us-gov" if rest.strip_suffix(".email").is_some_and(|rest| has_identifier(rest, "endpoints")) => {
            everywhere("ses")
        }
        "vpce" if placed => private(id, region),
        "queue" if placed && id.is_empty() => known("sqs", region),
        "elasticmapreduce" if placed && id.is_empty() => known("elasticmapreduce", region),
        "neptune-graph" if placed && id.is_empty() => known("neptune-graph", region),
        "neptune-graph" | "es" | "aoss" | "cloudsearch" if placed && is_one(id) => customers(name, region),
        "neptune" if placed && !id.is_empty() => customers("neptune-db", region),
        _ => old_s3(rest, name, domain),
    }
}

/// Hosts of S3 that have a dash before the region.
fn old_s3<'a>(bucket: &'a str, name: &'a str, domain: &Domain) -> Answer<'a> {
    let of = |start: &str| name.strip_prefix(start).filter(|region| !domain.dual && domain.has(region));
    if let Some(region) = of("s3-website-") {
        return if bucket.is_empty() { Err(No::Unknown) } else { customers("s3", region) };
    }
    match of("s3-").or_else(|| of("s3-fips-")) {
        Some(region) => known("s3", region),
        None if bucket.is_empty() => Err(No::Placeless),
        None => Err(No::Unknown),
    }
}

/// Whether the name is an identifier (which may have a dot) before this label.
fn has_identifier(name: &str, label: &str) -> bool {
    let (id, end) = last(name);
    end == label && !id.is_empty()
}

/// Hosts `{rest}.{region}.{domain}`: most of them.
fn regional<'a>(rest: &'a str, region: &'a str, domain: &Domain) -> Answer<'a> {
    let (front, both) = rest.strip_suffix(".dualstack").map_or((rest, false), |front| (front, true));
    let (prefix, name) = last(front);
    if !domain.dual
        && let Some(answer) = s3(prefix, name, region)
    {
        return answer;
    }
    if both { Err(No::Unknown) } else { service(rest, region) }
}

/// The hosts of S3, whatever stands before them: buckets may have dots.
fn s3<'a>(prefix: &str, name: &str, region: &'a str) -> Option<Answer<'a>> {
    let allowed = |may: bool, service| if may { known(service, region) } else { Err(No::Unknown) };
    Some(match plain(name) {
        "s3" => known("s3", region),
        "s3-website" if prefix.is_empty() => Err(No::Unknown),
        "s3-website" => customers("s3", region),
        "s3-accesspoint" => allowed(is_one(prefix), "s3"),
        "s3-control" => allowed(!prefix.contains('.'), "s3"),
        "s3-object-lambda" if prefix.is_empty() => known("s3-object-lambda", region),
        // A function of whoever owns the access point sees the request.
        "s3-object-lambda" if is_one(prefix) => customers("s3-object-lambda", region),
        // botocore prefers an asymmetric signature here, but offers this one as well.
        "s3-outposts" => allowed(prefix.is_empty() || prefix.split('.').count() == 2, "s3-outposts"),
        "s3express-control" => allowed(!prefix.contains('.'), "s3express"),
        zonal if zonal.starts_with("s3express-") => allowed(is_one(prefix), "s3express"),
        _ => return None,
    })
}

/// A service by what stands before its region.
fn service<'a>(rest: &'a str, region: &'a str) -> Answer<'a> {
    let Some((head, tail)) = rest.split_once('.') else { return one_label(rest, region) };
    if head == "fips" && is_one(tail) {
        return one_label(tail, region);
    }
    if rest == "api.sustainability" {
        // Its own region for a plain signature is us-east-1, whatever the host names.
        return everywhere("sustainability");
    }
    if let Some(name) = signing_name(PAIRS, &(plain(head), plain(tail))) {
        return known(name, region);
    }
    let (prefix, name) = last(rest);
    identified(prefix, plain(name), region)
}

fn signing_name<K: Ord>(table: &[(K, &'static str)], key: &K) -> Option<&'static str> {
    let at = table.binary_search_by(|row| row.0.cmp(key)).ok()?;
    table.get(at).map(|row| row.1)
}

/// A label alone is the signing name, unless the table says otherwise: that is AWS's own convention.
fn one_label<'a>(label: &'a str, region: &'a str) -> Answer<'a> {
    let name = plain(label);
    let shaped = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !shaped || !name.starts_with(|first: char| first.is_ascii_lowercase()) || name.ends_with('-') {
        return Err(No::Unknown);
    }
    match name {
        // Mail, and Git, which signs in a way of its own.
        "email-smtp" | "git-codecommit" | "inbound-smtp" => return Err(No::Unsigned),
        "compute" | "dualstack" | "elb" | "vpce" => return Err(No::Unknown),
        _ => {}
    }
    known(signing_name(NAMES, &name).unwrap_or(name), region)
}

/// Hosts that begin with an account or with the name or identifier of what a customer has there.
fn identified<'a>(prefix: &'a str, name: &'a str, region: &'a str) -> Answer<'a> {
    let (id, kind) = last(prefix);
    match name {
        "control-kinesis" | "data-kinesis" if is_account(prefix) => known("kinesis", region),
        "ddb" | "search-ddb" | "streams-ddb" if is_account(prefix) => known("dynamodb", region),
        "eventsv2" if is_account(prefix) => known("events", region),
        "iot" if is_one(prefix) => known("iotdata", region),
        "iot" if kind == "jobs" && is_one(id) => known("iot-jobs-data", region),
        "kinesisvideo" | "mediaconvert" | "route53-recovery-cluster" if is_one(prefix) => known(name, region),
        "mediastore" if kind == "data" && is_one(id) => known(name, region),
        "timestream" if is_cell(prefix) => known(name, region),
        "managedblockchain" if matches!(kind, "bitcoin" | "ethereum") && is_one(id) => known(name, region),
        "execute-api" if is_one(prefix) => customers(name, region),
        "appsync-api" if is_one(prefix) => customers("appsync", region),
        "bedrock-agentcore" if kind == "gateway" && is_one(id) => customers(name, region),
        "geo" if matches!(prefix, "maps" | "places" | "routes") => Err(No::Shared),
        // Docker asks for a password, which `GetAuthorizationToken` of `api.ecr` gives.
        "ecr" if kind == "dkr" => Err(No::Unsigned),
        _ => Err(No::Unknown),
    }
}

/// The interface endpoints of a VPC: `[{resource}.]vpce-{id}[-{zone}].{service}`.
fn private<'a>(front: &'a str, region: &'a str) -> Answer<'a> {
    let at = front.rfind(".vpce-").map_or(0, |dot| dot + 1);
    let (resource, endpoint) = front.split_at(at);
    if endpoint.starts_with("vpce-svc-") {
        return Err(No::Private);
    }
    let Some((id, name)) = endpoint.split_once('.') else { return Err(No::Unknown) };
    match name {
        _ if !id.starts_with("vpce-") => Err(No::Unknown),
        "s3" => known("s3", region),
        _ if !resource.is_empty() => Err(No::Unknown),
        "execute-api" => customers(name, region),
        _ => service(name, region),
    }
}

/// Hosts under `on.aws`: what customers made, some of it behind signatures.
fn on_aws(front: &str) -> Answer<'_> {
    let (rest, region) = last(front);
    let (id, name) = last(rest);
    match name {
        _ if !is_region(region) => Err(No::Unknown),
        "lambda-url" if is_one(id) => customers("lambda", region),
        "vpc-lattice-svcs" if !id.is_empty() => customers("vpc-lattice-svcs", region),
        "aos" if is_one(id) => customers("es", region),
        "neptune-graph" if id.is_empty() => known("neptune-graph", region),
        "neptune-graph" | "osm" if is_one(id) => customers(name, region),
        _ => Err(No::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made from the endpoint rule sets of botocore 1.44.5: host, signing name, region, `v4a` where asymmetric.
    const HOSTS: &str = include_str!("../../tests/vectors/aws_hosts/hosts.json");
    const REFUSED: &str = include_str!("../../tests/vectors/aws_hosts/hosts_refused.json");

    /// `service/region`, with `+` before it when asymmetric, or `refused`.
    fn told(host: &str) -> String {
        infer(host).map_or_else(
            |_| "refused".to_owned(),
            |told| format!("{}{}/{}", if told.asymmetric { "+" } else { "" }, told.service, told.region),
        )
    }

    fn all_are(expected: &str, hosts: &[&str]) {
        for host in hosts {
            assert_eq!(told(host), expected, "{host}");
        }
    }

    #[test]
    fn every_host_of_botocore_tells_what_botocore_signs() {
        let rows: Vec<Vec<String>> = serde_json::from_str(HOSTS).unwrap();
        assert!(rows.len() > 2000);
        for row in rows {
            let asymmetric = if row.len() == 4 { "+" } else { "" };
            assert_eq!(told(&row[0]), format!("{asymmetric}{}/{}", row[1], row[2]), "{}", row[0]);
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let hosts: Vec<String> = serde_json::from_str(REFUSED).unwrap();
        assert!(hosts.len() > 150);
        for host in hosts {
            assert_eq!(told(&host), "refused", "{host}");
        }
    }

    #[test]
    fn cutting_or_lengthening_the_domain_never_yields_a_host_of_aws() {
        let rows: Vec<Vec<String>> = serde_json::from_str(HOSTS).unwrap();
        for row in rows {
            let host = &row[0];
            assert_eq!(told(&format!("{host}.evil.test")), "refused", "{host}");
            assert_eq!(told(&format!("{host}x")), "refused", "{host}");
            assert_eq!(told(&host[..host.len() - 1]), "refused", "{host}");
        }
    }

    #[test]
    fn the_tables_are_sorted_and_name_nothing_twice() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(PAIRS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn a_bucket_of_any_name_is_in_the_region_of_the_host() {
        all_are(
            "s3/us-west-2",
            &[
                "s3.us-west-2.amazonaws.com",
                "s3-us-west-2.amazonaws.com",
                "s3-fips-us-west-2.amazonaws.com",
                "b.s3-us-west-2.amazonaws.com",
                "a.b.s3-us-west-2.amazonaws.com",
                "a.b.s3.us-west-2.amazonaws.com",
                "a_b.s3.us-west-2.amazonaws.com",
                "lambda.us-east-1.s3.us-west-2.amazonaws.com",
                "x.execute-api.us-east-1.amazonaws.com.s3.us-west-2.amazonaws.com",
                "a.b.s3.dualstack.us-west-2.amazonaws.com",
                "a.b.s3-fips.us-west-2.amazonaws.com",
                "b.s3-website-us-west-2.amazonaws.com",
                "www.b.test.s3-website.us-west-2.amazonaws.com",
                "ap-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
                "123456789012.s3-control.dualstack.us-west-2.amazonaws.com",
            ],
        );
        all_are("s3/us-east-1", &["s3.amazonaws.com", "us-west-2.s3.amazonaws.com", "a.b.s3-external-1.amazonaws.com"]);
        all_are("s3/us-gov-west-1", &["a.b.s3.us-gov-west-1.amazonaws.com", "s3-us-gov-west-1.amazonaws.com"]);
        all_are("s3/cn-north-1", &["a.b.s3.cn-north-1.amazonaws.com.cn"]);
        all_are("s3express/us-west-2", &["b--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com"]);
    }

    #[test]
    fn hosts_that_answer_for_many_regions_are_signed_asymmetrically() {
        all_are("+s3/*", &["mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com"]);
        all_are("+events/*", &["abc123.xyz.endpoint.events.amazonaws.com", "abc123.endpoint.events.amazonaws.com"]);
        all_are("+ses/*", &["abc123.xyz.endpoints.email.amazonaws.com"]);
        all_are("+cloudfront-keyvaluestore/*", &["123456789012.cloudfront-kvs.global.api.aws"]);
    }

    #[test]
    fn hosts_that_customers_made_tell_the_service_behind_them() {
        for (host, expected) in [
            ("abc123.execute-api.us-west-2.amazonaws.com", "execute-api/us-west-2"),
            ("abc123-vpce-0a1b.execute-api.us-west-2.amazonaws.com", "execute-api/us-west-2"),
            ("abc123.lambda-url.us-west-2.on.aws", "lambda/us-west-2"),
            ("search-logs-abc.us-west-2.es.amazonaws.com", "es/us-west-2"),
            ("vpc-logs-abc.cn-north-1.es.amazonaws.com.cn", "es/cn-north-1"),
            ("search-logs-abc.aos.us-west-2.on.aws", "es/us-west-2"),
            ("abc123.us-west-2.aoss.amazonaws.com", "aoss/us-west-2"),
            ("doc-films-abc.us-west-2.cloudsearch.amazonaws.com", "cloudsearch/us-west-2"),
            ("abc123.appsync-api.us-west-2.amazonaws.com", "appsync/us-west-2"),
            ("db.cluster-abc.us-west-2.neptune.amazonaws.com", "neptune-db/us-west-2"),
            ("g-abc.us-west-2.neptune-graph.amazonaws.com", "neptune-graph/us-west-2"),
            ("shop-0a1b.7d67968.vpc-lattice-svcs.us-west-2.on.aws", "vpc-lattice-svcs/us-west-2"),
            ("tools-abc.gateway.bedrock-agentcore.us-west-2.amazonaws.com", "bedrock-agentcore/us-west-2"),
            ("ol-123456789012.s3-object-lambda.us-west-2.amazonaws.com", "s3-object-lambda/us-west-2"),
        ] {
            assert_eq!(told(host), expected, "{host}");
            assert!(is_strangers(host), "{host}");
        }
    }

    #[test]
    fn hosts_with_an_identifier_that_aws_runs_are_no_strangers() {
        for (host, expected) in [
            ("123456789012.ddb.us-west-2.amazonaws.com", "dynamodb/us-west-2"),
            ("123456789012.data-kinesis-fips.us-west-2.amazonaws.com", "kinesis/us-west-2"),
            ("a1b2c3-ats.iot.us-west-2.amazonaws.com", "iotdata/us-west-2"),
            ("a1b2c3.jobs.iot.us-west-2.amazonaws.com", "iot-jobs-data/us-west-2"),
            ("s-1a2b3c.kinesisvideo.us-west-2.amazonaws.com", "kinesisvideo/us-west-2"),
            ("abc123.mediaconvert.us-west-2.amazonaws.com", "mediaconvert/us-west-2"),
            ("abc123.data.mediastore.us-west-2.amazonaws.com", "mediastore/us-west-2"),
            ("query-cell1.timestream.us-west-2.amazonaws.com", "timestream/us-west-2"),
            ("mainnet.bitcoin.managedblockchain.us-east-1.amazonaws.com", "managedblockchain/us-east-1"),
            ("aps-workspaces.us-west-2.amazonaws.com", "aps/us-west-2"),
            ("transcribestreaming.us-west-2.amazonaws.com", "transcribe/us-west-2"),
        ] {
            assert_eq!(told(host), expected, "{host}");
            assert!(!is_strangers(host), "{host}");
        }
    }

    #[test]
    fn a_private_endpoint_tells_the_service_of_aws_behind_it() {
        for (host, expected) in [
            ("vpce-0a1b-xyz.sqs.us-west-2.vpce.amazonaws.com", "sqs/us-west-2"),
            ("vpce-0a1b-xyz-us-west-2a.sqs.us-west-2.vpce.amazonaws.com", "sqs/us-west-2"),
            ("vpce-0a1b-xyz.api.ecr.us-west-2.vpce.amazonaws.com", "ecr/us-west-2"),
            ("vpce-0a1b-xyz.bedrock-runtime.us-west-2.vpce.amazonaws.com", "bedrock/us-west-2"),
            ("vpce-0a1b-xyz.kms-fips.us-west-2.vpce.amazonaws.com", "kms/us-west-2"),
            ("vpce-0a1b-xyz.sqs.cn-north-1.vpce.amazonaws.com.cn", "sqs/cn-north-1"),
            ("vpce-0a1b-xyz.s3.us-west-2.vpce.amazonaws.com", "s3/us-west-2"),
            ("bucket.vpce-0a1b-xyz.s3.us-west-2.vpce.amazonaws.com", "s3/us-west-2"),
            ("a.vpce-b.bucket.vpce-0a1b-xyz.s3.us-west-2.vpce.amazonaws.com", "s3/us-west-2"),
            ("ap-123456789012.accesspoint.vpce-0a1b-xyz.s3.us-west-2.vpce.amazonaws.com", "s3/us-west-2"),
            ("control.vpce-0a1b-xyz-us-west-2a.s3.us-west-2.vpce.amazonaws.com", "s3/us-west-2"),
        ] {
            assert_eq!(told(host), expected, "{host}");
            assert!(!is_strangers(host), "{host}");
        }
        let gateway = "vpce-0a1b-xyz.execute-api.us-west-2.vpce.amazonaws.com";
        assert_eq!(told(gateway), "execute-api/us-west-2");
        assert!(is_strangers(gateway));
    }

    #[test]
    fn names_under_the_domains_of_aws_that_anyone_can_have_are_strangers() {
        for host in [
            "ec2-1-2-3-4.compute-1.amazonaws.com",
            "ec2-1-2-3-4.us-west-2.compute.amazonaws.com",
            "lb-123456.us-east-1.elb.amazonaws.com",
            "lb-123456.elb.us-east-1.amazonaws.com",
            "db.c9akciq32.us-east-1.rds.amazonaws.com",
            "c.abcdef.ng.0001.use1.cache.amazonaws.com",
            "c.abcdef.us-east-1.redshift.amazonaws.com",
            "vpce-0a1b-xyz.vpce-svc-0123456789.us-east-1.vpce.amazonaws.com",
            "www.b.test.s3-website.us-west-2.amazonaws.com",
            "b.s3-website-us-west-2.amazonaws.com",
            "anything.on.aws",
            "a.new.kind.of.thing.us-east-1.api.aws",
            "app.us-east-1.elasticbeanstalk.com",
            "abc.us-east-1.awsapprunner.com",
        ] {
            assert!(is_strangers(host), "{host}");
        }
    }

    #[test]
    fn what_aws_runs_is_no_strangers_even_where_the_host_tells_too_little() {
        for host in [
            "es.us-east-1.amazonaws.com",
            "elasticbeanstalk.us-east-1.amazonaws.com",
            "apprunner.us-east-1.amazonaws.com",
            "rds.us-east-1.amazonaws.com",
            "redshift.us-east-1.amazonaws.com",
            "lambda.us-east-1.amazonaws.com",
            "iam.amazonaws.com",
            "a.b.s3.us-west-2.amazonaws.com",
            "my-bucket.s3-accelerate.amazonaws.com",
            "maps.geo.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        ] {
            assert!(!is_strangers(host), "{host}");
        }
    }

    #[test]
    fn hosts_elsewhere_are_not_for_this_file_to_judge() {
        for host in ["example.com", "evilamazonaws.com", "amazonaws.com.evil.test"] {
            assert!(!is_strangers(host), "{host}");
        }
    }

    #[test]
    fn a_refusal_says_why() {
        for (host, part) in [
            ("example.com", "not a host of AWS"),
            ("sns.amazonaws.com", "names no region"),
            ("b.s3-accelerate.amazonaws.com", "Transfer Acceleration"),
            ("maps.geo.us-east-1.amazonaws.com", "two services"),
            ("1.dkr.ecr.us-east-1.amazonaws.com", "takes no AWS signature"),
            ("vpce-0a.vpce-svc-0b.us-east-1.vpce.amazonaws.com", "not of AWS"),
        ] {
            assert!(infer(host).unwrap_err().contains(part), "{host}");
        }
    }
}
