//! `sites[].imis.recognise`: how to recognise the members of a site, in order (docs/recognising-members.md).

use std::sync::Arc;

use crate::config::machine_keys::{COMPATIBILITY_MODE, MachineKeys, VALIDATION, hexadecimal};
use crate::config::secret::{Secret, secret};
use crate::config::section::Value;
use crate::config::values;

const LOGIN_STATUS: &str = "AsiCommon/Controls/Shared/FormsAuthentication/LoginStatusRedirect.aspx";

/// A method to recognise members.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) kind: MethodKind,
    /// Whether no other method is tried if this one fails.
    pub(crate) stops_on_error: bool,
}

/// How a method recognises members.
#[derive(Debug, Clone)]
pub(crate) enum MethodKind {
    ClientContext {
        /// Path (and query) of the page.
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

impl MethodKind {
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

    /// The page that iMIS is asked for.
    pub(crate) fn page(&self) -> Option<&str> {
        match self {
            Self::ClientContext { page } | Self::LoginStatusRedirect { page } => Some(page),
            Self::WhoamiQuery(query) => Some(&query.page),
            Self::ClientApplication(application) => Some(&application.page),
            Self::FormsTicket(_) => None,
        }
    }

    /// Whether a service account has to read the profile.
    pub(super) fn needs_service_account(&self) -> bool {
        match self {
            Self::ClientContext { .. } | Self::LoginStatusRedirect { .. } | Self::FormsTicket(_) => true,
            Self::WhoamiQuery(query) => query.profile_columns.is_none(),
            // The member's own token may read the member's own record.
            Self::ClientApplication(_) => false,
        }
    }
}

/// A stored query (IQA) that returns the signed-in person's record.
#[derive(Debug)]
pub(crate) struct WhoamiQuery {
    /// A RiSE page, for its anti-forgery token.
    pub(crate) page: String,
    pub(crate) query: String,
    /// Path of `api/query` or `api/iqa`.
    pub(crate) endpoint: String,
    pub(crate) id_column: String,
    /// Present if the query contains the whole profile.
    pub(crate) profile_columns: Option<ProfileColumns>,
}

/// The columns of a profile.
#[derive(Debug, Clone)]
pub(crate) struct ProfileColumns {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) phone: Option<String>,
    /// `None`: the query returns only active records.
    pub(crate) status: Option<String>,
    /// `None`: the query returns only people.
    pub(crate) company: Option<String>,
}

impl ProfileColumns {
    /// The configured columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        [&self.name, &self.email].into_iter().chain(&self.phone).chain(&self.status).chain(&self.company)
    }
}

