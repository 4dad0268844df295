//! The client for the iMIS of one site: who a visitor is, and the profile of that person.
//!
//! A recognition has three results, which are never mixed: not signed in, signed in as a person, or an error.

pub(crate) mod api;
pub(crate) mod client;
pub(crate) mod groups;
mod identity;
mod json;
pub(crate) mod party;
pub(crate) mod profile;
pub(crate) mod recognise;
mod service_account;
pub(crate) mod contacts;
pub(crate) mod listing;
mod token;
mod users;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::base::phone;
use crate::config;
use crate::observe::metrics::Metrics;
use crate::upstream::servers::Servers;
use api::Api;
pub(crate) use api::{ApplicationError, ProfileError};
pub(crate) use identity::PartyId;
use profile::Profile;
pub(crate) use recognise::BuildError;
pub(crate) use recognise::{DOCTOR_AGENT, Visitor, visitor_headers};
use recognise::{Identity, Recognition};
pub(crate) use token::TokenError;

/// The iMIS of one site.
pub(crate) struct Imis {
    pub(crate) recognition: Recognition,
    pub(crate) api: Arc<Api>,
    phones: phone::Preference,
    columns: Option<config::ProfileColumns>,
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
        metrics: Metrics,
    ) -> Result<Self, BuildError> {
        let api = Arc::new(Api::new(client::for_api(tls)?, imis));
        let mut queries = imis.recognise.iter().filter_map(|method| method.kind.query());
        Ok(Self {
            recognition: Recognition::build(imis, site, tls, servers, api.clone(), metrics)?,
            api,
            phones: phone::Preference { order: imis.phone_order.clone(), region: imis.phone_region },
            columns: queries.find_map(|query| query.profile_columns.clone()),
            home: imis.base_path.clone(),
            sign_in: imis.sign_in.clone(),
            sign_out: imis.sign_out.clone(),
        })
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
}
