//! `sites[].imis`: what the gateway knows about the iMIS behind a site.

use std::sync::Arc;
use std::time::Duration;

use crate::base::phone::Region;
use url::Url;

use crate::config::recognise::{self, Method, MethodKind};
use crate::config::secret::{Secret, secret};
use crate::config::section::Value;
use crate::config::upstream::Upstream;
use crate::config::values;

/// A longer cache would let in people who have signed out.
const MAX_IDENTITY_CACHE: Duration = Duration::from_secs(60);

/// What the gateway knows about the iMIS behind a site.
#[derive(Debug, Clone)]
pub(crate) struct Imis {
    /// Base URL of `token` and `api/`; ends in `/`.
    pub(crate) api_url: Url,
    /// Path of the iMIS application.
    pub(crate) base_path: String,
    /// Path of the sign-in page, as clients see it.
    pub(crate) sign_in: String,
    /// Path of the sign-out page, as clients see it.
    pub(crate) sign_out: String,
    /// Names of session cookies, compared without case.
    pub(crate) session_cookies: Vec<String>,
    pub(crate) recognise: Vec<Method>,
    /// How long an identity is cached; zero = not at all.
    pub(crate) identity_cache: Duration,
    /// Absent only if no method needs it.
    pub(crate) service_account: Option<Arc<ServiceAccount>>,
    /// Groups that are asked for one by one; `None` = all groups of a person at once.
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) phone_order: Vec<String>,
    /// Region (ISO 3166) of numbers without a country code; `None` = such numbers are left out.
    pub(crate) phone_region: Option<Region>,
}

/// The iMIS user that reads profiles.
#[derive(Debug)]
pub(crate) struct ServiceAccount {
    pub(crate) username: String,
    pub(crate) password: Secret,
}

pub(super) fn imis(section: &Value<'_>, upstream: Option<&Upstream>) -> Option<Imis> {
    let base_path = section.parsed("base_path", values::site_path).unwrap_or_else(|| "/".to_owned());
    let page = |key| match section.given(key) {
        Some(value) => value.as_text(values::site_path).unwrap_or_default(),
        None => section.text(key, |default| Ok(format!("{}{default}", base_path.trim_end_matches('/')))),
    };
    let api_url = match section.value("api_url") {
        Some(value) => value.as_text(values::base_url),
        None => upstream.and_then(|upstream| values::base_url(&upstream.servers.first()?.to_string()).ok()),
    };
    let session_cookies = section.texts("session_cookies", values::cookie_name);
    let recognise = section.value("recognise").map(|value| recognise::methods(&value, &base_path));
    let recognise = recognise.unwrap_or_default();
    let account = section.section("service_account");
    if account.is_none() {
        for method in recognise.iter().filter(|method| method.kind.needs_service_account()) {
            section.report(format!(
                "{} tells only who the member is: a service_account has to read the profile",
                method.kind.name()
            ));
        }
    }
    let has_ticket = recognise.iter().any(|method| matches!(method.kind, MethodKind::FormsTicket(_)));
    if has_ticket && session_cookies.len() != 1 {
        section.report(
            "forms_ticket needs exactly one name in session_cookies: the cookie that holds the ticket",
        );
    }
    Some(Imis {
        sign_in: page("sign_in"),
        sign_out: page("sign_out"),
        base_path,
        session_cookies,
        recognise,
        identity_cache: section.text("identity_cache", identity_cache),
        service_account: account.and_then(|account| {
            let username = account.text("username", values::not_empty);
            let password = account.value("password").and_then(|value| secret(&value))?;
            Some(Arc::new(ServiceAccount { username, password }))
        }),
        groups: section.value("groups").map(|list| list.as_texts(values::not_empty)),
        phone_order: section.texts("phone_order", values::not_empty),
        phone_region: section.parsed("phone_region", region),
        api_url: api_url?,
    })
}

fn identity_cache(text: &str) -> Result<Duration, String> {
    let time = values::duration(text)?;
    if time > MAX_IDENTITY_CACHE { Err("must be at most 60s; null = off".to_owned()) } else { Ok(time) }
}

fn region(text: &str) -> Result<Region, String> {
    let wrong = || format!("`{text}` is not a region; write the two letters of ISO 3166, like US, CA or GB");
    Region::parse(text).ok_or_else(wrong)
}
