//! docs/messages.md: the messages in the source, by what an operator sees and by topic.

use std::collections::BTreeSet;
use std::path::Path;

use super::assert_generated;

/// The topics of messages in the order of the page, and the source files of each. The longest prefix decides.
const TOPICS: [(&str, &[&str]); 10] = [
    (CONFIGURATION, &["src/base/x509.rs", "src/config/"]),
    ("Start, reload and control", &["src/cli/", "src/server/"]),
    ("Listeners and TLS", &["src/edge/"]),
    ("Certificates from a CA", &["src/acme"]),
    ("Requests and forwarding", &["src/codec/", "src/proxy/", "src/request/", "src/upstream/"]),
    ("Sign-in and iMIS", &["src/config/expression/", "src/imis/", "src/request/endpoint.rs", "src/sso/"]),
    ("Zendesk", &["src/sso/logout.rs", "src/sso/token.rs", "src/zendesk/"]),
    ("Profile sync", &["src/sync/", "src/cli/sync", "src/cli/staff.rs"]),
    ("Audit, logs and traces", &["src/observe/"]),
    ("Commands", &["src/doctor/"]),
];

/// Everything in these files is a problem of the configuration.
const CONFIGURATION: &str = "Problems";

/// A section of the page of messages, with the marks in the source that its messages follow.
struct Section {
    title: &'static str,
    introduction: &'static str,
    marks: &'static [(&'static str, Pick)],
}

/// Which texts in the parentheses after a mark are messages.
#[derive(Clone, Copy)]
enum Pick {
    First,
    /// Values of fields come before the message of a log line.
    Last,
    /// Every text of at least three words that does not continue another.
    Sentences,
}

const SECTIONS: [Section; 3] = [
    Section {
        title: "At start and in `check`",
        introduction: "The configuration file, the line and column, and the key come before each problem.",
        marks: &[
            (".report(", Pick::Sentences),
            (".some_items(", Pick::Sentences),
            (" Err(", Pick::Sentences),
            ("map_err(", Pick::Sentences),
            ("ok_or(", Pick::Sentences),
            ("ok_or_else(", Pick::Sentences),
            ("#[error(", Pick::First),
        ],
    },
    Section {
        title: "Log: warnings and errors",
        introduction: "Lines of the levels `WARN` and `ERROR`.",
        marks: &[("warn!(", Pick::Last), ("error!(", Pick::Last)],
    },
    Section {
        title: "Errors in the `error` field and on the command line",
        introduction: "Causes follow after a colon.",
        marks: &[("#[error(", Pick::First)],
    },
];

#[test]
fn the_list_of_messages_is_what_the_source_says() {
    let mut made = "# Messages\n\n\
        A test generates this page from the source. `…` stands for a value. What to do about the most important\n\
        messages: [troubleshooting](troubleshooting.md).\n"
        .to_owned();
    let sources = production_sources();
    for (section, Section { title, introduction, marks }) in SECTIONS.iter().enumerate() {
        made.push_str(&format!("\n## {title}\n\n{introduction}\n"));
        for (topic, _) in TOPICS.iter().filter(|(topic, _)| (*topic == CONFIGURATION) == (section == 0)) {
            let of_topic = sources.iter().filter(|(file, text)| topic_of(file, text) == Some(topic));
            let messages = of_topic.flat_map(|(_, text)| messages_in(text, marks));
            push_list(&mut made, topic, messages.collect());
        }
        if section == 0 {
            let of_check = sources.iter().filter(|(file, _)| file == "src/config/warnings.rs");
            let warnings = of_check.flat_map(|(_, text)| messages_in(text, &WARNINGS));
            push_list(&mut made, "Warnings", warnings.collect());
        }
    }
    assert_generated("messages.md", &made);
}

/// Of `check`; the gateway starts nevertheless.
const WARNINGS: [(&str, Pick); 4] = [
    ("warnings.push(", Pick::Sentences),
    (".then(", Pick::Sentences),
    (".then_some(", Pick::Sentences),
    (".map(", Pick::Sentences),
];

