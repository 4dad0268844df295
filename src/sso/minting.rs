//! Minting by itself, for its benchmark: nothing of it is in the program, and no token leaves it.

use crate::base::phone::Preference;
use crate::config::Secret;
use crate::config::expression::Language;
use crate::imis::PartyId;
use crate::imis::party::Party;
use crate::imis::recognise::Identity;
use crate::sso::decision::Trace;
use crate::sso::return_to::LoginParams;
use crate::sso::{facts, policy, token};

/// All that a token is minted of but time and chance, for the benchmark of minting. No token leaves it.
pub(crate) struct Minting {
    permit: policy::Permit,
    secret: Secret,
}

impl Minting {
    /// Of a record as the REST API gives it, and a secret of no account.
    pub(crate) fn of(id: &str, record: &[u8]) -> Option<Self> {
        let id = PartyId::parse(id)?;
        let profile = Party::parse(record).ok()?.profile(&id, &Preference::default()).ok()?;
        let app = crate::config::app_at("/sso/zendesk")?;
        let identity = Identity::of(id);
        let facts = facts::of(&profile, (&identity, &app, &LoginParams::default()), &[], "2026-11-27");
        let permit =
            policy::authorize(profile, &app, (&Language::new(), &facts), &mut Trace::disabled()).ok()?;
        Some(Self { permit, secret: Secret::new("not-a-real-secret-but-a-long-one") })
    }

    /// Mints, and tells how long the token is.
    pub(crate) fn token_length(&self, now: u64, jti: &str) -> Option<usize> {
        token::mint(&self.secret, &self.permit, now, jti).ok().map(|token| token.expose().len())
    }
}
