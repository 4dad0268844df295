//! The files of accounts and certificates: mode 600, replaced as a whole.

use std::path::{Path, PathBuf};

use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::acme::error::AcmeError;

/// A file that takes the place of another when it is complete.
pub(super) struct NewFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Also makes the folder.
    pub(super) async fn create(path: &Path) -> Result<Self, AcmeError> {
        let temporary = path.with_added_extension("new");
        let folder = path.parent().unwrap_or(path);
        let create = async {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
            // A gateway that was killed left it behind.
            let _ = fs::remove_file(&temporary).await;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).await
        };
        let file = create.await.map_err(|source| unwritten(path, source))?;
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    pub(super) async fn commit(mut self, contents: &str) -> Result<(), AcmeError> {
        let commit = async {
            self.file.write_all(contents.as_bytes()).await?;
            self.file.sync_all().await?;
            fs::rename(&self.temporary, &self.path).await
        };
        commit.await.map_err(|source| unwritten(&self.path, source))
    }
}

fn unwritten(path: &Path, source: std::io::Error) -> AcmeError {
    AcmeError::File { action: "written", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_file_is_replaced_as_a_whole_and_only_the_gateway_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca/members.pem");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        for contents in ["one", "two"] {
            let file = NewFile::create(&path).await.unwrap();
            assert_eq!(path.exists(), contents == "two", "the old one stays for now");
            file.commit(contents).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
            assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
            assert_eq!(
                std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
                1,
                "nothing is left behind"
            );
        }
    }

    #[tokio::test]
    async fn what_a_killed_gateway_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("members.pem"), folder.path().join("members.pem.new"));
        std::fs::write(&left, "key").unwrap();
        std::fs::set_permissions(&left, PermissionsExt::from_mode(0o644)).unwrap();
        NewFile::create(&path).await.unwrap().commit("new").await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!left.exists());
    }
}
