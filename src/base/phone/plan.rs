//! The numbering plan of each region: which numbers exist, and which prefixes are dialled before them.

use regex_lite::Regex;

/// Written by `scripts/phone-regions`.
const PLANS: &str = include_str!("plans.tsv");

/// A region of the world (ISO 3166-1, two letters) whose numbering plan is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region(&'static str);

impl Region {
    #[cfg(test)]
    pub(crate) const US: Self = Self("US");

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plan = Plan::all().find(|plan| plan.region() == text && text.len() == 2)?;
        Some(Self(plan.region()))
    }
}

/// One line of the table.
pub(super) struct Plan(Vec<&'static str>);

impl Plan {
    fn all() -> impl Iterator<Item = Self> {
        lines().map(|line| Self(line.split('\t').collect()))
    }

    pub(super) fn of_region(region: Region) -> Option<Self> {
        Self::all().find(|plan| plan.region() == region.0)
    }

    /// The plans that share a country code, the main one first.
    pub(super) fn of_code(code: &str) -> Vec<Self> {
        let lines = lines().filter(|line| line.split('\t').next() == Some(code));
        lines.map(|line| Self(line.split('\t').collect())).collect()
    }

    pub(super) fn is_code(code: &str) -> bool {
        lines().any(|line| line.split('\t').next() == Some(code))
    }

    fn column(&self, number: usize) -> &'static str {
        self.0.get(number).copied().unwrap_or_default()
    }

    pub(super) fn code(&self) -> &'static str {
        self.column(0)
    }

    fn region(&self) -> &'static str {
        self.column(1)
    }

    /// What follows the prefix for calls abroad (`011`, `00`), when the digits begin with it.
    pub(super) fn strip_international_prefix<'a>(&self, digits: &'a str) -> Option<&'a str> {
        let prefix = prefix(self.column(2))?.find(digits)?;
        // No country code begins with 0.
        Some(&digits[prefix.end()..]).filter(|rest| !rest.starts_with('0'))
    }

    /// The number without the prefix for calls within the country (`0`, `1`), unless only the whole is a number.
    pub(super) fn strip_national_prefix(&self, digits: &str) -> String {
        let stripped = self.without_national_prefix(digits);
        stripped
            .filter(|rest| self.matches(rest) || !self.matches(digits))
            .unwrap_or_else(|| digits.to_owned())
    }

    fn without_national_prefix(&self, digits: &str) -> Option<String> {
        let pattern = prefix(self.column(3))?;
        let found = pattern.captures(digits)?;
        let (rule, is_whole) = (self.column(4), found.iter().last().flatten().is_some());
        if rule.is_empty() || !is_whole {
            return Some(digits[found.get(0)?.end()..].to_owned());
        }
        Some(pattern.replace(digits, rule).into_owned())
    }

    /// Whether the digits have the form of a number of this country, of whatever kind.
    pub(super) fn matches(&self, digits: &str) -> bool {
        is_match(self.column(8), digits)
    }

    pub(super) fn is_possible_length(&self, length: usize) -> bool {
        contains(self.column(6), length) && !contains(self.column(7), length)
    }

    pub(super) fn is_too_long(&self, length: usize) -> bool {
        lengths(self.column(6)).all(|most| most < length) && !contains(self.column(7), length)
    }

    /// Whether this is the region, among those with the same country code, that the number belongs to.
    pub(super) fn owns(&self, digits: &str) -> bool {
        match prefix(self.column(5)) {
            Some(leading) => leading.is_match(digits),
            None => self.is_valid(digits),
        }
    }

    /// Whether the number is of a kind that the region has given out.
    pub(super) fn is_valid(&self, digits: &str) -> bool {
        let is_of_kind = |kind: &&str| {
            kind.split_once(':').is_some_and(|(lengths, pattern)| {
                contains(lengths, digits.len()) && is_match(pattern, digits)
            })
        };
        contains(self.column(6), digits.len())
            && self.matches(digits)
            && self.0.iter().skip(9).any(is_of_kind)
    }
}

fn lines() -> impl Iterator<Item = &'static str> {
    PLANS.lines().filter(|line| !line.starts_with('#'))
}

fn lengths(list: &str) -> impl Iterator<Item = usize> {
    list.split(',').filter_map(|length| length.parse().ok())
}

fn contains(list: &str, wanted: usize) -> bool {
    lengths(list).any(|length| length == wanted)
}

fn prefix(pattern: &str) -> Option<Regex> {
    if pattern.is_empty() { None } else { Regex::new(&format!("^(?:{pattern})")).ok() }
}

fn is_match(pattern: &str, digits: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_of_the_table_compiles() {
        for plan in Plan::all() {
            for column in [2, 3, 5, 8] {
                let pattern = plan.column(column);
                assert!(pattern.is_empty() || prefix(pattern).is_some(), "{}: {pattern}", plan.region());
            }
            assert!(plan.0.len() > 9, "{}", plan.region());
            for kind in &plan.0[9..] {
                let (lengths, pattern) = kind.split_once(':').unwrap();
                assert!(super::lengths(lengths).next().is_some() && prefix(pattern).is_some(), "{kind}");
            }
        }
        assert!(Plan::all().count() > 250);
    }
}
