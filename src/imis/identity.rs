//! Who is signed in, as a method of recognition has found out.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;

use crate::imis::party_id::PartyId;

/// One row of a query, by the names of its columns.
pub(crate) type Row = BTreeMap<String, Value>;

/// Who is signed in. No Debug: a row is personal.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) id: PartyId,
    /// The contact for whom the person is acting, where the method can tell.
    pub(crate) on_behalf_of: Option<PartyId>,
    /// What a query says of the person, when the profile is to be made of that.
    pub(crate) row: Option<Row>,
    /// The person's own access token, when there is one.
    pub(crate) token: Option<Arc<SecretString>>,
    /// Whether the method would have told if the person acted for another.
    pub(crate) sees_on_behalf: bool,
}

impl Identity {
    pub(crate) fn of(id: PartyId) -> Self {
        Self { id, on_behalf_of: None, row: None, token: None, sees_on_behalf: false }
    }
}
