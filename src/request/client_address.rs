//! The visitor's address behind trusted proxies, from `X-Forwarded-For` or `Forwarded` (RFC 7239).

use std::net::IpAddr;

/// The part of the forwarding chain that trusted proxies have written: from the right, through the trusted proxies, to
/// the first address that is not trusted. That is the visitor's address. Addresses to its left can be forged.
///
/// `X-Forwarded-For` takes precedence over `Forwarded`. Addresses may have ports, brackets and quotes: Azure
/// Application Gateway sends `IP:port`.
pub(crate) fn vouched_for<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    trusts: impl Fn(IpAddr) -> bool,
) -> Vec<IpAddr> {
    let (mut lines, mut standard) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        // Lossy: invalid text in the visitor's part must not hide the part that a trusted proxy appended.
        let text = || String::from_utf8_lossy(value);
        if name.eq_ignore_ascii_case("x-forwarded-for") {
            lines.push(text());
        } else if name.eq_ignore_ascii_case("forwarded") {
            standard.push(text());
        }
    }
    let is_standard = lines.is_empty();
    let all = if is_standard { standard.join(",") } else { lines.join(",") };
    let mut chain = Vec::new();
    for element in split_from_right(&all, b',') {
        let address = if is_standard { address_of_element(element) } else { address_of_node(element) };
        let Some(address) = address else { break };
        chain.push(address);
        if !trusts(address) {
            break;
        }
    }
    chain.reverse();
    chain
}

/// Splits at `separator` outside quotes, the last part first. A trusted proxy appends to the value that the visitor
/// sent. Reading from the right, an unclosed quote of the visitor does not affect the proxy's part.
fn split_from_right(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let part = rest?;
        let bytes = part.as_bytes();
        let mut in_quotes = false;
        for at in (0..bytes.len()).rev() {
            let escapes = bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            if bytes[at] == b'"' && escapes % 2 == 0 {
                in_quotes = !in_quotes;
            } else if bytes[at] == separator && !in_quotes {
                rest = Some(&part[..at]);
                return Some(&part[at + 1..]);
            }
        }
        rest = None;
        Some(part)
    })
}

/// The address in an element of `Forwarded`, such as `for=192.0.2.1;proto=https`. An element with two is invalid.
fn address_of_element(element: &str) -> Option<IpAddr> {
    let mut nodes = split_from_right(element, b';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    nodes.next().filter(|_| nodes.next().is_none()).and_then(address_of_node)
}

/// The address of a node (RFC 7239 section 6): `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711`, in quotes or not,
/// and `2001:db8::1`. `None` for names such as `unknown`.
fn address_of_node(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let node = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    let is_port =
        |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let address: IpAddr = match node.strip_prefix('[').and_then(|node| node.split_once(']')) {
        Some((address, "")) => address.parse().map(IpAddr::V6).ok()?,
        Some((address, port)) if is_port(port.strip_prefix(':')?) => address.parse().map(IpAddr::V6).ok()?,
        Some(_) => return None,
        // Without brackets an IPv6 address has no port.
        None => match node.split_once(':') {
            Some((address, port)) if is_port(port) => address.parse().map(IpAddr::V4).ok()?,
            Some(_) | None => node.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chain behind 10.0.0.0/8.
    fn chain(fields: &[(&str, &str)]) -> String {
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let all = vouched_for(fields, trusts);
        all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_chain_is_read_from_the_right_up_to_the_visitor() {
        for (value, expected) in [
            ("1.2.3.4, 10.0.0.1", "1.2.3.4 10.0.0.1"),
            // The visitor claims to be 6.6.6.6.
            ("6.6.6.6, 203.0.113.9, 10.0.0.2,10.0.0.1", "203.0.113.9 10.0.0.2 10.0.0.1"),
            ("<script>, 10.0.0.1", "10.0.0.1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("unknown", ""),
        ] {
            assert_eq!(chain(&[("X-Forwarded-For", value)]), expected, "{value}");
        }
    }

    #[test]
    fn addresses_may_have_ports_brackets_and_quotes() {
        for (value, expected) in [
            ("203.0.113.7:51008", "203.0.113.7"),
            ("198.51.100.9, 203.0.113.7:443", "203.0.113.7"),
            ("203.0.113.7:51008, 10.0.0.1", "203.0.113.7 10.0.0.1"),
            ("203.0.113.7, 10.0.0.1:80", "203.0.113.7 10.0.0.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\", 10.0.0.1", "2001:db8::1 10.0.0.1"),
            ("\"203.0.113.7:51008\"", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
        ] {
            assert_eq!(chain(&[("X-Forwarded-For", value)]), expected, "{value}");
        }
        for invalid in [
            "203.0.113.7:",
            "203.0.113.7:x",
            "203.0.113.7:123456",
            "[203.0.113.7]:80",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]x",
            "[2001:db8::1]:",
            "203.0.113.7 :80",
            "203.0.113",
            "fe80::1%eth0",
            "",
            "\"",
            "\"203.0.113.7",
        ] {
            assert_eq!(chain(&[("X-Forwarded-For", invalid)]), "", "{invalid}");
        }
    }

    #[test]
    fn invalid_text_affects_only_the_visitors_part() {
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        for (name, value) in [
            ("X-Forwarded-For", &b"\xff, 203.0.113.9"[..]),
            ("X-Forwarded-For", b"\xe9, 203.0.113.9, 10.0.0.1"),
            ("Forwarded", b"for=\xff, for=203.0.113.9"),
        ] {
            let chain = vouched_for([(name, value)].into_iter(), trusts);
            assert_eq!(chain.first().map(IpAddr::to_string).as_deref(), Some("203.0.113.9"), "{value:?}");
        }
    }

    #[test]
    fn the_forwarded_header_is_read_like_x_forwarded_for() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("for=6.6.6.6, For=\"192.0.2.1:4711\";proto=https, for=10.0.0.2", "192.0.2.1 10.0.0.2"),
            ("for=\"[2001:db8::1]:4711\", by=x;for=10.0.0.1", "2001:db8::1 10.0.0.1"),
            // Commas, semicolons and escapes inside quotes.
            ("for=192.0.2.1;ext=\"a, for=6.6.6.6\"", "192.0.2.1"),
            ("ext=\"for=6.6.6.6;\";for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1;ext=\"a\\\", for=6.6.6.6\"", "192.0.2.1"),
            ("for=192.0.2.1;ext=\"a,b\", for=10.0.0.2;by=\"x;y\"", "192.0.2.1 10.0.0.2"),
            // The visitor left a quote open; a trusted proxy has appended the last element.
            ("for=6.6.6.6;ext=\", for=192.0.2.1", "192.0.2.1"),
            ("for=\"6.6.6.6, for=10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(chain(&[("Forwarded", value)]), expected, "{value}");
        }
        for invalid in [
            "for=unknown",
            "for=_hidden",
            "proto=https",
            "",
            "for=\"[2001:db8::1\"",
            "for=1.2.3",
            "for=1.2.3.4;for=10.0.0.1",
        ] {
            assert_eq!(chain(&[("Forwarded", invalid)]), "", "{invalid}");
        }
        assert_eq!(chain(&[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "192.0.2.1")]), "192.0.2.1");
    }
}
