//! Every key of the configuration, in words: for `imis-gateway schema`, for the manual page, and for the reference. A test holds it to what
//! the reader asks for.

mod keys;

use serde_json::{Map, Value, json};

pub(crate) use keys::KEYS;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    /// A whole number within these bounds.
    Number(u64, u64),
    /// The same, or `auto`.
    NumberOrAuto(u64, u64),
    Duration,
    Size,
    /// One of these words.
    Word(&'static [&'static str]),
    Texts,
    Secret,
    /// A secret, or a current and a next one.
    SharedSecret,
    /// `cookie`, or names of cookies.
    Affinity,
    /// An expression of rules and claims, in quotes.
    Expression,
    /// Keys of its own.
    Section,
    /// A list of such.
    Sections,
    /// One, or a list of them.
    SectionOrSections,
    /// Any keys.
    Mapping,
}

/// How a key stands when it is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preset {
    /// It has to be given.
    Required,
    /// This, as it would be written.
    Is(&'static str),
    /// `null`, which can be written, too: not at all.
    Null,
    /// This; `null` can be written, too.
    IsOrNull(&'static str),
    /// Left out, in words.
    Absent(&'static str),
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// `[]` for each item of a list.
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Preset,
    pub(crate) text: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Preset, text: &'static str) -> Key {
    Key { path, kind, default, text }
}

/// What the values of a kind look like.
impl Kind {
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Number(least, most) if least == most => least.to_string(),
            Self::Number(least, most) => format!("{least} to {most}"),
            Self::NumberOrAuto(least, most) => format!("auto, or {least} to {most}"),
            Self::Duration => "duration (500ms, 10s, 5m, 1h)".to_owned(),
            Self::Size => "size (64KiB, 10MiB)".to_owned(),
            Self::Word(words) => words.join(", "),
            Self::Texts => "list of texts".to_owned(),
            Self::Secret => "secret: {file: PATH}, {credential: NAME} or {env: NAME}".to_owned(),
            Self::SharedSecret => "secret, or {current: SECRET, next: SECRET}".to_owned(),
            Self::Affinity => "cookie, or a list of names".to_owned(),
            Self::Expression => "expression".to_owned(),
            Self::Section | Self::Mapping => "mapping".to_owned(),
            Self::Sections => "list of mappings".to_owned(),
            Self::SectionOrSections => "mapping, or a list of them".to_owned(),
        }
    }

    fn schema(self, inner: Option<Value>) -> Value {
        let inner = || inner.clone().unwrap_or_else(|| json!({"type": "object"}));
        match self {
            Self::Text | Self::Expression => json!({"type": "string", "minLength": 1}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Number(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Self::NumberOrAuto(least, most) => {
                json!({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": least, "maximum": most}]})
            }
            Self::Duration => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}),
            Self::Size => json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"}),
            // YAML 1.1 takes `off` for false.
            Self::Word(words) if words.contains(&"off") => {
                json!({"enum": words.iter().map(|word| json!(word)).chain([json!(false)]).collect::<Vec<_>>()})
            }
            Self::Word(words) => json!({"enum": words}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Secret => json!({"$ref": "#/$defs/secret"}),
            Self::SharedSecret => json!({"anyOf": [{"$ref": "#/$defs/secret"}, {
                "type": "object", "additionalProperties": false, "required": ["current"],
                "properties": {"current": {"$ref": "#/$defs/secret"}, "next": {"anyOf": [{"$ref": "#/$defs/secret"}, {"type": "null"}]}},
            }]}),
            Self::Affinity => {
                json!({"anyOf": [{"const": "cookie"}, {"type": "array", "items": {"type": "string"}}]})
            }
            Self::Section => inner(),
            Self::Sections => json!({"type": "array", "items": inner()}),
            Self::SectionOrSections => {
                json!({"anyOf": [inner(), {"type": "array", "items": inner(), "minItems": 1}]})
            }
            Self::Mapping => json!({"type": "object"}),
        }
    }
}

/// The JSON Schema (draft 2020-12) of the configuration.
pub(crate) fn schema() -> Value {
    let mut schema = section("");
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("imis-gateway configuration");
    schema["$defs"] = json!({"secret": {
        "description": "A secret, by reference.",
        "oneOf": (["file", "credential", "env"].map(|how| json!({
            "type": "object", "additionalProperties": false, "required": [how], "properties": {how: {"type": "string"}},
        }))),
    }});
    schema
}

/// The keys right below a path.
fn section(path: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for key in KEYS {
        let Some(name) = key.path.strip_prefix(path).filter(|name| !name.is_empty() && !name.contains('.'))
        else {
            continue;
        };
        let below = if matches!(key.kind, Kind::Section | Kind::SectionOrSections) {
            Some(section(&format!("{}.", key.path)))
        } else {
            (key.kind == Kind::Sections).then(|| section(&format!("{}[].", key.path)))
        };
        let mut value = key.kind.schema(below);
        if matches!(key.default, Preset::Null | Preset::IsOrNull(_)) {
            value = json!({"anyOf": [value, {"type": "null"}]});
        }
        if key.kind == Kind::Texts && key.default == Preset::Required {
            value["minItems"] = json!(1);
        }
        value["description"] = json!(key.text);
        if key.default == Preset::Required {
            required.push(name);
        }
        properties.insert(name.to_owned(), value);
    }
    // A method of recognition has the keys of its own alone, and a rule is one of two: which, only the reader knows.
    json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::read;

    /// Every section, and every method of recognition. Nothing it names exists, and it does not matter.
    const ALL: &str = r#"
version: 1
listen: {}
state_key: {current: {env: X}}
ticket_key: {current: {env: X}}
timeouts: {}
limits: {}
log: {otlp: {}}
audit: {}
sites:
  - hosts: [members.example.org]
    certificate: {chain: a, key: b}
    upstream: {servers: ["https://10.0.0.5"], headers: {}, limits: {}, timeouts: {}, health: {}}
    imis:
      recognise:
        - {method: client_context}
        - {method: whoami_query, columns: {}}
        - {method: forms_ticket}
        - {method: login_status_redirect}
        - {method: client_application}
      service_account: {}
    apps:
      - rules: [{allow: "true"}]
        guards: {}
        single_logout: {}
        messaging: {}
        zendesk: {api: {}, shared_secret: {current: {env: X}}}
  - hosts: [other.example.org]
    certificate: {acme: {external_account: {}}}
    upstream: {servers: ["https://10.0.0.6"]}
"#;

    #[test]
    fn every_key_the_reader_asks_for_is_here_and_no_other() {
        let asked = read::keys_asked_for(Path::new("/nowhere/config.yaml"), ALL);
        let asked: BTreeSet<String> = asked
            .into_iter()
            .map(|path| {
                // `apps[0]` is `apps[]`; a method stands alone or in a list.
                let mut shown = String::new();
                for part in path.split('.') {
                    let name = part.split('[').next().unwrap();
                    let list = if part.contains('[') && name != "recognise" { "[]" } else { "" };
                    shown += &format!("{}{name}{list}", if shown.is_empty() { "" } else { "." });
                }
                shown
            })
            .filter(|path| {
                !["file", "credential", "env"].iter().any(|how| path.ends_with(&format!(".{how}")))
                    || path == "audit.file"
            })
            .collect();
        let here: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(here.len(), KEYS.len(), "one is here twice");
        assert_eq!(
            asked.difference(&here).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "not in the reference"
        );
        assert_eq!(
            here.difference(&asked).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "unknown to the reader"
        );
    }

    #[test]
    fn texts_are_sentences() {
        for key in KEYS {
            assert!(key.text.ends_with('.') && key.text.len() > 5, "{key:?}");
        }
    }
}
