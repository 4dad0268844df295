//! Which part of the gateway a path belongs to: a pure function of the path and the site's apps.
//!
//! A path is ours only when its bytes are simply an app's path. Any other spelling that IIS, a client or a decoder
//! could take for one of our paths is `Ambiguous`: it is refused, never forwarded, so that there is one meaning a path.

use std::sync::Arc;

use crate::config::App;

/// What a path is for.
#[derive(Debug)]
pub(crate) enum PathMatch<'a> {
    Endpoint(&'a Arc<App>, Endpoint),
    /// Another spelling of an endpoint's path. Holds the path that was probably intended.
    Ambiguous(String),
    /// Everything that is not ours.
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
    if !could_be_ours(apps, path) {
        return PathMatch::Proxy;
    }
    match meant(apps, path) {
        Some(intended) => PathMatch::Ambiguous(intended),
        None => PathMatch::Proxy,
    }
}

/// Whether `meant` could find one of our paths in this one. Nearly every path of a site is told apart here, in a
/// glance: where nothing is encoded or cut out, the last name of our path has to stand in it as it is, but for case.
fn could_be_ours(apps: &[Arc<App>], path: &str) -> bool {
    let plain = |bytes: &[u8]| bytes.iter().all(|byte| byte.is_ascii() && !matches!(byte, b'%' | b'('));
    let named = |bytes: &[u8]| {
        apps.iter().any(|app| contains(bytes, app.path.rsplit('/').next().unwrap_or_default()))
    };
    if plain(path.as_bytes()) {
        return named(path.as_bytes());
    }
    // Most of what is encoded is a blank.
    let decoded = decoded(path.as_bytes());
    !plain(&decoded) || named(&decoded)
}

