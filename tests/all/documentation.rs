//! The documentation agrees with the program: tests generate pages from it, or compare pages with it.

mod messages;

use std::collections::BTreeSet;
use std::path::Path;

/// All source files as one text, without the line breaks in string literals.
fn source() -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut all = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let mut joined = String::new();
    for piece in all.split("\\\n") {
        joined.push_str(if joined.is_empty() { piece } else { piece.trim_start() });
    }
    joined
}

#[test]
fn troubleshooting_quotes_messages_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let source = source();
    let (mut seen, mut unknown) = (0, Vec::new());
    // The first table has the title of a page and then the message. The others begin with the message.
    let (pages, others) = text.split_once("## What the log says by itself").unwrap();
    let table = |text: &str, column: usize| -> Vec<(String, String)> {
        let rows = text.lines().filter(|line| {
            line.starts_with("| ") && !line.starts_with("| the ") && !line.starts_with("| it says")
        });
        rows.map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            (cells[0].trim_start_matches("| ").trim().to_owned(), cells[column].to_owned())
        })
        .collect()
    };
    let all = table(pages, 1)
        .into_iter()
        .chain(table(others, 0).into_iter().map(|(_, message)| (String::new(), message)));
    for (page, messages) in all {
        for message in messages.split('`').skip(1).step_by(2) {
            if !source.contains(message) {
                unknown.push(message.to_owned());
            }
            seen += 1;
        }
        if page.starts_with(char::is_uppercase) {
            let title = page.split(" (").next().unwrap();
            if !source.contains(title) {
                unknown.push(title.to_owned());
            }
        }
    }
    assert!(unknown.is_empty(), "docs/troubleshooting.md quotes what is not in the source: {unknown:#?}");
    assert!(seen > 40, "{seen}");
}

/// Compares a generated page with its file.
fn assert_generated(document: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    if std::fs::read_to_string(&file).unwrap_or_default() != made {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join(document);
        std::fs::write(&new, made).unwrap();
        panic!("docs/{document} is out of date: cp {} {}", new.display(), file.display());
    }
}

fn help(command: &[&str]) -> String {
    let program =
        std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway")).args(command).arg("--help").output();
    let output = program.unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_reference_of_commands_is_what_the_program_says() {
    fn describe(command: &[&str], made: &mut String) {
        let text = help(command);
        if !command.is_empty() {
            made.push_str(&format!(
                "## `imis-gateway {}`\n\n```text\n{}\n```\n\n",
                command.join(" "),
                text.trim_end()
            ));
        }
        let below = text.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap();
        for name in
            below.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
        {
            describe(&[command, &[name]].concat(), made);
        }
    }
    let mut made = "# Commands\n\n\
        The output of `--help` for each command. A test generates this page from the program. Exit codes: 0 success,\n\
        1 failure at run time (or the answer *no*), 2 wrong arguments, 3 the shutdown cut off requests, 4 the\n\
        safety threshold stopped a sync, 78 invalid configuration.\n\n"
        .to_owned();
    describe(&[], &mut made);
    assert_generated("commands.md", &format!("{}\n", made.trim_end()));
}

#[test]
fn every_command_in_the_documents_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for file in documents() {
        let text = std::fs::read_to_string(root.join(&file)).unwrap();
        let from_code = text.lines().filter_map(|line| {
            let line = line.trim_start().trim_start_matches("$ ");
            line.strip_prefix("imis-gateway ")
                .or_else(|| line.split(" imis-gateway ").nth(1).filter(|_| line.contains('=')))
        });
        let inline = text.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("imis-gateway "));
        for line in from_code.chain(inline) {
            let line = line.split([';', '#', '<', '>', '|', '&', '`']).next().unwrap();
            // Names in capitals are placeholders; brackets mark optional parts.
            let line = line
                .replace(['[', ']', '(', ')'], " ")
                .replace("\"Contoso Helpdesk\"", "Contoso")
                .replace("\"$CONFIG\"", "X");
            let words: Vec<&str> =
                line.split_whitespace().take_while(|word| !word.ends_with('.') && *word != "..").collect();
            let Some(first) = words.first().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
            else {
                continue;
            };
            if file.ends_with("commands.md")
                || help(&[]).lines().all(|line| line.split_whitespace().next() != Some(first))
            {
                continue;
            }
            let help = help_of(&words);
            assert!(
                help.is_ok(),
                "{}: imis-gateway {}: {}",
                file.display(),
                words.join(" "),
                help.unwrap_err()
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

/// Checks that the program has these commands and options.
fn help_of(words: &[&str]) -> Result<(), String> {
    let mut command: Vec<&str> = Vec::new();
    let mut known = help(&[]);
    for word in words {
        if let Some(option) = word.strip_prefix("--") {
            let option = format!("--{}", option.split('=').next().unwrap().trim_end_matches(','));
            if !known.split_whitespace().any(|there| there.trim_end_matches(',') == option) {
                return Err(format!("no {option}"));
            }
        } else if word.chars().all(|c| c.is_ascii_lowercase()) && known.contains("Commands:") {
            let below = known.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap();
            if !below.lines().any(|line| line.split_whitespace().next() == Some(word)) {
                return Err(format!("no {word}"));
            }
            command.push(word);
            known = help(&command);
        }
    }
    Ok(())
}

/// All pages of the documentation.
fn documents() -> Vec<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    let decisions = std::fs::read_dir(root.join("docs/decisions")).unwrap();
    all.extend(decisions.map(|entry| entry.unwrap().path()));
    all.extend([root.join("README.md"), root.join("certs/README.md")]);
    all.sort();
    all
}

#[test]
fn the_book_has_every_page_and_every_page_that_it_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let summary = std::fs::read_to_string(root.join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<String> =
        summary.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect();
    let own = root.join("docs");
    let there: BTreeSet<String> = documents()
        .iter()
        .filter(|path| !path.ends_with("SUMMARY.md"))
        .filter_map(|path| Some(path.strip_prefix(&own).ok()?.display().to_string()))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn documents_link_to_what_is_there() {
    let files = documents();
    let slug = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>()
            .replace(' ', "-")
    };
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(' ') {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: no {link}", file.display());
            // The book contains only the files in docs.
            let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
            let leaves = file.starts_with(&book) && !target.canonicalize().unwrap().starts_with(&book);
            assert!(!leaves, "{}: {link} leads out of the book", file.display());
            if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let there = std::fs::read_to_string(&target).unwrap();
                let found =
                    there.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
                assert!(found, "{}: no heading for {link}", file.display());
            }
        }
    }
}
