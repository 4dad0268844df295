//! Secrets and certificates are read again when their files change: without a command, all or nothing, and only from
//! regular files.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imis_gateway_simulators::imis::Generation;

use crate::reload::{is_signed_with, named};
use crate::support::gateway::TIMEOUT;
use crate::support::origin::Proxy;
use crate::support::{SITE, Setup, Stage};

async fn watching() -> Stage {
    Stage::with(Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\nwatch_interval: 100ms")).await
}

#[tokio::test]
async fn a_secret_that_is_not_a_regular_file_is_refused_without_blocking() {
    let stage = watching().await;
    let file = stage.folder().join("zendesk-jwt");
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    stage
        .gateway
        .logged(|line| line["problem"].as_str().is_some_and(|text| text.contains("not a regular file")))
        .await;
    let (code, said) = stage.run(&["reload"], "").await;
    assert_eq!(code, 78, "{said}");
    assert_eq!(stage.run(&["status"], "").await.0, 0);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &stage.secret).unwrap();
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    stage.gateway.wait_for_metric("imis_gateway_last_reload_successful 1").await;
}

#[tokio::test]
async fn a_reload_failure_is_reported_until_its_cause_is_gone() {
    let stage = watching().await;
    let file = stage.folder().join("zendesk-jwt");
    let secret = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    stage.gateway.wait_for_metric("imis_gateway_last_reload_successful 0").await;
    assert!(stage.run(&["status"], "").await.1.contains("FAILED"));
    std::fs::write(&file, &secret).unwrap();
    stage.gateway.wait_for_metric("imis_gateway_last_reload_successful 1").await;
    assert!(!stage.run(&["status"], "").await.1.contains("FAILED"));

    // A secret that is taken up says nothing of the file that is broken.
    stage.edit("version: 1\n", "version: 1\ncolour: red\n");
    assert_eq!(stage.run(&["reload"], "").await.0, 78);
    std::fs::write(&file, "another-secret-of-the-account-long-enough").unwrap();
    stage
        .gateway
        .logged(|line| {
            line["trigger"] == "files"
                && line["message"].as_str().is_some_and(|text| text.starts_with("reloaded"))
        })
        .await;
    stage.gateway.wait_for_metric("imis_gateway_last_reload_successful 0").await;
    let (_, status) = stage.run(&["status"], "").await;
    assert!(status.contains("FAILED") && status.contains("colour"), "{status}");
}

#[tokio::test]
async fn a_new_watch_interval_applies_at_once() {
    let stage =
        Stage::with(Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\nwatch_interval: 1h")).await;
    stage.edit("watch_interval: 1h", "watch_interval: 100ms");
    assert_eq!(stage.run(&["reload"], "").await.0, 0);
    std::fs::write(stage.folder().join("zendesk-jwt"), "another-secret-of-the-account-long-enough").unwrap();
    stage.gateway.logged(|line| line["trigger"] == "files").await;
}

/// The serial number of the certificate that a new connection is shown.
async fn certificate(proxy: &Proxy) -> Vec<u8> {
    let stream = proxy.client.connect("http/1.1").await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn certificates_are_reloaded_when_links_are_swapped_and_only_as_a_matching_pair() {
    let proxy = Proxy::start(|connection| named(connection, "one", Arc::default())).await;
    let folder = proxy.folder.path();
    let pairs = ["first", "second"];
    for name in pairs {
        std::fs::create_dir(folder.join(name)).unwrap();
        proxy.authority.issue(&[SITE, "www.example.org"]).write(&folder.join(name), "members").unwrap();
    }
    let link = |pair: &str, file: &str| {
        symlink(folder.join(pair).join(file), folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join(file)).unwrap();
    };
    for file in ["members.pem", "members.key"] {
        link("first", file);
    }
    proxy.reload("workers: 1", "workers: 1\nwatch_interval: 100ms").await;
    let first = certificate(&proxy).await;

    // As certbot does it: one link after the other, here with a pause in between.
    link("second", "members.pem");
    proxy
        .gateway
        .logged(|line| {
            line["message"] == "reload failed"
                && line["problem"].as_str().is_some_and(|text| text.contains("does not go with"))
        })
        .await;
    assert_eq!(certificate(&proxy).await, first, "half a pair is not taken up");
    link("second", "members.key");
    let end = Instant::now() + TIMEOUT;
    while certificate(&proxy).await == first {
        assert!(Instant::now() < end, "not taken up: {}", proxy.gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let failures = proxy
        .gateway
        .log()
        .lines()
        .filter(|line| line.contains("keeping the previous configuration"))
        .count();
    assert_eq!(failures, 1, "what is wrong is said once, not at every look");
    assert_eq!(proxy.client.get("/", &[]).await.text(), "one...");
}

#[tokio::test]
async fn changed_secrets_are_reloaded_without_the_edited_configuration() {
    let stage =
        Stage::with(Setup::new(Generation::Ems).edit("workers: 2", "workers: 2\nwatch_interval: 100ms"))
            .await;
    let cookie = stage.cookie_of("AMUELLER");
    // Somebody is writing the file, and has not asked for it to be taken up.
    stage.edit(
        "        path: /sso/zendesk\n",
        "        path: /sso/zendesk\n        rules: [{deny: 'true', reason: closed}]\n",
    );
    let secret = "another-secret-of-the-account-long-enough";
    std::fs::write(stage.folder().join("zendesk-jwt"), secret).unwrap();
    stage.zendesk.reset_secret(secret);
    stage.gateway.logged(|line| line["trigger"] == "files").await;
    let reply = stage.sso("", &cookie).await;
    let token = reply.token().unwrap();
    assert!(is_signed_with(&token, secret));
    // What cannot be read is not taken up, and the one before stays.
    std::fs::remove_file(stage.folder().join("zendesk-jwt")).unwrap();
    stage
        .gateway
        .logged(|line| {
            line["trigger"] == "files"
                && line["problem"].as_str().is_some_and(|text| text.contains("cannot read"))
        })
        .await;
    assert!(stage.sso("", &cookie).await.token().is_some());
    let log = stage.gateway.log();
    assert!(!log.contains(secret));
}

#[tokio::test]
async fn a_valid_certificate_is_not_replaced_by_one_that_browsers_refuse() {
    let stage = watching().await;
    let served = async || {
        let stream = stage.client().connect("http/1.1").await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let good = served().await;
    for (names, days, why) in [
        (&[SITE, "www.example.org"][..], -1, "has EXPIRED"),
        (&[SITE][..], 90, "does not cover www.example.org"),
        (&["other.example.org"][..], 90, "does not cover members.example.org"),
    ] {
        stage.authority.issue_for_days(names, days).write(stage.folder(), "members").unwrap();
        let reported =
            |line: &serde_json::Value| line["problem"].as_str().is_some_and(|problem| problem.contains(why));
        stage.gateway.logged(reported).await;
        assert!(served().await == good, "{why}");
    }
    stage.authority.issue_for_days(&[SITE, "www.example.org"], 90).write(stage.folder(), "members").unwrap();
    stage.gateway.wait_for_metric("imis_gateway_last_reload_successful 1").await;
    assert!(served().await != good);
}
