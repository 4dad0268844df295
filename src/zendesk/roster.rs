//! The agents and admins of an account at one point in time: Zendesk's user IDs, and hashes of everything else. It is
//! kept in a file, so that sign-ins work at once after a restart.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use crate::base::clock;
use crate::base::hex::hex;

/// An older file is not used: too much may have changed.
const MAX_FILE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const VERSION: u32 = 1;

/// The staff at one point in time.
pub(super) struct Roster {
    list: List,
    /// Positions in the list of those who have an address.
    by_address: HashMap<String, Vec<usize>>,
    /// How old the list was when this was built, and when that was.
    built: (Duration, Instant),
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    version: u32,
    /// Base URL of the API.
    account: String,
    /// Seconds since 1970.
    fetched: u64,
    /// The key of the hashes.
    salt: String,
    people: Vec<Person>,
}

/// A staff member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Person {
    pub(super) id: u64,
    /// Zendesk's time of the last change. It does not always change when an address is added.
    pub(super) updated_at: String,
    /// Seconds since 1970 when the addresses were fetched.
    pub(super) checked: u64,
    /// Hash of the iMIS ID.
    external_id: Option<String>,
    /// Hashes of all e-mail addresses.
    addresses: Vec<String>,
}

/// Hashes addresses and IDs, without regard to case.
pub(crate) struct Hasher {
    salt: String,
    key: hmac::Key,
}

impl Hasher {
    pub(crate) fn new(salt: &str) -> Self {
        Self { salt: salt.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes()) }
    }

    pub(crate) fn hash(&self, text: &str) -> String {
        let tag = hmac::sign(&self.key, text.to_lowercase().as_bytes());
        hex(&tag.as_ref()[..16])
    }

    pub(super) fn person(
        &self,
        (id, updated_at): (u64, String),
        external_id: Option<&str>,
        addresses: &[String],
    ) -> Person {
        let mut addresses: Vec<String> = addresses.iter().map(|address| self.hash(address)).collect();
        addresses.sort();
        addresses.dedup();
        let external_id = external_id.map(|id| self.hash(id));
        Person { id, updated_at, checked: clock::unix_now(), external_id, addresses }
    }

    /// The same person with the present iMIS ID, and with the primary address added to those known.
    pub(super) fn renewed(
        &self,
        person: &Person,
        external_id: Option<&str>,
        primary: Option<&str>,
    ) -> Person {
        let mut renewed = Person { external_id: external_id.map(|id| self.hash(id)), ..person.clone() };
        renewed.addresses.extend(primary.map(|address| self.hash(address)));
        renewed.addresses.sort();
        renewed.addresses.dedup();
        renewed
    }
}

impl Roster {
    pub(super) fn new(account: &str, hasher: &Hasher, people: Vec<Person>) -> Self {
        let (account, salt) = (account.to_owned(), hasher.salt.clone());
        Self::of(List { version: VERSION, account, fetched: clock::unix_now(), salt, people }, Duration::ZERO)
    }

