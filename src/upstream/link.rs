//! Connections with one owner: what was proven on one holds for everything that is sent over it (NTLM), so nobody else may
//! ever send anything there.
//!
//! **Never lends a connection to another credential, another caller or another destination, never speaks HTTP/2 on one.**

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use tokio::time::Instant;

use super::connect::Connector;
use super::plain::Failure;
use crate::base::{Body, Challenged, Destination};

/// Idle connections kept for all owners together, and for one owner at one place; beyond it the oldest goes.
const IDLE: usize = 256;
const IDLE_OF_ONE: usize = 64;

/// Whose connection it is: a credential in its present version, and a caller.
#[derive(Clone)]
pub struct Owner {
    /// Its memory is not used for another as long as this is held, so that one address is one credential.
    credential: Weak<dyn Challenged>,
    account: Arc<str>,
    caller: Arc<str>,
}

impl Owner {
    /// The owner of what this credential proves for this caller.
    pub fn new(credential: &Arc<dyn Challenged>, account: &Arc<str>, caller: &Arc<str>) -> Self {
        Self { credential: Arc::downgrade(credential), account: Arc::clone(account), caller: Arc::clone(caller) }
    }

    fn is(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.credential, &other.credential)
            && self.account == other.account
            && self.caller == other.caller
    }

    /// The credential was changed or removed, and nothing that it proved counts any more.
    fn is_gone(&self) -> bool {
        self.credential.strong_count() == 0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({}/{})", self.account, self.caller)
    }
}

/// A connection to one destination, for one owner.
pub struct Link {
    pub(super) sender: SendRequest<Body>,
    destination: Destination,
    certificate: Option<Arc<[u8]>>,
}

impl Link {
    /// Where it goes.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The end-entity certificate of the server in DER, over TLS.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Waits until the last answer has been read to its end. `false` when the connection ended with it.
    pub async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.destination)
    }
}

struct Idle {
    owner: Owner,
    link: Link,
    until: Instant,
}

/// The owned connections of one egress that nobody uses at the moment.
pub(super) struct Links {
    connector: Connector,
    idle: Mutex<State>,
    idle_timeout: Duration,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    /// Whether a task retires connections.
    retiring: bool,
}

impl Links {
    pub(super) fn new(connector: Connector, idle_timeout: Duration) -> Self {
        Self { connector, idle: Mutex::default(), idle_timeout }
    }

    /// A new connection. Through a corporate proxy it is a tunnel even for cleartext: it must end at the server.
    pub(super) async fn connect(&self, destination: &Destination) -> Result<Link, Failure> {
        let io = self.connector.connect_end_to_end(destination).await.map_err(Failure::Connect)?;
        let certificate = io.inner().peer_certificate();
        let (mut sender, connection) = http1::handshake(io).await.map_err(Failure::Broken)?;
        tokio::spawn(async move {
            // What breaks a connection is told to the request on it.
            let _ = connection.with_upgrades().await;
        });
        sender.ready().await.map_err(Failure::Broken)?;
        Ok(Link { sender, destination: destination.clone(), certificate })
    }

    /// An idle connection of this owner to this destination.
    pub(super) fn take(&self, owner: &Owner, destination: &Destination) -> Option<Link> {
        let mut state = self.lock();
        let now = Instant::now();
        loop {
            // The one that was used last: it is the least likely to be closed meanwhile.
            let at =
                state.idle.iter().rposition(|idle| idle.owner.is(owner) && idle.link.destination == *destination)?;
            let Idle { link, until, .. } = state.idle.remove(at);
            if link.sender.is_ready() && now < until {
                return Some(link);
            }
        }
    }

    /// Whether this owner has an idle connection to this destination.
    pub(super) fn has(&self, owner: &Owner, destination: &Destination) -> bool {
        self.lock().idle.iter().any(|idle| idle.owner.is(owner) && idle.link.destination == *destination)
    }

    /// Keeps a connection for its owner's next request, once the answer on it has been read.
    pub(super) fn keep(self: &Arc<Self>, owner: Owner, mut link: Link) {
        let links = Arc::downgrade(self);
        tokio::spawn(async move {
            if link.is_ready().await
                && let Some(links) = links.upgrade()
            {
                links.put(owner, link);
            }
        });
    }

