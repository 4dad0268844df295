//! Is there a session cookie at all? Names are compared without case, values only with each other.

use cookie::Cookie;
use http::header::{COOKIE, HeaderMap};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionCookies {
    None,
    Present,
    /// One name with two different values: somebody may have planted one of them. Holds the configured name.
    Contradictory(String),
}

/// Looks for cookies named as configured. A name may stand twice in one header; that is fine if the values agree.
pub(super) fn find(headers: &HeaderMap, names: &[String]) -> SessionCookies {
    let text = |line: &http::HeaderValue| String::from_utf8_lossy(line.as_bytes()).into_owned();
    let lines: Vec<String> = headers.get_all(COOKIE).iter().map(text).collect();
    let cookies: Vec<Cookie<'_>> =
        lines.iter().flat_map(|line| Cookie::split_parse(line.as_str()).flatten()).collect();
    let mut found = SessionCookies::None;
    for name in names {
        let named =
            |cookie: &&Cookie<'_>| cookie.name().eq_ignore_ascii_case(name) && !cookie.value().is_empty();
        let mut values = cookies.iter().filter(named).map(Cookie::value);
        let Some(first) = values.next() else { continue };
        if values.any(|other| other != first) {
            return SessionCookies::Contradictory(name.clone());
        }
        found = SessionCookies::Present;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn found(lines: &[&[u8]]) -> SessionCookies {
        let line = |bytes: &&[u8]| (COOKIE, HeaderValue::from_bytes(bytes).unwrap());
        find(&lines.iter().map(line).collect(), &["Login".to_owned(), ".ASPXAUTH".to_owned()])
    }

    #[test]
    fn a_session_cookie_is_found_whatever_its_case_and_place() {
        for line in [
            &b"Login=ABC"[..],
            b"a=b; login=ABC",
            b"LOGIN=ABC; c",
            b"x=\xff\xfe; Login=ABC",
            b"  login = ABC ;",
        ] {
            assert_eq!(found(&[line]), SessionCookies::Present, "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(found(&[b"a=b", b".aspxauth=1"]), SessionCookies::Present);
    }

    #[test]
    fn cookies_of_anonymous_visitors_are_no_session() {
        for line in [
            &b"ASP.NET_SessionId=x; __RequestVerificationToken=y; Asi.Web.Browser.CookiesEnabled=1"[..],
            b"LoginX=1; XLogin=2; Login=; Lo gin=3; ARRAffinity=Login=4",
            b"",
        ] {
            assert_eq!(found(&[line]), SessionCookies::None, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn the_same_name_twice_must_agree() {
        let contradictory = SessionCookies::Contradictory("Login".to_owned());
        assert_eq!(found(&[b"Login=A; login=A"]), SessionCookies::Present);
        assert_eq!(found(&[b"Login=A; login=B"]), contradictory);
        assert_eq!(found(&[b"Login=A", b"Login=B"]), contradictory);
    }
}
