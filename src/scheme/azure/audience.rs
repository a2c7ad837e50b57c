//! What an Azure token is for: the audiences by name, in each cloud, with their hosts.
//!
//! A token is good at one service only, and whoever gets it there can use it until it ends: so a token never goes to the
//! host of another. <https://learn.microsoft.com/en-us/azure/azure-government/compare-azure-government-global-azure>,
//! <https://learn.microsoft.com/en-us/azure/china/resources-developer-guide>

use serde::Deserialize;

use super::super::hosts::{is_below, is_wildcard, name, overlap, shared, write_the_whole_name};

/// One of Azure's separate worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cloud {
    #[default]
    Public,
    UsGovernment,
    China,
}

impl Cloud {
    /// Where its tokens come from.
    pub(super) fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::UsGovernment => "us_government",
            Self::China => "china",
        }
    }
}

/// A service that tokens are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Audience {
    ResourceManagement,
    Graph,
    LogAnalytics,
    Metrics,
    Storage,
    KeyVault,
    Databricks,
}

/// An audience in a cloud.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub(super) audience: Audience,
    pub(super) cloud: Cloud,
    /// What a token is asked for.
    pub(super) resource: &'static str,
    /// What else it is called: older addresses, the number of the application that it is.
    aliases: &'static [&'static str],
    /// Microsoft's own hosts.
    hosts: &'static [&'static str],
    /// Domains below which every customer has hosts.
    customers: &'static [&'static str],
}

const MANAGEMENT_APP: &str = "797f4846-ba00-4fd7-ba43-dac1f8f63013";
const GRAPH_APP: &str = "00000003-0000-0000-c000-000000000000";
const LOG_ANALYTICS_APP: &str = "ca7f3f0b-7d91-482c-8e09-c5d840d0eac5";
const STORAGE_APP: &str = "e406a681-f3d4-42a8-90b6-c2b029497af1";
const VAULT_APP: &str = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093";
const DATABRICKS: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";
const STORAGE: &str = "https://storage.azure.com";

const fn place(
    audience: Audience,
    cloud: Cloud,
    resource: &'static str,
    aliases: &'static [&'static str],
    hosts: &'static [&'static str],
    customers: &'static [&'static str],
) -> Place {
    Place { audience, cloud, resource, aliases, hosts, customers }
}

/// Where every customer of Azure has services, of whatever kind: never meant by a wildcard.
const SHARED: &[&str] = &[
    "azurewebsites.net",
    "azurewebsites.us",
    "chinacloudsites.cn",
    "azurestaticapps.net",
    "azurecontainerapps.io",
    "azurecontainer.io",
    "cloudapp.net",
    "cloudapp.azure.com",
    "usgovcloudapp.net",
    "cloudapp.usgovcloudapi.net",
    "chinacloudapp.cn",
    "cloudapp.chinacloudapi.cn",
    "trafficmanager.net",
    "usgovtrafficmanager.net",
    "trafficmanager.cn",
    "azurefd.net",
    "azureedge.net",
    "azure-api.net",
    "azure-api.us",
    "azure-api.cn",
    "web.core.windows.net",
    "web.storage.azure.net",
    "web.core.usgovcloudapi.net",
    "web.core.chinacloudapi.cn",
];

