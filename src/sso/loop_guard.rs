//! Stops redirect loops, and shows the member what was observed.
//!
//! A cookie counts how often the client was sent to each destination for one `return_to`. The third time within a
//! minute is a loop. Tabs that were opened together all send the same count, so they are not a loop.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tracing::warn;

use crate::base::{clock, cookies};
use crate::imis::recognise::RecognitionReport;
use crate::observe::audit::Decision;
use crate::pages::{Link, Message};
use crate::sso::error::SignInError;
use crate::sso::login_params::LoginParams;
use crate::sso::request::SsoRequest;

const COOKIE_NAME: &str = "__Host-imis-gateway-rounds";
const WINDOW_SECONDS: u64 = 60;
const MAX_REDIRECTS: u32 = 2;

/// Where a response of ours sends the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    SignInPage,
    SingleSignOnPage,
    Zendesk,
}

/// How often the client was sent to each destination for one login path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RedirectCounts {
    counts: [u32; 3],
    /// When the first redirect happened, in seconds since 1970.
    since: u64,
    /// Hash of the login path.
    path_hash: u32,
}

/// The response of `respond`, with the updated count; or a page that ends the loop.
pub(super) fn unless_looping(
    request: &SsoRequest,
    params: &LoginParams,
    destination: Destination,
    respond: impl FnOnce() -> Result<Response<Bytes>, SignInError>,
) -> Result<Response<Bytes>, SignInError> {
    let path = params.login_path(&request.app);
    let mut next = RedirectCounts::next(&request.headers, destination, fnv1a(&path), clock::unix_now());
    // A click is not a redirect by one of our pages.
    if destination == Destination::Zendesk
        && request.headers.get("sec-fetch-user").is_some_and(|value| value == "?1")
    {
        next.counts[destination as usize] = 1;
    }
    if next.counts[destination as usize] > MAX_REDIRECTS {
        return Ok(loop_page(request, params, destination, path));
    }
    let mut response = respond()?;
    cookies::append(&mut response, &next.cookie());
    Ok(response)
}

fn loop_page(
    request: &SsoRequest,
    params: &LoginParams,
    destination: Destination,
    path: String,
) -> Response<Bytes> {
    let verdict = match destination {
        Destination::SignInPage => {
            "You are not signed in to this site, or your session cookie did not arrive."
        }
        Destination::SingleSignOnPage => "The site's own page did not say whether you are signed in.",
        Destination::Zendesk => "You are signed in to this site, and were sent to the help desk.",
    };
    let app = &request.app.name;
    let seen = RecognitionReport::of(&request.headers);
    warn!(request_id = request.id(), app, reason = verdict, observed = %seen, "stopped a redirect loop");
    request.services.metrics.decisions.inc([app, "refused", "loop"]);
    if request.audit_subject.signed_in.get().is_some() {
        request.services.audit.record(&Decision { reason: Some("loop"), ..request.decision("refused") });
    }
    let cookies = if seen.cookies.is_empty() { "none".to_owned() } else { seen.cookies.join(", ") };
    let message = Message::new(StatusCode::FORBIDDEN, "We could not finish signing you in")
        .text(format!(
            "You were sent to the sign-in and back three times within a minute without reaching {app}. \
             Usually the browser does not keep a cookie, or one of the sites is not set up correctly."
        ))
        .detail("What we found", verdict)
        .detail("Cookies that we received", cookies)
        .link(Link::primary("Try again", path))
        .link(request.password_link(params))
        .link(request.back_to_site());
    let mut page = request.services.pages.message(&message, request.id());
    cookies::append(&mut page, &reset());
    page
}

/// The `Set-Cookie` value that starts the count again.
pub(super) fn reset() -> String {
    cookies::delete(COOKIE_NAME)
}

impl RedirectCounts {
    /// The counts of the request, plus one for `destination`. A count for another path, or an old one, starts again.
    fn next(headers: &HeaderMap, destination: Destination, path_hash: u32, now: u64) -> Self {
        let current = cookies::value(headers, COOKIE_NAME).and_then(Self::parse).filter(|counts| {
            counts.path_hash == path_hash
                && now.checked_sub(counts.since).is_some_and(|age| age < WINDOW_SECONDS)
        });
        let mut next = current.unwrap_or(Self { counts: [0; 3], since: now, path_hash });
        let count = &mut next.counts[destination as usize];
        *count = count.saturating_add(1);
        next
    }

    fn parse(value: &str) -> Option<Self> {
        let [one, two, three, since, hash] = value.split('-').collect::<Vec<_>>().try_into().ok()?;
        let counts = [one.parse().ok()?, two.parse().ok()?, three.parse().ok()?];
        Some(Self { counts, since: since.parse().ok()?, path_hash: u32::from_str_radix(hash, 16).ok()? })
    }

    fn cookie(&self) -> String {
        let Self { counts: [one, two, three], since, path_hash } = self;
        cookies::set(COOKIE_NAME, &format!("{one}-{two}-{three}-{since}-{path_hash:08x}"), WINDOW_SECONDS)
    }
}

/// FNV-1a. It only has to tell apart the paths that one client asks for within a minute.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::COOKIE;

    #[test]
    fn redirects_to_one_destination_for_one_path_count_within_a_minute() {
        let count = |cookie: &str, now: u64| {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())]);
            RedirectCounts::next(&headers, Destination::Zendesk, 7, now).counts
        };
        assert_eq!(count("a=b", 1000), [0, 0, 1]);
        assert_eq!(count(&format!("a=b; {COOKIE_NAME}=1-0-1-1000-00000007"), 1030), [1, 0, 2]);
        assert_eq!(count(&format!("{COOKIE_NAME}=2-0-2-1000-00000007"), 1059), [2, 0, 3]);
        for fresh in [
            "0-0-2-1000-00000008",
            "0-0-2-900-00000007",
            "0-0-2-2000-00000007",
            "0-0-x-1000-00000007",
            "2-1000",
            "",
            "0-0-2-1000-zz",
        ] {
            assert_eq!(count(&format!("{COOKIE_NAME}={fresh}"), 1000), [0, 0, 1], "{fresh}");
        }
        assert_eq!(count(&format!("{COOKIE_NAME}=0-0-4294967295-1000-00000007"), 1001)[2], u32::MAX);
    }
}