/// How to open ASP.NET's forms authentication ticket.
#[derive(Debug)]
pub(crate) struct FormsTicket {
    pub(crate) keys: MachineKeys,
    /// Path where iMIS says whether the session is still valid; `None` = do not ask.
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

/// Reads the keys of one method. The text is `base_path`.
type ReadMethod = fn(&Value<'_>, &str) -> Option<MethodKind>;

/// Each method with its own keys.
const METHODS: [(&str, (&[&str], ReadMethod)); 5] = [
    ("client_context", (&["page"], client_context)),
    ("whoami_query", (&["page", "query", "endpoint", "columns"], whoami_query)),
    ("client_application", (&["page", "client_id", "client_secret"], client_application)),
    (
        "forms_ticket",
        (
            &["validation", "compatibility_mode", "validation_key", "decryption_key", "session_info"],
            forms_ticket,
        ),
    ),
    ("login_status_redirect", (&["page"], login_status_redirect)),
];

/// One method, or a list of them.
pub(super) fn methods(value: &Value<'_>, base_path: &str) -> Vec<Method> {
    if value.is_mapping() {
        return method(value, base_path).into_iter().collect();
    }
    let items = value.some_items("at least one method is needed");
    let mut methods: Vec<Method> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(method) = method(item, base_path) else { continue };
        if methods.iter().any(|earlier| earlier.kind.name() == method.kind.name()) {
            item.report(format!("{} is listed twice", method.kind.name()));
        }
        if method.kind.application().is_some() && index + 1 < items.len() {
            item.report("client_application has to be the last method: it redirects the client, so no other can follow");
        }
        methods.push(method);
    }
    methods
}

fn method(section: &Value<'_>, base_path: &str) -> Option<Method> {
    if !section.is_mapping() {
        section.allow_only(&[]);
    }
    let Some((own_keys, read)) = section.value("method")?.as_word(&METHODS) else {
        // Which other keys belong to it is not known; most methods have a page.
        let _ = section.parsed("page", values::site_path);
        return None;
    };
    section.allow_only(&[&["method", "on_error"], own_keys].concat());
    let kind = read(section, base_path);
    let stops_on_error = section.word("on_error", &[("next", false), ("stop", true)]);
    Some(Method { kind: kind?, stops_on_error })
}

fn below(base_path: &str, path: &str) -> String {
    format!("{}/{path}", base_path.trim_end_matches('/'))
}

fn client_context(section: &Value<'_>, _: &str) -> Option<MethodKind> {
    Some(MethodKind::ClientContext { page: section.required_text("page", values::site_path) })
}

fn login_status_redirect(section: &Value<'_>, base_path: &str) -> Option<MethodKind> {
    let page = section.parsed("page", values::site_path);
    Some(MethodKind::LoginStatusRedirect { page: page.unwrap_or_else(|| below(base_path, LOGIN_STATUS)) })
}

fn whoami_query(section: &Value<'_>, base_path: &str) -> Option<MethodKind> {
    let endpoint = section.parsed("endpoint", values::site_path);
    let columns = section.required("columns").map(|value| value.as_section());
    Some(MethodKind::WhoamiQuery(Arc::new(WhoamiQuery {
        page: section.required_text("page", values::site_path),
        query: section.required_text("query", query_path),
        endpoint: endpoint.unwrap_or_else(|| below(base_path, "api/query")),
        id_column: columns.as_ref().map(|columns| columns.text("id", values::not_empty)).unwrap_or_default(),
        profile_columns: columns.as_ref().and_then(profile_columns),
    })))
}

pub(super) fn query_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with("$/") && !text.contains(char::is_control);
    is_path
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not the path of a query; write it like $/Gateway/WhoAmI"))
}

/// The columns of a whole profile; `None` if there is only `id`.
pub(super) fn profile_columns(section: &Value<'_>) -> Option<ProfileColumns> {
    let is_given = |key: &&str| section.given(key).is_some();
    if !["name", "email", "phone", "status", "company"].iter().any(is_given) {
        return None;
    }
    let missing: Vec<&str> =
        ["name", "email", "status", "company"].into_iter().filter(|key| !is_given(key)).collect();
    if !missing.is_empty() {
        section.report(format!(
            "a profile from the query's columns needs {} too; write null for status if the query returns only active \
             records, and for company if it returns only people. For a profile from the REST API name only id",
            missing.join(" and ")
        ));
    }
    Some(ProfileColumns {
        name: section.text("name", values::not_empty),
        email: section.text("email", values::not_empty),
        phone: section.parsed("phone", values::not_empty),
        status: section.parsed("status", values::not_empty),
        company: section.parsed("company", values::not_empty),
    })
}

fn forms_ticket(section: &Value<'_>, base_path: &str) -> Option<MethodKind> {
    let validation = section.word("validation", &VALIDATION);
    let compatibility = section.word("compatibility_mode", &COMPATIBILITY_MODE);
    let key = |name| {
        let value = section.required(name)?;
        let bytes = hexadecimal(secret(&value)?.expose());
        if bytes.is_none() {
            value.report("is not hexadecimal digits as in machineKey; AutoGenerate cannot be used, iMIS needs an explicit key");
        }
        bytes
    };
    let (validation_key, decryption_key) = (key("validation_key"), key("decryption_key"));
    let session_info = match section.given("session_info") {
        Some(value) if value.is_null() => None,
        Some(value) => value.as_text(values::site_path),
        // iMIS's own scripts add a slash to a base path that ends in one.
        None => Some(format!("{base_path}/SessionInfo/GetSessionInfoFromCookie")),
    };
    let keys = MachineKeys::new(&validation_key?, &decryption_key?, validation, compatibility);
    let keys = keys.map_err(|error| section.report(error.to_string())).ok()?;
    Some(MethodKind::FormsTicket(Arc::new(FormsTicket { keys, session_info })))
}

fn client_application(section: &Value<'_>, _: &str) -> Option<MethodKind> {
    Some(MethodKind::ClientApplication(Arc::new(ClientApplication {
        page: section.required_text("page", values::site_path),
        client_id: section.required_text("client_id", values::not_empty),
        client_secret: section.required("client_secret").and_then(|value| secret(&value))?,
    })))
}
