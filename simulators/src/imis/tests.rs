//! What lists contain, page by page, without a socket.

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;

use super::*;
use crate::members::Member;

struct Stage {
    imis: Imis,
}

impl Stage {
    async fn new(members: usize) -> Self {
        let imis = Imis::start(Options::new(Generation::Ems), None).await.unwrap();
        let service = imis.state.options.service_account.0.clone();
        lock(&imis.state.tokens).insert("token".to_owned(), service);
        imis.fill(members);
        imis.edit_population(Population::without_people);
        Self { imis }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = Request::builder().uri(path).header("authorization", "Bearer token").body(()).unwrap();
        let received = Received { head: request.into_parts().0, body: bytes::Bytes::new() };
        let reply = answer(&self.imis.state, received, false).await.unwrap();
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The ids of all pages, as a client that believes in `HasNext` reads them.
    async fn ids(&self, list: &str, limit: usize) -> Vec<String> {
        let (mut ids, mut offset) = (Vec::new(), 0);
        loop {
            let (status, page) = self.get(&format!("{list}&limit={limit}&offset={offset}")).await;
            assert_eq!(status, 200, "{page}");
            for row in page["Items"]["$values"].as_array().unwrap() {
                let id = row["ID"].as_str().or(row["PartyId"].as_str()).or(row["Party"]["PartyId"].as_str());
                ids.push(id.unwrap().to_owned());
            }
            if page["HasNext"] == false {
                return ids;
            }
            offset = usize::try_from(page["NextOffset"].as_u64().unwrap()).unwrap();
        }
    }
}

const QUERY: &str = "/api/query?QueryName=$/Gateway/AllMembers";

#[tokio::test]
async fn every_list_has_all_members_over_several_pages() {
    let stage = Stage::new(1200).await;
    for list in [QUERY, "/api/Party?status=eq:A", "/api/GroupMember?GroupId=eq:Members"] {
        let mut ids = stage.ids(list, 1000).await;
        ids.dedup();
        assert_eq!(ids.len(), 1200, "{list}");
    }
    assert_eq!(stage.ids("/api/GroupMember?GroupId=eq:Fellows", 100).await.len(), 120);
    assert_eq!(stage.get("/api/query?QueryName=$/Nothing").await.0, 404);
    let (_, page) = stage.get("/api/iqa?QueryName=$/Gateway/AllMembers&limit=1").await;
    assert_eq!(page["Items"]["$values"][0]["Properties"]["$values"][0]["Value"], "1000000");
}

#[tokio::test]
async fn parties_are_filtered_with_the_documented_operators() {
    let stage = Stage::new(100).await;
    for (_, member) in Member::odd() {
        stage.imis.edit_population(|population| population.add(member));
    }
    assert_eq!(stage.ids("/api/Party?Status=ne:A", 100).await, ["1900011"]);
    assert_eq!(stage.ids("/api/Party?id=in:1000002|1000005|7", 100).await, ["1000002", "1000005"]);
    assert_eq!(stage.ids("/api/Party?email=eq:Twin@example.org", 100).await.len(), 2);
    stage
        .imis
        .edit_population(|all| all.edit("1000003", |one| one.updated_on = "2026-11-30T08:00:00".to_owned()));
    let changed = "/api/Party?customerTypeCode=M&UpdatedOn=gt:2026-11-01";
    assert_eq!(stage.ids(changed, 100).await, ["1000003"]);
    stage.imis.set_list_faults(ListFaults { ignores_updated_on: true, ..ListFaults::default() });
    assert_eq!(stage.ids(changed, 100).await.len(), 112);
    assert_eq!(stage.get("/api/Party?MajorKey=1").await.0, 400);
}

#[tokio::test]
async fn a_list_ends_early_repeats_a_page_and_fails_once() {
    let stage = Stage::new(10).await;
    stage.imis.set_list_faults(ListFaults { ends_early_at: Some(6), ..ListFaults::default() });
    assert_eq!(stage.ids(QUERY, 3).await.len(), 6);
    stage.imis.set_list_faults(ListFaults { repeats_at: Some(3), ..ListFaults::default() });
    let ids = stage.ids(QUERY, 3).await;
    assert_eq!((ids.len(), &ids[0..3], ids.contains(&"1000004".to_owned())), (10, &ids[3..6], false));
    let failures = vec![(3, PageFailure::Status(503))];
    stage.imis.set_list_faults(ListFaults { failures, total_count: Some(11), ..ListFaults::default() });
    assert_eq!(stage.get(&format!("{QUERY}&limit=3&offset=3")).await.0, 503);
    let (status, page) = stage.get(&format!("{QUERY}&limit=3&offset=3")).await;
    assert_eq!((status, &page["TotalCount"]), (200, &serde_json::json!(11)));
}

#[tokio::test]
async fn a_member_leaves_during_the_run_and_another_one_is_merged() {
    let stage = Stage::new(10).await;
    stage.imis.at_offset(3, |population| population.remove("1000000"));
    let ids = stage.ids(QUERY, 3).await;
    assert!(!ids.contains(&"1000003".to_owned()), "it moved to a page that had been read: {ids:?}");
    assert_eq!(stage.get("/api/Party/1000000").await.0, 404);
    stage.imis.edit_population(|population| population.merge("1000009"));
    assert_eq!(stage.get("/api/Party/1000009").await.0, 404);
    assert!(stage.ids(QUERY, 5).await.contains(&"1000009".to_owned()));
}

#[tokio::test]
async fn a_hundred_thousand_members_are_listed_quickly() {
    let stage = Stage::new(100_000).await;
    let start = Instant::now();
    assert_eq!(stage.ids(QUERY, 500).await.len(), 100_000);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(stage.get("/api/Party/1099999").await.1["Name"], "𝒜𝓃𝓃 𐐷eseret");
}
