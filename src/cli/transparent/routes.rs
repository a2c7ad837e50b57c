//! What TPROXY needs beside rules: packets with our mark are for this host, whatever their address.

use super::rules::{Family, MARK};

/// The option of `ip` for a family.
pub(super) fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// The two commands that make it so for a family.
pub(super) fn add(family: Family) -> [Vec<String>; 2] {
    // The route first: a rule without it would say nothing of where such a packet goes.
    [
        words(&format!("{} route add local default dev lo table {MARK}", option(family))),
        words(&format!("{} rule add pref {MARK} fwmark {MARK:#x} lookup {MARK}", option(family))),
    ]
}

/// What lists the rules of a family.
pub(super) fn list_rules(family: Family) -> Vec<String> {
    words(&format!("{} rule show", option(family)))
}

/// What lists the routes of a family. A table that has none is not there, and asking for it would be an error.
pub(super) fn list_routes(family: Family) -> Vec<String> {
    words(&format!("{} route show table all", option(family)))
}

/// Our line in what [`list_rules`] printed.
pub(super) fn our_rule(listed: &str) -> Option<&str> {
    listed.lines().find(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first() == Some(&format!("{MARK}:").as_str()) && pair(&words, "lookup", &MARK.to_string())
    })
}

/// Our line in what [`list_routes`] printed.
pub(super) fn our_route(listed: &str) -> Option<&str> {
    listed.lines().find(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&["local", "default"]) && pair(&words, "table", &MARK.to_string())
    })
}

/// What takes the rule away.
pub(super) fn delete_rule(family: Family) -> Vec<String> {
    words(&format!("{} rule del pref {MARK} fwmark {MARK:#x} lookup {MARK}", option(family)))
}

/// What takes the route away.
pub(super) fn delete_route(family: Family) -> Vec<String> {
    words(&format!("{} route del local default dev lo table {MARK}", option(family)))
}

/// Whether one word follows another.
fn pair(words: &[&str], key: &str, value: &str) -> bool {
    words.windows(2).any(|two| two == [key, value])
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rule_and_route_are_told_from_those_of_others() {
        let rules =
            "0:\tfrom all lookup local\n17235:\tfrom all fwmark 0x4353 lookup 17235\n32766:\tfrom all lookup main\n";
        assert_eq!(our_rule(rules), Some("17235:\tfrom all fwmark 0x4353 lookup 17235"));
        let routes = "default via 10.0.0.1 dev eth0\nlocal default dev lo table 17235 scope host\nlocal 127.0.0.1 dev lo table local\n";
        assert_eq!(our_route(routes), Some("local default dev lo table 17235 scope host"));
        assert_eq!(our_rule("100:\tfrom all fwmark 0x4353 lookup 100\n"), None);
        assert_eq!(our_route("local default dev lo table 100 scope host\ndefault dev lo table 17235\n"), None);
    }
}
