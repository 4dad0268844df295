//! The query parameters that Zendesk adds to the Remote login URL.

use url::form_urlencoded;

use crate::base::query::encoded;
use crate::config::{App, Zendesk};
use crate::sso::return_to::ReturnTo;

/// The parameters that the gateway uses. It ignores `timestamp`: tokens carry our own time.
#[derive(Debug, Default)]
pub(crate) struct LoginParams {
    pub(crate) return_to: Option<ReturnTo>,
    /// The request had a `return_to` that is not safe.
    pub(crate) return_to_dropped: bool,
    brand_id: Option<String>,
    locale_id: Option<String>,
}

impl LoginParams {
    pub(crate) fn parse(query: &str, zendesk: &Zendesk) -> Self {
        let mut params = Self::default();
        let mut seen: Option<String> = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "return_to" if !value.is_empty() => {
                    // With two different values, neither is trusted.
                    params.return_to_dropped |= seen.as_deref().is_some_and(|first| first != &*value);
                    seen = Some(value.into_owned());
                }
                "brand_id" => params.brand_id = params.brand_id.take().or_else(|| digits(&value)),
                "locale_id" => params.locale_id = params.locale_id.take().or_else(|| digits(&value)),
                _ => {}
            }
        }
        if let Some(text) = seen.filter(|_| !params.return_to_dropped) {
            params.return_to = ReturnTo::parse(&text, zendesk);
            params.return_to_dropped = params.return_to.is_none();
        }
        params
    }

    pub(crate) fn return_to(&self) -> Option<&str> {
        self.return_to.as_ref().map(ReturnTo::as_str)
    }

    pub(crate) fn brand_id(&self) -> Option<u64> {
        self.brand_id.as_deref()?.parse().ok()
    }

    pub(crate) fn locale_id(&self) -> Option<u64> {
        self.locale_id.as_deref()?.parse().ok()
    }

    /// The parameters in a path that `login_path` made.
    pub(crate) fn of_login_path(path: &str, app: &App) -> Self {
        Self::parse(path.split_once('?').map_or("", |(_, query)| query), &app.zendesk)
    }

    /// The app's SSO path with these parameters: where the member comes back to.
    pub(crate) fn login_path(&self, app: &App) -> String {
        let pairs = [
            ("brand_id", self.brand_id.as_deref()),
            ("locale_id", self.locale_id.as_deref()),
            ("return_to", self.return_to()),
        ];
        let query: Vec<String> =
            pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded((*value)?)))).collect();
        if query.is_empty() { app.path.clone() } else { format!("{}?{}", app.path, query.join("&")) }
    }
}

fn digits(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_app;

    #[test]
    fn the_path_back_carries_what_matters_encoded_once() {
        let app = test_app();
        let query = "brand_id=42&locale_id=1&return_to=https%3A%2F%2Fsupport.contoso.org%2Fhc%3Fa%3D1%26b%3D2&timestamp=1700000000";
        let target = LoginParams::parse(query, &app.zendesk).login_path(&app);
        assert_eq!(
            target,
            "/sso/zendesk?brand_id=42&locale_id=1&return_to=https%3A%2F%2Fsupport.contoso.org%2Fhc%3Fa%3D1%26b%3D2"
        );
        let again = LoginParams::parse(target.split_once('?').unwrap().1, &app.zendesk);
        assert_eq!(again.login_path(&app), target);
        assert_eq!(LoginParams::parse("", &app.zendesk).login_path(&app), "/sso/zendesk");
    }

    #[test]
    fn parameters_that_are_not_what_they_should_be_are_left_out() {
        let app = test_app();
        let params =
            LoginParams::parse("brand_id=4%0d%0a2&locale_id=en&return_to=%2F%2Fevil.example", &app.zendesk);
        assert!(params.return_to_dropped);
        assert_eq!(params.login_path(&app), "/sso/zendesk");
        let two = LoginParams::parse("return_to=%2Fhc&return_to=%2Fagent", &app.zendesk);
        assert!(two.return_to_dropped && two.return_to.is_none());
    }
}
