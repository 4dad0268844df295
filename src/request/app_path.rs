//! Decides whether a path belongs to an SSO endpoint: a pure function of the path and the site's apps.
//!
//! Only the exact bytes of an endpoint's path match. Any other spelling that IIS, a client or a decoder could take for
//! such a path is `Ambiguous`. It is refused and never forwarded, so that every path has one meaning.

use std::sync::Arc;

use crate::config::App;

/// What a path is for.
#[derive(Debug)]
pub(crate) enum PathMatch<'a> {
    Endpoint(&'a Arc<App>, Endpoint),
    /// Another spelling of an endpoint's path. Holds the path that was probably intended.
    Ambiguous(String),
    /// A path of iMIS.
    Proxy,
}

/// An SSO endpoint of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The remote login URL.
    Login,
    /// The remote logout URL.
    Logout,
    /// Where the site's Single Sign-On page posts to.
    ImisCallback,
    /// Where a script of the site fetches a token for Zendesk messaging.
    MessagingToken,
}

/// Matches the path of a request target, query excluded.
pub(crate) fn match_path<'a>(apps: &'a [Arc<App>], path: &str) -> PathMatch<'a> {
    if apps.is_empty() {
        return PathMatch::Proxy;
    }
    for app in apps {
        let endpoint = match path.strip_prefix(app.path.as_str()) {
            Some("") => Endpoint::Login,
            Some("/signed-out") => Endpoint::Logout,
            Some("/imis") => Endpoint::ImisCallback,
            Some("/messaging-token") => Endpoint::MessagingToken,
            Some(_) | None => continue,
        };
        return PathMatch::Endpoint(app, endpoint);
    }
    let intended = if may_be_endpoint(apps, path) { intended_path(apps, path) } else { None };
    intended.map_or(PathMatch::Proxy, PathMatch::Ambiguous)
}

/// A fast check that excludes nearly every path of a site: `false` if `intended_path` would find nothing. Without
/// encoded or removable parts, an endpoint's path contains the last segment of the app's path, in any case.
fn may_be_endpoint(apps: &[Arc<App>], path: &str) -> bool {
    let is_plain = |bytes: &[u8]| bytes.iter().all(|byte| byte.is_ascii() && !matches!(byte, b'%' | b'('));
    let names_app = |bytes: &[u8]| {
        apps.iter().any(|app| contains(bytes, app.path.rsplit('/').next().unwrap_or_default()))
    };
    if is_plain(path.as_bytes()) {
        return names_app(path.as_bytes());
    }
    // One round of decoding makes most encoded paths plain: usually only spaces are encoded.
    let decoded = decoded(path.as_bytes());
    !is_plain(&decoded) || names_app(&decoded)
}

