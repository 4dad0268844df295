//! `imis.recognise`: by which methods a site's members are known, in order.

use std::sync::Arc;

use crate::config::files::Files;
use crate::config::machine_keys::{Compatibility, MachineKeys, Validation, hexadecimal};
use crate::config::raw::{Section, Value};
use crate::config::read::sign_on::secret;
use crate::config::{
    ClientApplication, Columns, FormsTicket, How, Method, OnError, ProfileColumns, WhoamiQuery, values,
};

const LOGIN_STATUS: &str = "AsiCommon/Controls/Shared/FormsAuthentication/LoginStatusRedirect.aspx";

const METHODS: &str =
    "whoami_query, client_application, client_context, forms_ticket or login_status_redirect";

/// One method, or a list of them.
pub(super) fn methods(value: &Value<'_>, files: &Files, base_path: &str) -> Option<Vec<Method>> {
    if value.is_mapping() {
        return value.section().and_then(|section| method(section, files, base_path)).map(|one| vec![one]);
    }
    let items = value.items()?;
    if items.is_empty() {
        value.report("at least one method is needed");
        return None;
    }
    let mut methods: Vec<Method> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Some(method) = item.section().and_then(|section| method(section, files, base_path)) else {
            continue;
        };
        let is_last = index + 1 == items.len();
        if methods.iter().any(|earlier| earlier.how.name() == method.how.name()) {
            item.report(format!("{} is listed twice", method.how.name()));
        }
        if method.how.application().is_some() && !is_last {
            item.report("client_application has to be the last: it leaves the question to the browser, so none can come after it");
        }
        methods.push(method);
    }
    (methods.len() == items.len()).then_some(methods)
}

fn method(mut section: Section<'_>, files: &Files, base_path: &str) -> Option<Method> {
    let below = |path: &str| format!("{}/{path}", base_path.trim_end_matches('/'));
    let name_value = section.required("method");
    let name = name_value.as_ref().and_then(|value| value.text(|text| Ok(text.to_owned())));
    let how = match name.as_deref() {
        Some("client_context") => section
            .required("page")
            .and_then(|value| value.text(values::site_path))
            .map(|page| How::ClientContext { page }),
        Some("whoami_query") => whoami_query(&mut section, &below),
        Some("login_status_redirect") => section
            .text_or("page", values::site_path, below(LOGIN_STATUS))
            .map(|page| How::LoginStatusRedirect { page }),
        Some("forms_ticket") => forms_ticket(&mut section, files, base_path),
        Some("client_application") => client_application(&mut section, files),
        Some(other) => {
            if let Some(value) = name_value {
                value.report(format!("`{other}` is not a method; use {METHODS}"));
            }
            // Which other keys it should have nobody knows; most methods have a page.
            section.optional("page").and_then(|value| value.text(values::site_path));
            return None;
        }
        None => return None,
    };
    let on_error = section.text_or(
        "on_error",
        |text| match text {
            "next" => Ok(OnError::Next),
            "stop" => Ok(OnError::Stop),
            other => Err(format!("`{other}` is not what can be done; use next or stop")),
        },
        OnError::Next,
    );
    section.finish();
    Some(Method { how: how?, on_error: on_error? })
}

fn whoami_query(section: &mut Section<'_>, below: &dyn Fn(&str) -> String) -> Option<How> {
    let page = section.required("page").and_then(|value| value.text(values::site_path));
    let query = section.required("query").and_then(|value| value.text(query_path));
    let endpoint = section.text_or("endpoint", values::site_path, below("api/query"));
    let columns = section.required("columns").and_then(|value| columns(value.section()?));
    let query = WhoamiQuery { page: page?, query: query?, endpoint: endpoint?, columns: columns? };
    Some(How::WhoamiQuery(Arc::new(query)))
}

fn query_path(text: &str) -> Result<String, String> {
    if text.starts_with("$/") && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the path of a query; write it like $/Gateway/WhoAmI"))
    }
}

