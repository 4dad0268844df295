//! `listen`: the addresses, and how to reach the running gateway even if its file has problems.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_saphyr::{Location, Spanned};

use crate::config::files::read_text;
use crate::config::section::{Reader, Value};
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
    pub(crate) control: Option<PathBuf>,
}

pub(super) fn listen(section: &Value<'_>) -> Listen {
    let listen = Listen {
        https: section.texts("https", values::socket_address),
        http: section.texts("http", values::socket_address),
        admin: section.parsed("admin", loopback_address),
        admin_hosts: section.texts("admin_hosts", values::site_host),
        control: section.parsed("control", |text| {
            let path = section.files().at(control_path(text)?);
            let other = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket());
            if other && section.given("control").is_some() {
                return Err("there is something else than a socket at this path".to_owned());
            }
            Ok(path)
        }),
    };
    if let Some(value) = section.given("https").filter(|_| listen.https.is_empty()) {
        value.report("at least one address is needed");
    }
    report_conflicts(section, &listen);
    listen
}

/// Reports addresses that cannot be used together.
fn report_conflicts(section: &Value<'_>, listen: &Listen) {
    let https = listen.https.iter().map(|address| ("https", address));
    let http = listen.http.iter().map(|address| ("http", address));
    let admin = listen.admin.iter().map(|address| ("admin", address));
    let all: Vec<_> = https.chain(http).chain(admin).collect();
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

/// How to reach the running gateway, read from a file that can have problems.
pub(crate) struct Glance {
    /// Why the file cannot be read.
    pub(crate) unread: Option<String>,
    pub(crate) control: Option<PathBuf>,
    pub(crate) admin: Option<SocketAddr>,
    /// The audit file, and the number of rotated files; `None` if there is no such file, or it is not known.
    pub(crate) audit: Option<(PathBuf, usize)>,
    pub(crate) apps: Vec<String>,
}

pub(crate) fn glance(file: &Path) -> Glance {
    let tree = read_text(file).map_err(|error| error.to_string()).and_then(|text| {
        let tree = tree::parse(&text).ok().filter(|_| !text.is_empty());
        tree.ok_or_else(|| "it is not YAML".to_owned())
    });
    let reader = Reader::new(file);
    let empty = Spanned::new(Node::Map(Vec::new()), Location::UNKNOWN, Location::UNKNOWN);
    // Problems of the file do not matter here.
    let root = reader.document(tree.as_ref().unwrap_or(&empty));
    let (listen, audit) = (root.with_defaults("listen"), root.with_defaults("audit"));
    let path = |section: &Value<'_>, key| section.parsed(key, |text| Ok(section.files().at(text)));
    let sites = root.given("sites").map(|list| list.items()).unwrap_or_default();
    let apps = sites.iter().filter_map(|site| site.given("apps")).flat_map(|list| list.items());
    Glance {
        control: path(&listen, "control"),
        admin: listen.parsed("admin", loopback_address),
        audit: path(&audit, "file").map(|file| (file, audit.number("keep"))),
        apps: apps.filter_map(|app| app.given("name")?.as_text(values::not_empty)).collect(),
        unread: tree.as_ref().err().cloned(),
    }
}
