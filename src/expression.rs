//! Expressions that operators write into the configuration: what a rule asks, what a claim says.
//!
//! They are minijinja's, with a fixed vocabulary. A name that does not exist is a problem of the configuration; an attribute that a
//! person does not have is an error when it is asked for, never a value that happens to be unequal to something.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

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
    asks_groups: bool,
    is_constant: bool,
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
    #[error("it does not say true or false, but {0}")]
    NotTruth(&'static str),
    #[error("it takes too long")]
    TooLong,
    #[error("it cannot be worked out: {0}")]
    Failed(&'static str),
}

/// What an expression is worked out over: a value for each name, some of them none.
pub(crate) struct Facts(Value);

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
        let asks_groups = names.iter().any(|name| {
            OF_GROUPS.iter().any(|group| name == group || name.starts_with(&format!("{group}.")))
        });
        Ok(Expression { source: source.to_owned(), asks_groups, is_constant: names.is_empty() })
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
        let evaluated = self.0.compile_expression_owned(expression.source.clone());
        let value = evaluated.and_then(|compiled| compiled.eval(facts.0.clone())).map_err(failure)?;
        if value.is_undefined() || value.kind() == ValueKind::Invalid {
            return Err(ExpressionError::Failed("it has no value"));
        }
        Ok(value)
    }
}

impl Expression {
    /// Whether iMIS has to be asked for groups to work it out.
    pub(crate) fn asks_groups(&self) -> bool {
        self.asks_groups
    }

    /// Whether it comes to the same for everybody.
    pub(crate) fn is_constant(&self) -> bool {
        self.is_constant
    }
}

/// Whether a name that is written in an expression exists.
fn known(name: &str) -> Result<(), String> {
    let is_part_of = |known: &&&str| name == **known || name.starts_with(&format!("{known}."));
    if NAMES.iter().any(|known| is_part_of(&known)) || (name.starts_with(ATTRIBUTES) && name != ATTRIBUTES) {
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

/// Attributes of a person: asking for one that is not there is an error.
#[derive(Debug)]
struct Attributes(BTreeMap<String, Value>);

impl Attributes {
    fn missing(name: &str) -> Error {
        Error::new(ErrorKind::UndefinedError, format!("attribute:{name}"))
    }
}

impl Object for Attributes {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str().unwrap_or("?");
        Some(self.0.get(name).cloned().unwrap_or_else(|| Value::from(Self::missing(name))))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        match (method, arguments) {
            ("has", [name]) => Ok(Value::from(name.as_str().is_some_and(|name| self.0.contains_key(name)))),
            ("get", [name]) => {
                let name = name.as_str().unwrap_or("?");
                self.0.get(name).cloned().ok_or_else(|| Self::missing(name))
            }
            ("get", [name, otherwise]) => {
                let found = name.as_str().and_then(|name| self.0.get(name)).filter(|value| !value.is_none());
                Ok(found.unwrap_or(otherwise).clone())
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl Facts {
    /// Of the values by their names; a name that is not given is none.
    pub(crate) fn new(values: &BTreeMap<&'static str, Value>, attributes: BTreeMap<String, Value>) -> Self {
        let mut roots: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for name in NAMES {
            let (root, leaf) = name.split_once('.').unwrap_or((name, ""));
            let value = values.get(name).cloned().unwrap_or(Value::from(()));
            roots.entry(root).or_default().insert(leaf, value);
        }
        let profile = roots.entry("profile").or_default();
        profile.insert("attributes", Value::from_object(Attributes(attributes)));
        Self(Value::from_pairs(roots.into_iter().map(|(root, leaves)| (root, Value::from_pairs(leaves)))))
    }
}

/// What minijinja says, without the values that it may quote.
fn failure(error: Error) -> ExpressionError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<Error>()
            && let Some(name) = error.detail().and_then(|detail| detail.strip_prefix("attribute:"))
        {
            return ExpressionError::NoAttribute(name.to_owned());
        }
        source = cause.source();
    }
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
        let attributes = BTreeMap::from([
            ("CustomerTypeCode".to_owned(), Value::from("M")),
            ("Member Status".to_owned(), Value::from("Gold")),
        ]);
        Facts::new(&values, attributes)
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
        assert_eq!(language.holds(&long, &Facts::new(&many, BTreeMap::new())), Err(ExpressionError::TooLong));
        assert!(holds("profile.kind > 1 / 0").is_err());
        assert!(holds("profile.status.nothing == 'x'").is_err());
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
