//! Who is calling: what the connection proves, and what the request shows.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, PROXY_AUTHORIZATION};
use zeroize::Zeroizing;

use crate::base::{Code, Refusal, Secret, Voucher};
use crate::route::{Caller, Callers, RUN_PREFIX};

/// The header that proves a caller on a reverse listener.
const COUNTERSIGN_AUTHORIZATION: HeaderName = HeaderName::from_static("countersign-authorization");

/// What a connection proves by itself.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The uid behind a unix socket.
    pub uid: Option<u32>,
    /// The subject alternative names of a verified client certificate.
    pub names: Vec<String>,
    /// The command that `run` started.
    pub same_user: Option<Arc<Caller>>,
}

/// How a listener asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// By proxy credentials.
    Forward,
    /// By `Countersign-Authorization`.
    Reverse,
}

/// A caller, and the credential it names by its user name.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Who.
    pub caller: Arc<Caller>,
    /// `caller+credential`.
    pub named: Option<Arc<str>>,
}

/// A token that no caller of ours has, and that others may vouch for.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The token.
    pub token: Secret,
    /// `caller+credential`.
    pub named: Option<Arc<str>>,
    user: Option<String>,
}

impl Foreign {
    /// The identity of the caller that was vouched for, unless the request says that it is another.
    pub(super) fn identity(self, caller: Option<Arc<Caller>>, door: Door) -> Result<Identity, Refusal> {
        let is_it = |caller: &Arc<Caller>| is_called(self.user.as_deref(), caller);
        let caller = caller.filter(is_it).ok_or_else(|| unknown(door))?;
        Ok(Identity { caller, named: self.named })
    }
}

/// Whose a request is, as far as that can be told without asking anybody.
#[derive(Debug)]
pub(super) enum Finding {
    /// This one's.
    Known(Identity),
    /// The one's for whom others vouch, if they do.
    Foreign(Box<Foreign>),
}

/// What the request itself shows.
#[derive(Default)]
struct Shown {
    user: Option<String>,
    named: Option<Arc<str>>,
    token: Option<Zeroizing<Vec<u8>>>,
}

/// Finds the caller of a request.
///
/// # Errors
/// `caller_unknown` when nothing, or something wrong, is shown; `bad_request` for two proofs of one kind.
pub(super) fn identify(
    callers: &Callers,
    local: &Arc<Caller>,
    evidence: &Evidence,
    door: Door,
    headers: &HeaderMap,
    allow_anonymous: bool,
    voucher: Option<&dyn Voucher>,
) -> Result<Finding, Refusal> {
    let shown = match shown(door, headers) {
        // Where nobody is asked for a proof, a client's leftover proxy password is no matter.
        Err(_) if callers.is_empty() => Shown::default(),
        shown => shown?,
    };
    // What is left of a run is not nobody, wherever that is enough.
    let is_run = shown.user.as_deref().is_some_and(|user| user.starts_with(RUN_PREFIX));
    let callers_ask = !callers.is_empty() || is_run;
    let named = shown.named;
    if let Some(caller) = &evidence.same_user {
        return Ok(Finding::Known(Identity { caller: Arc::clone(caller), named }));
    }
    if !callers_ask {
        return Ok(Finding::Known(Identity { caller: Arc::clone(local), named }));
    }
    let proven = match shown.token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => callers.by_token(token),
        None => {
            let by_uid = evidence.uid.and_then(|uid| callers.by_uid(uid));
            by_uid.or_else(|| evidence.names.iter().find_map(|name| callers.by_san(name)))
        }
    };
    match proven {
        Some(caller) if is_called(shown.user.as_deref(), caller) => {
            Ok(Finding::Known(Identity { caller: Arc::clone(caller), named }))
        }
        None if allow_anonymous && shown.token.is_none() => {
            Ok(Finding::Known(Identity { caller: Arc::clone(local), named }))
        }
        None => match (shown.token, voucher) {
            (Some(token), Some(voucher)) if voucher.concerns(&token) => {
                let foreign = Foreign { token: Secret::new(token.to_vec()), named, user: shown.user };
                Ok(Finding::Foreign(Box::new(foreign)))
            }
            _ => Err(unknown(door)),
        },
        Some(_) => Err(unknown(door)),
    }
}

