//! Where a redirected connection was going: what the kernel remembers of it.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that was called before the connection came here, IPv4 in its own form; `None` when nothing redirected it.
///
/// REDIRECT and DNAT write over the address, and connection tracking has the old one. TPROXY leaves it as it is.
pub(super) fn destination(stream: &TcpStream, tproxy: bool) -> Option<SocketAddr> {
    let own = canonical(stream.local_addr().ok()?);
    if tproxy {
        return Some(own);
    }
    let socket = SockRef::from(stream);
    let tracked = if own.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // A connection that is tracked and was not redirected was going to us.
    tracked.ok()?.as_socket().map(canonical).filter(|captured| *captured != own)
}

/// An IPv4 address that a socket of both versions shows in the form of the other.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_nothing_redirected_was_going_nowhere_else() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            assert_eq!(destination(&ours, false), None);
            assert_eq!(destination(&ours, true), listener.local_addr().ok(), "TPROXY leaves the address as it is");
            drop(client);
        }
    }

    #[test]
    fn an_ipv4_address_has_one_form() {
        assert_eq!(canonical("[::ffff:192.0.2.1]:443".parse().unwrap()), "192.0.2.1:443".parse().unwrap());
    }
}
