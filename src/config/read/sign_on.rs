//! `imis`, `apps` and the secrets they name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::x509;
use crate::config::expression::Language;
use crate::config::files::Files;
use crate::config::pem;
use crate::config::raw::{Section, Value};
use crate::config::read::{decisions, recognise};
use crate::config::secret::{Reference, Secret};
use crate::config::{
    App, Authority, Claims, FromZendesk, Guards, How, Imis, Messaging, OnBehalfOf, Roots, ServiceAccount,
    SharedSecret, SingleLogout, Upstream, Zendesk, ZendeskApi, ZendeskCredentials, values,
};

const SIGN_IN: &str = "AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx";
const SIGN_OUT: &str = "AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx";

pub(super) fn imis(mut section: Section<'_>, files: &Files, upstream: Option<&Upstream>) -> Option<Imis> {
    let base_path = section.text_or("base_path", values::site_path, "/".to_owned());
    let below = |path: &str| {
        let base_path = base_path.as_deref().unwrap_or("/").trim_end_matches('/');
        format!("{base_path}/{path}")
    };
    let api_url = match section.optional("api_url") {
        Some(value) => value.text(values::base_url),
        None => upstream.and_then(|upstream| values::base_url(&upstream.servers.first()?.to_string()).ok()),
    };
    let sign_in = section.text_or("sign_in", values::site_path, below(SIGN_IN));
    let sign_out = section.text_or("sign_out", values::site_path, below(SIGN_OUT));
    let session_cookies = match section.optional("session_cookies") {
        Some(list) => list.texts(values::cookie_name),
        None => Some(vec!["Login".to_owned()]),
    };
    let recognise_value = section.required("recognise");
    let base_or_root = base_path.clone().unwrap_or_else(|| "/".to_owned());
    let recognise =
        recognise_value.as_ref().and_then(|value| recognise::methods(value, files, &base_or_root));
    let service_account = match section.optional("service_account") {
        Some(value) => value.section().and_then(|section| service_account(section, files)).map(Some),
        None => Some(None),
    };
    if let (Some(methods), Some(None)) = (&recognise, &service_account) {
        for method in methods.iter().filter(|method| method.how.needs_service_account()) {
            section.report(format!(
                "{} tells who somebody is and no more: a service_account has to read the profile",
                method.how.name()
            ));
        }
    }
    if let (Some(methods), Some(names)) = (&recognise, &session_cookies)
        && methods.iter().any(|method| matches!(method.how, How::FormsTicket(_)))
        && names.len() != 1
    {
        section.report(
            "forms_ticket needs exactly one session_cookies: the name of the cookie that holds the ticket",
        );
    }
    let identity_cache = match section.optional("identity_cache") {
        Some(value) if value.is_off() => Some(Duration::ZERO),
        Some(value) => value.text(identity_cache),
        None => Some(MOST_IDENTITY_CACHE),
    };
    let groups = match section.optional("groups") {
        Some(value) if value.is_null() => Some(None),
        Some(list) => list.texts(values::not_empty).map(Some),
        None => Some(None),
    };
    let phone_order = match section.optional("phone_order") {
        Some(list) => list.texts(values::not_empty),
        None => Some(["Mobile", "_Work Phone", "_Home Phone"].map(str::to_owned).to_vec()),
    };
    let phone_region = match section.optional("phone_region") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(region).map(Some),
        None => Some(Some(phonenumber::country::Id::US)),
    };
    section.finish();
    Some(Imis {
        api_url: api_url?,
        sign_in: sign_in?,
        sign_out: sign_out?,
        session_cookies: session_cookies?,
        recognise: recognise?,
        identity_cache: identity_cache?,
        service_account: service_account?.map(Arc::new),
        groups: groups?,
        phone_order: phone_order?,
        phone_region: phone_region?,
    })
}

/// Longer would let somebody in who has left.
const MOST_IDENTITY_CACHE: Duration = Duration::from_secs(60);

fn identity_cache(text: &str) -> Result<Duration, String> {
    let time = values::duration(text)?;
    if time > MOST_IDENTITY_CACHE {
        Err("must be at most 60s; null = not at all".to_owned())
    } else {
        Ok(time)
    }
}

fn region(text: &str) -> Result<phonenumber::country::Id, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a region; write its two ISO 3166 letters, like US, CA or GB"))
}

fn service_account(mut section: Section<'_>, files: &Files) -> Option<ServiceAccount> {
    let username = section.required("username").and_then(|value| value.text(values::not_empty));
    let password = section.required("password").and_then(|value| secret(&value, files));
    section.finish();
    Some(ServiceAccount { username: username?, password: password? })
}

