use super::*;

const EXAMPLES: &str = include_str!("examples.txt");

#[track_caller]
fn check(region: &str, text: &str, expected: Option<&str>) {
    let region = (region != "none").then(|| Region::parse(region).unwrap());
    assert_eq!(e164(text, region).as_deref(), expected, "{text}");
}

/// libphonenumber gives the same answer for each.
#[test]
fn a_number_with_a_country_code_follows_the_plan_of_that_code() {
    for (text, expected) in [
        ("+49 151 23456789", "+4915123456789"),
        ("+49 (0)151 23456789", "+4915123456789"),
        ("+86 131 2345 6789", "+8613123456789"),
        ("+86 138 0013 8000", "+8613800138000"),
        ("+33 1 23 45 67 89", "+33123456789"),
        ("+44 121 234 5678", "+441212345678"),
        ("+44 20 7946 0018", "+442079460018"),
        ("+44 (0)20 7946 0018", "+442079460018"),
        ("+31 10 123 4567", "+31101234567"),
        ("+55 (11) 96123-4567", "+5511961234567"),
        ("+82 10-2000-0000", "+821020000000"),
        ("+60 12-345 6789", "+60123456789"),
        ("+20 10 01234567", "+201001234567"),
        ("+966 11 234 5678", "+966112345678"),
        ("+39 06 6981 2345", "+390669812345"),
        ("+39 (0)6 698 12345", "+390669812345"),
        ("+225 01 23 45 6789", "+2250123456789"),
        ("+54 9 11 2345-6789", "+5491123456789"),
        ("+7 701 234 5678", "+77012345678"),
        ("+1-800-356-9377", "+18003569377"),
        ("tel:+1-512-474-1234;ext=12", "+15124741234"),
        ("Mobile: +49 151 23456789 (p)", "+4915123456789"),
        ("＋４９ １５１ ２３４５６７８９", "+4915123456789"),
        ("+٤٩ ١٥١ ٢٣٤٥٦٧٨٩", "+4915123456789"),
    ] {
        for region in ["US", "GB", "DE", "RU", "IT", "none"] {
            check(region, text, Some(expected));
        }
    }
}

#[test]
fn every_example_number_is_unchanged_for_any_default_region() {
    let regions = [Some("US"), Some("GB"), Some("DE"), Some("RU"), None];
    let regions = regions.map(|region| region.map(|region| Region::parse(region).unwrap()));
    let mut examined = 0;
    for text in EXAMPLES.lines().filter(|line| !line.starts_with('#')) {
        let expected = text.replace(' ', "");
        for region in regions {
            assert_eq!(e164(text, region).as_deref(), Some(expected.as_str()), "{text} in {region:?}");
        }
        examined += 1;
    }
    assert!(examined > 1000);
}

#[test]
fn an_international_prefix_replaces_a_plus_sign() {
    check("US", "011 49 151 23456789", Some("+4915123456789"));
    check("GB", "00 49 151 23456789", Some("+4915123456789"));
    check("DE", "001 512 474 1234", Some("+15124741234"));
    check("RU", "8~10 49 151 23456789", Some("+4915123456789"));
    // Elsewhere it is something else.
    check("US", "00 49 151 23456789", None);
    check("none", "00 49 151 23456789", None);
    check("none", "011 49 151 23456789", None);
}

#[test]
fn a_number_without_a_country_code_belongs_to_the_default_region() {
    check("US", "(512) 474-1234", Some("+15124741234"));
    check("US", "1 512 474 1234", Some("+15124741234"));
    check("US", "512.474.1234 x 12", Some("+15124741234"));
    check("US", "512-474-1234 ext. 12", Some("+15124741234"));
    check("US", "512-474-1234, extension 12", Some("+15124741234"));
    check("US", "512-474-1234 x302/x2303", Some("+15124741234"));
    check("US", "1-800-FLOWERS", Some("+18003569377"));
    check("US", "５１２４７４１２３４", Some("+15124741234"));
    check("GB", "020 7946 0018", Some("+442079460018"));
    check("GB", "(0)20 7946 0018", Some("+442079460018"));
    check("DE", "0151 23456789", Some("+4915123456789"));
    check("GB", "44 20 7946 0018", Some("+442079460018"));
    check("RU", "8 (912) 345-67-89", Some("+79123456789"));
    check("none", "(512) 474-1234", None);
}

#[test]
fn invalid_and_ambiguous_text_yields_no_number() {
    let long = "1".repeat(300);
    for text in [
        "",
        "unknown",
        "474-1234",
        "call Ann",
        "0",
        "+",
        "+1",
        "+49",
        "+999 123 4567",
        "112",
        "512 474 1234 home",
        "512 474 1234 / 512 474 1235",
        "+1 512 474 123",
        "+44 20 7946 001",
        &long,
    ] {
        check("US", text, None);
        check("none", text, None);
    }
}

#[test]
fn a_region_is_two_letters() {
    assert_eq!(Region::parse("US"), Some(Region::US));
    for text in ["us", "USA", "", "001", "XX"] {
        assert_eq!(Region::parse(text), None, "{text}");
    }
}
