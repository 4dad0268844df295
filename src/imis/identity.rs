//! Who is signed in.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;

use crate::imis::party_id::PartyId;

/// A row of a query: column names and values.
pub(crate) type Row = BTreeMap<String, Value>;

/// Who is signed in. It has no Debug because rows are personal data.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) id: PartyId,
    /// The contact on whose behalf the person acts, if the method can tell.
    pub(crate) on_behalf_of: Option<PartyId>,
    /// The row of a query that supplies the profile, too.
    pub(crate) row: Option<Row>,
    /// The person's own access token for the iMIS API.
    pub(crate) token: Option<Arc<SecretString>>,
    /// Whether the method can tell that a person acts on behalf of another.
    pub(crate) sees_on_behalf: bool,
}

impl Identity {
    pub(crate) fn of(id: PartyId) -> Self {
        Self { id, on_behalf_of: None, row: None, token: None, sees_on_behalf: false }
    }
}
