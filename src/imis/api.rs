//! The REST API, used as the service account or with a member's own token.

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use url::Url;

use crate::base::query::encoded;
use crate::config;
use crate::imis::client;
use crate::imis::client::ApiError;
use crate::imis::groups;
use crate::imis::groups::{GroupsError, Membership};
use crate::imis::json::Rows;
use crate::imis::party::{AccountScope, Party};
use crate::imis::party_id::PartyId;
use crate::imis::profile::PartyError;
use crate::imis::service_account::ServiceAccount;
use crate::imis::token;
use crate::imis::token::{GrantedToken, TokenError};
use crate::imis::users;
use crate::imis::users::UserError;

const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;

/// The REST API of one site.
pub(crate) struct Api {
    client: Client,
    url: Url,
    account: Option<ServiceAccount>,
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("the iMIS API")]
    Api(#[from] ApiError),
    #[error("the response of the iMIS API")]
    Party(#[from] PartyError),
}

impl ProfileError {
    /// Whether the record does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Api(ApiError::Status(StatusCode::NOT_FOUND)))
    }
}

impl Api {
    pub(super) fn new(client: Client, imis: &config::Imis) -> Self {
        let account = imis.service_account.clone();
        let account = account.map(|account| ServiceAccount::new(client.clone(), &imis.api_url, account));
        Self { client, url: imis.api_url.clone(), account }
    }

    /// A contact's record.
    pub(super) async fn party(
        &self,
        id: &PartyId,
        own: Option<&SecretString>,
    ) -> Result<Party, ProfileError> {
        let url = self.url.join(&format!("api/Party/{}", id.as_str())).map_err(|_| ApiError::Url)?;
        Ok(Party::parse(&self.get(url, own).await?)?)
    }

    /// Why the service account gets no token, as far as is known.
    pub(super) fn service_account_error(&self) -> Option<String> {
        self.account.as_ref()?.last_error()
    }

    /// The memberships of a contact in all groups, or in the given ones.
    pub(super) async fn memberships(
        &self,
        id: &PartyId,
        named: Option<&[String]>,
        today: &str,
        own: Option<&SecretString>,
    ) -> Result<Vec<Membership>, GroupsError> {
        let mut all = Vec::new();
        let which: Vec<Option<&str>> = match named {
            Some(named) => named.iter().map(|group| Some(group.as_str())).collect(),
            None => vec![None],
        };
        for group in which {
            let mut offset = 0;
            for page in 0.. {
                if page == groups::MAX_PAGES {
                    return Err(GroupsError::TooMany);
                }
                let url = groups::url(&self.url, id, group, offset)?;
                let (memberships, next) = groups::read(&self.get(url, own).await?, id, offset, today)?;
                all.extend(memberships);
                match next {
                    Some(next) => offset = next,
                    None => break,
                }
            }
        }
        Ok(all)
    }

    /// Whether another contact within `scope` has the same primary e-mail address.
    pub(super) async fn is_shared(
        &self,
        id: &PartyId,
        email: &str,
        scope: AccountScope,
        own: Option<&SecretString>,
    ) -> Result<bool, ProfileError> {
        let url = self
            .url
            .join(&format!("api/Party?email=eq:{}&limit=100", encoded(email)))
            .map_err(|_| ApiError::Url)?;
        let rows = Rows::parse(&self.get(url, own).await?).ok_or(PartyError::NotRows)?;
        let mut shared = rows.has_next();
        let mut listed = false;
        for row in rows.items() {
            let party = Party::parse(row.to_string().as_bytes())?;
            if party.id().as_ref() == Some(id) {
                listed = true;
            } else {
                shared |= party.may_have_account(email, scope);
            }
        }
        // A search that does not find the person cannot be relied upon to find others.
        if shared || listed { Ok(shared) } else { Err(PartyError::NotListed.into()) }
    }

    /// A page of records. `path` is relative to the base URL of the API.
    pub(super) async fn page(&self, path: &str) -> Result<Bytes, ApiError> {
        self.get(self.url.join(path).map_err(|_| ApiError::Url)?, None).await
    }

    /// The iMIS ID of a user.
    pub(super) async fn user_id(&self, name: &str, own: Option<&SecretString>) -> Result<PartyId, UserError> {
        let url = users::url(&self.url, name)?;
        users::id_of(name, &self.get(url, own).await?)
    }

    /// Exchanges a member's refresh token for an access token.
    pub(super) async fn exchange(
        &self,
        application: &config::ClientApplication,
        refresh_token: &str,
    ) -> Result<GrantedToken, TokenError> {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", application.client_id.as_str()),
            ("client_secret", application.client_secret.expose()),
            ("refresh_token", refresh_token),
        ];
        token::request(&self.client, token::url(&self.url), &form).await
    }

    /// GETs as the service account, which may read all contacts. Without one, uses the member's `own` token.
    async fn get(&self, url: Url, own: Option<&SecretString>) -> Result<Bytes, ApiError> {
        let response = match (&self.account, own) {
            (Some(account), _) => account.get(&self.client, url).await?,
            (None, Some(own)) => client::get(&self.client, url, own).await?,
            (None, None) => return Err(ApiError::NoAccount),
        };
        match response.status() {
            StatusCode::OK => client::json_body(response, MAX_RECORD_BYTES).await,
            other => Err(ApiError::Status(other)),
        }
    }
}