pub(super) fn apps(list: &Value<'_>, files: &Files) -> Option<Vec<Arc<App>>> {
    let mut paths_seen: Vec<String> = Vec::new();
    let mut apps = Vec::new();
    let items = list.items()?;
    for item in &items {
        let Some(app) = item.section().and_then(|section| app(section, files)) else { continue };
        let own = app.paths();
        if let Some(taken) = own.iter().find(|path| paths_seen.contains(path)) {
            item.report(format!("`{taken}` already belongs to another app of this site"));
        }
        paths_seen.extend(own);
        apps.push(Arc::new(app));
    }
    (apps.len() == items.len()).then_some(apps)
}

fn app(mut section: Section<'_>, files: &Files) -> Option<App> {
    let name = section.required("name").and_then(|value| value.text(values::not_empty));
    let path = section.required("path").and_then(|value| value.text(values::app_path));
    let zendesk = section.required("zendesk").and_then(|value| zendesk(value.section()?, files));
    let on_behalf_of = section.text_or("on_behalf_of", on_behalf_of, OnBehalfOf::default());
    let single_logout = match section.optional("single_logout") {
        Some(value) => value.section().and_then(single_logout),
        None => Some(SingleLogout::default()),
    };
    let messaging = match section.optional("messaging") {
        Some(value) => value.section().and_then(|section| messaging(section, files)).map(Some),
        None => Some(None),
    };
    let language = Language::new();
    let rules = match section.optional("rules") {
        Some(value) => decisions::rules(&value, &language).map(Some),
        None => Some(None),
    };
    let reasons_value = section.optional("reasons");
    let reasons = match &reasons_value {
        Some(value) => value.section().and_then(decisions::reasons),
        None => Some(BTreeMap::new()),
    };
    let overwrite = match section.optional("overwrite") {
        Some(value) => decisions::overwrite(&value),
        None => Some(Vec::new()),
    };
    let claims = match section.optional("claims") {
        Some(value) => value.section().and_then(|section| {
            decisions::claims(section, overwrite.as_deref().unwrap_or_default(), &language)
        }),
        None => Some(Claims::default()),
    };
    let guards = match section.optional("guards") {
        Some(value) => value.section().and_then(|section| decisions::guards(section, &language)),
        None => Some(Guards::default()),
    };
    if let (Some(value), Some(reasons), Some(rules)) = (reasons_value, &reasons, &rules) {
        let used: Vec<&String> = rules.iter().flatten().filter_map(|rule| rule.reason.as_ref()).collect();
        for unused in reasons.keys().filter(|name| !used.contains(name)) {
            value.report(format!("no rule has the reason `{unused}`"));
        }
    }
    section.finish();
    overwrite?;
    Some(App {
        name: name?,
        path: path?,
        zendesk: zendesk?,
        rules: rules?,
        reasons: reasons?,
        claims: claims?,
        guards: guards?,
        on_behalf_of: on_behalf_of?,
        single_logout: single_logout?,
        messaging: messaging?,
    })
}

fn messaging(mut section: Section<'_>, files: &Files) -> Option<Messaging> {
    let key_id = section.required("key_id").and_then(|value| value.text(values::not_empty));
    let secret = section.required("secret").and_then(|value| secret(&value, files));
    section.finish();
    Some(Messaging { key_id: key_id?, secret: secret? })
}

fn on_behalf_of(text: &str) -> Result<OnBehalfOf, String> {
    match text {
        "refuse" => Ok(OnBehalfOf::Refuse),
        "sign_in_as_staff" => Ok(OnBehalfOf::SignInAsStaff),
        "sign_in_as_contact" => Ok(OnBehalfOf::SignInAsContact),
        other => Err(format!(
            "`{other}` is not what can be done; use refuse, sign_in_as_staff or sign_in_as_contact"
        )),
    }
}

fn single_logout(mut section: Section<'_>) -> Option<SingleLogout> {
    let from_imis = match section.optional("from_imis") {
        Some(value) => value.boolean(),
        None => Some(false),
    };
    let from_zendesk = match section.optional("from_zendesk") {
        Some(value) if value.is_off() => Some(FromZendesk::Off),
        Some(value) => value.text(|text| match text {
            "offer" => Ok(FromZendesk::Offer),
            "sign_out" => Ok(FromZendesk::SignOut),
            other => Err(format!("`{other}` is not what can be done; use offer, sign_out or null")),
        }),
        None => Some(FromZendesk::Off),
    };
    section.finish();
    Some(SingleLogout { from_imis: from_imis?, from_zendesk: from_zendesk? })
}