/// Finds the caller of a connection whose requests show nothing, since whoever sends them knows of no proxy.
///
/// # Errors
/// `caller_unknown` when the connection proves nobody.
pub(super) fn by_connection(
    callers: &Callers,
    local: &Arc<Caller>,
    evidence: &Evidence,
    allow_anonymous: bool,
) -> Result<Arc<Caller>, Refusal> {
    let proven = evidence.uid.and_then(|uid| callers.by_uid(uid));
    match proven {
        Some(caller) => Ok(Arc::clone(caller)),
        None if callers.is_empty() || allow_anonymous => Ok(Arc::clone(local)),
        None => Err(Refusal::new(
            Code::CallerUnknown,
            "nobody of `callers` is behind this connection: give one the `uid` of its process, or the listener a `caller`",
        )),
    }
}

/// Whether the user name that stands beside a token, if any does, is the caller's.
fn is_called(user: Option<&str>, caller: &Caller) -> bool {
    user.is_none_or(|user| user.is_empty() || *user == *caller.name)
}

fn unknown(door: Door) -> Refusal {
    Refusal::new(
        Code::CallerUnknown,
        match door {
            Door::Forward => {
                "show a caller token: http://<caller>:<token>@<proxy address> in the client's proxy setting"
            }
            Door::Reverse => "show a caller token: Countersign-Authorization: Bearer <token>",
        },
    )
}

fn shown(door: Door, headers: &HeaderMap) -> Result<Shown, Refusal> {
    let name = match door {
        Door::Forward => PROXY_AUTHORIZATION,
        Door::Reverse => COUNTERSIGN_AUTHORIZATION,
    };
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(Shown::default()) };
    if values.next().is_some() {
        return Err(Refusal::bad_request(format!("two {name} headers")));
    }
    let unreadable = || {
        Refusal::new(
            Code::CallerUnknown,
            format!("{name} is neither `Bearer <token>` nor, for a proxy, `Basic <user:token>`"),
        )
    };
    let (scheme, rest) = value.as_bytes().split_once_at(b' ').ok_or_else(unreadable)?;
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(Shown { token: Some(Zeroizing::new(rest.to_vec())), ..Shown::default() });
    }
    if door != Door::Forward || !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(unreadable());
    }
    let pair = Zeroizing::new(STANDARD.decode(rest).map_err(|_| unreadable())?);
    let (user, token) = pair.split_once_at(b':').ok_or_else(unreadable)?;
    let user = std::str::from_utf8(user).map_err(|_| unreadable())?;
    if user.chars().any(char::is_control) {
        return Err(unreadable());
    }
    let (user, named) = match user.split_once('+') {
        Some((user, credential)) => (user, Some(credential.into())),
        None => (user, None),
    };
    Ok(Shown { user: Some(user.to_owned()), named, token: Some(Zeroizing::new(token.to_vec())) })
}

