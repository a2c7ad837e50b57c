//! Where a template's requests go, once its parameters are known.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::{Block, Template, Use};
use crate::base::Protocol;
use crate::route::HostShape;

/// As many hosts as the values of parameters make of one; beyond that, what the parameter stands for is not told.
const MOST_HOSTS: usize = 64;

/// A host that requests go to, as far as it is told.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The host.
    pub(super) shape: HostShape,
    /// With which methods; nothing where one of them is not told.
    pub(super) methods: Option<BTreeSet<String>>,
    /// From which lines.
    pub(super) lines: BTreeSet<usize>,
    /// From which of these unencrypted.
    pub(super) cleartext: BTreeSet<usize>,
    /// The parameters whose values it is one of, none of which was chosen.
    pub(super) unset: BTreeSet<String>,
}

impl Place {
    pub(super) fn protocol(&self) -> Protocol {
        // Where both are used, both ports have to be meant; that of TLS is the one that is judged.
        if self.cleartext.len() == self.lines.len() { Protocol::Http } else { Protocol::Https }
    }

    /// `line 7`, `lines 7, 9`.
    pub(super) fn at(&self) -> String {
        at(&self.lines)
    }
}

/// `line 7`, `lines 7, 9`.
pub(super) fn at(lines: &BTreeSet<usize>) -> String {
    let numbers = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("line{} {numbers}", if lines.len() == 1 { "" } else { "s" })
}

/// A host that is none.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) why: String,
    /// The parameter whose given value made it so.
    pub(super) parameter: Option<String>,
}

/// Where requests go.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// In the order of their hosts' texts.
    pub(super) all: Vec<Place>,
    pub(super) wrong: Vec<Wrong>,
}

impl Places {
    /// The places of some uses.
    pub(super) fn of(uses: &[Use], template: &Template, parameters: &BTreeMap<String, String>) -> Self {
        let mut found: BTreeMap<String, Place> = BTreeMap::new();
        let mut wrong = Vec::new();
        for one in uses {
            let filled = fill(&one.host, template, parameters);
            for host in filled.hosts {
                let shape = match HostShape::parse(&host) {
                    Ok(shape) => shape,
                    Err(why) => {
                        wrong.push(Wrong { line: one.line, why, parameter: filled.given.clone() });
                        continue;
                    }
                };
                let new = || Place {
                    shape: shape.clone(),
                    methods: Some(BTreeSet::new()),
                    lines: BTreeSet::new(),
                    cleartext: BTreeSet::new(),
                    unset: BTreeSet::new(),
                };
                // What is not told at all is one place, whatever it is called.
                let key = if shape.is_any() && shape.port().is_none() { String::new() } else { shape.to_string() };
                let place = found.entry(key).or_insert_with(new);
                place.lines.insert(one.line);
                place.unset.extend(filled.unset.iter().cloned());
                place.cleartext.extend(one.cleartext.then_some(one.line));
                match method(&one.method) {
                    Some(method) => place.methods.iter_mut().for_each(|methods| methods.extend([method.clone()])),
                    None => place.methods = None,
                }
            }
        }
        Self { all: found.into_values().collect(), wrong }
    }

    /// Those whose host is told, at least in part.
    pub(super) fn told(&self) -> impl Iterator<Item = &Place> {
        self.all.iter().filter(|place| !place.shape.is_any())
    }

    /// The lines whose host is not told.
    pub(super) fn untold(&self) -> BTreeSet<usize> {
        self.all.iter().filter(|place| place.shape.is_any()).flat_map(|place| place.lines.clone()).collect()
    }
}

/// A method in capitals; nothing for one that the text does not tell.
fn method(text: &str) -> Option<String> {
    let method = http::Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok()?;
    Some(method.to_string())
}

/// What a parameter may be, and whether somebody said so.
fn values(name: &str, template: &Template, parameters: &BTreeMap<String, String>) -> (Vec<String>, bool) {
    if let Some(given) = parameters.get(name) {
        return (vec![given.clone()], true);
    }
    let Some(parameter) = template.parameters.iter().find(|parameter| parameter.name == name) else {
        return (Vec::new(), false);
    };
    match &parameter.default {
        Some(default) if !default.trim().is_empty() => (vec![default.clone()], false),
        _ => (parameter.allowed.clone(), false),
    }
}

/// A host with what is known in place of its holes.
#[derive(Default)]
struct Filled {
    hosts: Vec<String>,
    /// A parameter that was given for it.
    given: Option<String>,
    /// Those that were not, of which each value makes a host.
    unset: BTreeSet<String>,
}

fn fill(text: &str, template: &Template, parameters: &BTreeMap<String, String>) -> Filled {
    let mut filled = Filled { hosts: vec![String::new()], ..Filled::default() };
    let mut rest = text;
    while let Some((front, hole)) = rest.split_once('{') {
        let Some((name, after)) = hole.split_once('}') else { break };
        let name = name.strip_prefix('$').unwrap_or(name);
        let (mut values, given) = values(name, template, parameters);
        values.retain(|value| !value.trim().is_empty());
        if values.is_empty() || filled.hosts.len() * values.len() > MOST_HOSTS {
            values = vec![format!("{{{name}}}")];
        } else {
            if given {
                filled.given = Some(name.to_owned());
            } else if values.len() > 1 {
                filled.unset.insert(name.to_owned());
            }
            // A brace in a value would be a hole of its own.
            values = values.iter().map(|value| value.trim().replace(['{', '}'], "*")).collect();
        }
        let with = |host: &String| values.iter().map(|value| format!("{host}{front}{value}")).collect::<Vec<_>>();
        filled.hosts = filled.hosts.iter().flat_map(with).collect();
        rest = after;
    }
    filled.hosts.iter_mut().for_each(|host| host.push_str(rest));
    filled
}

/// The account number that a block asks for: the number itself, or what its parameter is; empty for none.
pub(super) fn account_number(block: &Block, template: &Template, parameters: &BTreeMap<String, String>) -> String {
    let text = block.account_number.as_deref().unwrap_or_default().trim();
    let Some(name) = text.strip_prefix('$') else { return text.to_owned() };
    if let Some(given) = parameters.get(name) {
        return given.trim().to_owned();
    }
    let parameter = template.parameters.iter().find(|parameter| parameter.name == name);
    parameter.and_then(|parameter| parameter.default.as_deref()).unwrap_or_default().trim().to_owned()
}
