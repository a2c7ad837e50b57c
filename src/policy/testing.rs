//! Templates and credentials for the tests of this room.

use std::collections::BTreeMap;

use super::{Block, Candidate, Parameter, Template, Use};

/// Pairs as a map.
pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A credential of a scheme, for some hosts, with a tag `provider`.
pub(super) fn candidate(id: &str, scheme: &str, hosts: &[&str], provider: &str) -> Candidate {
    Candidate {
        id: id.into(),
        name: format!("The {id}"),
        scheme: scheme.into(),
        hosts: texts(hosts),
        tags: map(&[("provider", provider)]),
        enabled: true,
        ..Candidate::default()
    }
}

/// A block that wants a provider.
pub(super) fn block(name: &str, schemes: &[&str], provider: &str, uses: &[Use]) -> Block {
    Block {
        name: name.into(),
        line: 3,
        schemes: texts(schemes),
        tags: map(&[("provider", provider)]),
        uses: uses.to_vec(),
        ..Block::default()
    }
}

/// A request.
pub(super) fn call(line: usize, method: &str, host: &str) -> Use {
    Use { line, method: method.into(), host: host.into(), path: "/".into(), cleartext: false, followed: false }
}

/// A template of some blocks.
pub(super) fn template(blocks: &[Block]) -> Template {
    Template { credentials: blocks.to_vec(), ..Template::default() }
}

/// A parameter.
pub(super) fn parameter(name: &str, default: Option<&str>, allowed: &[&str]) -> Parameter {
    Parameter { name: name.into(), default: default.map(str::to_owned), allowed: texts(allowed) }
}

/// Small numbers from a seed: the same ones in every run.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % end
    }

    pub(super) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}