fn zendesk(mut section: Section<'_>, files: &Files) -> Option<Zendesk> {
    let subdomain = section.required("subdomain").and_then(|value| value.text(values::subdomain));
    let origin = match section.optional("url") {
        Some(value) => value.text(values::https_origin),
        None => subdomain.as_ref().map(|name| Authority { host: format!("{name}.zendesk.com"), port: 443 }),
    };
    let brand_hosts = match section.optional("brand_hosts") {
        Some(list) => list.texts(values::authority),
        None => Some(Vec::new()),
    };
    let shared_secret = section.required("shared_secret").and_then(|value| shared_secret(&value, files));
    let api = match section.optional("api") {
        Some(value) => value.section().and_then(|section| api(section, files, origin.as_ref())).map(Some),
        None => Some(None),
    };
    section.finish();
    subdomain?;
    Some(Zendesk { origin: origin?, brand_hosts: brand_hosts?, shared_secret: shared_secret?, api: api? })
}

/// One secret, or the one of now and the next.
pub(super) fn shared_secret(value: &Value<'_>, files: &Files) -> Option<SharedSecret> {
    if !value.has("current") && !value.has("next") {
        return secret(value, files).map(|current| SharedSecret { current, next: None });
    }
    let mut section = value.section()?;
    let current = section.required("current").and_then(|value| secret(&value, files));
    let next_value = section.optional("next").filter(|value| !value.is_null());
    let next = match &next_value {
        Some(value) => secret(value, files).map(Some),
        None => Some(None),
    };
    section.finish();
    let (current, next) = (current?, next?);
    if let (Some(value), Some(next)) = (next_value, &next)
        && next.expose() == current.expose()
    {
        value.report("it is the same as `current`; leave it out until there is a new one");
    }
    Some(SharedSecret { current, next })
}

/// An OAuth client, or a user's API token.
fn api(mut section: Section<'_>, files: &Files, origin: Option<&Authority>) -> Option<ZendeskApi> {
    let url = match section.optional("url") {
        Some(value) => value.text(values::base_url),
        None => origin.and_then(|origin| values::base_url(&format!("https://{origin}/")).ok()),
    };
    let roots = match section.optional("ca_file") {
        Some(value) => value.text(|path| pem::roots(files, &files.at(path)).map(Roots)),
        None => Some(Roots(x509::system_roots())),
    };
    let client_id = section.optional("client_id").map(|value| value.text(values::not_empty));
    let client_secret = section.optional("client_secret").map(|value| secret(&value, files));
    let email = section.optional("email").map(|value| value.text(values::not_empty));
    let token = section.optional("token").map(|value| secret(&value, files));
    let credentials = match (client_id, client_secret, email, token) {
        (Some(id), Some(secret), None, None) => {
            id.zip(secret).map(|(id, secret)| ZendeskCredentials::Client { id, secret: Arc::new(secret) })
        }
        (None, None, Some(email), Some(token)) => {
            email.zip(token).map(|(email, token)| ZendeskCredentials::Token { email, token: Arc::new(token) })
        }
        _ => {
            section.report("the API needs client_id and client_secret of an OAuth client (or, until 2027-04-30, email and token)");
            None
        }
    };
    section.finish();
    Some(ZendeskApi { url: url?, roots: roots?, credentials: credentials? })
}

/// A secret's reference, fetched.
pub(super) fn secret(value: &Value<'_>, files: &Files) -> Option<Secret> {
    let how = "a secret is given by reference: {file: PATH}, {credential: NAME} or {env: NAME}";
    if !value.is_mapping() {
        // Not the value itself: it may be the secret.
        value.report(format!("{how}; never write it into this file"));
        return None;
    }
    let mut section = value.section()?;
    let file = section.optional("file").map(|v| v.text(|t| Ok(Reference::File(PathBuf::from(t)))));
    let credential =
        section.optional("credential").map(|v| v.text(|t| credential_name(t).map(Reference::Credential)));
    let env = section.optional("env").map(|v| v.text(|t| variable_name(t).map(Reference::Env)));
    let mut given: Vec<_> = [file, credential, env].into_iter().flatten().collect();
    if given.len() != 1 {
        // Not which keys there are instead: one may be the secret.
        section.report(how);
        return None;
    }
    if section.has_others() {
        section.report(how);
        return None;
    }
    let reference = given.pop()??;
    reference.resolve(files).map_err(|reason| value.report(reason)).ok()
}

/// Whoever pastes the secret itself here does not get to read it in a log.
fn variable_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let begins = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain && begins && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("is not the name of an environment variable, like ZENDESK_JWT".to_owned())
    }
}

fn credential_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.starts_with('.') {
        return Err("is not a credential's name".to_owned());
    }
    Ok(text.to_owned())
}
