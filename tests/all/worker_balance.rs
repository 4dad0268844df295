//! Few connections that live long are spread over the workers.

use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{SITE, Stage};

/// CPU time that each worker has used, in nanoseconds.
fn used_by_workers(pid: u32) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut used = Vec::new();
    for task in tasks {
        let path = task.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).unwrap().starts_with("worker-") {
            let statistics = std::fs::read_to_string(path.join("schedstat")).unwrap();
            used.push(statistics.split(' ').next().unwrap().parse().unwrap());
        }
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn few_long_connections_are_spread_over_the_workers() {
    for round in 0..5 {
        // Two workers; which one the system gives a connection to is chance. A new gateway for each round: connections
        // of a round before would count, and leave room for chance.
        let stage = Stage::new().await;
        let mut senders = Vec::new();
        for _ in 0..4 {
            let io = TokioIo::new(stage.client().connect("h2").await);
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
        let before = used_by_workers(stage.gateway.pid());
        let requests = senders.iter().map(|sender| async {
            for _ in 0..100 {
                let mut sender = sender.clone();
                let request =
                    Request::get(format!("https://{SITE}/Default.aspx")).body(String::new()).unwrap();
                assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
            }
        });
        futures_util::future::join_all(requests).await;
        let after = used_by_workers(stage.gateway.pid());
        let used: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let total: u64 = used.iter().sum();
        assert_eq!(used.len(), 2);
        assert!(used.iter().all(|used| *used > total / 4), "round {round}: {used:?}");
    }
}
