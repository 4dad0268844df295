//! Reads the tree of the file by the table of keys.
//!
//! A method that finds a wrong value reports a problem and returns a placeholder (zero, empty), or `None` where a type
//! has none. So one run reports all problems. `Reader::finish` returns them; the caller must discard what it has read
//! when there are any.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_saphyr::{Location, Spanned};

use crate::base::x509;
use crate::config::files::Files;
use crate::config::key::{Key, Kind, Preset, without_indexes};
use crate::config::keys::KEYS;
use crate::config::pem;
use crate::config::problem::Problem;
use crate::config::tree::{self, Node};
use crate::config::values::{self, Roots};

/// Keys and words with another name in an earlier draft of the format, and their present name.
const RENAMED: [(&str, &str); 12] = [
    ("age", "connection_age"),
    ("body_rate", "min_body_rate"),
    ("first", "failover"),
    ("gap", "body_idle"),
    ("if_broken", "on_error"),
    ("keep", "preserve"),
    ("percent", "sample_percent"),
    ("requests", "concurrent_requests"),
    ("spread", "least_requests"),
    ("trace", "generate_traceparent"),
    ("wait", "queue_timeout"),
    ("watch", "watch_interval"),
];

/// The name that was meant, if one is near enough.
pub(super) fn nearest<'a>(known: &[&'a str], found: &str) -> Option<&'a str> {
    let renamed = RENAMED.iter().find(|(old, _)| *old == found).map(|(_, new)| *new);
    let distance = |name: &str| strsim::damerau_levenshtein(name, &found.to_lowercase());
    known.iter().copied().find(|name| Some(*name) == renamed).or_else(|| {
        let near = known.iter().map(|name| (distance(name), *name));
        near.filter(|(distance, name)| *distance <= 1 + name.len() / 4).min().map(|(_, name)| name)
    })
}

/// Collects the problems of one file.
pub(super) struct Reader {
    files: Files,
    /// Each key of the table with its default, by its path without brackets.
    keys: BTreeMap<String, (&'static Key, Option<Spanned<Node>>)>,
    problems: RefCell<Vec<Problem>>,
}

impl Reader {
    /// For a configuration file with this path.
    pub(super) fn new(file: &Path) -> Self {
        let default = |key: &Key| tree::parse(key.default.yaml()?).ok();
        let keys = KEYS.iter().map(|key| (without_indexes(key.path), (key, default(key))));
        let files = Files::below(file.parent().unwrap_or(Path::new(".")));
        Self { files, keys: keys.collect(), problems: RefCell::default() }
    }

    /// The document as a section.
    pub(super) fn document<'a>(&'a self, node: &'a Spanned<Node>) -> Value<'a> {
        Value { reader: self, node: &node.value, place: node.referenced, path: String::new() }.as_section()
    }

    /// The files that were read, and the problems in the order of the file.
    pub(super) fn finish(self) -> (Files, Vec<Problem>) {
        let mut list = self.problems.into_inner();
        list.sort_by_key(|problem| (problem.line, problem.column));
        (self.files, list)
    }
}

/// A value with its place in the file. A section is a value that is a mapping.
#[derive(Clone)]
pub(super) struct Value<'a> {
    reader: &'a Reader,
    node: &'a Node,
    /// For a default, the place of its section.
    place: Location,
    /// As problems show it: `sites[0].hosts`.
    path: String,
}

impl<'a> Value<'a> {
    pub(super) fn report(&self, reason: impl Into<String>) {
        let (line, column) = (self.place.line(), self.place.column());
        let problem = Problem { line, column, key: self.path.clone(), reason: reason.into() };
        self.reader.problems.borrow_mut().push(problem);
    }