/// `split_once` for bytes.
trait SplitOnce {
    fn split_once_at(&self, byte: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnce for [u8] {
    fn split_once_at(&self, byte: u8) -> Option<(&[u8], &[u8])> {
        let index = self.iter().position(|b| *b == byte)?;
        Some((&self[..index], &self[index + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;
    use crate::route::CallerRule;

    fn callers() -> Callers {
        Callers::new([
            CallerRule::token("runner", &Secret::new("t0k:en")),
            CallerRule::uid("pod", 1000),
            CallerRule::client_cert("mesh", "mesh.test"),
        ])
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    fn ask(callers: &Callers, evidence: &Evidence, door: Door, header: Option<&str>, anonymous: bool) -> String {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            let name = if door == Door::Forward { PROXY_AUTHORIZATION } else { COUNTERSIGN_AUTHORIZATION };
            headers.insert(name, header.parse().unwrap());
        }
        match identify(callers, &Arc::new(Caller::local()), evidence, door, &headers, anonymous, None) {
            Ok(Finding::Foreign(_)) => "foreign".to_owned(),
            Ok(Finding::Known(identity)) => {
                format!("{} {}", identity.caller.name, identity.named.as_deref().unwrap_or("-"))
            }
            Err(refusal) => refusal.code.as_str().to_owned(),
        }
    }

    #[test]
    fn a_token_proves_its_caller_as_basic_or_bearer() {
        let forward = |header: &str| ask(&callers(), &Evidence::default(), Door::Forward, Some(header), false);
        assert_eq!(forward(&basic("runner:t0k:en")), "runner -");
        assert_eq!(forward(&basic("runner+spot:t0k:en")), "runner spot");
        assert_eq!(forward(&basic(":t0k:en")), "runner -");
        assert_eq!(forward("bearer t0k:en"), "runner -");
        for wrong in [
            &basic("runner:t0k:e"),
            &basic("pod:t0k:en"),
            &basic("runner:"),
            &basic("runner"),
            "Bearer",
            "Bearer x",
            "Basic !",
            "Digest x",
        ] {
            assert_eq!(forward(wrong), "caller_unknown", "{wrong}");
        }
    }

    #[test]
    fn a_reverse_listener_takes_its_own_header_only() {
        let callers = callers();
        let reverse = |header: Option<&str>| ask(&callers, &Evidence::default(), Door::Reverse, header, false);
        assert_eq!(reverse(Some("Bearer t0k:en")), "runner -");
        assert_eq!(reverse(Some(&basic("runner:t0k:en"))), "caller_unknown");
        assert_eq!(reverse(None), "caller_unknown");
    }

    #[test]
    fn a_connection_proves_a_uid_or_a_certificate_name() {
        let callers = callers();
        let with = |uid, names: &[&str], header: Option<&str>| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            ask(&callers, &Evidence { uid, names, same_user: None }, Door::Forward, header, false)
        };
        assert_eq!(with(Some(1000), &[], None), "pod -");
        assert_eq!(with(Some(1000), &[], Some(&*basic("pod+spot:"))), "pod spot");
        assert_eq!(with(Some(1001), &[], None), "caller_unknown");
        assert_eq!(with(None, &["other.test", "mesh.test"], None), "mesh -");
        assert_eq!(with(Some(1000), &[], Some(&*basic("pod:wrong"))), "caller_unknown");
    }

    #[test]
    fn a_redirected_connection_proves_a_uid_and_nothing_else() {
        let (local, none) = (Arc::new(Caller::local()), Callers::default());
        let who = |callers: &Callers, uid, anonymous| {
            let evidence = Evidence { uid, names: vec!["mesh.test".into()], same_user: None };
            match by_connection(callers, &local, &evidence, anonymous) {
                Ok(caller) => caller.name.to_string(),
                Err(refusal) => refusal.code.as_str().to_owned(),
            }
        };
        assert_eq!(who(&callers(), Some(1000), false), "pod");
        assert_eq!(who(&callers(), Some(1001), false), "caller_unknown");
        assert_eq!(who(&callers(), None, false), "caller_unknown");
        assert_eq!(who(&callers(), None, true), "local");
        assert_eq!(who(&none, None, false), "local");
    }

    #[test]
    fn without_callers_everybody_is_local_and_an_anonymous_door_still_refuses_a_wrong_token() {
        let none = Callers::default();
        assert_eq!(ask(&none, &Evidence::default(), Door::Forward, Some(&basic("x+spot:y")), false), "local spot");
        assert_eq!(ask(&callers(), &Evidence::default(), Door::Forward, None, true), "local -");
        assert_eq!(ask(&callers(), &Evidence::default(), Door::Forward, Some("Bearer x"), true), "caller_unknown");
    }
}
