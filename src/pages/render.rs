//! Renders pages from templates. Each shows the incident number, has the same strict headers, and loads nothing.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use minijinja::{Environment, Output, State, context};

use crate::base::clock;
use crate::pages::message::Message;
use crate::pages::response::{NO_REFERRER, NO_SNIFF, NO_STORE, response};

/// The compiled templates.
pub(crate) struct Pages {
    templates: Environment<'static>,
}

/// The content of the hand-off page.
pub(crate) struct HandOff<'a> {
    pub(crate) app: &'a str,
    /// Where the form is posted.
    pub(crate) action: &'a str,
    pub(crate) jwt: &'a str,
    pub(crate) return_to: Option<&'a str>,
    /// The path that mints another token.
    pub(crate) again: &'a str,
    /// Sources for the `form-action` directive.
    pub(crate) form_action: &'a str,
    pub(crate) incident: &'a str,
}

impl Pages {
    #[expect(clippy::expect_used, reason = "the templates are part of the program; every test renders them")]
    pub(crate) fn new() -> Self {
        let mut templates = Environment::new();
        templates.set_formatter(write_html);
        for (name, source) in [
            ("layout.html", include_str!("templates/layout.html")),
            ("message.html", include_str!("templates/message.html")),
            ("hand_off.html", include_str!("templates/hand_off.html")),
        ] {
            templates.add_template(name, source).expect("a built-in template compiles");
        }
        Self { templates }
    }

    pub(crate) fn message(&self, message: &Message, incident: &str) -> Response<Bytes> {
        let mut response = self.render(message.status, "message.html", "'none'", |nonce| {
            let Message { title, paragraphs, links, details, .. } = message;
            let [paragraphs, links, details] = [paragraphs, links, details].map(Clone::clone);
            context! { title, paragraphs, links, details, incident, nonce }
        });
        if let Some(seconds) = message.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    pub(crate) fn hand_off(&self, page: &HandOff<'_>) -> Response<Bytes> {
        let HandOff { app, action, jwt, return_to, again, form_action, incident } = *page;
        self.render(StatusCode::OK, "hand_off.html", form_action, |nonce| {
            let title = format!("Signing in to {app}");
            context! { title, app, action, jwt, return_to, again, incident, nonce }
        })
    }

    fn render(
        &self,
        status: StatusCode,
        template: &str,
        form_action: &str,
        values: impl FnOnce(&str) -> minijinja::Value,
    ) -> Response<Bytes> {
        // Without randomness the page has no styles and no script. It works without them.
        let nonce = clock::random_hex().unwrap_or_default();
        let html = self.templates.get_template(template).and_then(|template| template.render(values(&nonce)));
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; \
             frame-ancestors 'none'; form-action {form_action}"
        );
        let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), NO_STORE, NO_REFERRER, NO_SNIFF];
        let (Ok(html), Ok(policy)) = (html, HeaderValue::try_from(policy)) else {
            return response(StatusCode::INTERNAL_SERVER_ERROR, headers, Bytes::new());
        };
        let mut response = response(status, headers, html);
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        response
    }
}

/// Escapes a value for HTML. Unlike minijinja's own formatter it leaves `/` alone, which is harmless in text and quoted
/// attributes.
fn write_html(
    out: &mut Output<'_>,
    _state: &mut State<'_, '_>,
    value: &minijinja::Value,
) -> Result<(), minijinja::Error> {
    for character in value.to_string().chars() {
        let written = match character {
            '&' => out.write_str("&amp;"),
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '"' => out.write_str("&quot;"),
            '\'' => out.write_str("&#39;"),
            plain => out.write_char(plain),
        };
        written?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    fn html(response: Response<Bytes>) -> String {
        String::from_utf8(response.into_body().to_vec()).unwrap()
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let hostile = "<script>alert(1)</script>\" onload='x";
        let message = Message::new(StatusCode::OK, "T").detail("What Zendesk said", hostile);
        let page = html(Pages::new().message(&message, "i-1"));
        assert!(!page.contains("<script>alert"));
        assert!(!page.contains("onload='x"));
        assert!(page.contains("i-1"));
    }

    #[test]
    fn every_page_carries_the_strict_headers_and_a_nonce_of_its_own() {
        let message = Message::new(StatusCode::NOT_FOUND, "Nothing here");
        let page = || Pages::new().message(&message, "i-1");
        let policy = |response: &Response<Bytes>| {
            response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
        };
        let (one, two) = (page(), page());
        assert_ne!(policy(&one), policy(&two));
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(one.headers()[name], value);
        }
        assert!(policy(&one).contains("frame-ancestors 'none'"));
        let nonce = policy(&one).split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert_eq!(nonce.len(), 32);
        assert!(html(one).contains(&format!("nonce=\"{nonce}\"")));
    }

    #[test]
    fn the_hand_off_page_posts_the_token_and_the_place_to_go() {
        let hand_off = HandOff {
            app: "Contoso & Co",
            action: "https://contoso.zendesk.com/access/jwt",
            jwt: "a.b.c",
            return_to: Some("https://contoso.zendesk.com/hc?a=1&b=\"2\""),
            again: "/sso/zendesk?brand_id=1",
            form_action: "https://contoso.zendesk.com 'self'",
            incident: "i-1",
        };
        let response = Pages::new().hand_off(&hand_off);
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.ends_with("form-action https://contoso.zendesk.com 'self'"));
        let page = html(response);
        assert!(page.contains(
            "<button class=\"button\" type=\"submit\" autofocus>Continue to Contoso &amp; Co</button>"
        ));
        assert!(page.contains("name=\"jwt\" value=\"a.b.c\""));
        assert!(page.contains("b=&quot;2&quot;"));
    }
}
