//! The control socket: who may replace its file, which gateway it belongs to, and what it answers while the gateway
//! drains.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Connection, Proxy, read_request};
use crate::support::{SITE, Stage};

/// What the control socket answers.
pub(crate) async fn control(folder: &Path, method: &str, path: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(folder.join("control.sock")).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn the_control_socket_replaces_only_a_stale_socket() {
    let stage = Stage::new().await;
    let precious = stage.folder().join("precious");
    std::fs::write(&precious, "of value").unwrap();
    stage.edit("control: control.sock", "control: precious");
    for command in ["check", "run", "reload"] {
        let (code, said) = stage.run(&[command], "").await;
        assert!(code == 78 || command == "reload" && code == 1, "{command}: {code} {said}");
    }
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "of value");
    // What a gateway that was killed has left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(stage.folder().join("stale.sock")).unwrap());
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    let second = crate::support::Gateway::start(
        stage.folder(),
        &text.replace("control: precious", "control: stale.sock"),
    );
    let (code, status) = stage.run(&["status", "--format", "json"], "").await;
    assert_eq!(code, 0, "{status}");
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["pid"], second.pid());
}

#[tokio::test]
async fn a_gateway_that_drains_refuses_to_reload() {
    let mut proxy = Proxy::start(|mut connection: Connection| async move {
        while read_request(&mut connection).await.is_some() {
            tokio::time::sleep(Duration::from_millis(800)).await;
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let mut slow = proxy.client.connect("http/1.1").await;
    slow.write_all(format!("GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.gateway.signal("TERM");
    proxy
        .gateway
        .logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("stopping")))
        .await;
    let said = control(proxy.folder.path(), "POST", "/reload").await;
    assert!(said.starts_with("HTTP/1.1 422") && said.contains("shutting down"), "{said}");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    assert_eq!(proxy.gateway.wait().code(), Some(0));
    assert!(!proxy.folder.path().join("control.sock").exists());
}

#[tokio::test]
async fn only_the_gateway_of_this_file_is_reloaded() {
    let stage = Stage::new().await;
    let text = std::fs::read_to_string(stage.folder().join("config.yaml")).unwrap();
    std::fs::create_dir(stage.folder().join("other")).unwrap();
    std::fs::write(
        stage.folder().join("other/config.yaml"),
        text.replace("control: control.sock", "control: ../control.sock"),
    )
    .unwrap();
    let (code, said) = crate::support::run(&stage.folder().join("other"), &["reload"], "").await;
    assert_eq!(code, 1);
    assert!(said.contains("uses the configuration ") && said.contains(", not "), "{said}");
    let (code, said) = crate::support::run(Path::new("/nowhere"), &["status"], "").await;
    assert_eq!(code, 1);
    assert!(
        said.contains("cannot read /nowhere/config.yaml (No such file or directory (os error 2)); using the default socket"),
        "{said}"
    );
    // From the folder itself, by its bare name.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["reload", "--config", "config.yaml"])
        .current_dir(stage.folder())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_control_socket_of_another_program_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join("control.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"message\":1}").await;
        }
    });
    std::fs::write(folder.path().join("config.yaml"), "listen: {control: control.sock}").unwrap();
    for command in ["status", "reload"] {
        let (code, said) = crate::support::run(folder.path(), &[command], "").await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("not from a gateway"), "{said}");
    }
}
