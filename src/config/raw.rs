//! The YAML as it stands in the file: a tree of nodes with their places, and the reader that walks it.
//!
//! The reader collects problems instead of stopping at the first, and every key that nobody asked for is one.
//! `parse` is the only function that knows which YAML library is used.

use std::cell::RefCell;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::config::problem::Problem;

/// A YAML node. Numbers and booleans keep their text so that a message can quote them.
pub(super) enum Node {
    Null,
    Text(String),
    Number(String),
    Bool(bool),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    pub(super) fn number<T: std::str::FromStr>(&self) -> Option<T> {
        if let Self::Number(text) = self { text.parse().ok() } else { None }
    }

    pub(super) fn items(&self) -> &[Spanned<Node>] {
        if let Self::List(items) = self { items } else { &[] }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// What stands under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| &node.value)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = access.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// Reads one YAML document.
pub(super) fn parse(text: &str) -> Result<Spanned<Node>, Problem> {
    serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let full = error.without_snippet().to_string();
        // The library's advice to its programmers is of no use to an operator.
        let reason = full.split(", set DuplicateKeyPolicy").next().unwrap_or(&full);
        let reason = reason.split(" at line ").next().unwrap_or(reason);
        Problem { line, column, key: String::new(), reason: format!("not valid YAML: {reason}") }
    })
}

/// Keys and words that had another name in an earlier draft of the format, with the name they have now.
const RENAMED: [(&str, &str); 11] = [
    ("age", "connection_age"),
    ("body_rate", "min_body_rate"),
    ("first", "failover"),
    ("gap", "body_idle"),
    ("if_broken", "on_error"),
    ("percent", "sample_percent"),
    ("requests", "concurrent_requests"),
    ("spread", "least_requests"),
    ("trace", "generate_traceparent"),
    ("wait", "queue_timeout"),
    ("watch", "watch_interval"),
];

/// The present name of a key or word that has been renamed.
pub(super) fn renamed(old: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(name, _)| *name == old).map(|(_, new)| *new)
}

/// Collects the problems found while the tree is read.
#[derive(Default)]
pub(super) struct Reader {
    problems: RefCell<Vec<Problem>>,
    /// Paths of the keys that were looked for.
    #[cfg(test)]
    pub(super) asked: RefCell<Vec<String>>,
}

impl Reader {
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut list = self.problems.into_inner();
        list.sort_by_key(|problem| (problem.line, problem.column));
        list
    }

    pub(super) fn report<T>(&self, at: &Spanned<T>, key: &str, reason: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            line: at.referenced.line(),
            column: at.referenced.column(),
            key: key.to_owned(),
            reason: reason.into(),
        });
    }

    /// The document as a section.
    pub(super) fn document<'a>(&'a self, node: &'a Spanned<Node>) -> Option<Section<'a>> {
        Section::open(self, node, String::new())
    }
}

/// A value with its place and its key path.
#[derive(Clone)]
pub(super) struct Value<'a> {
    reader: &'a Reader,
    node: &'a Spanned<Node>,
    path: String,
}

