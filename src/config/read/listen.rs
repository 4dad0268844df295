//! `listen`: the addresses, and how the gateway of a file is reached, whatever else in the file is wrong.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::files::{Files, read_text};
use crate::config::raw::{self, Node, Section, Value};
use crate::config::{DEFAULT_CONTROL, Listen, values};

pub(super) fn default() -> Listen {
    let any = std::net::Ipv6Addr::UNSPECIFIED;
    Listen {
        https: vec![SocketAddr::from((any, 443))],
        http: vec![SocketAddr::from((any, 80))],
        admin: Some(default_admin()),
        control: Some(PathBuf::from(DEFAULT_CONTROL)),
    }
}

fn default_admin() -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 9180))
}

pub(super) fn listen(mut section: Section<'_>, files: &Files) -> Option<Listen> {
    let default = default();
    let addresses = |value: Option<Value<'_>>, default| match value {
        Some(list) => list.texts(values::socket_address),
        None => Some(default),
    };
    let https_value = section.optional("https");
    let https: Option<Vec<SocketAddr>> = addresses(https_value.clone(), default.https);
    if let (Some(value), Some(list)) = (https_value, &https)
        && list.is_empty()
    {
        value.report("at least one address is needed");
    }
    let http = addresses(section.optional("http"), default.http);
    let admin = match section.optional("admin") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(loopback_address).map(Some),
        None => Some(default.admin),
    };
    let control = match section.optional("control") {
        Some(value) if value.is_null() => Some(None),
        Some(value) => value.text(control_path).and_then(|path| {
            let path = files.at(path);
            let taken = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket());
            if taken {
                value.report("there is something else than a socket at this path");
            }
            (!taken).then_some(Some(path))
        }),
        None => Some(default.control),
    };
    if let (Some(https), Some(http), Some(admin)) = (&https, &http, &admin) {
        let named = |key: &'static str, list: &[SocketAddr]| {
            list.iter().map(move |at| (key, *at)).collect::<Vec<_>>()
        };
        let all = [named("https", https), named("http", http), named("admin", admin.as_slice())].concat();
        for (index, (key, address)) in all.iter().enumerate() {
            // `[::]` is all addresses, of IPv4, too.
            let covers = |one: &SocketAddr, other: &SocketAddr| {
                one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4()) || one.ip() == other.ip()
            };
            let clash = all[..index].iter().find(|(_, other)| {
                other.port() == address.port()
                    && other.port() != 0
                    && (covers(other, address) || covers(address, other))
            });
            if let Some((other_key, other)) = clash {
                section.report(format!(
                    "{key} and {other_key} both take port {}: {other} and {address}",
                    address.port()
                ));
            }
        }
    }
    section.finish();
    Some(Listen { https: https?, http: http?, admin: admin?, control: control? })
}

/// A Unix socket's path has room for so many bytes (unix(7)), less the zero at its end.
const MOST_SOCKET_PATH: usize = 107;

fn control_path(text: &str) -> Result<String, String> {
    let path = values::not_empty(text)?;
    if path.len() > MOST_SOCKET_PATH {
        return Err(format!("a socket's path has at most {MOST_SOCKET_PATH} bytes"));
    }
    Ok(path)
}

/// How the gateway of a file is reached, however much else in the file is wrong.
pub(crate) struct Glance {
    /// It is there, and YAML.
    pub(crate) is_read: bool,
    pub(crate) control: Option<PathBuf>,
    pub(crate) admin: Option<SocketAddr>,
    /// The file of records and how many older ones are kept; none when it has none, or nobody can tell.
    pub(crate) audit: Option<(PathBuf, usize)>,
    /// Names of the apps.
    pub(crate) apps: Vec<String>,
}

pub(crate) fn glance(file: &Path) -> Glance {
    let text = read_text(file).unwrap_or_default();
    let tree = raw::parse(&text).ok();
    let listen = tree.as_ref().and_then(|tree| tree.value.get("listen"));
    let of = |key| listen.and_then(|listen| listen.get(key));
    let folder = file.parent().unwrap_or(Path::new("."));
    let audit = tree.as_ref().and_then(|tree| tree.value.get("audit"));
    let keep = audit
        .and_then(|audit| audit.get("keep")?.number())
        .unwrap_or(crate::config::read::default_audit().keep);
    let sites = tree.as_ref().and_then(|tree| tree.value.get("sites")).map_or(&[][..], Node::items);
    let apps = sites.iter().flat_map(|site| site.value.get("apps").map_or(&[][..], Node::items));
    Glance {
        audit: audit.and_then(|audit| audit.get("file")?.text()).map(|path| (folder.join(path), keep)),
        apps: apps.filter_map(|app| app.value.get("name")?.text()).map(str::to_owned).collect(),
        is_read: tree.is_some() && !text.is_empty(),
        control: match of("control") {
            None => Some(PathBuf::from(DEFAULT_CONTROL)),
            Some(node) => node.text().map(|path| file.parent().unwrap_or(Path::new(".")).join(path)),
        },
        admin: match of("admin") {
            None => Some(default_admin()),
            Some(node) => node.text().and_then(|text| loopback_address(text).ok()),
        },
    }
}

fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = values::socket_address(text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the admin listener has no authentication: a loopback address only, like 127.0.0.1:9180".to_owned())
}
