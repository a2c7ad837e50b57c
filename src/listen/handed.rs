//! Sockets that were bound before this process began: by systemd, or by whoever starts one Countersign after another
//! (`LISTEN_FDS`). A restart then refuses nobody: who comes between the processes waits in the queue.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use super::settings::Address;
use super::socket::Bound;

/// A listener that was handed over.
#[derive(Debug)]
pub(super) enum Handed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Handed {
    fn take(from: &mut ListenFd, index: usize) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        // Which of both it is, the first says only by an error.
        if let Ok(Some(listener)) = from.take_tcp_listener(index) {
            return Ok(Self::Tcp(listener));
        }
        from.take_unix_listener(index)?.map(Self::Unix).ok_or_else(gone)
    }

    fn address(&self) -> io::Result<Address> {
        let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "a unix socket without a path");
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(listener) => {
                listener.local_addr()?.as_pathname().map(|path| Address::Unix(path.into())).ok_or_else(nameless)
            }
        }
    }

    /// Whether connections can be accepted from it, and are waited for by the runtime alone.
    fn prepare(&self) -> io::Result<()> {
        let (fd, nonblocking) = match self {
            Self::Tcp(listener) => (listener.as_fd(), listener.set_nonblocking(true)),
            Self::Unix(listener) => (listener.as_fd(), listener.set_nonblocking(true)),
        };
        nonblocking?;
        if !rustix::net::sockopt::socket_acceptconn(fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen (with systemd: `Accept=no`)"));
        }
        Ok(())
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

#[derive(Debug)]
struct Socket {
    listener: Handed,
    address: Address,
}

/// The sockets that this process was started with. They stay open to its end, for whoever is started on them next.
#[derive(Debug, Default)]
pub struct HandedOver {
    sockets: Vec<Socket>,
    wrong: Vec<String>,
}

impl HandedOver {
    /// Takes what the environment of this process names, and removes that from it: it is for no child.
    pub fn take() -> Self {
        let mut from = ListenFd::from_env();
        let mut all = Self::default();
        for index in 0..from.len() {
            let taken = Handed::take(&mut from, index).and_then(|listener| {
                listener.prepare()?;
                Ok(Socket { address: listener.address()?, listener })
            });
            match taken {
                Ok(socket) => all.sockets.push(socket),
                Err(error) => all.wrong.push(format!("the socket {} of LISTEN_FDS: {error}", index + 1)),
            }
        }
        all
    }

    /// The socket of an address that was handed over, or else a new one.
    ///
    /// # Errors
    /// A sentence that names the address and why it cannot be listened on.
    pub async fn bind(&self, address: &Address, mode: u32) -> Result<Bound, String> {
        match self.bound(address) {
            Some(bound) => bound,
            None => Bound::new(address, mode).await,
        }
    }

    /// The socket of an address, if it was handed over.
    pub(super) fn bound(&self, address: &Address) -> Option<Result<Bound, String>> {
        let socket = self.sockets.iter().find(|socket| socket.address == *address)?;
        let bound = socket.listener.try_clone().and_then(|listener| Bound::take_over(listener, address));
        Some(bound.map_err(|error| format!("cannot take over {address}: {error}")))
    }

    /// Whether everything that was handed over has its listener.
    ///
    /// # Errors
    /// What has none: its callers would be accepted by the system, and wait for ever.
    pub fn check(&self, listened: impl Fn(&Address) -> bool) -> Result<(), String> {
        let unused = self.sockets.iter().filter(|socket| !listened(&socket.address));
        let unused = unused.map(|socket| {
            format!("a socket for {} was handed over (LISTEN_FDS), and no listener has that address", socket.address)
        });
        match self.wrong.iter().cloned().chain(unused).next() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(listener: Handed) -> HandedOver {
        listener.prepare().unwrap();
        let socket = Socket { address: listener.address().unwrap(), listener };
        HandedOver { sockets: vec![socket], wrong: Vec::new() }
    }

    #[tokio::test]
    async fn an_address_that_was_handed_over_is_not_bound_again_and_may_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let over = handed(Handed::Tcp(listener));
        assert!(over.check(|_| false).unwrap_err().contains("no listener has that address"));
        for _ in 0..2 {
            assert_eq!(over.bind(&address, 0).await.unwrap().address, address);
        }
        assert!(over.check(|_| true).is_ok());
        assert!(Bound::new(&address, 0).await.is_err(), "it is bound all the same");
    }

    #[tokio::test]
    async fn the_queue_and_the_file_of_a_socket_that_was_handed_over_stay_for_whoever_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let over = handed(Handed::Unix(UnixListener::bind(&path).unwrap()));
        let address = Address::Unix(path.clone());
        let bound = over.bind(&address, 0).await.unwrap();
        let _caller = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(bound.close().is_empty());
        assert!(path.exists());
        let Handed::Unix(next) = &over.sockets[0].listener else { unreachable!() };
        assert!(next.accept().is_ok());
    }

    #[tokio::test]
    async fn the_queue_of_a_socket_of_our_own_is_emptied_when_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let tcp = Bound::new(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 0).await.unwrap();
        let Address::Tcp(address) = tcp.address else { unreachable!() };
        let unix = Bound::new(&Address::Unix(path.clone()), 0o600).await.unwrap();
        let _callers = [std::net::TcpStream::connect(address).unwrap(), std::net::TcpStream::connect(address).unwrap()];
        let _caller = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(tcp.close().len(), 2);
        assert_eq!(unix.close().len(), 1);
        assert!(!path.exists());
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn what_does_not_listen_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let not_listening = Handed::Tcp(TcpListener::from(std::os::fd::OwnedFd::from(caller)));
        assert!(not_listening.prepare().unwrap_err().to_string().contains("does not listen"));
    }
}
