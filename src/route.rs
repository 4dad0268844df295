//! Which part of the gateway a path belongs to: a pure function of the path and the site's apps.
//!
//! A path is ours only when its bytes are simply an app's path. Any other spelling that IIS, a browser or a decoder
//! could take for one of our paths is `Ambiguous`: it is refused, never forwarded, so that there is one meaning a path.

use std::sync::Arc;

use crate::config::App;

/// The answer. `Proxy` is everything that is not ours.
#[derive(Debug)]
pub(crate) enum Route<'a> {
    /// The Remote login URL.
    SignIn(&'a Arc<App>),
    /// The Remote logout URL.
    SignedOut(&'a Arc<App>),
    /// Another spelling of one of the two above; the path that was probably meant.
    Ambiguous(String),
    Proxy,
}

/// Routes the path of a request target, query excluded.
pub(crate) fn route<'a>(apps: &'a [Arc<App>], path: &str) -> Route<'a> {
    if apps.is_empty() {
        return Route::Proxy;
    }
    for app in apps {
        match path.strip_prefix(app.path.as_str()) {
            Some("") => return Route::SignIn(app),
            Some("/signed-out") => return Route::SignedOut(app),
            Some(_) | None => {}
        }
    }
    if !could_be_ours(apps, path) {
        return Route::Proxy;
    }
    let canonical = canonical(path);
    if apps.iter().any(|app| canonical == app.path || canonical == app.signed_out_path()) {
        return Route::Ambiguous(canonical);
    }
    Route::Proxy
}

/// Whether `canonical` could make one of our paths of this one. Nearly every path of a site is told apart here, in a
/// glance: where nothing is encoded or cut out, the last name of our path has to stand in it as it is, but for case.
fn could_be_ours(apps: &[Arc<App>], path: &str) -> bool {
    let encoded = path.bytes().any(|byte| matches!(byte, b'%' | b'(') || !byte.is_ascii());
    encoded || apps.iter().any(|app| contains(path, app.path.rsplit('/').next().unwrap_or_default()))
}

/// Whether `path` contains `name` (in lower case), whatever its case.
fn contains(path: &str, name: &str) -> bool {
    let Some(first) = name.bytes().next() else { return true };
    let (path, upper) = (path.as_bytes(), first.to_ascii_uppercase());
    memchr::memchr2_iter(first, upper, path).any(|at| {
        path.get(at..at + name.len()).is_some_and(|there| there.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// The most generous reading of a path: what it could become after every decoding and folding that servers do.
///
/// Percent-encoding undone (repeatedly, IIS's `%u002f` and overlong UTF-8 included), letters that look like ASCII taken for it
/// (Windows' best fit), `\` as `/`, ASCII case folded (IIS), path parameters and stream names cut off, cookieless session
/// tokens `(S(..))` removed (ASP.NET), slashes collapsed, dots resolved, dots and blanks at the ends stripped (Windows file
/// names).
fn canonical(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MOST_DECODED {
        let decoded = decoded(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let text: String = generous_utf8(&bytes).into_iter().map(best_fit).collect();
    let text = without_cookieless(&text.to_ascii_lowercase().replace('\\', "/"));
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        let segment = segment.split([';', ':', '\0', '?', '#']).next().unwrap_or_default();
        match segment.trim_matches(|c: char| c.is_whitespace() || c.is_control()) {
            ".." => {
                segments.pop();
            }
            other => {
                let plain = other.trim_end_matches(|c: char| c == '.' || c.is_whitespace() || c.is_control());
                if !plain.is_empty() {
                    segments.push(plain);
                }
            }
        }
    }
    format!("/{}", segments.join("/"))
}

/// Whoever encodes more often than that means nobody's path.
const MOST_DECODED: usize = 6;

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

/// UTF-8 as careless decoders read it: overlong sequences mean what they spell, a byte that belongs to none is a character.
fn generous_utf8(bytes: &[u8]) -> Vec<char> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        let (length, start) = match first {
            0xc0..=0xdf => (1, first & 0x1f),
            0xe0..=0xef => (2, first & 0x0f),
            0xf0..=0xf7 => (3, first & 0x07),
            _ => (0, *first),
        };
        let following = behind.get(..length).filter(|bytes| bytes.iter().all(|byte| byte & 0xc0 == 0x80));
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

/// The ASCII character that Windows' code pages and case folding make of another one.
fn best_fit(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => u8::try_from(u32::from(character) - 0xfee0).map_or(character, char::from),
        '\u{2215}' | '\u{2044}' | '\u{29f8}' => '/',
        '\u{2216}' | '\u{29f5}' | '\u{a5}' | '\u{20a9}' => '\\',
        '\u{2024}' | '\u{3002}' => '.',
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        '\u{2010}'..='\u{2015}' | '\u{ad}' | '\u{2212}' => '-',
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
        match route(&apps, path) {
            Route::SignIn(_) => "sign-in",
            Route::SignedOut(_) => "signed-out",
            Route::Ambiguous(_) => "ambiguous",
            Route::Proxy => "proxy",
        }
    }

    #[test]
    fn the_exact_paths_are_ours() {
        assert_eq!(kind("/sso/zendesk"), "sign-in");
        assert_eq!(kind("/sso/zendesk/signed-out"), "signed-out");
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
        ] {
            assert_eq!(kind(path), "ambiguous", "{path}");
        }
    }

    #[test]
    fn ordinary_targets_of_an_imis_site_are_forwarded() {
        let targets = include_str!("../tests/data/imis-urls.txt");
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
        for _ in 0..200_000 {
            let mut path = String::from("/");
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            let canonical = canonical(&path);
            if canonical == "/sso/zendesk" || canonical == "/sso/zendesk/signed-out" {
                ours += 1;
                assert!(could_be_ours(&apps, &path), "{path}");
            }
        }
        assert!(ours > 100, "{ours}: the test has to meet some");
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
        ] {
            assert_eq!(kind(path), "proxy", "{path}");
        }
    }
}
