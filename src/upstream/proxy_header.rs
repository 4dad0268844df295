//! Writes the PROXY header with which a connection to a server begins (HAProxy's specification, versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Builder, Command, Protocol, Version};

use crate::config::ProxyHeader;

/// The header for a connection of `client`. `to`: the server. Addresses of different families are both written as IPv6.
pub(crate) fn of(version: ProxyHeader, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (client, to) = alike(client, to);
    match version {
        ProxyHeader::V1 => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", client.ip(), to.ip(), client.port(), to.port())
                .into_bytes()
        }
        ProxyHeader::V2 => {
            let header =
                Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, (client, to))
                    .build();
            // Fails only for headers that are too long.
            header.unwrap_or_default()
        }
    }
}

fn alike(client: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    if client.is_ipv4() == to.is_ipv4() {
        return (client, to);
    }
    let as_v6 = |address: SocketAddr| {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        SocketAddr::from((ip, address.port()))
    };
    (as_v6(client), as_v6(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_reads_the_addresses_of_both_versions() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (client, to) in [
            ("192.0.2.1:4711", "10.0.0.5:443"),
            ("[2001:db8::1]:4711", "10.0.0.5:443"),
            ("192.0.2.1:1", "[::1]:443"),
        ] {
            let (client, to) = (at(client), at(to));
            let text = of(ProxyHeader::V1, client, to);
            let read = ppp::v1::Header::try_from(&text[..]).unwrap();
            let (client, to) = alike(client, to);
            assert_eq!(read.addresses, (client, to).into());
            let binary = of(ProxyHeader::V2, client, to);
            let read = ppp::v2::Header::try_from(&binary[..]).unwrap();
            assert_eq!(read.addresses, (client, to).into());
        }
    }
}
