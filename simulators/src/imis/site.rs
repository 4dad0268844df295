//! The web site: RiSE pages, sign-in, sign-out, session end points.

use serde_json::{Value, json};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;

use super::people::Person;
use super::{Faults, Generation, PageFault, SignInForm, SsoPage, State, lock};
use crate::server::{self, Answer, Received, encoded, escaped, html, redirect, respond, with};

type Page = Response<Full<Bytes>>;

const FORMS: &str = "asicommon/controls/shared/formsauthentication/";
const PAGES: [&str; 6] =
    ["", "default.aspx", "imis-gateway-probe", "home.aspx", "signedout", "myaccount.aspx"];

/// `path` is in lower case.
pub(super) fn answer(state: &State, request: &Received, path: &str, faults: &Faults) -> Answer {
    let base = state.base().to_ascii_lowercase();
    let root = if path == base.trim_end_matches('/') { Some("") } else { path.strip_prefix(base.as_str()) };
    // The short names at the host's root work in both generations.
    let below = root.unwrap_or_else(|| path.trim_start_matches('/'));
    let signed_in = state.visitor(request);
    let method = request.head.method.as_str();
    Some(match (method, below) {
        ("GET" | "HEAD", "signin" | "signin.aspx") => sign_in_page(state, request, None),
        ("GET" | "HEAD", at) if at == format!("{FORMS}login.aspx") => sign_in_page(state, request, None),
        ("GET", "directory/authorize") => directory_page(request),
        ("POST", "signin-oidc") => back_from_directory(state, request),
        ("POST", "signin" | "signin.aspx") => sign_in(state, request),
        ("POST", at) if at == format!("{FORMS}login.aspx") => sign_in(state, request),
        (_, at) if at == format!("{FORMS}logout.aspx") => sign_out(state, request, faults),
        ("GET", at) if at == format!("{FORMS}loginstatusredirect.aspx") => {
            login_status(state, request, signed_in, faults)
        }
        ("POST", "/sessioninfo/getsessioninfofromcookie" | "sessioninfo/getsessioninfofromcookie") => {
            match (&faults.session_info, signed_in) {
                (Some((status, body)), _) => respond(*status, "application/json", *body),
                (None, Some(_)) => server::json(
                    200,
                    &json!({"StillGoodSeconds": 1187.2, "ExpireMinutes": 20, "IsDesktop": false}),
                ),
                (None, None) => server::json(200, &Value::Null),
            }
        }
        ("POST", "/sessioninfo/forcesignout" | "sessioninfo/forcesignout") => {
            sign_out(state, request, faults)
        }
        ("GET" | "HEAD", "members/benefits.aspx") if signed_in.is_none() => {
            let own = request.head.uri.to_string();
            redirect(&format!("{}{}?ReturnUrl={}", state.base(), login_path(), encoded(&own)))
        }
        ("GET" | "HEAD", "members/benefits.aspx") => rise_page(state, request, signed_in, "Members only"),
        ("GET", "singlesignon") => single_sign_on(state, request, signed_in),
        ("GET" | "HEAD", "404.aspx") => {
            html(404, "<html><body id=\"MainBody\"><h1>Page not found</h1></body></html>")
        }
        ("GET" | "HEAD", "error.aspx") => {
            html(500, "<html><body id=\"MainBody\"><h1>An error occurred</h1></body></html>")
        }
        ("POST", "upload") if request.body.len() > 10 * 1024 * 1024 => {
            respond(413, "text/plain", "too large")
        }
        ("POST", "upload") => server::json(200, &json!({"received": request.body.len()})),
        ("GET" | "HEAD", page) if PAGES.contains(&page) => match faulty_page(&faults.pages) {
            Some(answer) => return answer,
            None => rise_page(state, request, signed_in, "Welcome"),
        },
        ("GET" | "HEAD" | "POST", page) if page.ends_with(".aspx") => {
            redirect(&format!("{}404.aspx?aspxerrorpath={}", state.base(), encoded(path)))
        }
        (_, _) => html(404, "<html><body>404</body></html>"),
    })
}

fn login_path() -> &'static str {
    "AsiCommon/Controls/Shared/FormsAuthentication/Login.aspx"
}

