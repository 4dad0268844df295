//! `LoginStatusRedirect.aspx` (iMIS 2017) redirects a signed-in visitor to a given URL and adds the iMIS ID.
//!
//! Such a URL can be forged, so the gateway never accepts one from a client. It requests the page itself with
//! the visitor's cookies, reads the redirect without following it, and requires the random key that it sent.

use http::uri::Authority;
use url::Url;

use crate::base::clock;
use crate::base::query::encoded;
use crate::imis::identity::{Identity, PartyId};
use crate::imis::recognise::error::RecogniseError;
use crate::imis::recognise::visitor_client::{VisitorRequest, VisitorSession, require_ok};

/// The target of the redirect, which is never followed. No page has this path.
const RETURN_PATH: &str = "/imis-gateway-login-status";

pub(super) async fn identify(
    session: &mut VisitorSession<'_>,
    page: &str,
    sign_in: &str,
) -> Result<Option<Identity>, RecogniseError> {
    let authority = session.visitor.authority;
    let key = clock::random_hex().map_err(RecogniseError::Random)?;
    let separator = if page.contains('?') { '&' } else { '?' };
    let return_url = format!("https://{authority}{RETURN_PATH}");
    let (sign_in, return_url) = (encoded(sign_in), encoded(&return_url));
    let target = format!("{page}{separator}LURL={sign_in}&RETURL={return_url}&QKEY={key}");
    let response = session.send(&VisitorRequest::page(&target)).await?;
    if !response.status().is_redirection() {
        require_ok(&response)?;
        return Err(RecogniseError::NoRedirect);
    }
    let location = session.location(&response).ok_or(RecogniseError::UnexpectedRedirect)?;
    if location.path() == RETURN_PATH {
        session.report.redirects_to("where it was asked to");
        let id = read(&location, &key, authority).ok_or(RecogniseError::WrongKey)?;
        return Ok((!id.is_guest()).then(|| Identity::of(id)));
    }
    session.require_sign_in_redirect(&response).map(|()| None)
}

/// The iMIS ID in a redirect to our URL with our key. Each parameter must occur once.
fn read(location: &Url, key: &str, authority: &Authority) -> Option<PartyId> {
    let port = authority.port_u16().unwrap_or(443);
    let ours = location.scheme() == "https"
        && location.host_str().is_some_and(|host| host.eq_ignore_ascii_case(authority.host()))
        && location.port_or_known_default() == Some(port);
    let once = |wanted: &str| {
        let mut values = location.query_pairs().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let first = values.next()?.1.into_owned();
        values.next().is_none().then_some(first)
    };
    (ours && once("QKEY")? == key).then(|| PartyId::parse(&once("ID")?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_address_with_our_own_key_names_anybody() {
        let authority = Authority::from_static("members.example.org");
        let id = |location: &str| {
            let url = Url::parse(location).unwrap();
            read(&url, "k1", &authority).map(|id| id.as_str().to_owned())
        };
        let base = "https://members.example.org/imis-gateway-login-status";
        assert_eq!(id(&format!("{base}?ID=104019&QKEY=k1")).as_deref(), Some("104019"));
        assert_eq!(id(&format!("{base}?qkey=k1&id=104019")).as_deref(), Some("104019"));
        for wrong in [
            "?ID=104019",
            "?ID=104019&QKEY=k2",
            "?ID=104019&QKEY=",
            "?QKEY=k1",
            "?ID=&QKEY=k1",
            "?ID=1&ID=2&QKEY=k1",
            "?ID=1&QKEY=k2&QKEY=k1",
            "?ID=1&QKEY=k1&qkey=k2",
            "?ID=1%2F2&QKEY=k1",
            "#?ID=1&QKEY=k1",
            "",
        ] {
            assert_eq!(id(&format!("{base}{wrong}")), None, "{wrong}");
        }
        assert_eq!(id("https://evil.example/imis-gateway-login-status?ID=1&QKEY=k1"), None);
        assert_eq!(id("http://members.example.org/imis-gateway-login-status?ID=1&QKEY=k1"), None);
        assert_eq!(id("https://members.example.org:444/imis-gateway-login-status?ID=1&QKEY=k1"), None);
    }
}
