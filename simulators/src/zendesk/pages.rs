//! The Help Center and `/access/..`, on every host of the account.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use url::Url;

use super::{Faults, Role, State, User, lock, users, verify};
use crate::server::{self, Received, encoded, escaped, html, redirect, with};

type Page = Response<Full<Bytes>>;

const COOKIE: &str = "_zendesk_session";

pub(super) fn answer(state: &State, request: &Received, faults: &Faults) -> Page {
    let path = request.head.uri.path();
    let user = current_user(state, request);
    match (request.head.method.as_str(), path) {
        ("POST", "/access/jwt") => jwt(state, request, faults),
        (_, "/access/jwt") => failed(state, "Invalid JWT Request"),
        ("GET", "/access/unauthenticated") => to_remote_login(state, request),
        ("GET", "/access/transfer") => transfer(state, request),
        ("GET", "/access/logout") => logout(state, request, user),
        ("GET", "/access/normal") => {
            html(200, frame("Sign in with a password", "<form><input name=\"user[email]\"></form>"))
        }
        ("GET", "/access/sso_bypass") => {
            html(200, frame("One-time sign-in link", "<p>For the owner and admins.</p>"))
        }
        ("GET", _) if restricted(path) && user.is_none() => {
            let wanted = format!("https://{}{}", request.host(), request.head.uri);
            redirect(&format!(
                "https://{}/access/unauthenticated?return_to={}",
                request.host(),
                encoded(&wanted)
            ))
        }
        ("GET", "/") => redirect("/hc/en-us"),
        ("GET", _)
            if path.starts_with("/hc") || path.starts_with("/agent") || path.starts_with("/tickets") =>
        {
            let who = match &user {
                Some(user) => format!(
                    "<p>Signed in as <b id=\"who\">{}</b> <span id=\"email\">{}</span></p>",
                    escaped(&user.name),
                    escaped(&user.email)
                ),
                None => "<p id=\"nobody\">Not signed in. <a href=\"/hc/en-us/requests\">My requests</a></p>"
                    .to_owned(),
            };
            let place = escaped(&request.head.uri.to_string());
            html(
                200,
                frame(
                    "Help Center",
                    &format!(
                        "{who}<p>This is <code id=\"place\">{place}</code></p><p><a href=\"/access/logout\">Sign out</a></p>"
                    ),
                ),
            )
        }
        _ => html(404, frame("Not found", "")),
    }
}

fn frame(title: &str, content: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><title>{title}</title><meta name=\"viewport\" content=\"width=device-width\">\
         </head><body style=\"font-family:sans-serif;max-width:40rem;margin:3rem auto\"><h1>{title}</h1>{content}</body></html>"
    )
}

fn restricted(path: &str) -> bool {
    path.starts_with("/agent")
        || path.starts_with("/tickets")
        || (path.starts_with("/hc") && path.contains("/requests"))
}

fn current_user(state: &State, request: &Received) -> Option<User> {
    let key = (request.host().to_owned(), request.cookie(COOKIE)?);
    let id = *lock(&state.sessions).get(&key)?;
    lock(&state.account).users.by_id(id).cloned()
}

/// The Remote login URL, its own parameters and ours merged and sorted.
fn to_remote_login(state: &State, request: &Received) -> Page {
    let Ok(mut url) = Url::parse(&state.options.remote_login_url) else {
        return html(500, "remote login URL");
    };
    let own: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let brand = if state.options.brand_origin.ends_with(request.host()) { "360002" } else { "360001" };
    let mut all = own;
    all.push(("brand_id".to_owned(), brand.to_owned()));
    all.push(("locale_id".to_owned(), "1".to_owned()));
    all.push(("return_to".to_owned(), request.query("return_to").unwrap_or_default()));
    all.push(("timestamp".to_owned(), server::unix_now().to_string()));
    all.sort();
    url.query_pairs_mut().clear().extend_pairs(all);
    redirect(url.as_str())
}

/// A form post with a token.
fn jwt(state: &State, request: &Received, faults: &Faults) -> Page {
    if let Some(status) = faults.jwt_status {
        return html(status, frame("We're sorry, but something went wrong", ""));
    }
    let token = request.field("jwt").unwrap_or_default();
    lock(&state.posted).push(token.clone());
    // Other brands and mapped hosts do not take tokens.
    if state.options.origin != format!("https://{}", request.host()) {
        return failed(state, "Invalid JWT Request");
    }
    let now = server::unix_now() + faults.clock_offset;
    let secret = lock(&state.secret).clone();
    let user = verify::verify(&token, &secret, now).and_then(|claims| {
        if !lock(&state.seen_jti).insert(claims.jti.clone()) {
            return Err("The unique user identifier has been reused".to_owned());
        }
        users::sign_in(state, &claims, now)
    });
    let id = match user {
        Ok(id) => id,
        Err(message) => return failed(state, &message),
    };
    let agent = lock(&state.account).users.by_id(id).is_some_and(|user| user.role != Role::EndUser);
    let home = if agent { "/agent" } else { "/hc" };
    let wanted =
        request.field("return_to").or_else(|| request.query("return_to")).filter(|wanted| !wanted.is_empty());
    let session = open_session(state, request.host(), id);
    let response = redirect(&after_sign_in(state, request.host(), id, wanted.as_deref().unwrap_or(home)));
    with(response, "set-cookie", &session)
}

