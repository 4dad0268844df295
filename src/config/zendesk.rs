//! `sites[].apps[].zendesk`: the Zendesk account of an app.

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use crate::config::secret::{Secret, SharedSecret, fingerprint, secret, shared_secret};
use crate::config::section::Value;
use crate::config::values::{self, Authority, Roots};

/// The Zendesk account of an app.
#[derive(Debug)]
pub(crate) struct Zendesk {
    /// `https://{subdomain}.zendesk.com`: the default brand, which receives every token.
    pub(crate) origin: Authority,
    pub(crate) brand_hosts: Vec<Authority>,
    pub(crate) shared_secret: SharedSecret,
    pub(crate) api: Option<ZendeskApi>,
}

impl Zendesk {
    /// Every authority that a member may be sent back to.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.origin).chain(&self.brand_hosts)
    }
}

/// The API of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZendeskApi {
    /// Ends in `/`.
    pub(crate) url: Url,
    pub(crate) roots: Roots,
    pub(crate) credentials: ZendeskCredentials,
    /// Where the list of the staff is kept across restarts.
    pub(crate) staff_file: Option<PathBuf>,
}

/// How the gateway authenticates to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ZendeskCredentials {
    Client {
        id: String,
        secret: Arc<Secret>,
    },
    /// An API token of a user; Zendesk ends them on 2027-04-30.
    Token {
        email: String,
        token: Arc<Secret>,
    },
}

pub(super) fn zendesk(section: &Value<'_>) -> Option<Zendesk> {
    let subdomain = section.parsed("subdomain", values::subdomain);
    let origin = match section.value("url") {
        Some(value) => value.as_text(values::https_origin),
        None => subdomain.and_then(|name| values::authority(&format!("{name}.zendesk.com")).ok()),
    };
    let brand_hosts = section.texts("brand_hosts", values::authority);
    let shared_secret = section.value("shared_secret").and_then(|value| shared_secret(&value));
    let api = section.section("api").and_then(|section| api(&section, origin.as_ref()));
    Some(Zendesk { origin: origin?, brand_hosts, shared_secret: shared_secret?, api })
}

fn api(section: &Value<'_>, origin: Option<&Authority>) -> Option<ZendeskApi> {
    let url = match section.value("url") {
        Some(value) => value.as_text(values::base_url),
        None => origin.and_then(|origin| values::base_url(&format!("https://{origin}/")).ok()),
    };
    let roots = section.roots("ca_file");
    let text = |key| section.value(key).map(|value| value.as_text(values::not_empty));
    let secret = |key| section.value(key).map(|value| secret(&value).map(Arc::new));
    let credentials = match (text("client_id"), secret("client_secret"), text("email"), secret("token")) {
        (Some(id), Some(secret), None, None) => {
            id.zip(secret).map(|(id, secret)| ZendeskCredentials::Client { id, secret })
        }
        (None, None, Some(email), Some(token)) => {
            email.zip(token).map(|(email, token)| ZendeskCredentials::Token { email, token })
        }
        _ => {
            section.report("the API needs client_id and client_secret of an OAuth client (or, until 2027-04-30, email and token)");
            None
        }
    };
    let folder = section.value("staff_folder").and_then(|value| value.as_text(values::not_empty));
    let url = url?;
    let staff_file =
        folder.map(|folder| section.files().at(folder).join(format!("{}.json", fingerprint(url.as_str()))));
    Some(ZendeskApi { url, roots, credentials: credentials?, staff_file })
}
