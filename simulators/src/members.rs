//! Generated members: the same ones for iMIS, and for a Zendesk account that has already been synchronised.

/// A member of the association, from whom iMIS makes its records and a stored query its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// iMIS ID.
    pub id: String,
    /// First name.
    pub first: String,
    /// Last name.
    pub last: String,
    /// Primary e-mail address.
    pub email: Option<String>,
    /// Mobile phone, as somebody typed it.
    pub phone: Option<String>,
    /// `A` is active, `I` is inactive.
    pub status: String,
    /// Customer type, such as `M`.
    pub customer_type: String,
    /// Until when the dues are paid.
    pub paid_through: Option<String>,
    /// When the record last changed, without a zone.
    pub updated_on: String,
    /// The chapter, which the stored query has as a column.
    pub chapter: String,
    /// iMIS ID and name of the primary organization.
    pub company: Option<(String, String)>,
    /// Ids of groups.
    pub groups: Vec<String>,
    /// Whether it is the record of an organization.
    pub is_company: bool,
}

const FIRST: [&str; 12] =
    ["Ann", "Bob", "Chloé", "Dmitri", "Émile", "Fatima", "Grace", "Hiro", "Ines", "José", "Kofi", "Łucja"];
const LAST: [&str; 10] = [
    "Müller",
    "O'Connor",
    "Nguyen",
    "Smith",
    "García",
    "Kowalska",
    "Okafor",
    "Tanaka",
    "de la Cruz",
    "Ångström",
];
/// Right to left, Han, Devanagari, an emoji of several code points, letters outside the basic plane.
const SCRIPTS: [(&str, &str); 5] =
    [("محمد", "الأحمد"), ("小明", "王"), ("अनिता", "शर्मा"), ("Zoë 👩‍🔬", "Fox"), ("𝒜𝓃𝓃", "𐐷eseret")];

impl Member {
    /// Member number `number`: always the same person. Each fiftieth has a name in another script. All are in the group
    /// `Members`, and each tenth is in `Fellows`.
    pub fn generated(number: usize) -> Self {
        let (first, last) = match number % 50 {
            49 => SCRIPTS[(number / 50) % SCRIPTS.len()],
            _ => (FIRST[number % FIRST.len()], LAST[(number / FIRST.len()) % LAST.len()]),
        };
        let company = number % 500;
        Self {
            id: Self::id_of(number),
            first: first.to_owned(),
            last: last.to_owned(),
            email: Some(format!("member{number}@example.org")),
            phone: Some(format!("+1512{}", 3_200_000 + number)),
            status: "A".to_owned(),
            customer_type: "M".to_owned(),
            paid_through: Some("2027-12-31T00:00:00".to_owned()),
            updated_on: format!("2025-{:02}-{:02}T09:30:00", 1 + number % 12, 1 + number % 28),
            chapter: if number.is_multiple_of(2) { "chapter_north" } else { "chapter_south" }.to_owned(),
            company: Some((format!("9{company:05}"), format!("Company {company}"))),
            groups: if number.is_multiple_of(10) { &["Members", "Fellows"][..] } else { &["Members"] }
                .iter()
                .map(|group| (*group).to_owned())
                .collect(),
            is_company: false,
        }
    }

    /// Members whom a synchronisation cannot simply write, each with the reason. Their ids are greater than those of
    /// generated members.
    pub fn odd() -> Vec<(&'static str, Self)> {
        let base = |number: usize| Self {
            email: Some(format!("odd{number}@example.org")),
            ..Self::generated(900_000 + number)
        };
        let twin = "twin@example.org".to_owned();
        vec![
            ("no address", Self { email: None, ..base(0) }),
            ("blank address", Self { email: Some(" ".to_owned()), ..base(1) }),
            ("same address", Self { email: Some(twin.clone()), ..base(2) }),
            ("same address", Self { email: Some(twin.to_uppercase()), ..base(3) }),
            ("not an address", Self { email: Some("odd4@@example.org".to_owned()), ..base(4) }),
            ("long address", Self { email: Some(format!("{}@example.org", "a".repeat(260))), ..base(5) }),
            ("long name", Self { last: "x".repeat(300), ..base(6) }),
            ("blank name", Self { first: String::new(), last: " ".to_owned(), ..base(7) }),
            ("unknown dropdown option", Self { chapter: "chapter_closed".to_owned(), ..base(8) }),
            ("long text", Self { chapter: "c".repeat(70_000), ..base(9) }),
            ("not a date", Self { paid_through: Some("soon".to_owned()), ..base(10) }),
            ("inactive", Self { status: "I".to_owned(), customer_type: "NM".to_owned(), ..base(11) }),
            ("right to left with controls", Self { first: "\u{202e}أحمد\u{2066}".to_owned(), ..base(12) }),
        ]
    }

    /// The iMIS ID of member number `number`.
    pub fn id_of(number: usize) -> String {
        (1_000_000 + number).to_string()
    }

    /// First and last name.
    pub fn name(&self) -> String {
        format!("{} {}", self.first, self.last).trim().to_owned()
    }
}