/// The first of an audience and a cloud is the one that the name means.
static PLACES: &[Place] = {
    use Audience::{Databricks, Graph, KeyVault, LogAnalytics, Metrics, ResourceManagement, Storage};
    use Cloud::{China, Public, UsGovernment};
    &[
        place(
            ResourceManagement,
            Public,
            "https://management.azure.com",
            &["https://management.core.windows.net", MANAGEMENT_APP],
            &["management.azure.com"],
            &[],
        ),
        place(
            ResourceManagement,
            UsGovernment,
            "https://management.usgovcloudapi.net",
            &["https://management.core.usgovcloudapi.net", MANAGEMENT_APP],
            &["management.usgovcloudapi.net"],
            &[],
        ),
        place(
            ResourceManagement,
            China,
            "https://management.chinacloudapi.cn",
            &["https://management.core.chinacloudapi.cn", MANAGEMENT_APP],
            &["management.chinacloudapi.cn"],
            &[],
        ),
        place(Graph, Public, "https://graph.microsoft.com", &[GRAPH_APP], &["graph.microsoft.com"], &[]),
        place(Graph, UsGovernment, "https://graph.microsoft.us", &[GRAPH_APP], &["graph.microsoft.us"], &[]),
        place(Graph, UsGovernment, "https://dod-graph.microsoft.us", &[], &["dod-graph.microsoft.us"], &[]),
        place(
            Graph,
            China,
            "https://microsoftgraph.chinacloudapi.cn",
            &[GRAPH_APP],
            &["microsoftgraph.chinacloudapi.cn"],
            &[],
        ),
        // Two names of one host, of which the documentation prefers the second and names the first in tokens.
        place(
            LogAnalytics,
            Public,
            "https://api.loganalytics.io",
            &["https://api.loganalytics.azure.com", LOG_ANALYTICS_APP],
            &["api.loganalytics.io", "api.loganalytics.azure.com"],
            &[],
        ),
        place(
            LogAnalytics,
            UsGovernment,
            "https://api.loganalytics.us",
            &[LOG_ANALYTICS_APP],
            &["api.loganalytics.us"],
            &[],
        ),
        place(
            LogAnalytics,
            China,
            "https://api.loganalytics.azure.cn",
            &[LOG_ANALYTICS_APP],
            &["api.loganalytics.azure.cn"],
            &[],
        ),
        // One host for each region, all of them Microsoft's.
        place(Metrics, Public, "https://metrics.monitor.azure.com", &[], &["*.metrics.monitor.azure.com"], &[]),
        place(Metrics, UsGovernment, "https://metrics.monitor.azure.us", &[], &["*.metrics.monitor.azure.us"], &[]),
        place(Metrics, China, "https://metrics.monitor.azure.cn", &[], &["*.metrics.monitor.azure.cn"], &[]),
        place(
            Storage,
            Public,
            STORAGE,
            &[STORAGE_APP],
            &[],
            &[
                "blob.core.windows.net",
                "dfs.core.windows.net",
                "file.core.windows.net",
                "queue.core.windows.net",
                "table.core.windows.net",
                "storage.azure.net",
            ],
        ),
        place(
            Storage,
            UsGovernment,
            STORAGE,
            &[STORAGE_APP],
            &[],
            &[
                "blob.core.usgovcloudapi.net",
                "dfs.core.usgovcloudapi.net",
                "file.core.usgovcloudapi.net",
                "queue.core.usgovcloudapi.net",
                "table.core.usgovcloudapi.net",
            ],
        ),
        place(
            Storage,
            China,
            STORAGE,
            &[STORAGE_APP],
            &[],
            &[
                "blob.core.chinacloudapi.cn",
                "dfs.core.chinacloudapi.cn",
                "file.core.chinacloudapi.cn",
                "queue.core.chinacloudapi.cn",
                "table.core.chinacloudapi.cn",
            ],
        ),
        place(KeyVault, Public, "https://vault.azure.net", &[VAULT_APP], &[], &["vault.azure.net"]),
        place(
            KeyVault,
            UsGovernment,
            "https://vault.usgovcloudapi.net",
            &[VAULT_APP],
            &[],
            &["vault.usgovcloudapi.net"],
        ),
        place(KeyVault, China, "https://vault.azure.cn", &[VAULT_APP], &[], &["vault.azure.cn"]),
        place(Databricks, Public, DATABRICKS, &[], &[], &["azuredatabricks.net"]),
        place(Databricks, UsGovernment, DATABRICKS, &[], &[], &["databricks.azure.us"]),
        place(Databricks, China, DATABRICKS, &[], &[], &["databricks.azure.cn"]),
    ]
};

/// What a token is for, and where it may go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What is asked for, as it is written in a request without `/.default`.
    pub(super) resource: String,
    /// The audience that it is, if that is one of those known here.
    pub(super) place: Option<&'static Place>,
    /// The one host that the resource itself names, below a domain of customers.
    only: Option<String>,
}

impl Target {
    /// An audience by its name.
    pub(super) fn named(audience: Audience, cloud: Cloud) -> Result<Self, String> {
        let place = PLACES.iter().find(|place| place.audience == audience && place.cloud == cloud);
        let place = place.ok_or_else(|| format!("it is not in the cloud {}", cloud.name()))?;
        Ok(Self { resource: place.resource.to_owned(), place: Some(place), only: None })
    }

