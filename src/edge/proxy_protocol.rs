//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a load balancer begins each connection with
//! a header that names the client. Only the headers of `trusted_proxies` are read.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The maximum length of a header of version 2. It may have extensions after the addresses.
const MAX_BYTES: usize = 4096;
/// The maximum length of a header of version 1, including the end of the line.
const MAX_LINE: usize = 107;
/// The first bytes of version 1.
const TEXT: &[u8] = b"PROXY ";

/// Why the connection of a trusted proxy cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("no PROXY header, and one is expected of every connection of a trusted proxy")]
    None,
    #[error("a PROXY header that cannot be read")]
    Malformed,
    #[error("a PROXY header of more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the connection ended within the PROXY header")]
    Ended,
    #[error("the connection failed within the PROXY header")]
    Failed(#[from] io::Error),
}

/// A complete header.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    length: usize,
    /// None: the connection is the proxy's own (a health check), or the client has no IP address.
    client: Option<SocketAddr>,
}

/// Reads the header from the stream, and no byte after it. None: the connection is the proxy's own.
pub(crate) async fn receive(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut taken = 0;
    loop {
        // The length of the header is unknown until it has been parsed, and the bytes after it belong to TLS or HTTP.
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(HeaderError::Ended);
        }
        let whole = read(&bytes[..seen])?;
        let end = whole.as_ref().map_or(seen, |header| header.length);
        stream.read_exact(&mut bytes[taken..end]).await?;
        if let Some(header) = whole {
            return Ok(header.client);
        }
        if end == MAX_BYTES {
            return Err(HeaderError::TooLong);
        }
        taken = end;
    }
}

/// Parses the header at the start of `bytes`. None: it is incomplete.
fn read(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let is_begun = |start: &[u8]| bytes.starts_with(start) || start.starts_with(bytes);
    if is_begun(TEXT) {
        read_text(bytes)
    } else if is_begun(v2::PROTOCOL_PREFIX) {
        read_binary(bytes)
    } else {
        Err(HeaderError::None)
    }
}

fn read_text(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let line = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
    let Some(end) = line else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(HeaderError::Malformed) };
    };
    let header = v1::Header::try_from(&bytes[..=end]).map_err(|_| HeaderError::Malformed)?;
    if header.header.len() != end + 1 {
        return Err(HeaderError::Malformed);
    }
    let client = match header.addresses {
        v1::Addresses::Tcp4(of) => Some(socket_address(of.source_address.into(), of.source_port)),
        v1::Addresses::Tcp6(of) => Some(socket_address(of.source_address.into(), of.source_port)),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(Header { length: end + 1, client }))
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    // The length field precedes the addresses: a header that is too long is refused early.
    if let Some([high, low]) = bytes.get(14..16)
        && 16 + usize::from(u16::from_be_bytes([*high, *low])) > MAX_BYTES
    {
        return Err(HeaderError::TooLong);
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => return Ok(None),
        Err(
            v2::ParseError::Prefix
            | v2::ParseError::Version(_)
            | v2::ParseError::Command(_)
            | v2::ParseError::AddressFamily(_)
            | v2::ParseError::Protocol(_)
            | v2::ParseError::InvalidAddresses(..)
            | v2::ParseError::InvalidTLV(..)
            | v2::ParseError::Leftovers(_),
        ) => return Err(HeaderError::Malformed),
    };
    let client = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(of)) => {
            Some(socket_address(of.source_address.into(), of.source_port))
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(of)) => {
            Some(socket_address(of.source_address.into(), of.source_port))
        }
        // The protocol requires that the address of the connection itself is used then.
        (
            v2::Command::Local | v2::Command::Proxy,
            v2::Protocol::Unspecified | v2::Protocol::Stream | v2::Protocol::Datagram,
            v2::Addresses::Unspecified
            | v2::Addresses::IPv4(_)
            | v2::Addresses::IPv6(_)
            | v2::Addresses::Unix(_),
        ) => None,
    };
    Ok(Some(Header { length: header.len(), client }))
}

fn socket_address(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

/// Length and client address of the header, for fuzz targets and benchmarks. None: it is invalid or incomplete.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_header(bytes: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    read(bytes).ok().flatten().map(|header| (header.length, header.client))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(bytes: &[u8]) -> Option<Option<String>> {
        let whole = read(bytes).ok().flatten();
        whole.map(|header| header.client.map(|address| address.to_string()))
    }

    fn address(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    /// Version 2: command, family and protocol, then what follows the length.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 187];

    #[test]
    fn both_versions_name_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n\x16\x03\x01";
        assert_eq!(client(line), address("192.0.2.7:12345"));
        assert_eq!(read(line).unwrap().unwrap().length, line.len() - 3);
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), address("[2001:db8::7]:1"));
        assert_eq!(client(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), address("192.0.2.7:1"));
        let header = binary(1, 0x11, &IPV4);
        assert_eq!(client(&header), address("192.0.2.7:12345"));
        assert_eq!(client(&[&header[..], b"\x16\x03\x01"].concat()), address("192.0.2.7:12345"));
        assert_eq!(
            client(&binary(1, 0x11, &[&IPV4[..], &[3, 0, 4, 1, 2, 3, 4]].concat())),
            address("192.0.2.7:12345")
        );
        let mut ipv6 = [0; 36];
        (ipv6[0], ipv6[1], ipv6[15], ipv6[33]) = (0x20, 1, 7, 9);
        assert_eq!(client(&binary(1, 0x21, &ipv6)), address("[2001::7]:9"));
    }

    #[test]
    fn a_header_without_an_ip_address_names_no_client() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            binary(0, 0, b""),
            binary(0, 0x11, &IPV4),
            binary(1, 0, b""),
            binary(1, 0x12, &IPV4),
            binary(1, 0x31, &[0; 216]),
        ] {
            assert_eq!(client(&header), Some(None), "{}", String::from_utf8_lossy(&header));
        }
    }

    #[test]
    fn part_of_a_header_is_incomplete() {
        let headers: [&[u8]; 2] = [b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n", &binary(1, 0x11, &IPV4)];
        for header in headers {
            for end in 0..header.len() {
                assert!(matches!(read(&header[..end]), Ok(None)), "{end}");
            }
        }
    }

    #[test]
    fn an_invalid_header_is_refused() {
        let long = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        for bytes in [
            &b"\x16\x03\x01\x02"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXY\r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443 \r\n",
            b"PROXY TCP4 192.0.2.7\r 10.0.0.1 12345 443\r\n",
            b"PROXY  TCP4 192.0.2.7 10.0.0.1 12345 443\r\n",
            b"PROXY TCP4 192.0.2.007 10.0.0.1 12345 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 012345 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 443\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 12345 443\r\n",
            b"proxy TCP4 192.0.2.7 10.0.0.1 12345 443\r\n",
            &long,
            &endless,
            &binary(2, 0x11, &IPV4),
            &binary(1, 0x41, &IPV4),
            &binary(1, 0x13, &IPV4),
            &binary(1, 0x11, &IPV4[1..]),
            &binary(1, 0x11, &[0; 4081]),
        ] {
            assert!(read(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