    pub(super) fn files(&self) -> &'a Files {
        &self.reader.files
    }

    fn kind(&self) -> Option<Kind> {
        self.reader.keys.get(&without_indexes(&self.path)).map(|(key, _)| key.kind)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// `null`, or what YAML reads as false: `false`, `no`, `off`.
    fn is_off(&self) -> bool {
        matches!(self.node, Node::Null | Node::Bool(false))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node, Node::List(_))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node, Node::Map(_))
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.node, Node::Text(text) if text == word)
    }

    /// A text, parsed by `parse`.
    pub(super) fn as_text<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match self.node {
            Node::Text(text) => return parse(text).map_err(|reason| self.report(reason)).ok(),
            // The parser explains that `3` should be `3s`. A name like `0123` would lose its zero.
            Node::Number(text) => {
                self.report(
                    parse(text)
                        .err()
                        .unwrap_or_else(|| format!("expected text; write it in quotes, like \"{text}\"")),
                );
            }
            Node::Null | Node::Bool(_) | Node::List(_) | Node::Map(_) => {
                self.report(format!("expected text, found {}", self.node.kind()));
            }
        }
        None
    }

    /// One of these words, at least two.
    pub(super) fn as_word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let parse = |text: &str| {
            let found = words.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| match nearest(&names, text) {
                Some(near) => format!("unknown value `{text}`; did you mean `{near}`?"),
                None => {
                    let (others, last) = names.split_at(names.len() - 1);
                    format!("unknown value `{text}`; use {} or {}", others.join(", "), last.concat())
                }
            })
        };
        if names.contains(&"off") && self.is_off() { parse("off").ok() } else { self.as_text(parse) }
    }

    /// A value that is itself the constant: a number, a boolean, nothing, or a list. `None` for a text.
    pub(super) fn constant(&self) -> Option<serde_json::Value> {
        if matches!(self.node, Node::Text(_)) { None } else { self.node.json() }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Value<'a>> {
        let Node::List(list) = self.node else {
            self.report(format!("expected a list, found {}", self.node.kind()));
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Spanned<Node>)| Value {
            reader: self.reader,
            node: &node.value,
            place: node.referenced,
            path: format!("{}[{index}]", self.path),
        };
        list.iter().enumerate().map(item).collect()
    }

    /// The items of a list. Reports `reason` if it is empty.
    pub(super) fn some_items(&self, reason: &str) -> Vec<Value<'a>> {
        if matches!(self.node, Node::List(list) if list.is_empty()) {
            self.report(reason);
        }
        self.items()
    }

    /// A list of texts, each parsed by `parse`; without the wrong ones.
    pub(super) fn as_texts<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.items().iter().filter_map(|item| item.as_text(&parse)).collect()
    }

    fn child(&self, name: &str, node: &'a Node, place: Location) -> Value<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Value { reader: self.reader, node, place, path }
    }

    /// The entries of a mapping that may have any keys; none, after a problem, if it is something else.
    pub(super) fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        let Node::Map(entries) = self.node else {
            self.report(format!("expected a mapping of keys, found {}", self.node.kind()));
            return Vec::new();
        };
        let entry = |(name, node): &'a (Spanned<String>, Spanned<Node>)| {
            (name.value.as_str(), self.child(&name.value, &node.value, node.referenced))
        };
        entries.iter().map(entry).collect()
    }

    /// A mapping with the keys that the table has for it. Reports every other key.
    pub(super) fn as_section(&self) -> Value<'a> {
        let path = without_indexes(&self.path);
        let known: Vec<&str> = KEYS.iter().filter_map(|key| key.name_in(&path)).collect();
        self.allow_only(&known);
        self.clone()
    }

    /// Reports every key that is not one of these.
    pub(super) fn allow_only(&self, known: &[&str]) {
        let Node::Map(entries) = self.node else {
            return self.report(format!("expected a mapping of keys, found {}", self.node.kind()));
        };
        for (name, node) in entries.iter().filter(|(name, _)| !known.contains(&name.value.as_str())) {
            let hint = match nearest(known, &name.value) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys here: {}", known.join(", ")),
            };
            // At the name, not at the value.
            let key = self.child(&name.value, &node.value, name.referenced);
            key.report(format!("unknown key; {hint}"));
        }
    }

    /// The value in the file.
    pub(super) fn given(&self, name: &str) -> Option<Value<'a>> {
        let Node::Map(entries) = self.node else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.value == name)?;
        Some(self.child(name, &node.value, node.referenced))
    }

    /// The value in the file, or the default. `None` for null, and when there is neither.
    pub(super) fn value(&self, name: &str) -> Option<Value<'a>> {
        let absent = self.child(name, &Node::Null, self.place);
        let (key, default) = self.reader.keys.get(&without_indexes(&absent.path))?;
        let Some(value) = self.given(name) else {
            if key.default == Preset::Required {
                absent.report("required, but missing");
            }
            return default.as_ref().map(|node| Value { node: &node.value, ..absent });
        };
        // `NO` can be the text that was meant, so for texts only null means null.
        let is_text = matches!(key.kind, Kind::Text | Kind::Texts);
        let is_none = key.default.is_nullable() && if is_text { value.is_null() } else { value.is_off() };
        (!is_none).then_some(value)
    }

    /// The value in the file of a key that is required here, though not everywhere.
    pub(super) fn required(&self, name: &str) -> Option<Value<'a>> {
        let value = self.given(name);
        if value.is_none() {
            self.child(name, &Node::Null, self.place).report("required, but missing");
        }
        value
    }

    /// A text that is required here, though not everywhere.
    pub(super) fn required_text<T: Default>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.required(name).and_then(|value| value.as_text(parse)).unwrap_or_default()
    }

    /// A text, parsed by `parse`; for types without a placeholder.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.value(name)?.as_text(parse)
    }

    pub(super) fn text<T: Default>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        self.parsed(name, parse).unwrap_or_default()
    }

    pub(super) fn texts<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.value(name).map(|list| list.as_texts(parse)).unwrap_or_default()
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        let Some(value) = self.value(name) else { return false };
        if let Node::Bool(value) = value.node {
            return *value;
        }
        value.report(format!("expected true or false, found {}", value.node.kind()));
        false
    }

    /// A whole number within the bounds that the table has for the key.
    pub(super) fn number<T: TryFrom<u64> + Default>(&self, name: &str) -> T {
        let Some(value) = self.value(name) else { return T::default() };
        let (least, most) = match value.kind() {
            Some(Kind::Number(least, most) | Kind::NumberOrAuto(least, most)) => (least, most),
            _ => (0, u64::MAX),
        };
        let number = if let Node::Number(text) = value.node { text.parse().ok() } else { None };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            value.report(format!("expected a whole number from {least} to {most}"));
        }
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    /// A number; `None` for null and `auto`.
    pub(super) fn optional_number<T: TryFrom<u64> + Default>(&self, name: &str) -> Option<T> {
        (!self.value(name)?.is_word("auto")).then(|| self.number(name))
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        self.text(name, values::duration)
    }

    /// One of these words. The first one is the placeholder.
    pub(super) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> T {
        self.value(name).and_then(|value| value.as_word(words)).unwrap_or(words[0].1)
    }

    /// A section; `None` for null, and when it is neither given nor has defaults of its own.
    pub(super) fn section(&self, name: &str) -> Option<Value<'a>> {
        self.value(name).map(|value| value.as_section())
    }

    /// A section that is read with its defaults when it is not given.
    pub(super) fn with_defaults(&self, name: &str) -> Value<'a> {
        self.section(name).unwrap_or_else(|| self.child(name, &Node::Null, self.place))
    }

    /// The CA certificates of a `ca_file`, or those of the system.
    pub(super) fn roots(&self, name: &str) -> Roots {
        let read = |path: &str| pem::roots(self.files(), &self.files().at(path)).map(Roots);
        match self.value(name) {
            Some(value) => value.as_text(read).unwrap_or_default(),
            None => Roots(x509::system_roots()),
        }
    }

    /// Like `roots`, where the connection always uses TLS.
    pub(super) fn required_roots(&self, name: &str) -> Roots {
        let roots = self.roots(name);
        if roots.0.is_empty() && self.given(name).is_none_or(|value| value.is_null()) {
            self.report("the system has no CA certificates; install them (ca-certificates) or set ca_file");
        }
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_in_the_table_is_yaml() {
        let reader = Reader::new(Path::new("/nowhere/config.yaml"));
        assert_eq!(reader.keys.len(), KEYS.len(), "two keys have one path");
        for (key, default) in reader.keys.values() {
            assert_eq!(default.is_some(), key.default.yaml().is_some(), "{key:?}");
        }
    }
}
