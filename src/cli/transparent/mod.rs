//! `countersign transparent up|down|show`: the rules of the kernel that lead connections to the transparent listener.
//!
//! **Writes into one table, or chains, of its own name, and touches nothing else. Never runs a shell.**

mod apply;
mod iptables;
mod nft;
mod routes;
mod rules;
mod steps;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use self::apply::Tools;
use self::rules::{Plan, Ports, Whose};
use self::steps::Found;
use super::{Context, Failure, variable};

/// The bit of CAP_NET_ADMIN in a set of capabilities.
const NET_ADMIN: u32 = 12;

#[derive(Args)]
#[command(after_help = "Examples:\n  countersign transparent up --exclude-uid 65532 --dry-run\n  \
                        countersign transparent up --exclude-uid 65532 --only-way-out\n  \
                        countersign transparent up --for prerouting --interface eth1\n  countersign transparent down")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lead connections to the transparent listener: all of the rules, or none
    Up(Up),
    /// Remove every rule and route of ours, also what an interrupted `up` left
    Down,
    /// Print what is there of ours; 1 if there is nothing
    Show {
        /// JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Up {
    /// Which connections: those that programs of this host open, or those that come in for others
    #[arg(long = "for", value_enum, default_value_t = Way::Output, value_name = "WHICH")]
    way: Way,
    /// The port of our transparent listener
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The TCP ports to capture, or `all`
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_value = "80,443")]
    ports: Vec<String>,
    /// Capture what these users open, by uid or name, and nothing else [default: everybody but us]
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    uid: Vec<String>,
    /// Never capture what these users open: Countersign itself, which would call itself
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    exclude_uid: Vec<String>,
    /// With `--for prerouting`: the interfaces on which connections come in
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    interface: Vec<String>,
    /// Reject whatever else those users send, by IPv4 and IPv6, but loopback, ICMP and DNS
    #[arg(long)]
    only_way_out: bool,
    /// The resolvers that may be asked past us [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    dns: Vec<IpAddr>,
    /// Hand connections over with TPROXY instead of redirecting them (`tproxy: true` of the listener)
    #[arg(long)]
    tproxy: bool,
    /// The tool that writes the rules [default: nft if it is there, else iptables]
    #[arg(long, value_enum)]
    tool: Option<Tool>,
    /// Capture IPv4 alone
    #[arg(long)]
    ipv4_only: bool,
    /// Print exactly what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Output,
    Prerouting,
}

/// What writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Tool {
    Nft,
    Iptables,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let tools = Tools::new(variable(context, "PATH").as_deref());
    match &arguments.what {
        What::Up(up) => raise(&tools, up),
        What::Down => lower(&tools),
        What::Show { json } => show(&tools, *json),
    }
}

fn raise(tools: &Tools, up: &Up) -> Result<u8, Failure> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let plan = up.plan(&read("/etc/passwd"), || read("/etc/resolv.conf")).map_err(Failure::Usage)?;
    let tool = tools.choose(up.tool);
    if up.dry_run {
        for step in steps::steps(&plan, tool, nft::Cut::Inet, &steps::stamp(&plan, tool)) {
            // What is fed is all that has no `#` before it.
            say!("# {} {}", step.program, step.arguments.join(" "));
            if !step.input.is_empty() {
                say!("{}", step.input.trim_end());
            }
        }
        return Ok(0);
    }
    may_change()?;
    if tools.up(&plan, tool).map_err(Failure::Other)? {
        say!("up, by {}; undo it with `countersign transparent down`", tool.name());
    } else {
        say!("up already, with just these options");
    }
    Ok(0)
}

fn lower(tools: &Tools) -> Result<u8, Failure> {
    may_change()?;
    let gone = tools.down().map_err(Failure::Other)?;
    if gone.is_empty() {
        say!("nothing of ours was there");
    }
    for one in gone {
        say!("removed, by {}: {}", one.place.tool(), one.place.words());
    }
    Ok(0)
}

