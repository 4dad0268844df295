//! The e-mail address that becomes a Zendesk identity: strict, because Zendesk takes our word for it.

/// An address of the form `dot-atom@domain` (RFC 5322 section 3.4.1, without quoting, comments and literals), ASCII,
/// at most 254 bytes (RFC 5321 section 4.5.3.1).
pub(super) struct EmailAddress(String);

impl EmailAddress {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` unless the whole text is one address.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let fits = text.len() <= 254 && local.len() <= 64;
        let dot_atom = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atom_text));
        let labels = domain.split('.').all(is_label) && domain.contains('.');
        // A top-level domain is never a number, so an address in place of a name is none.
        let named = !domain.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
        (fits && dot_atom && labels && named).then(|| Self(text.to_owned()))
    }
}

fn is_atom_text(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_label(label: &str) -> bool {
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_addresses_are_taken_as_they_are() {
        for text in
            ["ann@example.org", "Ann.O'Brien+zd@mail.example.co.uk", "a@b.cd", "x_y-z@xn--mller-kva.example"]
        {
            assert_eq!(EmailAddress::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn anything_that_two_systems_could_read_differently_is_not() {
        for text in [
            "",
            "@",
            "ann",
            "ann@",
            "@example.org",
            "ann@example",
            "ann@@example.org",
            "ann@b@example.org",
            "a b@example.org",
            " ann@example.org",
            "ann@example.org\u{2028}",
            "\u{85}ann@example.org",
            "ann@example.org ",
            "ann@example.org\n",
            "ann@exam\u{0}ple.org",
            "\u{202e}ann@example.org",
            "ann\u{200b}@example.org",
            "ännchen@example.org",
            "ann@müller.example",
            "\"a b\"@example.org",
            "ann@[127.0.0.1]",
            "ann@127.0.0.1",
            "ann@example..org",
            ".ann@example.org",
            "ann.@example.org",
            "a..n@example.org",
            "ann@-x.org",
            "ann@x-.org",
            "ann@example.org,bob@example.org",
            "ann@example.org;bob@example.org",
            "<ann@example.org>",
            "Ann <ann@example.org>",
            "ann(comment)@example.org",
            "ann@example.org.",
            "ann%40example.org",
        ] {
            assert!(EmailAddress::parse(text).is_none(), "{text:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@example.org", "a".repeat(65))).is_none());
        assert!(EmailAddress::parse(&format!("ann@{}.org", "a.".repeat(130))).is_none());
    }
}
