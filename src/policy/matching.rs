//! Which credentials fit a block of a template, how well, and why the others do not.

use std::collections::BTreeMap;

use serde::Serialize;

use super::candidate::Candidate;
use super::declared::{Block, Template};
use super::places::{Places, account_number, at};
use crate::scheme::{Aim, aim};

/// The application that Azure's resource management is in every cloud.
const RESOURCE_MANAGEMENT: &str = "797f4846-ba00-4fd7-ba43-dac1f8f63013";

/// How well a credential fits, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// The tags, and every host and audience that the block's uses tell.
    Exact,
    /// The tags; not every host is told or its own.
    Provider,
    /// Only the scheme, and some host at least where any is told.
    Scheme,
}

/// How much of what the block's uses tell is the credential's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cover {
    /// All.
    Fits,
    /// Some.
    Partly,
    /// Nothing is told.
    NotTold,
    /// None.
    No,
}

impl Cover {
    fn of(fits: usize, misses: usize) -> Self {
        match (fits, misses) {
            (0, 0) => Self::NotTold,
            (_, 0) => Self::Fits,
            (0, _) => Self::No,
            _ => Self::Partly,
        }
    }
}

/// A credential that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// Its id.
    pub credential: String,
    /// What people call it.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// How well it fits.
    pub rank: Rank,
    /// Of the hosts that the template tells.
    pub hosts: Cover,
    /// Of the hosts that are known to want tokens of their own.
    pub audience: Cover,
    /// What else to know, as sentences.
    pub notes: Vec<String>,
}

/// A credential that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// Its id.
    pub credential: String,
    /// What people call it.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// Of the hosts that the template tells.
    pub hosts: Cover,
    /// Of the hosts that are known to want tokens of their own.
    pub audience: Cover,
    /// Everything that differs, as sentences.
    pub reasons: Vec<String>,
}

/// What there is for a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// The credentials that fit, best first.
    pub fits: Vec<Fit>,
    /// Every other one.
    pub others: Vec<Misfit>,
}

/// Judges the credentials of an account for a block. With `all` the tags narrow nothing; the scheme always does.
pub fn judge(
    block: &Block,
    candidates: &[Candidate],
    parameters: &BTreeMap<String, String>,
    template: &Template,
    all: bool,
) -> Verdicts {
    let places = Places::of(&block.uses, template, parameters);
    let has_account = !account_number(block, template, parameters).is_empty();
    let mut verdicts = Verdicts::default();
    for candidate in candidates {
        let mut notes = Vec::new();
        if has_account && !candidate.assumes_role {
            notes.push("it assumes no role: it works without an account number only".to_owned());
        }
        match judge_one(block, candidate, &places, all, notes) {
            Ok(fit) => verdicts.fits.push(fit),
            Err(misfit) => verdicts.others.push(misfit),
        }
    }
    verdicts.fits.sort_by(|one, two| (one.rank, &one.credential).cmp(&(two.rank, &two.credential)));
    verdicts.others.sort_by(|one, two| one.credential.cmp(&two.credential));
    verdicts
}

fn judge_one(
    block: &Block,
    candidate: &Candidate,
    places: &Places,
    all: bool,
    mut notes: Vec<String>,
) -> Result<Fit, Misfit> {
    let mut reasons: Vec<String> = candidate.is_out_of_use().into_iter().collect();
    reasons.extend(candidate.differs_in_scheme(block));
    let tags = candidate.differs_in_tags(block);
    let untagged = tags.is_empty();
    if all {
        notes.extend(tags)
    } else {
        reasons.extend(tags)
    }
    let (hosts, audience, lacks) = cover(candidate, places);
    if hosts == Cover::No {
        reasons.extend(lacks);
    } else {
        notes.extend(lacks);
    }
    let (credential, name, scheme) = (candidate.id.clone(), candidate.name.clone(), candidate.scheme.clone());
    if !reasons.is_empty() {
        return Err(Misfit { credential, name, scheme, hosts, audience, reasons });
    }
    let untold = places.untold();
    if !untold.is_empty() {
        notes.push(format!("{}: the host is not told", at(&untold)));
    }
    notes.extend(places.wrong.iter().map(|wrong| format!("line {}: {}", wrong.line, wrong.why)));
    if serves_every_subscription(candidate, places) {
        notes.push("one credential serves every subscription that it has rights to".into());
    }
    let rank = match (untagged, hosts) {
        (true, Cover::Fits) => Rank::Exact,
        (true, _) if !block.tags.is_empty() => Rank::Provider,
        // A block without tags says nothing of the provider.
        _ => Rank::Scheme,
    };
    Ok(Fit { credential, name, scheme, rank, hosts, audience, notes })
}

/// How much of the hosts is the credential's and of its token's audience, and what is not.
fn cover(candidate: &Candidate, places: &Places) -> (Cover, Cover, Vec<String>) {
    let reach = candidate.reach();
    let (mut works, mut fails, mut aimed, mut missed) = (0, 0, 0, 0);
    let mut lacks = Vec::new();
    let mut partly = false;
    for place in places.told() {
        let reached = reach.judge(place);
        *if reached.works() { &mut works } else { &mut fails } += 1;
        partly |= reached.lacks.is_some();
        aimed += usize::from(reached.is_aimed);
        missed += usize::from(reached.misses.is_some());
        lacks.extend(reached.lacks);
        lacks.extend(reached.misses);
    }
    let hosts = match Cover::of(works, fails) {
        Cover::Fits if partly => Cover::Partly,
        cover => cover,
    };
    (hosts, Cover::of(aimed, missed), lacks)
}

fn serves_every_subscription(candidate: &Candidate, places: &Places) -> bool {
    let gives_tokens = ["azure", "oauth2"].contains(&candidate.scheme.as_str());
    let reach = candidate.reach();
    let is_management = |host: &str| aim(RESOURCE_MANAGEMENT, host) == Aim::Fits;
    gives_tokens && places.told().any(|place| is_management(&place.shape.to_string()) && reach.judge(place).works())
}
