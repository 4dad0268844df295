//! What Zendesk sends along, and where a member may be sent afterwards.
//!
//! A `return_to` is parsed once, by the rules browsers use (WHATWG URL). It is an https URL on exactly one of the
//! account's authorities, or a path with one leading slash; anything else is dropped, and the sign-in goes on without.

use percent_encoding::percent_decode_str;
use url::{Url, form_urlencoded};

use crate::base::query::encoded;
use crate::config::{App, Authority, Zendesk};

/// Longer ones are dropped: no page of Zendesk's has such an address.
const MOST_BYTES: usize = 2048;

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
        if text.len() > MOST_BYTES || !plain(text) {
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

/// Whether a path could be taken for another host or a script, or climbs, in whatever it becomes when somebody decodes it,
/// however often.
fn leads_away(path: &str) -> bool {
    let mut reading = path.to_owned();
    for _ in 0..4 {
        // Some take what looks like a slash for one.
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
            // Overlong or other encodings: nobody knows what a decoder makes of them.
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

/// The parameters of a Remote login URL that matter. `timestamp` does not: tokens carry our own time.
#[derive(Debug, Default)]
pub(crate) struct LoginParams {
    pub(crate) return_to: Option<ReturnTo>,
    /// There was one, and it was not safe.
    pub(crate) return_to_dropped: bool,
    brand_id: Option<String>,
    locale_id: Option<String>,
}

impl LoginParams {
    pub(crate) fn parse(query: &str, zendesk: &Zendesk) -> Self {
        let mut params = Self::default();
        let mut seen: Option<String> = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "return_to" if !value.is_empty() => {
                    // Two different ones: neither can be trusted to be the one meant.
                    params.return_to_dropped |= seen.as_deref().is_some_and(|first| first != &*value);
                    seen = Some(value.into_owned());
                }
                "brand_id" => params.brand_id = params.brand_id.take().or_else(|| digits(&value)),
                "locale_id" => params.locale_id = params.locale_id.take().or_else(|| digits(&value)),
                _ => {}
            }
        }
        if let Some(text) = seen.filter(|_| !params.return_to_dropped) {
            params.return_to = ReturnTo::parse(&text, zendesk);
            params.return_to_dropped = params.return_to.is_none();
        }
        params
    }

    pub(crate) fn brand_id(&self) -> Option<u64> {
        self.brand_id.as_deref()?.parse().ok()
    }

    pub(crate) fn locale_id(&self) -> Option<u64> {
        self.locale_id.as_deref()?.parse().ok()
    }

    /// Of what `sso_target` made: a path of the app with a query.
    pub(crate) fn of_target(target: &str, app: &App) -> Self {
        Self::parse(target.split_once('?').map_or("", |(_, query)| query), &app.zendesk)
    }

    /// The app's SSO path with these parameters: what a member comes back to.
    pub(crate) fn sso_target(&self, app: &App) -> String {
        let return_to = self.return_to.as_ref().map(|return_to| return_to.0.as_str());
        let pairs = [
            ("brand_id", self.brand_id.as_deref()),
            ("locale_id", self.locale_id.as_deref()),
            ("return_to", return_to),
        ];
        let query: Vec<String> =
            pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded((*value)?)))).collect();
        if query.is_empty() { app.path.clone() } else { format!("{}?{}", app.path, query.join("&")) }
    }
}

fn digits(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.to_owned())
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

    #[test]
    fn the_path_back_carries_what_matters_encoded_once() {
        let app = test_app();
        let query = "brand_id=42&locale_id=1&return_to=https%3A%2F%2Fsupport.contoso.org%2Fhc%3Fa%3D1%26b%3D2&timestamp=1700000000";
        let target = LoginParams::parse(query, &app.zendesk).sso_target(&app);
        assert_eq!(
            target,
            "/sso/zendesk?brand_id=42&locale_id=1&return_to=https%3A%2F%2Fsupport.contoso.org%2Fhc%3Fa%3D1%26b%3D2"
        );
        let again = LoginParams::parse(target.split_once('?').unwrap().1, &app.zendesk);
        assert_eq!(again.sso_target(&app), target);
        assert_eq!(LoginParams::parse("", &app.zendesk).sso_target(&app), "/sso/zendesk");
    }

    #[test]
    fn parameters_that_are_not_what_they_should_be_are_left_out() {
        let app = test_app();
        let params =
            LoginParams::parse("brand_id=4%0d%0a2&locale_id=en&return_to=%2F%2Fevil.example", &app.zendesk);
        assert!(params.return_to_dropped);
        assert_eq!(params.sso_target(&app), "/sso/zendesk");
        let two = LoginParams::parse("return_to=%2Fhc&return_to=%2Fagent", &app.zendesk);
        assert!(two.return_to_dropped && two.return_to.is_none());
    }
}
