//! Parses a RiSE page as a browser does, so that comments, scripts and text areas cannot pass for a field.

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};

const CLIENT_CONTEXT: &[u8] = b"__ClientContext";
const REFRESH_TOKEN: &[u8] = b"refresh_token";
const ANTI_FORGERY: &[u8] = b"__RequestVerificationToken";

/// The parts of a page that recognition needs.
#[derive(Default)]
pub(crate) struct Page {
    /// Values of elements with the ID `__ClientContext`. `None` is an element without a value.
    pub(crate) client_contexts: Vec<Option<Vec<u8>>>,
    /// Values of the hidden fields that carry the anti-forgery token.
    pub(crate) anti_forgery: Vec<Vec<u8>>,
    /// Actions of forms that post a refresh token, as the Single Sign-On page has them.
    pub(crate) token_forms: Vec<String>,
    /// Names of iMIS markup in the page, for diagnosis.
    pub(crate) markup: Vec<&'static str>,
}

impl Page {
    pub(crate) fn parse(html: &[u8]) -> Self {
        let mut emitter = DefaultEmitter::default();
        // Scripts, styles, titles and text areas contain text, not elements.
        emitter.naively_switch_states(true);
        let mut page = Self::default();
        let mut action = String::new();
        for token in Tokenizer::new_with_emitter(html, emitter) {
            let Ok(Token::StartTag(tag)) = token else { continue };
            let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| value.as_slice());
            if *tag.name == b"form" {
                action = String::from_utf8_lossy(attribute(b"action").unwrap_or_default()).into_owned();
            }
            if attribute(b"name") == Some(REFRESH_TOKEN) {
                page.token_forms.push(action.clone());
            }
            let Some(id) = attribute(b"id") else { continue };
            match id {
                CLIENT_CONTEXT => {
                    page.client_contexts.push(attribute(b"value").map(<[u8]>::to_vec));
                    page.markup.push("__ClientContext");
                }
                ANTI_FORGERY if attribute(b"name") == Some(ANTI_FORGERY) => {
                    page.anti_forgery.push(attribute(b"value").unwrap_or_default().to_vec());
                    page.markup.push("__RequestVerificationToken");
                }
                b"MainBody" => page.markup.push("MainBody"),
                b"aspnetForm" => page.markup.push("aspnetForm"),
                _ => {}
            }
        }
        if memchr::memmem::find(html, b"gWebRoot").is_some() {
            page.markup.push("gWebRoot");
        }
        page
    }
}
