//! Reads and evaluates expressions.

use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};

use crate::config::expression::facts::Facts;
use crate::config::expression::names::{ExpressionError, GROUPS, failure, kind_of, require_known};

/// Instructions per evaluation; a typical rule needs about ten.
const MAX_INSTRUCTIONS: u64 = 20_000;
const MAX_CHARACTERS: usize = 2000;

/// A valid expression.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Expression {
    source: String,
    /// The variables in it.
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

impl Expression {
    /// Whether its value needs the groups of the person.
    pub(crate) fn asks_groups(&self) -> bool {
        GROUPS.iter().any(|group| self.asks(group))
    }

    /// Whether it has the same value for everyone.
    pub(crate) fn is_constant(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn asks(&self, name: &str) -> bool {
        self.names.iter().any(|asked| asked == name)
    }

    /// Hides a name that is not in the expression: it was computed, and can be a value of a person.
    fn without_values(&self, mut error: ExpressionError) -> ExpressionError {
        use ExpressionError::{NoAttribute, NoField, Unreadable};
        if let NoAttribute(name) | Unreadable(name) | NoField(name) = &mut error
            && !self.source.contains(name.as_str())
        {
            *name = "(computed)".to_owned();
        }
        error
    }
}

/// The language: built once, used for every expression.
pub(crate) struct Language(Environment<'static>);

impl Language {
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        Self(environment)
    }

    /// Reads an expression, or says what is wrong with it.
    pub(crate) fn read(&self, source: &str) -> Result<Expression, String> {
        if source.len() > MAX_CHARACTERS {
            return Err(format!("is longer than {MAX_CHARACTERS} characters"));
        }
        let compiled = self.0.compile_expression_owned(source.to_owned()).map_err(|error| {
            let detail = error.detail().map(str::to_owned);
            format!("is not an expression: {}", detail.unwrap_or_else(|| error.kind().to_string()))
        })?;
        let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        names.sort();
        names.iter().try_for_each(|name| require_known(name))?;
        self.check_words(&words(source))?;
        Ok(Expression { source: source.to_owned(), names })
    }

    /// Finds mistakes that minijinja finds only when it evaluates that part: unknown filters and tests, and an `if`
    /// without a value.
    fn check_words(&self, words: &[&str]) -> Result<(), String> {
        let exists = |probe: String, unknown: ErrorKind| {
            let evaluated = self.0.compile_expression_owned(probe).and_then(|compiled| compiled.eval(()));
            !matches!(evaluated, Err(error) if error.kind() == unknown)
        };
        let (mut ifs, mut elses) = (0, 0);
        for (index, word) in words.iter().enumerate() {
            match (&words[..index], *word) {
                ([.., "|"], filter) if !exists(format!("none|{filter}"), ErrorKind::UnknownFilter) => {
                    return Err(format!("knows no filter `{filter}`"));
                }
                ([.., "|"], _) => {}
                ([.., "is", "not"] | [.., "is"], test)
                    if test != "not" && !exists(format!("none is {test}"), ErrorKind::UnknownTest) =>
                {
                    return Err(format!("knows no test `{test}`"));
                }
                (_, "if") => ifs += 1,
                (_, "else") => elses += 1,
                _ => {}
            }
        }
        if ifs != elses {
            return Err("has an if without else; write `.. if .. else none`".to_owned());
        }
        Ok(())
    }

    /// Whether a condition is true.
    pub(crate) fn holds(&self, expression: &Expression, facts: &Facts) -> Result<bool, ExpressionError> {
        let value = self.value(expression, facts)?;
        if value.kind() == ValueKind::Bool {
            Ok(value.is_true())
        } else {
            Err(ExpressionError::NotBoolean(kind_of(&value)))
        }
    }

    pub(crate) fn value(&self, expression: &Expression, facts: &Facts) -> Result<Value, ExpressionError> {
        facts.take_missing();
        let evaluated = self.0.compile_expression_owned(expression.source.clone());
        let evaluated = evaluated.and_then(|compiled| compiled.eval(facts.values()));
        if let Some(error) = facts.take_missing() {
            return Err(expression.without_values(error));
        }
        let value = evaluated.map_err(|error| failure(&error))?;
        if value.is_undefined() || value.kind() == ValueKind::Invalid {
            return Err(ExpressionError::Failed("the expression has no value"));
        }
        Ok(value)
    }
}

/// The words, text literals and other characters of an expression.
fn words(source: &str) -> Vec<&str> {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => literal_length(rest, first),
            c if is_of_word(c) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (word, behind) = rest.split_at(length);
        words.push(word);
        rest = behind.trim_start();
    }
    words
}

/// Bytes of the text literal at the beginning, with its quotes.
fn literal_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == quote && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, quote)| at + quote.len_utf8())
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
    fn conditions_are_evaluated() {
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

    /// A comparison with a missing value could be true by accident.
    #[test]
    fn a_missing_value_is_an_error() {
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
            Err(ExpressionError::NoAttribute("(computed)".to_owned())),
            "the error does not contain a value of a person"
        );
        assert_eq!(
            holds("profile.is_member or profile.attributes.Chapter == 'x'"),
            Ok(true),
            "not asked for"
        );
    }

    #[test]
    fn a_condition_is_a_boolean_within_limits() {
        for (source, kind) in [
            ("profile.status", "text"),
            ("profile.groups", "a list"),
            ("profile.phone", "none"),
            ("1", "a number"),
        ] {
            assert_eq!(holds(source), Err(ExpressionError::NotBoolean(kind)), "{source}");
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
    fn unknown_names_are_problems_of_the_file() {
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
    fn only_expressions_with_groups_ask_for_groups() {
        let asks = |source: &str| Language::new().read(source).unwrap().asks_groups();
        assert!(asks("'Staff' in profile.groups") && asks("profile.memberships|length > 1"));
        assert!(!asks("profile.is_member"));
    }
}
