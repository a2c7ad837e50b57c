//! The sockets that listeners are bound to, TCP and unix.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::handed::Handed;
use super::settings::Address;

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct Bound {
    pub(super) socket: Socket,
    /// What was bound: port 0 resolved.
    pub address: Address,
    /// Bound by somebody else, for whoever comes after us as well.
    handed_over: bool,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: Option<SocketFile> },
}

/// The file of a unix socket, removed when the listener goes.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Binds an address.
    ///
    /// # Errors
    /// A sentence that names the address and why it cannot be bound.
    pub async fn new(address: &Address, mode: u32) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot listen on {address}: {error}");
        match address {
            Address::Tcp(socket) => {
                let listener = unbound(*socket).and_then(|free| listen(free, *socket)).map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound), handed_over: false })
            }
            Address::Unix(path) => {
                remove_stale(path).await.map_err(fail)?;
                let listener = UnixListener::bind(path).map_err(fail)?;
                let file = Some(SocketFile(path.clone()));
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
                Ok(Self { socket: Socket::Unix { listener, file }, address: address.clone(), handed_over: false })
            }
        }
    }

    /// Takes over a socket that was bound by somebody else, and is not blocking.
    pub(super) fn take_over(listener: Handed, address: &Address) -> std::io::Result<Self> {
        let socket = match listener {
            Handed::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener)?),
            Handed::Unix(listener) => Socket::Unix { listener: UnixListener::from_std(listener)?, file: None },
        };
        Ok(Self { socket, address: address.clone(), handed_over: true })
    }

    /// Closes the socket and returns who was waiting to be accepted, except where the queue is for whoever comes next.
    pub(super) fn close(self) -> Vec<Accepted> {
        if self.handed_over {
            return Vec::new();
        }
        // Asked of the system itself: what the runtime has not been told of yet counts as well.
        match self.socket {
            Socket::Tcp(listener) => listener.into_std().map_or_else(
                |_| Vec::new(),
                |listener| {
                    waiting(
                        || listener.accept(),
                        |(stream, peer)| {
                            stream.set_nonblocking(true)?;
                            Ok(Accepted::Tcp(tokio::net::TcpStream::from_std(stream)?, peer))
                        },
                    )
                },
            ),
            Socket::Unix { listener, file } => {
                // Nobody finds it any more; then nobody comes after the last.
                drop(file);
                listener.into_std().map_or_else(
                    |_| Vec::new(),
                    |listener| {
                        waiting(
                            || listener.accept(),
                            |(stream, _)| {
                                stream.set_nonblocking(true)?;
                                Ok(Accepted::Unix(tokio::net::UnixStream::from_std(stream)?))
                            },
                        )
                    },
                )
            }
        }
    }
}

/// Everything that a queue holds. Not more than fits in one, so that a flood of callers has an end.
fn waiting<S>(
    mut accept: impl FnMut() -> std::io::Result<S>,
    mut open: impl FnMut(S) -> std::io::Result<Accepted>,
) -> Vec<Accepted> {
    let mut all = Vec::new();
    for _ in 0..BACKLOG {
        match accept() {
            Ok(stream) => all.extend(open(stream).ok()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    all
}

impl Bound {
    /// Binds an address so that the kernel may bring connections to any other one there, as TPROXY does.
    ///
    /// # Errors
    /// A sentence that names the address and why it cannot be bound.
    pub fn standing_for_others(address: &Address) -> Result<Self, String> {
        let fail = |error: std::io::Error| {
            let why = if error.kind() == std::io::ErrorKind::PermissionDenied {
                "; `tproxy: true` needs the capability NET_ADMIN"
            } else {
                ""
            };
            format!("cannot listen on {address}: {error}{why}")
        };
        let Address::Tcp(socket) = address else {
            return Err(format!("cannot listen on {address}: not a TCP address"));
        };
        let prepared = || {
            let listener = unbound(*socket)?;
            // One flag of the kernel's for both versions of IP.
            socket2::SockRef::from(&listener).set_ip_transparent_v4(true)?;
            listen(listener, *socket)
        };
        let listener = prepared().map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound), handed_over: false })
    }
}

/// A burst of callers is queued by the kernel; what does not fit waits a second for its SYN to be repeated.
const BACKLOG: u32 = 4096;

fn unbound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn listen(socket: TcpSocket, address: SocketAddr) -> std::io::Result<TcpListener> {
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes the socket of a process that was killed; one that still answers is left alone, and binding fails.
async fn remove_stale(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(std::io::ErrorKind::AddrInUse.into()),
    }
}

/// A connection that was accepted.
pub(super) enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

pub(super) async fn accept_one(socket: &Socket) -> std::io::Result<Accepted> {
    match socket {
        Socket::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
        Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
    }
}
