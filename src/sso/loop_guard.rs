//! A browser that is sent round and round is stopped, and told what was seen.
//!
//! Each way on (to the sign-in page, to iMIS's Single Sign-On page, to Zendesk) carries a small cookie that counts how often the browser has
//! been sent that way for one place to go to. Whoever is to go the same way a third time within a minute, with the count of the time
//! before, is in a circle; tabs that were opened together all come with the same count, and are not.

use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, Response, StatusCode};
use tracing::warn;

use crate::base::clock;
use crate::imis::recognise::Seen;
use crate::observe::audit::Decision;
use crate::pages::{Link, Message};
use crate::sso::return_to::{LoginParams, ReturnTo};
use crate::sso::{SsoRequest, add_cookie};

const NAME: &str = "__Host-imis-gateway-rounds";
const SECONDS: u64 = 60;
const MOST_ROUNDS: u32 = 2;

/// A way on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    SignInPage,
    SingleSignOnPage,
    Zendesk,
}

/// How often a browser has been sent each way, for one place to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rounds {
    counts: [u32; 3],
    /// When the first began, seconds since 1970.
    since: u64,
    /// Which place.
    place: u32,
}

/// What becomes of this round.
pub(super) enum Round {
    /// The cookie for the way on.
    Goes(String),
    /// A page instead.
    Stops(Box<Response<Bytes>>),
}

pub(super) fn round(request: &SsoRequest, params: &LoginParams, way: Way) -> Round {
    let target = params.sso_target(&request.app);
    let mut rounds = next(&request.headers, (way, place(&target)), clock::unix_now());
    // Whoever has clicked a link was not sent here by a page of ours that posts by itself.
    if way == Way::Zendesk && request.headers.get("sec-fetch-user").is_some_and(|value| value == "?1") {
        rounds.counts[way as usize] = 1;
    }
    if rounds.counts[way as usize] <= MOST_ROUNDS {
        let Rounds { counts: [one, two, three], since, place } = rounds;
        return Round::Goes(format!(
            "{NAME}={one}-{two}-{three}-{since}-{place:08x}; Path=/; Max-Age={SECONDS}; Secure; HttpOnly; SameSite=Lax"
        ));
    }
    let verdict = match way {
        Way::SignInPage => "You are not signed in to this site, or the cookie that says so did not arrive.",
        Way::SingleSignOnPage => "Whether you are signed in to this site, its own page did not tell.",
        Way::Zendesk => "You are signed in to this site, and were sent on to the help desk.",
    };
    let (incident, app) = (&request.incident, &request.app.name);
    let seen = Seen::of(&request.headers);
    warn!(request_id = incident, app, reason = verdict, observed = %seen, "a browser was going round in circles and has been stopped");
    request.services.metrics.decision(app, "refused", "loop");
    if request.audit_subject.signed_in.get().is_some() {
        request.services.audit.record(&Decision { reason: Some("loop"), ..request.decision("refused") });
    }
    let cookies = if seen.cookies.is_empty() { "none".to_owned() } else { seen.cookies.join(", ") };
    let return_to = params.return_to.as_ref().map(ReturnTo::as_str);
    let message = Message::new(StatusCode::FORBIDDEN, "You were going round in circles")
        .text(format!(
            "You have been sent from here to sign in, and back, three times within a minute without arriving in {app}. \
             This is mostly a matter of cookies that your browser does not keep, or of how the sites are set up."
        ))
        .detail("What was found out about you", verdict.to_owned())
        .detail("Cookies that arrived here", cookies)
        .link(Link::primary("Try again", target))
        .link(Link::new(format!("Sign in to {app} with a password instead"), crate::zendesk::password_sign_in(&request.app.zendesk, return_to)))
        .link(Link::new("Back to the site", "/"));
    let mut page = request.services.pages.message(&message, incident);
    // Whoever tries again begins at one.
    add_cookie(&mut page, DELETION);
    Round::Stops(Box::new(page))
}

/// The Set-Cookie header of whoever begins anew.
pub(super) const DELETION: &str =
    "__Host-imis-gateway-rounds=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";

fn next(headers: &HeaderMap, (way, place): (Way, u32), now: u64) -> Rounds {
    let before = before(headers)
        .filter(|before| before.place == place && before.since <= now && now - before.since < SECONDS);
    let mut rounds = before.unwrap_or(Rounds { counts: [0; 3], since: now, place });
    let count = &mut rounds.counts[way as usize];
    *count = count.saturating_add(1);
    rounds
}

fn before(headers: &HeaderMap) -> Option<Rounds> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut ours = pairs.filter_map(|pair| {
        std::str::from_utf8(pair.trim_ascii()).ok()?.strip_prefix(NAME)?.strip_prefix('=')
    });
    let mut parts = ours.next()?.split('-');
    let mut count = || parts.next()?.parse().ok();
    let counts = [count()?, count()?, count()?];
    let since = parts.next()?.parse().ok()?;
    Some(Rounds { counts, since, place: u32::from_str_radix(parts.next()?, 16).ok()? })
}

/// FNV-1a: it need tell apart only what one browser asks for within a minute.
fn place(target: &str) -> u32 {
    target.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn with(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    #[test]
    fn rounds_of_one_way_to_one_place_count_within_a_minute() {
        let count = |cookie: &str, now: u64| next(&with(cookie), (Way::Zendesk, 7), now).counts;
        assert_eq!(count("a=b", 1000), [0, 0, 1]);
        assert_eq!(count(&format!("a=b; {NAME}=1-0-1-1000-00000007"), 1030), [1, 0, 2]);
        assert_eq!(count(&format!("{NAME}=2-0-2-1000-00000007"), 1059), [2, 0, 3]);
        for fresh in [
            "0-0-2-1000-00000008",
            "0-0-2-900-00000007",
            "0-0-2-2000-00000007",
            "0-0-x-1000-00000007",
            "2-1000",
            "",
            "0-0-2-1000-zz",
        ] {
            assert_eq!(count(&format!("{NAME}={fresh}"), 1000), [0, 0, 1], "{fresh}");
        }
        assert_eq!(count(&format!("{NAME}=0-0-4294967295-1000-00000007"), 1001)[2], u32::MAX);
    }
}
