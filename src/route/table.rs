//! The table of bindings and the one decision: use a credential, pass, or deny.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::Deserialize;

use super::binding::{Binding, Coordinates, CredentialEntry, OpenPlace, Tie};
use super::caller::{Caller, Callers};
use super::matcher::{HostPattern, PathPrefix, refuse_path_tricks};
use super::permit::{Passage, Permit};
use crate::base::request::is_spelling_of;
use crate::base::{Clock, Code, Destination, Host, Narrowing, Protocol, Refusal, RequestView};

/// What happens to a call that no binding is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unbound {
    /// It is refused.
    #[default]
    Deny,
    /// It passes without a credential, on ports 80 and 443.
    Pass,
    /// It passes, and the binding it would have needed is logged.
    Observe,
}

/// Headers by which a server may be told to take a request for one of another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// A call about which a decision is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who calls.
    pub caller: &'a Caller,
    /// Where it would go.
    pub destination: &'a Destination,
    /// With which method.
    pub method: &'a Method,
    /// The path as it would be forwarded, without the query.
    pub path: &'a str,
    /// The same with its query.
    pub target: &'a str,
    /// The request's headers, for the tricks that a rule must not be deceived by.
    pub headers: &'a HeaderMap,
    /// The credential that the request names.
    pub named: Option<&'a str>,
    /// The reverse route it came through, if that has a credential of its own.
    pub route: Option<&'a str>,
    /// Leases are measured by it.
    pub clock: &'a dyn Clock,
}

/// The answer.
#[derive(Debug)]
pub enum Decision {
    /// Sign with this.
    Use(Permit),
    /// Bring the content of this credential, then decide again.
    Wake(Arc<CredentialEntry>),
    /// Forward without a credential.
    Pass(Passage),
    /// Refuse.
    Deny(Refusal),
}

/// The answer for a tunnel that is about to be opened.
#[derive(Debug)]
pub enum Gate {
    /// Terminate TLS; every request inside is decided for itself.
    Intercept,
    /// Pass the bytes on unseen.
    Tunnel(Passage),
    /// Refuse.
    Deny(Refusal),
}

#[derive(Debug)]
struct Slot {
    at: Coordinates,
    binding: Arc<Binding>,
}

impl Slot {
    fn is_on(&self, destination: &Destination) -> bool {
        self.at.port.is_none_or(|port| port == destination.port())
    }

    /// Most specific first: port, longest path, method, caller, services, regions, actions.
    fn rank(&self) -> (bool, usize, [bool; 5]) {
        let narrowing = self.binding.narrowing.as_ref();
        let narrowed = |list: fn(&Narrowing) -> &Vec<String>| narrowing.is_some_and(|some| !list(some).is_empty());
        (
            self.at.port.is_some(),
            self.at.path.as_ref().map_or(0, |path| path.len() + 1),
            [
                !self.binding.methods.is_empty(),
                !self.binding.callers.is_empty(),
                narrowed(|narrowing| &narrowing.services),
                narrowed(|narrowing| &narrowing.regions),
                narrowed(|narrowing| &narrowing.actions),
            ],
        )
    }
}

/// The slots of one host or suffix, most specific first.
#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    index: Option<Index>,
}

/// Where to look among many slots. Each list of places is in their order, which is that of their specificity.
#[derive(Debug, Default)]
struct Index {
    /// For requests that name a credential.
    by_credential: HashMap<Arc<str>, Vec<usize>>,
    /// Of those that are chosen without a name: by their path,
    by_path: HashMap<Box<str>, Vec<usize>>,
    /// without a path by the callers that they list,
    by_caller: HashMap<String, Vec<usize>>,
    /// and without either.
    others: Vec<usize>,
    /// The length of the longest path.
    longest: usize,
}

/// From so many slots on, those that a request may concern are looked up instead of tried one after the other.
const MANY: usize = 16;

impl Index {
    fn of(slots: &[Slot]) -> Self {
        let mut index = Self::default();
        for (place, Slot { at, binding }) in slots.iter().enumerate() {
            index.by_credential.entry(Arc::clone(&binding.credential.id)).or_default().push(place);
            if let Some(policy) = binding.policy.as_ref().filter(|policy| policy.alias != binding.credential.id) {
                index.by_credential.entry(Arc::clone(&policy.alias)).or_default().push(place);
            }
            if binding.only_named {
                continue;
            }
            match &at.path {
                Some(path) => {
                    index.longest = index.longest.max(path.len());
                    index.by_path.entry(path.as_str().into()).or_default().push(place);
                }
                None if binding.callers.is_empty() => index.others.push(place),
                None => {
                    for caller in &binding.callers {
                        index.by_caller.entry(caller.clone()).or_default().push(place);
                    }
                }
            }
        }
        index
    }

    /// The places that a request may concern; nothing where all have to be tried, since the path could deceive a rule, and
    /// then even a rule for another path refuses it.
    fn places(&self, ask: &Ask<'_>) -> Option<Places<'_>> {
        if let Some(id) = ask.named {
            return Some(Places::of([self.by_credential.get(id).map_or(&[], Vec::as_slice), &[]]));
        }
        if !self.by_path.is_empty() {
            refuse_path_tricks(ask.path).ok()?;
        }
        let callers = self.by_caller.get(&*ask.caller.name).map_or(&[] as &[usize], Vec::as_slice);
        let mut places = Places::of([&self.others, callers]);
        if !self.by_path.is_empty() {
            let ends = ask.path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(index, _)| index);
            let prefixes = ends.chain([ask.path.len()]).take_while(|end| *end <= self.longest);
            places.found.extend(prefixes.filter_map(|end| self.by_path.get(ask.path.get(..end)?)).flatten().copied());
            places.found.sort_unstable();
        }
        Some(places)
    }
}

/// Some lists of places, merged in their order.
struct Places<'a> {
    lists: [&'a [usize]; 2],
    found: Vec<usize>,
    at: usize,
}

