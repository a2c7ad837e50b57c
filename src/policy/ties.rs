//! Blocks of one template between which no request decides by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::proposal::Proposal;
use crate::route::{HostPattern, HostShape};
use crate::store::PolicyBinding;

/// Makes bindings of different credentials that one request could mean answer only to requests that name theirs. That one
/// of them is for fewer hosts decides nothing here: both blocks say that they call these.
pub(super) fn undecided(proposal: &mut Proposal) {
    let mut tied: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut named: BTreeSet<usize> = BTreeSet::new();
    let meant: Vec<Meant> = proposal.bindings.iter().map(Meant::of).collect();
    for (at, (first, of_first)) in proposal.bindings.iter().zip(&meant).enumerate() {
        for (other, (second, of_second)) in proposal.bindings.iter().zip(&meant).enumerate().skip(at + 1) {
            if identity(first) == identity(second) || !methods_meet(first, second) {
                continue;
            }
            if let Some(host) = of_first.meets(of_second) {
                named.extend([at, other]);
                tied.entry((first.block.clone(), second.block.clone())).or_insert(host);
            }
        }
    }
    for (at, binding) in proposal.bindings.iter_mut().enumerate() {
        binding.only_named = named.contains(&at);
    }
    for ((first, second), host) in tied {
        proposal.notes.push(format!(
            "{first} and {second} have different credentials for the same calls of {host}: such requests have to name the \
             block, by the header `Countersign-Credential: {first}` or by the proxy's user `CALLER+{first}`"
        ));
    }
}

/// What signs: a role of another account is another identity.
fn identity(binding: &PolicyBinding) -> (&str, Option<&str>) {
    (&binding.credential, binding.account_number.as_deref())
}

fn methods_meet(first: &PolicyBinding, second: &PolicyBinding) -> bool {
    first.methods.is_empty()
        || second.methods.is_empty()
        || first.methods.iter().any(|method| second.methods.contains(method))
}

/// The hosts of a binding.
struct Meant {
    patterns: Vec<HostPattern>,
    shapes: Vec<HostShape>,
}

impl Meant {
    fn of(binding: &PolicyBinding) -> Self {
        let patterns: Vec<_> = binding.hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect();
        let shapes = match &binding.shapes[..] {
            [] => patterns.iter().map(HostShape::of).collect(),
            shapes => shapes.iter().filter_map(|shape| HostShape::parse(shape).ok()).collect(),
        };
        Self { patterns, shapes }
    }

    /// A host that both are for.
    fn meets(&self, other: &Self) -> Option<String> {
        let pairs = || self.patterns.iter().flat_map(|one| other.patterns.iter().map(move |two| (one, two)));
        // A table of bindings tells two of them apart by their patterns alone.
        if let Some((same, _)) = pairs().find(|(one, two)| one == two) {
            return Some(same.to_string());
        }
        pairs().find(|(one, two)| one.overlaps(two))?;
        let meets = |shape: &&HostShape| other.shapes.iter().any(|other| shape.meets(other));
        self.shapes.iter().find(meets).map(ToString::to_string)
    }
}
