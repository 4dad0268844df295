//! The record of every decision about a sign-in: one line in the log, and, where that is configured, in a file of JSON lines that is only
//! ever appended to.
//!
//! An e-mail address stands in it as a keyed hash unless the operator wants it otherwise: enough to see that two records are of the same
//! address.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use crate::base::clock;
use crate::base::paths::parent_directory;
use crate::config::{AuditConfig, Config, Emails, Secret};

/// Lines that wait to be written. More are lost, and their number is told.
const MOST_WAITING: usize = 8192;
/// How long the end of the program waits for the last of them.
const AT_THE_END: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Audit {
    key: hmac::Key,
    config: AuditConfig,
    /// Its hash.
    configuration: String,
    file: Option<SyncSender<Line>>,
}

/// For the thread that writes.
enum Line {
    Record(String),
    /// Everything before it is to be on its way to the disk, then it is to be answered.
    End(SyncSender<()>),
}

/// What was decided.
pub(crate) struct Decision<'a> {
    pub(crate) incident: &'a str,
    pub(crate) app: &'a str,
    /// The visitor's address.
    pub(crate) client: String,
    /// `signed-in`, `refused` or `broken`.
    pub(crate) decision: &'static str,
    /// Of a refusal.
    pub(crate) reason: Option<&'a str>,
    pub(crate) rule: Option<usize>,
    /// Whose profile counts.
    pub(crate) imis_id: Option<&'a str>,
    /// Who is signed in to iMIS.
    pub(crate) signed_in_as: Option<&'a str>,
    pub(crate) email: Option<&'a str>,
    /// The account in Zendesk.
    pub(crate) target: String,
}

impl Audit {
    /// `key`: of the hashes. `before`: goes on with its file, if that is the same.
    pub(crate) fn new(config: &Config, key: &Secret, before: Option<&Self>) -> Self {
        let file = match before.filter(|before| before.config == config.audit) {
            Some(before) => before.file.clone(),
            None => config.audit.file.is_some().then(|| writer(config.audit.clone())),
        };
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()),
            config: config.audit.clone(),
            configuration: config.hash.clone(),
            file,
        }
    }

    pub(crate) fn record(&self, decision: &Decision<'_>) {
        let Decision {
            incident,
            app,
            client,
            decision: what,
            reason,
            rule,
            imis_id,
            signed_in_as,
            email,
            target,
        } = decision;
        let email = email.and_then(|email| self.shown(email));
        info!(
            target: "imis_gateway::audit",
            request_id = incident, app, client, decision = what, reason, rule, imis_id, signed_in_as, email, zendesk = target,
            config_hash = self.configuration, "decision"
        );
        let Some(file) = &self.file else { return };
        let mut line = Map::new();
        line.insert("time".to_owned(), clock::rfc_3339().into());
        for (name, value) in [
            ("request_id", json!(incident)),
            ("app", json!(app)),
            ("client", json!(client)),
            ("decision", json!(what)),
            ("reason", json!(reason)),
            ("rule", json!(rule)),
            ("imis_id", json!(imis_id)),
            ("signed_in_as", json!(signed_in_as)),
            ("email", json!(email)),
            ("zendesk", json!(target)),
            ("config_hash", json!(self.configuration)),
        ] {
            if !value.is_null() {
                line.insert(name.to_owned(), value);
            }
        }
        match file.try_send(Line::Record(Value::from(line).to_string())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                warn!(
                    request_id = incident,
                    "the audit file takes no more lines; this decision is only in the log"
                );
            }
        }
    }

    /// Waits until what has been recorded is written, or for a little.
    pub(crate) fn finish(&self) {
        let Some(file) = &self.file else { return };
        let (answer, written) = sync_channel(1);
        if file.try_send(Line::End(answer)).is_ok() {
            let _ = written.recv_timeout(AT_THE_END);
        }
    }

    fn shown(&self, email: &str) -> Option<String> {
        match self.config.emails {
            Emails::None => None,
            Emails::Plain => Some(email.to_owned()),
            Emails::Hashed => {
                let tag = hmac::sign(&self.key, email.to_lowercase().as_bytes());
                Some(tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
            }
        }
    }
}

