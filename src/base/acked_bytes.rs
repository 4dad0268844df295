//! How many bytes the peer has acknowledged, from the kernel. The number of bytes written to the socket says little
//! about a slow reader: the kernel accepts megabytes ahead, at long intervals.

use std::os::fd::AsFd;

use nix::{getsockopt_impl, libc, sockopt_impl};

/// The first fields of Linux's `struct tcp_info` (linux/tcp.h). New versions only append fields.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(unreachable_pub, reason = "the macro generates public items")]
pub struct TcpInfo {
    before: [u32; 26],
    rates: [u64; 2],
    /// RFC 4898, `tcpEStatsAppHCThruOctetsAcked`.
    bytes_acked: u64,
}

sockopt_impl!(
    /// The socket option `TCP_INFO`.
    Info, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo
);

/// The number of bytes that the peer has acknowledged since the connection began. None: the kernel cannot tell.
pub(crate) fn acknowledged(socket: &impl AsFd) -> Option<u64> {
    let info = nix::sys::socket::getsockopt(socket, Info).ok()?;
    Some(info.bytes_acked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_that_are_not_read_are_not_acknowledged_even_if_the_kernel_buffers_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(&[b'x'; 1000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
        until(|| acknowledged(&server) == Some(1000));

        server.set_nonblocking(true).unwrap();
        let mut taken = 1000;
        while let Ok(count) = server.write(&[b'x'; 65_536]) {
            taken += count as u64;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = acknowledged(&server).unwrap();
        assert!((1000..taken).contains(&before), "{before} of {taken}");
        let mut bytes = vec![0; usize::try_from(before).unwrap()];
        client.read_exact(&mut bytes).unwrap();
        until(|| acknowledged(&server).unwrap() > before);
    }

    /// Waits for an acknowledgement.
    fn until(holds: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !holds() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
