//! The files that a configuration names: read once, and known again when their contents have changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use nix::fcntl::OFlag;

/// Reads the files that a configuration names, and remembers their contents.
pub(crate) struct Files {
    /// The directory of the configuration file; relative paths start there.
    folder: PathBuf,
    read: RefCell<BTreeMap<PathBuf, Contents>>,
}

/// The hash of a file's contents; `None` if it cannot be read.
type Contents = Option<Box<[u8]>>;

impl Files {
    pub(super) fn below(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: RefCell::default() }
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// Reads a file. From now on it is watched for changes.
    pub(crate) fn bytes(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let bytes = read(path);
        self.read.borrow_mut().insert(path.to_owned(), contents(&bytes));
        bytes
    }

    pub(super) fn watched(self) -> Watched {
        Watched(self.read.into_inner())
    }
}

/// Certificates, keys, roots and secrets of a configuration, as they were when it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watched(BTreeMap<PathBuf, Contents>);

impl Watched {
    /// The same files as they are now; symbolic links (of certbot and Kubernetes) are followed again.
    pub(crate) fn now(&self) -> Self {
        Self(self.0.keys().map(|path| (path.clone(), contents(&read(path)))).collect())
    }

    /// The files that everybody on the machine may write.
    pub(crate) fn open_to_all(&self) -> impl Iterator<Item = &Path> {
        let is_writable = |path: &&Path| {
            std::fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o002 != 0)
        };
        self.0.keys().map(PathBuf::as_path).filter(is_writable)
    }

    /// The files that are not the same in `other`.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Path> {
        let changed = self.0.iter().filter(|(path, contents)| other.0.get(*path) != Some(*contents));
        changed.map(|(path, _)| path.as_path())
    }
}

/// A larger file is no certificate, no secret and no configuration.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a whole regular file. A pipe or device could block the reader for ever.
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    // The error of the conversion would contain the bytes.
    String::from_utf8(read(path)?).map_err(|_| std::io::Error::other("it is not UTF-8"))
}

fn contents(bytes: &std::io::Result<Vec<u8>>) -> Contents {
    bytes.as_ref().ok().map(|bytes| digest(&SHA256, bytes).as_ref().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_through_links_and_so_are_files_that_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("first"), "1").unwrap();
        std::fs::write(at("second"), "2").unwrap();
        std::os::unix::fs::symlink("first", at("current")).unwrap();
        let files = Files::below(folder.path());
        assert_eq!(files.bytes(&files.at("current")).unwrap(), b"1");
        files.bytes(&files.at("absent")).unwrap_err();
        let before = files.watched();
        assert_eq!(before.now(), before);
        std::os::unix::fs::symlink("second", at("new")).unwrap();
        std::fs::rename(at("new"), at("current")).unwrap();
        std::fs::write(at("absent"), "here").unwrap();
        let now = before.now();
        assert_eq!(before.differing(&now).collect::<Vec<_>>(), [at("absent"), at("current")]);
        std::fs::remove_file(at("current")).unwrap();
        assert_ne!(before.now(), now);
        assert!(read(folder.path()).unwrap_err().to_string().contains("regular file"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("regular file"));
        std::fs::write(at("large"), vec![0; MAX_BYTES as usize + 1]).unwrap();
        assert!(read(&at("large")).is_err());
    }
}
