//! What a run of a template may use, once somebody has chosen the credentials: bindings narrowed to the hosts and methods
//! that the template uses, or why the choice cannot work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::candidate::{Candidate, Reach};
use super::declared::{Block, Template};
use super::groups::{Bound, Groups};
use super::parts::merged;
use super::places::{Place, Places, account_number, at};
use super::ties::undecided;
use crate::store::{PolicyBinding, PolicyPassage};

/// As many names as a sentence lists.
const LISTED: usize = 20;

/// As many hosts as one block, or the requests without one, may call: more than anybody could read.
const MOST_PLACES: usize = 1000;

const TOO_MANY: &str = "the template calls more than 1000 hosts here: write those that vary as one parameter";

/// How a policy is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The credentials' own hosts, not only those that the template uses.
    pub loose: bool,
    /// Tags that differ are not mentioned.
    pub all: bool,
    /// Secrets may travel unencrypted where the template sends its requests so.
    pub allow_cleartext: bool,
}

/// What a run may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Proposal {
    /// By the blocks' names, then by what they are for.
    pub bindings: Vec<PolicyBinding>,
    /// What may be called without a credential.
    pub passages: Vec<PolicyPassage>,
    /// What else to know, as sentences.
    pub notes: Vec<String>,
}

/// Why a choice of credentials cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The block that it concerns; none where it is a parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// What is wrong, and what to change.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block {
            Some(block) => write!(f, "{block}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Proposes what a run may use. `selection` has the credential of each block by the block's name, `None` for one that does
/// not exist.
///
/// # Errors
/// Everything that cannot work.
pub fn propose(
    template: &Template,
    selection: &BTreeMap<String, Option<Candidate>>,
    parameters: &BTreeMap<String, String>,
    options: Options,
) -> Result<Proposal, Vec<Problem>> {
    let mut work = Work { template, parameters, options, problems: Vec::new(), proposal: Proposal::default() };
    work.check_parameters();
    work.check_selection(selection);
    for block in &merged(&template.credentials) {
        if let Some(candidate) = work.candidate(block, selection) {
            work.bind(block, candidate);
        }
    }
    work.check_issues();
    work.pass();
    if !work.problems.is_empty() {
        return Err(work.problems);
    }
    undecided(&mut work.proposal);
    Ok(work.proposal)
}

struct Work<'a> {
    template: &'a Template,
    parameters: &'a BTreeMap<String, String>,
    options: Options,
    problems: Vec<Problem>,
    proposal: Proposal,
}