impl<'a> Places<'a> {
    fn of(lists: [&'a [usize]; 2]) -> Self {
        Self { lists, found: Vec::new(), at: 0 }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let own = self.found.get(self.at).copied();
        let least = self.lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0]);
        match (least, own) {
            (Some(list), own) if own.is_none_or(|own| list[0] < own) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
            (_, own) => {
                self.at += 1;
                own
            }
        }
    }
}

impl Slots {
    /// Sorts the slots, reports ties, and makes the index.
    fn arrange(&mut self, host: &str, ties: &mut Vec<Tie>) {
        arrange(&mut self.all, host, ties);
        self.index = (self.all.len() >= MANY).then(|| Index::of(&self.all));
    }

    /// The slots that a request may concern, most specific first.
    fn concerning<'a>(&'a self, ask: &Ask<'_>) -> impl Iterator<Item = &'a Slot> {
        let places = self.index.as_ref().and_then(|index| index.places(ask));
        let all = if places.is_some() { 0..0 } else { 0..self.all.len() };
        places.into_iter().flatten().chain(all).map(|place| &self.all[place])
    }
}

#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Host, Slots>,
    below: HashMap<Box<str>, Slots>,
}

impl Hosts {
    /// The groups of slots of a host, the exact one first, then that of its longest suffix, and so on.
    fn groups<'a>(&'a self, destination: &'a Destination) -> impl Iterator<Item = &'a Slots> {
        let exact = self.exact.get(destination.host());
        let mut rest = if self.below.is_empty() { None } else { destination.host().name() };
        let suffixes = std::iter::from_fn(move || {
            let (_, suffix) = rest?.split_once('.')?;
            rest = Some(suffix);
            Some(self.below.get(suffix))
        });
        exact.into_iter().chain(suffixes.flatten())
    }

    /// Every slot of a host.
    fn slots<'a>(&'a self, destination: &'a Destination) -> impl Iterator<Item = &'a Slot> {
        self.groups(destination).flat_map(|slots| &slots.all).filter(|slot| slot.is_on(destination))
    }
}

/// The ports that are bound on a host.
#[derive(Debug, Default)]
struct Ports {
    any: bool,
    some: Vec<u16>,
}

/// Hosts with a binding, whosever it is.
#[derive(Debug, Default)]
struct Bound {
    exact: HashMap<Host, Ports>,
    below: HashMap<Box<str>, Ports>,
}

impl Bound {
    fn add(&mut self, pattern: &HostPattern) {
        let ports = match (&pattern.host, pattern.wildcard) {
            (Host::Name(suffix), true) => self.below.entry(suffix.clone()).or_default(),
            (host, _) => self.exact.entry(host.clone()).or_default(),
        };
        match pattern.port {
            None => ports.any = true,
            Some(port) if !ports.some.contains(&port) => ports.some.push(port),
            Some(_) => {}
        }
    }

    fn is_on(&self, destination: &Destination) -> bool {
        let is_meant = |ports: &Ports| ports.any || ports.some.contains(&destination.port());
        let mut rest = destination.host().name();
        let suffixes = std::iter::from_fn(|| {
            let (_, suffix) = rest?.split_once('.')?;
            rest = Some(suffix);
            Some(suffix)
        });
        self.exact.get(destination.host()).is_some_and(is_meant)
            || suffixes.filter_map(|suffix| self.below.get(suffix)).any(is_meant)
    }
}

/// Every binding, indexed by host; immutable, replaced whole when the configuration changes.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By account, and by what the runs of an applied policy are confined to.
    scopes: HashMap<Arc<str>, Hosts>,
    /// What the runs of applied policies may call without a credential.
    open: HashMap<Arc<str>, Vec<OpenPlace>>,
    /// Where anything is bound for anybody, however many accounts there are.
    bound: Bound,
    callers: Callers,
    credentials: Vec<Arc<CredentialEntry>>,
    unbound: Unbound,
}

impl RouteTable {
    /// Builds the table.
    ///
    /// # Errors
    /// Every pair of bindings between which nothing would decide.
    pub fn new<B: Into<Arc<Binding>>>(
        bindings: Vec<B>,
        credentials: Vec<Arc<CredentialEntry>>,
        callers: Callers,
        unbound: Unbound,
    ) -> Result<Self, Vec<Tie>> {
        let mut scopes: HashMap<Arc<str>, Hosts> = HashMap::new();
        let mut bound = Bound::default();
        for binding in bindings.into_iter().map(Into::into) {
            let hosts = scopes.entry(Arc::clone(binding.scope())).or_default();
            let paths: Vec<_> =
                if binding.paths.is_empty() { vec![None] } else { binding.paths.iter().cloned().map(Some).collect() };
            for pattern in &binding.hosts {
                bound.add(pattern);
                let slots = match (&pattern.host, pattern.wildcard) {
                    (Host::Name(suffix), true) => hosts.below.entry(suffix.clone()).or_default(),
                    (host, _) => hosts.exact.entry(host.clone()).or_default(),
                };
                slots.all.extend(paths.iter().map(|path| Slot {
                    at: Coordinates { port: pattern.port, path: path.clone() },
                    binding: Arc::clone(&binding),
                }));
            }
        }
        let mut ties = Vec::new();
        for hosts in scopes.values_mut() {
            for (host, slots) in &mut hosts.exact {
                slots.arrange(&host.to_string(), &mut ties);
            }
            for (suffix, slots) in &mut hosts.below {
                slots.arrange(&format!("*.{suffix}"), &mut ties);
            }
        }
        if ties.is_empty() {
            return Ok(Self { scopes, open: HashMap::new(), bound, callers, credentials, unbound });
        }
        ties.sort_by(|one, two| (&one.first, &one.second).cmp(&(&two.first, &two.second)));
        ties.dedup_by(|one, two| one.first == two.first && one.second == two.second);
        Err(ties)
    }

    /// The same with what the runs of applied policies may call without a credential, by their scope.
    #[must_use]
    pub fn with_open(self, open: HashMap<Arc<str>, Vec<OpenPlace>>) -> Self {
        Self { open, ..self }
    }

