//! Who is signed in: iMIS IDs, and the identity that recognition finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;

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

/// The iMIS ID of a contact: what `PartyId` holds. Letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartyId(String);

impl PartyId {
    /// `None` when the text cannot be an iMIS ID.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (plain && !text.is_empty() && text.len() <= 64).then(|| Self(text.to_owned()))
    }

    /// Whether this is the user as whom iMIS runs the requests of anonymous visitors.
    pub(crate) fn is_guest(&self) -> bool {
        self.0.eq_ignore_ascii_case("GUEST")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
