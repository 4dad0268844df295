//! Reads the tree of the file by the table of keys.
//!
//! A method that finds a wrong value reports a problem and returns a placeholder (zero, empty), or `None` where a type
//! has none. So one run reports all problems. `Reader::finish` returns them; whoever reads a file must discard the
//! result when there are any.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_saphyr::Spanned;

use crate::base::x509;
use crate::config::files::Files;
use crate::config::key::{Key, Kind, Preset};
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

/// `a, b or c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}

/// Collects the problems of one file.
pub(super) struct Reader {
    pub(super) files: Files,
    defaults: BTreeMap<&'static str, Spanned<Node>>,
    problems: RefCell<Vec<Problem>>,
}

impl Reader {
    pub(super) fn new(files: Files) -> Self {
        let default = |key: &Key| Some((key.path, tree::parse(key.default.yaml()?).ok()?));
        Self { files, defaults: KEYS.iter().filter_map(default).collect(), problems: RefCell::default() }
    }

    /// The document as a section.
    pub(super) fn document<'a>(&'a self, node: &'a Spanned<Node>) -> Section<'a> {
        let key = KeyPath { shown: String::new(), table: String::new() };
        Value { reader: self, node, place: Place::of(node), key }.section()
    }

    /// The files that were read, and the problems in the order of the file.
    pub(super) fn finish(self) -> (Files, Vec<Problem>) {
        let mut list = self.problems.into_inner();
        list.sort_by_key(|problem| (problem.line, problem.column));
        (self.files, list)
    }
}

/// A line and a column.
#[derive(Debug, Clone, Copy)]
struct Place {
    line: u64,
    column: u64,
}

impl Place {
    fn of<T>(node: &Spanned<T>) -> Self {
        Self { line: node.referenced.line(), column: node.referenced.column() }
    }
}

/// The path of a value: as problems show it (`sites[0].hosts`), and as the table has it (`sites[].hosts`).
#[derive(Debug, Clone)]
struct KeyPath {
    shown: String,
    table: String,
}

/// A value with its place and its path.
#[derive(Clone)]
pub(super) struct Value<'a> {
    reader: &'a Reader,
    node: &'a Spanned<Node>,
    /// For a default, the place of its section.
    place: Place,
    key: KeyPath,
}

impl<'a> Value<'a> {
    pub(super) fn report(&self, reason: impl Into<String>) {
        let Place { line, column } = self.place;
        let problem = Problem { line, column, key: self.key.shown.clone(), reason: reason.into() };
        self.reader.problems.borrow_mut().push(problem);
    }

    pub(super) fn files(&self) -> &'a Files {
        &self.reader.files
    }

    fn kind(&self) -> Option<Kind> {
        KEYS.iter().find(|key| key.path == self.key.table).map(|key| key.kind)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, Node::Null)
    }

    /// `null`, or what YAML reads as false: `false`, `no`, `off`.
    fn is_off(&self) -> bool {
        matches!(self.node.value, Node::Null | Node::Bool(false))
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
        self.node.value.text() == Some(word)
    }

    /// A text, parsed by `parse`.
    pub(super) fn text<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match &self.node.value {
            Node::Text(text) => parse(text).map_err(|reason| self.report(reason)).ok(),
            // The parser explains that `3` should be `3s`. A name like `0123` would lose its zero.
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

    /// One of these words. The first one is the placeholder.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let parse = |text: &str| {
            let found = words.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| match nearest(&names, text) {
                Some(near) => format!("unknown value `{text}`; did you mean `{near}`?"),
                None => format!("unknown value `{text}`; use {}", alternatives(&names)),
            })
        };
        let found =
            if names.contains(&"off") && self.is_off() { parse("off").ok() } else { self.text(parse) };
        found.unwrap_or(words[0].1)
    }

    pub(super) fn duration(&self) -> Duration {
        self.text(values::duration).unwrap_or_default()
    }

    /// A whole number within the bounds that the table has for the key.
    pub(super) fn number<T: TryFrom<u64> + Default>(&self) -> T {
        let (least, most) = match self.kind() {
            Some(Kind::Number(least, most) | Kind::NumberOrAuto(least, most)) => (least, most),
            _ => (0, u64::MAX),
        };
        let number = self.node.value.number().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.report(format!("expected a whole number from {least} to {most}"));
        }
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    /// A value that is itself the constant: a number, a boolean, nothing, or a list. `None` for a text.
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

    /// The items of a list.
    pub(super) fn items(&self) -> Vec<Value<'a>> {
        let Node::List(list) = &self.node.value else {
            self.report(format!("expected a list, found {}", self.node.value.kind()));
            return Vec::new();
        };
        let brackets = if self.kind() == Some(Kind::Sections) { "[]" } else { "" };
        let item = |(index, node)| {
            let KeyPath { shown, table } = &self.key;
            let key = KeyPath { shown: format!("{shown}[{index}]"), table: format!("{table}{brackets}") };
            Value { reader: self.reader, node, place: Place::of(node), key }
        };
        list.iter().enumerate().map(item).collect()
    }

    /// A list of texts, each parsed by `parse`; without the wrong ones.
    pub(super) fn texts<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.items().iter().filter_map(|item| item.text(&parse)).collect()
    }

    /// The entries of a mapping that may have any keys.
    pub(super) fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        let section = self.open();
        let name = |(name, node): &'a (Spanned<String>, Spanned<Node>)| {
            (name.value.as_str(), section.child(&name.value, node, Place::of(node)))
        };
        section.entries.iter().map(name).collect()
    }

    /// A mapping with the keys that the table has for it. Reports every other key.
    pub(super) fn section(&self) -> Section<'a> {
        let section = self.open();
        section.allow_only(&section.known());
        section
    }

    /// A mapping whose keys are not checked yet; empty, after a problem, if it is something else.
    pub(super) fn open(&self) -> Section<'a> {
        let entries: &[_] = match &self.node.value {
            Node::Map(entries) => entries,
            other @ (Node::Null | Node::Text(_) | Node::Number(_) | Node::Bool(_) | Node::List(_)) => {
                self.report(format!("expected a mapping of keys, found {}", other.kind()));
                &[]
            }
        };
        Section { value: self.clone(), entries }
    }
}

