//! What `up` runs, in order, and where its rules then stand.

use std::collections::BTreeSet;

use super::rules::{Family, Plan};
use super::{Tool, iptables, nft, routes};

/// A program to run, and what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub program: &'static str,
    pub arguments: Vec<String>,
    pub input: String,
}

impl Step {
    pub(super) fn new(program: &'static str, arguments: &[&str], input: String) -> Self {
        Self { program, arguments: arguments.iter().map(|one| (*one).to_owned()).collect(), input }
    }

    pub(super) fn ip(arguments: Vec<String>) -> Self {
        Self { program: "ip", arguments, input: String::new() }
    }
}

/// A program that could not be asked, and why.
pub(super) type Silent = (&'static str, String);

/// Where something of ours may stand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A table of nft, by its family.
    Nft(String),
    /// One of iptables' tables.
    Iptables(Family, String),
    /// The rule that looks up our route table.
    Rule(Family),
    /// The route in it.
    Route(Family),
}

impl Place {
    /// The tool that put it there.
    pub(super) fn tool(&self) -> &'static str {
        match self {
            Self::Nft(_) => "nft",
            Self::Iptables(Family::V4, _) => "iptables",
            Self::Iptables(Family::V6, _) => "ip6tables",
            Self::Rule(_) | Self::Route(_) => "ip",
        }
    }

    /// What it is, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Nft(family) => format!("table {family} {}", nft::TABLE),
            Self::Iptables(_, table) => format!("chains {}* in table {table}", iptables::PREFIX),
            Self::Rule(family) => format!("{} rule", routes::option(*family)),
            Self::Route(family) => format!("{} route", routes::option(*family)),
        }
    }
}

/// Something of ours that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub place: Place,
    /// By which options it was made; routes do not say.
    pub stamp: Option<String>,
    pub text: String,
    pub remove: Step,
}

/// The steps of `up`, in order.
pub(super) fn steps(plan: &Plan, tool: Tool, cut: nft::Cut, stamp: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    if plan.tproxy {
        steps.extend(plan.captured().iter().flat_map(|family| routes::add(*family)).map(Step::ip));
    }
    match tool {
        Tool::Nft => steps.push(Step::new("nft", &["-f", "-"], nft::script(plan, cut, stamp))),
        Tool::Iptables => steps.extend(plan.ruled().iter().map(|family| {
            Step::new(restore(*family), &["--noflush", "-w", "10"], iptables::script(plan, *family, stamp))
        })),
    }
    steps
}

/// The places that those steps fill.
pub(super) fn places(plan: &Plan, tool: Tool, cut: nft::Cut) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    if plan.tproxy {
        places.extend(plan.captured().iter().flat_map(|family| [Place::Rule(*family), Place::Route(*family)]));
    }
    match tool {
        Tool::Nft => places.extend(nft::tables(plan, cut).into_iter().map(|family| Place::Nft(family.to_owned()))),
        Tool::Iptables => places.extend(plan.ruled().iter().flat_map(|family| {
            let tables = iptables::table_names(plan, *family);
            tables.into_iter().map(|table| Place::Iptables(*family, table.to_owned()))
        })),
    }
    places
}

/// A digest of what would be written: equal scripts are the same rules.
pub(super) fn stamp(plan: &Plan, tool: Tool) -> String {
    let text: String = steps(plan, tool, nft::Cut::Inet, "").into_iter().map(|step| step.input).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02X}")).collect()
}

/// What loads iptables' tables of a family.
pub(super) fn restore(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}