/// The answer of a page that misbehaves.
fn faulty_page(fault: &PageFault) -> Option<Answer> {
    Some(match fault {
        PageFault::None => return None,
        PageFault::Redirect(location) => Some(redirect(location)),
        PageFault::ErrorPage => Some(redirect("/Error.aspx?item=1")),
        PageFault::Missing => Some(redirect("/404.aspx?aspxerrorpath=/imis-gateway-probe")),
        PageFault::Firewall(status) => Some(html(
            *status,
            "<html><head><title>Request Rejected</title></head><body>The requested URL was rejected. \
                Your support ID is: 8374659.</body></html>",
        )),
        PageFault::Page(status, page) => Some(html(*status, page.clone())),
        PageFault::Typed(media_type, body) => Some(respond(200, media_type, body.clone())),
        PageFault::Huge => Some(html(200, " ".repeat(6 * 1024 * 1024))),
        PageFault::Drop => None,
    })
}

/// A page as RiSE makes it, with the client context and the anti-forgery pair.
fn rise_page(state: &State, request: &Received, visitor: Option<&Person>, title: &str) -> Page {
    let mut context = json!({"baseUrl": state.base(), "websiteRoot": format!("https://{}{}", request.host(), state.base()),
        "isAnonymous": visitor.is_none()});
    if state.options.generation == Generation::Ems {
        context["virtualDir"] = json!("");
        context["appTimeZoneOffset"] = json!(-300);
        context["cookieConsent"] = json!(0);
    }
    if let Some(person) = visitor {
        context["loggedInPartyId"] = json!(person.id);
        context["selectedPartyId"] = json!(person.viewing.as_ref().unwrap_or(&person.id));
    }
    let token = server::random_hex(32);
    lock(&state.antiforgery).insert(token.clone(), visitor.map(|person| person.username.clone()));
    let greeting = match visitor {
        Some(person) => format!(
            "<p>Signed in as <b id=\"who\">{}</b>. <a href=\"{}AsiCommon/Controls/Shared/FormsAuthentication/logout.aspx\">Sign out</a></p>",
            escaped(person.party["Name"].as_str().unwrap_or_default()),
            state.base()
        ),
        None => format!("<p><a href=\"{}SignIn\">Sign in</a></p>", state.base()),
    };
    let page = format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en-US\"><head><title>{title}</title>\n\
         <script type=\"text/javascript\">var gWebRoot = '{base}'; var gIsPostBack = false;</script></head>\n\
         <body id=\"MainBody\"><form method=\"post\" action=\".{base}\" id=\"aspnetForm\">\n\
         <input type=\"hidden\" name=\"__RequestVerificationToken\" id=\"__RequestVerificationToken\" value=\"{token}\" />\n\
         <input type=\"hidden\" name=\"__ClientContext\" id=\"__ClientContext\" value=\"{context}\" />\n\
         <h1>{title}</h1>{greeting}</form></body></html>",
        base = state.base(),
        context = escaped(&context.to_string()),
    );
    let response = with(html(200, page), "cache-control", "private");
    let response = with(response, "set-cookie", "ASP.NET_SessionId=k3v2b1n5; path=/; HttpOnly; SameSite=Lax");
    with(response, "set-cookie", &format!("__RequestVerificationToken={token}; path=/; HttpOnly"))
}

const FIELD: &str = "ctl01$TemplateBody$WebPartManager1$gwpciSignIn$ciSignIn$";

/// The first step of the sign-in widget.
fn sign_in_page(state: &State, request: &Received, problem: Option<&str>) -> Page {
    let inputs = match state.options.sign_in_form {
        SignInForm::Password => {
            format!(
                "<p><label>Username <input name=\"{FIELD}signInUserName\" id=\"signInUserName\" autocomplete=\"off\"></label></p>\n\
                 <p><label>Password <input name=\"{FIELD}signInPassword\" id=\"signInPassword\" type=\"password\"></label></p>\n\
                 <p><label><input type=\"checkbox\" name=\"{FIELD}RememberMe\"> Keep me signed in</label></p>\n{}",
                button("SubmitButton", "Sign In")
            )
        }
        SignInForm::EmailFirst | SignInForm::Directory => format!(
            "<p><label>E-mail <input name=\"{FIELD}OpenIdUserName\" id=\"OpenIdUserName\"></label></p>\n{}",
            button("OpenIdSubmitButton", "Continue")
        ),
    };
    sign_in_step(state, request, problem, &inputs)
}

fn button(name: &str, text: &str) -> String {
    format!("<p><input type=\"submit\" name=\"{FIELD}{name}\" id=\"{name}\" value=\"{text}\"></p>\n")
}

