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
    let wrong = || format!("`{text}` is not a host name; write it like members.example.org, without port");
    if text.ends_with('.') {
        return Err(wrong());
    }
    Host::parse(text).map(|host| host.to_string()).map_err(|_| wrong())
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
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !plain || !url.username().is_empty() || url.password().is_some() {
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
    if !url.username().is_empty() || url.password().is_some() {
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
    let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !inner || text.is_empty() || text.len() > 63 || text.starts_with('-') || text.ends_with('-') {
        return Err(format!("`{text}` is not a subdomain; for https://contoso.zendesk.com write contoso"));
    }
    Ok(text)
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not ADDRESS:PORT; write it like \"[::]:443\" or 127.0.0.1:9180"))
}

/// `500ms`, `10s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write it like 500ms, 10s, 5m or 1h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60).ok_or_else(wrong)?),
        "h" => Duration::from_secs(number.checked_mul(3600).ok_or_else(wrong)?),
        _ => return Err(wrong()),
    };
    match duration {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        long if long > Duration::from_secs(7 * 86_400) => Err("must be at most 168h".to_owned()),
        fine => Ok(fine),
    }
}

/// `64KiB`, `10MiB`, `1GiB`: at least 64 KiB.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write it like 64KiB, 10MiB or 1GiB");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    match number.checked_mul(1 << shift).ok_or_else(wrong)? {
        small if small < 64 * 1024 => Err("must be at least 64KiB".to_owned()),
        fine => Ok(fine),
    }
}

/// A path on the site, with or without a query: visible ASCII, one leading slash.
pub(super) fn site_path(text: &str) -> Result<String, String> {
    let visible = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#');
    if !visible || !text.starts_with('/') || text.starts_with("//") {
        return Err(format!("`{text}` is not a path; write it like /page, other characters percent-encoded"));
    }
    Ok(text.to_owned())
}

/// The path of an app: plain segments, so that it has only one spelling.
pub(super) fn app_path(text: &str) -> Result<String, String> {
    let segment = |s: &str| {
        let plain = s
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        plain && !s.is_empty() && !s.starts_with('.') && !s.ends_with('.')
    };
    match text.strip_prefix('/') {
        Some(rest) if rest.split('/').all(segment) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` cannot be an SSO path; write it like /sso/zendesk: lower-case letters, digits, `-`, `_`, no slash at the end"
        )),
    }
}

pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    let token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if token && !text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a cookie name"))
    }
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
    match Pattern::parse(text) {
        Some(Pattern::Name(name)) if is_ours_alone(&name) => {
            Err(format!("`{text}` is one of the headers that only the gateway sets"))
        }
        Some(Pattern::Name(name)) if is_decisive(&name) => {
            Err(format!("`{text}` decides how a request is read; other spellings of it must not pass"))
        }
        Some(Pattern::Name(name)) => Ok(name),
        Some(Pattern::Beginning(_) | Pattern::Ending(_)) | None => {
            Err(format!("`{text}` is not the whole name of a header; write it like X-HTTP-Method-Override"))
        }
    }
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
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if plain && text.contains('.') {
        Ok(text)
    } else {
        Err(format!("`{text}` is not a domain; write it like association.org"))
    }
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
