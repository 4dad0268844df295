//! The contacts that the simulator knows.

use serde_json::{Value, json};

use crate::members::Member;

/// A contact with credentials.
#[derive(Debug, Clone)]
pub struct Person {
    /// iMIS ID.
    pub id: String,
    /// To sign in with; not the e-mail address.
    pub username: String,
    /// To sign in with.
    pub password: String,
    /// The case for which the person is an example.
    pub note: &'static str,
    /// iMIS ID of the contact being viewed "on behalf of".
    pub viewing: Option<String>,
    /// Ids of groups the person is an active member of.
    pub groups: Vec<&'static str>,
    /// The record that `GET api/Party/{id}` answers.
    pub party: Value,
}

impl Person {
    /// What lists say about the person.
    pub(super) fn member(&self) -> Member {
        let party = &self.party;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let attributes = party["AdditionalAttributes"]["$values"].as_array();
        let attribute = |name: &str| {
            let own = attributes.into_iter().flatten().find(|own| own["Name"] == name);
            own.and_then(|own| own["Value"].as_str()).map(str::to_owned)
        };
        let (first, last) = (text(&party["PersonName"]["FirstName"]), text(&party["PersonName"]["LastName"]));
        let employer = &party["PrimaryOrganization"];
        let company = employer["OrganizationPartyId"].as_str();
        let company = company.map(|id| (id.to_owned(), text(&employer["Name"])));
        Member {
            id: self.id.clone(),
            first: if first.is_empty() { text(&party["Name"]) } else { first },
            last,
            email: party["Emails"]["$values"][0]["Address"].as_str().map(str::to_owned),
            phone: party["Phones"]["$values"][0]["Number"].as_str().map(str::to_owned),
            status: text(&party["Status"]["PartyStatusId"]),
            customer_type: attribute("CustomerTypeCode").unwrap_or_default(),
            paid_through: attribute("PaidThruDate"),
            updated_on: text(&party["UpdateInformation"]["UpdatedOn"]),
            chapter: "North".to_owned(),
            company,
            groups: self.groups.iter().map(|group| (*group).to_owned()).collect(),
            is_company: party["$type"].as_str().is_some_and(|name| name.contains("OrganizationData")),
        }
    }
}

/// The differences between the sample people.
struct Sketch<'a> {
    id: &'a str,
    username: &'a str,
    first: &'a str,
    last: &'a str,
    email: Option<&'a str>,
    phones: &'a [(&'a str, &'a str)],
    status: &'a str,
    member: bool,
    note: &'static str,
}

/// Everybody signs in with this password.
pub const PASSWORD: &str = "Demo-1234";

/// People for every case that the gateway has to tell apart.
pub fn sample() -> Vec<Person> {
    let plain = Sketch {
        id: "104019",
        username: "AMUELLER",
        first: "Ann",
        last: "Müller",
        email: Some("ann.mueller@example.org"),
        phones: &[("Mobile", "(512) 474-1234"), ("_Fax", "512-474-9999")],
        status: "A",
        member: true,
        note: "an active member with a phone number",
    };
    let mut people = vec![
        person(&Sketch { ..plain }),
        person(&Sketch {
            id: "104020",
            username: "boconnor",
            first: "Bob \"Bobby\"",
            last: "O'Connor <Jr.>",
            email: Some("bob@example.org"),
            phones: &[],
            note: "a name with quotes and angle brackets, no phone",
            ..plain
        }),
        person(&Sketch {
            id: "104021",
            username: "nomail",
            first: "Nora",
            last: "Nomail",
            email: None,
            note: "no e-mail address: refused",
            ..plain
        }),
        person(&Sketch {
            id: "104022",
            username: "lapsed",
            first: "Lars",
            last: "Lapsed",
            email: Some("lars@example.org"),
            status: "I",
            member: false,
            note: "an inactive record: refused",
            ..plain
        }),
        person(&Sketch {
            id: "104023",
            username: "badmail",
            first: "Bea",
            last: "Badmail",
            email: Some("bea@@example.org"),
            note: "an e-mail address that is not one: refused",
            ..plain
        }),
        person(&Sketch {
            id: "104024",
            username: "twin1",
            first: "Tina",
            last: "Twin",
            email: Some("twins@example.org"),
            note: "shares an e-mail address with twin2: refused",
            ..plain
        }),
        person(&Sketch {
            id: "104025",
            username: "twin2",
            first: "Tom",
            last: "Twin",
            email: Some("twins@example.org"),
            note: "shares an e-mail address with twin1: refused",
            ..plain
        }),
    ];
    let mut staff = person(&Sketch {
        id: "300001",
        username: "staff",
        first: "Sam",
        last: "Staff",
        email: Some("sam@association.example"),
        note: "staff, looking at Ann's record on her behalf: refused",
        ..plain
    });
    staff.viewing = Some("104019".to_owned());
    staff.groups = vec!["Staff"];
    people.push(staff);
    people.push(company());
    people
}

