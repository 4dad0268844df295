//! Why Zendesk rejected a token.

/// The reason that Zendesk gives on the Remote logout URL with `kind=error&message=..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Clock,
    Signature,
    TokenReused,
    ExternalIdTaken,
    NotAllowed,
    InvalidRequest,
    /// An unknown message, perhaps in another language.
    Unknown,
}

/// Zendesk's messages that contain nothing variable.
const KNOWN_TEXTS: [&str; 5] = [
    "Invalid iat parameter. The supplied iat value is more than 3 minutes off, check your server clock.",
    "JWT signature invalid. The signature cannot be verified, check that your tokens match.",
    "Invalid JWT Request",
    "User is invalid: External has already been taken",
    "The unique user identifier has been reused",
];

impl Refusal {
    /// Recognises a message by words that do not change with its details.
    pub(crate) fn of(message: &str) -> Self {
        let message = message.to_lowercase();
        let has = |words: &[&str]| words.iter().all(|word| message.contains(word));
        if has(&["iat"]) && (has(&["clock"]) || has(&["minutes"])) {
            Self::Clock
        } else if has(&["signature"]) {
            Self::Signature
        } else if has(&["reused"]) || has(&["jti"]) {
            Self::TokenReused
        } else if has(&["external", "already been taken"]) {
            Self::ExternalIdTaken
        } else if has(&["not allowed", "sign up"]) {
            Self::NotAllowed
        } else if has(&["invalid jwt request"]) {
            Self::InvalidRequest
        } else {
            Self::Unknown
        }
    }

    /// Whether the text is one that Zendesk is known to send, word for word. Anybody can write another one into an
    /// address, and have it read by a member on a page of the association.
    pub(crate) fn is_known_text(text: &str) -> bool {
        KNOWN_TEXTS.contains(&text)
    }

    /// All names, in the order of the variants.
    pub(crate) const NAMES: [&str; 7] = [
        "clock",
        "signature",
        "token-reused",
        "external-id-taken",
        "not-allowed",
        "invalid-request",
        "unknown",
    ];

    /// The name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What the member reads, and what the administrator can do about it.
    pub(crate) fn advice(self) -> (&'static str, &'static str) {
        match self {
            Self::Clock => (
                MISCONFIGURED,
                "The clock of the gateway's machine differs from Zendesk's by more than 3 minutes. Set up time synchronisation (chrony, systemd-timesyncd).",
            ),
            Self::Signature => (
                MISCONFIGURED,
                "The gateway's shared secret differs from the one of this JWT configuration in Zendesk. Copy it again; a reset in Zendesk invalidates the old secret at once.",
            ),
            Self::TokenReused => (
                "This sign-in had been used already, which happens when a page is reloaded or opened twice. \
                 Just try again.",
                "A token was posted twice. If this happens to many people, something between the browser and Zendesk repeats requests.",
            ),
            Self::ExternalIdTaken => (
                "The help desk has two accounts that both look like yours. Please tell the association the incident \
                 number below, so that they can merge them.",
                "Another Zendesk user has this iMIS ID as external ID, or the user with this e-mail address has another one. Find both in Zendesk (search external_id) and merge or correct them.",
            ),
            Self::NotAllowed => (
                "The help desk does not accept people with your e-mail address. Please check the primary e-mail address in \
                 your profile on this site, or contact the association.",
                "The account's allowlist or blocklist refuses this address: Admin Center, People, Configuration, End users.",
            ),
            Self::InvalidRequest => (
                MISCONFIGURED,
                "Zendesk did not accept the request. Check that zendesk.subdomain is the account's default subdomain, and that this JWT configuration is assigned under Security.",
            ),
            Self::Unknown => (
                "The help desk did not accept the sign-in. Please try again; if that does not help, tell the association \
                 the incident number below.",
                "This version does not know Zendesk's message. Only the browser that has just tried to sign in shows it.",
            ),
        }
    }
}

const MISCONFIGURED: &str = "The help desk did not accept our confirmation. This is not your fault: the sign-in is not \
     configured correctly. Please give the association the incident number below.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_messages_are_told_apart() {
        for (message, kind) in [
            (
                "Invalid iat parameter. The supplied iat value is more than 3 minutes off, check your server clock.",
                Refusal::Clock,
            ),
            (
                "JWT signature invalid. The signature cannot be verified, check that your tokens match.",
                Refusal::Signature,
            ),
            ("Invalid JWT Request", Refusal::InvalidRequest),
            ("User is invalid: External has already been taken", Refusal::ExternalIdTaken),
            (
                "Users with the email address a@b.org are not allowed to sign up for this help desk",
                Refusal::NotAllowed,
            ),
            ("The unique user identifier has been reused", Refusal::TokenReused),
            ("La signature n'est pas", Refusal::Signature),
            ("Etwas ging schief", Refusal::Unknown),
            ("", Refusal::Unknown),
        ] {
            assert_eq!(Refusal::of(message), kind, "{message}");
        }
    }
}
