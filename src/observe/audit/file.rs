//! The audit file. A thread appends to it, so that no sign-in waits for the disk, and rotates it by size.

use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::warn;

use crate::config::AuditConfig;

/// Lines that wait to be written. Further ones are dropped.
const MAX_QUEUED: usize = 8192;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The queue of the thread that writes the file. Clones share it.
#[derive(Clone)]
pub(crate) struct AuditFile(SyncSender<Message>);

enum Message {
    Line(String),
    /// Answered when every line before it has been written.
    Flush(SyncSender<()>),
}

impl AuditFile {
    /// Starts the thread, if a file is configured.
    pub(crate) fn open(config: &AuditConfig) -> Option<Self> {
        let path = config.file.clone()?;
        let (rotate_at, keep) = (config.rotate_at, config.keep);
        let (sender, messages) = sync_channel(MAX_QUEUED);
        let file = RotatingFile { path, rotate_at, keep, open: None };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        if let Err(error) = thread.spawn(move || write_all(file, &messages)) {
            warn!(%error, "the audit file cannot be written: no thread");
        }
        Some(Self(sender))
    }

    /// Queues a line. False: the queue is full.
    pub(crate) fn append(&self, line: String) -> bool {
        self.0.try_send(Message::Line(line)).is_ok()
    }

    /// Waits until the queued lines are written, or for a short time.
    pub(crate) fn flush(&self) {
        let (written, is_written) = sync_channel(1);
        if self.0.try_send(Message::Flush(written)).is_ok() {
            let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_all(mut file: RotatingFile, messages: &Receiver<Message>) {
    let mut is_failing = false;
    for message in messages {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(written) => {
                // The other side may have timed out.
                let _ = written.send(());
                continue;
            }
        };
        let written = file.append(&line);
        if let Err(error) = &written {
            file.open = None;
            if !is_failing {
                let file = file.path.display();
                warn!(%error, %file, "the audit file cannot be written; decisions are only in the log");
            }
        }
        is_failing = written.is_err();
    }
}

/// A file that is renamed when it would exceed a size: `audit.jsonl` to `audit.jsonl.1`, that to `audit.jsonl.2`, and
/// so on.
struct RotatingFile {
    path: PathBuf,
    rotate_at: u64,
    /// How many older files remain.
    keep: usize,
    /// The file and its size.
    open: Option<(File, u64)>,
}

impl RotatingFile {
    fn append(&mut self, line: &str) -> Result<()> {
        let length = line.len() as u64 + 1;
        let (mut file, mut size) = self.take_open()?;
        if size > 0 && size + length > self.rotate_at {
            drop(file);
            self.rotate()?;
            (file, size) = self.take_open()?;
        }
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            // A full disk has taken part of the line. Without it, the file still is one record per line.
            let _ = file.set_len(size);
            return Err(error);
        }
        self.open = Some((file, size + length));
        Ok(())
    }

    /// The open file, unless something else has moved or removed it; else opens it again.
    fn take_open(&mut self) -> Result<(File, u64)> {
        if let Some((file, size)) = self.open.take()
            && is_at(&file, &self.path)
        {
            return Ok((file, size));
        }
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).read(true).mode(0o640).open(&self.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 && !ends_with_newline(&mut file)? {
            // A crash has cut the last line off. It must not spoil the next one.
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok((file, size))
    }

    fn rotate(&self) -> Result<()> {
        let path = &self.path;
        for number in (1..self.keep).rev() {
            let older = rotated(path, number);
            if older.exists() {
                std::fs::rename(older, rotated(path, number + 1))?;
            }
        }
        if self.keep > 0 { std::fs::rename(path, rotated(path, 1)) } else { std::fs::remove_file(path) }
    }
}

fn ends_with_newline(file: &mut File) -> Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// The name of an older file; 1 is the newest of them.
pub(crate) fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::audit::search::{Filter, read};
    use serde_json::json;

    fn file(folder: &tempfile::TempDir, rotate_at: u64) -> RotatingFile {
        RotatingFile { path: folder.path().join("audit.jsonl"), rotate_at, keep: 2, open: None }
    }

    #[test]
    fn a_file_is_appended_to_and_rotated_by_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(&folder, 60);
        let path = file.path.clone();
        for number in 0..12 {
            file.append(&format!("{{\"imis_id\":\"{number:02}\"}}")).unwrap();
            if number == 5 {
                // As after a restart.
                file.open = None;
            }
        }
        let (records, invalid) = read(&path, 2, &Filter::default()).unwrap();
        let ids: Vec<&str> = records.iter().filter_map(|record| record["imis_id"].as_str()).collect();
        assert_eq!(invalid, 0);
        let newest = ["03", "04", "05", "06", "07", "08", "09", "10", "11"];
        assert_eq!(ids, newest, "two older files and the newest");
        assert!(!folder.path().join("audit.jsonl.3").exists());
        std::fs::write(&path, "not json\n").unwrap();
        assert_eq!(read(&path, 0, &Filter::default()).unwrap(), (Vec::new(), 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, 0, &Filter::default()).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn an_incomplete_or_invalid_line_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(&folder, 6000);
        std::fs::write(&file.path, b"{\"time\":\"M\xc3\n{\"time\":\"2026-11").unwrap();
        file.append("{\"imis_id\":\"7\"}").unwrap();
        let (records, invalid) = read(&file.path, 2, &Filter::default()).unwrap();
        assert_eq!((records.len(), invalid), (1, 2));
    }

    /// Runs itself again with files limited to 512 bytes: writing fails as on a full disk, after part of a line.
    #[test]
    fn a_full_disk_leaves_whole_lines() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        if soft != 512 {
            let (_, module) = module_path!().split_once("::").unwrap();
            let name = format!("{module}::a_full_disk_leaves_whole_lines");
            let limited = "trap '' XFSZ; ulimit -S -f 1; exec \"$0\" --exact \"$1\"";
            let program = std::env::current_exe().unwrap();
            let output = std::process::Command::new("sh")
                .args(["-c", limited])
                .arg(program)
                .arg(name)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(&folder, 6000);
        let line = |id: u32| format!("{{\"imis_id\":\"{id}\",\"padding\":\"{}\"}}", "x".repeat(180));
        file.append(&line(1)).unwrap();
        file.append(&line(2)).unwrap();
        let text = || std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        assert!(file.append(&line(3)).is_err());
        assert_eq!(text(), format!("{}\n{}\n", line(1), line(2)));
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        file.append(&line(4)).unwrap();
        assert_eq!(text(), format!("{}\n{}\n{}\n", line(1), line(2), line(4)));
    }

    #[test]
    fn a_file_that_was_moved_away_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = file(&folder, 6000);
        file.append("{\"imis_id\":\"1\"}").unwrap();
        std::fs::rename(&file.path, folder.path().join("elsewhere")).unwrap();
        file.append("{\"imis_id\":\"2\"}").unwrap();
        assert_eq!(read(&file.path, 0, &Filter::default()).unwrap().0, [json!({"imis_id": "2"})]);
    }
}
