//! Text from files and other systems, made safe for a terminal.

/// Text in which control characters and those that change the direction of writing are escaped, as in `\u{1b}`.
pub(crate) fn escaped(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_unsafe(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}
