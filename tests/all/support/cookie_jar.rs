//! The cookies of one browser, for tests that need no more of one.

use http::Method;

use super::{Client, Reply, SITE};

/// Keeps what is set, and sends it again.
pub(crate) struct Jar {
    client: Client,
    cookies: Vec<(String, String)>,
}

impl Jar {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, cookies: Vec::new() }
    }

    /// With cookies that it has from before.
    pub(crate) fn with(mut self, header: &str) -> Self {
        let pairs = header.split("; ").filter_map(|pair| pair.split_once('='));
        self.cookies.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    pub(crate) fn header(&self) -> String {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    /// Loses those whose names begin with `name`.
    pub(crate) fn lose(&mut self, name: &str) {
        self.cookies.retain(|(own, _)| !own.starts_with(name));
    }

    pub(crate) fn names(&self, begin: &str) -> usize {
        self.cookies.iter().filter(|(name, _)| name.starts_with(begin)).count()
    }

    fn take(&mut self, reply: &Reply) {
        for line in reply.headers.get_all("set-cookie") {
            let cookie = cookie::Cookie::parse(line.to_str().unwrap().to_owned()).unwrap();
            if cookie.name().starts_with("__Host-") {
                assert_eq!((cookie.secure(), cookie.path(), cookie.domain()), (Some(true), Some("/"), None));
            }
            self.cookies.retain(|(name, _)| name != cookie.name());
            let gone = cookie.value().is_empty() || cookie.max_age().is_some_and(|age| !age.is_positive());
            if !gone {
                self.cookies.push((cookie.name().to_owned(), cookie.value().to_owned()));
            }
        }
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        target: &str,
        more: &[(&str, &str)],
        form: &str,
    ) -> Reply {
        let cookies = self.header();
        let mut headers = vec![("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        if !cookies.is_empty() {
            headers.push(("cookie", cookies.as_str()));
        }
        if method == Method::POST {
            headers.push(("content-type", "application/x-www-form-urlencoded"));
        }
        headers.extend(more);
        let reply = self.client.send(method, target, &headers, form.to_owned()).await;
        self.take(&reply);
        reply
    }

    pub(crate) async fn get(&mut self, target: &str) -> Reply {
        self.send(Method::GET, target, &[], "").await
    }

    /// What a page of the site posts.
    pub(crate) async fn post(&mut self, target: &str, from: &str, form: &str) -> Reply {
        let (origin, referer) = (format!("https://{SITE}"), format!("https://{SITE}{from}"));
        let headers =
            [("origin", origin.as_str()), ("referer", referer.as_str()), ("sec-fetch-site", "same-origin")];
        self.send(Method::POST, target, &headers, form).await
    }
}