/// Whether `path` contains `name`, compared without case. `name` is in lower case.
fn contains(path: &[u8], name: &str) -> bool {
    let Some(first) = name.bytes().next() else { return true };
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), path).any(|at| {
        path.get(at..at + name.len()).is_some_and(|there| there.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// The endpoint path that some server could read here, after any combination of the transformations that servers make.
///
/// They percent-decode (repeatedly, including IIS's `%u002f` and overlong UTF-8), replace letters beyond ASCII by any
/// letter (Windows best fit), read `\` as `/`, ignore ASCII case (IIS), cut off path parameters and stream names,
/// remove cookieless session tokens `(S(..))` (ASP.NET), collapse slashes, resolve dots, and strip dots and spaces at
/// the end of a segment (Windows file names).
///
/// Which segment `..` removes depends on the segments that were dropped before it, and there servers differ. So in a
/// path with `..` it is enough that the segments of an endpoint's path occur in their order: no server adds or reorders
/// segments.
fn intended_path(apps: &[Arc<App>], path: &str) -> Option<String> {
    let mut bytes = path.as_bytes().to_vec();
    let mut has_dot_dot = false;
    for _ in 0..=MAX_DECODED {
        for is_strict in [true, false] {
            let reading = Reading::of(&bytes, is_strict);
            has_dot_dot |= reading.has_dot_dot;
            let mut endpoints = apps.iter().flat_map(|app| app.paths());
            let found = endpoints.find(|endpoint| reading.could_be(endpoint, has_dot_dot));
            if found.is_some() {
                return found;
            }
        }
        let decoded = decoded(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    None
}

/// The segments of a path, at one depth of decoding, as different servers read them.
struct Reading {
    segments: Vec<String>,
    /// The segments if cookieless tokens are not removed.
    literal: Vec<String>,
    /// The segments if the whole path ends at a NUL, `?`, `#` or `;`.
    cut: Vec<String>,
    /// Some segment could be read as `..`.
    has_dot_dot: bool,
}

impl Reading {
    fn of(bytes: &[u8], is_strict: bool) -> Self {
        let text: String = lenient_utf8(bytes, is_strict).into_iter().map(best_fit).collect();
        let text = text.to_ascii_lowercase();
        let ends_path = |c: char| matches!(c, '\0' | '?' | '#' | ';');
        let whole = without_cookieless(&text);
        let cut = without_cookieless(text.split(ends_path).next().unwrap_or_default());
        let has_dot_dot =
            text.split(['/', '\\']).any(|segment| segment.trim_matches(is_blank).starts_with(".."));
        Self { segments: segments(&whole), literal: segments(&text), cut: segments(&cut), has_dot_dot }
    }

    fn could_be(&self, endpoint: &str, has_dot_dot: bool) -> bool {
        let wanted: Vec<&str> = endpoint.split('/').skip(1).collect();
        let same = |segments: &[String]| {
            segments.len() == wanted.len()
                && segments.iter().zip(&wanted).all(|(segment, wanted)| is_like(segment, wanted))
        };
        let in_order = |segments: &[String]| {
            let mut segments = segments.iter();
            wanted.iter().all(|wanted| segments.any(|segment| is_like(segment, wanted)))
        };
        [&self.segments, &self.literal, &self.cut].into_iter().any(|segments| same(segments))
            || (has_dot_dot && (in_order(&self.segments) || in_order(&self.literal)))
    }
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// The segments of a path that are not empty, without parameters, stream names, and the characters that Windows strips.
fn segments(path: &str) -> Vec<String> {
    let plain = |segment: &str| {
        let name = segment.split([';', ':', '\0', '?', '#']).next().unwrap_or_default();
        name.trim_start_matches(is_blank).trim_end_matches(|c: char| c == '.' || is_blank(c)).to_owned()
    };
    path.split(['/', '\\']).map(plain).filter(|name| !name.is_empty()).collect()
}

/// Whether a segment equals `wanted`, if a letter beyond ASCII can stand for any letter.
fn is_like(segment: &str, wanted: &str) -> bool {
    let mut wanted = wanted.chars();
    segment.chars().all(|c| wanted.next().is_some_and(|wanted| c == wanted || !c.is_ascii()))
        && wanted.next().is_none()
}

/// How many times a path is percent-decoded at most.
const MAX_DECODED: usize = 6;

/// One round of percent-decoding, `%uXXXX` included.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, behind)) = rest.split_first() {
        let wide = |digits: &[u8]| {
            digits.strip_prefix(b"u").or_else(|| digits.strip_prefix(b"U")).and_then(hex::<4>)
        };
        if *byte == b'%'
            && let Some(number) = wide(behind).and_then(char::from_u32)
        {
            out.extend_from_slice(number.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &behind[5..];
        } else if *byte == b'%'
            && let Some(number) = hex::<2>(behind).and_then(|number| u8::try_from(number).ok())
        {
            out.push(number);
            rest = &behind[2..];
        } else {
            out.push(*byte);
            rest = behind;
        }
    }
    out
}

/// The number in the first `N` bytes, which are hexadecimal digits.
fn hex<const N: usize>(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.first_chunk::<N>()?;
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

/// Decodes UTF-8 as lenient decoders do: overlong sequences are accepted, and an invalid byte is a character by itself.
/// `is_strict`: each following byte must be a continuation byte. Old versions of IIS did not check that.
fn lenient_utf8(bytes: &[u8], is_strict: bool) -> Vec<char> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        let (length, start) = match first {
            0xc0..=0xdf => (1, first & 0x1f),
            0xe0..=0xef => (2, first & 0x0f),
            0xf0..=0xf7 => (3, first & 0x07),
            0xf8..=0xfb => (4, first & 0x03),
            0xfc..=0xfd => (5, first & 0x01),
            _ => (0, *first),
        };
        let continues = |byte: &u8| !is_strict || byte & 0xc0 == 0x80;
        let following = behind.get(..length).filter(|bytes| bytes.iter().all(continues));
        let number = following.map(|bytes| {
            bytes.iter().fold(u32::from(start), |number, byte| number << 6 | u32::from(byte & 0x3f))
        });
        match number.and_then(char::from_u32) {
            Some(character) => {
                out.push(character);
                rest = &behind[length..];
            }
            None => {
                out.push(char::from(*first));
                rest = behind;
            }
        }
    }
    out
}

/// The best fit of Windows code pages for the characters that structure a path. `is_like` covers letters.
fn best_fit(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => u8::try_from(u32::from(character) - 0xfee0).map_or(character, char::from),
        '\u{2215}' | '\u{2044}' | '\u{29f8}' => '/',
        '\u{2216}' | '\u{29f5}' | '\u{a5}' | '\u{20a9}' => '\\',
        '\u{2024}' | '\u{3002}' => '.',
        other => other,
    }
}

/// Removes the cookieless tokens of ASP.NET, such as `(S(..))` and `(A(..)F(..))`, at any position.
fn without_cookieless(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(open) = rest.find('(') {
        let token = rest[open..].find("))").filter(|_| {
            let mut inside = rest[open + 1..].chars();
            inside.next().is_some_and(|c| c.is_ascii_alphabetic()) && inside.next() == Some('(')
        });
        // A token lies within one segment.
        let token = token.filter(|length| !rest[open..open + length].contains(['/', '\\']));
        match token {
            Some(length) => {
                out.push_str(&rest[..open]);
                rest = &rest[open + length + 2..];
            }
            None => {
                out.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_app;

    fn kind(path: &str) -> &'static str {
        let apps = [Arc::new(test_app())];
        match match_path(&apps, path) {
            PathMatch::Endpoint(_, Endpoint::Login) => "sign-in",
            PathMatch::Endpoint(_, Endpoint::Logout) => "signed-out",
            PathMatch::Endpoint(_, Endpoint::ImisCallback) => "from-imis",
            PathMatch::Endpoint(_, Endpoint::MessagingToken) => "messaging-token",
            PathMatch::Ambiguous(_) => "ambiguous",
            PathMatch::Proxy => "proxy",
        }
    }

    #[test]
    fn exact_paths_match_endpoints() {
        assert_eq!(kind("/sso/zendesk"), "sign-in");
        assert_eq!(kind("/sso/zendesk/signed-out"), "signed-out");
        assert_eq!(kind("/sso/zendesk/imis"), "from-imis");
        assert_eq!(kind("/sso/zendesk/messaging-token"), "messaging-token");
    }

    #[test]
    fn other_spellings_of_an_endpoint_path_are_ambiguous() {
        for path in [
            "/SSO/Zendesk",
            "/sso/zendesk/",
            "//sso/zendesk",
            "/sso//zendesk",
            "/./sso/zendesk",
            "/x/../sso/zendesk",
            "/sso/%7aendesk",
            "/sso%2fzendesk",
            "/sso%252fzendesk",
            "/sso\\zendesk",
            "/sso%5czendesk",
            "/sso/zendesk.",
            "/sso/zendesk%20",
            "/sso/zendesk;a=b",
            "/sso;x/zendesk",
            "/sso/zendesk::$DATA",
            "/(S(abc))/sso/zendesk",
            "/sso/zendesk/signed-out/",
            "/sso/zendesk/Signed-Out",
            "/sso/zendesk/Messaging-Token",
            "/sso/zendesk/messaging%2dtoken",
            "/sso/zendesk%00",
            "/sso/zendesk%3f",
            "/sso/zendesk%09",
            "/sso%u002fzendesk",
            "/sso%U005Czendesk",
            "/%u0073so/zendesk",
            "/sso%25u002fzendesk",
            "/sso%c0%afzendesk",
            "/sso%c1%9czendesk",
            "/sso%e0%80%afzendesk",
            "/sso%f0%80%80%afzendesk",
            "/sso%25c0%25afzendesk",
            "/sso%c1%1czendesk",
            "/sso%f8%80%80%80%afzendesk",
            "/%c1%b3so/zendesk",
            "/sso%ef%bc%8fzendesk",
            "/sso%ef%bc%bczendesk",
            "/sso%e2%88%95zendesk",
            "/%ef%bd%93so/zendesk",
            "/%c5%bfso/zendesk",
            "/sso/zendes%e2%84%aa",
            "/sso/%252525257aendesk",
            "/sso/zendesk%a0",
            "/sso/zendesk%c2%a0",
            "/sso/zendesk%20.%20.",
            "/sso/zendesk%2e",
            "/sso./zendesk",
            "/sso%20/zendesk",
            "/%20sso/zendesk",
            "/sso/zendesk%3bx",
            "/sso/zendesk%23",
            "/sso/zendesk:$i30:$INDEX_ALLOCATION",
            "/(S(abc)F(def))/sso/zendesk",
            "/sso/(A(x))/zendesk",
            "/%28S%28abc%29%29/sso/zendesk",
            "/(S(abc))sso/zendesk",
            "/x/%2e%2e/sso/zendesk",
            "/x/..%5csso/zendesk",
            "/x\\..\\sso\\zendesk",
            "/../sso/zendesk",
            "/.../../sso/zendesk",
            "/sso/./zendesk/.",
            "/sso/x/../zendesk",
            "/sso/zendesk/signed%2dout",
            "/sso/zendesk/signed%e2%80%90out",
            "/sso/zendesk//signed-out",
            // Which segment `..` removes depends on the segments that a server drops.
            "/sso/zendesk//..",
            "/sso/zendesk\\/..",
            "/sso/zendesk/%20/..",
            "/sso/zendesk/.../..",
            "/sso/zendesk/(S(x))/..",
            "/sso/zendesk/;x/..",
            "/sso/zendesk/::$DATA/..",
            "/sso/zendesk/..%20/..",
            "/sso/zendesk/.%20/..",
            "/sso/zendesk/%20/../signed-out",
            "/sso/zendesk//..\\/signed-out",
            "/a%252fb/%2e%2e/sso/zendesk",
            "/x%5c../sso/zendesk/%20/..",
            "/sso/zendesk/%2f..",
            "/sso/zendesk/%5c..",
            "/sso/zendesk/.../%2E.",
            "/sso/zendesk/..%20",
            "/SSO/ZenDesk/..%20",
            "/sso/zendesk/%20..",
            "/sso/zendesk/..%20/(S(x))",
            "/sso/zendesk:x/%20/%2E.",
            "/sso/zendesk/a%252fb/..",
            "/sso/zendesk/a%2fb/..",
            // Within text that only looks like a token.
            "/(a(/../sso/zendesk/))/..",
            "/(S(/../sso/zendesk/x))/..",
            "/(S(/sso/zendesk/))/..",
            "/%28S%28/../sso/zendesk/%29%29/..",
            // Characters that end the path, or only the segment.
            "/sso/zendesk%3f/x",
            "/sso/zendesk%00/x",
            "/sso/zendesk%23/x",
            "/sso/zendesk;a/x",
            // Letters that a code page does not contain.
            "/sso/%c5%baendesk",
            "/%c5%9bso/zendesk",
            "/sso/ze%c5%84desk",
            "/ss%c5%8d/zen%c4%91esk",
        ] {
            assert_eq!(kind(path), "ambiguous", "{path}");
        }
    }

    #[test]
    fn ordinary_targets_of_an_imis_site_are_forwarded() {
        let targets = include_str!("../../tests/data/imis-urls.txt");
        for target in targets.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(kind(target.split('?').next().unwrap()), "proxy", "{target}");
        }
    }

    #[test]
    fn the_fast_check_excludes_no_ambiguous_path() {
        let apps = [Arc::new(test_app())];
        let pieces = [
            "/",
            "\\",
            "sso",
            "SSO",
            "zendesk",
            "ZenDesk",
            "signed-out",
            "..",
            ".",
            ";x",
            "::$DATA",
            " ",
            "%20",
            "%2f",
            "%7a",
            "(S(a))",
            "x",
            "\t",
            "%2e%2e",
            "?",
            "zen",
            "desk",
            "\u{130}",
            "%u002f",
            "%c0%af",
            "%ef%bc%8f",
            "(",
            "))",
        ];
        let mut seed = 1_u64;
        let mut found = 0;
        for _ in 0..60_000 {
            let mut path = String::from("/");
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            if let Some(intended) = intended_path(&apps, &path) {
                found += 1;
                assert!(may_be_endpoint(&apps, &path), "{path}: {intended}");
            }
        }
        assert!(found > 30, "{found}: too few to test anything");
    }

    #[test]
    fn similar_paths_are_forwarded() {
        for path in [
            "/",
            "/sso",
            "/sso/zendesk2",
            "/sso/zendesk/other",
            "/iMIS//SessionInfo/GetSessionInfoFromCookie",
            "*",
            "/iMIS/(S(abc))/Default.aspx",
            "/AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx",
            "/%",
            "/a%2fb",
            "/a/../b",
            "/sso/../zendes",
            "/zendesk/../sso",
            "/caf%c3%a9/zendesk",
        ] {
            assert_eq!(kind(path), "proxy", "{path}");
        }
    }
}
