//! What is known of the iMIS behind a site, and by which methods its members are.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::config::Secret;
use crate::config::machine_keys::MachineKeys;

/// What is known of the iMIS behind a site.
#[derive(Debug, Clone)]
pub(crate) struct Imis {
    /// Where `token` and `api/` live; ends in `/`.
    pub(crate) api_url: Url,
    /// Path of the sign-in page as the browser sees it.
    pub(crate) sign_in: String,
    /// Path of the sign-out page as the browser sees it.
    pub(crate) sign_out: String,
    /// Names of session cookies, compared without case.
    pub(crate) session_cookies: Vec<String>,
    /// By which methods members are known; at least one.
    pub(crate) recognise: Vec<Method>,
    /// How long somebody's identity is remembered; zero is not at all.
    pub(crate) identity_cache: Duration,
    /// Absent only when no method needs it.
    pub(crate) service_account: Option<Arc<ServiceAccount>>,
    /// Groups that are asked about one by one; none = all of a person's at once.
    pub(crate) groups: Option<Vec<String>>,
    /// Phone types in the order in which they are taken.
    pub(crate) phone_order: Vec<String>,
    /// Region (ISO 3166) that numbers without a country code belong to; none = such numbers are left out.
    pub(crate) phone_region: Option<phonenumber::country::Id>,
}

/// A way to know who a visitor is.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) how: How,
    pub(crate) on_error: OnError,
}

/// What happens when a method cannot say who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// The next one is asked; after the last one nobody is signed in.
    Next,
    /// Nobody is signed in.
    Stop,
}

/// See docs/recognising-members.md.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// By the hidden field `__ClientContext` of a page.
    ClientContext {
        /// Path (and query) of the page that is asked for, as on the site.
        page: String,
    },
    WhoamiQuery(Arc<WhoamiQuery>),
    LoginStatusRedirect {
        /// Path of LoginStatusRedirect.aspx.
        page: String,
    },
    FormsTicket(Arc<FormsTicket>),
    ClientApplication(Arc<ClientApplication>),
}

impl How {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::ClientContext { .. } => "client_context",
            Self::WhoamiQuery(_) => "whoami_query",
            Self::LoginStatusRedirect { .. } => "login_status_redirect",
            Self::FormsTicket(_) => "forms_ticket",
            Self::ClientApplication(_) => "client_application",
        }
    }

    pub(crate) fn query(&self) -> Option<&Arc<WhoamiQuery>> {
        if let Self::WhoamiQuery(query) = self { Some(query) } else { None }
    }

    pub(crate) fn application(&self) -> Option<&Arc<ClientApplication>> {
        if let Self::ClientApplication(application) = self { Some(application) } else { None }
    }

    /// Whether somebody else has to read the profile.
    pub(super) fn needs_service_account(&self) -> bool {
        match self {
            Self::ClientContext { .. } | Self::LoginStatusRedirect { .. } | Self::FormsTicket(_) => true,
            Self::WhoamiQuery(query) => query.columns.profile.is_none(),
            // The member's own token may read the member's own record.
            Self::ClientApplication(_) => false,
        }
    }
}

/// A stored query (IQA) that is filtered on whoever is signed in.
#[derive(Debug)]
pub(crate) struct WhoamiQuery {
    /// A RiSE page, for its anti-forgery token.
    pub(crate) page: String,
    /// `$/Folder/Name`.
    pub(crate) query: String,
    /// Path of `api/query` or `api/iqa` as on the site.
    pub(crate) endpoint: String,
    pub(crate) columns: Columns,
}

/// Which columns of a query mean what.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The iMIS ID.
    pub(crate) id: String,
    /// When the profile is made of the query, too.
    pub(crate) profile: Option<ProfileColumns>,
}

/// The columns of a profile.
#[derive(Debug, Clone)]
pub(crate) struct ProfileColumns {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) phone: Option<String>,
    /// None: the query leaves out who is not active.
    pub(crate) status: Option<String>,
    /// None: the query leaves out what is no person.
    pub(crate) company: Option<String>,
}

/// What it takes to open ASP.NET's forms authentication ticket.
#[derive(Debug)]
pub(crate) struct FormsTicket {
    pub(crate) keys: MachineKeys,
    /// Path that tells whether the session lives; none = it is not asked about.
    pub(crate) session_info: Option<String>,
}

/// A client application of iMIS, with the page that posts refresh tokens for it.
#[derive(Debug)]
pub(crate) struct ClientApplication {
    /// The page with the Single Sign-On content item.
    pub(crate) page: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
}

/// The iMIS user that reads profiles.
#[derive(Debug)]
pub(crate) struct ServiceAccount {
    pub(crate) username: String,
    pub(crate) password: Secret,
}
