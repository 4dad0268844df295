//! What the API does, request by request, without a socket.

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;

/// An account that a test talks to with a token.
struct Stage {
    zendesk: Zendesk,
    token: String,
}

impl Stage {
    async fn new() -> Self {
        let options =
            Options { bulk_enabled: true, ..Options::new("zendesk.com", "https://help.example", "/sso") };
        let zendesk = Zendesk::start(SocketAddr::from(([127, 0, 0, 1], 0)), options, None).await.unwrap();
        zendesk.edit_limits(|limits| limits.requests_per_minute = u32::MAX);
        let mut stage = Self { zendesk, token: String::new() };
        stage.renew().await;
        stage
    }

    async fn renew(&mut self) {
        let (id, secret) = &self.zendesk.state.options.api_client;
        let body = json!({"grant_type": "client_credentials", "client_id": id, "client_secret": secret});
        let (_, answer) = self.send("POST", "/oauth/tokens", &body).await;
        self.token = answer["access_token"].as_str().unwrap().to_owned();
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("host", "contoso.zendesk.com");
        let request = request.header("authorization", format!("Bearer {}", self.token)).body(()).unwrap();
        let received = Received { head: request.into_parts().0, body: body.to_string().into() };
        let reply = answer(&self.zendesk.state, received).await.unwrap();
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        self.send("GET", path, &Value::Null).await.1
    }

    async fn put(&self, user: Value) -> (u16, Value) {
        self.send("POST", "/api/v2/users/create_or_update", &json!({"user": user})).await
    }

    /// A bulk job; the answer is its id.
    async fn bulk(&self, users: &[Value]) -> String {
        let (status, answer) =
            self.send("POST", "/api/v2/users/create_or_update_many", &json!({"users": users})).await;
        assert_eq!((status, &answer["job_status"]["status"]), (200, &json!("queued")));
        answer["job_status"]["id"].as_str().unwrap().to_owned()
    }

    async fn poll(&self, job: &str) -> Value {
        self.get(&format!("/api/v2/job_statuses/{job}")).await["job_status"].clone()
    }
}

fn member(number: u32) -> Value {
    json!({"external_id": number.to_string(), "name": "Ann", "email": format!("{number}@example.org"),
        "skip_verify_email": true})
}

#[tokio::test]
async fn a_changed_address_becomes_a_second_one_and_the_first_stays() {
    let stage = Stage::new().await;
    assert_eq!(stage.put(member(7)).await.0, 201);
    let (status, answer) = stage.put(json!({"external_id": "7", "email": "new@example.org"})).await;
    assert_eq!((status, &answer["user"]["email"]), (200, &json!("7@example.org")));
    let write = stage.zendesk.journal().pop().unwrap();
    assert_eq!((write.kind, write.verification_email), (WriteKind::UpdateUser, true));
    assert_eq!(write.changes.len(), 1, "{write:?}");
    assert_eq!(stage.zendesk.user("7").unwrap().other_emails, ["new@example.org"]);
    // The same again changes nothing, and is a write all the same.
    stage.put(json!({"external_id": "7", "email": "new@example.org"})).await;
    assert!(stage.zendesk.journal().pop().unwrap().changes.is_empty());
    assert_eq!(stage.zendesk.writes(WriteKind::UpdateUser), 2);
}

#[tokio::test]
async fn an_address_of_another_user_is_refused_by_code() {
    let stage = Stage::new().await;
    for number in [1, 2] {
        stage.put(member(number)).await;
    }
    let (status, answer) = stage.put(json!({"external_id": "1", "email": "2@Example.org"})).await;
    assert_eq!((status, &answer["details"]["email"][0]["error"]), (422, &json!("DuplicateValue")));
    // Found by the address, an existing user gets the id.
    stage.put(json!({"email": "olga@association.example", "external_id": "3"})).await;
    assert_eq!(stage.zendesk.user("3").unwrap().role, Role::Admin);
    stage.zendesk.refuse("2", "DatabaseConflict", 1);
    assert_eq!(stage.put(member(2)).await.0, 409);
    assert_eq!(stage.put(member(2)).await.0, 200);
}

