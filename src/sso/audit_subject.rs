//! What a request has found out about the person so far, for the audit record.

use std::sync::OnceLock;

use crate::imis::PartyId;

/// Each value is set at most once: a request belongs to one person.
#[derive(Default)]
pub(crate) struct AuditSubject {
    /// Who is signed in to iMIS.
    pub(super) signed_in: OnceLock<PartyId>,
    /// Whose profile the token describes: the person, or the contact that the person acts for.
    pub(super) subject: OnceLock<PartyId>,
    /// The primary e-mail address as iMIS has it.
    pub(super) email: OnceLock<String>,
}
