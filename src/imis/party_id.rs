//! iMIS IDs.

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