#[tokio::test]
async fn a_job_moves_with_polls_and_names_each_item_that_fails() {
    let stage = Stage::new().await;
    let wrong = json!({"external_id": "2", "name": "Bob", "email": "bob@@example.org"});
    let job = stage.bulk(&[member(1), wrong, member(3), json!({"name": " "})]).await;
    let state = stage.poll(&job).await;
    assert_eq!(
        (&state["status"], &state["progress"], &state["results"]),
        (&json!("working"), &json!(2), &Value::Null)
    );
    let state = stage.poll(&job).await;
    assert_eq!((&state["status"], &state["total"]), (&json!("completed"), &json!(4)));
    let successes: Vec<bool> =
        state["results"].as_array().unwrap().iter().map(|result| result["success"] == true).collect();
    assert_eq!(successes, [true, false, true, false]);
    assert_eq!(stage.zendesk.journal().len(), 2);
    assert_eq!(stage.zendesk.journal()[0].job, Some(job));
}

#[tokio::test]
async fn jobs_fail_in_part_and_vanish_as_a_test_wants() {
    let stage = Stage::new().await;
    let (done, undone) = (Fate::Vanishes { carried_out: true }, Fate::Vanishes { carried_out: false });
    stage.zendesk.set_next_jobs([Fate::FailsAfter { items: 1, with_results: true }, done, undone]);
    let job = stage.bulk(&[member(1), member(2)]).await;
    stage.poll(&job).await;
    let state = stage.poll(&job).await;
    assert_eq!((&state["status"], state["results"].as_array().unwrap().len()), (&json!("failed"), 1));
    for (number, carried_out) in [(3, true), (4, false)] {
        let job = stage.bulk(&[member(number)]).await;
        let path = format!("/api/v2/job_statuses/{job}");
        assert_eq!(stage.send("GET", &path, &Value::Null).await.0, 404);
        assert_eq!(stage.zendesk.user(&number.to_string()).is_some(), carried_out, "{number}");
    }
    assert!(stage.zendesk.user("1").is_some() && stage.zendesk.user("2").is_none());
}

#[tokio::test]
async fn thirty_jobs_at_most_are_in_flight_and_time_completes_them() {
    let stage = Stage::new().await;
    for number in 0..30 {
        stage.bulk(&[member(number)]).await;
    }
    let body = json!({"users": [member(99)]});
    let (status, answer) = stage.send("POST", "/api/v2/users/create_or_update_many", &body).await;
    assert_eq!((status, &answer["error"]), (429, &json!("TooManyJobs")));
    stage.zendesk.set_job_pace(Pace::Time(Duration::ZERO));
    stage.bulk(&[member(99)]).await;
    assert_eq!(stage.zendesk.journal().len(), 31);
}

#[tokio::test]
async fn scopes_limits_and_expiry_refuse() {
    let mut stage = Stage::new().await;
    stage.zendesk.set_scope("read users:write");
    stage.renew().await;
    assert_eq!(stage.put(member(1)).await.0, 201);
    let body = json!({"organization": {"name": "Contoso"}});
    assert_eq!(stage.send("POST", "/api/v2/organizations", &body).await.0, 403);
    stage.zendesk.edit_limits(|limits| limits.updates_of_user = Some((1, Duration::from_secs(60))));
    assert_eq!(stage.put(member(1)).await.0, 200);
    assert_eq!(stage.put(member(1)).await.0, 429);
    assert_eq!(stage.put(member(2)).await.0, 201);
    stage.zendesk.expire_tokens();
    assert_eq!(stage.put(member(3)).await.0, 401);
    stage.zendesk.edit_limits(|limits| limits.edge = Some((Edge::HtmlWithDate(1), 2)));
    stage.renew().await;
    let statuses = [stage.put(member(4)).await.0, stage.put(member(4)).await.0];
    assert_eq!((statuses, stage.zendesk.refused_by("edge")), ([201, 429], 1));
}

