//! What is remembered: by protection space (RFC 7616 section 3.3), the nonce to go on with. However many realms and nonces
//! servers make up, this grows no further than its bounds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use super::challenge::next_nonce;
use super::session::Session;
use crate::base::{Destination, RequestView};

/// Spaces of one credential. The one that was not used for longest makes room; its server is asked again.
const SPACES: usize = 128;

/// Nonces of one space whose count is kept: a server may ask with the same one twice.
const NONCES: usize = 4;

/// Folders in which a space was met, and how long a path of one is kept.
const FOLDERS: usize = 16;
const FOLDER: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Spaces(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    spaces: Vec<Space>,
    /// Goes up with every use.
    tick: u64,
}

/// A realm of a server's.
#[derive(Debug)]
struct Space {
    destination: Destination,
    realm: Vec<u8>,
    /// What `domain` names; everything, if it names nothing here.
    domain: Vec<String>,
    /// Folders that asked for this realm: servers with several realms seldom say `domain`.
    folders: Vec<String>,
    /// The newest first.
    sessions: Vec<Arc<Session>>,
    /// The newest was refused: the server must ask again.
    refused: bool,
    asked: u64,
    used: u64,
}

impl Space {
    /// How much of the path says that it lies in this space.
    fn covers(&self, path: &str) -> Option<usize> {
        let prefixes = self.domain.iter().chain(&self.folders);
        prefixes.filter(|prefix| path.starts_with(prefix.as_str())).map(String::len).max()
    }

    fn add(&mut self, session: Arc<Session>) {
        self.sessions.retain(|old| !Arc::ptr_eq(old, &session));
        self.sessions.insert(0, session);
        self.sessions.truncate(NONCES);
    }
}

impl Known {
    /// The space of a request: the longest path wins, then whoever asked last.
    fn find(&mut self, view: &RequestView<'_>) -> Option<&mut Space> {
        let here = self.spaces.iter_mut().filter(|space| space.destination == *view.destination);
        let covering = here.filter_map(|space| Some((space.covers(path(view))?, space.asked, space)));
        covering.max_by_key(|(length, asked, _)| (*length, *asked)).map(|(_, _, space)| space)
    }

    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

impl Spaces {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What signs this request without asking.
    pub(super) fn remembered(&self, view: &RequestView<'_>) -> Option<Arc<Session>> {
        let mut known = self.lock();
        let tick = known.next_tick();
        let space = known.find(view).filter(|space| !space.refused)?;
        space.used = tick;
        // Before it has signed for whoever was asked, somebody else's request could use it up.
        space.sessions.first().filter(|session| session.is_begun() && !session.is_spent()).cloned()
    }

    /// Remembers what a server asked for this request. Where it asked the same before, that session goes on, so that callers
    /// that come at the same time share its count.
    pub(super) fn remember(&self, view: &RequestView<'_>, mut session: Session) -> Arc<Session> {
        let folder = folder(view).to_owned();
        let mut known = self.lock();
        let tick = known.next_tick();
        let mut space = match known
            .spaces
            .iter()
            .position(|space| space.destination == *view.destination && space.realm == session.asked().realm)
        {
            Some(at) => known.spaces.swap_remove(at),
            None => Space {
                destination: view.destination.clone(),
                realm: session.asked().realm.clone(),
                domain: Vec::new(),
                folders: Vec::new(),
                sessions: Vec::new(),
                refused: false,
                asked: 0,
                used: 0,
            },
        };
        let session = match space.sessions.iter().find(|old| old.nonce() == session.nonce()) {
            Some(old) if old.asked() == session.asked() => Arc::clone(old),
            Some(old) => {
                session.count_with(old);
                Arc::new(session)
            }
            None => Arc::new(session),
        };
        space.domain = session.asked().paths(view).map(str::to_owned).collect();
        if space.domain.is_empty() {
            space.domain.push("/".into());
        }
        // The folder is this realm's now, whoever had it before.
        for other in known.spaces.iter_mut().chain([&mut space]) {
            if other.destination == *view.destination {
                other.folders.retain(|known| *known != folder);
            }
        }
        if folder.len() <= FOLDER {
            space.folders.insert(0, folder);
        }
        space.folders.truncate(FOLDERS);
        space.add(Arc::clone(&session));
        (space.refused, space.asked, space.used) = (false, tick, tick);
        if known.spaces.len() >= SPACES
            && let Some((oldest, _)) = known.spaces.iter().enumerate().min_by_key(|(_, space)| space.used)
        {
            known.spaces.swap_remove(oldest);
        }
        known.spaces.push(space);
        session
    }

    /// The server answered 401 to what was remembered. Where it does not ask for this realm, the 401 is about something else,
    /// or another realm is the right one for this place: this one stays right for its own.
    pub(super) fn refused(&self, view: &RequestView<'_>, realms: &[Vec<u8>]) {
        if let Some(space) = self.lock().find(view)
            && realms.contains(&space.realm)
        {
            space.refused = true;
        }
    }

    /// The server said with which nonce to go on (RFC 7616 section 3.5). One that is known already is not begun again, and
    /// what answers another session than the present one is old.
    pub(super) fn informed(&self, view: &RequestView<'_>, headers: &HeaderMap) {
        let Some((nonce, cnonce)) = next_nonce(headers) else { return };
        let mut known = self.lock();
        let Some(space) = known.find(view) else { return };
        let Some(newest) = space.sessions.first() else { return };
        let old = cnonce.is_some_and(|cnonce| cnonce != newest.cnonce());
        if !old && space.sessions.iter().all(|session| session.nonce() != nonce) {
            let next = Arc::new(newest.go_on(nonce));
            space.add(next);
        }
    }

    /// How much is remembered: spaces, and of the largest the nonces and the folders.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let known = self.lock();
        let most = |size: fn(&Space) -> usize| known.spaces.iter().map(size).max().unwrap_or(0);
        (known.spaces.len(), most(|space| space.sessions.len()), most(|space| space.folders.len()))
    }
}

fn path<'a>(view: &RequestView<'a>) -> &'a str {
    view.path_and_query.split('?').next().unwrap_or("/")
}

/// The path up to its last slash.
fn folder<'a>(view: &RequestView<'a>) -> &'a str {
    let path = path(view);
    path.rfind('/').map_or("/", |at| &path[..=at])
}
