//! `sites[].imis.recognise`: how to recognise the members of a site, in order (docs/recognising-members.md).

use std::sync::Arc;

use crate::config::machine_keys::{Compatibility, MachineKeys, Validation, hexadecimal};
use crate::config::secret::{Secret, secret};
use crate::config::section::{Section, Value};
use crate::config::values;

const LOGIN_STATUS: &str = "AsiCommon/Controls/Shared/FormsAuthentication/LoginStatusRedirect.aspx";

/// A method to recognise members.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) how: How,
    pub(crate) on_error: OnError,
}

/// What to do if a method fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// Try the next method; after the last one, recognition has failed.
    Next,
    /// Try no other method.
    Stop,
}

/// How a method recognises members.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// By the hidden field `__ClientContext` of a page.
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

    /// Whether a service account has to read the profile.
    pub(super) fn needs_service_account(&self) -> bool {
        match self {
            Self::ClientContext { .. } | Self::LoginStatusRedirect { .. } | Self::FormsTicket(_) => true,
            Self::WhoamiQuery(query) => query.columns.profile.is_none(),
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
    /// `$/Folder/Name`.
    pub(crate) query: String,
    /// Path of `api/query` or `api/iqa`.
    pub(crate) endpoint: String,
    pub(crate) columns: Columns,
}

/// The columns of a query.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The column with the iMIS ID.
    pub(crate) id: String,
    /// Present if the query contains the whole profile.
    pub(crate) profile: Option<ProfileColumns>,
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

/// Which method a section describes.
#[derive(Debug, Clone, Copy)]
enum Name {
    ClientContext,
    WhoamiQuery,
    ClientApplication,
    FormsTicket,
    LoginStatusRedirect,
}

const NAMES: [(&str, Name); 5] = [
    ("client_context", Name::ClientContext),
    ("whoami_query", Name::WhoamiQuery),
    ("client_application", Name::ClientApplication),
    ("forms_ticket", Name::FormsTicket),
    ("login_status_redirect", Name::LoginStatusRedirect),
];

/// One method, or a list of them.
pub(super) fn methods(value: &Value<'_>, base_path: &str) -> Vec<Method> {
    if value.is_mapping() {
        return method(&value.open(), base_path).into_iter().collect();
    }
    let items = value.items();
    if value.is_list() && items.is_empty() {
        value.report("at least one method is needed");
    }
    let mut methods: Vec<Method> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(method) = method(&item.open(), base_path) else { continue };
        if methods.iter().any(|earlier| earlier.how.name() == method.how.name()) {
            item.report(format!("{} is listed twice", method.how.name()));
        }
        if method.how.application().is_some() && index + 1 < items.len() {
            item.report("client_application has to be the last method: it redirects the client, so no other can follow");
        }
        methods.push(method);
    }
    methods
}

fn method(section: &Section<'_>, base_path: &str) -> Option<Method> {
    let name = section.value("method")?;
    if !NAMES.iter().any(|(known, _)| name.is_word(known)) {
        // Which other keys belong to it is not known; most methods have a page.
        name.word(&NAMES);
        let _ = section.parsed("page", values::site_path);
        return None;
    }
    let below = |path: &str| format!("{}/{path}", base_path.trim_end_matches('/'));
    let allow = |own: &[&str]| section.allow_only(&[&["method", "on_error"], own].concat());
    let how = match name.word(&NAMES) {
        Name::ClientContext => {
            allow(&["page"]);
            Some(How::ClientContext { page: required_path(section, "page") })
        }
        Name::WhoamiQuery => {
            allow(&["page", "query", "endpoint", "columns"]);
            whoami_query(section, below("api/query"))
        }
        Name::LoginStatusRedirect => {
            allow(&["page"]);
            let page = section.parsed("page", values::site_path);
            Some(How::LoginStatusRedirect { page: page.unwrap_or_else(|| below(LOGIN_STATUS)) })
        }
        Name::FormsTicket => {
            allow(&["validation", "compatibility_mode", "validation_key", "decryption_key", "session_info"]);
            forms_ticket(section, base_path)
        }
        Name::ClientApplication => {
            allow(&["page", "client_id", "client_secret"]);
            client_application(section)
        }
    };
    let on_error = section.word("on_error", &[("next", OnError::Next), ("stop", OnError::Stop)]);
    Some(Method { how: how?, on_error })
}

