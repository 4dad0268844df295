//! iMIS as the gateway sees it: whose session a request carries, and what iMIS says about that person.
//!
//! Three answers are kept apart everywhere: nobody is signed in, this person is, or iMIS could not say.

mod client;
pub(crate) mod party;
pub(crate) mod phone;
pub(crate) mod recognise;
mod service_account;

use std::sync::Arc;

use http::HeaderMap;
use http::uri::Authority;
use rustls::ClientConfig;
use url::Url;

use crate::config;
use crate::proxy::headers::Forwarded;
use client::ApiError;
use party::{Party, PartyError, Profile};
use recognise::{RecogniseError, Recogniser, Session};
use service_account::ServiceAccount;

/// The iMIS ID of a contact: what `PartyId` holds. Letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartyId(String);

impl PartyId {
    /// `None` when the text cannot be an iMIS ID.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (plain && !text.is_empty() && text.len() <= 64).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A visitor's request, as far as recognition needs it.
pub(crate) struct Visitor<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) forwarded: &'a Forwarded,
    pub(crate) authority: &'a Authority,
}

/// The clients of one site's iMIS.
pub(crate) struct Imis {
    recogniser: Recogniser,
    api: reqwest::Client,
    api_url: Url,
    account: ServiceAccount,
    phones: phone::Preference,
    /// Path of the sign-in page as the browser sees it.
    pub(crate) sign_in: String,
    /// Path of the sign-out page as the browser sees it.
    pub(crate) sign_out: String,
}

/// Why a profile could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("the iMIS API")]
    Api(#[from] ApiError),
    #[error("the answer of the iMIS API")]
    Party(#[from] PartyError),
}

impl Imis {
    pub(crate) fn build(
        imis: &config::Imis,
        site: &config::Site,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, reqwest::Error> {
        let api = client::for_api(tls)?;
        Ok(Self {
            recogniser: Recogniser::build(imis, site, tls)?,
            account: ServiceAccount::new(api.clone(), &imis.api_url, imis.service_account.clone()),
            api,
            api_url: imis.api_url.clone(),
            phones: phone::Preference { order: imis.phone_order.clone(), region: imis.phone_region },
            sign_in: imis.sign_in.clone(),
            sign_out: imis.sign_out.clone(),
        })
    }

    /// The visitor's session; without one there is nobody to ask iMIS about.
    pub(crate) fn session<'a>(&self, visitor: &'a Visitor<'a>) -> Option<Session<'a>> {
        self.recogniser.session(visitor)
    }

    /// Who a session belongs to; `None` is nobody.
    pub(crate) async fn recognise(&self, session: &Session<'_>) -> Result<Option<PartyId>, RecogniseError> {
        self.recogniser.recognise(session).await
    }

    /// What iMIS says about a person, read now.
    pub(crate) async fn profile(&self, id: &PartyId) -> Result<Profile, ProfileError> {
        let url = self.api_url.join(&format!("api/Party/{}", id.as_str())).map_err(|_| ApiError::Url)?;
        let json = self.account.get(&self.api, url).await?;
        Ok(Party::parse(&json)?.profile(id, &self.phones)?)
    }
}
