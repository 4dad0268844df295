//! What a key of the configuration takes, and what applies without it.

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Path of a file, relative to the configuration file.
    Path,
    Bool,
    /// A whole number within these bounds.
    Number(u64, u64),
    /// A whole number within these bounds, or `auto`.
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
    /// A mapping with keys of its own.
    Section,
    /// A list of sections.
    Sections,
    /// One section, or a list of them.
    SectionOrSections,
    /// A mapping with any keys.
    Mapping,
}

/// What applies when a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preset {
    /// The key must be given.
    Required,
    /// A value, as YAML.
    Is(&'static str),
    /// The defaults of the section's own keys.
    Below,
    /// `null`, which can also be given: off.
    Null,
    /// A value, as YAML; `null` can be given to turn the feature off.
    IsOrNull(&'static str),
    /// Anything else, in words.
    Absent(&'static str),
}

impl Preset {
    pub(crate) fn is_nullable(self) -> bool {
        matches!(self, Self::Null | Self::IsOrNull(_))
    }

    /// The default value as YAML, if it is one.
    pub(crate) fn yaml(self) -> Option<&'static str> {
        match self {
            Self::Is(text) | Self::IsOrNull(text) => Some(text),
            Self::Below => Some("{}"),
            Self::Required | Self::Null | Self::Absent(_) => None,
        }
    }
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Dotted path, with `[]` for each item of a list.
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Preset,
    pub(crate) text: &'static str,
}

pub(super) const fn key(path: &'static str, kind: Kind, default: Preset, text: &'static str) -> Key {
    Key { path, kind, default, text }
}

impl Key {
    /// The last part of the path, when the key belongs to the section with this path (without brackets).
    pub(super) fn name_in(&self, section: &str) -> Option<&'static str> {
        let (parent, name) = self.path.rsplit_once('.').unwrap_or(("", self.path));
        (without_indexes(parent) == section).then_some(name)
    }
}

/// A path without `[]` or `[0]`, to find the key in the table for a path in a file.
pub(super) fn without_indexes(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}