#[tokio::test]
async fn something_happens_at_a_moment_of_the_run() {
    let stage = Stage::new().await;
    stage.put(member(1)).await;
    let next = stage.zendesk.requests() + 1;
    stage.zendesk.edit_user_at(Moment::Before(next), "1", |user| user.name = "Renamed".to_owned());
    let (told, hears) = std::sync::mpsc::channel();
    stage.zendesk.at(Moment::After(next + 1), move || told.send(()).unwrap());
    let found = stage.get("/api/v2/users?external_id=1&page[size]=100").await;
    assert_eq!(found["users"][0]["name"], "Renamed");
    assert!(hears.try_recv().is_err());
    stage.get("/api/v2/user_fields").await;
    hears.try_recv().unwrap();
}

#[tokio::test]
async fn runs_that_differ_in_ids_and_order_have_equal_snapshots() {
    let mut snapshots = Vec::new();
    for order in [[1, 2], [2, 1]] {
        let stage = Stage::new().await;
        let organization = stage.zendesk.add_organization("Contoso", Some("c1"));
        for number in order {
            let mut user = member(number);
            user["organization_id"] = json!(organization);
            user["tags"] = json!(["B", "a"]);
            user["user_fields"] = json!({"paid_through": "2027-12-31", "unknown": "x", "retired": "x"});
            assert_eq!(stage.put(user).await.0, 201);
        }
        snapshots.push(stage.zendesk.snapshot());
    }
    assert_eq!(snapshots[0], snapshots[1]);
    let last = snapshots[0].last().unwrap();
    assert_eq!((&last["organizations"], &last["tags"]), (&json!(["Contoso"]), &json!(["a", "b"])));
    assert_eq!(last["user_fields"]["paid_through"], "2027-12-31T00:00:00Z");
    assert_eq!(last["user_fields"]["retired"], Value::Null, "inactive fields are not shown");
}

#[tokio::test]
async fn the_default_organization_follows_the_memberships() {
    let stage = Stage::new().await;
    let id = stage.put(member(1)).await.1["user"]["id"].clone();
    let mut made = Vec::new();
    for name in ["Contoso", "Fabrikam"] {
        let organization = stage.zendesk.add_organization(name, None);
        let body = json!({"organization_membership": {"user_id": id, "organization_id": organization}});
        let (status, answer) = stage.send("POST", "/api/v2/organization_memberships", &body).await;
        assert_eq!(status, 201);
        assert_eq!(stage.send("POST", "/api/v2/organization_memberships", &body).await.0, 422);
        made.push(answer["organization_membership"].clone());
    }
    assert_eq!((&made[0]["default"], &made[1]["default"]), (&json!(true), &json!(false)));
    let first = format!("/api/v2/organization_memberships/{}", made[0]["id"]);
    assert_eq!(stage.send("DELETE", &first, &Value::Null).await.0, 204);
    assert_eq!(json!(stage.zendesk.user("1").unwrap().organization_id), made[1]["organization_id"]);
    let left = stage.get(&format!("/api/v2/users/{id}/organization_memberships?page[size]=1")).await;
    assert_eq!(left["organization_memberships"].as_array().unwrap().len(), 1);
    assert_eq!(left["meta"]["has_more"], false);
}

#[tokio::test]
async fn a_hundred_thousand_users_are_there_at_once_and_paged_by_cursor() {
    let stage = Stage::new().await;
    let start = Instant::now();
    stage.zendesk.fill(0..100_000);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut path = "/api/v2/users?role[]=agent&role[]=admin&role[]=end-user&page[size]=100".to_owned();
    for _ in 0..3 {
        let page = stage.get(&path).await;
        assert_eq!(page["users"].as_array().unwrap().len(), 100);
        let next = page["links"]["next"].as_str().unwrap();
        next.strip_prefix("https://contoso.zendesk.com").unwrap().clone_into(&mut path);
    }
    let found = stage.get("/api/v2/users/show_many?external_ids=1000000,1099999,x").await;
    assert_eq!(found["users"].as_array().unwrap().len(), 2);
    assert_eq!(stage.get(&path).await["users"][0]["id"], 301);
}