    /// The callers.
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// The same where every call without a binding is refused: it is not known yet what is bound.
    #[must_use]
    pub fn denying_unbound(self) -> Self {
        // Nor is it known whether there are callers, who would have to prove themselves.
        Self { unbound: Unbound::Deny, callers: self.callers.asking(), ..self }
    }

    /// The bindings of an account, each once.
    pub fn bindings(&self, account: &str) -> impl Iterator<Item = &Arc<Binding>> {
        let hosts = self.scopes.get(account);
        let slots = hosts.into_iter().flat_map(|hosts| hosts.exact.values().chain(hosts.below.values()));
        let mut seen = HashSet::new();
        slots.flat_map(|slots| &slots.all).map(|slot| &slot.binding).filter(move |one| seen.insert(Arc::as_ptr(one)))
    }

    /// Every credential, whether bound or not.
    pub fn credentials(&self) -> &[Arc<CredentialEntry>] {
        &self.credentials
    }

    /// Decides about one request.
    pub fn decide(&self, ask: &Ask<'_>) -> Decision {
        if !self.callers.confirms(ask.caller, ask.clock) {
            return Decision::Deny(Refusal::new(
                Code::CallerUnknown,
                "this caller is no longer known; open a new connection",
            ));
        }
        match self.find(ask) {
            Err(refusal) => Decision::Deny(refusal),
            Ok(Some(binding)) if ask.named.is_some() && !binding.credential.enabled => {
                Decision::Deny(unknown(ask.destination))
            }
            Ok(Some(_)) if *ask.method == Method::TRACE || ask.method.as_str() == "TRACK" => {
                Decision::Deny(Refusal::bad_request("TRACE would send the credential back to the caller"))
            }
            Ok(Some(binding)) => match permit(binding, ask.destination) {
                Ok(Some(permit)) => Decision::Use(permit),
                Ok(None) => Decision::Wake(Arc::clone(&binding.credential)),
                Err(refusal) => Decision::Deny(refusal),
            },
            Ok(None) => {
                match self.without(ask.caller, ask.destination, ask.named, Some((ask.method, ask.path, ask.headers))) {
                    Ok(passage) => Decision::Pass(passage),
                    Err(refusal) => Decision::Deny(refusal),
                }
            }
        }
    }

    /// Decides what becomes of a tunnel to this destination, before it is opened.
    pub fn gate(&self, caller: &Caller, destination: &Destination, named: Option<&str>, clock: &dyn Clock) -> Gate {
        if !self.callers.confirms(caller, clock) {
            return Gate::Deny(Refusal::new(Code::CallerUnknown, "this caller is not known"));
        }
        let mine = self.slots(caller, destination).any(|slot| {
            let binding = &slot.binding;
            binding.route.is_none()
                && binding.admits(&caller.name)
                && binding.means(destination)
                && named.is_none_or(|name| binding.is_called(name))
        });
        // What a run may call without a credential is judged request by request, too.
        let open = caller.lease.is_some() && self.open_places(caller, destination).next().is_some();
        if mine || (open && named.is_none()) {
            return Gate::Intercept;
        }
        match self.without(caller, destination, named, None) {
            Ok(passage) => Gate::Tunnel(passage),
            Err(refusal) => Gate::Deny(refusal),
        }
    }

    /// Whether any credential of any account is bound to this destination for anybody.
    pub fn is_bound(&self, destination: &Destination) -> bool {
        self.bound.is_on(destination)
    }

    fn slots<'a>(&'a self, caller: &Caller, destination: &'a Destination) -> impl Iterator<Item = &'a Slot> {
        self.scopes.get(&caller.scope).into_iter().flat_map(|hosts| hosts.slots(destination))
    }

    /// The most specific binding that is for this request; an error when the request tries to deceive a rule.
    fn find<'a>(&'a self, ask: &Ask<'a>) -> Result<Option<&'a Arc<Binding>>, Refusal> {
        let mut path_is_plain = false;
        let mut outside = None;
        let hosts = self.scopes.get(&ask.caller.scope);
        let groups = hosts.into_iter().flat_map(|hosts| hosts.groups(ask.destination));
        let slots = groups.flat_map(|slots| slots.concerning(ask));
        for slot in slots.filter(|slot| slot.is_on(ask.destination)) {
            let binding = &slot.binding;
            let meant = match (ask.named, ask.route) {
                (Some(name), route) => {
                    binding.is_called(name) && (binding.route.is_none() || binding.route.as_deref() == route)
                }
                (None, Some(route)) => binding.route.as_deref() == Some(route),
                (None, None) => binding.route.is_none() && !binding.only_named,
            };
            if !meant || !binding.admits(&ask.caller.name) || !binding.means(ask.destination) {
                continue;
            }
            if let Some(prefix) = &slot.at.path {
                if !path_is_plain {
                    refuse_path_tricks(ask.path)?;
                    path_is_plain = true;
                }
                if !prefix.matches(ask.path) {
                    continue;
                }
            }
            if !binding.methods.is_empty() {
                refuse_method_overrides(ask.headers)?;
            }
            if !binding.allows(ask.method) {
                continue;
            }
            if binding.narrowing.is_some() && binding.credential.rests() {
                // Its own settings say what it is for; they are brought first.
                return Ok(Some(binding));
            }
            match outside_narrowing(binding, ask) {
                None => return Ok(Some(binding)),
                // Another binding may be for this service; if none is, this is why.
                Some(refusal) => drop(outside.get_or_insert(refusal)),
            }
        }
        outside.map_or(Ok(None), Err)
    }

    /// What becomes of a call without a binding. A run may use what its policy names, whatever others may.
    fn without(
        &self,
        caller: &Caller,
        destination: &Destination,
        named: Option<&str>,
        call: Option<(&Method, &str, &HeaderMap)>,
    ) -> Result<Passage, Refusal> {
        if caller.lease.is_none() {
            return self.unbound(destination, named, call.map(|(method, path, _)| (method, path)));
        }
        if named.is_some() {
            return Err(unknown(destination));
        }
        if let Some((method, _, headers)) = call
            && let Some(place) = self.open_places(caller, destination).find(|place| place.allows(method))
        {
            if !place.methods.is_empty() {
                refuse_method_overrides(headers)?;
            }
            return Ok(Passage::new(None));
        }
        Err(undeclared(destination, call.map(|(method, ..)| method)))
    }

