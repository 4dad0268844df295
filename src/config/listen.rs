//! `listen`: the addresses, and how to reach the gateway of a file whatever else is wrong in that file.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::files::read_text;
use crate::config::keys::KEYS;
use crate::config::section::Section;
use crate::config::tree::{self, Node};
use crate::config::values;

/// The longest path of a Unix socket (unix(7)), without the zero at its end.
const MAX_SOCKET_PATH: usize = 107;

/// Addresses to accept connections on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    /// Names under which the admin listener may be asked, besides `localhost`.
    pub(crate) admin_hosts: Vec<String>,
    /// Path of the Unix socket for `reload` and `status`.
    pub(crate) control: Option<PathBuf>,
}

pub(super) fn listen(section: &Section<'_>) -> Listen {
    let https = section.texts("https", values::socket_address);
    if let Some(value) = section.given("https")
        && https.is_empty()
    {
        value.report("at least one address is needed");
    }
    let listen = Listen {
        https,
        http: section.texts("http", values::socket_address),
        admin: section.parsed("admin", loopback_address),
        admin_hosts: section.texts("admin_hosts", values::site_host),
        control: section.parsed("control", |text| {
            let path = section.files().at(control_path(text)?);
            let other = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket());
            if other && section.has("control") {
                return Err("there is something else than a socket at this path".to_owned());
            }
            Ok(path)
        }),
    };
    report_conflicts(section, &listen);
    listen
}

/// Reports addresses that cannot be used together.
fn report_conflicts(section: &Section<'_>, listen: &Listen) {
    let named = |key: &'static str, list: &[SocketAddr]| list.iter().map(|at| (key, *at)).collect::<Vec<_>>();
    let all =
        [named("https", &listen.https), named("http", &listen.http), named("admin", listen.admin.as_slice())]
            .concat();
    // `[::]` includes IPv4.
    let covers = |one: &SocketAddr, other: &SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4()) || one.ip() == other.ip()
    };
    for (index, (key, address)) in all.iter().enumerate() {
        let conflict = all[..index].iter().find(|(_, other)| {
            other.port() == address.port()
                && other.port() != 0
                && (covers(other, address) || covers(address, other))
        });
        if let Some((other_key, other)) = conflict {
            let port = address.port();
            section.report(format!("{key} and {other_key} both take port {port}: {other} and {address}"));
        }
    }
}

fn control_path(text: &str) -> Result<String, String> {
    let path = values::not_empty(text)?;
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes"));
    }
    Ok(path)
}

fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = values::socket_address(text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the admin listener has no authentication: use a loopback address, like 127.0.0.1:9180".to_owned())
}

/// How to reach the gateway of a file, whatever else is wrong in the file.
pub(crate) struct Glance {
    /// The file exists and is YAML.
    pub(crate) is_read: bool,
    pub(crate) control: Option<PathBuf>,
    pub(crate) admin: Option<SocketAddr>,
    /// The audit file, and the number of rotated files; `None` if there is no such file, or it is not known.
    pub(crate) audit: Option<(PathBuf, usize)>,
    /// Names of the apps.
    pub(crate) apps: Vec<String>,
}

pub(crate) fn glance(file: &Path) -> Glance {
    let text = read_text(file).unwrap_or_default();
    let tree = tree::parse(&text).ok();
    let folder = file.parent().unwrap_or(Path::new("."));
    let root = |key: &str| tree.as_ref().and_then(|tree| tree.value.get(key));
    // The value in the file, or the default.
    let value = |section: &str, key: &str| match root(section).and_then(|found| found.get(key)) {
        Some(node) => node.text().or(node.number_text()).map(str::to_owned),
        None => default(&format!("{section}.{key}")).map(str::to_owned),
    };
    let sites = root("sites").map_or(&[][..], Node::items);
    let apps = sites.iter().flat_map(|site| site.value.get("apps").map_or(&[][..], Node::items));
    let keep = value("audit", "keep").and_then(|keep| keep.parse().ok());
    Glance {
        is_read: tree.is_some() && !text.is_empty(),
        control: value("listen", "control").map(|path| folder.join(path)),
        admin: value("listen", "admin").and_then(|text| loopback_address(&text).ok()),
        audit: value("audit", "file").map(|path| folder.join(path)).zip(keep),
        apps: apps.filter_map(|app| app.value.get("name")?.text()).map(str::to_owned).collect(),
    }
}

/// The default of a key as the table has it.
fn default(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.path == path)?.default.yaml()
}
