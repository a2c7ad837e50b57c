//! What the kernel knows of a connection's other end: the uid of a TCP socket on this machine.

use std::net::{IpAddr, SocketAddr};

/// The uid that owns the local socket at the other end of a loopback connection, from the kernel's table.
pub(super) async fn peer_uid(local: SocketAddr, peer: SocketAddr) -> Option<u32> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = tokio::fs::read_to_string(table).await else { continue };
        if let Some(uid) = find(&text, peer, local) {
            return Some(uid);
        }
    }
    None
}

/// Our own effective uid.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Finds the socket whose own address is `own` and whose peer is `remote`.
fn find(table: &str, own: SocketAddr, remote: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (own_field, remote_field) = (fields.nth(1)?, fields.next()?);
        if address(own_field)? != canonical(own) || address(remote_field)? != canonical(remote) {
            return None;
        }
        let (uid, inode) = (fields.nth(4)?, fields.nth(1)?);
        // A socket that its owner has closed is listed as nobody's (inode 0) under uid 0; it proves nothing.
        (inode != "0").then(|| uid.parse().ok()).flatten()
    })
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// `0100007F:1F90`: words in the machine's byte order, port in hexadecimal.
fn address(field: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[index * 4..index * 4 + 4].copy_from_slice(&word(index)?);
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 1\n   \
                     1: 0100007F:C351 0100007F:1F90 05 00000000:00000000 00:00000000 00000000  0        0 0\n";
        let (own, remote) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(find(table, own, remote), Some(1000));
        assert_eq!(find(table, remote, own), None);
        assert_eq!(find(table, "127.0.0.1:50001".parse().unwrap(), remote), None, "a closed socket is nobody's");
    }

    #[tokio::test]
    async fn the_kernel_names_the_owner_of_a_real_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, peer) = listener.accept().await.unwrap();
        assert_eq!(peer_uid(ours.local_addr().unwrap(), peer).await, Some(own_uid()));
        drop(caller);
    }
}
