//! A credential as a policy sees it: what it signs with, where it may go, what its tokens are for.

use std::collections::BTreeMap;

use super::declared::Block;
use super::places::Place;
use crate::base::Destination;
use crate::route::{CredentialEntry, HostPattern, Readiness};
use crate::scheme::{Aim, aim, find};
use crate::store::CredentialRecord;

/// As many hosts as a sentence lists.
const LISTED: usize = 3;

/// A credential that a block may stand for. Nothing of it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its id within the account.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The scheme, in snake_case.
    pub scheme: String,
    /// The host patterns that it is for, those of its scheme where it names none (`scheme::Kind::hosts`).
    pub hosts: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it may be used.
    pub enabled: bool,
    /// It is there no more.
    pub removed: bool,
    /// What its tokens are for, where that is told (`scheme::Draft::audience`).
    pub audience: Option<String>,
    /// The accounts of AWS in which it signs as a role, its own first (`scheme::Draft::accounts`).
    pub accounts: Vec<String>,
}

impl Candidate {
    /// A credential of the store.
    pub fn of(record: &CredentialRecord) -> Self {
        let kind = find(&record.scheme);
        let draft = kind.and_then(|kind| (kind.parse)(record.settings.clone()).ok());
        let hosts = kind.map_or_else(|| record.hosts.clone(), |kind| kind.hosts(&record.hosts, &record.settings));
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            scheme: record.scheme.clone(),
            hosts,
            tags: record.tags.clone(),
            enabled: record.enabled,
            removed: record.removed,
            audience: draft.as_ref().and_then(|draft| draft.audience()),
            accounts: draft.as_ref().map(|draft| draft.accounts()).unwrap_or_default(),
        }
    }

    /// Why it can be used by nobody now.
    pub(super) fn is_out_of_use(&self) -> Option<String> {
        if self.removed {
            Some("it was removed".into())
        } else if !self.enabled {
            Some("it is switched off".into())
        } else if find(&folded(&self.scheme)).is_none() {
            Some(format!("scheme {} signs nothing", self.scheme))
        } else if self.hosts.is_empty() {
            Some("it names no hosts, and signs for none".into())
        } else {
            None
        }
    }

    /// Why its scheme is not among a block's.
    pub(super) fn differs_in_scheme(&self, block: &Block) -> Option<String> {
        if block.schemes.is_empty() {
            return Some("the block names no scheme, and takes no credential".into());
        }
        let own = folded(&self.scheme);
        let taken: Vec<String> = block.schemes.iter().map(|scheme| folded(scheme)).collect();
        let differs = !taken.contains(&own);
        differs.then(|| format!("its scheme is {own}, and the block takes {}", taken.join(", ")))
    }

    /// Each tag of a block that it has not, or has with another value.
    pub(super) fn differs_in_tags(&self, block: &Block) -> Vec<String> {
        let differs = |(key, wanted): (&String, &String)| {
            let mut own = self.tags.iter().filter(|(own, _)| own.to_lowercase() == key.to_lowercase()).peekable();
            let Some((_, value)) = own.peek().copied() else {
                return Some(format!("it has no tag {key}, and the block wants {wanted}"));
            };
            let equal = own.any(|(_, value)| value.to_lowercase() == wanted.to_lowercase());
            (!equal).then(|| format!("tag {key} is {value}, and the block wants {wanted}"))
        };
        block.tags.iter().filter_map(differs).collect()
    }

    /// Where it may go.
    pub(super) fn reach(&self) -> Reach<'_> {
        let own = self.hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect();
        let kind = find(&folded(&self.scheme));
        let readiness = Readiness::Unusable("it is only compared".into());
        let entry = CredentialEntry::new(&self.id, kind.map_or("none", |kind| kind.name), own, true, readiness);
        let entry = match kind {
            Some(kind) => entry.except_for_strangers(kind),
            None => entry,
        };
        Reach { candidate: self, entry }
    }
}

/// A scheme's name in snake_case, as it is compared.
fn folded(scheme: &str) -> String {
    scheme.trim().to_ascii_lowercase().replace('-', "_")
}

/// Where a credential may go.
pub(super) struct Reach<'a> {
    candidate: &'a Candidate,
    entry: CredentialEntry,
}

/// What a credential can do where a block is used.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Of the place, what is the credential's: its own patterns or those of the place, whichever are narrower.
    pub(super) hosts: Vec<HostPattern>,
    /// What of the place is not the credential's.
    pub(super) lacks: Option<String>,
    /// Its token is for something else.
    pub(super) misses: Option<String>,
    /// Its token is for just this.
    pub(super) is_aimed: bool,
}

impl Reached {
    /// Whether it works at all there.
    pub(super) fn works(&self) -> bool {
        !self.hosts.is_empty() && self.misses.is_none()
    }
}

impl Reach<'_> {
    /// The credential's own hosts.
    pub(super) fn own(&self) -> &[HostPattern] {
        &self.entry.hosts
    }

    /// What it can do at a place.
    pub(super) fn judge(&self, place: &Place) -> Reached {
        let shape = &place.shape;
        let narrowest = shape.pattern();
        let exact = shape.exact().and_then(|_| Destination::from_authority(place.protocol(), &shape.to_string()).ok());
        let port = shape.port().unwrap_or_else(|| place.protocol().default_port());
        let meets = |own: &&HostPattern| match &exact {
            Some(destination) => own.matches(destination),
            None => own.port().is_none_or(|own| own == port) && shape.overlaps(own),
        };
        let mut hosts: Vec<HostPattern> = Vec::new();
        for own in self.own().iter().filter(meets) {
            let both = narrowest.as_ref().map_or_else(|| Some(own.clone()), |narrowest| own.intersection(narrowest));
            hosts.extend(both.filter(|both| !hosts.contains(both)));
        }
        let strangers = exact.is_some_and(|destination| !hosts.is_empty() && !self.entry.is_for(&destination));
        let lacks = if strangers {
            hosts.clear();
            let wildcards = listed(&self.candidate.hosts);
            Some(format!(
                "the template calls {shape}, whose name anybody can have: {wildcards} does not mean it, only its whole name does"
            ))
        } else if hosts.is_empty() {
            let own = listed(&self.candidate.hosts);
            Some(format!("the template calls {shape}, which is not among its hosts ({own})"))
        } else if !shape.is_any() && !self.own().iter().any(|own| shape.is_within(own)) {
            let of_it = hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
            Some(format!("the template calls {shape}, of which only {} is among its hosts", listed(&of_it)))
        } else {
            None
        };
        let aim =
            self.candidate.audience.as_deref().zip(narrowest).map(|(audience, at)| aim(audience, &at.to_string()));
        let audience = self.candidate.audience.as_deref().unwrap_or_default();
        let misses = match &aim {
            Some(Aim::Misses(wanted)) => Some(format!("its token is for {audience}, and {shape} wants {wanted}")),
            _ => None,
        };
        Reached { hosts, lacks, misses, is_aimed: aim == Some(Aim::Fits) }
    }
}

/// The first of many.
fn listed(hosts: &[String]) -> String {
    let more = hosts.len().saturating_sub(LISTED);
    let first = hosts.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}
