//! Imports only point downwards: from a directory to those below it in `src/lib.rs`, and never in a circle of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module file by its path below `src/`, such as `["edge", "http1", "stream"]`.
type Module = Vec<String>;

#[test]
fn imports_only_point_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    let layers: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert!(layers.len() > 10, "src/lib.rs lists the layers: {layers:?}");
    let mut files = BTreeMap::new();
    collect(&src, &src, &mut files);
    files.retain(|module, _| layers.contains(&module[0].as_str()));
    let imports: BTreeMap<&Module, BTreeSet<&Module>> =
        files.iter().map(|(module, text)| (module, imports_of(module, text, &files))).collect();
    let rank = |module: &Module| layers.iter().position(|layer| *layer == module[0]);
    let mut wrong = Vec::new();
    for (from, targets) in &imports {
        for to in targets.iter().filter(|to| rank(to) < rank(from)) {
            wrong.push(format!("{} imports {}, which is a layer above", shown(from), shown(to)));
        }
        if let Some(circle) = circle_from(from, &imports) {
            wrong.push(format!("a circle of imports: {circle}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_imports_in_every_form() {
    let names = ["a", "a::b", "a::b::c", "d"];
    let files: BTreeMap<Module, String> =
        names.iter().map(|name| (name.split("::").map(str::to_owned).collect(), String::new())).collect();
    let seen = |text: &str| {
        let module = vec!["a".to_owned(), "b".to_owned()];
        imports_of(&module, text, &files).into_iter().map(shown).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen("use crate::d::X;"), "d");
    assert_eq!(seen("use crate::{a::{b::c, Y}, d};"), "a a::b::c d");
    assert_eq!(seen("fn f() { crate::d::run() }"), "d");
    assert_eq!(seen("pub use super::Z;"), "a");
    assert_eq!(seen("fn f() { c::run() }"), "a::b::c");
    assert_eq!(seen("// use crate::d;\nconst D: &str = \"crate::d::X\";"), "");
    assert_eq!(seen("#[cfg(test)]\nmod tests {\n    use crate::d::X;\n}"), "");
}

fn shown(module: &Module) -> String {
    module.join("::")
}

fn collect(folder: &Path, src: &Path, files: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, src, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(src).unwrap().with_extension("");
            let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            if module != ["lib"] && module != ["main"] && module.last().is_some_and(|last| last != "tests") {
                files.insert(module, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}

/// The files that a file imports from: by `use`, or by a path in the code.
fn imports_of<'f>(module: &Module, text: &str, files: &'f BTreeMap<Module, String>) -> BTreeSet<&'f Module> {
    let code = code_of(text);
    let mut paths = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        // The last `use` before the semicolon; what stands before it is other code.
        let at = statement
            .rfind("use ")
            .filter(|at| statement[..*at].chars().next_back().is_none_or(|before| before.is_whitespace()));
        match at {
            Some(at) => {
                rest.push_str(&statement[..at]);
                expand("", statement[at + 4..].trim_end_matches(';'), &mut paths);
            }
            None => rest.push_str(statement),
        }
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    paths.extend(rest.split(|c| !is_path(c)).filter(|word| word.contains("::")).map(str::to_owned));
    let mut found = BTreeSet::new();
    for path in paths {
        let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut base = module.clone();
        match names.first() {
            Some(&"crate") => {
                base.clear();
                names.remove(0);
            }
            Some(&"self") => {
                names.remove(0);
            }
            Some(&"super") => {
                while names.first() == Some(&"super") {
                    base.pop();
                    names.remove(0);
                }
            }
            // Of the module's own children; anything else is another crate, or an item that is imported already.
            _ => {}
        }
        let full: Module = base.into_iter().chain(names.into_iter().map(str::to_owned)).collect();
        let is_file = |length: &usize| files.contains_key(&full[..*length]);
        if let Some(length) = (1..=full.len()).rev().find(is_file)
            && full[..length] != **module
        {
            found.insert(files.get_key_value(&full[..length]).unwrap().0);
        }
    }
    found
}

/// The paths in a tree of imports, such as `crate::{a::B, c}`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim().trim_end_matches("::self");
        return paths.push(format!("{prefix}{path}"));
    };
    let body = &body[..body.rfind('}').unwrap_or(body.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in body.char_indices().chain([(body.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = body[start..at].trim();
                if !part.is_empty() {
                    expand(&format!("{prefix}{}", head.trim()), part, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The code of a file without its test module, comments and texts.
fn code_of(text: &str) -> String {
    let is_test_module = |line: &str| line.starts_with("mod ") && line.ends_with(" {");
    let mut code = String::new();
    for line in text.lines().take_while(|line| !is_test_module(line)) {
        let mut in_text = false;
        let mut previous = ' ';
        for (at, c) in line.char_indices() {
            if !in_text && line[at..].starts_with("//") {
                break;
            }
            if c == '"' && previous != '\\' && previous != '\'' {
                in_text = !in_text;
            } else if !in_text {
                code.push(c);
            }
            previous = if previous == '\\' { ' ' } else { c };
        }
        code.push('\n');
    }
    code
}

/// The shortest way from a file back to itself.
fn circle_from(start: &Module, imports: &BTreeMap<&Module, BTreeSet<&Module>>) -> Option<String> {
    let mut ways: Vec<Vec<&Module>> = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut next = Vec::new();
        for way in ways {
            for to in imports.get(way[way.len() - 1])? {
                if *to == start {
                    let names: Vec<String> = way.iter().chain([to]).map(|module| shown(module)).collect();
                    return Some(names.join(" -> "));
                }
                if seen.insert(*to) {
                    next.push(way.iter().copied().chain([*to]).collect());
                }
            }
        }
        ways = next;
    }
    None
}