impl Work<'_> {
    fn problem(&mut self, block: &Block, message: impl Into<String>) {
        self.problems.push(Problem { block: Some(block.name.clone()), message: message.into() });
    }

    fn note(&mut self, block: &Block, message: impl fmt::Display) {
        self.proposal.notes.push(format!("{}: {message}", block.name));
    }

    fn check_parameters(&mut self) {
        let template = self.template;
        let accounts =
            template.credentials.iter().filter_map(|block| block.account_number.as_deref()?.strip_prefix('$'));
        let accounts: BTreeSet<&str> = accounts.collect();
        for (name, value) in self.parameters {
            let declared = template.parameters.iter().find(|parameter| parameter.name == *name);
            let message = match declared {
                None if accounts.contains(name.as_str()) => continue,
                None => {
                    let names = template.parameters.iter().map(|parameter| &*parameter.name);
                    format!("the template has no parameter {name}; it has {}", listed(names))
                }
                Some(parameter) if !parameter.allowed.is_empty() && !parameter.allowed.contains(value) => {
                    format!("parameter {name} is one of {}, not `{value}`", parameter.allowed.join(", "))
                }
                Some(_) => continue,
            };
            self.problems.push(Problem { block: None, message });
        }
    }

    fn check_selection(&mut self, selection: &BTreeMap<String, Option<Candidate>>) {
        let names: BTreeSet<&str> = self.template.credentials.iter().map(|block| &*block.name).collect();
        for name in selection.keys().filter(|name| !names.contains(name.as_str())) {
            let has = listed(names.iter().copied());
            let message = format!("the template has no such credentials block; it has {has}");
            self.problems.push(Problem { block: Some(name.clone()), message });
        }
    }

    /// The credential that was chosen for a block, if it can be used for it at all.
    fn candidate<'c>(
        &mut self,
        block: &Block,
        selection: &'c BTreeMap<String, Option<Candidate>>,
    ) -> Option<&'c Candidate> {
        let Some(chosen) = selection.get(&block.name) else {
            let taken = block.schemes.join(", ");
            self.problem(block, format!("no credential was chosen for it; choose one of scheme {taken}"));
            return None;
        };
        let Some(candidate) = chosen.as_ref().filter(|candidate| !candidate.removed) else {
            let why = "credential: not found; choose one that this account has";
            self.problem(block, why);
            return None;
        };
        if let Some(why) = candidate.is_out_of_use().or_else(|| candidate.differs_in_scheme(block)) {
            self.problem(block, format!("credential {}: {why}; choose another", candidate.id));
            return None;
        }
        if !self.options.all {
            for tag in candidate.differs_in_tags(block) {
                self.note(block, format_args!("credential {}: {tag}", candidate.id));
            }
        }
        Some(candidate)
    }

    /// The account whose role is assumed.
    fn account_number(&mut self, block: &Block, candidate: &Candidate) -> Option<String> {
        let number = account_number(block, self.template, self.parameters);
        let from = block.account_number.as_deref().unwrap_or_default();
        if number.is_empty() {
            return None;
        }
        if number.len() != 12 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            self.problem(
                block,
                format!("account number {from}: `{number}` is not an account of AWS, which has 12 digits"),
            );
        } else if candidate.accounts.is_empty() {
            let why = format!(
                "account number {from}: credential {} assumes no role, so it is in its own account only; leave the number \
                 empty, or choose a credential of scheme aws_sts with a role_arn",
                candidate.id
            );
            self.problem(block, why);
        } else if !candidate.accounts.contains(&number) {
            let why = format!(
                "account number {from}: credential {} assumes its role in {} and not in {number}; list the account under \
                 its `accounts`",
                candidate.id,
                candidate.accounts.join(", ")
            );
            self.problem(block, why);
        }
        Some(number)
    }

    /// The bindings of a block.
    fn bind(&mut self, block: &Block, candidate: &Candidate) {
        let account_number = self.account_number(block, candidate);
        let reach = candidate.reach();
        let places = Places::of(&block.uses, self.template, self.parameters);
        if places.all.len() > MOST_PLACES {
            self.problem(block, TOO_MANY);
            return;
        }
        self.tell_wrong(block, &places);
        self.check_cleartext(block);
        let followed: BTreeSet<usize> = block.uses.iter().filter(|one| one.followed).map(|one| one.line).collect();
        if !followed.is_empty() {
            let where_from = "the next page's address comes from the answer; another host would be refused";
            self.note(block, format_args!("{}: {where_from}", at(&followed)));
        }
        let mut groups = Groups::default();
        if block.uses.is_empty() {
            self.bind_unused(block, &reach, &mut groups);
        }
        for place in &places.all {
            self.bind_place(block, candidate, &reach, place, &mut groups);
        }
        if self.options.loose {
            groups.loosen(reach.own());
        }
        for bound in groups.bound() {
            self.proposal.bindings.push(PolicyBinding {
                block: block.name.clone(),
                credential: candidate.id.clone(),
                hosts: bound.hosts,
                shapes: bound.shapes,
                methods: bound.methods,
                account_number: account_number.clone(),
                allow_cleartext: bound.cleartext,
                only_named: false,
            });
        }
    }

    fn tell_wrong(&mut self, block: &Block, places: &Places) {
        for wrong in &places.wrong {
            match &wrong.parameter {
                Some(parameter) => {
                    let why = format!("parameter {parameter} makes no host in line {}: {}", wrong.line, wrong.why);
                    self.problem(block, why);
                }
                None => self.note(block, format_args!("line {} is left out: {}", wrong.line, wrong.why)),
            }
        }
    }

    fn check_cleartext(&mut self, block: &Block) {
        let lines: BTreeSet<usize> = block.uses.iter().filter(|one| one.cleartext).map(|one| one.line).collect();
        if lines.is_empty() || self.options.allow_cleartext {
            return;
        }
        let why = "the credential would travel unencrypted: change the template to https, or allow cleartext when you apply it";
        self.problem(block, format!("{}: {why}", at(&lines)));
    }

    /// A block whose uses nobody told, or that has none.
    fn bind_unused(&mut self, block: &Block, reach: &Reach<'_>, groups: &mut Groups) {
        let silent =
            self.template.unsigned.is_empty() && self.template.credentials.iter().all(|one| one.uses.is_empty());
        if !silent {
            self.note(block, "nothing in the template uses it, so it gets no binding");
            return;
        }
        self.note(block, "the template does not tell where it is used: the run may use all of the credential's hosts, by every method");
        groups.add(None, false).add(reach.own(), None);
    }

    fn bind_place(
        &mut self,
        block: &Block,
        candidate: &Candidate,
        reach: &Reach<'_>,
        place: &Place,
        groups: &mut Groups,
    ) {
        let reached = reach.judge(place);
        let of = |why: &str| format!("credential {} in {}: {why}", candidate.id, place.at());
        if let Some(why) = &reached.misses {
            self.problem(block, of(why) + "; choose one whose tokens are for that");
        }
        match &reached.lacks {
            Some(_) if self.options.loose => {}
            Some(why) if reached.hosts.is_empty() => {
                let set = place.unset.iter().map(|name| format!("set parameter {name}, ")).collect::<String>();
                let change = format!("; {set}choose another, add the host to this one, or apply loosely");
                self.problem(block, of(why) + &change);
            }
            Some(why) => self.note(block, of(why)),
            None => {}
        }
        if place.methods.is_none() {
            self.note(block, format_args!("{}: the method is not told, so every one is meant", place.at()));
        }
        let group = groups.add(place.methods.as_ref(), !place.cleartext.is_empty());
        group.add(&reached.hosts, Some(&place.shape));
        if place.shape.pattern().is_none() && !self.options.loose {
            let hosts = if place.shape.is_any() { "the host is not told" } else { "too little of the host is told" };
            self.note(block, format_args!("{}: {hosts}, so the credential's own hosts are meant", place.at()));
        }
    }

    /// What was not read of the template.
    fn check_issues(&mut self) {
        for issue in &self.template.errors {
            let text = format!("line {}, column {}: {}", issue.line, issue.column, issue.message);
            // What stands anywhere else gives a run nothing: its requests are refused, and this says why.
            let known =
                issue.block.as_ref().filter(|name| self.template.credentials.iter().any(|one| one.name == **name));
            match known {
                None => self.proposal.notes.push(format!("the template was not read in {text}")),
                Some(block) => {
                    let message = format!("the template is wrong in {text}; change it there");
                    self.problems.push(Problem { block: Some(block.clone()), message });
                }
            }
        }
    }

    /// What may be called without a credential.
    fn pass(&mut self) {
        let places = Places::of(&self.template.unsigned, self.template, self.parameters);
        if places.all.len() > MOST_PLACES {
            self.problems.push(Problem { block: None, message: TOO_MANY.to_owned() });
            return;
        }
        let mut groups = Groups::default();
        for place in &places.all {
            match place.shape.pattern() {
                Some(pattern) => groups.add(place.methods.as_ref(), false).add(&[pattern], Some(&place.shape)),
                None => {
                    let lines = place.at();
                    self.proposal
                        .notes
                        .push(format!("{lines}: a request without a credential whose host is not told is left out"));
                }
            }
        }
        for wrong in &places.wrong {
            match &wrong.parameter {
                Some(parameter) => {
                    let message = format!("parameter {parameter} makes no host in line {}: {}", wrong.line, wrong.why);
                    self.problems.push(Problem { block: None, message });
                }
                None => self.proposal.notes.push(format!("line {} is left out: {}", wrong.line, wrong.why)),
            }
        }
        for Bound { hosts, shapes, methods, .. } in groups.bound() {
            self.proposal.passages.push(PolicyPassage { hosts, shapes, methods });
        }
    }
}

/// The first of many names.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut names: Vec<&str> = names.take(LISTED + 1).collect();
    if names.len() > LISTED {
        names.truncate(LISTED);
        names.push("…");
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
