//! Reads what concerns credentials in the text of a Flexera policy template.
//!
//! The text is cut into blocks once ([`reader`]); only the scripts and workflow definitions that send requests are looked
//! into ([`statements`]), as far as the text tells where to ([`value`]).

mod heap;
mod lexer;
mod machine;
mod positions;
mod reader;
mod request;
mod statements;
mod value;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use self::heap::Heap;
use self::lexer::Dialect;
use self::machine::Machine;
use self::positions::Positions;
use self::reader::{Caller, Notes, Reader, Script};
use self::request::{Request, left_over, names};
use self::value::{Piece, Slot, Value};
use super::declared::{Block, Issue, Template, Use};

/// How many errors of one text are told.
const MOST_ERRORS: usize = 100;

/// For how many that run it differently a script is followed.
const MOST_CALLERS: usize = 8;

/// Among how many of the last uses of a line the same one is looked for, so that it is told once.
const NEAR: usize = 64;

/// A block's name and its number.
type Known = HashMap<String, usize>;

impl Template {
    /// Reads a policy template. Total: whatever the bytes are, what can be read is, and the rest is among the `errors`.
    pub fn parse(text: &[u8]) -> Self {
        let mut notes = Reader::new(text).read();
        let known: Known =
            notes.blocks.iter().enumerate().map(|(index, (block, _))| (block.name.clone(), index)).collect();
        let mut found = std::mem::take(&mut notes.requests);
        for index in 0..notes.scripts.len() {
            run_script(text, &mut notes, index, &known, &mut found);
        }
        for (from, to) in std::mem::take(&mut notes.definitions) {
            run_definition(text, from, to, &known, &mut notes, &mut found);
        }
        // By their places, so that what came from a script stands where the script does.
        let mut uses: Vec<(usize, Option<usize>, Use)> = Vec::new();
        for (request, sure) in &found {
            sort_out(text, request, *sure, &known, &mut notes, &mut uses);
        }
        assemble(text, notes, uses)
    }
}

/// What a script makes, if it makes requests: once for each of those that run it differently.
fn run_script<'a>(
    text: &'a [u8],
    notes: &mut Notes<'a>,
    index: usize,
    known: &Known,
    found: &mut Vec<(Request<'a>, bool)>,
) {
    let Some(script) = notes.scripts.get(index) else { return };
    let Some((from, to)) = script.code else { return };
    let asked = script.callers.iter().any(|caller| caller.asks);
    if !asked && memchr::memmem::find(text.get(from..to).unwrap_or_default(), b"auth").is_none() {
        return;
    }
    let mut untold = false;
    for caller in callers(script, known) {
        untold |= !run_for(text, script, &caller, found);
    }
    if untold {
        let (at, name) = (script.at, String::from_utf8_lossy(script.name));
        notes.issue(at, || format!("the text does not tell what request the script `{name}` makes"));
    }
}

/// Those that run a script, what it knows of their arguments alone, each once; of very many, the last are one.
fn callers<'a>(script: &Script<'a>, known: &Known) -> Vec<Caller<'a>> {
    let mut heap = Heap::new(0);
    let mut callers: Vec<Caller<'a>> = Vec::new();
    for caller in &script.callers {
        let told = |value: &Value<'a>| if tells_more(value, known) { value.clone() } else { Value::Unknown };
        let arguments = caller.arguments.iter().take(script.parameters.len()).map(told).collect();
        let caller = Caller { arguments, auth: caller.auth.clone(), asks: caller.asks };
        if let Some(same) = callers.iter_mut().find(|other| other.is_like(&caller)) {
            same.asks |= caller.asks;
            continue;
        }
        let full = callers.len() >= MOST_CALLERS;
        match callers.last_mut() {
            Some(last) if full => last.merge(caller, &mut heap),
            _ => callers.push(caller),
        }
    }
    if callers.is_empty() {
        callers.push(Caller::default());
    }
    callers
}

/// What a script makes for one that runs it; whether that is told, or nobody asks.
fn run_for<'a>(text: &'a [u8], script: &Script<'a>, caller: &Caller<'a>, found: &mut Vec<(Request<'a>, bool)>) -> bool {
    let Some((from, until)) = script.code.and_then(|(from, to)| Some((from, text.get(..to)?))) else { return true };
    let mut machine = Machine::new(until, from, Dialect::Script);
    for (name, given) in script.parameters.iter().zip(&caller.arguments) {
        if !matches!(given, Value::Unknown) {
            machine.variables.insert(name, Slot::new(given.clone(), from, 0));
        }
    }
    machine.script();
    let result = machine.variables.get(script.result.unwrap_or(b"request")).map(|slot| slot.value.clone());
    let mut told = !caller.asks;
    if let (true, Some(Value::Objects(objects))) = (caller.asks, result) {
        for index in objects.iter() {
            machine.heap.tell(*index);
            let Some(object) = machine.heap.objects.get(*index) else { continue };
            let mut request = Request::of_script(object);
            request.auth = request.auth.or_else(|| caller.auth.clone());
            found.push((request, true));
            told = true;
        }
    }
    for object in left_over(&mut machine.heap) {
        let mut request = Request::of_script(object);
        if !told {
            // Whatever becomes of it may have another method.
            request.verb = Some(Value::Unknown);
        }
        found.push((request, caller.asks));
    }
    told
}

/// Whether what is given to a script says more than the name it has there.
fn tells_more(value: &Value<'_>, known: &Known) -> bool {
    let told = |piece: &Piece<'_>| match piece {
        Piece::Literal(_) => true,
        Piece::Gap(name) => {
            let name = String::from_utf8_lossy(name);
            name.starts_with("param_") || name.starts_with("rs_") || known.contains_key(&*name)
        }
    };
    value.texts().iter().flatten().any(told)
}

