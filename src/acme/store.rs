//! What is kept of a CA: an account of ours, and a key with its chain for each site. Whoever reads a file reads all of an old or all of a
//! new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::clock;

/// Nobody writes for so long.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// Writes a file that is the gateway's alone. Where the disk is slow, nobody else waits for it.
pub(super) async fn write(path: &Path, contents: Vec<u8>) -> io::Result<()> {
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || replace(&path, &contents)).await;
    written.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Whether such a file could be written; nothing is left behind.
pub(super) async fn try_to_write(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let tried = tokio::task::spawn_blocking(move || {
        let new = beside(&path)?;
        let tried = written(&new, &[b' '; 16 * 1024]);
        let removed = std::fs::remove_file(&new);
        tried.and(removed)
    });
    tried.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A name of nobody's in the file's folder, which is made.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}.new", clock::random_u64().map_err(io::Error::other)?));
    Ok(folder.join(name))
}

/// Removes what a gateway that was killed half-way through has left: there may be a key in it.
pub(super) async fn remove_left_behind(path: PathBuf) {
    // What cannot be removed stays.
    let _ = tokio::task::spawn_blocking(move || remove_older(&path, LEFT_BEHIND)).await;
}

fn remove_older(path: &Path, age: Duration) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    for found in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = |found: &str| {
            let random = found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".new")?;
            Some(random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let is_ours = found.file_name().to_str().and_then(is_ours) == Some(true);
        let modified = found.metadata().and_then(|data| data.modified());
        let is_old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed > age));
        if is_ours && is_old {
            let _ = std::fs::remove_file(found.path());
        }
    }
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = beside(path)?;
    let written = written(&new, contents).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // Half of a file is of no use to anybody.
        let _ = std::fs::remove_file(&new);
    }
    written?;
    // It is there. Some network file systems cannot say that a folder is on the disk.
    if let Some(folder) = path.parent() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

fn written(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca/members.pem");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
        std::fs::create_dir(folder.path().join("ca/taken.pem")).unwrap();
        replace(&folder.path().join("ca/taken.pem"), b"one").unwrap_err();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "nor here");
    }

    #[test]
    fn only_what_was_left_half_written_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members.pem");
        let left = ["members.pem.0123456789abcdef.new", "members.pem.fedcba9876543210.new"];
        let others =
            ["members.pem", "members.pem.backup.new", "other.pem.0123456789abcdef.new", "members.pem.new"];
        for name in left.iter().chain(&others) {
            std::fs::write(folder.path().join(name), "key").unwrap();
        }
        remove_older(&path, LEFT_BEHIND);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "it may be under way");
        remove_older(&path, Duration::ZERO);
        assert!(others.iter().all(|name| folder.path().join(name).exists()));
        assert!(!left.iter().any(|name| folder.path().join(name).exists()));
    }
}