    /// A resource as it is written: an address, or the number of an application.
    pub(super) fn of_resource(resource: &str, cloud: Cloud) -> Result<Self, String> {
        let plain = resource.trim_end_matches('/').to_ascii_lowercase();
        let is_it = |place: &&Place| place.resource == plain || place.aliases.contains(&&*plain);
        let host = plain.strip_prefix("https://").filter(|rest| !rest.contains('/')).unwrap_or_default();
        let host = host.strip_suffix(":443").unwrap_or(host);
        let known: Vec<&'static Place> = PLACES.iter().filter(is_it).collect();
        let holds = |place: &&Place| place.customers.iter().any(|domain| is_below(host, domain));
        let (found, only) = match known.is_empty() {
            false => (known, None),
            true => (PLACES.iter().filter(holds).collect(), Some(host.to_owned())),
        };
        let place = found.iter().find(|place| place.cloud == cloud).copied();
        match (place, found.first()) {
            (None, Some(other)) => Err(format!("{resource} is of another cloud: set `cloud: {}`", other.cloud.name())),
            (place, _) => Ok(Self { resource: resource.to_owned(), place, only: only.filter(|_| place.is_some()) }),
        }
    }

    /// The hosts that need not be named.
    pub(super) fn default_hosts(&self) -> Vec<String> {
        let own = self.place.iter().flat_map(|place| place.hosts).map(|host| (*host).to_owned());
        self.only.iter().cloned().chain(own).collect()
    }

    /// Judges one host that the credential names. `foreign` allows what is none of Microsoft's.
    pub(super) fn check(&self, pattern: &str, foreign: bool) -> Result<(), String> {
        if let Some(domain) = shared(pattern, SHARED) {
            return Err(write_the_whole_name(domain, "mine"));
        }
        let overlapped: Vec<&'static Place> = PLACES.iter().filter(|place| place.overlaps(pattern)).collect();
        let Some(own) = self.place else {
            return match overlapped.first() {
                None => Ok(()),
                Some(other) => {
                    Err(format!("a token for {} must not go to a host of {}", self.resource, other.resource))
                }
            };
        };
        if let Some(only) = self.only.as_ref().filter(|only| *only != name(pattern)) {
            return Err(format!("a token for {} is for {only} only", self.resource));
        }
        if let Some(other) = overlapped.iter().find(|place| **place != own) {
            return Err(format!(
                "a token for {} must not go to a host of {} ({} cloud)",
                self.resource,
                other.resource,
                other.cloud.name()
            ));
        }
        if is_wildcard(pattern) && !own.customers.is_empty() && !overlapped.is_empty() {
            return Err(format!("others have hosts there too: name your own, such as {}", own.example()));
        }
        if !own.contains(pattern) && !foreign {
            return Err(format!(
                "a token for {} is for {}; for a domain or a gateway of your own in front of it set `allow_foreign_hosts: true`",
                self.resource,
                own.example()
            ));
        }
        Ok(())
    }
}

impl Place {
    /// Hosts of customers must be named.
    pub(super) fn needs_hosts(&self) -> bool {
        self.hosts.is_empty()
    }

    /// What a host of it looks like.
    pub(super) fn example(&self) -> String {
        match (self.audience, self.customers) {
            (Audience::Storage, [domain, ..]) => format!("myaccount.{domain}"),
            (Audience::KeyVault, [domain, ..]) => format!("myvault.{domain}"),
            (_, [domain, ..]) => format!("adb-1234567890123456.7.{domain}"),
            (_, []) => self.hosts.join(" and "),
        }
    }

    /// Whether all that a pattern means is here.
    fn contains(&self, pattern: &str) -> bool {
        let within = |domain: &str| is_below(name(pattern), domain);
        let own = self.hosts.iter().any(|host| match host.strip_prefix("*.") {
            Some(domain) => within(domain) || (is_wildcard(pattern) && name(pattern) == domain),
            None => name(pattern) == *host && !is_wildcard(pattern),
        });
        own || self.customers.iter().any(|domain| within(domain))
    }

    /// Whether anything that a pattern means is here.
    fn overlaps(&self, pattern: &str) -> bool {
        self.hosts.iter().any(|host| overlap(pattern, host))
            || self.customers.iter().any(|domain| overlap(pattern, &format!("*.{domain}")))
    }
}

/// Whether a text is the public name of a service of Azure, with or without `/.default`: an address or an application's
/// number that is the same for everybody, not one of a customer's.
pub(in crate::scheme) fn is_service(text: &str) -> bool {
    let plain = text.strip_suffix("/.default").unwrap_or(text).trim_end_matches('/').to_ascii_lowercase();
    PLACES.iter().any(|place| place.resource == plain || place.aliases.contains(&&*plain))
}

/// Whether a token gets where it is meant to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aim {
    /// It is for this host.
    Fits,
    /// Nothing is known of the one or of the other.
    Unknown,
    /// This host wants a token for something else: for what.
    Misses(String),
}

