//! Telephone numbers: free text in iMIS, E.164 in Zendesk.

use phonenumber::Mode;
use phonenumber::country::Id;

/// Which number of several is taken, and where numbers without a country code belong.
#[cfg_attr(any(test, feature = "fuzzing"), derive(Default))]
pub(crate) struct Preference {
    pub(crate) order: Vec<String>,
    pub(crate) region: Option<Id>,
}

/// `+15125550123`, or nothing when the text is not a number that can be dialled. Extensions are not part of E.164.
pub(crate) fn e164(text: &str, region: Option<Id>) -> Option<String> {
    // Longer than any number with an extension; the parser need not see more.
    if text.len() > 64 {
        return None;
    }
    // `+44 (0)20 ..`: a trunk prefix in brackets is mostly not dialled behind a country code, but in Italy it is.
    let readings = [text.to_owned(), text.replace("(0)", "")];
    let numbers = readings.iter().filter_map(|reading| phonenumber::parse(region, reading).ok());
    let number = numbers.into_iter().find(phonenumber::is_valid)?;
    Some(number.format().mode(Mode::E164).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_becomes_e164_when_it_can() {
        let us = |text| e164(text, Some(Id::US));
        assert_eq!(us("(512) 474-1234").as_deref(), Some("+15124741234"));
        assert_eq!(us("512.474.1234 x 12").as_deref(), Some("+15124741234"));
        assert_eq!(us("+44 20 7946 0018").as_deref(), Some("+442079460018"));
        assert_eq!(us("+39 (0)6 698 12345").as_deref(), Some("+390669812345"));
        assert_eq!(us("+44 (0)20 7946 0018").as_deref(), Some("+442079460018"));
        assert_eq!(e164("020 7946 0018", Some(Id::GB)).as_deref(), Some("+442079460018"));
        assert_eq!(e164("(512) 474-1234", None), None);
        for nonsense in ["", "unknown", "474-1234", "call Ann", "0", "+", "+1", &"1".repeat(100)] {
            assert_eq!(us(nonsense), None, "{nonsense}");
        }
    }
}
