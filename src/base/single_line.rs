//! Cleans text such as a person's name for display in one line.

/// The text in one line, at most `max` characters long; `None` if nothing visible is left.
///
/// A run of white space becomes one space. Control characters and invisible ones, such as those that change the
/// direction of text, are removed: they could make a name read as another's. A joiner (U+200C, U+200D) stays between
/// two visible characters, where Persian, Sinhala and emoji need it.
pub(crate) fn single_line(text: &str, max: usize) -> Option<String> {
    let mut line = String::with_capacity(text.len());
    // The separator before the next visible character. White space takes precedence over a joiner.
    let mut between = None;
    let mut length = 0;
    for c in text.chars() {
        if c.is_whitespace() {
            between = Some(' ');
        } else if matches!(c, '\u{200c}' | '\u{200d}') {
            between = between.or(Some(c));
        } else if !is_invisible(c) {
            let joined = between.take().filter(|_| !line.is_empty());
            length += 1 + usize::from(joined.is_some());
            if length > max {
                break;
            }
            line.extend(joined);
            line.push(c);
        }
    }
    (!line.is_empty()).then_some(line)
}

/// Control characters, marks of direction, fillers and tags.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_white_space_becomes_one_space() {
        for text in ["Ann\tSmith", "Ann\r\nSmith", "Ann\u{2028}Smith", "Ann\u{2029}Smith", "Ann\u{85}Smith"] {
            assert_eq!(single_line(text, 255).as_deref(), Some("Ann Smith"), "{text:?}");
        }
        for text in [
            " Ann  Smith ",
            "Ann\u{a0}\u{3000}Smith\n",
            "Ann \u{200b} Smith",
            "\u{200d}Ann\u{200d} Smith\u{200c}",
        ] {
            assert_eq!(single_line(text, 255).as_deref(), Some("Ann Smith"), "{text:?}");
        }
    }

    #[test]
    fn joiners_stay_between_visible_characters() {
        for text in [
            "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627} \u{6a9}\u{631}\u{6cc}\u{645}\u{6cc}",
            "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} Family",
            "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
        ] {
            assert_eq!(single_line(text, 255).as_deref(), Some(text));
        }
        assert_eq!(single_line("a\u{200d}\u{200d}\u{200b}b", 255).as_deref(), Some("a\u{200d}b"));
    }

    #[test]
    fn invisible_characters_are_removed() {
        assert_eq!(single_line("\u{202e}Ann", 255).as_deref(), Some("Ann"));
        assert_eq!(single_line("Ann\u{200b}Smith", 255).as_deref(), Some("AnnSmith"));
        assert_eq!(single_line("A\0n\u{1b}n\u{2066}\u{7f}", 255).as_deref(), Some("Ann"));
        for nothing in ["", " \t", "\u{202e}\u{200b}", "\u{200d}", "\u{3164}"] {
            assert_eq!(single_line(nothing, 255), None, "{nothing:?}");
        }
    }

    #[test]
    fn the_length_counts_characters_and_never_ends_with_a_space() {
        assert_eq!(single_line("äöü", 2).as_deref(), Some("äö"));
        assert_eq!(single_line("ab cd", 3).as_deref(), Some("ab"));
        assert_eq!(single_line("ab cd", 4).as_deref(), Some("ab c"));
    }
}