/// Whether a token for an audience, an address or the number of an application, is for a host, which may be a pattern.
pub fn aim(audience: &str, pattern: &str) -> Aim {
    let plain = audience.trim_end_matches('/').to_ascii_lowercase();
    let host =
        plain.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default()).unwrap_or_default();
    if name(host) == name(pattern) && !is_wildcard(pattern) {
        return Aim::Fits;
    }
    let is_there =
        |place: &&Place| place.contains(pattern) || (is_wildcard(pattern) && place.customers.contains(&name(pattern)));
    let Some(there) = PLACES.iter().find(is_there) else { return Aim::Unknown };
    let known = || PLACES.iter().filter(|place| place.resource == plain || place.aliases.contains(&&*plain));
    let of_one = PLACES.iter().any(|place| place.customers.iter().any(|domain| is_below(name(host), domain)));
    if known().any(|place| is_there(&place)) {
        Aim::Fits
    } else if of_one && is_wildcard(pattern) {
        // It is for one host of the many.
        if overlap(host, pattern) { Aim::Unknown } else { Aim::Misses(there.resource.to_owned()) }
    } else if of_one || known().next().is_some() {
        Aim::Misses(there.resource.to_owned())
    } else {
        Aim::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Audience; 7] = [
        Audience::ResourceManagement,
        Audience::Graph,
        Audience::LogAnalytics,
        Audience::Metrics,
        Audience::Storage,
        Audience::KeyVault,
        Audience::Databricks,
    ];

    #[test]
    fn every_audience_is_in_every_cloud_and_no_host_is_of_two() {
        for cloud in [Cloud::Public, Cloud::UsGovernment, Cloud::China] {
            for audience in ALL {
                let target = Target::named(audience, cloud).unwrap();
                let place = target.place.unwrap();
                assert_eq!(target.default_hosts().is_empty(), place.needs_hosts());
                for host in target.default_hosts() {
                    assert_eq!(target.check(&host, false), Ok(()), "{host}");
                }
                let example = place.example();
                let example = example.split(' ').next().unwrap().replace('*', "eastus");
                assert_eq!(target.check(&example, false), Ok(()), "{example}");
                // What is one's own is refused to every other.
                for other in PLACES.iter().filter(|other| *other != place) {
                    let other = Target { resource: "x".into(), place: Some(other), only: None };
                    for foreign in [false, true] {
                        assert!(other.check(&example, foreign).is_err(), "{example} to {other:?}");
                    }
                }
                assert!(Target::of_resource("api://mine", cloud).unwrap().check(&example, true).is_err());
            }
        }
    }

    #[test]
    fn a_resource_is_known_by_each_of_its_names() {
        for (resource, audience) in [
            ("https://management.azure.com", Audience::ResourceManagement),
            ("https://management.core.windows.net/", Audience::ResourceManagement),
            ("https://Graph.Microsoft.com/", Audience::Graph),
            ("00000003-0000-0000-c000-000000000000", Audience::Graph),
            ("https://api.loganalytics.azure.com", Audience::LogAnalytics),
            ("https://storage.azure.com/", Audience::Storage),
            ("https://mine.blob.core.windows.net", Audience::Storage),
            ("https://vault.azure.net/", Audience::KeyVault),
            ("2ff814a6-3304-4ab8-85cb-cd0e6f879c1d", Audience::Databricks),
        ] {
            let target = Target::of_resource(resource, Cloud::Public).unwrap();
            assert_eq!(target.place.map(|place| place.audience), Some(audience), "{resource}");
            assert_eq!(target.resource, resource, "it is sent as it is written");
        }
        assert!(Target::of_resource("api://mine", Cloud::Public).unwrap().place.is_none());
        assert!(Target::of_resource("https://blob.core.windows.net", Cloud::Public).unwrap().place.is_none());
        let error = Target::of_resource("https://management.chinacloudapi.cn", Cloud::Public).unwrap_err();
        assert!(error.contains("cloud: china"), "{error}");
        let storage = Target::of_resource("https://storage.azure.com", Cloud::China).unwrap();
        assert_eq!(storage.place.unwrap().cloud, Cloud::China);
    }

    #[test]
    fn a_resource_that_names_one_account_is_for_that_account() {
        let target = Target::of_resource("https://mine.blob.core.windows.net", Cloud::Public).unwrap();
        assert_eq!(target.default_hosts(), ["mine.blob.core.windows.net"]);
        assert_eq!(target.check("mine.blob.core.windows.net:443", false), Ok(()));
        for host in ["other.blob.core.windows.net", "mine.queue.core.windows.net", "*.blob.core.windows.net", "x.test"]
        {
            assert!(target.check(host, true).is_err(), "{host}");
        }
    }

    #[test]
    fn what_is_not_the_audiences_own_is_refused_however_it_is_written() {
        let check =
            |audience, host: &str, foreign| Target::named(audience, Cloud::Public).unwrap().check(host, foreign);
        for (audience, host) in [
            (Audience::ResourceManagement, "graph.microsoft.com"),
            (Audience::ResourceManagement, "*.microsoft.com"),
            (Audience::ResourceManagement, "*.com"),
            (Audience::ResourceManagement, "*.azure.com"),
            (Audience::ResourceManagement, "management.chinacloudapi.cn"),
            (Audience::Graph, "management.azure.com:443"),
            (Audience::Graph, "mine.vault.azure.net"),
            (Audience::Storage, "*.blob.core.windows.net"),
            (Audience::Storage, "*.windows.net"),
            (Audience::Storage, "mine.vault.azure.net"),
            (Audience::Storage, "mine.blob.core.chinacloudapi.cn"),
            (Audience::KeyVault, "*.vault.azure.net"),
            (Audience::KeyVault, "*.x.vault.azure.net"),
            (Audience::Databricks, "*.azuredatabricks.net"),
            (Audience::Metrics, "management.azure.com"),
        ] {
            for foreign in [false, true] {
                assert!(check(audience, host, foreign).is_err(), "{audience:?} {host}");
            }
        }
        for (audience, host) in [
            (Audience::ResourceManagement, "management.azure.com:443"),
            (Audience::Metrics, "eastus.metrics.monitor.azure.com"),
            (Audience::Metrics, "*.metrics.monitor.azure.com"),
            (Audience::Storage, "mine.z01.blob.storage.azure.net"),
            (Audience::Storage, "mine-secondary.blob.core.windows.net"),
            (Audience::Databricks, "adb-1.2.azuredatabricks.net"),
        ] {
            assert_eq!(check(audience, host, false), Ok(()), "{audience:?} {host}");
        }
        for host in [
            "blob.core.windows.net",
            "management.azure.com.evil.test",
            "xmanagement.azure.com",
            "10.0.0.7",
            "[::1]:8080",
        ] {
            let refused = check(Audience::ResourceManagement, host, false).unwrap_err();
            assert!(refused.contains("allow_foreign_hosts"), "{refused}");
            assert_eq!(check(Audience::ResourceManagement, host, true), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_token_for_one_service_misses_the_hosts_of_another_both_ways() {
        let workspace = "adb-1.2.azuredatabricks.net";
        let (management, databricks) = ("https://management.azure.com", DATABRICKS);
        for (audience, host, expected) in [
            (management, workspace, Aim::Misses(databricks.into())),
            (databricks, "management.azure.com", Aim::Misses(management.into())),
            (management, "*.azuredatabricks.net", Aim::Misses(databricks.into())),
            (management, "management.chinacloudapi.cn", Aim::Misses("https://management.chinacloudapi.cn".into())),
            ("https://a.blob.core.windows.net", "b.blob.core.windows.net", Aim::Misses(STORAGE.into())),
            ("https://a.blob.core.windows.net", "management.azure.com", Aim::Misses(management.into())),
            (databricks, workspace, Aim::Fits),
            (databricks, "*.azuredatabricks.net", Aim::Fits),
            ("https://Management.azure.com/", "management.azure.com:443", Aim::Fits),
            ("https://management.core.windows.net/", "management.azure.com", Aim::Fits),
            (MANAGEMENT_APP, "management.usgovcloudapi.net", Aim::Fits),
            (STORAGE, "a.blob.core.windows.net", Aim::Fits),
            ("https://a.blob.core.windows.net", "a.blob.core.windows.net", Aim::Fits),
            ("https://a.blob.core.windows.net", "*.blob.core.windows.net", Aim::Unknown),
            ("https://api.example.com", "api.example.com", Aim::Fits),
            ("https://api.example.com", "other.example.com", Aim::Unknown),
            ("api://mine", "management.azure.com", Aim::Unknown),
            (management, "gateway.example.com", Aim::Unknown),
            (management, "*.azure.com", Aim::Unknown),
        ] {
            assert_eq!(aim(audience, host), expected, "{audience} {host}");
        }
    }
}
