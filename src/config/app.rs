//! One Zendesk registration: who may enter, as whom, and what Zendesk is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use url::Url;

use crate::config::claims;
use crate::config::expression::Expression;
#[cfg(any(test, feature = "fuzzing"))]
use crate::config::values;
use crate::config::{Authority, Roots, Secret};

/// One Zendesk registration.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    /// The Remote login URL's path; `<path>/signed-out` is the Remote logout URL's.
    pub(crate) path: String,
    pub(crate) zendesk: Zendesk,
    /// The first that matches decides, none refuses; absent: everybody enters whom iMIS signed in.
    pub(crate) rules: Option<Vec<Rule>>,
    /// What members read when a rule refuses them.
    pub(crate) reasons: BTreeMap<String, Reason>,
    pub(crate) claims: Claims,
    pub(crate) guards: Guards,
    pub(crate) on_behalf_of: OnBehalfOf,
    pub(crate) single_logout: SingleLogout,
    /// Present when scripts of the site may have tokens for Zendesk messaging.
    pub(crate) messaging: Option<Messaging>,
}

/// A key of Zendesk messaging.
#[derive(Debug)]
pub(crate) struct Messaging {
    /// Public: it stands in each token.
    pub(crate) key_id: String,
    pub(crate) secret: Secret,
}

/// Who may enter, one line of it.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    pub(crate) when: Expression,
    /// Of a refusal.
    pub(crate) reason: Option<String>,
}

/// What a rule does with those whom it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
}

/// Reasons for which the gateway itself refuses a member, as the log names them. A rule must use another name.
pub(super) const RESERVED_REASONS: [&str; 15] = [
    "on-behalf-of",
    "company-record",
    "inactive",
    "no-email",
    "bad-email",
    "no-name",
    "duplicate-email",
    "staff-address",
    "staff-failed",
    "rule",
    "no-rule",
    "rule-failed",
    "rate",
    "loop",
    "broken",
];

/// What a refused member reads, by language (RFC 5646, lower case).
#[derive(Debug, Clone)]
pub(crate) struct Reason {
    pub(crate) texts: Vec<(String, String)>,
}

/// What a token says beside who it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    pub(crate) named: Vec<(claims::Kind, Source)>,
    pub(crate) user_fields: Vec<(String, Source)>,
}

impl Claims {
    /// What its claims take away in Zendesk, in words.
    pub(super) fn overwriting(&self) -> impl Iterator<Item = &'static str> {
        let named = |name: &str| self.named.iter().any(|(kind, _)| kind.name() == name);
        claims::OVERWRITING.into_iter().filter(move |(name, _)| named(name)).map(|(_, what)| what)
    }
}

/// Where a claim's value comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Constant(serde_json::Value),
    Expression(Expression),
}

/// What is refused whatever the rules say.
#[derive(Debug, Clone)]
pub(crate) struct Guards {
    pub(crate) duplicate_email: OnDuplicate,
    pub(crate) refuses_companies: bool,
    pub(crate) refuses_inactive: bool,
    /// Whether people with an address of somebody of the staff are refused.
    pub(crate) refuses_staff: bool,
    /// Domains of the staff's addresses, in lower case.
    pub(crate) staff_domains: Vec<String>,
    /// Says who is staff indeed.
    pub(crate) is_staff: Option<Expression>,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            duplicate_email: OnDuplicate::Refuse,
            refuses_companies: true,
            refuses_inactive: true,
            refuses_staff: true,
            staff_domains: Vec::new(),
            is_staff: None,
        }
    }
}

/// What becomes of somebody whose e-mail address others have, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDuplicate {
    Refuse,
    Warn,
    Off,
}

impl App {
    /// Every expression that decides about this app's members.
    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let rules = self.rules.iter().flatten().map(|rule| &rule.when);
        let claims = self.claims.named.iter().map(|(_, source)| source);
        let fields = self.claims.user_fields.iter().map(|(_, source)| source);
        let claimed = claims.chain(fields).filter_map(|source| match source {
            Source::Constant(_) => None,
            Source::Expression(expression) => Some(expression),
        });
        rules.chain(claimed).chain(&self.guards.is_staff)
    }

    /// What its rules ask about that whoever opens the address can write as they like.
    pub(super) fn trusts_the_request(&self) -> Option<&'static str> {
        let rules = || self.rules.iter().flatten().map(|rule| &rule.when).chain(&self.guards.is_staff);
        ["request.brand_id", "request.locale_id"].into_iter().find(|name| rules().any(|rule| rule.asks(name)))
    }

    /// What of this app only a service account can ask iMIS about; how to do without.
    pub(super) fn needs_service_account(&self) -> Vec<&'static str> {
        let mut needs = Vec::new();
        if self.guards.duplicate_email != OnDuplicate::Off {
            needs.push("the guard against e-mail addresses that others have, too (guards: {duplicate_email: off} leaves it out)");
        }
        if self.asks_groups() {
            needs.push("a rule or claim about groups");
        }
        if self.on_behalf_of == OnBehalfOf::SignInAsContact {
            needs.push("on_behalf_of: sign_in_as_contact");
        }
        needs
    }

    /// Whether somebody's groups have to be known to decide.
    pub(crate) fn asks_groups(&self) -> bool {
        self.expressions().any(Expression::asks_groups)
    }
}