fn person(sketch: &Sketch<'_>) -> Person {
    let full = format!("{} {}", sketch.first, sketch.last);
    let email = |address: &str| {
        json!({"$type": "Asi.Soa.Membership.DataContracts.EmailData, Asi.Contracts", "Address": address,
            "EmailType": "_Primary", "IsPrimary": true})
    };
    let phone = |(kind, number): &(&str, &str)| json!({"$type": "Asi.Soa.Membership.DataContracts.PhoneData, Asi.Contracts", "Number": number, "PhoneType": kind});
    let mut party = json!({
        "$type": "Asi.Soa.Membership.DataContracts.PersonData, Asi.Contracts",
        "PersonName": {
            "$type": "Asi.Soa.Membership.DataContracts.PersonNameData, Asi.Contracts",
            "FirstName": sketch.first, "LastName": sketch.last, "FullName": full, "InformalName": sketch.first},
        "PrimaryOrganization": {
            "$type": "Asi.Soa.Membership.DataContracts.PrimaryOrganizationInformationData, Asi.Contracts",
            "OrganizationPartyId": "200001", "Name": "Contoso Ltd.", "Title": "Engineer"},
        "AdditionalAttributes": attributes(sketch.id, sketch.member),
        "Phones": list("PhoneDataCollection", sketch.phones.iter().map(phone).collect()),
        "PartyId": sketch.id, "Id": sketch.id, "UniformId": format!("5F2B-{}", sketch.id),
        "Status": {"$type": "Asi.Soa.Membership.DataContracts.PartyStatusData, Asi.Contracts",
            "PartyStatusId": sketch.status, "Description": if sketch.status == "A" { "Active" } else { "Inactive" }},
        "Name": full, "Sort": format!("{}, {}", sketch.last, sketch.first),
        "UpdateInformation": {"CreatedBy": "MANAGER", "CreatedOn": "2019-03-01T00:00:00", "UpdatedOn": "2024-01-15T09:30:00"}
    });
    // iMIS omits nulls.
    if let Some(address) = sketch.email {
        party["Emails"] = list("EmailDataCollection", vec![email(address)]);
    }
    Person {
        id: sketch.id.to_owned(),
        username: sketch.username.to_owned(),
        password: PASSWORD.to_owned(),
        note: sketch.note,
        viewing: None,
        groups: Vec::new(),
        party,
    }
}

/// The record of a member.
pub(super) fn record(member: &Member) -> Value {
    let phone = member.phone.as_deref().map(|number| ("Mobile", number));
    let is_member = member.customer_type == "M";
    let sketch = Sketch {
        id: &member.id,
        username: "",
        first: &member.first,
        last: &member.last,
        email: member.email.as_deref(),
        phones: phone.as_slice(),
        status: &member.status,
        member: is_member,
        note: "",
    };
    let mut party = person(&sketch).party;
    party["UpdateInformation"]["UpdatedOn"] = json!(member.updated_on);
    if let Some((id, name)) = &member.company {
        party["PrimaryOrganization"]["OrganizationPartyId"] = json!(id);
        party["PrimaryOrganization"]["Name"] = json!(name);
    } else if let Some(map) = party.as_object_mut() {
        map.remove("PrimaryOrganization");
    }
    if let Some(attributes) = party["AdditionalAttributes"]["$values"].as_array_mut() {
        for attribute in &mut *attributes {
            match attribute["Name"].as_str() {
                Some("CustomerTypeCode") => attribute["Value"] = json!(member.customer_type),
                Some("PaidThruDate") => attribute["Value"] = json!(member.paid_through),
                _ => {}
            }
        }
        attributes.retain(|attribute| !attribute["Value"].is_null());
    }
    party
}

fn company() -> Person {
    Person {
        id: "200001".to_owned(),
        username: "contoso".to_owned(),
        password: PASSWORD.to_owned(),
        note: "a company record with credentials: refused",
        viewing: None,
        groups: Vec::new(),
        party: json!({
            "$type": "Asi.Soa.Membership.DataContracts.OrganizationData, Asi.Contracts",
            "PartyId": "200001", "Id": "200001", "Name": "Contoso Ltd.", "OrganizationName": "Contoso Ltd.",
            "Emails": list("EmailDataCollection",
                vec![json!({"Address": "office@contoso.example", "EmailType": "_Primary", "IsPrimary": true})]),
            "Status": {"PartyStatusId": "A", "Description": "Active"},
            "AdditionalAttributes": attributes("200001", true)
        }),
    }
}

fn attributes(id: &str, member: bool) -> Value {
    let boolean = |value: bool| json!({"$type": "System.Boolean", "$value": value});
    let attribute = |name: &str, value: Value| json!({"$type": "Asi.Soa.Core.DataContracts.GenericPropertyData, Asi.Contracts", "Name": name, "Value": value});
    let mut all = vec![
        attribute("IsMember", boolean(member)),
        attribute("IsInactiveMember", boolean(!member)),
        attribute("CustomerTypeCode", json!(if member { "M" } else { "NM" })),
        attribute("MajorKey", json!(id)),
        attribute("JoinDate", json!("2019-03-01T00:00:00")),
    ];
    if member {
        all.push(attribute("PaidThruDate", json!("2027-12-31T00:00:00")));
    }
    list("GenericPropertyDataCollection", all)
}

fn list(collection: &str, values: Vec<Value>) -> Value {
    json!({"$type": format!("Asi.Soa.Membership.DataContracts.{collection}, Asi.Contracts"), "$values": values})
}
