//! Golden scripts (`tests/transparent/`), and the options that go together.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    up: Up,
}

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nproxy:x:65532:65532::/:/bin/false\n";
const RESOLV_CONF: &str = "nameserver 10.0.0.10\nnameserver fd00::10\n";

fn plan(line: &str) -> Result<Plan, String> {
    let line = Line::try_parse_from(std::iter::once("up").chain(line.split_whitespace())).map_err(|e| e.to_string())?;
    line.up.plan(PASSWD, || RESOLV_CONF.into())
}

/// What is fed for a plan, as `--dry-run` prints it, with a stamp that stands still.
fn printed(plan: &Plan, tool: Tool, cut: nft::Cut) -> String {
    let steps = super::steps::steps(plan, tool, cut, "0123456789AB");
    steps.iter().map(|step| format!("# {} {}\n{}", step.program, step.arguments.join(" "), step.input)).collect()
}

#[test]
fn the_scripts_are_those_that_were_reviewed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transparent");
    let cases = [
        ("output", "--exclude-uid 65532"),
        ("output_uids", "--uid 1000,1001 --exclude-uid proxy --ports 443"),
        ("output_all", "--exclude-uid 65532 --ports all --port 15999"),
        ("output_ipv4", "--exclude-uid 65532 --ipv4-only"),
        ("way_out", "--exclude-uid 65532 --only-way-out"),
        ("way_out_uids", "--uid 1000 --only-way-out --dns 10.9.9.9"),
        ("way_out_ipv4", "--exclude-uid 65532 --only-way-out --ipv4-only"),
        ("way_out_tproxy", "--exclude-uid 65532 --only-way-out --tproxy"),
        ("prerouting", "--for prerouting --interface eth1,eth2"),
        ("prerouting_all_ipv4", "--for prerouting --interface eth1 --ports all --ipv4-only"),
        ("prerouting_tproxy", "--for prerouting --interface eth1 --tproxy"),
    ];
    let mut differ = Vec::new();
    for (name, line) in cases {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for (ending, tool, cut) in [
            ("nft", Tool::Nft, nft::Cut::Inet),
            ("split.nft", Tool::Nft, nft::Cut::Split),
            ("rules", Tool::Iptables, nft::Cut::Inet),
        ] {
            let path = folder.join(format!("{name}.{ending}"));
            let now = format!("# countersign transparent up {line}\n{}", printed(&plan, tool, cut));
            if std::fs::read_to_string(&path).unwrap_or_default() != now {
                // Written where it can be compared; whoever reviewed it moves it.
                let new = std::env::temp_dir().join(path.file_name().unwrap());
                std::fs::write(&new, &now).unwrap();
                differ.push(format!("{} differs from {}", path.display(), new.display()));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn options_that_do_not_go_together_are_refused_with_what_to_write() {
    for (line, says) in [
        ("", "--exclude-uid"),
        ("--for prerouting", "--interface"),
        ("--for prerouting --interface eth0 --uid 1", "--uid goes with --for output"),
        ("--for prerouting --interface eth0 --exclude-uid 1", "--exclude-uid goes with"),
        ("--for prerouting --interface eth0 --only-way-out", "--only-way-out goes with"),
        ("--for prerouting --interface eth0 --dns 1.1.1.1", "--dns goes with"),
        ("--for prerouting --interface eth+", "whole name"),
        ("--exclude-uid 1 --interface eth0", "--for prerouting"),
        ("--exclude-uid 1 --uid 1", "both"),
        ("--exclude-uid nobody-here", "no user"),
        ("--exclude-uid 1 --ports 80,all", "--ports"),
        ("--exclude-uid 1 --port 0", "--port"),
        ("--exclude-uid 1 --dns example.com", "--dns"),
        ("--exclude-uid 1 --tool ipfw", "--tool"),
    ] {
        let refused = plan(line).expect_err(line);
        assert!(refused.contains(says), "{line}: {refused}");
    }
    assert!(plan("--exclude-uid 1").is_ok() && plan("--uid 1").is_ok());
}

#[test]
fn other_options_make_another_stamp_and_the_same_in_another_order_the_same() {
    let stamp = |line: &str| steps::stamp(&plan(line).unwrap(), Tool::Nft);
    assert_eq!(stamp("--exclude-uid 1,2 --ports 443,80"), stamp("--ports 80,443 --exclude-uid 2 --exclude-uid 1"));
    assert_ne!(stamp("--exclude-uid 1"), stamp("--exclude-uid 2"));
    assert_ne!(stamp("--exclude-uid 1"), stamp("--exclude-uid 1 --only-way-out"));
    assert_eq!(stamp("--exclude-uid 1").len(), 12);
}

#[test]
fn the_capability_is_read_from_the_effective_set() {
    assert!(has_net_admin("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n"));
    assert!(has_net_admin("CapEff:\t000001ffffffffff\n"));
    assert!(!has_net_admin("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffefff\n"));
    assert!(!has_net_admin("CapEff:\t\n") && !has_net_admin(""));
}
