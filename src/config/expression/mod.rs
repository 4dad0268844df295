//! Expressions that operators write into the configuration: what a rule asks, what a claim says.
//!
//! They are minijinja's, with a fixed vocabulary. A name that does not exist is a problem of the configuration; an attribute that a
//! person does not have is an error when it is asked for, never a value that happens to be unequal to something.

mod facts;

use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

pub(crate) use facts::Facts;

/// Instructions that one evaluation may take; a rule takes some ten.
const FUEL: u64 = 20_000;
const MOST_CHARACTERS: usize = 2000;

/// Everything that can be asked about, without `profile.attributes.NAME`.
const NAMES: &[&str] = &[
    "profile.id",
    "profile.kind",
    "profile.name",
    "profile.email",
    "profile.email_domain",
    "profile.phone",
    "profile.status",
    "profile.is_member",
    "profile.customer_type",
    "profile.paid_through",
    "profile.organization",
    "profile.groups",
    "profile.memberships",
    "identity.id",
    "identity.on_behalf_of",
    "app.name",
    "app.path",
    "request.brand_id",
    "request.locale_id",
    "request.date",
];
const ATTRIBUTES: &str = "profile.attributes.";
/// Names for which iMIS has to be asked once more.
const OF_GROUPS: [&str; 2] = ["profile.groups", "profile.memberships"];

