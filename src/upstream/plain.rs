//! Connections for cleartext HTTP/1.1 without a corporate proxy: kept, reused, and retired when idle for too long.
//!
//! The general client chooses between HTTP versions and races new connections against old ones, and costs a fifth of a
//! small request. Here there is one version, and a connection is either idle or not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::Connector;
use crate::base::{Body, Destination, Host, Refusal};

/// Why a request was not answered.
pub(super) enum Failure {
    /// No connection was made.
    Connect(Refusal),
    /// It broke.
    Broken(hyper::Error),
}

/// The idle connections of one egress.
pub(super) struct Plain {
    connector: Connector,
    pool: Mutex<Pool>,
    per_host: usize,
    idle_timeout: Duration,
}

#[derive(Default)]
struct Pool {
    places: HashMap<(Host, u16), Place>,
    /// Whether a task retires connections.
    retiring: bool,
}

/// The connections to one host and port.
#[derive(Default)]
struct Place {
    idle: Vec<Idle>,
    /// One was put back, for those who wait for a new one meanwhile.
    freed: Arc<Notify>,
}

struct Idle {
    sender: SendRequest<Body>,
    until: Instant,
}

impl Plain {
    pub(super) fn new(connector: Connector, per_host: usize, idle_timeout: Duration) -> Self {
        Self { connector, pool: Mutex::default(), per_host, idle_timeout }
    }

    /// Sends a request whose target is a path and whose Host is set.
    ///
    /// A request that an idle connection closed upon before any of it was sent goes out on another one.
    pub(super) async fn send(
        self: &Arc<Self>,
        destination: &Destination,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let (mut sender, reused) = match self.take(destination) {
                Some(sender) => (sender, true),
                None => Box::pin(self.connect_or_take(destination)).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.give_back(destination, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
    }

    /// A new connection, or one that becomes free before that is made. Says whether it was used before.
    async fn connect_or_take(&self, destination: &Destination) -> Result<(SendRequest<Body>, bool), Failure> {
        let freed = match self.lock().places.entry(destination.place().clone()) {
            Entry::Occupied(place) => Arc::clone(&place.get().freed),
            Entry::Vacant(place) => Arc::clone(&place.insert(Place::default()).freed),
        };
        let mut connecting = std::pin::pin!(self.connect(destination));
        loop {
            let freed = freed.notified();
            // What was put back before this one listened.
            if let Some(sender) = self.take(destination) {
                return Ok((sender, true));
            }
            tokio::select! {
                connected = connecting.as_mut() => return connected.map(|sender| (sender, false)),
                () = freed => {}
            }
        }
    }

    async fn connect(&self, destination: &Destination) -> Result<SendRequest<Body>, Failure> {
        let io = self.connector.connect_to(destination).await.map_err(Failure::Connect)?;
        let (mut sender, connection) = http1::handshake(io).await.map_err(Failure::Broken)?;
        tokio::spawn(async move {
            // What breaks a connection is told to the request on it.
            let _ = connection.with_upgrades().await;
        });
        sender.ready().await.map_err(Failure::Broken)?;
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if it is still open.
    fn take(&self, destination: &Destination) -> Option<SendRequest<Body>> {
        let mut pool = self.lock();
        let connections = &mut pool.places.get_mut(destination.place())?.idle;
        let now = Instant::now();
        loop {
            let Idle { sender, until } = connections.pop()?;
            if sender.is_ready() && now < until {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection for the next request, once this answer has been read.
    fn give_back(self: &Arc<Self>, destination: &Destination, mut sender: SendRequest<Body>) {
        if sender.is_ready() {
            self.put(destination, sender);
            return;
        }
        let (plain, destination) = (Arc::downgrade(self), destination.clone());
        tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(plain) = plain.upgrade()
            {
                plain.put(&destination, sender);
            }
        });
    }

    fn put(self: &Arc<Self>, destination: &Destination, sender: SendRequest<Body>) {
        let until = Instant::now() + self.idle_timeout;
        let mut pool = self.lock();
        let place = match pool.places.get_mut(destination.place()) {
            Some(place) => place,
            None => pool.places.entry(destination.place().clone()).or_default(),
        };
        if place.idle.len() < self.per_host {
            place.idle.push(Idle { sender, until });
            place.freed.notify_one();
        }
        if !std::mem::replace(&mut pool.retiring, true) {
            tokio::spawn(retire(Arc::downgrade(self), self.idle_timeout));
        }
    }
}

/// Closes the connections whose time is up, until there are none.
async fn retire(plain: Weak<Plain>, interval: Duration) {
    loop {
        tokio::time::sleep(interval.max(Duration::from_millis(100))).await;
        let Some(plain) = plain.upgrade() else { return };
        let now = Instant::now();
        let mut pool = plain.lock();
        pool.places.retain(|_, place| {
            place.idle.retain(|connection| connection.sender.is_ready() && now < connection.until);
            // Somebody may still wait for one.
            !place.idle.is_empty() || Arc::strong_count(&place.freed) > 1
        });
        if pool.places.is_empty() {
            pool.retiring = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::{Roots, Settings, Upstream};
    use super::*;
    use crate::base::Secrets;

    fn upstream(idle_timeout: Duration) -> Upstream {
        let settings =
            Settings { allow_addresses: vec!["127.0.0.0/8".parse().unwrap()], idle_timeout, ..Settings::default() };
        let own = Arc::new(ArcSwap::from_pointee(Vec::new()));
        Upstream::new(settings, &Secrets::default(), &Roots::default(), own).unwrap_or_else(|(_, why)| panic!("{why}"))
    }

    async fn get(upstream: &Upstream, listener: &TcpListener) -> Result<String, Refusal> {
        let destination = Destination::from_upstream(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/path?query".parse().unwrap();
        let response = upstream.egress(&Arc::default())?.send(&destination, request, false).await?;
        Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// Reads one request and answers it.
    async fn answer(stream: &mut TcpStream, text: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0, "the connection was closed");
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_the_other_with_a_path_and_a_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(Duration::from_secs(30));
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            (answer(&mut stream, "one").await, answer(&mut stream, "two").await)
        };
        let client = async { (get(&upstream, &listener).await.unwrap(), get(&upstream, &listener).await.unwrap()) };
        let (heads, bodies) = tokio::join!(server, client);
        assert_eq!(bodies, ("one".to_owned(), "two".to_owned()));
        let expected = format!("GET /path?query HTTP/1.1\r\nhost: {}\r\n\r\n", listener.local_addr().unwrap());
        assert_eq!(heads, (expected.clone(), expected));
    }

    #[tokio::test]
    async fn a_connection_that_the_upstream_closed_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(Duration::from_secs(30));
        let server = async {
            for text in ["one", "two"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                answer(&mut stream, text).await;
            }
        };
        let client = async { (get(&upstream, &listener).await.unwrap(), get(&upstream, &listener).await.unwrap()) };
        let ((), bodies) = tokio::join!(server, client);
        assert_eq!(bodies, ("one".to_owned(), "two".to_owned()));
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_when_its_time_is_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(Duration::from_millis(10));
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, "one").await;
            stream.read(&mut [0]).await.unwrap()
        };
        let (read, body) = tokio::join!(server, get(&upstream, &listener));
        assert_eq!((read, body.unwrap().as_str()), (0, "one"));
    }
}
