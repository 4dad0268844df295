//! Telephone numbers: free text in iMIS, E.164 in Zendesk.
//!
//! The rules are those of Google's libphonenumber. A number with a country code follows the plan of that code. The
//! default region is for numbers without one. Ambiguous text yields no number.

mod plan;

pub(crate) use plan::Region;
use plan::{Plan, compiled};

/// Longer text is not a telephone number.
const MAX_TEXT: usize = 250;
/// The maximum number of digits without the country code (libphonenumber; E.164 allows fewer).
const MAX_NATIONAL_DIGITS: usize = 17;

/// Which of several numbers to use, and the region of numbers without a country code.
#[cfg_attr(any(test, feature = "fuzzing"), derive(Default))]
pub(crate) struct Preference {
    pub(crate) order: Vec<String>,
    pub(crate) region: Option<Region>,
}

/// The number in E.164, such as `+15125550123`, without extension. None: the text is not a valid number.
pub(crate) fn e164(text: &str, region: Option<Region>) -> Option<String> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let text: String = text.chars().map(to_ascii).collect();
    let region = region.and_then(Plan::of_region);
    let number = parse(&text, region.as_ref());
    if !text.contains("(0)") {
        return number;
    }
    // `+44 (0)20 ..`: in most countries the 0 is not dialled after a country code, but in Italy it is.
    match (number, parse(&text.replace("(0)", ""), region.as_ref())) {
        (Some(with), Some(without)) => Some(with).filter(|with| *with == without),
        (one, other) => one.or(other),
    }
}

fn parse(text: &str, region: Option<&Plan>) -> Option<String> {
    let (is_international, digits) = dialled(text)?;
    let (code, national) = split_code(is_international, &digits, region)?;
    let plans = Plan::of_code(&code);
    let own = region.filter(|region| region.code() == code);
    let plan = own.or(plans.first())?;
    let stripped = plan.strip_national_prefix(&national);
    let is_long_enough = plan.is_possible_length(stripped.len()) || plan.is_too_long(stripped.len());
    let national = if is_long_enough { stripped } else { national };
    let owner = plans.iter().find(|plan| plan.owns(&national))?;
    let is_valid = national.len() <= MAX_NATIONAL_DIGITS && owner.is_valid(&national);
    is_valid.then(|| format!("+{code}{national}"))
}

/// Whether there is a plus sign, and the digits of the number, without surrounding text and extension.
fn dialled(text: &str) -> Option<(bool, String)> {
    // x stands for a carrier code in Brazil.
    const PUNCTUATION: &str =
        r"-x\x{2010}-\x{2015}\x{2212}\x{30fc} \x{a0}\x{ad}\x{200b}\x{2060}()\[\]./~\x{2053}\x{223c}*";
    const EXTENSION: &str = concat!(
        r"(?i)(?:;ext=[0-9]{1,20}",
        r"|[ \x{a0}\t,]*(?:e?xt(?:ensi(?:o\x{301}?|\x{f3}))?n?|доб|anexo)[:.]?[ \x{a0}\t,-]*[0-9]{1,20}#?",
        r"|[ \x{a0}\t,]*(?:[x#~]|int)[:.]?[ \x{a0}\t,-]*[0-9]{1,9}#?",
        r"|[- ]+[0-9]{1,6}#",
        r"|[ \x{a0}\t]*(?:,,|;)[:.]?[ \x{a0}\t,-]*[0-9]{1,15}#?",
        r"|[ \x{a0}\t]*,+[:.]?[ \x{a0}\t,-]*[0-9]{1,9}#?)$",
    );
    let number = format!(r"^(?:[0-9]{{2}}|\+*(?:[{PUNCTUATION}]*[0-9]){{3,}}[{PUNCTUATION}A-Za-z0-9]*)$");
    let (number, extension) = (compiled(number)?, compiled(EXTENSION.to_owned())?);

    let text = &text[text.find(|c: char| c == '+' || c.is_ascii_digit())?..];
    let text = text.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '#');
    // `.. x302/x2303` has two extensions.
    let second = text.match_indices(['/', '\\']);
    let second = second.map(|(at, _)| at).find(|at| text[at + 1..].trim_start_matches(' ').starts_with('x'));
    let text = &text[..second.unwrap_or(text.len())];
    let before = extension.find(text).map(|extension| &text[..extension.start()]);
    let text = before.filter(|before| number.is_match(before)).unwrap_or(text);
    if !number.is_match(text) {
        return None;
    }
    let is_vanity = text.chars().filter(char::is_ascii_alphabetic).count() >= 3;
    let digits = text.chars().filter_map(|c| match c {
        '0'..='9' => Some(c),
        _ if is_vanity => keypad(c),
        _ => None,
    });
    Some((text.starts_with('+'), digits.collect()))
}

/// Country code and national number.
fn split_code(is_international: bool, digits: &str, region: Option<&Plan>) -> Option<(String, String)> {
    let abroad = region.and_then(|region| region.strip_international_prefix(digits));
    let known = |digits: &str| {
        let code = (1..=3).filter_map(|length| digits.get(..length)).find(|code| Plan::is_code(code))?;
        Some((code.to_owned(), digits[code.len()..].to_owned())).filter(|(_, national)| national.len() >= 2)
    };
    if is_international {
        // `+011 49 ..` has both.
        return known(digits).or_else(|| known(abroad?));
    }
    if let Some(abroad) = abroad {
        return known(abroad);
    }
    let region = region?;
    let code = region.code().to_owned();
    // `49 151 ..` in Germany: the country code without a plus sign.
    let behind = digits.strip_prefix(&code).map(|rest| region.strip_national_prefix(rest));
    let national = behind
        .filter(|rest| !region.matches(digits) && region.matches(rest) || region.is_too_long(digits.len()));
    Some((code, national.unwrap_or_else(|| digits.to_owned())))
}

/// Full-width characters and the digits of other scripts, as ASCII.
fn to_ascii(c: char) -> char {
    const ZEROS: [char; 18] =
        ['٠', '۰', '߀', '०', '০', '੦', '૦', '୦', '௦', '౦', '೦', '൦', '๐', '໐', '༠', '၀', '០', '᠐'];
    let shifted = |from: u32, to: u32| char::from_u32(u32::from(c) - from + to).unwrap_or(c);
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => shifted(0xff01, 0x21),
        _ => ZEROS
            .into_iter()
            .find(|zero| (0..10).contains(&u32::from(c).wrapping_sub(u32::from(*zero))))
            .map_or(c, |zero| shifted(u32::from(zero), 0x30)),
    }
}

/// The digit of a letter on a telephone keypad.
fn keypad(c: char) -> Option<char> {
    Some(match c.to_ascii_uppercase() {
        'A'..='C' => '2',
        'D'..='F' => '3',
        'G'..='I' => '4',
        'J'..='L' => '5',
        'M'..='O' => '6',
        'P'..='S' => '7',
        'T'..='V' => '8',
        'W'..='Z' => '9',
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
