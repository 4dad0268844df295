//! The REST API, used as the service account or with a member's own token.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use url::Url;

use crate::base::query::encoded;
use crate::config;
use crate::imis::client::{self, ApiError};
use crate::imis::groups::{self, GroupsError, Membership};
use crate::imis::identity::{Identity, PartyId};
use crate::imis::json::Rows;
use crate::imis::party::{AccountScope, Party};
use crate::imis::profile::PartyError;
use crate::imis::service_account::ServiceAccount;
use crate::imis::token::{self, GrantedToken, TokenError};
use crate::imis::users::{self, UserError};

const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;

/// The REST API of one site.
pub(crate) struct Api {
    client: Client,
    url: Url,
    account: Option<ServiceAccount>,
    /// The groups that are read; all without names.
    groups: Option<Vec<String>>,
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("the iMIS API")]
    Api(#[from] ApiError),
    #[error("the response of the iMIS API")]
    Party(#[from] PartyError),
}

/// A refresh token that the site's Single Sign-On page posted is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    #[error("the refresh token")]
    Token(#[from] TokenError),
    #[error("the response of the token endpoint has no user name")]
    NoUserName,
    #[error("the user name")]
    User(#[from] UserError),
}

impl ProfileError {
    /// Whether the request may succeed when it is repeated after a while.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Api(error) => error.is_transient(),
            Self::Party(error) => *error == PartyError::NotRows,
        }
    }

    /// Whether the record does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Api(ApiError::Status(StatusCode::NOT_FOUND)))
    }
}

impl Api {
    pub(super) fn new(client: Client, imis: &config::Imis) -> Self {
        let account = imis.service_account.clone();
        let account = account.map(|account| ServiceAccount::new(client.clone(), &imis.api_url, account));
        Self { client, url: imis.api_url.clone(), account, groups: imis.groups.clone() }
    }

    /// A contact's record.
    pub(super) async fn party(
        &self,
        id: &PartyId,
        own: Option<&SecretString>,
    ) -> Result<Party, ProfileError> {
        Ok(Party::parse(&self.get(&format!("api/Party/{}", id.as_str()), own).await?)?)
    }

    /// Why the service account gets no token, as far as is known.
    pub(crate) fn service_account_error(&self) -> Option<String> {
        self.account.as_ref()?.last_error()
    }

    /// The memberships of a contact in the configured groups, or in all.
    pub(crate) async fn memberships(
        &self,
        id: &PartyId,
        today: &str,
        own: Option<&SecretString>,
    ) -> Result<Vec<Membership>, GroupsError> {
        let mut all = Vec::new();
        let which: Vec<Option<&str>> = match &self.groups {
            Some(named) => named.iter().map(|group| Some(group.as_str())).collect(),
            None => vec![None],
        };
        for group in which {
            let mut offset = 0;
            for page in 0.. {
                if page == groups::MAX_PAGES {
                    return Err(GroupsError::TooMany);
                }
                let json = self.get(&groups::path(id, group, offset), own).await?;
                let (memberships, next) = groups::read(&json, id, offset, today)?;
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
    pub(crate) async fn is_shared(
        &self,
        id: &PartyId,
        email: &str,
        scope: AccountScope,
        own: Option<&SecretString>,
    ) -> Result<bool, ProfileError> {
        let path = format!("api/Party?email=eq:{}&limit=100", encoded(email));
        let rows = self.rows(&path, own).await?;
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

    /// The active persons whose primary e-mail address this is.
    pub(crate) async fn persons_with_email(&self, email: &str) -> Result<Vec<PartyId>, ProfileError> {
        let rows = self.rows(&format!("api/Party?email=eq:{}&limit=100", encoded(email)), None).await?;
        let mut ids = Vec::new();
        for row in rows.items() {
            let party = Party::parse(row.to_string().as_bytes())?;
            let scope = AccountScope { companies: false, inactive: false };
            let has_email = party.primary_email().is_some() && party.may_have_account(email, scope);
            ids.extend(party.id().filter(|_| has_email));
        }
        Ok(ids)
    }

    /// A page of contacts or users. `path` is relative to the base URL of the API.
    pub(super) async fn rows(&self, path: &str, own: Option<&SecretString>) -> Result<Rows, ProfileError> {
        Ok(Rows::parse(&self.get(path, own).await?).ok_or(PartyError::NotRows)?)
    }

    /// Whether the service account reads records of other people. `kind` is `Party` or `User`. Without the roles, lists
    /// have only its own record, or it may not read all that a list has.
    pub(crate) async fn reads_others(&self, kind: &str) -> Result<bool, ProfileError> {
        let rows = self.rows(&format!("api/{kind}?limit=2"), None).await?;
        for row in rows.items() {
            if let Some(id) = row["PartyId"].as_str().and_then(PartyId::parse) {
                self.get(&format!("api/Party/{}", id.as_str()), None).await?;
            }
        }
        Ok(rows.items().len() > 1)
    }

    /// The iMIS ID of a user.
    pub(super) async fn user_id(&self, name: &str, own: Option<&SecretString>) -> Result<PartyId, UserError> {
        users::id_of(name, &self.get(&users::path(name), own).await?)
    }

    /// The person to whom iMIS issued a refresh token for our client application.
    pub(crate) async fn redeem(
        &self,
        application: &config::ClientApplication,
        refresh_token: &str,
    ) -> Result<Identity, ApplicationError> {
        let granted = self.request_token(application, refresh_token).await?;
        let name = granted.user_name.ok_or(ApplicationError::NoUserName)?;
        let id = self.user_id(&name, Some(&granted.access_token)).await?;
        Ok(Identity { token: Some(Arc::new(granted.access_token)), ..Identity::of(id) })
    }

    /// Whether the token endpoint accepts the client ID and secret of our client application. It is asked to redeem a
    /// refresh token that does not exist, and checks the client first.
    pub(crate) async fn accepts_client(
        &self,
        application: &config::ClientApplication,
    ) -> Result<(), TokenError> {
        match self.request_token(application, "imis-gateway-doctor").await {
            Ok(_) | Err(TokenError::Grant(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn request_token(
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
    async fn get(&self, path: &str, own: Option<&SecretString>) -> Result<Bytes, ApiError> {
        let url = self.url.join(path).map_err(|_| ApiError::Url)?;
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
