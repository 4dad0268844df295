//! A token is minted only for a page that the browser itself is about to show.
//!
//! Browsers say what a request is for in Sec-Fetch-* (W3C Fetch Metadata); one that does not send them is let pass.

use http::{HeaderMap, HeaderValue};

use crate::sso::SignInError;

pub(super) fn require_top_level(headers: &HeaderMap) -> Result<(), SignInError> {
    let only =
        |name: &str, wanted: &[u8]| headers.get_all(name).iter().all(|value| value.as_bytes() == wanted);
    let navigation = only("sec-fetch-mode", b"navigate") && only("sec-fetch-dest", b"document");
    let ahead = ["sec-purpose", "purpose", "x-purpose", "x-moz"].into_iter().any(|name| {
        let early = |value: &HeaderValue| value.as_bytes().starts_with(b"prefetch") || value == "preview";
        headers.get_all(name).iter().any(early)
    });
    if navigation && !ahead { Ok(()) } else { Err(SignInError::NotNavigation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(lines: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        require_top_level(&headers).is_ok()
    }

    #[test]
    fn a_link_or_redirect_is_a_navigation_from_wherever_it_comes() {
        assert!(allowed(&[]));
        for site in ["none", "same-origin", "same-site", "cross-site"] {
            assert!(allowed(&[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("sec-fetch-site", site)
            ]));
        }
    }

    #[test]
    fn frames_scripts_images_and_prefetches_are_not() {
        for lines in [
            &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")][..],
            &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "object")],
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("sec-purpose", "prefetch;prerender"),
            ],
            &[("purpose", "prefetch")],
            &[("x-moz", "prefetch")],
            &[("x-purpose", "preview")],
            &[("sec-fetch-dest", "document"), ("sec-fetch-dest", "iframe")],
        ] {
            assert!(!allowed(lines), "{lines:?}");
        }
    }
}