/// The requests of a workflow definition.
fn run_definition<'a>(
    text: &'a [u8],
    from: usize,
    to: usize,
    known: &Known,
    notes: &mut Notes<'a>,
    found: &mut Vec<(Request<'a>, bool)>,
) {
    let Some(until) = text.get(..to) else { return };
    let mut machine = Machine::new(until, from, Dialect::Workflow);
    machine.workflow();
    let (before, first) = (notes.issues.len(), found.len());
    notes.flaws(std::mem::take(&mut machine.lexer.flaws));
    for (method, object) in std::mem::take(&mut machine.calls) {
        machine.heap.tell(object);
        let Some(object) = machine.heap.objects.get(object) else { continue };
        found.push((Request::of_workflow(object, Some(method)), true));
    }
    for object in left_over(&mut machine.heap) {
        let mut request = Request::of_workflow(object, None);
        if request.says_where() {
            // Somebody else sends it, and may say how.
            request.verb = request.verb.or(Some(Value::Unknown));
            found.push((request, true));
        }
    }
    // What is wrong in a definition is about the first block that it uses.
    let authenticated = found.get(first..).unwrap_or_default().iter().filter_map(|(request, _)| request.auth.as_ref());
    let mut blocks = authenticated.flat_map(|(auth, _)| names(auth)).flatten().map(|(name, _)| name);
    let wrong = notes.issues.get_mut(before..).unwrap_or_default();
    if let (false, Some(block)) = (wrong.is_empty(), blocks.find(|name| known.contains_key(name))) {
        wrong.iter_mut().for_each(|(_, about, _)| *about = Some(block.clone()));
    }
}

/// Gives the uses of a request to the block that authenticates them.
fn sort_out(
    text: &[u8],
    request: &Request<'_>,
    sure: bool,
    known: &Known,
    notes: &mut Notes<'_>,
    uses: &mut Vec<(usize, Option<usize>, Use)>,
) {
    let pagination = request.pagination.as_ref().map(names).unwrap_or_default();
    let followed = pagination.into_iter().flatten().any(|(name, _)| notes.followed.contains(name.as_bytes()));
    let Some((auth, at)) = &request.auth else {
        uses.extend(request.uses(followed).into_iter().map(|one| (request.at, None, one)));
        return;
    };
    for name in names(auth) {
        // A variable that is no block's may hold anything, unless it stands there as the name of one.
        let block = match &name {
            Some((name, _)) if known.contains_key(name) => known.get(name).copied(),
            // What the template brings itself is no credential of ours.
            Some((name, _)) if notes.legacy.contains(name.as_bytes()) => None,
            Some((name, true)) if sure && name.starts_with("signer(") => {
                notes.issue(*at, || {
                    format!("`{name}` is a credential by its id: declare a `credentials` block, and name it here as `$$auth_x`")
                });
                continue;
            }
            Some((name, said)) if sure && (*said || stands(text, *at, name)) => {
                notes.issue(*at, || format!("there is no `credentials` block called `{name}`"));
                continue;
            }
            _ if sure => {
                let mut hosts: Vec<String> = request.uses(false).into_iter().map(|one| one.host).collect();
                hosts.dedup();
                let hosts = hosts.join("`, `");
                notes.issue(*at, || {
                    format!("the text does not tell which `credentials` block authenticates the request to `{hosts}`, so a run's is refused")
                });
                continue;
            }
            _ => continue,
        };
        uses.extend(request.uses(followed).into_iter().map(|one| (*at, block, one)));
    }
}

/// Whether a variable of this name stands behind a place, on one of the next lines.
fn stands(text: &[u8], at: usize, name: &str) -> bool {
    let behind = text.get(at..).unwrap_or_default();
    let behind = behind.get(..256).unwrap_or(behind);
    memchr::memmem::find(behind, format!("${name}").as_bytes()).is_some()
}

/// Puts lines where offsets were.
fn assemble(text: &[u8], mut notes: Notes<'_>, mut uses: Vec<(usize, Option<usize>, Use)>) -> Template {
    uses.sort_by_key(|(at, _, _)| *at);
    notes.issues.sort();
    notes.issues.dedup();
    let more = notes.issues.len().checked_sub(MOST_ERRORS).filter(|more| *more > 0);
    notes.issues.truncate(MOST_ERRORS);
    let mut positions = Positions::default();
    positions.add(notes.blocks.iter().map(|(_, at)| *at));
    positions.add(uses.iter().map(|(at, _, _)| *at));
    positions.add(notes.issues.iter().map(|(at, _, _)| *at));
    positions.find(text);
    let mut template = Template { name: notes.name, parameters: notes.parameters, ..Template::default() };
    template.credentials =
        notes.blocks.into_iter().map(|(block, at)| Block { line: positions.of(at).0, ..block }).collect();
    for (at, block, mut one) in uses {
        one.line = positions.of(at).0;
        let list = match block.and_then(|block| template.credentials.get_mut(block)) {
            Some(block) => &mut block.uses,
            None => &mut template.unsigned,
        };
        // One line may have a million.
        if list.iter().rev().take(NEAR).take_while(|other| other.line == one.line).all(|other| *other != one) {
            list.push(one);
        }
    }
    for (at, block, message) in notes.issues {
        let (line, column) = positions.of(at);
        template.errors.push(Issue { line, column, message, block });
    }
    if let (Some(more), Some(last)) = (more, template.errors.last_mut()) {
        last.message.push_str(&format!(" (and {more} more errors)"));
    }
    template
}

/// The tags of a block, from `key=value`.
fn tag(text: &str, tags: &mut BTreeMap<String, String>) -> bool {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            tags.insert(key.trim().to_owned(), value.trim().to_owned());
            true
        }
        _ => false,
    }
}
