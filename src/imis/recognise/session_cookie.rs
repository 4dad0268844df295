//! Session cookies of a request. Names are case-insensitive, as in ASP.NET.

use cookie::Cookie;
use http::HeaderValue;
use http::header::{COOKIE, HeaderMap};

use crate::base::clock;

/// The session cookies of a request: names as configured, and values. It has no Debug because the values are secret.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct SessionCookies(Vec<(String, String)>);

/// A request has no usable session cookie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoSession {
    /// It has no session cookie.
    None,
    /// One name has two different values; one may be planted by an attacker. Contains the configured name.
    Contradictory(String),
    /// A value has characters that iMIS could read in another way. Contains the configured name.
    Odd(String),
}

impl SessionCookies {
    /// Finds cookies with the configured names. A name may occur twice with the same value. Without
    /// configured names, every request may have a session.
    pub(crate) fn find(headers: &HeaderMap, names: &[String]) -> Result<Self, NoSession> {
        Self::among(headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes), names)
    }

    /// As `find`, in the values of Cookie headers.
    pub(super) fn among<'a>(
        lines: impl Iterator<Item = &'a [u8]>,
        names: &[String],
    ) -> Result<Self, NoSession> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in Self::all(lines, names).0 {
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(NoSession::Odd(name));
            }
            match found.iter().find(|(own, _)| *own == name) {
                Some((_, first)) if *first != value => return Err(NoSession::Contradictory(name)),
                Some(_) => {}
                None => found.push((name, value)),
            }
        }
        if found.is_empty() && !names.is_empty() { Err(NoSession::None) } else { Ok(Self(found)) }
    }

    /// All cookies with these names, including contradictory ones.
    pub(super) fn all<'a>(lines: impl Iterator<Item = &'a [u8]>, names: &[String]) -> Self {
        let lines: Vec<String> = lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let cookies = lines.iter().flat_map(|line| Cookie::split_parse(line.as_str()).flatten());
        let mut all = Vec::new();
        for cookie in cookies.filter(|cookie| !cookie.value().is_empty()) {
            let name = names.iter().find(|name| cookie.name().eq_ignore_ascii_case(name));
            all.extend(name.map(|name| (name.clone(), cookie.value().to_owned())));
        }
        Self(all)
    }

    /// Configured names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a Set-Cookie header deletes a session cookie: by an expiry in the past (RFC 6265 section 3.1), or
/// an empty value.
pub(super) fn deletes_session(set_cookie: &[u8], names: &[String]) -> bool {
    let text = String::from_utf8_lossy(set_cookie);
    let (pair, _) = text.split_once(';').unwrap_or((&text, ""));
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    if !names.iter().any(|own| own.eq_ignore_ascii_case(name.trim())) {
        return false;
    }
    // Browsers ignore an unreadable header. Here a false yes only costs one request to iMIS.
    let Ok(cookie) = Cookie::parse(text.as_ref()) else { return true };
    let now = clock::unix_now_signed();
    value.trim().is_empty()
        || cookie.max_age().is_some_and(|age| !age.is_positive())
        || cookie.expires_datetime().is_some_and(|at| at.unix_timestamp() <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["Login".to_owned(), ".ASPXAUTH".to_owned()]
    }

    fn found(lines: &[&[u8]]) -> Result<Vec<(String, String)>, NoSession> {
        let line = |bytes: &&[u8]| (COOKIE, HeaderValue::from_bytes(bytes).unwrap());
        SessionCookies::find(&lines.iter().map(line).collect(), &names()).map(|cookies| cookies.0)
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
            let one = vec![("Login".to_owned(), "ABC".to_owned())];
            assert_eq!(found(&[line]), Ok(one), "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(found(&[b"a=b", b".aspxauth=1"]), Ok(vec![(".ASPXAUTH".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn cookies_of_anonymous_visitors_are_no_session() {
        for line in [
            &b"ASP.NET_SessionId=x; __RequestVerificationToken=y; Asi.Web.Browser.CookiesEnabled=1"[..],
            b"LoginX=1; XLogin=2; Login=; Lo gin=3; ARRAffinity=Login=4",
            b"",
        ] {
            assert_eq!(found(&[line]), Err(NoSession::None), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn the_same_name_twice_must_agree() {
        let contradictory = Err(NoSession::Contradictory("Login".to_owned()));
        assert!(found(&[b"Login=A; login=A"]).is_ok());
        assert_eq!(found(&[b"Login=A; login=B"]), contradictory);
        assert_eq!(found(&[b"Login=A", b"Login=B"]), contradictory);
    }

    #[test]
    fn a_value_that_is_no_plain_text_is_no_session() {
        for line in [&b"Login=a\xffb"[..], "Login=ä".as_bytes(), b"Login=a b"] {
            assert_eq!(
                found(&[line]),
                Err(NoSession::Odd("Login".to_owned())),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn without_names_anybody_may_have_a_session() {
        let cookies = SessionCookies::among([&b"a=b"[..]].into_iter(), &[]);
        assert!(cookies.is_ok_and(|cookies| cookies.is_empty()));
    }

    #[test]
    fn a_cookie_is_deleted_by_its_time_or_by_having_nothing_in_it() {
        for line in [
            "Login=; path=/; expires=Tue, 12-Oct-1999 00:00:00 GMT; HttpOnly",
            "login=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "LOGIN=x; max-age=0",
            "Login=x; Max-Age=-1",
            "Login",
            ".ASPXAUTH=;",
        ] {
            assert!(deletes_session(line.as_bytes(), &names()), "{line}");
        }
        for line in [
            "Login=ABC; path=/; HttpOnly",
            "Login=ABC; expires=Fri, 12-Oct-2435 00:00:00 GMT",
            "Login=ABC; max-age=60",
            "LoginX=; max-age=0",
            "ASP.NET_SessionId=; expires=Tue, 12-Oct-1999 00:00:00 GMT",
            "",
        ] {
            assert!(!deletes_session(line.as_bytes(), &names()), "{line}");
        }
    }
}
