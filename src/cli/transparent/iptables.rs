//! The rules in the language of `iptables-restore`, for each family, in chains of our own: what others wrote is not touched.

use std::fmt::Write;

use super::rules::{Family, MARK, Plan, Ports, Whose};

/// Begins the names of our chains, and of nobody else's.
pub(super) const PREFIX: &str = "COUNTERSIGN_";

/// The mark, as a match and for TPROXY.
fn mark() -> String {
    format!("{MARK:#x}/0xffffffff")
}

/// One of iptables' tables: chains with their rules, and from where they are reached.
struct Table {
    name: &'static str,
    chains: Vec<(&'static str, Vec<String>)>,
    hooks: Vec<(&'static str, &'static str)>,
}

/// The script for `iptables-restore --noflush`. What closes comes before what captures, so that nothing passes in between.
pub(super) fn script(plan: &Plan, family: Family, stamp: &str) -> String {
    let mut script = String::new();
    for table in tables(plan, family) {
        // An empty chain says by which options the table was made.
        let _ = writeln!(script, "*{}\n:{PREFIX}{stamp} - [0:0]", table.name);
        for (chain, _) in &table.chains {
            let _ = writeln!(script, ":{PREFIX}{chain} - [0:0]");
        }
        for (chain, rules) in &table.chains {
            for rule in rules {
                let _ = writeln!(script, "-A {PREFIX}{chain} {rule}");
            }
        }
        for (hook, chain) in &table.hooks {
            let _ = writeln!(script, "-I {hook} 1 -j {PREFIX}{chain}");
        }
        script.push_str("COMMIT\n");
    }
    script
}

/// The names of the tables in [`script`].
pub(super) fn table_names(plan: &Plan, family: Family) -> Vec<&'static str> {
    tables(plan, family).iter().map(|table| table.name).collect()
}

fn tables(plan: &Plan, family: Family) -> Vec<Table> {
    let mut tables = Vec::new();
    if plan.only_way_out {
        tables.push(way_out(plan, family));
    }
    if plan.captured().contains(&family) {
        tables.push(capture(plan, family));
    }
    tables
}

/// Which connections, and what becomes of them.
fn capture(plan: &Plan, family: Family) -> Table {
    let mut rules: Vec<String> = Vec::new();
    let (hook, tproxy_from) = match &plan.whose {
        Whose::Output { only, not } => {
            if plan.tproxy {
                // Later packets go where the first went, whether or not the program still holds the socket.
                rules.push("-m conntrack --ctdir REPLY -j RETURN".into());
                rules.push(format!("-m connmark --mark {} -j MARK --set-xmark {}", mark(), mark()));
                rules.push("-m conntrack ! --ctstate NEW -j RETURN".into());
            }
            rules.push("-o lo -j RETURN".into());
            rules.extend(not.iter().map(|uid| format!("-m owner --uid-owner {uid} -j RETURN")));
            if plan.ports.cover(53) {
                let known = plan.resolvers_of(family);
                rules.extend(known.iter().map(|resolver| format!("-d {resolver} -p tcp --dport 53 -j RETURN")));
            }
            if only.is_empty() {
                rules.push(format!("-j {PREFIX}TAKE"));
            }
            rules.extend(only.iter().map(|uid| format!("-m owner --uid-owner {uid} -j {PREFIX}TAKE")));
            ("OUTPUT", Some("-i lo"))
        }
        Whose::Prerouting { interfaces } => {
            if plan.tproxy {
                rules.push("-m conntrack --ctdir REPLY -j RETURN".into());
            }
            rules.push("-m addrtype --dst-type LOCAL -j RETURN".into());
            rules.extend(interfaces.iter().map(|interface| format!("-i {interface} -j {PREFIX}TAKE")));
            ("PREROUTING", None)
        }
    };
    if !plan.tproxy {
        let take = each_port(plan, &format!("REDIRECT --to-ports {}", plan.port));
        return Table { name: "nat", chains: vec![("CAPTURE", rules), ("TAKE", take)], hooks: vec![(hook, "CAPTURE")] };
    }
    let hand_over = format!("TPROXY --on-port {} --tproxy-mark {}", plan.port, mark());
    let Some(from) = tproxy_from else {
        let chains = vec![("CAPTURE", rules), ("TAKE", each_port(plan, &hand_over))];
        return Table { name: "mangle", chains, hooks: vec![(hook, "CAPTURE")] };
    };
    let marks = vec![format!("-j CONNMARK --set-xmark {}", mark()), format!("-j MARK --set-xmark {}", mark())];
    let back = vec![format!("{from} -p tcp -m mark --mark {} -j {hand_over}", mark())];
    Table {
        name: "mangle",
        chains: vec![
            ("CAPTURE", rules),
            ("TAKE", each_port(plan, &format!("{PREFIX}MARK"))),
            ("MARK", marks),
            ("TPROXY", back),
        ],
        hooks: vec![("PREROUTING", "TPROXY"), (hook, "CAPTURE")],
    }
}

/// A rule for each port: one that lists them takes fifteen at most.
fn each_port(plan: &Plan, target: &str) -> Vec<String> {
    match &plan.ports {
        Ports::All => vec![format!("-p tcp -j {target}")],
        Ports::Some(ports) => ports.iter().map(|port| format!("-p tcp --dport {port} -j {target}")).collect(),
    }
}