/// A thread that appends lines, so that no sign-in waits for a disk.
fn writer(config: AuditConfig) -> SyncSender<Line> {
    let (sender, lines) = sync_channel(MOST_WAITING);
    let thread = std::thread::Builder::new().name("audit".to_owned());
    if let Err(error) = thread.spawn(move || append_all(&config, &lines)) {
        warn!(%error, "the audit file cannot be written: no thread");
    }
    sender
}

fn append_all(config: &AuditConfig, lines: &Receiver<Line>) {
    let Some(path) = &config.file else { return };
    let mut failing = false;
    let mut open: Option<(File, u64)> = None;
    while let Ok(line) = lines.recv() {
        let line = match line {
            Line::Record(line) => line,
            Line::End(answer) => {
                // Whoever asked may have given up.
                let _ = answer.send(());
                continue;
            }
        };
        let written = append(config, path, &mut open, &line);
        if let Err(error) = &written {
            open = None;
            if !failing {
                warn!(%error, file = %path.display(), "the audit file cannot be written; decisions are only in the log");
            }
        }
        failing = written.is_err();
    }
}

fn append(
    config: &AuditConfig,
    path: &Path,
    open: &mut Option<(File, u64)>,
    line: &str,
) -> std::io::Result<()> {
    let length = line.len() as u64 + 1;
    if open.as_ref().is_some_and(|(file, _)| !is_at(file, path)) {
        *open = None;
    }
    if open.as_ref().is_some_and(|(_, size)| size + length > config.rotate_at) {
        *open = None;
        rotate(path, config.keep)?;
    }
    if open.is_none() {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
        let mut file = options.read(true).open(path)?;
        let mut size = file.metadata()?.len();
        if size > 0 && !ends_a_line(&mut file)? {
            // What was cut off there must not take the next record with it.
            file.write_all(b"\n")?;
            size += 1;
        }
        *open = Some((file, size));
        if size + length > config.rotate_at && size > 0 {
            *open = None;
            rotate(path, config.keep)?;
            return append(config, path, open, line);
        }
    }
    let Some((file, size)) = open else { return Ok(()) };
    file.write_all(format!("{line}\n").as_bytes())?;
    *size += length;
    Ok(())
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Whether an open file is still the one with this name: somebody else may have moved it away.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// `audit.jsonl` becomes `audit.jsonl.1`, that `.2`, and so on; the last one goes.
fn rotate(path: &Path, keep: usize) -> std::io::Result<()> {
    for number in (1..keep).rev() {
        let (from, to) = (numbered(path, number), numbered(path, number + 1));
        if from.exists() {
            std::fs::rename(from, to)?;
        }
    }
    if keep > 0 { std::fs::rename(path, numbered(path, 1)) } else { std::fs::remove_file(path) }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// What `audit show` looks for.
pub(crate) struct Wanted {
    pub(crate) app: Option<String>,
    pub(crate) imis_id: Option<String>,
    pub(crate) incident: Option<String>,
    pub(crate) decision: Option<String>,
    /// As in the records: `2026-11-27`, or more of it.
    pub(crate) since: Option<String>,
}

/// The records of the file and of those it has become, the oldest first. Lines that are none are counted.
pub(crate) fn read(path: &Path, keep: usize, wanted: &Wanted) -> std::io::Result<(Vec<Value>, usize)> {
    let mut found = Vec::new();
    let mut odd = 0;
    let older = (1..=keep).rev().map(|number| numbered(path, number)).filter(|file| file.exists());
    // Before the first decision there is no file.
    let newest = (path.exists() || !parent_directory(path).is_dir()).then(|| path.to_owned());
    for file in older.chain(newest) {
        let bytes = std::fs::read(file)?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Value>(line) {
                Ok(record) if wanted.is(&record) => found.push(record),
                Ok(_) => {}
                Err(_) => odd += 1,
            }
        }
    }
    Ok((found, odd))
}

impl Wanted {
    fn is(&self, record: &Value) -> bool {
        let same = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| record[name] == **wanted)
        };
        let since = self
            .since
            .as_ref()
            .is_none_or(|since| record["time"].as_str().is_some_and(|time| time >= since.as_str()));
        same("app", &self.app)
            && (same("imis_id", &self.imis_id) || same("signed_in_as", &self.imis_id))
            && same("request_id", &self.incident)
            && same("decision", &self.decision)
            && since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { app: None, imis_id: None, incident: None, decision: None, since: None }
    }

    #[test]
    fn a_file_is_appended_to_and_turned_over_at_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let config = AuditConfig { file: Some(path.clone()), rotate_at: 60, keep: 2, emails: Emails::Hashed };
        let mut open = None;
        let line = |number: usize| format!("{{\"imis_id\":\"{number:02}\"}}");
        for number in 0..12 {
            append(&config, &path, &mut open, &line(number)).unwrap();
            if number == 5 {
                // As after a restart.
                open = None;
            }
        }
        let (records, odd) = read(&path, 2, &wanted()).unwrap();
        let ids: Vec<&str> = records.iter().filter_map(|record| record["imis_id"].as_str()).collect();
        assert_eq!(odd, 0);
        assert_eq!(
            ids,
            ["03", "04", "05", "06", "07", "08", "09", "10", "11"],
            "two older files and the newest"
        );
        assert!(!folder.path().join("audit.jsonl.3").exists());
        std::fs::write(&path, "not json\n").unwrap();
        assert_eq!(read(&path, 0, &wanted()).unwrap(), (Vec::new(), 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, 0, &wanted()).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn what_was_cut_off_or_is_no_text_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let config =
            AuditConfig { file: Some(path.clone()), rotate_at: 6000, keep: 2, emails: Emails::Hashed };
        std::fs::write(&path, b"{\"time\":\"M\xc3\n{\"time\":\"2026-11").unwrap();
        append(&config, &path, &mut None, "{\"imis_id\":\"7\"}").unwrap();
        let (records, odd) = read(&path, 2, &wanted()).unwrap();
        assert_eq!((records.len(), odd), (1, 2));
    }

    #[test]
    fn a_file_that_was_moved_away_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let config =
            AuditConfig { file: Some(path.clone()), rotate_at: 6000, keep: 2, emails: Emails::Hashed };
        let mut open = None;
        append(&config, &path, &mut open, "{\"imis_id\":\"1\"}").unwrap();
        std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        append(&config, &path, &mut open, "{\"imis_id\":\"2\"}").unwrap();
        assert_eq!(read(&path, 0, &wanted()).unwrap().0, [json!({"imis_id": "2"})]);
    }

    #[test]
    fn records_are_found_by_what_they_hold() {
        let record = json!({"time": "2026-11-27T10:00:00Z", "app": "A", "imis_id": "7", "decision": "refused", "signed_in_as": "8"});
        let is = |change: &dyn Fn(&mut Wanted)| {
            let mut wanted = wanted();
            change(&mut wanted);
            wanted.is(&record)
        };
        let text = |text: &str| Some(text.to_owned());
        assert!(
            is(&|_| {})
                && is(&|w| w.app = text("A"))
                && is(&|w| w.imis_id = text("7"))
                && is(&|w| w.imis_id = text("8"))
        );
        assert!(is(&|w| w.since = text("2026-11-27")) && !is(&|w| w.since = text("2026-11-28")));
        assert!(
            !is(&|w| w.app = text("B"))
                && !is(&|w| w.decision = text("signed-in"))
                && !is(&|w| w.incident = text("i"))
        );
    }
}
