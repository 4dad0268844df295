//! What Zendesk sends along, and where a member may be sent afterwards.
//!
//! A `return_to` is parsed once, by the rules browsers use (WHATWG URL). It is an https URL on exactly one of the
//! account's authorities, or a path with one leading slash; anything else is dropped, and the sign-in goes on without.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::{Authority, Zendesk};

/// Longer ones are dropped: no page of Zendesk's has such an address.
const MAX_BYTES: usize = 2048;

/// A place in the account that is safe to send a member to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReturnTo(String);

impl ReturnTo {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` when the text leads, or could be read as leading, out of the account.
    pub(crate) fn parse(text: &str, zendesk: &Zendesk) -> Option<Self> {
        let plain = |text: &str| !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\');
        if text.len() > MAX_BYTES || !plain(text) {
            return None;
        }
        if text.starts_with('/') { relative(text, zendesk) } else { absolute(text, zendesk) }
    }
}

fn absolute(text: &str, zendesk: &Zendesk) -> Option<ReturnTo> {
    let scheme = text.get(..8)?;
    if !scheme.eq_ignore_ascii_case("https://") || text[8..].starts_with('/') {
        return None;
    }
    let authority = text[8..].split(['/', '?', '#']).next()?;
    let url = Url::parse(text).ok()?;
    let known = |own: &Authority| own.to_string().eq_ignore_ascii_case(authority) && is_at(&url, own);
    let inside = !leads_away(url.path());
    (inside && zendesk.authorities().any(known)).then(|| ReturnTo(url.into()))
}

fn relative(text: &str, zendesk: &Zendesk) -> Option<ReturnTo> {
    let (path, rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let query = rest.split('#').next().unwrap_or_default();
    // A whole address in the query is more likely meant for a careless redirector than for Zendesk's own pages.
    if query.contains("=//") || query.contains("://") {
        return None;
    }
    if leads_away(path) {
        return None;
    }
    let base = Url::parse(&format!("https://{}/", zendesk.origin)).ok()?;
    let url = base.join(text).ok()?;
    (is_at(&url, &zendesk.origin) && !leads_away(url.path())).then(|| ReturnTo(text.to_owned()))
}

/// Whether a path, decoded any number of times, could be read as another host or a script, or contains `.` or `..`
/// segments.
fn leads_away(path: &str) -> bool {
    let mut reading = path.to_owned();
    for _ in 0..4 {
        // Some parsers accept characters that look like a slash.
        let slashes =
            ['\\', '\u{2044}', '\u{2215}', '\u{29f8}', '\u{29f5}', '\u{2216}', '\u{ff0f}', '\u{ff3c}'];
        let odd = reading.contains(|c: char| c.is_control() || slashes.contains(&c));
        let away = odd
            || !reading.starts_with('/')
            || reading.contains("//")
            || reading.contains(":/")
            || reading.to_ascii_lowercase().contains("javascript:")
            || reading.split('/').any(|segment| segment == "." || segment == "..");
        if away {
            return true;
        }
        match percent_decode_str(&reading).decode_utf8() {
            Ok(decoded) if decoded == reading => return false,
            Ok(decoded) => reading = decoded.into_owned(),
            // Decoders differ in what they make of invalid UTF-8.
            Err(_) => return true,
        }
    }
    true
}

fn is_at(url: &Url, own: &Authority) -> bool {
    url.scheme() == "https"
        && url.host_str() == Some(own.host.as_str())
        && url.port_or_known_default() == Some(own.port)
        && url.username().is_empty()
        && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_app;

    fn accepted(text: &str) -> Option<String> {
        ReturnTo::parse(text, &test_app().zendesk).map(|return_to| return_to.0)
    }

    #[test]
    fn pages_of_the_account_are_accepted_as_they_are() {
        for text in [
            "https://contoso.zendesk.com/hc/en-us/requests/7?page=2#comment-3",
            "https://contoso-events.zendesk.com/hc",
            "https://support.contoso.org/hc/en-us/articles/360001-A-B?x=https%3A%2F%2Fevil.example%2F",
            "/hc/en-us/requests",
            "/agent/tickets/12?return=https%3A%2F%2Fcontoso.zendesk.com%2Fagent",
            "/",
            "/hc/en-us/search?query=a//b",
            "/hc/search?query=caf%E9&x=%2F%2F",
            "/hc/en-us/articles/1@2",
            "/hc/x#frag//y",
            "/hc/en-us/search?query=a%20b",
        ] {
            assert_eq!(accepted(text).as_deref(), Some(text));
        }
        assert_eq!(accepted("https://contoso.zendesk.com").as_deref(), Some("https://contoso.zendesk.com/"));
        assert_eq!(
            accepted("HTTPS://Contoso.Zendesk.com/hc").as_deref(),
            Some("https://contoso.zendesk.com/hc")
        );
    }

    #[test]
    fn everything_else_is_dropped() {
        for text in [
            "",
            "hc",
            "http://contoso.zendesk.com/",
            "https://evil.example/",
            "https://contoso.zendesk.com.evil.example/",
            "https://contoso.zendesk.com@evil.example/",
            "https://x@contoso.zendesk.com/",
            "https://contoso.zendesk.com:444/",
            "https://contoso.zendesk.com:443/",
            "https:/contoso.zendesk.com/",
            "https:contoso.zendesk.com",
            "https:///contoso.zendesk.com",
            "https://contoso.zendesk.com\\@evil.example/",
            "https://contoso.zendesk.com/\u{0}",
            "https://contoso.zendesk.com/\t",
            " https://contoso.zendesk.com/",
            "//evil.example/",
            "/\\evil.example",
            "/\t/evil.example",
            "/%2fevil.example",
            "/%5cevil.example",
            "/%252fevil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/%2e%2e//evil.example",
            "///evil.example",
            "/<>//evil.example",
            "/redirect?url=https://evil.example/",
            "/%C0%AFevil.example",
            "https://contoso.zendesk.com/%2f%2fevil.example",
            "https://contoso.zendesk.com/%5c%5cevil.example",
            "/\u{ff0f}evil.example",
            "/hc/\u{2215}\u{2215}evil.example",
            "/%ef%bc%8fevil.example",
            "https://contoso。zendesk.com/",
            "https://CONTOSO%2Ezendesk.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://other.zendesk.com/",
            "https://contoso.zendesk.com//evil.example/",
            "https://contoso.zendesk.com./",
        ] {
            assert_eq!(accepted(text), None, "{text:?}");
        }
        assert_eq!(accepted(&format!("/{}", "a".repeat(3000))), None);
    }
}
