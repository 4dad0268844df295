//! `__ClientContext`, the hidden field of every RiSE page: HTML-encoded JSON that names who is signed in.
//!
//! The page is tokenised as a browser would (so that comments, scripts and text areas cannot pass for the field), the
//! field must be there exactly once, and its answer must not contradict itself. `selectedPartyId`, the contact whose
//! record is being looked at, is not even read.

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

use crate::imis::PartyId;

const FIELD_ID: &[u8] = b"__ClientContext";

/// Why a page does not tell who is signed in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ContextError {
    #[error("has no field __ClientContext: not a RiSE page, or not iMIS's own answer")]
    NoField,
    #[error("has more than one field __ClientContext")]
    SeveralFields,
    #[error("has a field __ClientContext that is not the JSON of a client context")]
    NotContext,
    #[error("has a field __ClientContext that says both that somebody and that nobody is signed in")]
    Contradictory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    is_anonymous: Option<bool>,
    logged_in_party_id: Option<Value>,
}

/// Who the page was made for; `None` is an anonymous visitor.
pub(super) fn read(page: &[u8]) -> Result<Option<PartyId>, ContextError> {
    let json = field_value(page)?;
    // An object only: a list could otherwise pass for a context by position.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(ContextError::NotContext);
    }
    let context: Context = serde_json::from_slice(&json).map_err(|_| ContextError::NotContext)?;
    let id = match context.logged_in_party_id {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(PartyId::parse(&text).ok_or(ContextError::NotContext)?),
        Some(Value::Number(number)) if number.is_u64() => PartyId::parse(&number.to_string()),
        Some(Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(ContextError::NotContext);
        }
    };
    match (context.is_anonymous, id) {
        (Some(false) | None, Some(id)) => Ok(Some(id)),
        (Some(true) | None, None) => Ok(None),
        (Some(true), Some(_)) | (Some(false), None) => Err(ContextError::Contradictory),
    }
}

/// The decoded value of the one element with our id.
fn field_value(page: &[u8]) -> Result<Vec<u8>, ContextError> {
    let mut emitter = DefaultEmitter::default();
    // Scripts, styles, titles and text areas hold text, not elements.
    emitter.naively_switch_states(true);
    let mut found: Option<Vec<u8>> = None;
    for token in Tokenizer::new_with_emitter(page, emitter) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        if tag.attributes.get(&b"id"[..]).is_none_or(|id| id.as_slice() != FIELD_ID) {
            continue;
        }
        if found.is_some() {
            return Err(ContextError::SeveralFields);
        }
        let value = tag.attributes.get(&b"value"[..]).ok_or(ContextError::NotContext)?;
        found = Some(value.to_vec());
    }
    found.ok_or(ContextError::NoField)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(element: &str) -> String {
        format!(
            "<!DOCTYPE html><html><head><title>x</title></head><body id=\"MainBody\">\
             <form id=aspnetForm>{element}</form></body></html>"
        )
    }

    fn answer(element: &str) -> Result<Option<String>, ContextError> {
        read(page(element).as_bytes()).map(|id| id.map(|id| id.as_str().to_owned()))
    }

    fn field(json: &str) -> String {
        let value = json.replace('"', "&quot;");
        format!("<input type=\"hidden\" name=\"__ClientContext\" id=\"__ClientContext\" value=\"{value}\" />")
    }

    const ANN: &str =
        r#"{"baseUrl":"/iMIS/","isAnonymous":false,"loggedInPartyId":"104019","selectedPartyId":"999"}"#;

    #[test]
    fn the_person_is_the_one_signed_in_and_not_the_one_looked_at() {
        assert_eq!(answer(&field(ANN)), Ok(Some("104019".to_owned())));
        let on_behalf = r#"{"isAnonymous":false,"loggedInPartyId":7,"selectedPartyId":"8"}"#;
        assert_eq!(answer(&field(on_behalf)), Ok(Some("7".to_owned())));
    }

    #[test]
    fn attributes_may_come_in_any_order_quoting_case_and_encoding() {
        let quot = ANN.replace('"', "&quot;");
        let numeric = ANN.replace('"', "&#34;").replace('{', "&#x7B;").replace(':', "&colon;");
        for element in [
            format!("<input value=\"{quot}\" id='__ClientContext' type=hidden>"),
            format!("<INPUT ID=__ClientContext VALUE='{ANN}'>"),
            format!("<input\n id = \"__ClientContext\"\n\tvalue=\"{numeric}\"/>"),
            format!("<div data-x=\"a > b\" title='__ClientContext'></div>{}", field(ANN)),
        ] {
            assert_eq!(answer(&element), Ok(Some("104019".to_owned())), "{element}");
        }
    }

    #[test]
    fn anonymous_is_anonymous() {
        for json in [
            r#"{"baseUrl":"/","isAnonymous":true}"#,
            r#"{"isAnonymous":true,"loggedInPartyId":null}"#,
            r#"{"isAnonymous":true,"loggedInPartyId":""}"#,
            r#"{"baseUrl":"/","selectedPartyId":"8"}"#,
        ] {
            assert_eq!(answer(&field(json)), Ok(None), "{json}");
        }
    }

    #[test]
    fn a_contradiction_is_nobodys_identity() {
        for json in [r#"{"isAnonymous":true,"loggedInPartyId":"1"}"#, r#"{"isAnonymous":false}"#] {
            assert_eq!(answer(&field(json)), Err(ContextError::Contradictory), "{json}");
        }
    }

    #[test]
    fn what_only_looks_like_the_field_does_not_count() {
        let element = field(ANN);
        for hidden in [
            format!("<!-- {element} -->"),
            format!("<script>var x = '{element}';</script>"),
            format!("<textarea>{element}</textarea>"),
            format!("<style>{element}</style>"),
            format!("<title>{element}</title>"),
            element.replace("id=\"__ClientContext\"", "data-id=\"__ClientContext\""),
            element.replace("id=\"__ClientContext\"", "id=\"__clientcontext\""),
            "<p>sign in</p>".to_owned(),
            String::new(),
        ] {
            assert_eq!(answer(&hidden), Err(ContextError::NoField), "{hidden}");
        }
    }

    #[test]
    fn two_fields_are_one_too_many() {
        assert_eq!(answer(&format!("{}{}", field(ANN), field(ANN))), Err(ContextError::SeveralFields));
    }

    #[test]
    fn what_is_not_a_context_is_an_error() {
        for json in [
            "",
            "{",
            "[]",
            r#"[false,"104019"]"#,
            "null",
            r#""104019""#,
            r#"{"isAnonymous":"no"}"#,
            r#"{"loggedInPartyId":["1"]}"#,
            r#"{"loggedInPartyId":-1}"#,
            r#"{"loggedInPartyId":1.5}"#,
            r#"{"loggedInPartyId":"1/../2"}"#,
            r#"{"loggedInPartyId":" 1"}"#,
            r#"{"loggedInPartyId":"1","loggedInPartyId":"2","isAnonymous":false}"#,
        ] {
            assert_eq!(answer(&field(json)), Err(ContextError::NotContext), "{json}");
        }
        assert_eq!(answer("<input id=__ClientContext>"), Err(ContextError::NotContext));
    }
}
