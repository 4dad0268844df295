//! What a recognition method observed, without secret values, for the log and for `doctor`. It tells a wrong
//! cookie name, a wrong page and a firewall apart.

use std::fmt;

use http::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, LOCATION};

/// Names of cookies and columns in a report.
const MAX_NAMES: usize = 32;
const MAX_NAME_CHARACTERS: usize = 64;

/// What a recognition method observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecognitionReport {
    /// Names of the cookies that the visitor sent.
    pub(crate) cookies: Vec<String>,
    /// Responses of iMIS, in order.
    pub(crate) responses: Vec<ObservedResponse>,
    /// Names of iMIS markup in the page.
    pub(crate) markup: Vec<&'static str>,
    /// The generation of iMIS, if the page shows it.
    pub(crate) generation: Option<Generation>,
    /// Names of the columns of a query.
    pub(crate) columns: Vec<String>,
}

/// The two generations of iMIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// iMIS 20.0 to 20.2 and 2017.
    Imis2017,
    /// 20.3 and later, iMIS Cloud.
    Ems,
}

impl Generation {
    /// The generation by the keys of a client context; later ones have more keys.
    pub(super) fn of(context: &[u8]) -> Option<Self> {
        let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(context).ok()?;
        let is_later =
            ["virtualDir", "appTimeZoneOffset", "cookieConsent"].iter().any(|key| keys.contains_key(*key));
        Some(if is_later { Self::Ems } else { Self::Imis2017 })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Imis2017 => "2017 (20.0 to 20.2)",
            Self::Ems => "EMS (20.3 and later)",
        }
    }
}

/// A response of iMIS.
#[derive(Debug, Clone)]
pub(crate) struct ObservedResponse {
    /// `page`, `query` ...
    request: &'static str,
    status: u16,
    media_type: String,
    /// The target of a redirect, in words.
    redirect: Option<&'static str>,
}

impl RecognitionReport {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(COOKIE).iter();
        // A cookie without a name consists of a value only, which is secret.
        let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some(plain(&String::from_utf8_lossy(pair[..at].trim_ascii())))
        });
        let mut cookies: Vec<String> = names.filter(|name| !name.is_empty()).take(MAX_NAMES).collect();
        cookies.dedup();
        Self { cookies, ..Self::default() }
    }

    pub(super) fn add_response(&mut self, request: &'static str, response: &reqwest::Response) {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let declared = response.headers().get(CONTENT_TYPE).map(text).unwrap_or_default();
        self.responses.push(ObservedResponse {
            request,
            status: response.status().as_u16(),
            media_type: plain(declared.split(';').next().unwrap_or_default().trim()),
            redirect: response.headers().contains_key(LOCATION).then_some("elsewhere"),
        });
    }

    /// Sets the target of the redirect in the last response.
    pub(super) fn redirects_to(&mut self, place: &'static str) {
        if let Some(last) = self.responses.last_mut() {
            last.redirect = Some(place);
        }
    }

    pub(super) fn set_columns<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.columns = names.take(MAX_NAMES).map(plain).collect();
    }
}

/// A name with unusual characters replaced by `?`.
fn plain(name: &str) -> String {
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    name.chars().take(MAX_NAME_CHARACTERS).map(shown).collect()
}

impl fmt::Display for ObservedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.request, self.status, self.media_type)?;
        self.redirect.map_or(Ok(()), |place| write!(f, " to {place}"))
    }
}

impl fmt::Display for RecognitionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
        write!(f, "cookies: {}", or_none(self.cookies.join(", ")))?;
        if !self.responses.is_empty() {
            let responses: Vec<String> = self.responses.iter().map(ObservedResponse::to_string).collect();
            write!(f, "; responses: {}", responses.join(", "))?;
            let has_html = self.responses.iter().any(|response| response.media_type == "text/html");
            if !self.markup.is_empty() {
                write!(f, "; iMIS markup in the page: {}", self.markup.join(", "))?;
            } else if has_html {
                f.write_str("; no iMIS markup in the page")?;
            }
        }
        if let Some(generation) = self.generation {
            write!(f, "; iMIS {}", generation.name())?;
        }
        if !self.columns.is_empty() {
            write!(f, "; columns: {}", self.columns.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_by_the_keys_of_the_context() {
        let of = |json: &str| Generation::of(json.as_bytes());
        assert_eq!(of(r#"{"baseUrl":"/iMIS/","isAnonymous":true}"#), Some(Generation::Imis2017));
        assert_eq!(of(r#"{"baseUrl":"/","isAnonymous":true,"virtualDir":""}"#), Some(Generation::Ems));
        assert_eq!(of("[]"), None);
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        let mut headers = HeaderMap::new();
        headers.append(
            COOKIE,
            HeaderValue::from_static("Login=secret; a=b=c;; =x; a-secret-alone; ASP.NET_SessionId="),
        );
        headers.append(COOKIE, HeaderValue::from_bytes(b"\xe4=\xff").unwrap());
        let report = RecognitionReport::of(&headers).to_string();
        assert_eq!(report, "cookies: Login, a, ASP.NET_SessionId, ?");
        assert_eq!(RecognitionReport::of(&HeaderMap::new()).to_string(), "cookies: none");
    }
}
