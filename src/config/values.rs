//! Single values of the file: each function takes the text and returns the value, or what is wrong with it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::RootCertStore;
use url::{Host, Url};

use crate::base::header_rules::{Pattern, is_decisive, is_ours_alone};

/// CA certificates.
#[derive(Debug, Clone)]
pub(crate) struct Roots(pub(crate) Arc<RootCertStore>);

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Roots {}

impl Default for Roots {
    fn default() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Host and port of an https origin, as in a URL: `support.example.org`, `localhost:8444`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Lower-case name or address as a URL writes it (IPv6 in brackets).
    pub(crate) host: String,
    /// 443 by default.
    pub(crate) port: u16,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

pub(super) fn authority(text: &str) -> Result<Authority, String> {
    let wrong = || format!("`{text}` is not a host name; write it like support.example.org");
    // Nothing that has a meaning of its own in a URL or a policy.
    if !text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')) {
        return Err(wrong());
    }
    let url = Url::parse(&format!("https://{text}/")).map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?.to_owned();
    Ok(Authority { host, port: url.port().unwrap_or(443) })
}

/// A site's host: no port, no wildcard.
pub(super) fn site_host(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err("wildcards are not supported; list each host".to_owned());
    }
    let host = Host::parse(text).ok().filter(|_| !text.ends_with('.'));
    host.map(|host| host.to_string()).ok_or_else(|| {
        format!("`{text}` is not a host name; write it like members.example.org, without port")
    })
}

/// Whether a URL has a user name or a password.
pub(super) fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// `https://host[:port]`; plain http is accepted for test environments.
pub(crate) fn server(text: &str) -> Result<Server, String> {
    let wrong =
        || format!("`{text}` is not a server; write it like https://10.0.0.5 or https://imis.internal:8443");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let tls = match url.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(format!("scheme `{other}` is not supported; use https")),
    };
    let is_origin = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !is_origin || has_credentials(&url) {
        return Err(format!("{}: only scheme, host and port", wrong()));
    }
    let host = match url.host().ok_or_else(wrong)? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Ok(Server { tls, host, port: url.port_or_known_default().ok_or_else(wrong)? })
}

/// An absolute http(s) URL whose path ends in `/` (one is added).
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let wrong = || format!("`{text}` is not a base URL; write it like https://members.example.org/");
    let mut url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    if has_credentials(&url) {
        return Err("no user name or password in a URL; use service_account".to_owned());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// `https://host[:port]`.
pub(super) fn https_origin(text: &str) -> Result<Authority, String> {
    let wrong = || format!("`{text}` is not an https origin; write it like https://contoso.zendesk.com");
    authority(text.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/'))
}

/// Zendesk's own rule for subdomains: letters, digits, hyphens, a letter or digit at both ends.
pub(super) fn subdomain(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_plain && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text);
    }
    Err(format!("`{text}` is not a subdomain; for https://contoso.zendesk.com write contoso"))
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not ADDRESS:PORT; write it like \"[::]:443\" or 127.0.0.1:9180"))
}

/// A whole number with one of these units, multiplied by the factor of the unit.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `500ms`, `10s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match with_unit(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]) {
        None => Err(format!("`{text}` is not a duration; write it like 500ms, 10s, 5m or 1h")),
        Some(0) => Err("must be more than zero".to_owned()),
        Some(604_800_001..) => Err("must be at most 168h".to_owned()),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
    }
}

/// `64KiB`, `10MiB`, `1GiB`: at least 64 KiB.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match with_unit(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]) {
        None => Err(format!("`{text}` is not a size; write it like 64KiB, 10MiB or 1GiB")),
        Some(0..65_536) => Err("must be at least 64KiB".to_owned()),
        Some(bytes) => Ok(bytes),
    }
}

/// A path on the site, with or without a query: visible ASCII, one leading slash.
pub(super) fn site_path(text: &str) -> Result<String, String> {
    let is_visible = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#');
    let is_path = is_visible && text.starts_with('/') && !text.starts_with("//");
    is_path.then(|| text.to_owned()).ok_or_else(|| {
        format!("`{text}` is not a path; write it like /page, other characters percent-encoded")
    })
}

/// The path of an app: plain segments, so that it has only one spelling.
pub(super) fn app_path(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let is_segment =
        |s: &str| s.bytes().all(is_plain) && !s.is_empty() && !s.starts_with('.') && !s.ends_with('.');
    let is_path = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
    is_path.then(|| text.to_owned()).ok_or_else(|| {
        format!("`{text}` cannot be an SSO path; write it like /sso/zendesk: lower-case letters, digits, `-`, `_`, no slash at the end")
    })
}

pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let is_token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let is_name = is_token && !text.is_empty();
    is_name.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not a cookie name"))
}

/// Request headers to remove: `Name`, `Name-*` or `*-Name`.
pub(super) fn header_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text).ok_or_else(|| {
        format!("`{text}` is not a header; write it like X-Acme-User, X-Acme-* or *-Verified-By")
    })?;
    const NEEDED: [&str; 7] = [
        "host",
        "cookie",
        "authorization",
        "content-length",
        "content-type",
        "transfer-encoding",
        "user-agent",
    ];
    match NEEDED.iter().find(|name| pattern.matches(name)) {
        Some(name) => Err(format!("`{text}` would remove {name}, which iMIS needs")),
        None => Ok(pattern),
    }
}

/// The whole name of a header that is an exception, in lower case.
pub(super) fn kept_header(text: &str) -> Result<String, String> {
    let Some(Pattern::Name(name)) = Pattern::parse(text) else {
        return Err(format!(
            "`{text}` is not the whole name of a header; write it like X-HTTP-Method-Override"
        ));
    };
    if is_ours_alone(&name) {
        return Err(format!("`{text}` is one of the headers that only the gateway sets"));
    }
    if is_decisive(&name) {
        return Err(format!("`{text}` decides how a request is read; other spellings of it must not pass"));
    }
    Ok(name)
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{text}` is not a network; write it like 10.0.0.0/8 or 192.0.2.7"))
}

/// A domain of e-mail addresses, in lower case.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('@').to_ascii_lowercase();
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if is_plain && text.contains('.') {
        return Ok(text);
    }
    Err(format!("`{text}` is not a domain; write it like association.org"))
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("must not be empty".to_owned()),
        some => Ok(some.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_unit_and_a_sensible_size() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["10", "s", "", "-1s", "1.5s", "0s", "9999h", "99999999999999999999s", "10 s", "10S"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_scheme_host_and_port_only() {
        let server = |text| server(text).map(|s| (s.tls, s.host, s.port));
        assert_eq!(server("https://10.0.0.5"), Ok((true, "10.0.0.5".to_owned(), 443)));
        assert_eq!(server("http://[::1]:8080/"), Ok((false, "::1".to_owned(), 8080)));
        for wrong in
            ["10.0.0.5", "https://u:p@host", "https://host/path", "https://host/?q", "ftp://host", "https://"]
        {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_app_path_has_one_spelling() {
        assert!(app_path("/sso/zendesk").is_ok());
        for wrong in ["sso", "/", "/sso/", "//sso", "/SSO", "/a/../b", "/a%2f", "/a.", "/a b", "/a;b", ""] {
            assert!(app_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        assert_eq!(
            authority("Support.Example.org").map(|a| a.to_string()),
            Ok("support.example.org".to_owned())
        );
        assert_eq!(authority("localhost:8444").map(|a| a.to_string()), Ok("localhost:8444".to_owned()));
        for wrong in ["", "a/b", "u@h", "https://h", "a b", "h?x", "h\\x", "*.example.org", "a;b", "a'b"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