    /// What a run may call without a credential at a destination.
    fn open_places<'a>(&'a self, caller: &Caller, destination: &'a Destination) -> impl Iterator<Item = &'a OpenPlace> {
        let places = self.open.get(&caller.scope).into_iter().flatten();
        places.filter(|place| place.is_on(destination))
    }

    /// What becomes of a call of any other caller without a binding.
    fn unbound(
        &self,
        destination: &Destination,
        named: Option<&str>,
        call: Option<(&Method, &str)>,
    ) -> Result<Passage, Refusal> {
        if named.is_some() {
            return Err(unknown(destination));
        }
        if self.unbound == Unbound::Deny || self.is_bound(destination) {
            return Err(needed(destination, call));
        }
        if !matches!(destination.port(), 80 | 443) {
            return Err(Refusal::new(
                Code::Unbound,
                format!("unbound calls pass on ports 80 and 443 only, and this one is to port {}", destination.port()),
            ));
        }
        Ok(Passage::new((self.unbound == Unbound::Observe).then(|| needed_binding(destination, call))))
    }
}

/// Why a binding that is narrowed to services and regions is not for this request. Its action is judged when it is signed,
/// wherever it stands: a binding that refuses an action does not hand it on to another.
fn outside_narrowing(binding: &Binding, ask: &Ask<'_>) -> Option<Refusal> {
    let narrowing = Some(binding.narrowing.as_ref()?);
    let view = RequestView {
        method: ask.method,
        path_and_query: ask.target,
        headers: ask.headers,
        // They are still among the headers.
        removed: ask.headers,
        destination: ask.destination,
        length: None,
        body: None,
        narrowing,
    };
    let judged = match binding.credential.scheme_now() {
        Ok(scheme) => scheme.reaches(&view),
        // One that cannot be used now is still not for other services.
        Err(_) => {
            crate::scheme::find(binding.credential.scheme).and_then(|kind| kind.narrows).map_or(Ok(()), |f| f(&view))
        }
    };
    judged.err().filter(|refusal| refusal.code == Code::CannotInfer)
}

/// One answer for a credential that does not exist, that is another's, that is switched off and that is not for this call.
fn unknown(destination: &Destination) -> Refusal {
    Refusal::new(
        Code::CredentialUnknown,
        format!("no credential of that name may be used by this caller for {destination}"),
    )
}

/// The permit; nothing while the credential's content rests in the store.
fn permit(binding: &Arc<Binding>, destination: &Destination) -> Result<Option<Permit>, Refusal> {
    let credential = &binding.credential;
    if !credential.is_for(destination) {
        return Err(Refusal::new(
            Code::DestinationForbidden,
            format!(
                "credential {} is not for {}; list the host under its `hosts` if it is",
                credential.id,
                destination.host()
            ),
        )
        .with_proxy_error("http_request_denied"));
    }
    if destination.protocol() == Protocol::Http && !binding.allow_cleartext {
        let how = match &binding.policy {
            None => format!("set `allow_cleartext: true` on {}", binding.name),
            Some(_) => "have an administrator apply the policy with `allow_cleartext`".to_owned(),
        };
        return Err(Refusal::new(
            Code::CleartextRefused,
            format!("credential {} would travel unencrypted to {destination}; use https, or {how}", credential.id),
        ));
    }
    if !credential.enabled {
        return Err(Refusal::new(Code::CredentialUnknown, "the credential bound to this call is switched off"));
    }
    if credential.rests() {
        return Ok(None);
    }
    let scheme = credential.scheme_now().map_err(|reason| {
        Refusal::new(Code::SecretUnavailable, format!("credential {} cannot be used: {reason}", credential.id))
    })?;
    Ok(Some(Permit::new(Arc::clone(binding), scheme, destination.clone())))
}

fn refuse_method_overrides(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.keys().find(|key| METHOD_OVERRIDES.iter().any(|name| is_spelling_of(key.as_str(), name))) {
        None => Ok(()),
        Some(name) => Err(Refusal::bad_request(format!("{name} is refused where a method rule judges the request"))),
    }
}

/// The binding that would make a call possible, as it could be pasted into the configuration.
fn needed_binding(destination: &Destination, call: Option<(&Method, &str)>) -> String {
    let host = match destination.port() {
        port if port == destination.protocol().default_port() => destination.host().to_string(),
        port => format!("{}:{port}", destination.host()),
    };
    match call {
        None => format!("{{ credential: ID, hosts: [\"{host}\"] }}"),
        Some((method, path)) => {
            // A path that no rule may hold is left out, so that what is shown can be pasted.
            let paths = PathPrefix::parse(path).map_or_else(|_| String::new(), |path| format!(", paths: [\"{path}\"]"));
            format!("{{ credential: ID, hosts: [\"{host}\"], methods: [{method}]{paths} }}")
        }
    }
}

/// Why a run may not make a call.
fn undeclared(destination: &Destination, method: Option<&Method>) -> Refusal {
    let call = method.map_or_else(|| destination.to_string(), |method| format!("{method} to {destination}"));
    Refusal::new(
        Code::Unbound,
        format!("this run's policy declares no {call}; apply the template again if it does by now, or with `loose`"),
    )
}

fn needed(destination: &Destination, call: Option<(&Method, &str)>) -> Refusal {
    Refusal::new(
        Code::Unbound,
        format!("no binding lets this caller use a credential here; it would be {}", needed_binding(destination, call)),
    )
}