/// Either only `id`, or what a profile needs.
fn columns(mut section: Section<'_>) -> Option<Columns> {
    let id = section.required("id").and_then(|value| value.text(values::not_empty));
    let name = section.optional("name").map(|value| value.text(values::not_empty));
    let email = section.optional("email").map(|value| value.text(values::not_empty));
    let phone = section.optional("phone").map(|value| value.text(values::not_empty));
    let mut or_null = |key| {
        section
            .optional(key)
            .map(|value| if value.is_null() { Some(None) } else { value.text(values::not_empty).map(Some) })
    };
    let (status, company) = (or_null("status"), or_null("company"));
    let profile = if [&name, &email, &phone].iter().any(|column| column.is_some())
        || status.is_some()
        || company.is_some()
    {
        let missing: Vec<&str> = [
            ("name", name.is_none()),
            ("email", email.is_none()),
            ("status", status.is_none()),
            ("company", company.is_none()),
        ]
        .into_iter()
        .filter_map(|(key, missing)| missing.then_some(key))
        .collect();
        if !missing.is_empty() {
            section.report(format!(
                "a profile made of the query's columns needs {} too; for status and company write null when the query itself leaves \
                 out who is not active and what is no person. For a profile from the REST API name only id",
                missing.join(" and ")
            ));
            section.finish();
            return None;
        }
        let phone = phone.map_or(Some(None), |column| column.map(Some));
        let profile = || {
            Some(ProfileColumns {
                name: name??,
                email: email??,
                phone: phone?,
                status: status??,
                company: company??,
            })
        };
        profile().map(Some)
    } else {
        Some(None)
    };
    section.finish();
    Some(Columns { id: id?, profile: profile? })
}

fn forms_ticket(section: &mut Section<'_>, files: &Files, base_path: &str) -> Option<How> {
    let validation = section.text_or(
        "validation",
        |text| match text.to_ascii_uppercase().as_str() {
            "SHA1" | "AES" | "3DES" => Ok(Validation::Sha1),
            "HMACSHA256" => Ok(Validation::HmacSha256),
            "HMACSHA384" => Ok(Validation::HmacSha384),
            "HMACSHA512" => Ok(Validation::HmacSha512),
            _ => Err(format!(
                "`{text}` is not a validation that machineKey has; use SHA1, HMACSHA256, HMACSHA384, HMACSHA512, AES or 3DES"
            )),
        },
        // ASP.NET's own default since 4.0.
        Validation::HmacSha256,
    );
    let compatibility = section.text_or(
        "compatibility_mode",
        |text| match text {
            "Framework20SP1" | "Framework20SP2" => Ok(Compatibility::Legacy),
            "Framework45" => Ok(Compatibility::Framework45),
            _ => Err(format!(
                "`{text}` is not a compatibilityMode of machineKey; use Framework20SP1, Framework20SP2 or Framework45"
            )),
        },
        Compatibility::Legacy,
    );
    let mut key = |name| {
        let value = section.required(name)?;
        let secret = secret(&value, files)?;
        let bytes = hexadecimal(secret.expose());
        if bytes.is_none() {
            value.report("is not hexadecimal digits as in machineKey; AutoGenerate cannot be used, iMIS needs an explicit key");
        }
        bytes
    };
    let (validation_key, decryption_key) = (key("validation_key"), key("decryption_key"));
    let session_info = match section.optional("session_info") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(values::site_path).map(Some),
        // iMIS's own scripts put a slash behind a base that ends in one.
        None => Some(Some(format!("{base_path}/SessionInfo/GetSessionInfoFromCookie"))),
    };
    let keys = MachineKeys::new(&validation_key?, &decryption_key?, validation?, compatibility?);
    let keys = keys.map_err(|error| section.report(error.to_string())).ok()?;
    Some(How::FormsTicket(Arc::new(FormsTicket { keys, session_info: session_info? })))
}

fn client_application(section: &mut Section<'_>, files: &Files) -> Option<How> {
    let page = section.required("page").and_then(|value| value.text(values::site_path));
    let client_id = section.required("client_id").and_then(|value| value.text(values::not_empty));
    let client_secret = section.required("client_secret").and_then(|value| secret(&value, files));
    let application = ClientApplication { page: page?, client_id: client_id?, client_secret: client_secret? };
    Some(How::ClientApplication(Arc::new(application)))
}
