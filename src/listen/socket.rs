//! The sockets that listeners are bound to, TCP and unix.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::settings::Address;

/// A listener that is bound and not yet serving.
#[derive(Debug)]
pub struct Bound {
    pub(super) socket: Socket,
    /// What was bound: port 0 resolved.
    pub address: Address,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
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
                Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound) })
            }
            Address::Unix(path) => {
                remove_stale(path).await.map_err(fail)?;
                let listener = UnixListener::bind(path).map_err(fail)?;
                let file = SocketFile(path.clone());
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
                Ok(Self { socket: Socket::Unix { listener, _file: file }, address: address.clone() })
            }
        }
    }
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
        Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound) })
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
