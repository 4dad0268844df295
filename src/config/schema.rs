//! The table of keys as a JSON Schema, and the kinds of values in words.

use serde_json::{Map, Value, json};

use crate::config::key::{Kind, Preset, without_indexes};
use crate::config::keys::KEYS;

impl Kind {
    /// What the values look like, in words.
    pub(crate) fn shown(self) -> String {
        self.described(&Value::Null).0
    }

    /// What the values look like, in words and as a schema. `inner` is the schema of a section.
    fn described(self, inner: &Value) -> (String, Value) {
        let number = |least, most| json!({"type": "integer", "minimum": least, "maximum": most});
        let texts = json!({"type": "array", "items": {"type": "string"}});
        let secret = json!({"$ref": "#/$defs/secret"});
        let (words, schema) = match self {
            Self::Text => ("text", json!({"type": "string", "minLength": 1})),
            Self::Path => ("path", json!({"type": "string", "minLength": 1})),
            Self::Expression => ("expression", json!({"type": "string", "minLength": 1})),
            Self::Bool => ("true or false", json!({"type": "boolean"})),
            Self::Number(least, most) if least == most => return (least.to_string(), number(least, most)),
            Self::Number(least, most) => return (format!("{least} to {most}"), number(least, most)),
            Self::NumberOrAuto(least, most) => {
                let schema = json!({"anyOf": [{"const": "auto"}, number(least, most)]});
                return (format!("auto, or {least} to {most}"), schema);
            }
            Self::Duration => {
                ("duration (500ms, 10s, 5m, 1h)", json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}))
            }
            Self::Size => {
                ("size (64KiB, 10MiB)", json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"}))
            }
            Self::Word(words) => {
                // YAML 1.1 takes `off` for false.
                let off = words.contains(&"off").then_some(Value::Bool(false));
                let all: Vec<Value> = words.iter().map(|word| json!(word)).chain(off).collect();
                return (words.join(", "), json!({"enum": all}));
            }
            Self::Texts => ("list of texts", texts),
            Self::Secret => ("secret: {file: PATH}, {credential: NAME} or {env: NAME}", secret),
            Self::SharedSecret => {
                let next = json!({"anyOf": [secret, {"type": "null"}]});
                let pair = json!({"type": "object", "additionalProperties": false, "required": ["current"],
                    "properties": {"current": secret, "next": next}});
                ("secret, or {current: SECRET, next: SECRET}", json!({"anyOf": [secret, pair]}))
            }
            Self::Affinity => ("cookie, or a list of names", json!({"anyOf": [{"const": "cookie"}, texts]})),
            Self::Section => ("mapping", inner.clone()),
            Self::Sections => ("list of mappings", json!({"type": "array", "items": inner})),
            Self::SectionOrSections => {
                let list = json!({"type": "array", "items": inner, "minItems": 1});
                ("mapping, or a list of them", json!({"anyOf": [inner, list]}))
            }
            Self::Mapping => ("mapping", json!({"type": "object"})),
        };
        (words.to_owned(), schema)
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

/// The schema of one section, by its path without brackets.
fn section(path: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, key) in KEYS.iter().filter_map(|key| Some((key.name_in(path)?, key))) {
        let (_, mut value) = key.kind.described(&section(&without_indexes(key.path)));
        if key.default.is_nullable() {
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
    // Only the reader knows which keys belong to which method of recognition, and that a rule has one of two keys.
    json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::document::Config;

    /// Keys of one method alone, and the index of the method in `ALL`.
    const METHODS: [(&str, usize); 10] = [
        ("recognise.columns", 1),
        ("recognise.query", 1),
        ("recognise.endpoint", 1),
        ("recognise.validation", 2),
        ("recognise.compatibility_mode", 2),
        ("recognise.validation_key", 2),
        ("recognise.decryption_key", 2),
        ("recognise.session_info", 2),
        ("recognise.client_id", 4),
        ("recognise.client_secret", 4),
    ];

    /// Every section, and every method of recognition. Nothing it names exists, and it does not matter.
    const ALL: &str = r#"
version: 1
listen: {}
state_key: {current: {env: X}}
ticket_key: {current: {env: X}}
timeouts: {}
limits: {}
log: {otlp: {ca_file: x}}
audit: {}
sites:
  - hosts: [members.example.org]
    certificate: {chain: a, key: b}
    upstream: {ca_file: x, servers: ["https://10.0.0.5"], headers: {}, limits: {}, timeouts: {}, health: {}}
    imis:
      recognise:
        - {method: client_context}
        - {method: whoami_query, columns: {name: a, email: b, status: null, company: null}}
        - {method: forms_ticket}
        - {method: login_status_redirect}
        - {method: client_application}
      service_account: {}
    apps:
      - rules: [{allow: "true"}]
        guards: {}
        single_logout: {}
        messaging: {}
        sync:
          source: {query: "$/A/B", columns: {name: a, email: b, status: null, company: null}}
          organizations: {}
        zendesk: {api: {ca_file: x}, shared_secret: {current: {env: X}}}
  - hosts: [other.example.org]
    certificate: {acme: {ca_file: x, external_account: {}}}
    upstream: {ca_file: x, servers: ["https://10.0.0.6"]}
"#;

    /// The file with another value for one key.
    fn problems_with(path: &str, value: &str) -> Vec<String> {
        let mut document: Value = serde_saphyr::from_str(ALL).unwrap();
        let mut node = &mut document;
        let method = METHODS.iter().find(|(name, _)| path.contains(name)).map_or(0, |(_, method)| *method);
        for part in path.split('.') {
            node = &mut node[part.trim_end_matches("[]")];
            if part.ends_with("[]") {
                node = &mut node[0];
            } else if part == "recognise" && !path.ends_with(part) {
                node = &mut node[method];
            }
        }
        *node = serde_saphyr::from_str(value).unwrap();
        let text = serde_json::to_string(&document).unwrap();
        let problems = Config::resolve(Path::new("/nowhere/config.yaml"), &text).unwrap_err();
        let shown = path.replace("[]", "[0]").replace("recognise.", &format!("recognise[{method}]."));
        problems
            .list
            .into_iter()
            .filter(|problem| problem.key.starts_with(&shown))
            .map(|problem| problem.reason)
            .collect()
    }

    #[test]
    fn the_reader_reads_every_key_of_the_table() {
        for key in KEYS {
            // A list of lists is not a value of any key.
            let problems = problems_with(key.path, "[[[]]]");
            assert!(!problems.is_empty(), "{} is not read", key.path);
        }
    }

    #[test]
    fn the_reader_takes_the_words_of_the_table_and_no_others() {
        for key in KEYS {
            let Kind::Word(words) = key.kind else { continue };
            for word in words {
                let problems = problems_with(key.path, word);
                assert!(
                    !problems.iter().any(|problem| problem.contains("unknown value")),
                    "{key:?}: {problems:?}"
                );
            }
            let problem = problems_with(key.path, "'?'").concat();
            let (others, last) = words.split_at(words.len() - 1);
            assert!(problem.ends_with(&format!("use {} or {}", others.join(", "), last[0])), "{problem}");
        }
    }

    #[test]
    fn texts_are_sentences() {
        for key in KEYS {
            assert!(key.text.ends_with('.') && key.text.len() > 5, "{key:?}");
        }
    }
}