    fn of(list: List, age: Duration) -> Self {
        let mut by_address: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, person) in list.people.iter().enumerate() {
            for address in &person.addresses {
                by_address.entry(address.clone()).or_default().push(index);
            }
        }
        Self { list, by_address, built: (age, Instant::now()) }
    }

    pub(super) fn hasher(&self) -> Hasher {
        Hasher::new(&self.list.salt)
    }

    pub(super) fn people(&self) -> &[Person] {
        &self.list.people
    }

    pub(super) fn age(&self) -> Duration {
        self.built.0 + self.built.1.elapsed()
    }

    pub(super) fn without_imis_id(&self) -> usize {
        self.list.people.iter().filter(|person| person.external_id.is_none()).count()
    }

    /// Whether the staff members with an address all have this iMIS ID; `None` if nobody has the address.
    pub(super) fn have_imis_id(&self, email: &str, imis_id: &str) -> Option<bool> {
        let hasher = self.hasher();
        let wanted = hasher.hash(imis_id);
        let people = self.by_address.get(&hasher.hash(email))?;
        Some(people.iter().all(|index| self.list.people[*index].external_id.as_ref() == Some(&wanted)))
    }

    pub(super) fn has_imis_id(&self, imis_id: &str) -> bool {
        let wanted = self.hasher().hash(imis_id);
        self.list.people.iter().any(|person| person.external_id.as_ref() == Some(&wanted))
    }

    /// Reads the list of an account from a file. `None` if there is none that can be used.
    pub(super) fn load(file: &Path, account: &str) -> std::io::Result<Option<Self>> {
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(std::io::Error::other("it is not a file, or too large"));
        }
        let list: List = serde_json::from_slice(&std::fs::read(file)?)?;
        let age = Duration::from_secs(clock::unix_now().saturating_sub(list.fetched));
        let is_usable = list.version == VERSION
            && list.account == account
            && !list.people.is_empty()
            && age < MAX_FILE_AGE;
        Ok(is_usable.then(|| Self::of(list, age)))
    }

    /// Replaces the file as a whole. Creates its folder, but not the folder above.
    pub(super) fn save(&self, file: &Path) -> std::io::Result<()> {
        if let Some(folder) = file.parent().filter(|folder| !folder.is_dir()) {
            std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(folder)?;
        }
        let temporary = file.with_added_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        new.write_all(&serde_json::to_vec(&self.list)?)?;
        new.sync_all()?;
        std::fs::rename(&temporary, file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn roster() -> Roster {
        let hasher = Hasher::new("00112233445566778899aabbccddeeff");
        let person = |id, external_id, addresses: &[&str]| {
            let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
            hasher.person((id, "2026-01-01".to_owned()), external_id, &addresses)
        };
        let people = vec![
            person(1, Some("104019"), &["sam@example.org", "Sam.Home@example.org"]),
            person(2, None, &["olga@example.org"]),
            person(3, Some("7"), &["shared@example.org"]),
            person(4, Some("8"), &["shared@example.org"]),
        ];
        Roster::new("https://contoso.zendesk.com/", &hasher, people)
    }

    #[test]
    fn people_are_found_by_every_address_and_id_without_case() {
        let roster = roster();
        assert_eq!(roster.have_imis_id("SAM@example.org", "104019"), Some(true));
        assert_eq!(roster.have_imis_id("sam.home@example.org", "104019"), Some(true));
        assert_eq!(roster.have_imis_id("sam@example.org", "5"), Some(false));
        assert_eq!(roster.have_imis_id("olga@example.org", ""), Some(false), "no ID is nobody's ID");
        assert_eq!(roster.have_imis_id("shared@example.org", "7"), Some(false), "one of two");
        assert_eq!(roster.have_imis_id("ann@example.org", "104019"), None);
        assert!(roster.has_imis_id("104019") && !roster.has_imis_id("104"));
        assert_eq!(roster.without_imis_id(), 1);
    }

    #[test]
    fn the_file_holds_hashes_and_comes_back_for_its_account_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("staff/list.json");
        assert!(Roster::load(&file, "https://contoso.zendesk.com/").unwrap().is_none());
        roster().save(&file).unwrap();
        roster().save(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains('@') && !text.contains("104019"), "{text}");
        let back = Roster::load(&file, "https://contoso.zendesk.com/").unwrap().unwrap();
        assert_eq!(back.have_imis_id("sam@example.org", "104019"), Some(true));
        assert!(Roster::load(&file, "https://other.zendesk.com/").unwrap().is_none());
        let long_ago = text.replace(&format!("\"fetched\":{}", back.list.fetched), "\"fetched\":1700000000");
        std::fs::write(&file, &long_ago).unwrap();
        assert!(Roster::load(&file, "https://contoso.zendesk.com/").unwrap().is_none(), "too old");
        for broken in ["", "{}", &text[..text.len() / 2]] {
            std::fs::write(&file, broken).unwrap();
            assert!(Roster::load(&file, "https://contoso.zendesk.com/").is_err());
        }
        // The folder above has to be there.
        assert!(roster().save(&folder.path().join("no/such/list.json")).is_err());
    }
}
