//! Which part of the gateway a path belongs to: a pure function of the path and the site's apps.
//!
//! A path is ours only when its bytes are simply an app's path. Any other spelling that IIS, a browser or a decoder
//! could take for one of our paths is `Ambiguous`: it is refused, never forwarded, so that there is one meaning a path.

use std::sync::Arc;

use percent_encoding::percent_decode;

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
/// glance: where nothing is encoded, the last name of our path has to stand in it as it is, but for case.
fn could_be_ours(apps: &[Arc<App>], path: &str) -> bool {
    let encoded = path.bytes().any(|byte| byte == b'%' || !byte.is_ascii());
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
/// Percent-encoding undone (repeatedly), `\` as `/`, ASCII case folded (IIS), path parameters and stream names cut off,
/// cookieless session segments `(S(..))` removed (ASP.NET), slashes collapsed, dots resolved, trailing dots and blanks
/// stripped (Windows file names).
fn canonical(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..4 {
        let decoded: Vec<u8> = percent_decode(&bytes).collect();
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase().replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        let segment = segment.split([';', ':', '\0', '?', '#']).next().unwrap_or_default();
        match segment {
            ".." => {
                segments.pop();
            }
            cookieless if cookieless.starts_with('(') && cookieless.ends_with("))") => {}
            other => {
                let plain = other
                    .trim_matches(|c: char| c.is_whitespace() || c.is_control())
                    .trim_end_matches(['.', ' ']);
                if !plain.is_empty() {
                    segments.push(plain);
                }
            }
        }
    }
    format!("/{}", segments.join("/"))
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
        ] {
            assert_eq!(kind(path), "ambiguous", "{path}");
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
