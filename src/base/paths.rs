//! File paths.

use std::path::Path;

/// The directory of a file; `.` for a bare file name.
pub(crate) fn parent_directory(file: &Path) -> &Path {
    file.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
