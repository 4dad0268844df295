//! Reads the audit file for `imis-gateway audit show`.

use std::path::Path;

use serde_json::Value;

use crate::base::paths::parent_directory;
use crate::observe::audit::file::rotated;

/// Which records to show; all of the fields that are set must match.
// Not a doc comment of the struct's: clap would take it for that of the command.
#[derive(Default, clap::Args)]
pub(crate) struct Filter {
    /// Only decisions of this app
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// Only decisions about this person
    #[arg(long, value_name = "ID")]
    pub(crate) imis_id: Option<String>,
    /// Only the decision with this incident number (`request_id` in the log)
    #[arg(long = "incident", value_name = "NUMBER")]
    pub(crate) request_id: Option<String>,
    /// Only decisions of this kind
    #[arg(long, value_name = "WHICH", value_parser = ["signed-in", "messaging", "refused", "broken"])]
    pub(crate) decision: Option<String>,
    /// Only decisions since this time, UTC: 2026-11-27, or 2026-11-27T10:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<String>,
}

/// A date, or a date and time, in the form that records have.
fn since(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('Z');
    let is_date = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
    let is_time = text.as_bytes().get(10) == Some(&b'T') && text.parse::<jiff::civil::DateTime>().is_ok();
    if is_date || is_time {
        return Ok(text.to_owned());
    }
    Err("write it like 2026-11-27, or 2026-11-27T10:00".to_owned())
}

impl Filter {
    fn matches(&self, record: &Value) -> bool {
        let same = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| record[name] == **wanted)
        };
        let is_recent = self
            .since
            .as_ref()
            .is_none_or(|since| record["time"].as_str().is_some_and(|time| time >= since.as_str()));
        same("app", &self.app)
            && (same("imis_id", &self.imis_id) || same("signed_in_as", &self.imis_id))
            && same("request_id", &self.request_id)
            && same("decision", &self.decision)
            && is_recent
    }
}

/// The matching records of the file and its rotated predecessors, oldest first, and the number of invalid lines.
pub(crate) fn read(path: &Path, keep: usize, filter: &Filter) -> std::io::Result<(Vec<Value>, usize)> {
    let mut found = Vec::new();
    let mut invalid = 0;
    let older = (1..=keep).rev().map(|number| rotated(path, number)).filter(|file| file.exists());
    // Before the first decision there is no file.
    let newest = (path.exists() || !parent_directory(path).is_dir()).then(|| path.to_owned());
    for file in older.chain(newest) {
        let bytes = std::fs::read(file)?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Value>(line) {
                Ok(record) if filter.matches(&record) => found.push(record),
                Ok(_) => {}
                Err(_) => invalid += 1,
            }
        }
    }
    Ok((found, invalid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_filter_matches_records_by_their_fields() {
        let record = json!({"time": "2026-11-27T10:00:00Z", "app": "A", "imis_id": "7", "decision": "refused", "signed_in_as": "8"});
        let matches = |set: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            set(&mut filter);
            filter.matches(&record)
        };
        let text = |text: &str| Some(text.to_owned());
        assert!(matches(&|_| {}));
        assert!(matches(&|filter| filter.app = text("A")) && !matches(&|filter| filter.app = text("B")));
        assert!(
            matches(&|filter| filter.imis_id = text("7")) && matches(&|filter| filter.imis_id = text("8"))
        );
        assert!(matches(&|filter| filter.since = text("2026-11-27")));
        assert!(!matches(&|filter| filter.since = text("2026-11-28")));
        assert!(!matches(&|filter| filter.decision = text("signed-in")));
        assert!(!matches(&|filter| filter.request_id = text("i")));
    }
}
