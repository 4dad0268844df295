//! The content of a page: a title, some text, links, and details.

use http::StatusCode;
use minijinja::{Value, context};

/// A page with a message.
pub(crate) struct Message {
    pub(super) status: StatusCode,
    pub(super) title: String,
    pub(super) paragraphs: Vec<Value>,
    /// For the template: label, href and primary of each link.
    pub(super) links: Vec<Value>,
    /// For the template: term and text of each detail.
    pub(super) details: Vec<Value>,
    pub(super) retry_after: Option<u32>,
}

/// A link below the text.
pub(crate) struct Link {
    label: String,
    href: String,
    primary: bool,
}

impl Link {
    pub(crate) fn new(label: impl Into<String>, href: impl Into<String>) -> Self {
        Self { label: label.into(), href: href.into(), primary: false }
    }

    /// The link that most people want, shown as a button.
    pub(crate) fn primary(label: impl Into<String>, href: impl Into<String>) -> Self {
        Self { primary: true, ..Self::new(label, href) }
    }

    /// `home`: path of the site's start page.
    pub(crate) fn back_to_site(home: &str) -> Self {
        Self::new("Back to the site", home)
    }

    /// Loads the address of the page once more.
    pub(crate) fn try_again() -> Self {
        Self::primary("Try again", "")
    }

    pub(crate) fn into_primary(self) -> Self {
        Self { primary: true, ..self }
    }
}

impl Message {
    pub(crate) fn new(status: StatusCode, title: impl Into<String>) -> Self {
        Self {
            status,
            title: title.into(),
            paragraphs: Vec::new(),
            links: Vec::new(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    pub(crate) fn text(mut self, paragraph: impl Into<String>) -> Self {
        self.paragraphs.push(Value::from(paragraph.into()));
        self
    }

    pub(crate) fn link(mut self, link: Link) -> Self {
        let Link { label, href, primary } = link;
        self.links.push(context! { label, href, primary });
        self
    }

    /// Small print for support staff. Left out when empty.
    pub(crate) fn detail(mut self, term: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.is_empty() {
            self.details.push(context! { term, text });
        }
        self
    }

    /// Adds a `Retry-After` header.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}
