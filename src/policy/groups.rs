//! Hosts gathered into as few bindings as their methods allow.

use std::collections::{BTreeMap, BTreeSet};

use crate::route::{HostPattern, HostShape};

/// Hosts by the methods that they are called with, and by whether in the clear.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<(BTreeSet<String>, bool), Group>);

/// One of the bindings, as texts.
pub(super) struct Bound {
    pub(super) hosts: Vec<String>,
    /// None where the hosts say it all.
    pub(super) shapes: Vec<String>,
    /// None for every one.
    pub(super) methods: Vec<String>,
    pub(super) cleartext: bool,
}

#[derive(Default)]
pub(super) struct Group {
    hosts: BTreeSet<String>,
    /// Each with its pattern, where that says all that it does.
    shapes: BTreeMap<String, Option<String>>,
    /// All of the hosts is meant, not only the shapes.
    whole: bool,
}

impl Groups {
    /// No methods mean every one.
    pub(super) fn add(&mut self, methods: Option<&BTreeSet<String>>, cleartext: bool) -> &mut Group {
        self.0.entry((methods.cloned().unwrap_or_default(), cleartext)).or_default()
    }

    /// What they come to, in the order of the methods.
    pub(super) fn bound(self) -> impl Iterator<Item = Bound> {
        self.0.into_iter().map(|((methods, cleartext), group)| Bound {
            shapes: group.shapes(),
            hosts: group.hosts.into_iter().collect(),
            methods: methods.into_iter().collect(),
            cleartext,
        })
    }

    /// All of the credential's hosts by any of the methods.
    pub(super) fn loosen(&mut self, own: &[HostPattern]) {
        if self.0.is_empty() {
            return;
        }
        let every = self.0.keys().any(|(methods, _)| methods.is_empty());
        let methods: BTreeSet<String> = self.0.keys().flat_map(|(methods, _)| methods.clone()).collect();
        let cleartext = self.0.keys().any(|(_, cleartext)| *cleartext);
        self.0.clear();
        self.add((!every).then_some(&methods), cleartext).add(own, None);
    }
}

impl Group {
    /// No shape means all of the hosts.
    pub(super) fn add(&mut self, hosts: &[HostPattern], shape: Option<&HostShape>) {
        self.hosts.extend(hosts.iter().map(ToString::to_string));
        match shape.filter(|shape| !shape.is_any() || shape.port().is_some()) {
            Some(shape) => {
                let pattern = shape.pattern().filter(|_| shape.is_its_pattern());
                self.shapes.insert(shape.to_string(), pattern.map(|pattern| pattern.to_string()));
            }
            None => self.whole = true,
        }
    }

    fn shapes(&self) -> Vec<String> {
        let says_it_all =
            |pattern: &Option<String>| pattern.as_ref().is_some_and(|pattern| self.hosts.contains(pattern));
        if self.whole || self.shapes.values().all(says_it_all) {
            return Vec::new();
        }
        self.shapes.keys().cloned().collect()
    }
}