fn show(tools: &Tools, as_json: bool) -> Result<u8, Failure> {
    may_change()?;
    let (found, silent) = tools.look().map_err(Failure::Other)?;
    for (_, why) in &silent {
        eprintln!("countersign: it cannot be told what else is there: {why}");
    }
    if as_json {
        let one =
            |found: &Found| json!({ "tool": found.place.tool(), "what": found.place.words(), "text": found.text });
        say!("{:#}", json!({ "up": !found.is_empty(), "found": found.iter().map(one).collect::<Vec<_>>() }));
    } else if found.is_empty() {
        say!("nothing of ours is there");
    } else {
        for one in &found {
            say!("# {}: {}\n{}", one.place.tool(), one.place.words(), one.text.trim_end());
        }
    }
    Ok(u8::from(found.is_empty()))
}

impl Up {
    /// The options, checked together.
    fn plan(&self, passwd: &str, resolv_conf: impl FnOnce() -> String) -> Result<Plan, String> {
        let uids = |texts: &[String]| texts.iter().map(|text| rules::uid(text, passwd)).collect::<Result<_, _>>();
        let whose = match self.way {
            Way::Output => self.output(uids(&self.uid)?, uids(&self.exclude_uid)?)?,
            Way::Prerouting => self.prerouting()?,
        };
        let ports = Ports::read(&self.ports)?;
        // Names are asked for by TCP as well, which must not come to us.
        let ask = self.way == Way::Output && (self.only_way_out || ports.cover(53));
        let resolvers = match () {
            () if !self.dns.is_empty() => self.dns.iter().copied().filter(|address| !address.is_loopback()).collect(),
            () if ask => rules::resolvers(&resolv_conf()),
            () => BTreeSet::new(),
        };
        Ok(Plan {
            whose,
            port: self.port,
            ports,
            tproxy: self.tproxy,
            ipv4_only: self.ipv4_only,
            only_way_out: self.only_way_out,
            resolvers,
        })
    }

    fn output(&self, only: BTreeSet<u32>, not: BTreeSet<u32>) -> Result<Whose, String> {
        if !self.interface.is_empty() {
            return Err("--interface goes with --for prerouting: what programs of this host open is told by uid".into());
        }
        if only.is_empty() && not.is_empty() {
            return Err(
                "say whose connections: --exclude-uid with the uid that Countersign runs as (65532 in its image), \
                        or --uid with those to capture; without either it would call itself"
                    .into(),
            );
        }
        if let Some(both) = only.intersection(&not).next() {
            return Err(format!("{both} stands in both --uid and --exclude-uid"));
        }
        Ok(Whose::Output { only, not })
    }

    fn prerouting(&self) -> Result<Whose, String> {
        let misplaced = [
            ("--uid", !self.uid.is_empty()),
            ("--exclude-uid", !self.exclude_uid.is_empty()),
            ("--only-way-out", self.only_way_out),
            ("--dns", !self.dns.is_empty()),
        ];
        if let Some((option, _)) = misplaced.iter().find(|(_, given)| *given) {
            return Err(format!("{option} goes with --for output: of what comes in from others no uid is known"));
        }
        if self.interface.is_empty() {
            return Err(
                "say from where: --interface with each interface on which the connections to capture come in".into()
            );
        }
        let interfaces = self.interface.iter().map(|name| rules::interface(name)).collect::<Result<_, _>>()?;
        Ok(Whose::Prerouting { interfaces })
    }
}

/// The kernel would say no as well, but half-way and in its own words.
fn may_change() -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_net_admin(&status) {
        return Ok(());
    }
    Err(Failure::Other(
        "this needs the capability NET_ADMIN: run as root or give CAP_NET_ADMIN (in a container: `capabilities: { add: [NET_ADMIN] }`); \
         --dry-run needs nothing"
            .into(),
    ))
}

/// Whether the effective set of a process has NET_ADMIN, by its `/proc/…/status`.
fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> NET_ADMIN & 1 == 1)
}