/// An expression that reads well.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Expression {
    source: String,
    /// What it asks about.
    names: Vec<String>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Why an expression has no value. Never holds one of a person's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    #[error("the person has no attribute `{0}`")]
    NoAttribute(String),
    #[error("the attribute `{0}` holds several things, or stands there more than once")]
    Unreadable(String),
    #[error("a membership has no `{0}`")]
    NoField(String),
    #[error("it does not say true or false, but {0}")]
    NotTruth(&'static str),
    #[error("it takes too long")]
    TooLong,
    #[error("it cannot be worked out: {0}")]
    Failed(&'static str),
}

/// The language: built once, used by all.
pub(crate) struct Language(Environment<'static>);

impl Language {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        Self(environment)
    }

    /// Reads an expression; what is wrong with it otherwise.
    pub(crate) fn read(&self, source: &str) -> Result<Expression, String> {
        if source.len() > MOST_CHARACTERS {
            return Err(format!("is longer than {MOST_CHARACTERS} characters"));
        }
        let compiled = self.0.compile_expression_owned(source.to_owned());
        let compiled = compiled.map_err(|error| {
            let detail = error.detail().map(str::to_owned);
            format!("is not an expression: {}", detail.unwrap_or_else(|| error.kind().to_string()))
        })?;
        let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        names.sort();
        for name in &names {
            known(name)?;
        }
        self.words(source)?;
        Ok(Expression { source: source.to_owned(), names })
    }

    /// Looks at what compiling leaves until somebody is to be decided about: filters and tests that do not exist, and an `if` that
    /// comes to nothing.
    fn words(&self, source: &str) -> Result<(), String> {
        let words = words(source);
        let count = |word: &str| words.iter().filter(|found| found.text == word && !found.is_filter).count();
        if count("if") != count("else") {
            return Err("has an if without else; write `.. if .. else none`".to_owned());
        }
        let exists = |probe: String, kind: ErrorKind| {
            let compiled = self.0.compile_expression_owned(probe);
            !matches!(compiled.and_then(|compiled| compiled.eval(())), Err(error) if error.kind() == kind)
        };
        for word in words.iter().filter(|word| word.is_filter) {
            if !exists(format!("none|{}", word.text), ErrorKind::UnknownFilter) {
                return Err(format!("knows no filter `{}`", word.text));
            }
        }
        let mut rest = words.iter().filter(|word| !word.is_filter).map(|word| word.text).peekable();
        while let Some(word) = rest.next() {
            if word != "is" {
                continue;
            }
            let _ = rest.next_if_eq(&"not");
            if let Some(test) = rest.peek()
                && !exists(format!("none is {test}"), ErrorKind::UnknownTest)
            {
                return Err(format!("knows no test `{test}`"));
            }
        }
        Ok(())
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, expression: &Expression, facts: &Facts) -> Result<bool, ExpressionError> {
        let value = self.value(expression, facts)?;
        if value.kind() == ValueKind::Bool {
            Ok(value.is_true())
        } else {
            Err(ExpressionError::NotTruth(kind_of(&value)))
        }
    }

    pub(crate) fn value(&self, expression: &Expression, facts: &Facts) -> Result<Value, ExpressionError> {
        facts.take_missed();
        let evaluated = self.0.compile_expression_owned(expression.source.clone());
        let evaluated = evaluated.and_then(|compiled| compiled.eval(facts.values()));
        if let Some(error) = facts.take_missed() {
            return Err(expression.in_its_own_words(error));
        }
        let value = evaluated.map_err(|error| failure(&error))?;
        if value.is_undefined() || value.kind() == ValueKind::Invalid {
            return Err(ExpressionError::Failed("it has no value"));
        }
        Ok(value)
    }
}

impl Expression {
    /// Whether iMIS has to be asked for groups to work it out.
    pub(crate) fn asks_groups(&self) -> bool {
        OF_GROUPS.iter().any(|group| self.asks(group))
    }

    /// Whether it comes to the same for everybody.
    pub(crate) fn is_constant(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn asks(&self, name: &str) -> bool {
        self.names.iter().any(|asked| asked == name)
    }

    /// Names that were worked out could be a person's values; those that stand in the expression are not.
    fn in_its_own_words(&self, error: ExpressionError) -> ExpressionError {
        let own = |name: String| if self.source.contains(&name) { name } else { "(worked out)".to_owned() };
        match error {
            ExpressionError::NoAttribute(name) => ExpressionError::NoAttribute(own(name)),
            ExpressionError::Unreadable(name) => ExpressionError::Unreadable(own(name)),
            ExpressionError::NoField(name) => ExpressionError::NoField(own(name)),
            other
            @ (ExpressionError::NotTruth(_) | ExpressionError::TooLong | ExpressionError::Failed(_)) => other,
        }
    }
}

/// A word of an expression, outside of its texts.
struct Word<'a> {
    text: &'a str,
    /// It stands behind a `|`.
    is_filter: bool,
}

fn words(source: &str) -> Vec<Word<'_>> {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = source;
    let mut is_filter = false;
    while let Some(first) = rest.chars().next() {
        let behind = if matches!(first, '\'' | '"') {
            let mut is_escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == first && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                ends
            });
            is_filter = false;
            end.map_or(rest.len(), |(at, _)| at + 1)
        } else if is_of_word(first) {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            words.push(Word { text: &rest[..end], is_filter });
            is_filter = false;
            end
        } else {
            if !first.is_whitespace() {
                is_filter = first == '|';
            }
            first.len_utf8()
        };
        rest = &rest[behind..];
    }
    words
}

/// Whether a name that is written in an expression exists.
fn known(name: &str) -> Result<(), String> {
    let attribute = name.strip_prefix(ATTRIBUTES).is_some_and(|name| !name.is_empty() && !name.contains('.'));
    if NAMES.contains(&name) || attribute {
        return Ok(());
    }
    if name == "profile.attributes" {
        return Err("names no attribute: write profile.attributes.NAME, or profile.attributes.get('A name', 'if there is none'); \
                    profile.attributes.has('NAME') tells whether there is one"
            .to_owned());
    }
    let near = NAMES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    Err(match near {
        Some((_, near)) => format!("knows no `{name}`; did you mean `{near}`?"),
        None => format!("knows no `{name}`; there is {} and profile.attributes.NAME", NAMES.join(", ")),
    })
}