/// The topic of a source file; none if it has no messages.
fn topic_of(file: &str, text: &str) -> Option<&'static str> {
    let prefixes = TOPICS.iter().flat_map(|(topic, files)| files.iter().map(move |prefix| (prefix, *topic)));
    let topic =
        prefixes.filter(|(prefix, _)| file.starts_with(**prefix)).max_by_key(|(prefix, _)| prefix.len());
    let has_messages =
        || SECTIONS[1..].iter().any(|section| messages_in(text, section.marks).next().is_some());
    assert!(topic.is_some() || !has_messages(), "{file} has messages, but TOPICS has no topic for it");
    topic.map(|(_, topic)| topic)
}

fn messages_in(text: &str, marks: &[(&'static str, Pick)]) -> impl Iterator<Item = String> {
    let all = marks.iter().flat_map(|(mark, pick)| {
        let places = text.split(mark).skip(1);
        places.flat_map(|rest| picked(rest, *pick))
    });
    all.collect::<Vec<_>>().into_iter()
}

/// A heading and the messages in alphabetical order, in lines of at most 120 bytes.
fn push_list(made: &mut String, title: &str, messages: BTreeSet<String>) {
    let letters = |text: &String| text.to_lowercase().replace(|c: char| !c.is_alphanumeric() && c != ' ', "");
    let mut messages = Vec::from_iter(messages);
    messages.sort_by_cached_key(|message| letters(message).trim_start().to_owned());
    if !messages.is_empty() {
        made.push_str(&format!("\n### {title}\n\n"));
    }
    for message in messages {
        let mut words: Vec<String> = message.split(' ').map(str::to_owned).collect();
        let (open, close) = if message.contains('`') { ("`` ", " ``") } else { ("`", "`") };
        words[0].insert_str(0, open);
        words.last_mut().unwrap().push_str(close);
        let mut line = "-".to_owned();
        for word in words {
            if line.len() + 1 + word.len() > 120 {
                made.push_str(&format!("{line}\n"));
                line = " ".to_owned();
            }
            line.push_str(&format!(" {word}"));
        }
        made.push_str(&format!("{line}\n"));
    }
}

/// The source of the program without its tests, by file.
fn production_sources() -> Vec<(String, String)> {
    fn read(folder: &Path, all: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
                all.push((name, text));
            }
        }
    }
    let mut all = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    all.sort();
    all
}

/// The messages among the texts up to the closing parenthesis.
fn picked(rest: &str, pick: Pick) -> Vec<String> {
    let mut texts = Vec::new();
    let mut before = '(';
    let mut depth = 1;
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                let text = literal(&mut characters);
                let is_message = match pick {
                    Pick::First => true,
                    Pick::Last => before != '=',
                    Pick::Sentences => text.split(' ').count() > 2 && !text.starts_with([' ', ',', ';']),
                };
                texts.extend(shown(&text).filter(|_| is_message));
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    match pick {
        Pick::First => texts.truncate(1),
        Pick::Last => drop(texts.drain(..texts.len().saturating_sub(1))),
        Pick::Sentences => {}
    }
    texts
}

/// The rest of a string literal, as the program has it.
fn literal(characters: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => match characters.next() {
                Some('\n') => *characters = characters.as_str().trim_start().chars(),
                other => text.extend(other),
            },
            other => text.push(other),
        }
    }
    text
}

/// With an ellipsis for each value; none if nothing else is left.
fn shown(text: &str) -> Option<String> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        shown.push_str(before);
        let (value, after) = after.split_once('}').unwrap_or((after, ""));
        // Only a text in braces has spaces: `{allow: EXPRESSION}`.
        shown.push_str(&if value.contains(' ') { format!("{{{value}}}") } else { "…".to_owned() });
        rest = after;
    }
    shown.push_str(rest);
    shown.chars().any(char::is_alphabetic).then(|| shown.replace("……", "…"))
}
