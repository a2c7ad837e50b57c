//! From what a request is made of to the places it is sent to.

use super::heap::Heap;
use super::value::{Object, Piece, Pieces, Value};
use crate::policy::declared::Use;

/// How many uses one request may come to; of more, not all parts are told apart.
const MOST_USES: usize = 16;

/// A request, as its text has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Request<'a> {
    /// Where it stands.
    pub at: usize,
    /// What authenticates it, and where that stands.
    pub auth: Option<(Value<'a>, usize)>,
    /// Its method.
    pub verb: Option<Value<'a>>,
    /// It goes out unencrypted.
    pub cleartext: bool,
    /// Where it goes.
    pub host: Option<Value<'a>>,
    /// What it asks for there.
    pub path: Option<Value<'a>>,
    /// Both at once.
    pub url: Option<Value<'a>>,
    /// How it comes to its next page.
    pub pagination: Option<Value<'a>>,
}

impl<'a> Request<'a> {
    /// The request that an object of a script makes.
    pub(super) fn of_script(object: &Object<'a>) -> Self {
        let field = |name: &str| object.field(name.as_bytes()).map(|slot| slot.value.clone());
        let scheme = field("scheme");
        Self {
            at: object.at,
            auth: object.field(b"auth").map(|slot| (slot.value.clone(), slot.at)),
            verb: field("verb").or_else(|| field("method")),
            cleartext: scheme.is_some_and(|scheme| may_be(&scheme, b"http")),
            host: field("host"),
            path: field("path").or_else(|| field("href")),
            url: field("url"),
            pagination: field("pagination"),
        }
    }

    /// The request that a call of a workflow makes: `http_request`, or a function with the name of its method.
    pub(super) fn of_workflow(object: &Object<'a>, method: Option<&'a [u8]>) -> Self {
        let mut request = Self::of_script(object);
        if let Some(method) = method.filter(|method| *method != b"request") {
            request.verb = Some(Value::Literal(method));
        }
        // Cloud Workflow takes http where nothing is said (RightScale's reference of `http_request`: default `false`).
        request.cleartext = request.url.is_none()
            && object.field(b"https").is_none_or(|https| https.value.literal().as_deref() == Some(b"false"));
        request
    }

    /// Whether it says where it goes.
    pub(super) fn says_where(&self) -> bool {
        self.host.is_some() || self.url.is_some()
    }

    /// The line of a use is for whoever knows the text.
    pub(super) fn uses(&self, followed: bool) -> Vec<Use> {
        let methods = match self.verb.as_ref().map(Value::shown) {
            None => vec!["GET".to_owned()],
            Some(texts) => texts.iter().map(|pieces| render(pieces, <[u8]>::to_ascii_uppercase)).collect(),
        };
        let mut uses = Vec::new();
        for (cleartext, host, path) in self.places() {
            for method in &methods {
                let cleartext = cleartext || self.cleartext;
                let (method, host, path) = (method.clone(), host.clone(), path.clone());
                let one = Use { line: 0, method, host, path, cleartext, followed };
                if !uses.contains(&one) {
                    uses.push(one);
                }
            }
        }
        uses.truncate(MOST_USES);
        uses
    }

    fn places(&self) -> Vec<(bool, String, String)> {
        if let Some(url) = &self.url {
            return url.shown().into_iter().map(|pieces| place(pieces, None)).collect();
        }
        let hosts = self.host.as_ref().unwrap_or(&Value::Unknown).shown();
        let mut paths = self.path.as_ref().unwrap_or(&Value::Literal(b"/")).shown();
        if hosts.len() * paths.len() > MOST_USES {
            paths = Value::Unknown.texts();
        }
        hosts.iter().flat_map(|host| paths.iter().map(|path| place(host.clone(), Some(path.clone())))).collect()
    }
}

/// The names that an `auth` may have, and whether the text says that it is that one; `None` for one that is not told.
pub(super) fn names(auth: &Value<'_>) -> Vec<Option<(String, bool)>> {
    let name = |pieces: &Pieces<'_>| match &pieces[..] {
        [Piece::Literal(name)] => Some((String::from_utf8_lossy(name).into_owned(), true)),
        [Piece::Gap(name)] => Some((String::from_utf8_lossy(name).into_owned(), false)),
        _ => None,
    };
    auth.texts().iter().map(name).collect()
}