/// A mapping that is being read.
pub(super) struct Section<'a> {
    value: Value<'a>,
    entries: &'a [(Spanned<String>, Spanned<Node>)],
}

impl<'a> Section<'a> {
    pub(super) fn files(&self) -> &'a Files {
        self.value.files()
    }

    /// A problem of the section as a whole.
    pub(super) fn report(&self, reason: impl Into<String>) {
        self.value.report(reason);
    }

    /// Names of the keys that the table has for this section.
    fn known(&self) -> Vec<&'static str> {
        KEYS.iter().filter_map(|key| key.name_in(&self.value.key.table)).collect()
    }

    /// Reports every key that is not one of these.
    pub(super) fn allow_only(&self, known: &[&str]) {
        for (name, _) in self.entries.iter().filter(|(name, _)| !known.contains(&name.value.as_str())) {
            let hint = match nearest(known, &name.value) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys here: {}", known.join(", ")),
            };
            // At the name, not at the value.
            let mut value = self.value.clone();
            (value.place, value.key) = (Place::of(name), self.path(&name.value));
            value.report(format!("unknown key; {hint}"));
        }
    }

    fn path(&self, name: &str) -> KeyPath {
        let below = |path: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        KeyPath { shown: below(&self.value.key.shown), table: below(&self.value.key.table) }
    }

    fn child(&self, name: &str, node: &'a Spanned<Node>, place: Place) -> Value<'a> {
        Value { reader: self.value.reader, node, place, key: self.path(name) }
    }

    /// The value in the file.
    pub(super) fn given(&self, name: &str) -> Option<Value<'a>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.value == name)?;
        Some(self.child(name, node, Place::of(node)))
    }

    /// Whether the file has a value other than null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given(name).is_some_and(|value| !value.is_null())
    }

    /// The value in the file, or the default. `None` for null, and when there is neither.
    pub(super) fn value(&self, name: &str) -> Option<Value<'a>> {
        let path = self.path(name).table;
        let key = KEYS.iter().find(|key| key.path == path)?;
        let Some(value) = self.given(name) else {
            if key.default == Preset::Required {
                self.report_missing(name);
            }
            let default = self.value.reader.defaults.get(key.path)?;
            return Some(self.child(name, default, self.value.place));
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
            self.report_missing(name);
        }
        value
    }

    fn report_missing(&self, name: &str) {
        let mut missing = self.value.clone();
        missing.key = self.path(name);
        missing.report("required, but missing");
    }

    /// A text, parsed by `parse`; for types without a placeholder.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.value(name)?.text(parse)
    }

    pub(super) fn text<T: Default>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        self.parsed(name, parse).unwrap_or_default()
    }

    pub(super) fn texts<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.value(name).map(|list| list.texts(parse)).unwrap_or_default()
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        let Some(value) = self.value(name) else { return false };
        if let Node::Bool(value) = value.node.value {
            return value;
        }
        value.report(format!("expected true or false, found {}", value.node.value.kind()));
        false
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&self, name: &str) -> T {
        self.value(name).map(|value| value.number()).unwrap_or_default()
    }

    /// A number; `None` for `auto`.
    pub(super) fn number_or_auto(&self, name: &str) -> Option<usize> {
        self.value(name).filter(|value| !value.is_word("auto")).map(|value| value.number())
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        self.value(name).map(|value| value.duration()).unwrap_or_default()
    }

    pub(super) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> T {
        self.value(name).map_or(words[0].1, |value| value.word(words))
    }

    /// A section; `None` for null, and when it is neither given nor has defaults of its own.
    pub(super) fn section(&self, name: &str) -> Option<Section<'a>> {
        self.value(name).map(|value| value.section())
    }

    /// A section that is read with its defaults when it is not given.
    pub(super) fn with_defaults(&self, name: &str) -> Section<'a> {
        self.section(name).unwrap_or_else(|| Section { value: self.value.clone(), entries: &[] })
    }

    /// The CA certificates of a `ca_file`, or those of the system.
    pub(super) fn roots(&self, name: &str) -> Roots {
        let read = |path: &str| pem::roots(self.files(), &self.files().at(path)).map(Roots);
        match self.value(name) {
            Some(value) => value.text(read).unwrap_or_default(),
            None => Roots(x509::system_roots()),
        }
    }

    /// The same, where the connection always uses TLS.
    pub(super) fn required_roots(&self, name: &str) -> Roots {
        let roots = self.roots(name);
        if !self.has(name) && roots.0.is_empty() {
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
        let reader = Reader::new(Files::below(std::path::Path::new("/nowhere")));
        let values = KEYS.iter().filter(|key| key.default.yaml().is_some()).count();
        assert_eq!(reader.defaults.len(), values);
    }
}
