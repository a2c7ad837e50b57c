//! The rules in the language of `nft`: one table, loaded whole in one transaction or not at all.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::rules::{Family, MARK, Plan, Ports, Whose};

/// The name of our tables.
pub(super) const TABLE: &str = "countersign";

/// Begins the name of the empty chain that says by which options a table was made.
pub(super) const STAMP: &str = "as_";

/// How tables are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// One for both families.
    Inet,
    /// One for each: kernels before 5.2 have no NAT in `inet`.
    Split,
}

/// The script for `nft -f -`.
pub(super) fn script(plan: &Plan, cut: Cut, stamp: &str) -> String {
    match cut {
        Cut::Inet => table(plan, None, stamp),
        Cut::Split => plan.ruled().iter().map(|family| table(plan, Some(*family), stamp)).collect(),
    }
}

/// The families of the tables in [`script`], as nft calls them.
pub(super) fn tables(plan: &Plan, cut: Cut) -> Vec<&'static str> {
    match cut {
        Cut::Inet => vec!["inet"],
        Cut::Split => plan.ruled().iter().map(|family| name(*family)).collect(),
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// A set, as rules name it.
fn set<T: Display>(of: impl IntoIterator<Item = T>) -> String {
    let members: Vec<String> = of.into_iter().map(|one| one.to_string()).collect();
    format!("{{ {} }}", members.join(", "))
}

/// A table for one family, or for both.
fn table(plan: &Plan, family: Option<Family>, stamp: &str) -> String {
    let mut chains = vec![format!("\tchain {STAMP}{stamp} {{\n\t}}\n")];
    let captured = family.is_none_or(|family| plan.captured().contains(&family));
    match &plan.whose {
        Whose::Output { only, not } if captured => output(plan, family, only, not, &mut chains),
        Whose::Prerouting { interfaces } if captured => chains.push(prerouting(plan, family, interfaces)),
        _ => {}
    }
    if let Whose::Output { only, not } = &plan.whose
        && plan.only_way_out
    {
        way_out(plan, family, only, not, &mut chains);
    }
    format!("table {} {TABLE} {{\n{}}}\n", family.map_or("inet", name), chains.join("\n"))
}

fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let hook = if hook.is_empty() { String::new() } else { format!("\t\t{hook}; policy accept;\n") };
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    format!("\tchain {name} {{\n{hook}{rules}\t}}\n")
}

/// What is said of the addresses' family where a table has both but only one is captured.
fn of_family(plan: &Plan, family: Option<Family>) -> &'static str {
    if plan.ipv4_only && family.is_none() { "meta nfproto ipv4 " } else { "" }
}

/// The ports that are captured, as a match.
fn ports(plan: &Plan) -> String {
    match &plan.ports {
        Ports::All => "meta l4proto tcp".into(),
        Ports::Some(ports) => format!("tcp dport {}", set(ports)),
    }
}

/// A rule for the resolvers of each family that the table has, where there are any.
fn to_resolvers(plan: &Plan, family: Option<Family>, protocols: &str, verdict: &str, rules: &mut Vec<String>) {
    for each in Family::ALL.into_iter().filter(|each| family.is_none_or(|family| family == *each)) {
        let known = plan.resolvers_of(each);
        if !known.is_empty() {
            rules.push(format!("{} daddr {} {protocols} dport 53 {verdict}", name(each), set(known)));
        }
    }
}

/// What programs of this host open.
fn output(plan: &Plan, family: Option<Family>, only: &BTreeSet<u32>, not: &BTreeSet<u32>, chains: &mut Vec<String>) {
    let mut rules = Vec::new();
    if plan.tproxy {
        // Later packets go where the first went, whether or not the program still holds the socket.
        rules.push("ct direction reply return".into());
        rules.push(format!("ct mark {MARK:#x} meta mark set {MARK:#x} accept"));
        rules.push("ct state != new return".into());
    }
    rules.push("oifname \"lo\" return".into());
    if !not.is_empty() {
        rules.push(format!("meta skuid {} return", set(not)));
    }
    if plan.ports.cover(53) {
        to_resolvers(plan, family, "tcp", "return", &mut rules);
    }
    let whose = if only.is_empty() { String::new() } else { format!("meta skuid {} ", set(only)) };
    let what = format!("{}{whose}{}", of_family(plan, family), ports(plan));
    if !plan.tproxy {
        rules.push(format!("{what} redirect to :{}", plan.port));
        chains.push(chain("output", "type nat hook output priority -100", &rules));
        return;
    }
    rules.push(format!("{what} ct mark set {MARK:#x} meta mark set {MARK:#x}"));
    chains.push(chain("output", "type route hook output priority -150", &rules));
    let back = format!("iifname \"lo\" meta l4proto tcp meta mark {MARK:#x} tproxy to :{} accept", plan.port);
    chains.push(chain("prerouting", "type filter hook prerouting priority -150", &[back]));
}

/// What comes in for others.
fn prerouting(plan: &Plan, family: Option<Family>, interfaces: &BTreeSet<String>) -> String {
    let from = format!("iifname {}", set(interfaces.iter().map(|interface| format!("\"{interface}\""))));
    let what = format!("{}{from} {}", of_family(plan, family), ports(plan));
    let ours = "fib daddr type local return".to_owned();
    if !plan.tproxy {
        let rules = [ours, format!("{what} redirect to :{}", plan.port)];
        return chain("prerouting", "type nat hook prerouting priority -100", &rules);
    }
    // Marked first: where nobody listens the packet is still ours, and is refused rather than forwarded.
    let rules = [
        "ct direction reply return".to_owned(),
        ours,
        format!("{what} meta mark set {MARK:#x}"),
        format!("{from} meta l4proto tcp meta mark {MARK:#x} tproxy to :{} accept", plan.port),
    ];
    chain("prerouting", "type filter hook prerouting priority -150", &rules)
}

/// What is left of the way out.
fn way_out(plan: &Plan, family: Option<Family>, only: &BTreeSet<u32>, not: &BTreeSet<u32>, chains: &mut Vec<String>) {
    // By address as well: what was redirected a moment ago has loopback's address, and still the old interface.
    let mut rules = vec!["oifname \"lo\" accept".to_owned()];
    if family != Some(Family::V6) {
        rules.push("ip daddr 127.0.0.0/8 accept".into());
    }
    if family != Some(Family::V4) {
        rules.push("ip6 daddr ::1 accept".into());
    }
    rules.push("ct direction reply accept".into());
    if plan.tproxy {
        rules.push(format!("meta l4proto tcp meta mark {MARK:#x} accept"));
    }
    if !not.is_empty() {
        rules.push(format!("meta skuid {} accept", set(not)));
    }
    to_resolvers(plan, family, "meta l4proto { tcp, udp } th", "accept", &mut rules);
    rules.push("meta l4proto { icmp, ipv6-icmp } accept".into());
    if only.is_empty() {
        // What has no owner any more belongs to a connection that was let through, or goes nowhere.
        rules.push("meta skuid 0-4294967294 jump refuse".into());
        rules.push("ct state established,related accept".into());
        rules.push("jump refuse".into());
    } else {
        rules.push(format!("meta skuid {} jump refuse", set(only)));
    }
    let refuse = ["meta l4proto tcp reject with tcp reset".to_owned(), "reject".to_owned()];
    chains.push(chain("refuse", "", &refuse));
    chains.push(chain("way_out", "type filter hook output priority 0", &rules));
}
