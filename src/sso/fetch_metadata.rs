//! Which requests our endpoints accept, by what clients say about them: `Sec-Fetch-*` (W3C Fetch Metadata) and `Origin`
//! (RFC 6454).

use http::HeaderMap;
use http::header::ORIGIN;

/// Whether the response becomes the page in a window: not a frame, script, image or prefetch. Clients that do not send
/// Fetch Metadata are let through.
pub(super) fn is_top_level_navigation(headers: &HeaderMap) -> bool {
    let prefetches = ["sec-purpose", "purpose", "x-purpose", "x-moz"].into_iter().any(|name| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| value.as_bytes().starts_with(b"prefetch") || value == "preview")
    });
    only(headers, "sec-fetch-mode", &["navigate"])
        && only(headers, "sec-fetch-dest", &["document"])
        && !prefetches
}

/// Whether a script on a page of `origin` made the request. Clients that do not send Fetch Metadata are refused.
pub(super) fn is_same_origin_script(headers: &HeaderMap, origin: &str) -> bool {
    let required = |name: &str, allowed: &[&str]| headers.contains_key(name) && only(headers, name, allowed);
    required("sec-fetch-site", &["same-origin"])
        && required("sec-fetch-dest", &["empty"])
        && required("sec-fetch-mode", &["cors", "same-origin"])
        // Clients leave Origin out of same-origin GET requests.
        && only(headers, ORIGIN.as_str(), &[origin])
}

/// Whether a page of `origin` posted the form. Clients that send neither Fetch Metadata nor Origin are let through.
pub(super) fn is_same_origin_post(headers: &HeaderMap, origin: &str) -> bool {
    // Pages with `Referrer-Policy: no-referrer` send `Origin: null`, but so do sandboxed frames of other sites.
    let has_metadata = headers.contains_key("sec-fetch-site");
    let origins: &[&str] = if has_metadata { &[origin, "null"] } else { &[origin] };
    only(headers, "sec-fetch-site", &["same-origin"]) && only(headers, ORIGIN.as_str(), origins)
}

/// Whether each field with this name has one of the allowed values.
fn only(headers: &HeaderMap, name: &str, allowed: &[&str]) -> bool {
    headers.get_all(name).iter().all(|value| allowed.iter().any(|allowed| value == allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn navigates(fields: &[(&'static str, &str)]) -> bool {
        is_top_level_navigation(&headers(fields))
    }

    #[test]
    fn links_and_redirects_of_any_site_are_navigations() {
        assert!(navigates(&[]));
        for site in ["none", "same-origin", "same-site", "cross-site"] {
            let fields =
                [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", site)];
            assert!(navigates(&fields));
        }
    }

    #[test]
    fn frames_scripts_images_and_prefetches_are_not_navigations() {
        for fields in [
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
            assert!(!navigates(fields), "{fields:?}");
        }
    }

    #[test]
    fn only_scripts_of_the_same_origin_are_accepted() {
        let allowed = |fields: &[(&'static str, &str)]| {
            is_same_origin_script(&headers(fields), "https://members.example.org")
        };
        let own =
            [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        let with = |field| [own.as_slice(), &[field]].concat();
        assert!(allowed(&own));
        assert!(allowed(&with(("origin", "https://members.example.org"))));
        for field in [
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("origin", "http://members.example.org"),
            ("origin", "https://members.example.org.evil.example"),
        ] {
            assert!(!allowed(&with(field)), "{field:?}");
        }
        for change in [
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-dest", "script"),
        ] {
            let mut fields = own.to_vec();
            fields.retain(|(name, _)| *name != change.0);
            assert!(!allowed(&fields), "without {}", change.0);
            fields.push(change);
            assert!(!allowed(&fields), "{change:?}");
        }
    }
}
