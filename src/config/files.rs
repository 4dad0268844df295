//! The files that a configuration names: read once, and known again when their contents have changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// Reads what a configuration names and remembers what it was.
pub(crate) struct Files {
    /// Of the configuration file; relative paths begin there.
    folder: PathBuf,
    read: RefCell<BTreeMap<PathBuf, Contents>>,
}

/// What a file held, as far as that is needed to see that it has changed; none: it could not be read.
type Contents = Option<Box<[u8]>>;

impl Files {
    pub(super) fn below(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: RefCell::default() }
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// The contents of a file, whose changes count from now on.
    pub(crate) fn bytes(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let bytes = std::fs::read(path);
        let contents = bytes.as_ref().ok().map(|bytes| contents(bytes));
        self.read.borrow_mut().insert(path.to_owned(), contents);
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
    /// The same files as they are now. Whatever leads to them (the symbolic links of certbot and Kubernetes) is followed anew.
    pub(crate) fn now(&self) -> Self {
        let now = |path: &PathBuf| std::fs::read(path).ok().map(|bytes| contents(&bytes));
        Self(self.0.keys().map(|path| (path.clone(), now(path))).collect())
    }

    /// The files that are not the same in `other`.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Path> {
        self.0
            .iter()
            .filter(|(path, contents)| other.0.get(*path) != Some(*contents))
            .map(|(path, _)| path.as_path())
    }
}

fn contents(bytes: &[u8]) -> Box<[u8]> {
    digest(&SHA256, bytes).as_ref().into()
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
    }
}
