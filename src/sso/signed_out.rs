//! The Remote logout URL: a good-bye, or what Zendesk says went wrong. It never signs anybody out of iMIS.

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::{info, warn};
use url::form_urlencoded;

use super::Visit;
use super::return_to::Arrival;
use crate::pages::{Link, Message};
use crate::zendesk::Refusal;

/// A message that is longer was not written by Zendesk.
const MOST_MESSAGE_CHARACTERS: usize = 500;

pub(crate) fn signed_out(visit: &Visit) -> Response<Bytes> {
    let parameter = |wanted: &str| {
        form_urlencoded::parse(visit.query.as_bytes())
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    let arrival = Arrival::parse(&visit.query, &visit.app.zendesk);
    let again = arrival.sso_target(&visit.app);
    let (app, incident) = (&visit.app.name, &visit.incident);
    let message = if parameter("kind").as_deref() == Some("error") {
        let raw: String =
            parameter("message").unwrap_or_default().chars().take(MOST_MESSAGE_CHARACTERS).collect();
        let refusal = Refusal::of(&raw);
        // The text itself may name an e-mail address and may come from anybody; its kind says enough.
        warn!(incident, app, kind = refusal.name(), "Zendesk refused a sign-in");
        Message::new(StatusCode::OK, format!("{app} could not sign you in"))
            .text(refusal.for_member())
            .detail("What Zendesk said", raw)
            .detail("For the administrator", refusal.for_administrator())
            .link(Link::primary("Try again", again))
            .link(Link::new("Back to the site", "/"))
    } else {
        info!(incident, app, "signed out of Zendesk");
        Message::new(StatusCode::OK, format!("You are signed out of {app}"))
            .text("Whether you are signed in to this site has not changed.")
            .link(Link::primary(format!("Sign in to {app} again"), again))
            .link(Link::new("Back to the site", "/"))
    };
    visit.gateway.pages.message(&message, incident)
}