/// What minijinja says, without the values that it may quote.
fn failure(error: &Error) -> ExpressionError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
    match error.kind() {
        ErrorKind::OutOfFuel => ExpressionError::TooLong,
        ErrorKind::UndefinedError => ExpressionError::Failed("something in it has no value"),
        ErrorKind::UnknownMethod => ExpressionError::Failed("a method in it does not exist"),
        ErrorKind::UnknownFilter => ExpressionError::Failed("a filter in it does not exist"),
        ErrorKind::UnknownTest => ExpressionError::Failed("a test in it does not exist"),
        ErrorKind::UnknownFunction => ExpressionError::Failed("a function in it does not exist"),
        _ => ExpressionError::Failed("an operation in it does not fit its values"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow")]
fn kind_of(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None => "none",
        ValueKind::Number => "a number",
        ValueKind::String => "text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a mapping",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn facts() -> Facts {
        let values = BTreeMap::from([
            ("profile.kind", Value::from("person")),
            ("profile.status", Value::from("A")),
            ("profile.is_member", Value::from(true)),
            ("profile.paid_through", Value::from("2026-12-31")),
            ("profile.groups", Value::from(vec!["Staff", "Board"])),
            ("request.date", Value::from("2026-11-27")),
            ("request.brand_id", Value::from(42)),
        ]);
        let attributes = [
            ("CustomerTypeCode", Some("M")),
            ("Member Status", Some("Gold")),
            ("List", None),
            ("Twice", Some("a")),
            ("TWICE", Some("b")),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.map(Value::from)));
        let membership = BTreeMap::from([("group", Value::from("Suspended")), ("role", Value::from(()))]);
        Facts::new(&values, attributes, [membership])
    }

    fn holds(source: &str) -> Result<bool, ExpressionError> {
        let language = Language::new();
        language.holds(&language.read(source).unwrap_or_else(|error| panic!("{source}: {error}")), &facts())
    }

    #[test]
    fn what_is_asked_is_answered() {
        for source in [
            "profile.kind == 'person'",
            "profile.is_member and profile.status == 'A'",
            "profile.paid_through >= request.date",
            "'Staff' in profile.groups and 'Cooks' not in profile.groups",
            "request.brand_id == 42",
            "profile.attributes.CustomerTypeCode in ['M', 'S']",
            "profile.attributes.get('Member Status') == 'Gold'",
            "profile.attributes.get('Chapter', 'none') == 'none'",
            "profile.attributes.has('CustomerTypeCode') and not profile.attributes.has('Chapter')",
            "identity.on_behalf_of is none",
            "profile.groups|length == 2",
            "profile.attributes.customertypecode == 'M' and profile.attributes.has('MEMBER STATUS')",
            "('x' if profile.is_member else none) == 'x'",
            "'Suspended' in profile.memberships|map(attribute='group')|list",
            "profile.memberships|selectattr('group', 'equalto', 'Board')|list|length == 0",
            "profile.status is not none and 'if else' is string",
            "true",
        ] {
            assert_eq!(holds(source), Ok(true), "{source}");
        }
        assert_eq!(holds("profile.status == 'I'"), Ok(false));
    }

    /// A comparison with something that is not there would be true as often as not.
    #[test]
    fn what_is_not_there_is_an_error_and_never_unequal() {
        let missing = Err(ExpressionError::NoAttribute("Chapter".to_owned()));
        for source in [
            "profile.attributes.Chapter != 'North'",
            "profile.attributes.Chapter == 'North'",
            "not profile.attributes.Chapter",
            "profile.attributes.get('Chapter') != 'North'",
            "profile.is_member and profile.attributes.Chapter != 'x'",
            "profile.attributes.Chapter is defined",
            "profile.attributes.Chapter|default('x') == 'x'",
        ] {
            assert_eq!(holds(source), missing, "{source}");
        }
        for source in [
            "'Suspended' not in profile.memberships|map(attribute='grup')|list",
            "profile.memberships|selectattr('grup', 'equalto', 'Suspended')|list|length == 0",
            "profile.memberships|map(attribute='grup', default='x')|list|length == 1",
        ] {
            assert_eq!(holds(source), Err(ExpressionError::NoField("grup".to_owned())), "{source}");
        }
        for (source, name) in [
            ("profile.attributes.List != 'x'", "List"),
            ("profile.attributes.get('List', false)", "List"),
            ("profile.attributes.get('twice', 'a') == 'c'", "twice"),
        ] {
            assert_eq!(holds(source), Err(ExpressionError::Unreadable(name.to_owned())), "{source}");
        }
        assert_eq!(
            holds("profile.attributes.get(profile.kind) == 'x'"),
            Err(ExpressionError::NoAttribute("(worked out)".to_owned())),
            "a person's value is not told"
        );
        assert_eq!(
            holds("profile.is_member or profile.attributes.Chapter == 'x'"),
            Ok(true),
            "not asked for"
        );
    }

    #[test]
    fn the_answer_is_true_or_false_and_comes_soon() {
        for (source, kind) in [
            ("profile.status", "text"),
            ("profile.groups", "a list"),
            ("profile.phone", "none"),
            ("1", "a number"),
        ] {
            assert_eq!(holds(source), Err(ExpressionError::NotTruth(kind)), "{source}");
        }
        let language = Language::new();
        let many = BTreeMap::from([("profile.groups", Value::from(vec!["x"; 400_000]))]);
        let long = language.read("'y' in profile.groups").unwrap();
        assert_eq!(language.holds(&long, &Facts::new(&many, [], [])), Err(ExpressionError::TooLong));
        for source in [
            "profile.kind > 1 / 0",
            "profile.groups[7] != 'Suspended'",
            "profile.groups[7] not in ['Suspended']",
            "'x' not in profile.groups[7]",
            "'Board' not in profile.phone",
        ] {
            assert!(holds(source).is_err(), "{source}");
        }
    }

    #[test]
    fn names_that_do_not_exist_are_told_when_the_file_is_read() {
        let problem = |source: &str| Language::new().read(source).unwrap_err();
        assert!(problem("profile.statuz == 'A'").contains("did you mean `profile.status`?"));
        assert!(problem("member").contains("there is profile.id"));
        for bare in
            ["'x' in profile.attributes", "profile.attributes['x'] != 'y'", "profile.attributes|length > 0"]
        {
            assert!(problem(bare).contains("write profile.attributes.NAME"), "{bare}: {}", problem(bare));
        }
        for whole in
            ["range(10)|length > 1", "profile", "profile['status'] != 'I'", "profile|length", "request == 1"]
        {
            assert!(problem(whole).contains("knows no"), "{whole}");
        }
        for below in [
            "profile.groups.Staff is undefined",
            "profile.status.x|default(true)",
            "profile.name.includes('x')",
        ] {
            assert!(problem(below).contains("knows no"), "{below}: {}", problem(below));
        }
        assert!(problem("(profile.attributes.A if profile.is_member) != 'x'").contains("if without else"));
        assert!(problem("profile.is_member and profile.name|lowr == 'x'").contains("no filter `lowr`"));
        assert!(problem("profile.is_member is not nonne").contains("no test `nonne`"));
        for nonsense in ["profile.status ==", "", "{{ profile.status }}", "profile.status = 'A'"] {
            assert!(
                problem(nonsense).starts_with("is not an expression"),
                "{nonsense}: {}",
                problem(nonsense)
            );
        }
        assert!(problem(&"x".repeat(3000)).contains("longer"));
    }

    #[test]
    fn groups_are_asked_for_only_by_whoever_names_them() {
        let asks = |source: &str| Language::new().read(source).unwrap().asks_groups();
        assert!(asks("'Staff' in profile.groups") && asks("profile.memberships|length > 1"));
        assert!(!asks("profile.is_member"));
    }
}
