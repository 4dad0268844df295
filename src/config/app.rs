//! `sites[].apps[]`: one Zendesk account that members sign in to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::config::claims::{self, Claims};
use crate::config::expression::{Expression, Language};
use crate::config::rules::{self, Guards, OnDuplicate, Reason, Rule};
use crate::config::secret::{Secret, SharedSecret, secret};
use crate::config::section::Value;
use crate::config::sync::{self, Sync};
use crate::config::values;
use crate::config::zendesk::{self, Zendesk, ZendeskCredentials};

/// One Zendesk account that members sign in to.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) zendesk: Zendesk,
    /// The first rule that matches decides; if none matches, the member is refused. `None`: every member may sign in.
    pub(crate) rules: Option<Vec<Rule>>,
    /// What members read when a rule refuses them.
    pub(crate) reasons: BTreeMap<String, Reason>,
    pub(crate) claims: Claims,
    pub(crate) guards: Guards,
    pub(crate) on_behalf_of: OnBehalfOf,
    /// Whether a sign-out of iMIS also signs out of Zendesk.
    pub(crate) logout_from_imis: bool,
    pub(crate) logout_from_zendesk: FromZendesk,
    /// Present if scripts of the site may fetch tokens for Zendesk messaging.
    pub(crate) messaging: Option<Messaging>,
    /// Present if `imis-gateway sync` keeps the account's users up to date.
    pub(crate) sync: Option<Sync>,
}

/// A key of Zendesk messaging.
#[derive(Debug)]
pub(crate) struct Messaging {
    /// Not secret: every token contains it.
    pub(crate) key_id: String,
    pub(crate) secret: Secret,
}

/// What to do while staff act on behalf of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OnBehalfOf {
    #[default]
    Refuse,
    /// The person who has signed in to iMIS signs in to Zendesk.
    SignInAsStaff,
    /// The contact signs in to Zendesk.
    SignInAsContact,
}

/// What a sign-out of Zendesk does about iMIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FromZendesk {
    #[default]
    Off,
    Offer,
    /// The person that Zendesk names is signed out of iMIS.
    SignOut,
}

/// A secret of an app as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownSecret {
    pub(crate) app: String,
    /// The key of the configuration.
    pub(crate) secret: &'static str,
    pub(crate) fingerprint: String,
    /// When its file was last changed, in seconds since 1970.
    #[serde(skip)]
    pub(crate) changed: Option<u64>,
}

impl App {
    /// The conditions of its rules and of the staff guard.
    fn conditions(&self) -> impl Iterator<Item = &Expression> {
        self.rules.iter().flatten().map(|rule| &rule.when).chain(&self.guards.is_staff)
    }

    /// A variable in its conditions that the person who opens the URL can set to anything.
    pub(super) fn untrusted_variable(&self) -> Option<&'static str> {
        ["request.brand_id", "request.locale_id"]
            .into_iter()
            .find(|name| self.conditions().any(|condition| condition.asks(name)))
    }

    /// The parts of this app for which only a service account can ask iMIS.
    pub(super) fn needs_service_account(&self) -> Vec<&'static str> {
        let needs = [
            (
                self.guards.duplicate_email != OnDuplicate::Off,
                "the guard against duplicate e-mail addresses (guards: {duplicate_email: off} turns it off)",
            ),
            (self.asks_groups(), "a rule or claim about groups"),
            (self.on_behalf_of == OnBehalfOf::SignInAsContact, "on_behalf_of: sign_in_as_contact"),
            (self.sync.is_some(), "sync"),
        ];
        needs.into_iter().filter_map(|(is_needed, what)| is_needed.then_some(what)).collect()
    }

    /// Whether a rule or claim needs the groups of a person.
    pub(crate) fn asks_groups(&self) -> bool {
        let organizations = self.sync.iter().filter_map(|sync| sync.organizations.external_ids.as_ref());
        self.conditions().chain(self.claims.expressions()).chain(organizations).any(Expression::asks_groups)
    }

    /// The secrets that Zendesk shares, as they may be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = ShownSecret> {
        let SharedSecret { current, next } = &self.zendesk.shared_secret;
        let current_name = if next.is_some() { "shared_secret.current" } else { "shared_secret" };
        let messaging = self.messaging.as_ref().map(|messaging| &messaging.secret);
        let all = [
            (current_name, Some(current)),
            ("shared_secret.next", next.as_ref()),
            ("messaging.secret", messaging),
        ];
        all.into_iter().filter_map(|(name, secret)| {
            let (app, fingerprint, changed) = (self.name.clone(), secret?.fingerprint(), secret?.changed);
            Some(ShownSecret { app, secret: name, fingerprint, changed })
        })
    }

    /// Every path of the app, whether it is used or not: Remote logout URL, target of the site's Single Sign-On page,
    /// messaging tokens, Remote login URL.
    pub(crate) fn paths(&self) -> [String; 4] {
        ["/signed-out", "/imis", "/messaging-token", ""].map(|end| format!("{}{end}", self.path))
    }
}

