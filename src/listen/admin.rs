//! The admin listener: health and the management API, over TLS where the configuration says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::settings::Address;
use super::shared::Connection;
use super::socket::{Accepted, Bound, Socket, accept_one};

/// A caller that takes longer for its handshake than this is not waited for.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that are over and wait to be served, and those under way.
const QUEUE: usize = 256;

/// TLS of the admin listener; it may change while connections come.
pub type AdminTls = Arc<ArcSwapOption<ServerConfig>>;

impl Bound {
    /// Serves an axum router on this socket until told to stop.
    pub fn serve_axum(self, router: axum::Router, tls: AdminTls, stop: CancellationToken) {
        let (ready, connections) = mpsc::channel(QUEUE);
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(self.socket, tls, ready)));
        let queue = Queue { connections, address: self.address };
        tokio::spawn(async move {
            let done = async move { stop.cancelled().await };
            if let Err(error) = axum::serve(queue, router).with_graceful_shutdown(done).await {
                tracing::error!(%error, "the admin listener ended");
            }
        });
    }
}

/// Accepts, and lets each handshake take its own time.
async fn accept(socket: Socket, tls: AdminTls, ready: mpsc::Sender<Box<dyn Connection>>) {
    loop {
        let accepted = match accept_one(&socket).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                // Out of file handles, most likely: others close theirs meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = ready.clone().reserve_owned().await else { return };
        let stream: Box<dyn Connection> = match accepted {
            Accepted::Tcp(stream, _) => Box::new(stream),
            Accepted::Unix(stream) => Box::new(stream),
        };
        let Some(config) = tls.load_full() else {
            place.send(stream);
            continue;
        };
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => drop(place.send(Box::new(stream))),
                Ok(Err(error)) => tracing::debug!(%error, "a handshake with the admin listener failed"),
                Err(_) => tracing::debug!("a handshake with the admin listener took too long"),
            }
        });
    }
}

/// The connections that are ready to be served.
struct Queue {
    connections: mpsc::Receiver<Box<dyn Connection>>,
    address: Address,
}

impl Listener for Queue {
    type Io = Box<dyn Connection>;
    type Addr = Address;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => (connection, self.address.clone()),
            // Told to stop, which whoever serves knows as well.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address.clone())
    }
}