/// Whether `path` contains `name` (in lower case), whatever its case.
fn contains(path: &[u8], name: &str) -> bool {
    let Some(first) = name.bytes().next() else { return true };
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), path).any(|at| {
        path.get(at..at + name.len()).is_some_and(|there| there.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Which of our paths some server could read here: after every decoding and folding that servers do, in whatever order.
///
/// Percent-encoding undone (repeatedly, IIS's `%u002f` and overlong UTF-8 included), letters beyond ASCII taken for any
/// letter (Windows' best fit), `\` as `/`, ASCII case folded (IIS), path parameters and stream names cut off,
/// cookieless session tokens `(S(..))` removed (ASP.NET), slashes collapsed, dots resolved, dots and blanks at the ends
/// stripped (Windows file names).
///
/// What `..` takes away depends on what was dropped before it, and on that readers differ. So where there is one, it is
/// enough that the names of our path stand there in their order: no reader adds or reorders any.
fn meant(apps: &[Arc<App>], path: &str) -> Option<String> {
    let mut bytes = path.as_bytes().to_vec();
    let mut climbs = false;
    for _ in 0..=MAX_DECODED {
        for is_strict in [true, false] {
            let reading = Reading::of(&bytes, is_strict);
            climbs |= reading.climbs;
            for app in apps {
                for ours in app.paths() {
                    if reading.could_be(&ours, climbs) {
                        return Some(ours);
                    }
                }
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

/// The names that a path consists of, at one depth of decoding.
struct Reading {
    names: Vec<String>,
    /// The same for readers who know nothing of cookieless tokens.
    literal: Vec<String>,
    /// The same for readers for whom the path ends where something else begins.
    cut: Vec<String>,
    /// There is a `..`, or what could be read as one.
    climbs: bool,
}

impl Reading {
    fn of(bytes: &[u8], is_strict: bool) -> Self {
        let text: String = generous_utf8(bytes, is_strict).into_iter().map(best_fit).collect();
        let text = text.to_ascii_lowercase();
        let ends = |c: char| matches!(c, '\0' | '?' | '#' | ';');
        let whole = without_cookieless(&text);
        let cut = without_cookieless(text.split(ends).next().unwrap_or_default());
        let climbs = text.split(['/', '\\']).any(|segment| segment.trim_matches(is_blank).starts_with(".."));
        Self { names: names(&whole), literal: names(&text), cut: names(&cut), climbs }
    }

    fn could_be(&self, ours: &str, climbs: bool) -> bool {
        let wanted: Vec<&str> = ours.split('/').skip(1).collect();
        let same = |names: &[String]| {
            names.len() == wanted.len()
                && names.iter().zip(&wanted).all(|(name, wanted)| is_like(name, wanted))
        };
        let in_order = |names: &[String]| {
            let mut names = names.iter();
            wanted.iter().all(|wanted| names.any(|name| is_like(name, wanted)))
        };
        [&self.names, &self.literal, &self.cut].into_iter().any(|names| same(names))
            || (climbs && (in_order(&self.names) || in_order(&self.literal)))
    }
}

/// Blank, or nothing that could be seen.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// The segments that mean something, each as it is without what may be cut from it.
fn names(path: &str) -> Vec<String> {
    let plain = |segment: &str| {
        let name = segment.split([';', ':', '\0', '?', '#']).next().unwrap_or_default();
        name.trim_start_matches(is_blank).trim_end_matches(|c: char| c == '.' || is_blank(c)).to_owned()
    };
    path.split(['/', '\\']).map(plain).filter(|name| !name.is_empty()).collect()
}

/// Whether a name is one of ours, when a letter beyond ASCII may become any other.
fn is_like(name: &str, ours: &str) -> bool {
    let mut ours = ours.chars();
    name.chars().all(|c| ours.next().is_some_and(|wanted| c == wanted || !c.is_ascii()))
        && ours.next().is_none()
}

/// A path that is encoded more often than this is not one of ours.
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

/// The number that the first `N` bytes write.
fn hex<const N: usize>(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.first_chunk::<N>()?;
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

/// UTF-8 as careless decoders read it: overlong sequences mean what they spell, a byte that belongs to none is a
/// character.
/// `is_strict`: each following byte must be a continuation byte. Old versions of IIS did not check that.
fn generous_utf8(bytes: &[u8], is_strict: bool) -> Vec<char> {
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

/// What Windows' code pages make of characters that part a path; letters are seen to in `is_like`.
fn best_fit(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => u8::try_from(u32::from(character) - 0xfee0).map_or(character, char::from),
        '\u{2215}' | '\u{2044}' | '\u{29f8}' => '/',
        '\u{2216}' | '\u{29f5}' | '\u{a5}' | '\u{20a9}' => '\\',
        '\u{2024}' | '\u{3002}' => '.',
        other => other,
    }
}

/// Without ASP.NET's cookieless tokens, `(S(..))`, `(A(..)F(..))` and the like, wherever they stand.
fn without_cookieless(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(open) = rest.find('(') {
        let token = rest[open..].find("))").filter(|_| {
            let mut inside = rest[open + 1..].chars();
            inside.next().is_some_and(|c| c.is_ascii_alphabetic()) && inside.next() == Some('(')
        });
        // A token stands within one segment.
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
    fn the_exact_paths_are_ours() {
        assert_eq!(kind("/sso/zendesk"), "sign-in");
        assert_eq!(kind("/sso/zendesk/signed-out"), "signed-out");
        assert_eq!(kind("/sso/zendesk/imis"), "from-imis");
        assert_eq!(kind("/sso/zendesk/messaging-token"), "messaging-token");
    }

    #[test]
    fn another_spelling_of_our_path_is_neither_ours_nor_forwarded() {
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
            // What `..` takes away is what only some have dropped.
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
            // Hidden in what only looks like a token.
            "/(a(/../sso/zendesk/))/..",
            "/(S(/../sso/zendesk/x))/..",
            "/(S(/sso/zendesk/))/..",
            "/%28S%28/../sso/zendesk/%29%29/..",
            // The whole path ends, or only its segment.
            "/sso/zendesk%3f/x",
            "/sso/zendesk%00/x",
            "/sso/zendesk%23/x",
            "/sso/zendesk;a/x",
            // Letters that a code page has no place for.
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
    fn the_glance_never_overlooks_one_of_our_paths() {
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
        let mut ours = 0;
        for _ in 0..60_000 {
            let mut path = String::from("/");
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            if let Some(meant) = meant(&apps, &path) {
                ours += 1;
                assert!(could_be_ours(&apps, &path), "{path}: {meant}");
            }
        }
        assert!(ours > 30, "{ours}: the test has to meet some");
    }

    #[test]
    fn everything_else_is_forwarded() {
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