fn hidden(name: &str, value: &str) -> String {
    format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\" />\n", escaped(value))
}

/// A WebForms page of the sign-in widget. It posts to its own address, and so keeps the query.
fn sign_in_step(state: &State, request: &Received, problem: Option<&str>, inputs: &str) -> Page {
    let problem = problem.map(|text| format!("<p role=\"alert\">{text}</p>")).unwrap_or_default();
    let action = escaped(&request.head.uri.to_string());
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en-US\"><head><title>Sign In</title>\n\
         <script type=\"text/javascript\">var gWebRoot = '{base}';</script></head>\n\
         <body id=\"MainBody\"><form method=\"post\" action=\"{action}\" id=\"aspnetForm\">\n\
         <input type=\"hidden\" name=\"__VIEWSTATE\" value=\"/wEPDwUKLTE=\" />\n\
         <input type=\"hidden\" name=\"__ClientContext\" id=\"__ClientContext\" value=\"{context}\" />\n\
         <h1>Sign In</h1>{problem}\n{inputs}</form></body></html>",
        base = state.base(),
        context = escaped(&json!({"baseUrl": state.base(), "isAnonymous": true}).to_string()),
    );
    with(html(200, page), "cache-control", "no-cache, no-store")
}

/// A post of the sign-in widget, at whatever step it is.
fn sign_in(state: &State, request: &Received) -> Page {
    let ending = |end: &str| {
        let mut fields = url::form_urlencoded::parse(&request.body);
        fields.find(|(name, _)| name.ends_with(end)).map(|(_, value)| value.into_owned())
    };
    let (username, password) = match state.options.sign_in_form {
        SignInForm::Password => (ending("$signInUserName"), ending("$signInPassword")),
        SignInForm::Directory => {
            let own = request.head.uri.to_string();
            let user = ending("$OpenIdUserName").unwrap_or_default();
            let directory = lock(&state.directory).clone();
            return redirect(&format!(
                "{directory}{}directory/authorize?login_hint={}&state={}&redirect_uri={}",
                state.base(),
                encoded(&user),
                encoded(&own),
                encoded(&format!("https://{}{}signin-oidc", request.host(), state.base()))
            ));
        }
        SignInForm::EmailFirst => {
            let username = ending("$OpenIdUserName").or_else(|| ending("$KnownUserName"));
            let known = hidden(&format!("{FIELD}KnownUserName"), username.as_deref().unwrap_or_default());
            if ending("$OpenIdSubmitButton").is_some() {
                let choice = button("ImisPasswordButton", "Sign in using iMIS password");
                return sign_in_step(state, request, None, &format!("{known}{choice}"));
            }
            if ending("$ImisPasswordButton").is_some() {
                let inputs = format!(
                    "{known}<p><label>Password <input name=\"{FIELD}OpenIdPassword\" id=\"OpenIdPassword\" type=\"password\"></label></p>\n{}",
                    button("ReservedUserSubmitButton", "Sign In")
                );
                return sign_in_step(state, request, None, &inputs);
            }
            (username, ending("$OpenIdPassword"))
        }
    };
    let (username, password) = (username.unwrap_or_default(), password.unwrap_or_default());
    match state.person(&username).filter(|person| person.password == password) {
        Some(person) => signed_in(state, person, request.query("ReturnUrl")),
        None => sign_in_page(state, request, Some("Invalid username or password.")),
    }
}

/// Opens a session and returns to `wanted`. Only relative addresses on this host are followed.
fn signed_in(state: &State, person: &Person, wanted: Option<String>) -> Page {
    let value = state.open_session(&person.username);
    let wanted = wanted.filter(|url| url.starts_with('/') && !url.starts_with("//"));
    let response = redirect(&wanted.unwrap_or_else(|| state.base().to_owned()));
    let secure = match state.options.generation {
        Generation::Ems => "; Secure; SameSite=Lax",
        Generation::Imis2017 => "",
    };
    with(response, "set-cookie", &format!("{}={value}; path=/; HttpOnly{secure}", state.options.cookie))
}

/// The directory, which signs in whom it is told to, and posts back from its own host.
fn directory_page(request: &Received) -> Page {
    let value = |name: &str| request.query(name).unwrap_or_default();
    html(
        200,
        format!(
            "<!DOCTYPE html><html lang=\"en\"><head><title>Directory</title></head>\n\
             <body onload=\"document.forms[0].submit()\"><form method=\"post\" action=\"{}\">{}{}</form></body></html>",
            escaped(&value("redirect_uri")),
            hidden("code", &value("login_hint")),
            hidden("state", &value("state"))
        ),
    )
}