impl<'a> Value<'a> {
    pub(super) fn report(&self, reason: impl Into<String>) {
        self.reader.report(self.node, &self.path, reason);
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Node::Null)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Node::List(_))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node.value, Node::Map(_))
    }

    /// Whether it is a mapping with this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node.value.get(key).is_some()
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(&self.node.value, Node::Text(text) if text == word)
    }

    /// Text, parsed by `parse`; a problem otherwise.
    pub(super) fn text<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match &self.node.value {
            Node::Text(text) => parse(text).map_err(|reason| self.report(reason)).ok(),
            // `3` where `3s` is meant is told what is wrong with it; `0123` where a name is meant would lose its zero.
            Node::Number(text) => {
                let reason = parse(text).err();
                self.report(
                    reason.unwrap_or_else(|| format!("expected text; write it in quotes, like \"{text}\"")),
                );
                None
            }
            other @ (Node::Null | Node::Bool(_) | Node::List(_) | Node::Map(_)) => {
                self.report(format!("expected text, found {}", other.kind()));
                None
            }
        }
    }

    /// A word, where `off` is one: YAML takes it for false.
    pub(super) fn word<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if self.is_off() { parse("off").map_err(|reason| self.report(reason)).ok() } else { self.text(parse) }
    }

    /// `null`, or what YAML takes for false: `false`, `no`, `off`.
    pub(super) fn is_off(&self) -> bool {
        matches!(self.node.value, Node::Null | Node::Bool(false))
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        if let Node::Number(text) = &self.node.value
            && let Ok(number) = text.parse()
            && range.contains(&number)
        {
            return Some(number);
        }
        self.report(format!("expected a whole number from {} to {}", range.start(), range.end()));
        None
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let Node::Bool(value) = self.node.value {
            return Some(value);
        }
        self.report(format!("expected true or false, found {}", self.node.value.kind()));
        None
    }

    /// A value that stands for itself: a number, true or false, nothing, or a list of such and of texts.
    pub(super) fn constant(&self) -> Option<serde_json::Value> {
        fn json(node: &Node) -> Option<serde_json::Value> {
            match node {
                Node::Null => Some(serde_json::Value::Null),
                Node::Bool(value) => Some((*value).into()),
                Node::Number(text) => serde_json::from_str(text).ok(),
                Node::Text(text) => Some(text.as_str().into()),
                Node::List(list) => list.iter().map(|item| json(&item.value)).collect(),
                Node::Map(_) => None,
            }
        }
        if matches!(self.node.value, Node::Text(_)) { None } else { json(&self.node.value) }
    }

    /// The items of a list; a problem when it is something else.
    pub(super) fn items(&self) -> Option<Vec<Value<'a>>> {
        let Node::List(list) = &self.node.value else {
            self.report(format!("expected a list, found {}", self.node.value.kind()));
            return None;
        };
        let item =
            |(index, node)| Value { reader: self.reader, node, path: format!("{}[{index}]", self.path) };
        Some(list.iter().enumerate().map(item).collect())
    }

    /// A list of texts, each parsed by `parse`; every wrong one is a problem.
    pub(super) fn texts<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let parsed: Vec<Option<T>> = self.items()?.iter().map(|item| item.text(&parse)).collect();
        parsed.into_iter().collect()
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        Section::open(self.reader, self.node, self.path.clone())
    }
}

/// A mapping that is being read. Call `finish` when all known keys have been asked for.
pub(super) struct Section<'a> {
    reader: &'a Reader,
    node: &'a Spanned<Node>,
    path: String,
    entries: &'a [(Spanned<String>, Spanned<Node>)],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn open(reader: &'a Reader, node: &'a Spanned<Node>, path: String) -> Option<Self> {
        let entries: &[_] = match &node.value {
            Node::Map(entries) => entries,
            other @ (Node::Null | Node::Text(_) | Node::Number(_) | Node::Bool(_) | Node::List(_)) => {
                reader.report(node, &path, format!("expected a mapping of keys, found {}", other.kind()));
                return None;
            }
        };
        Some(Self { reader, node, path, entries, known: Vec::new() })
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A problem of the section as a whole.
    pub(super) fn report(&self, reason: impl Into<String>) {
        self.reader.report(self.node, &self.path, reason);
    }

    pub(super) fn optional(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        #[cfg(test)]
        self.reader.asked.borrow_mut().push(self.key_path(key));
        let (_, node) = self.entries.iter().find(|(name, _)| name.value == key)?;
        Some(Value { reader: self.reader, node, path: self.key_path(key) })
    }

    pub(super) fn required(&mut self, key: &'static str) -> Option<Value<'a>> {
        let value = self.optional(key);
        if value.is_none() {
            self.reader.report(self.node, &self.key_path(key), "required, but missing");
        }
        value
    }

    /// Text under `key`, or `default` when the key is absent.
    pub(super) fn text_or<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        default: T,
    ) -> Option<T> {
        match self.optional(key) {
            Some(value) => value.text(parse),
            None => Some(default),
        }
    }

    /// All keys and their values, where any key may stand.
    pub(super) fn entries(self) -> Vec<(&'a str, Value<'a>)> {
        let value = |(name, node): &'a (Spanned<String>, Spanned<Node>)| {
            let path = self.key_path(&name.value);
            (name.value.as_str(), Value { reader: self.reader, node, path })
        };
        self.entries.iter().map(value).collect()
    }

    /// Whether there are keys that were not asked for.
    pub(super) fn has_others(&self) -> bool {
        self.entries.iter().any(|(name, _)| !self.known.contains(&name.value.as_str()))
    }

    /// Reports every unknown key, with the name it has now or the nearest known one.
    pub(super) fn finish(self) {
        for (name, _) in self.entries.iter().filter(|(name, _)| !self.known.contains(&name.value.as_str())) {
            let renamed = renamed(&name.value).filter(|new| self.known.contains(new)).map(|new| (0, new));
            let near = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &name.value.to_lowercase()), *known))
                .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
                .min();
            let hint = match renamed.or(near) {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None => format!("known keys here: {}", self.known.join(", ")),
            };
            self.reader.report(name, &self.key_path(&name.value), format!("unknown key; {hint}"));
        }
    }
}