fn required_path(section: &Section<'_>, key: &str) -> String {
    section.required(key).and_then(|value| value.text(values::site_path)).unwrap_or_default()
}

fn whoami_query(section: &Section<'_>, default_endpoint: String) -> Option<How> {
    let page = required_path(section, "page");
    let query = section.required("query").and_then(|value| value.text(query_path));
    let endpoint = section.parsed("endpoint", values::site_path).unwrap_or(default_endpoint);
    let columns = section.required("columns").and_then(|value| columns(&value.section()));
    Some(How::WhoamiQuery(Arc::new(WhoamiQuery { page, query: query?, endpoint, columns: columns? })))
}

fn query_path(text: &str) -> Result<String, String> {
    if text.starts_with("$/") && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the path of a query; write it like $/Gateway/WhoAmI"))
    }
}

/// Either only `id`, or the columns of a whole profile.
fn columns(section: &Section<'_>) -> Option<Columns> {
    let column = |key| section.parsed(key, values::not_empty);
    let id = column("id");
    let is_given = |key: &&str| section.given(key).is_some();
    let profile = if ["name", "email", "phone", "status", "company"].iter().any(is_given) {
        let missing: Vec<&str> =
            ["name", "email", "status", "company"].into_iter().filter(|key| !is_given(key)).collect();
        if !missing.is_empty() {
            section.report(format!(
                "a profile from the query's columns needs {} too; write null for status if the query returns only active \
                 records, and for company if it returns only people. For a profile from the REST API name only id",
                missing.join(" and ")
            ));
            return None;
        }
        let (name, email) = (column("name"), column("email"));
        let (phone, status, company) = (column("phone"), column("status"), column("company"));
        Some(ProfileColumns { name: name?, email: email?, phone, status, company })
    } else {
        None
    };
    Some(Columns { id: id?, profile })
}

fn forms_ticket(section: &Section<'_>, base_path: &str) -> Option<How> {
    let validations = [
        ("SHA1", Validation::Sha1),
        ("HMACSHA256", Validation::HmacSha256),
        ("HMACSHA384", Validation::HmacSha384),
        ("HMACSHA512", Validation::HmacSha512),
        ("AES", Validation::Sha1),
        ("3DES", Validation::Sha1),
    ];
    let modes = [
        ("Framework20SP1", Compatibility::Legacy),
        ("Framework20SP2", Compatibility::Legacy),
        ("Framework45", Compatibility::Framework45),
    ];
    let validation = section.word("validation", &validations);
    let compatibility = section.word("compatibility_mode", &modes);
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
        Some(value) => value.text(values::site_path),
        // iMIS's own scripts add a slash to a base path that ends in one.
        None => Some(format!("{base_path}/SessionInfo/GetSessionInfoFromCookie")),
    };
    let keys = MachineKeys::new(&validation_key?, &decryption_key?, validation, compatibility);
    let keys = keys.map_err(|error| section.report(error.to_string())).ok()?;
    Some(How::FormsTicket(Arc::new(FormsTicket { keys, session_info })))
}

fn client_application(section: &Section<'_>) -> Option<How> {
    let page = required_path(section, "page");
    let client_id = section.required("client_id").and_then(|value| value.text(values::not_empty));
    let client_secret = section.required("client_secret").and_then(|value| secret(&value));
    let application = ClientApplication { page, client_id: client_id?, client_secret: client_secret? };
    Some(How::ClientApplication(Arc::new(application)))
}