/// What becomes of somebody who is acting for another contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OnBehalfOf {
    #[default]
    Refuse,
    /// The person who is signed in enters.
    SignInAsStaff,
    /// The contact does.
    SignInAsContact,
}

/// Which sign-outs lead to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SingleLogout {
    /// A sign-out of iMIS leads through Zendesk's.
    pub(crate) from_imis: bool,
    pub(crate) from_zendesk: FromZendesk,
}

/// What a sign-out of Zendesk does about iMIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FromZendesk {
    #[default]
    Off,
    /// It is offered.
    Offer,
    /// It is done, for the person that Zendesk names.
    SignOut,
}

/// A secret of an app as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownSecret {
    pub(crate) app: String,
    /// The key of the configuration.
    pub(crate) secret: &'static str,
    pub(crate) fingerprint: String,
    /// When it was last changed, as far as its file tells; seconds since 1970.
    #[serde(skip)]
    pub(crate) changed: Option<u64>,
}

impl App {
    /// The secrets by which Zendesk knows who is in.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = ShownSecret> {
        let SharedSecret { current, next } = &self.zendesk.shared_secret;
        let which = if next.is_some() { "shared_secret.current" } else { "shared_secret" };
        let messaging = self.messaging.iter().map(|messaging| ("messaging.secret", &messaging.secret));
        let all =
            std::iter::once((which, current)).chain(next.iter().map(|next| ("shared_secret.next", next)));
        all.chain(messaging).map(|(name, secret)| ShownSecret {
            app: self.name.clone(),
            secret: name,
            fingerprint: secret.fingerprint(),
            changed: secret.changed(),
        })
    }

    /// Every path that belongs to it, whether it is used or not: the Remote logout URL's, where the site's Single Sign-On page posts to,
    /// where scripts fetch messaging tokens, and the Remote login URL's.
    pub(crate) fn paths(&self) -> [String; 4] {
        let Self { path, .. } = self;
        [
            format!("{path}/signed-out"),
            format!("{path}/imis"),
            format!("{path}/messaging-token"),
            path.clone(),
        ]
    }
}

/// The Zendesk account of an app.
#[derive(Debug)]
pub(crate) struct Zendesk {
    /// `https://{subdomain}.zendesk.com`; the default brand, where every token goes.
    pub(crate) origin: Authority,
    /// Other brands' hosts and host-mapped domains.
    pub(crate) brand_hosts: Vec<Authority>,
    pub(crate) shared_secret: SharedSecret,
    /// For the guard of its staff.
    pub(crate) api: Option<ZendeskApi>,
}

/// What tokens are signed with.
#[derive(Debug)]
pub(crate) struct SharedSecret {
    pub(crate) current: Secret,
    /// The one that Zendesk is about to have, or has had until now.
    pub(crate) next: Option<Secret>,
}

impl SharedSecret {
    /// The current one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(&self.next)
    }
}

/// The API of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZendeskApi {
    /// Ends in `/`.
    pub(crate) url: Url,
    pub(crate) roots: Roots,
    pub(crate) credentials: ZendeskCredentials,
}

/// As whom the API is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ZendeskCredentials {
    /// An OAuth client.
    Client { id: String, secret: Arc<Secret> },
    /// A user's API token; Zendesk ends them on 2027-04-30.
    Token { email: String, token: Arc<Secret> },
}

impl Zendesk {
    /// Every authority that a member may be sent back to.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Authority> {
        std::iter::once(&self.origin).chain(&self.brand_hosts)
    }
}

/// An app of no account, for tests and benchmarks of the modules that take one; none for a path that an app cannot have.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn app_at(path: &str) -> Option<App> {
    let authority = |text: &str| values::authority(text).ok();
    Some(App {
        name: "Contoso Helpdesk".to_owned(),
        path: values::app_path(path).ok()?,
        zendesk: Zendesk {
            origin: authority("contoso.zendesk.com")?,
            brand_hosts: vec![authority("contoso-events.zendesk.com")?, authority("support.contoso.org")?],
            shared_secret: SharedSecret {
                current: Secret::new("not-a-real-secret-but-a-long-one"),
                next: None,
            },
            api: None,
        },
        rules: None,
        reasons: BTreeMap::new(),
        claims: Claims::default(),
        guards: Guards::default(),
        on_behalf_of: OnBehalfOf::default(),
        single_logout: SingleLogout::default(),
        messaging: None,
    })
}

/// The one of the unit tests.
#[cfg(test)]
pub(crate) fn test_app() -> App {
    app_at("/sso/zendesk").unwrap()
}
