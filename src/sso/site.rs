//! What sign-ins work with: the services that all sites share, and the apps of one site.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::App;
use crate::config::expression::Language;
use crate::imis::Imis;
use crate::observe::audit::Audit;
use crate::observe::metrics::Metrics;
use crate::pages::Pages;
use crate::sso::rate_limit::RateLimits;
use crate::sso::state_cookie::StateCookies;
use crate::zendesk::staff::Staff;

/// What the sign-ins of all sites share.
pub(crate) struct Services {
    pub(crate) pages: Arc<Pages>,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Audit,
    /// How many sign-ins one network or person may start.
    pub(crate) rates: Arc<RateLimits>,
    /// How many messaging tokens one network or person may request. Every page of the site may request
    /// one, so they do not count as sign-ins.
    pub(crate) messaging_rates: Arc<RateLimits>,
    /// The language of rules and claims.
    pub(crate) language: Language,
}

/// The apps of one site, with the client of the iMIS that knows their members.
pub(crate) struct SignOn {
    /// Host names of the site, the main one first.
    pub(crate) hosts: Vec<String>,
    pub(crate) imis: Imis,
    /// Issues and verifies state parameters.
    pub(crate) states: StateCookies,
    pub(crate) apps: Vec<Arc<App>>,
    /// The staff of the Zendesk accounts, by the apps' paths.
    pub(crate) staff: HashMap<String, Arc<Staff>>,
    /// Limits how many sign-ins run at a time. A sign-in that gets no permit in time is answered 503.
    pub(crate) sign_in_permits: Arc<Semaphore>,
}