/// Sorts the slots of one host, most specific first, and reports those between which nothing decides.
fn arrange(slots: &mut [Slot], host: &str, ties: &mut Vec<Tie>) {
    slots.sort_by(|one, two| {
        two.rank()
            .cmp(&one.rank())
            .then_with(|| one.at.path.cmp(&two.at.path))
            .then_with(|| one.at.port.cmp(&two.at.port))
    });
    for group in slots.chunk_by(|one, two| one.at == two.at && one.rank() == two.rank()) {
        let mut taken: HashMap<[Option<&str>; 4], &Arc<Binding>> = HashMap::new();
        for slot in group {
            let binding = &slot.binding;
            if binding.route.is_some() || binding.only_named {
                continue;
            }
            for key in keys(binding) {
                let first = *taken.entry(key).or_insert(binding);
                if first.credential.id != binding.credential.id {
                    ties.push(Tie {
                        first: Arc::clone(&first.name),
                        second: Arc::clone(&binding.name),
                        host: host.to_owned(),
                    });
                }
            }
        }
    }
}

/// No names mean any.
fn any(names: Vec<Option<&str>>) -> Vec<Option<&str>> {
    if names.is_empty() { vec![None] } else { names }
}

/// Every method, caller, service and region together that a binding is for, `None` standing for any.
fn keys(binding: &Binding) -> Vec<[Option<&str>; 4]> {
    let methods = any(binding.methods.iter().map(|method| Some(method.as_str())).collect());
    let callers = any(binding.callers.iter().map(|caller| Some(caller.as_str())).collect());
    let narrowing = binding.narrowing.as_ref();
    let listed = |list: fn(&Narrowing) -> &Vec<String>| narrowing.map(list).into_iter().flatten();
    let services = any(listed(|narrowing| &narrowing.services).map(|name| Some(name.as_str())).collect());
    let regions = any(listed(|narrowing| &narrowing.regions).map(|name| Some(name.as_str())).collect());
    let mut keys = Vec::new();
    for method in &methods {
        for caller in &callers {
            for service in &services {
                keys.extend(regions.iter().map(|region| [*method, *caller, *service, *region]));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Authorizer, Mutations, Prepared, Secret, SystemClock};
    use crate::route::{CallerRule, HostPattern, HostShape, Lease, PolicyPart, Readiness};
    use crate::scheme::{Identity, Scheme};

    #[derive(Debug)]
    struct Nothing(Arc<dyn Authorizer>);

    impl Scheme for Nothing {
        fn owned_headers(&self) -> &[http::HeaderName] {
            &[]
        }
        fn identity(&self) -> Identity<'_> {
            Identity::Fixed(&self.0)
        }
    }

    fn ready() -> Readiness {
        Readiness::Ready(Arc::new(Nothing(Arc::new(Prepared::new(Mutations::default())))))
    }

    fn credential(id: &str, hosts: &[&str]) -> Arc<CredentialEntry> {
        let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
        Arc::new(CredentialEntry::new(id, "none", hosts, true, ready()))
    }

    fn binding(id: &str, host: &str) -> Binding {
        Binding {
            name: format!("{id}@{host}").into(),
            credential: credential(id, &["*.test"]),
            callers: vec![],
            hosts: vec![HostPattern::parse(host).unwrap()],
            methods: vec![],
            paths: vec![],
            allow_cleartext: false,
            allow_addresses: Arc::new([]),
            only_named: false,
            narrowing: None,
            route: None,
            policy: None,
            meter: crate::base::meter::MeterSlot::default(),
        }
    }

    fn paths(paths: &[&str]) -> Vec<PathPrefix> {
        paths.iter().map(|path| PathPrefix::parse(path).unwrap()).collect()
    }

    fn table(bindings: Vec<Binding>) -> RouteTable {
        RouteTable::new(bindings, vec![], Callers::default(), Unbound::Deny).unwrap()
    }

    struct Call<'a> {
        url: &'a str,
        method: Method,
        named: Option<&'a str>,
        route: Option<&'a str>,
        headers: HeaderMap,
    }

    fn get(url: &str) -> Call<'_> {
        Call { url, method: Method::GET, named: None, route: None, headers: HeaderMap::new() }
    }

    fn decide(table: &RouteTable, call: Call<'_>) -> String {
        let uri: http::Uri = call.url.parse().unwrap();
        let destination = Destination::from_absolute(&uri).unwrap();
        let decision = table.decide(&Ask {
            caller: &Caller::local(),
            destination: &destination,
            method: &call.method,
            path: uri.path(),
            target: uri.path_and_query().unwrap().as_str(),
            headers: &call.headers,
            named: call.named,
            route: call.route,
            clock: &SystemClock,
        });
        match decision {
            Decision::Use(permit) => permit.binding().to_string(),
            Decision::Wake(credential) => format!("wake {}", credential.id),
            Decision::Pass(passage) => format!("pass {:?}", passage.observed()),
            Decision::Deny(refusal) => refusal.code.as_str().to_owned(),
        }
    }

    #[test]
    fn the_most_specific_binding_wins() {
        let with = |mut one: Binding, change: fn(&mut Binding)| {
            change(&mut one);
            one
        };
        let table = table(vec![
            binding("suffix", "*.test.example.test"),
            binding("longer", "*.a.test.example.test"),
            binding("exact", "x.a.test.example.test"),
            binding("port", "x.a.test.example.test:8443"),
            with(binding("path", "x.a.test.example.test"), |b| b.paths = paths(&["/p"])),
            with(binding("longpath", "x.a.test.example.test"), |b| b.paths = paths(&["/p/q"])),
            with(binding("method", "x.a.test.example.test"), |b| b.methods = vec![Method::PUT]),
        ]);
        for (url, name) in [
            ("https://b.test.example.test/", "suffix@*.test.example.test"),
            ("https://y.a.test.example.test/", "longer@*.a.test.example.test"),
            ("https://z.y.a.test.example.test/", "longer@*.a.test.example.test"),
            ("https://x.a.test.example.test/", "exact@x.a.test.example.test"),
            ("https://x.a.test.example.test:8443/p", "port@x.a.test.example.test:8443"),
            ("https://x.a.test.example.test/p", "path@x.a.test.example.test"),
            ("https://x.a.test.example.test/p/q/r", "longpath@x.a.test.example.test"),
            ("https://x.a.test.example.test/p-q", "exact@x.a.test.example.test"),
        ] {
            assert_eq!(decide(&table, get(url)), name, "{url}");
        }
        let put = Call { method: Method::PUT, ..get("https://x.a.test.example.test/") };
        assert_eq!(decide(&table, put), "method@x.a.test.example.test");
    }

    #[test]
    fn two_bindings_that_tie_with_different_credentials_are_refused() {
        let refused = |one: Binding, two: Binding| {
            RouteTable::new(vec![one, two], vec![], Callers::default(), Unbound::Deny).is_err()
        };
        let methods = |id: &str, methods: &[Method]| Binding { methods: methods.to_vec(), ..binding(id, "a.test") };
        assert!(refused(binding("one", "a.test"), binding("two", "A.test.")));
        assert!(refused(binding("one", "*.a.test"), binding("two", "*.a.test")));
        assert!(refused(methods("one", &[Method::GET, Method::PUT]), methods("two", &[Method::PUT])));
        assert!(!refused(methods("one", &[Method::GET]), methods("two", &[Method::PUT])));
        assert!(!refused(binding("one", "a.test"), methods("two", &[Method::PUT])));
        assert!(!refused(binding("one", "a.test"), binding("one", "a.test")));
        assert!(!refused(binding("one", "a.test"), binding("two", "b.test")));
        assert!(!refused(binding("one", "a.test"), Binding { only_named: true, ..binding("two", "a.test") }));
    }

    #[test]
    fn a_named_credential_is_used_only_where_a_binding_allows_and_says_nothing_of_others() {
        let table = table(vec![
            binding("one", "a.test"),
            Binding { only_named: true, ..binding("two", "a.test") },
            binding("three", "b.test"),
        ]);
        let named = |url, id| decide(&table, Call { named: Some(id), ..get(url) });
        assert_eq!(decide(&table, get("https://a.test/")), "one@a.test");
        assert_eq!(named("https://a.test/", "two"), "two@a.test");
        assert_eq!(named("https://a.test/", "three"), "credential_unknown");
        assert_eq!(named("https://a.test/", "nonesuch"), "credential_unknown");
        assert_eq!(named("https://c.test/", "one"), "credential_unknown");
    }

    #[test]
    fn a_credential_signs_for_its_own_hosts_only_and_without_hosts_nothing() {
        let with_hosts = |hosts: &[&str]| Binding { credential: credential("c", hosts), ..binding("c", "a.test") };
        assert_eq!(decide(&table(vec![with_hosts(&["a.test"])]), get("https://a.test/")), "c@a.test");
        assert_eq!(decide(&table(vec![with_hosts(&["b.test"])]), get("https://a.test/")), "destination_forbidden");
        assert_eq!(decide(&table(vec![with_hosts(&[])]), get("https://a.test/")), "destination_forbidden");
        assert_eq!(decide(&table(vec![with_hosts(&["a.test:8443"])]), get("https://a.test/")), "destination_forbidden");
    }

    #[test]
    fn a_secret_is_not_sent_over_cleartext_unless_the_binding_says_so() {
        let cleartext = |allow| {
            decide(&table(vec![Binding { allow_cleartext: allow, ..binding("c", "a.test") }]), get("http://a.test/"))
        };
        assert_eq!(cleartext(false), "cleartext_refused");
        assert_eq!(cleartext(true), "c@a.test");
    }

    #[test]
    fn a_path_rule_refuses_tricks_and_judges_whole_segments() {
        let table = table(vec![Binding { paths: paths(&["/setup"]), ..binding("c", "a.test") }]);
        assert_eq!(decide(&table, get("https://a.test/setup/x")), "c@a.test");
        assert_eq!(decide(&table, get("https://a.test/setup-x")), "unbound");
        assert_eq!(decide(&table, get("https://a.test/setup/%2e%2e/")), "bad_request");
        assert_eq!(decide(&table, get("https://a.test/setup/%2e%2e/x")), "bad_request");
    }

    #[test]
    fn a_method_rule_refuses_method_override_headers_in_every_spelling() {
        let table = table(vec![Binding { methods: vec![Method::GET], ..binding("c", "a.test") }]);
        assert_eq!(decide(&table, get("https://a.test/")), "c@a.test");
        for name in ["x-http-method-override", "x_http_method_override", "x-http_method"] {
            let mut call = get("https://a.test/");
            call.headers.insert(http::HeaderName::from_static(name), http::HeaderValue::from_static("DELETE"));
            assert_eq!(decide(&table, call), "bad_request", "{name}");
        }
        assert_eq!(decide(&table, Call { method: Method::DELETE, ..get("https://a.test/") }), "unbound");
    }

    #[test]
    fn a_binding_is_for_the_callers_it_names() {
        let callers = || {
            Callers::new([
                CallerRule::token("runner", &Secret::new("t")),
                CallerRule::token("other", &Secret::new("u")),
            ])
        };
        let rule = Binding { callers: vec!["runner".into()], ..binding("c", "a.test") };
        let table = RouteTable::new(vec![rule], vec![], callers(), Unbound::Pass).unwrap();
        let destination = Destination::from_connect("a.test:443").unwrap();
        let gate = |name: &str| {
            format!("{:?}", table.gate(&table.callers().named(name).unwrap(), &destination, None, &SystemClock))
        };
        assert_eq!(gate("runner"), "Intercept");
        assert!(gate("other").contains("Unbound"), "never passes: bound for somebody else");
    }

    #[test]
    fn unbound_calls_are_denied_or_pass_on_the_two_web_ports_and_never_to_a_bound_host() {
        let with =
            |unbound| RouteTable::new(vec![binding("c", "a.test:8443")], vec![], Callers::default(), unbound).unwrap();
        assert_eq!(decide(&with(Unbound::Deny), get("https://b.test/")), "unbound");
        assert_eq!(decide(&with(Unbound::Pass), get("https://b.test/")), "pass None");
        assert_eq!(decide(&with(Unbound::Pass), get("http://b.test/")), "pass None");
        assert_eq!(decide(&with(Unbound::Pass), get("https://b.test:22/")), "unbound");
        assert_eq!(decide(&with(Unbound::Pass), get("https://a.test:8443/x")), "c@a.test:8443");
        let observed = decide(&with(Unbound::Observe), get("https://b.test/p?secret=1"));
        assert!(observed.contains("b.test") && observed.contains("/p") && !observed.contains("secret"), "{observed}");
    }

    #[test]
    fn many_bindings_of_a_host_decide_as_a_few_do() {
        let at = |id: &str, host: &str, path: &str| Binding {
            paths: vec![PathPrefix::parse(path).unwrap()],
            ..binding(id, host)
        };
        let few = || {
            vec![
                binding("any", "a.test"),
                at("root", "a.test", "/"),
                at("one", "a.test", "/a"),
                Binding { methods: vec![Method::PUT], ..at("put", "a.test", "/a") },
                at("two", "a.test", "/a/b"),
                at("port", "a.test:8443", "/a"),
                Binding { only_named: true, ..at("named", "a.test", "/a/b/c") },
                binding("below", "*.test"),
            ]
        };
        let more = (0..100).map(|index| at("more", "a.test", &format!("/more/{index}")));
        let others = (0..100).map(|index| {
            let callers = vec![format!("caller{index}")];
            Binding { callers, ..binding(&format!("of{index}"), "a.test") }
        });
        let unnamed = (0..100).map(|index| Binding { only_named: true, ..binding(&format!("named{index}"), "a.test") });
        let more = more.chain(others).chain(unnamed);
        let (small, large) = (table(few()), table(few().into_iter().chain(more).collect()));
        assert_eq!(decide(&large, get("https://a.test/more/7/x")), "more@a.test");
        for (index, decided) in [(99, "named99@a.test"), (100, "credential_unknown")] {
            let id = format!("named{index}");
            assert_eq!(decide(&large, Call { named: Some(&id), ..get("https://a.test/x") }), decided);
        }
        let mine = |table: &RouteTable, name: &str| {
            let (caller, url) = (Caller::of_listener(name), "https://a.test/x".parse::<http::Uri>().unwrap());
            let (destination, headers) = (Destination::from_absolute(&url).unwrap(), HeaderMap::new());
            let ask = Ask {
                caller: &caller,
                destination: &destination,
                method: &Method::GET,
                path: "/x",
                target: "/x",
                headers: &headers,
                named: None,
                route: None,
                clock: &SystemClock,
            };
            match table.decide(&ask) {
                Decision::Use(permit) => permit.binding().to_string(),
                other => format!("{other:?}"),
            }
        };
        // The one with the longest path, then the one for this caller, then the one for all.
        assert_eq!(mine(&large, "caller7"), "root@a.test");
        let of = |index: usize| Binding {
            callers: vec![format!("caller{index}")],
            ..binding(&format!("of{index}"), "a.test")
        };
        let callers = table((0..100).map(of).chain([binding("any", "a.test")]).collect());
        assert_eq!(
            (mine(&callers, "caller99"), mine(&callers, "caller100")),
            ("of99@a.test".into(), "any@a.test".into())
        );
        for path in ["/", "/a", "/a/", "/a/b", "/a/b/c/d", "/a-b", "/b", "/a/b/../c", "/a%2fb", "//a", "/a;b"] {
            for host in ["a.test", "a.test:8443", "b.test", "c.other"] {
                for (method, named) in [(Method::GET, None), (Method::PUT, None), (Method::GET, Some("named"))] {
                    let url = format!("https://{host}{path}");
                    let call = || Call { method: method.clone(), named, ..get(&url) };
                    assert_eq!(decide(&large, call()), decide(&small, call()), "{method} {url} {named:?}");
                }
            }
        }
    }

    #[test]
    fn a_routes_binding_serves_that_route_and_makes_its_host_bound() {
        let rule = Binding { route: Some("r1".into()), methods: vec![Method::GET], ..binding("c", "a.test") };
        let table = RouteTable::new(vec![rule], vec![], Callers::default(), Unbound::Pass).unwrap();
        assert_eq!(decide(&table, Call { route: Some("r1"), ..get("https://a.test/") }), "c@a.test");
        assert_eq!(
            decide(&table, Call { route: Some("r1"), method: Method::PUT, ..get("https://a.test/") }),
            "unbound"
        );
        assert_eq!(decide(&table, get("https://a.test/")), "unbound");
        assert_eq!(decide(&table, Call { named: Some("c"), ..get("https://a.test/") }), "credential_unknown");
    }

    #[test]
    fn a_credential_that_is_off_or_unusable_refuses_and_never_falls_through() {
        let off =
            Arc::new(CredentialEntry::new("c", "none", vec![HostPattern::parse("a.test").unwrap()], false, ready()));
        let rule = Binding { credential: Arc::clone(&off), ..binding("c", "a.test") };
        assert_eq!(
            decide(&table(vec![rule, binding("wide", "*.test.example.test")]), get("https://a.test/")),
            "credential_unknown"
        );
        let broken = credential("c", &["a.test"]);
        broken.set_readiness(Readiness::Unusable("file gone".into()));
        let rule = Binding { credential: broken, ..binding("c", "a.test") };
        assert_eq!(decide(&table(vec![rule]), get("https://a.test/")), "secret_unavailable");
    }

    fn run(id: &str, policy: &str) -> (Arc<Lease>, CallerRule) {
        let until = SystemClock.now() + std::time::Duration::from_secs(3600);
        let lease = Arc::new(Lease::new("default", policy, id, until));
        let rule = CallerRule::token(&format!("run-{id}"), &Secret::new(id));
        (Arc::clone(&lease), CallerRule { lease: Some(lease), ..rule })
    }

    fn of_policy(policy: &str, alias: &str, shapes: &[&str], one: Binding) -> Binding {
        let scope = Lease::scope_of("default", policy).into();
        let shapes = shapes.iter().map(|shape| HostShape::parse(shape).unwrap()).collect();
        Binding {
            policy: Some(PolicyPart { scope, alias: alias.into(), by_id: true, shapes, account_number: None }),
            ..one
        }
    }

    /// Two policies with a run each, and a credential that is bound to everybody of the account.
    fn with_runs() -> (RouteTable, Arc<Lease>) {
        let ((lease, one), (_, two)) = (run("one", "p"), run("two", "q"));
        let everybodys = binding("everybodys", "e.test");
        let get = Binding { methods: vec![Method::GET], ..binding("c", "*.test") };
        let bindings = vec![
            everybodys,
            of_policy("p", "auth_c", &["x.{region}.test"], get),
            of_policy("q", "auth_d", &[], binding("d", "d.test")),
        ];
        let callers = Callers::new([one, two, CallerRule::token("runner", &Secret::new("t"))]);
        let table = RouteTable::new(bindings, vec![], callers, Unbound::Pass).unwrap();
        let hosts = vec![HostPattern::parse("open.test").unwrap()];
        let place = OpenPlace { hosts, shapes: vec![], methods: vec![Method::GET] };
        (table.with_open(HashMap::from([(Lease::scope_of("default", "p").into(), vec![place])])), lease)
    }

    fn decide_for(table: &RouteTable, token: &str, method: &str, url: &str, named: Option<&str>) -> String {
        let uri: http::Uri = url.parse().unwrap();
        let destination = Destination::from_absolute(&uri).unwrap();
        let decision = table.decide(&Ask {
            caller: table.callers().by_token(token.as_bytes()).unwrap(),
            destination: &destination,
            method: &method.parse().unwrap(),
            path: uri.path(),
            target: uri.path(),
            headers: &HeaderMap::new(),
            named,
            route: None,
            clock: &SystemClock,
        });
        match decision {
            Decision::Use(permit) => permit.binding().to_string(),
            Decision::Wake(_) => "wake".into(),
            Decision::Pass(_) => "pass".into(),
            Decision::Deny(refusal) => refusal.code.as_str().to_owned(),
        }
    }

    #[test]
    fn a_run_uses_what_its_policy_names_and_nothing_that_others_may() {
        let (table, _) = with_runs();
        let one = |method: &str, url: &str| decide_for(&table, "one", method, url, None);
        assert_eq!(one("GET", "https://x.eu.test/"), "c@*.test");
        assert_eq!(one("PUT", "https://x.eu.test/"), "unbound", "a method that the template does not use");
        assert_eq!(
            one("GET", "https://y.eu.test/"),
            "unbound",
            "a host that is below the pattern and not of the shape"
        );
        assert_eq!(one("GET", "https://e.test/"), "unbound", "what is bound to everybody of the account");
        assert_eq!(one("GET", "https://d.test/"), "unbound", "what another policy may");
        assert_eq!(one("GET", "https://nobodys.example/"), "unbound", "though unbound calls pass");
        assert_eq!(decide_for(&table, "two", "GET", "https://d.test/", None), "d@d.test");
        assert_eq!(decide_for(&table, "two", "GET", "https://x.eu.test/", None), "unbound");
        assert_eq!(decide_for(&table, "t", "GET", "https://e.test/", None), "everybodys@e.test");
        assert_eq!(decide_for(&table, "t", "GET", "https://x.eu.test/", None), "unbound", "is bound, for runs alone");
    }

    #[test]
    fn a_run_calls_without_a_credential_where_its_policy_does_and_nowhere_else() {
        let (table, _) = with_runs();
        let one = |method: &str, url: &str| decide_for(&table, "one", method, url, None);
        assert_eq!(one("GET", "https://open.test/"), "pass");
        assert_eq!(one("POST", "https://open.test/"), "unbound");
        assert_eq!(decide_for(&table, "two", "GET", "https://open.test/", None), "unbound");
        let gate = |token: &str, host: &str, named: Option<&str>| {
            let destination = Destination::from_connect(host).unwrap();
            let caller = table.callers().by_token(token.as_bytes()).unwrap();
            match table.gate(caller, &destination, named, &SystemClock) {
                Gate::Intercept => "intercept",
                Gate::Tunnel(_) => "tunnel",
                Gate::Deny(_) => "deny",
            }
        };
        assert_eq!(gate("one", "open.test:443", None), "intercept", "its method is judged, so it is never blind");
        assert_eq!(gate("one", "x.eu.test:443", None), "intercept");
        assert_eq!(gate("one", "y.eu.test:443", None), "deny");
        assert_eq!(gate("one", "nobodys.example:443", None), "deny");
        assert_eq!(gate("t", "nobodys.example:443", None), "tunnel");
        assert_eq!(gate("one", "x.eu.test:443", Some("auth_c")), "intercept");
        assert_eq!(gate("one", "x.eu.test:443", Some("auth_d")), "deny");
    }

    #[test]
    fn within_a_run_a_credential_is_called_by_its_id_or_by_the_name_of_its_block() {
        let (table, _) = with_runs();
        for (name, expected) in [
            ("auth_c", "c@*.test"),
            ("c", "c@*.test"),
            ("auth_d", "credential_unknown"),
            ("d", "credential_unknown"),
            ("everybodys", "credential_unknown"),
        ] {
            assert_eq!(decide_for(&table, "one", "GET", "https://x.eu.test/", Some(name)), expected, "{name}");
        }
        assert_eq!(decide_for(&table, "t", "GET", "https://e.test/", Some("auth_c")), "credential_unknown");
    }

    #[test]
    fn a_lease_that_ended_proves_nothing_though_the_table_still_knows_it() {
        let (table, lease) = with_runs();
        assert_eq!(decide_for(&table, "one", "GET", "https://x.eu.test/", None), "c@*.test");
        lease.end();
        assert_eq!(decide_for(&table, "one", "GET", "https://x.eu.test/", None), "caller_unknown");
        assert_eq!(decide_for(&table, "one", "GET", "https://open.test/", None), "caller_unknown");
        assert_eq!(decide_for(&table, "two", "GET", "https://d.test/", None), "d@d.test", "others go on");
    }
}
