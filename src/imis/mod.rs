//! The client for the iMIS of one site: who a visitor is, and the profile of that person.
//!
//! A recognition has three results, which are never mixed: not signed in, signed in as a person, or an error.

pub(crate) mod api;
pub(crate) mod client;
mod error;
pub(crate) mod groups;
mod identity;
mod json;
pub(crate) mod party;
mod party_id;
pub(crate) mod profile;
pub(crate) mod recognise;
mod service_account;
pub(crate) mod contacts;
mod token;
mod users;
mod visitor;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::base::phone;
use crate::config;
use crate::upstream::servers::Servers;
use api::Api;
pub(crate) use api::ProfileError;
pub(crate) use error::{ApplicationError, BuildError};
use groups::{GroupsError, Membership};
use party::AccountScope;
pub(crate) use party_id::PartyId;
use profile::Profile;
use recognise::{
    Answer, Examined, Identity, RecogniseError, Recogniser, RecognitionCounter, Session, SessionCookies,
};
pub(crate) use token::TokenError;
pub(crate) use visitor::{DOCTOR_AGENT, Visitor, visitor_headers};

/// The iMIS of one site.
pub(crate) struct Imis {
    recogniser: Recogniser,
    api: Arc<Api>,
    phones: phone::Preference,
    columns: Option<config::ProfileColumns>,
    groups: Option<Vec<String>>,
    application: Option<Arc<config::ClientApplication>>,
    /// Path of the site's start page.
    pub(crate) home: String,
    /// Path of the sign-in page on the site.
    pub(crate) sign_in: String,
    /// Path of the sign-out page on the site.
    pub(crate) sign_out: String,
}

impl Imis {
    pub(crate) fn build(
        imis: &config::Imis,
        site: &config::Site,
        tls: &Arc<ClientConfig>,
        servers: &Arc<Servers>,
        metrics: Box<dyn RecognitionCounter>,
    ) -> Result<Self, BuildError> {
        let api = Arc::new(Api::new(client::for_api(tls)?, imis));
        let queries = imis.recognise.iter().filter_map(|method| method.kind.query());
        let applications = imis.recognise.iter().filter_map(|method| method.kind.application());
        Ok(Self {
            recogniser: Recogniser::build(imis, site, tls, servers, api.clone(), metrics)?,
            api,
            phones: phone::Preference { order: imis.phone_order.clone(), region: imis.phone_region },
            columns: queries.clone().find_map(|query| query.profile_columns.clone()),
            groups: imis.groups.clone(),
            application: applications.clone().next().cloned(),
            home: imis.base_path.clone(),
            sign_in: imis.sign_in.clone(),
            sign_out: imis.sign_out.clone(),
        })
    }

    /// The visitor's session, if there is a session cookie.
    pub(crate) fn session<'a>(&self, visitor: &'a Visitor<'a>) -> Option<Session<'a>> {
        self.recogniser.session(visitor)
    }

    /// The person whose session it is.
    pub(crate) async fn recognise(&self, session: &Session<'_>) -> Result<Answer, RecogniseError> {
        self.recogniser.recognise(session).await
    }

    /// Tries every method, for diagnosis.
    pub(crate) async fn examine(&self, visitor: &Visitor<'_>) -> Vec<Examined> {
        self.recogniser.examine(visitor).await
    }

    /// Why the service account gets no token, as far as is known.
    pub(crate) fn service_account_error(&self) -> Option<String> {
        self.api.service_account_error()
    }

    /// The client application of the site's Single Sign-On page, if that is a configured method.
    pub(crate) fn application(&self) -> Option<&Arc<config::ClientApplication>> {
        self.application.as_ref()
    }

    /// The person to whom iMIS issued a refresh token for our client application.
    pub(crate) async fn redeem(
        &self,
        application: &config::ClientApplication,
        refresh_token: &str,
    ) -> Result<Identity, ApplicationError> {
        let granted = self.api.exchange(application, refresh_token).await?;
        let name = granted.user_name.ok_or(ApplicationError::NoUserName)?;
        let id = self.api.user_id(&name, Some(&granted.access_token)).await?;
        Ok(Identity { token: Some(Arc::new(granted.access_token)), ..Identity::of(id) })
    }

    /// The current profile of `of`: the signed-in person, or the contact on whose behalf that person acts.
    pub(crate) async fn profile(&self, identity: &Identity, of: &PartyId) -> Result<Profile, ProfileError> {
        if let (Some(row), Some(columns)) = (&identity.row, &self.columns)
            && *of == identity.id
        {
            return Ok(Profile::of_row(row, columns, of, &self.phones)?);
        }
        let party = self.api.party(of, identity.token.as_deref()).await?;
        Ok(party.profile(of, &self.phones)?)
    }

    /// The current group memberships of `of`.
    pub(crate) async fn memberships(
        &self,
        identity: &Identity,
        of: &PartyId,
        today: &str,
    ) -> Result<Vec<Membership>, GroupsError> {
        self.api.memberships(of, self.groups.as_deref(), today, identity.token.as_deref()).await
    }

    /// Whether another contact within `scope` has the same primary e-mail address.
    pub(crate) async fn is_shared(
        &self,
        identity: &Identity,
        id: &PartyId,
        email: &str,
        scope: AccountScope,
    ) -> Result<bool, ProfileError> {
        self.api.is_shared(id, email, scope, identity.token.as_deref()).await
    }

    /// Reads one record of a kind (`Party`, `User`) as the service account. Returns how many records it got, 0 or 1.
    pub(crate) async fn may_read(&self, kind: &str) -> Result<usize, ProfileError> {
        let json = self.api.page(&format!("api/{kind}?limit=1")).await?;
        let rows = json::Rows::parse(&json).ok_or(profile::PartyError::NotRows)?;
        Ok(rows.items().len())
    }

    /// All contacts with what matters for e-mail addresses.
    pub(crate) async fn contacts(
        &self,
        progress: impl FnMut(usize, Option<u64>),
    ) -> Result<Vec<contacts::Contact>, ProfileError> {
        contacts::read_all(&self.api, progress).await
    }

    /// Removes sessions that have been signed out from the cache.
    pub(crate) async fn forget(&self, cookies: &SessionCookies) {
        self.recogniser.forget(cookies).await;
    }

    /// The session cookies in the values of Cookie headers.
    pub(crate) fn session_cookies<'a>(
        &self,
        lines: impl Iterator<Item = &'a [u8]>,
    ) -> Option<SessionCookies> {
        self.recogniser.session_cookies(lines)
    }

    /// Whether a Set-Cookie header deletes a session cookie.
    pub(crate) fn deletes_session(&self, set_cookie: &[u8]) -> bool {
        self.recogniser.deletes_session(set_cookie)
    }
}
