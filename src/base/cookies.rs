//! Reads `Cookie` headers, and writes the cookies of the gateway.

use http::header::{COOKIE, HeaderMap, SET_COOKIE};
use http::{HeaderValue, Response};

/// The name and value of each cookie in all `Cookie` fields, in order. Skips pairs that are not UTF-8 or have no `=`.
///
/// Only ASCII whitespace around a pair is removed. For clients any other whitespace is part of the name, and any page
/// can set such a cookie.
pub(crate) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let fields = headers.get_all(COOKIE).iter();
    fields
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| std::str::from_utf8(pair.trim_ascii()).ok()?.split_once('='))
}

/// The value of the first cookie with this name.
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    pairs(headers).find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// The `Set-Cookie` value that stores a cookie for `max_age_seconds`. Names start with `__Host-`: no other host of the
/// domain can set or read them (RFC 6265bis section 4.1.3.2).
pub(crate) fn set(name: &str, value: &str, max_age_seconds: u64) -> String {
    format!("{name}={value}; Path=/; Max-Age={max_age_seconds}; Secure; HttpOnly; SameSite=Lax")
}

/// The `Set-Cookie` value that deletes a cookie.
pub(crate) fn delete(name: &str) -> String {
    set(name, "", 0)
}

/// Adds a `Set-Cookie` field to a response. `set_cookie` comes from `set` or `delete`.
pub(crate) fn append<B>(response: &mut Response<B>, set_cookie: &str) {
    // Names are constants and values are encoded, so the conversion cannot fail.
    if let Ok(value) = HeaderValue::try_from(set_cookie) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_from_every_field_and_unreadable_ones_are_skipped() {
        let mut headers = HeaderMap::new();
        for field in [&b"a=1; b = 2;;c; \xff=3"[..], b"a=4;\td=5=6", "\u{a0}e=7".as_bytes()] {
            headers.append(COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        let found: Vec<_> = pairs(&headers).collect();
        assert_eq!(found, [("a", "1"), ("b ", " 2"), ("a", "4"), ("d", "5=6"), ("\u{a0}e", "7")]);
        assert_eq!(value(&headers, "a"), Some("1"));
        assert_eq!(value(&headers, "e"), None);
    }
}