pub(super) fn apps(list: &Value<'_>) -> Vec<Arc<App>> {
    let mut seen: Vec<String> = Vec::new();
    let mut apps = Vec::new();
    for item in list.items() {
        let Some(app) = app(&item.as_section()) else { continue };
        let own = app.paths();
        if let Some(taken) = own.iter().find(|path| seen.contains(path)) {
            item.report(format!("`{taken}` already belongs to another app of this site"));
        }
        seen.extend(own);
        apps.push(Arc::new(app));
    }
    apps
}

fn app(section: &Value<'_>) -> Option<App> {
    let language = Language::new();
    let path = section.parsed("path", values::app_path);
    let zendesk = section.section("zendesk").and_then(|section| zendesk::zendesk(&section));
    let rules = section.value("rules").map(|list| rules::rules(&list, &language));
    let reasons = section.value("reasons").map(|value| rules::reasons(&value)).unwrap_or_default();
    let overwrite = section.texts("overwrite", claims::overwriting_name);
    let claims = section.value("claims").map(|value| claims::claims(&value, &overwrite, &language));
    let messaging = section.section("messaging").and_then(|section| {
        Some(Messaging {
            key_id: section.text("key_id", values::not_empty),
            secret: section.value("secret").and_then(|value| secret(&value))?,
        })
    });
    let sync = section.section("sync").and_then(|section| sync::sync(&section, &language));
    let used = |name: &String| rules.iter().flatten().any(|rule| rule.reason.as_ref() == Some(name));
    if let Some(value) = section.given("reasons") {
        for unused in reasons.keys().filter(|name| !used(name)) {
            value.report(format!("no rule has the reason `{unused}`"));
        }
    }
    let on_behalf_of = [
        ("refuse", OnBehalfOf::Refuse),
        ("sign_in_as_staff", OnBehalfOf::SignInAsStaff),
        ("sign_in_as_contact", OnBehalfOf::SignInAsContact),
    ];
    let logout = section.with_defaults("single_logout");
    let from_zendesk = [("offer", FromZendesk::Offer), ("sign_out", FromZendesk::SignOut)];
    let from_zendesk = logout.value("from_zendesk").and_then(|value| value.as_word(&from_zendesk));
    if sync.is_some()
        && let Some(zendesk) = &zendesk
        && let Some(value) = section.given("sync")
    {
        match zendesk.api.as_ref().map(|api| &api.credentials) {
            Some(ZendeskCredentials::Client { .. }) => {}
            Some(ZendeskCredentials::Token { .. }) => value.report(
                "sync needs an OAuth client (zendesk.api.client_id and client_secret): Zendesk creates no API tokens any \
                 more and disables the existing ones on 2027-04-30",
            ),
            None => value.report("sync needs an OAuth client: set zendesk.api.client_id and client_secret"),
        }
    }
    Some(App {
        name: section.text("name", values::not_empty),
        rules,
        reasons,
        claims: claims.unwrap_or_default(),
        guards: rules::guards(&section.with_defaults("guards"), &language),
        on_behalf_of: section.word("on_behalf_of", &on_behalf_of),
        logout_from_imis: logout.boolean("from_imis"),
        logout_from_zendesk: from_zendesk.unwrap_or_default(),
        messaging,
        sync,
        path: path?,
        zendesk: zendesk?,
    })
}

/// An app for tests and benchmarks of other modules; `None` for a path that an app cannot have.
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
        logout_from_imis: false,
        logout_from_zendesk: FromZendesk::default(),
        messaging: None,
        sync: None,
    })
}

/// An app for unit tests.
#[cfg(test)]
pub(crate) fn test_app() -> App {
    app_at("/sso/zendesk").unwrap()
}