    fn put(self: &Arc<Self>, owner: Owner, link: Link) {
        let until = Instant::now() + self.idle_timeout;
        let mut state = self.lock();
        if owner.is_gone() {
            return;
        }
        let own = |idle: &&Idle| idle.owner.is(&owner) && idle.link.destination == link.destination;
        let crowded = state.idle.iter().filter(own).count() >= IDLE_OF_ONE;
        if crowded && let Some(oldest) = state.idle.iter().position(|idle| own(&idle)) {
            state.idle.remove(oldest);
        } else if state.idle.len() >= IDLE {
            state.idle.remove(0);
        }
        state.idle.push(Idle { owner, link, until });
        if !std::mem::replace(&mut state.retiring, true) {
            tokio::spawn(retire(Arc::downgrade(self), self.idle_timeout));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the connections whose time is up or whose owner is gone, until there are none.
async fn retire(links: Weak<Links>, interval: Duration) {
    loop {
        tokio::time::sleep(interval.clamp(Duration::from_millis(100), Duration::from_secs(5))).await;
        let Some(links) = links.upgrade() else { return };
        let now = Instant::now();
        let mut state = links.lock();
        state.idle.retain(|idle| idle.link.sender.is_ready() && now < idle.until && !idle.owner.is_gone());
        if state.idle.is_empty() {
            state.retiring = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use http::{HeaderMap, Request};
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::{Egress, Roots, Settings, Upstream};
    use super::*;
    use crate::base::{Authorizer, Challenge, Holds, Mutations, Refusal, RequestView, Secrets};

    #[derive(Debug)]
    struct Password;

    impl Challenged for Password {
        fn holds(&self) -> Holds {
            Holds::ForConnection
        }
        fn opening(&self) -> Result<Mutations, Refusal> {
            Ok(Mutations::default())
        }
        fn answer(&self, _: &RequestView<'_>, _: &Challenge<'_>) -> Result<Arc<dyn Authorizer>, Refusal> {
            Err(Refusal::bad_request("not here"))
        }
        fn heard(&self, _: &RequestView<'_>, _: &HeaderMap, _: bool) {}
    }

    fn credential() -> Arc<dyn Challenged> {
        Arc::new(Password)
    }

    fn owner(credential: &Arc<dyn Challenged>, caller: &str) -> Owner {
        Owner::new(credential, &"default".into(), &caller.into())
    }

    /// An egress and a server that answers whatever it is asked on any connection.
    async fn peer() -> (Arc<Egress>, Destination) {
        let settings = Settings { allow_addresses: vec!["127.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let own = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let upstream = Upstream::new(settings, &Secrets::default(), &Roots::default(), own).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = Destination::from_upstream(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                        }
                    }
                });
            }
        });
        (upstream.egress(&Arc::default()).unwrap(), destination)
    }

    /// A connection on which one request was answered, given back to its owner.
    async fn used(egress: &Egress, destination: &Destination, owner: &Owner) {
        let mut link = egress.link(destination).await.unwrap();
        let response = egress.send_over(&mut link, Request::new(Body::empty())).await.unwrap();
        egress.keep(owner.clone(), link, false);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        // It is put back by a task of its own.
        for _ in 0..1000 {
            if !egress.links().lock().idle.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_connection_serves_its_owner_again_and_nobody_else() {
        let (egress, destination) = peer().await;
        let (first, second) = (credential(), credential());
        let mine = owner(&first, "runner");
        used(&egress, &destination, &mine).await;
        assert!(egress.proven_link(&owner(&second, "runner"), &destination).is_none(), "another credential");
        assert!(egress.proven_link(&owner(&first, "other"), &destination).is_none(), "another caller");
        let foreign = Owner::new(&first, &"acme".into(), &"runner".into());
        assert!(egress.proven_link(&foreign, &destination).is_none(), "another account");
        let elsewhere = Destination::from_upstream("http://other.test").unwrap();
        assert!(egress.proven_link(&mine, &elsewhere).is_none(), "another destination");
        assert!(egress.proven_link(&mine, &destination).is_some());
        assert!(egress.proven_link(&mine, &destination).is_none(), "it is lent once");
    }

    #[tokio::test]
    async fn the_connections_of_a_credential_that_was_replaced_are_nobodys() {
        let (egress, destination) = peer().await;
        let old = credential();
        let mine = owner(&old, "runner");
        used(&egress, &destination, &mine).await;
        drop(old);
        assert!(mine.is_gone());
        // The memory of the old one is not given to a new one as long as its connection is there.
        let new = credential();
        assert!(egress.proven_link(&owner(&new, "runner"), &destination).is_none());
        egress.links().put(mine.clone(), egress.link(&destination).await.unwrap());
        assert_eq!(egress.links().lock().idle.len(), 1, "nothing of it is kept from then on");
    }
}