/// The directory's post. `state` is the address of the sign-in page with its query.
fn back_from_directory(state: &State, request: &Received) -> Page {
    let started = request.field("state").unwrap_or_default();
    let query = started.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let mut fields = url::form_urlencoded::parse(query.as_bytes());
    let wanted = fields.find(|(name, _)| name == "ReturnUrl").map(|(_, value)| value.into_owned());
    match state.person(&request.field("code").unwrap_or_default()) {
        Some(person) => signed_in(state, person, wanted),
        None => html(403, "<html><body>unknown user</body></html>"),
    }
}

fn sign_out(state: &State, request: &Received, faults: &Faults) -> Page {
    if let Some(value) = request.cookie(&state.options.cookie)
        && !faults.ticket_outlives_sign_out
    {
        lock(&state.sessions).remove(&value);
    }
    // Follows any address: an open redirect that the real one has, too.
    let target = request.query("returnurl").or_else(|| request.query("ReturnUrl"));
    let response = redirect(&target.unwrap_or_else(|| state.base().to_owned()));
    let gone = format!("{}=; path=/; expires=Tue, 12-Oct-1999 00:00:00 GMT; HttpOnly", state.options.cookie);
    with(response, "set-cookie", &gone)
}

/// 2017's LoginStatusRedirect.aspx.
fn login_status(state: &State, request: &Received, visitor: Option<&Person>, faults: &Faults) -> Page {
    let parameter = |name: &str| request.query(name).unwrap_or_default();
    if state.options.generation != Generation::Imis2017 {
        return html(404, "<html><body>404</body></html>");
    }
    if let Some(location) = &faults.login_status {
        return redirect(
            &location.replace("{QKEY}", &parameter("QKEY")).replace("{RETURL}", &parameter("RETURL")),
        );
    }
    match visitor {
        Some(person) => {
            redirect(&format!("{}?ID={}&QKEY={}", parameter("RETURL"), person.id, parameter("QKEY")))
        }
        None => redirect(&parameter("LURL")),
    }
}

/// The page with the content item Contact > Single Sign-On.
fn single_sign_on(state: &State, request: &Received, visitor: Option<&Person>) -> Page {
    let Some(target) = &state.options.sso_page_target else {
        return redirect(&format!("{}404.aspx?aspxerrorpath=%2FSingleSignOn", state.base()));
    };
    let Some(person) = visitor else {
        let own = request.head.uri.to_string();
        return redirect(&format!("{}{}?ReturnUrl={}", state.base(), login_path(), encoded(&own)));
    };
    let token = server::random_hex(32);
    lock(&state.refresh_tokens).insert(token.clone(), person.username.clone());
    let target = escaped(target);
    html(
        200,
        match state.options.sso_page {
            SsoPage::Onload => format!(
                "<html><body onload=\"document.forms[0].submit()\"><form method=\"post\" action=\"{target}\">\
             <input type=\"hidden\" name=\"refresh_token\" value=\"{token}\"></form></body></html>"
            ),
            SsoPage::UpperCase => format!(
                "<HTML><BODY ONLOAD=\"document.forms[0].submit()\"><FORM ACTION={target} METHOD=POST>\
             <INPUT TYPE=HIDDEN NAME=__RequestVerificationToken VALUE=x1>\
             <INPUT VALUE={token} TYPE=HIDDEN NAME=refresh_token></FORM></BODY></HTML>"
            ),
            SsoPage::Script => format!(
                "<html><body><form id='sso' method='post' action='{}'>\
             <input type='hidden' name='refresh_token' value='{token}' /></form>\
             <script>document.getElementById('sso').submit();</script></body></html>",
                target.replace('/', "&#47;")
            ),
            SsoPage::InsidePage => format!(
                "<html><body id=\"MainBody\"><form method=\"post\" action=\"./SingleSignOn\" id=\"aspnetForm\">\
             <input type=\"hidden\" name=\"__VIEWSTATE\" value=\"/wEP\" /></form>\
             <form name=\"ssoForm\" method=\"post\" action=\"{target}\">\
             <input type=\"hidden\" name=\"refresh_token\" value=\"{token}\"></form>\
             <script>document.forms['ssoForm'].submit();</script></body></html>"
            ),
        },
    )
}
