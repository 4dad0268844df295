//! The configuration file as a tree of YAML nodes, each with its line and column.
//!
//! `parse` is the only function that knows which YAML library is used.

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
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// As a JSON value; `None` for a mapping.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        match self {
            Self::Null => Some(serde_json::Value::Null),
            Self::Bool(value) => Some((*value).into()),
            Self::Number(text) => serde_json::from_str(text).ok(),
            Self::Text(text) => Some(text.as_str().into()),
            Self::List(list) => list.iter().map(|item| item.value.json()).collect(),
            Self::Map(_) => None,
        }
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
    let tree = serde_saphyr::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let full = error.without_snippet().to_string();
        // The library's advice to its programmers is of no use to an operator.
        let reason = full.split(", set DuplicateKeyPolicy").next().unwrap_or(&full);
        let reason = reason.split(" at line ").next().unwrap_or(reason);
        Problem { line, column, key: String::new(), reason: format!("not valid YAML: {reason}") }
    })?;
    match ambiguous_number(&tree, &text.lines().collect::<Vec<_>>()) {
        Some(problem) => Err(problem),
        None => Ok(tree),
    }
}

/// A number with a leading zero: `010` is 8 for some readers of YAML, and 10 for others.
fn ambiguous_number(node: &Spanned<Node>, lines: &[&str]) -> Option<Problem> {
    match &node.value {
        Node::Number(_) => {
            let (line, column) = (node.referenced.line(), node.referenced.column());
            let index = |number: u64| usize::try_from(number).ok()?.checked_sub(1);
            let written = lines.get(index(line)?)?.chars().skip(index(column)?);
            let digits: String = written.skip_while(|c| matches!(c, '+' | '-')).take(2).collect();
            let is_ambiguous = digits.starts_with('0') && digits.ends_with(|c: char| c.is_ascii_digit());
            (is_ambiguous && digits.len() == 2).then(|| Problem {
                line,
                column,
                key: String::new(),
                reason: "a number must not begin with 0: some readers take it for an octal number".to_owned(),
            })
        }
        Node::List(items) => items.iter().find_map(|item| ambiguous_number(item, lines)),
        Node::Map(entries) => entries.iter().find_map(|(_, value)| ambiguous_number(value, lines)),
        Node::Null | Node::Text(_) | Node::Bool(_) => None,
    }
}
