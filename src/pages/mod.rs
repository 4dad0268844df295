//! Every page that a member can see and that is ours. All other pages are iMIS's.
//!
//! Each carries the incident number and the same strict headers; nothing in them is loaded from anywhere.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use minijinja::{Environment, Output, State, context};

use crate::base::clock;

/// The templates, compiled.
pub(crate) struct Pages {
    templates: Environment<'static>,
}

/// A page with a few words and links.
pub(crate) struct Message {
    status: StatusCode,
    title: String,
    paragraphs: Vec<String>,
    links: Vec<Link>,
    details: Vec<(&'static str, String)>,
    retry_after: Option<u32>,
}

/// A link below the words.
pub(crate) struct Link {
    label: String,
    href: String,
    primary: bool,
}

impl Link {
    pub(crate) fn new(label: impl Into<String>, href: impl Into<String>) -> Self {
        Self { label: label.into(), href: href.into(), primary: false }
    }

    fn for_template(&self) -> minijinja::Value {
        let Self { label, href, primary } = self;
        context! { label, href, primary => *primary }
    }

    /// The one that most people want.
    pub(crate) fn primary(label: impl Into<String>, href: impl Into<String>) -> Self {
        Self { primary: true, ..Self::new(label, href) }
    }
}

impl Message {
    pub(crate) fn new(status: StatusCode, title: impl Into<String>) -> Self {
        let title = title.into();
        Self {
            status,
            title,
            paragraphs: Vec::new(),
            links: Vec::new(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    pub(crate) fn text(mut self, paragraph: impl Into<String>) -> Self {
        self.paragraphs.push(paragraph.into());
        self
    }

    pub(crate) fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// Small print, for whoever helps the member. Left out when empty.
    pub(crate) fn detail(mut self, term: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.details.push((term, text));
        }
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// What the hand-off page is made of.
pub(crate) struct HandOff<'a> {
    pub(crate) app: &'a str,
    pub(crate) action: &'a str,
    pub(crate) jwt: &'a str,
    pub(crate) return_to: Option<&'a str>,
    /// Path that mints anew.
    pub(crate) again: &'a str,
    /// The policy's list of where forms may lead.
    pub(crate) form_action: &'a str,
    pub(crate) incident: &'a str,
}

/// A redirect, never kept by anybody. `location` is made of parts that were parsed; if it still cannot be a header there
/// is none.
pub(crate) fn redirect(status: StatusCode, location: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    insert_date(headers);
    match HeaderValue::try_from(location) {
        Ok(location) => {
            headers.insert(LOCATION, location);
            *response.status_mut() = status;
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// What can be done with pages of a site, for whoever asks no further than here.
pub(crate) fn options() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    insert_date(headers);
    response
}

/// For a CA that looks whether a host is ours.
pub(crate) fn challenge(answer: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    insert_date(headers);
    response
}

/// For scripts of the site's own pages.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for_scripts(response)
}

/// The same, with nothing to say.
pub(crate) fn no_content() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for_scripts(response)
}

fn for_scripts(mut response: Response<Bytes>) -> Response<Bytes> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    insert_date(headers);
    response
}

/// What iMIS answers has its own date; what we answer has ours (RFC 9110 section 6.6.1).
fn insert_date(headers: &mut HeaderMap) {
    if let Ok(date) = HeaderValue::try_from(clock::http_date()) {
        headers.insert(DATE, date);
    }
}

/// Writes a value into HTML. `/` is left as it is, unlike by minijinja's own formatter: in quoted attributes and text it
/// means nothing, and people read these pages' source.
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
        let Message { title, paragraphs, links, details, .. } = message;
        let mut response = self.render(message.status, "message.html", "form-action 'none'", |nonce| {
            let links: Vec<_> = links.iter().map(Link::for_template).collect();
            let details: Vec<_> =
                details.iter().map(|(term, text)| context! { term => *term, text }).collect();
            context! { title, paragraphs => paragraphs.clone(), links, details, incident, nonce }
        });
        if let Some(seconds) = message.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    pub(crate) fn hand_off(&self, page: &HandOff<'_>) -> Response<Bytes> {
        let HandOff { app, action, jwt, return_to, again, form_action, incident } = *page;
        let title = format!("Signing in to {app}");
        let policy = format!("form-action {form_action}");
        self.render(StatusCode::OK, "hand_off.html", &policy, |nonce| {
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
        // Without randomness the page goes out unstyled and without its script, which it can do without.
        let nonce = clock::random_hex().unwrap_or_default();
        let html = self.templates.get_template(template).and_then(|template| template.render(values(&nonce)));
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; \
             frame-ancestors 'none'; {form_action}"
        );
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        let fixed: [(HeaderName, &str); 4] = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        insert_date(headers);
        match (html, HeaderValue::try_from(policy)) {
            (Ok(html), Ok(policy)) => {
                headers.insert(CONTENT_SECURITY_POLICY, policy);
                *response.status_mut() = status;
                *response.body_mut() = Bytes::from(html);
            }
            (Err(_), _) | (_, Err(_)) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
        response
    }
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