/// Whether a value is this text, or may be.
pub(super) fn may_be(value: &Value<'_>, text: &[u8]) -> bool {
    value.texts().iter().any(|pieces| matches!(&pieces[..], [Piece::Literal(one)] if one.eq_ignore_ascii_case(text)))
}

/// Host and path, from both or from an address.
fn place(mut host: Pieces<'_>, path: Option<Pieces<'_>>) -> (bool, String, String) {
    let mut cleartext = false;
    if let Some(Piece::Literal(first)) = host.first_mut() {
        for (scheme, clear) in [("https://", false), ("http://", true)] {
            if first.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes())) {
                cleartext = clear;
                first.to_mut().drain(..scheme.len());
                break;
            }
        }
    }
    let is_address = path.is_none();
    let mut behind = split(&mut host, is_address);
    behind.extend(path.unwrap_or_default());
    let lower = render(&host, <[u8]>::to_ascii_lowercase);
    let host = if lower.is_empty() { "{value}".to_owned() } else { lower };
    let mut path = render(&without_query(behind), <[u8]>::to_vec);
    if !path.starts_with(['/', '{']) {
        path.insert(0, '/');
    }
    (cleartext, host, path)
}

/// Cuts off what stands behind a host. Between two gaps of an address that touch, without a slash, the second is taken
/// for the path.
fn split<'a>(host: &mut Pieces<'a>, is_address: bool) -> Pieces<'a> {
    for index in 0..host.len() {
        if let Some(Piece::Literal(text)) = host.get_mut(index) {
            let Some(end) = text.iter().position(|byte| matches!(byte, b'/' | b'?')) else { continue };
            let mut behind = vec![Piece::Literal(text.to_mut().split_off(end).into())];
            behind.extend(host.drain(index + 1..));
            if let Some(touching) = touching(host, index) {
                let mut path: Pieces<'a> = host.drain(touching..index).collect();
                path.extend(behind);
                return path;
            }
            return behind;
        }
    }
    match touching(host, host.len()) {
        Some(second) if is_address => host.split_off(second),
        _ if is_address && matches!(host[..], [Piece::Gap(_)]) => vec![Piece::Gap(b"value")],
        _ => Vec::new(),
    }
}

/// The second of the two gaps that touch before a piece, if the piece itself is empty.
fn touching(host: &[Piece<'_>], end: usize) -> Option<usize> {
    let empty = host.get(end).is_none_or(|piece| matches!(piece, Piece::Literal(text) if text.is_empty()));
    match host.get(..end)? {
        [.., Piece::Gap(_), Piece::Gap(_)] if empty => Some(end - 1),
        _ => None,
    }
}

fn without_query<'a>(mut path: Pieces<'a>) -> Pieces<'a> {
    for index in 0..path.len() {
        if let Some(Piece::Literal(text)) = path.get_mut(index)
            && let Some(end) = text.iter().position(|byte| matches!(byte, b'?' | b'#'))
        {
            text.to_mut().truncate(end);
            path.truncate(index + 1);
            break;
        }
    }
    path
}

/// A text for people, what is not told in braces.
fn render(pieces: &[Piece<'_>], fold: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let mut text = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => text.extend(fold(literal)),
            Piece::Gap(name) => {
                text.push(b'{');
                text.extend_from_slice(name);
                text.push(b'}');
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The objects of a script that are requests without anybody sending them: they say what authenticates them, and are no
/// part of another request.
pub(super) fn left_over<'a, 'h>(heap: &'h mut Heap<'a>) -> impl Iterator<Item = &'h Object<'a>> {
    let is_request = |object: &Object<'a>| {
        let says = |name: &&str| object.field(name.as_bytes()).is_some();
        says(&"auth") && ["host", "url", "path", "href"].iter().any(says)
    };
    let whole: Vec<usize> = heap
        .objects
        .iter()
        .enumerate()
        .filter(|(_, one)| !one.told && is_request(one))
        .map(|(index, _)| index)
        .collect();
    // What is around another stands behind it.
    for index in whole.into_iter().rev() {
        if heap.objects.get(index).is_some_and(|object| !object.told) {
            heap.tell_parts(index);
        }
    }
    heap.objects.iter().filter(move |object| !object.told && is_request(object))
}