/// What is left of the way out.
fn way_out(plan: &Plan, family: Family) -> Table {
    let (loopback, icmp, unreachable) = match family {
        Family::V4 => ("127.0.0.0/8", "icmp", "icmp-port-unreachable"),
        Family::V6 => ("::1/128", "ipv6-icmp", "icmp6-port-unreachable"),
    };
    // By address as well: what was redirected a moment ago has loopback's address, and still the old interface.
    let mut rules = vec![
        "-o lo -j RETURN".to_owned(),
        format!("-d {loopback} -j RETURN"),
        "-m conntrack --ctdir REPLY -j RETURN".into(),
    ];
    if plan.tproxy {
        rules.push(format!("-p tcp -m mark --mark {} -j RETURN", mark()));
    }
    if let Whose::Output { only, not } = &plan.whose {
        rules.extend(not.iter().map(|uid| format!("-m owner --uid-owner {uid} -j RETURN")));
        for resolver in plan.resolvers_of(family) {
            rules.extend(["udp", "tcp"].map(|protocol| format!("-d {resolver} -p {protocol} --dport 53 -j RETURN")));
        }
        rules.push(format!("-p {icmp} -j RETURN"));
        rules.extend(only.iter().map(|uid| format!("-m owner --uid-owner {uid} -j {PREFIX}REFUSE")));
        if only.is_empty() {
            // What has no owner any more belongs to a connection that was let through, or goes nowhere.
            rules.push(format!("-m owner --uid-owner 0-4294967294 -j {PREFIX}REFUSE"));
            rules.push("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".into());
            rules.push(format!("-j {PREFIX}REFUSE"));
        }
    }
    let refuse =
        vec!["-p tcp -j REJECT --reject-with tcp-reset".to_owned(), format!("-j REJECT --reject-with {unreachable}")];
    Table { name: "filter", chains: vec![("REFUSE", refuse), ("WAY_OUT", rules)], hooks: vec![("OUTPUT", "WAY_OUT")] }
}

/// One table of ours, as `iptables-save` told of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub table: String,
    /// The options that made it, if it says so.
    pub stamp: Option<String>,
    /// The lines that are ours.
    pub text: String,
    /// The script that removes them.
    pub removal: String,
}

/// Finds what is ours in what `iptables-save` printed.
pub(super) fn saved(text: &str) -> Vec<Saved> {
    let mut found = Vec::new();
    for table in text.split("\n*").map(|part| part.trim_start_matches('*')) {
        // What precedes the first table is a comment.
        let mut lines = table.lines().skip_while(|line| line.starts_with('#'));
        let name = lines.next().unwrap_or_default().trim_start_matches('*');
        let chains: Vec<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next().filter(|chain| chain.starts_with(PREFIX)))
            .collect();
        if chains.is_empty() {
            continue;
        }
        let jumps_to_us =
            |line: &&str| line.starts_with(&format!("-A {PREFIX}")) || line.contains(&format!(" -j {PREFIX}"));
        let rules: Vec<&str> = table.lines().filter(|line| line.starts_with("-A ")).filter(jumps_to_us).collect();
        let foreign = rules.iter().filter_map(|line| line.strip_prefix("-A ")).filter(|line| !line.starts_with(PREFIX));
        let steps =
            foreign.map(|line| format!("-D {line}\n")).chain(chains.iter().map(|chain| format!("-F {chain}\n")));
        let steps: String = steps.chain(chains.iter().map(|chain| format!("-X {chain}\n"))).collect();
        let stamp = chains.iter().filter_map(|chain| chain.strip_prefix(PREFIX)).find(|rest| is_stamp(rest));
        let lines: String = chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
        let rules: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        found.push(Saved {
            table: name.to_owned(),
            stamp: stamp.map(ToOwned::to_owned),
            text: format!("*{name}\n{lines}{rules}"),
            removal: format!("*{name}\n{steps}COMMIT\n"),
        });
    }
    found
}

/// Twelve digits of a digest; no chain of ours has such a name.
fn is_stamp(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated by iptables-save\n*nat\n:OUTPUT ACCEPT [0:0]\n:COUNTERSIGN_0A1B2C3D4E5F - [0:0]\n:COUNTERSIGN_CAPTURE - [0:0]\n\
        :OTHER - [0:0]\n-A OUTPUT -j COUNTERSIGN_CAPTURE\n-A OUTPUT -j OTHER\n-A COUNTERSIGN_CAPTURE -o lo -j RETURN\nCOMMIT\n# Completed\n\
        # Generated by iptables-save\n*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n";

    #[test]
    fn what_is_ours_is_found_in_a_saved_table_and_removed_without_touching_what_is_not() {
        let found = saved(SAVED);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].table.as_str(), found[0].stamp.as_deref()), ("nat", Some("0A1B2C3D4E5F")));
        assert_eq!(
            found[0].removal,
            "*nat\n-D OUTPUT -j COUNTERSIGN_CAPTURE\n-F COUNTERSIGN_0A1B2C3D4E5F\n-F COUNTERSIGN_CAPTURE\n\
             -X COUNTERSIGN_0A1B2C3D4E5F\n-X COUNTERSIGN_CAPTURE\nCOMMIT\n"
        );
        assert!(!found[0].text.contains("OTHER"), "{}", found[0].text);
        assert!(found[0].text.contains("-A COUNTERSIGN_CAPTURE -o lo -j RETURN"), "{}", found[0].text);
    }

    #[test]
    fn a_host_without_our_chains_has_nothing_of_ours() {
        assert_eq!(saved(""), []);
        assert_eq!(saved("*nat\n:OUTPUT ACCEPT [0:0]\n:MY_COUNTERSIGN_X - [0:0]\nCOMMIT\n"), []);
    }
}
