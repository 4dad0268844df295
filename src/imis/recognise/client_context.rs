//! `__ClientContext`, a hidden field of every RiSE page: HTML-encoded JSON with the ID of the signed-in person.
//!
//! The field must occur once and must not contradict itself. `selectedPartyId` is the contact whose record is
//! shown. It is never the signed-in person; it only shows that the person acts on behalf of another.

use serde::Deserialize;
use serde_json::Value;

use crate::imis::identity::PartyId;
use crate::imis::json::object;
use crate::imis::recognise::page::Page;

/// A page does not identify the visitor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ContextError {
    #[error("has no field __ClientContext; it is not a RiSE page, or not from iMIS")]
    NoField,
    #[error("has more than one field __ClientContext")]
    SeveralFields,
    #[error("has a field __ClientContext with invalid JSON")]
    NotContext,
    #[error("has a field __ClientContext that contradicts itself about who is signed in")]
    Contradictory,
}

/// The person for whom iMIS created the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedIn {
    pub(crate) id: PartyId,
    /// The contact whose record is shown, if that is another.
    pub(crate) on_behalf_of: Option<PartyId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    is_anonymous: Option<bool>,
    logged_in_party_id: Option<Value>,
    selected_party_id: Option<Value>,
}

/// The person for whom iMIS created the page; `None` for an anonymous visitor.
pub(crate) fn read(page: &Page) -> Result<Option<SignedIn>, ContextError> {
    let json = match page.client_contexts.as_slice() {
        [] => return Err(ContextError::NoField),
        [None] => return Err(ContextError::NotContext),
        [Some(json)] => json,
        [_, _, ..] => return Err(ContextError::SeveralFields),
    };
    let context: Context = object(json).ok_or(ContextError::NotContext)?;
    let id = party_id(context.logged_in_party_id)?;
    if id.as_ref().is_some_and(PartyId::is_guest) {
        return Ok(None);
    }
    match (context.is_anonymous, id) {
        (Some(false) | None, Some(id)) => {
            let viewed = party_id(context.selected_party_id)?;
            let on_behalf_of = viewed.filter(|viewed| *viewed != id && viewed.as_str() != "0");
            Ok(Some(SignedIn { id, on_behalf_of }))
        }
        (Some(true) | None, None) => Ok(None),
        (Some(true), Some(_)) | (Some(false), None) => Err(ContextError::Contradictory),
    }
}

/// An ID as text or number. Null and empty text are `None`.
fn party_id(value: Option<Value>) -> Result<Option<PartyId>, ContextError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => PartyId::parse(&text).map(Some).ok_or(ContextError::NotContext),
        Some(Value::Number(number)) if number.is_u64() => Ok(PartyId::parse(&number.to_string())),
        Some(Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(ContextError::NotContext)
        }
    }
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

    fn answer_in_full(element: &str) -> Result<Option<SignedIn>, ContextError> {
        read(&Page::parse(page(element).as_bytes()))
    }

    fn answer(element: &str) -> Result<Option<String>, ContextError> {
        answer_in_full(element).map(|person| person.map(|person| person.id.as_str().to_owned()))
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
    fn acting_for_another_is_told() {
        let viewing = |selected: &str| {
            let json =
                format!(r#"{{"isAnonymous":false,"loggedInPartyId":"7","selectedPartyId":{selected}}}"#);
            answer_in_full(&field(&json))
                .map(|person| person.unwrap().on_behalf_of.map(|id| id.as_str().to_owned()))
        };
        for other in ["\"8\"", "8"] {
            assert_eq!(viewing(other), Ok(Some("8".to_owned())), "{other}");
        }
        for nobody_else in ["\"7\"", "7", "null", "\"\"", "\"0\"", "0"] {
            assert_eq!(viewing(nobody_else), Ok(None), "{nobody_else}");
        }
        for odd in ["-1", "[8]", "true", "\"8 9\""] {
            assert_eq!(viewing(odd), Err(ContextError::NotContext), "{odd}");
        }
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
            r#"{"isAnonymous":false,"loggedInPartyId":"GUEST"}"#,
            r#"{"isAnonymous":true,"loggedInPartyId":"guest"}"#,
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