fn open_session(state: &State, host: &str, id: u64) -> String {
    let value = server::random_hex(16);
    lock(&state.sessions).insert((host.to_owned(), value.clone()), id);
    format!("{COOKIE}={value}; path=/; Secure; HttpOnly; SameSite=Lax")
}

/// To `wanted`, by way of a transfer when that is another host of the account.
fn after_sign_in(state: &State, host: &str, id: u64, wanted: &str) -> String {
    let Ok(base) = Url::parse(&format!("https://{host}/")) else { return "/hc".to_owned() };
    let Ok(url) = base.join(wanted) else { return "/hc".to_owned() };
    let origin = url.origin().ascii_serialization();
    let ours = [&state.options.origin, &state.options.brand_origin, &state.options.mapped_origin];
    if origin == base.origin().ascii_serialization() {
        return url.to_string();
    }
    if !ours.iter().any(|own| **own == origin) {
        return "/hc".to_owned();
    }
    let ticket = server::random_hex(16);
    lock(&state.transfers).insert(ticket.clone(), id);
    format!("{origin}/access/transfer?ticket={ticket}&return_to={}", encoded(url.as_str()))
}

fn transfer(state: &State, request: &Received) -> Page {
    let ticket = request.query("ticket").unwrap_or_default();
    let Some(id) = lock(&state.transfers).remove(&ticket) else { return html(403, frame("Expired", "")) };
    let wanted = request.query("return_to").unwrap_or_default();
    let own = format!("https://{}/", request.host());
    let target = if wanted.starts_with(&own) { wanted } else { own };
    with(redirect(&target), "set-cookie", &open_session(state, request.host(), id))
}

fn logout(state: &State, request: &Received, user: Option<User>) -> Page {
    if let Some(value) = request.cookie(COOKIE) {
        lock(&state.sessions).remove(&(request.host().to_owned(), value));
    }
    let mut target = state.options.remote_logout_url.clone();
    let separator = if target.contains('?') { '&' } else { '?' };
    target.push_str(&format!("{separator}brand_id=360001"));
    if let Some(user) = user {
        let id = user.external_id.unwrap_or_default();
        target.push_str(&format!("&email={}&external_id={}", encoded(&user.email), encoded(&id)));
    }
    if let Some(return_to) = request.query("return_to") {
        target.push_str(&format!("&return_to={}", encoded(&return_to)));
    }
    with(redirect(&target), "set-cookie", &format!("{COOKIE}=; path=/; Max-Age=0"))
}

/// The response of Zendesk to a token that it rejects.
fn failed(state: &State, message: &str) -> Page {
    let message = localised(message, lock(&state.faults).language);
    let url = &state.options.remote_logout_url;
    let separator = if url.contains('?') { '&' } else { '?' };
    redirect(&format!("{url}{separator}kind=error&message={}", encoded(message)))
}

/// A refusal in another language. Zendesk does not document these texts; the wording is the simulator's own.
fn localised<'a>(message: &'a str, language: Option<&str>) -> &'a str {
    let is_signature = message.starts_with("JWT signature invalid");
    let is_clock = message.starts_with("Invalid iat");
    match language {
        Some("es") if is_signature => {
            "Firma JWT no válida. No se puede verificar la firma, compruebe sus tokens."
        }
        Some("es") if is_clock => "Parámetro iat no válido. Compruebe el reloj de su servidor.",
        Some("es") => "Solicitud no válida",
        Some("de") if is_signature => "JWT-Signatur ungültig. Die Signatur kann nicht verifiziert werden.",
        Some("de") if is_clock => "Ungültiger iat-Parameter. Überprüfen Sie die Uhr Ihres Servers.",
        Some("de") => "Ungültige Anfrage",
        Some("pt-BR") if is_signature => "Assinatura JWT inválida. A assinatura não pode ser verificada.",
        Some("pt-BR") if is_clock => "Parâmetro iat inválido. Verifique o relógio do servidor.",
        Some("pt-BR") => "Solicitação inválida",
        _ => message,
    }
}
