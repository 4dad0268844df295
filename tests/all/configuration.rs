//! The shipped `config.yaml` is true: it reads, and it shows every key there is.

use std::path::Path;

use imis_gateway::config::Config;
use imis_gateway_simulators::certificates::Authority;

use crate::support::Stage;

fn shipped() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap()
}

/// Lays the shipped file out as an operator would: certificates where it says, secrets as files.
fn check(yaml: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let authority = Authority::new("test CA");
    authority.issue(&["members.example.org"]).write(&certs, "members").unwrap();
    for name in ["imis-ca.pem", "collector-ca.pem"] {
        std::fs::write(certs.join(name), authority.certificate_pem()).unwrap();
    }
    for name in [
        "imis-password",
        "zendesk-jwt",
        "zendesk-api",
        "zendesk-messaging",
        "gateway-state-key",
        "gateway-ticket-key",
        "otlp-token",
    ] {
        std::fs::write(folder.path().join(name), "a-secret-of-more-than-thirty-two-characters").unwrap();
    }
    // The test process has no systemd credentials.
    let yaml = yaml.replace("{credential: ", "{file: ");
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, yaml).unwrap();
    Config::load(&file).map_err(|problems| problems.to_string())
}

#[test]
fn the_shipped_file_is_a_good_configuration() {
    let config = check(&shipped()).unwrap();
    assert_eq!(config.summary(), "1 site(s), 1 app(s)");
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

/// Lines of the shipped file that are comments of the form `# key: value` show further keys; they must be good, too.
#[test]
fn every_commented_out_key_is_a_good_key() {
    let shown = shipped();
    let commented = |line: &str| {
        let trimmed = line.trim_start();
        let candidate = trimmed.strip_prefix("#~ ")?;
        Some(format!("{}{candidate}", &line[..line.len() - trimmed.len()]))
    };
    let opened: Vec<String> =
        shown.lines().map(|line| commented(line).unwrap_or_else(|| line.to_owned())).collect();
    assert!(shown.lines().filter(|line| commented(line).is_some()).count() >= 3);
    check(&opened.join("\n")).unwrap();
}

/// What an editor says of a text.
fn by_schema(yaml: &str) -> Vec<String> {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let text: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    validator.iter_errors(&text).map(|error| format!("{} at {}", error, error.instance_path())).collect()
}

#[test]
fn the_schema_takes_what_the_reader_takes_and_sees_what_editors_can_see() {
    let shown = shipped();
    let opened = shown.replace("#~ ", "");
    for yaml in [&shown, &opened] {
        assert_eq!(by_schema(yaml), Vec::<String>::new());
    }
    for (from, to) in [
        ("version: 1\n", "version: 2\n"),
        ("watch_interval: 10s", "watch_interval: 10"),
        ("watch_interval: 10s", "wach_interval: 10s"),
        ("format: json", "format: xml"),
        ("{credential: imis-password}", "hunter2"),
        ("{credential: imis-password}", "{credential: a, file: b}"),
        ("{credential: zendesk-jwt}", "{next: {credential: a}}"),
        ("hosts: [members.example.org]", "hosts: members.example.org"),
        ("method: client_context", "method: guessing"),
        ("concurrent_requests: 256", "concurrent_requests: 0"),
    ] {
        assert!(shown.contains(from), "{from}");
        let changed = shown.replace(from, to);
        assert_ne!(by_schema(&changed), Vec::<String>::new(), "{to}");
        check(&changed).map(drop).expect_err(to);
    }
    assert!(shown.starts_with("# yaml-language-server: $schema="), "editors find it");
}

#[test]
fn the_reference_in_the_docs_is_what_the_program_says() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway"))
        .args(["schema", "--format", "markdown"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(file).unwrap();
    assert!(
        said == written,
        "docs/configuration.md is old: `imis-gateway schema --format markdown > docs/configuration.md`"
    );
}

#[test]
fn manual_pages_and_completions_name_every_command_and_key() {
    let said = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_imis-gateway")).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let (page, keys) = (said(&["man"]), said(&["man", "imis-gateway.yaml"]));
    for command in [
        "run",
        "check",
        "reload",
        "status",
        "doctor",
        "explain",
        "claims",
        "audit",
        "healthcheck",
        "upstream",
        "schema",
        "man",
        "completions",
        "version",
    ] {
        assert!(page.contains(&format!(".SH \"{}\"", command.to_uppercase())), "{command}");
        for shell in ["bash", "zsh", "fish"] {
            assert!(said(&["completions", shell]).contains(command), "{command} in {shell}");
        }
    }
    for key in
        ["listen.control", "sites[].apps[].zendesk.shared_secret", "sites[].upstream.timeouts.response_head"]
    {
        assert!(keys.contains(&key.replace('-', "\\-")), "{key}");
    }
}

/// What the code says is known at each level, asked for by a key that cannot be.
#[test]
fn every_key_that_the_code_knows_is_in_the_shipped_file() {
    let shown = shipped();
    let sections = [
        ("version: 1", "zzzzzzzz: 1\nversion: 1"),
        ("listen:\n", "listen:\n  zzzzzzzz: 1\n"),
        ("log:\n", "log:\n  zzzzzzzz: 1\n"),
        ("    certificate:\n", "    zzzzzzzz: 1\n    certificate:\n"),
        ("    upstream:\n", "    upstream:\n      zzzzzzzz: 1\n"),
        ("      timeouts:\n", "      timeouts:\n        zzzzzzzz: 1\n"),
        ("    imis:\n", "    imis:\n      zzzzzzzz: 1\n"),
        ("      - name: Contoso", "      - zzzzzzzz: 1\n        name: Contoso"),
        ("      recognise:\n", "      recognise:\n        zzzzzzzz: 1\n"),
        ("      service_account:\n", "      service_account:\n        zzzzzzzz: 1\n"),
        ("    certificate:\n", "    certificate:\n      zzzzzzzz: 1\n"),
        ("#~ audit:\n", "audit:\n  zzzzzzzz: 1\n"),
        ("        guards:\n", "        guards:\n          zzzzzzzz: 1\n"),
        ("          #~ api:\n", "          api:\n            zzzzzzzz: 1\n"),
        ("        #~ messaging:\n", "        messaging:\n          zzzzzzzz: 1\n"),
        ("        #~ single_logout:\n", "        single_logout:\n          zzzzzzzz: 1\n"),
        ("        zendesk:\n", "        zendesk:\n          zzzzzzzz: 1\n"),
    ];
    // What stands in place of others, in a comment of its own or in the docs.
    let instead = ["acme", "email", "token"];
    for (from, to) in sections {
        assert!(shown.contains(from), "{from}");
        let problem = check(&shown.replacen(from, to, 1)).unwrap_err();
        let known = problem.split("known keys here: ").nth(1).unwrap_or_else(|| panic!("{problem}"));
        for key in known.lines().next().unwrap().split(", ").filter(|key| !instead.contains(key)) {
            let shows = |line: &str| {
                let line = line.trim_start().trim_start_matches("#~ ").trim_start_matches("- ");
                let inside =
                    line.split(['{', ',']).any(|part| part.trim_start().starts_with(&format!("{key}: ")));
                inside || line.starts_with(&format!("{key}:"))
            };
            assert!(shown.lines().any(shows), "`{key}` is not in config.yaml");
        }
    }
}

/// A site with these methods, and with or without the account that reads profiles.
fn recognised_by(methods: &str, service_account: bool) -> Result<Config, String> {
    let shipped = shipped();
    let (before, rest) = shipped.split_once("        method: client_context\n").unwrap();
    let (_, after) = rest.split_once("      # The iMIS user that reads profiles.").unwrap();
    let before = before.trim_end().strip_suffix("recognise:").unwrap();
    let mut yaml = format!("{before}recognise: {methods}\n      #{after}");
    if !service_account {
        let account = yaml.find("      service_account:").unwrap();
        let behind = yaml.find("      phone_order:").unwrap();
        yaml.replace_range(account..behind, "");
        yaml = yaml.replace("#~ duplicate_email: refuse", "duplicate_email: off");
    }
    check(&yaml)
}

const TICKET: &str = "method: forms_ticket, validation_key: {file: VK}, decryption_key: {file: DK}";

#[test]
fn every_method_reads_with_what_it_needs() {
    let columns = "columns: {id: ID, name: Full Name, email: Email, status: null, company: null}";
    let query = "method: whoami_query, page: /p, query: $/Gateway/WhoAmI";
    let application =
        "method: client_application, page: /sso, client_id: x, client_secret: {file: zendesk-jwt}";
    for (methods, service_account) in [
        ("{method: client_context, page: /p}".to_owned(), true),
        (format!("{{{query}, {columns}}}"), false),
        (format!("{{{query}, endpoint: /api/iqa, columns: {{id: ID}}}}"), true),
        ("{method: login_status_redirect}".to_owned(), true),
        (format!("{{{application}}}"), false),
        (format!("[{{{query}, {columns}, on_error: stop}}, {{{application}}}]"), false),
    ] {
        let read = recognised_by(&methods, service_account);
        assert!(read.is_ok(), "{methods}: {:?}", read.err());
    }
    for (methods, service_account, problem) in [
        ("[]".to_owned(), true, "at least one method is needed"),
        ("{method: client_context, page: /p}".to_owned(), false, "a service_account has to read the profile"),
        (format!("{{{query}, columns: {{id: ID}}}}"), false, "a service_account has to read the profile"),
        (
            format!("{{{query}, columns: {{id: ID, email: E, company: null}}}}"),
            true,
            "needs name and status too",
        ),
        (format!("{{{query}, columns: {{name: N}}}}"), true, "columns.id: required, but missing"),
        (
            "{method: whoami_query, page: /p, query: WhoAmI, columns: {id: ID}}".to_owned(),
            true,
            "is not the path of a query",
        ),
        (format!("[{{{application}}}, {{method: client_context, page: /p}}]"), true, "has to be the last"),
        (
            "[{method: client_context, page: /p}, {method: client_context, page: /q}]".to_owned(),
            true,
            "listed twice",
        ),
        ("{method: client_context, page: /p, on_error: maybe}".to_owned(), true, "use next or stop"),
        ("{method: client_context, page: /p, querry: x}".to_owned(), true, "unknown key"),
        (
            format!(
                "{{{}, validation: MD5}}",
                TICKET.replace("VK", "zendesk-jwt").replace("DK", "zendesk-jwt")
            ),
            true,
            "unknown value `MD5`; use SHA1, HMACSHA256",
        ),
        (
            format!("{{{}}}", TICKET.replace("VK", "zendesk-jwt").replace("DK", "zendesk-jwt")),
            true,
            "not hexadecimal digits as in machineKey",
        ),
    ] {
        let found = recognised_by(&methods, service_account).unwrap_err();
        assert!(found.contains(problem), "{methods}: {found}");
        assert!(!found.contains("thirty-two"), "a secret is shown: {found}");
    }
}

#[test]
fn a_renamed_key_or_value_is_refused_with_its_new_name() {
    let key = |line: &str, old: &str, new: &str| (line.to_owned(), line.replace(new, old), new.to_owned());
    let cases = [
        key("  body_idle: 30s", "gap", "body_idle"),
        key("  connection_age: 1h", "age", "connection_age"),
        key("  min_body_rate: 240", "body_rate", "min_body_rate"),
        key("        concurrent_requests: 256", "requests", "concurrent_requests"),
        key("        queue_timeout: 1s", "wait", "queue_timeout"),
        key("        body_idle: 3600s", "gap", "body_idle"),
        key("#~ balance: failover", "first", "failover"),
        key("#~ balance: failover", "spread", "failover"),
        key("      host: preserve", "keep", "preserve"),
        key("#~ on_error: next", "if_broken", "on_error"),
        key("watch_interval: 10s", "watch", "watch_interval"),
        key("  generate_traceparent: false", "trace", "generate_traceparent"),
        key("#~ sample_percent: 100", "percent", "sample_percent"),
    ];
    for (line, old, new) in cases {
        let shipped = shipped();
        assert!(shipped.contains(&line), "{line}");
        let opened = shipped.replace("#~ otlp:", "otlp:").replace("#~ endpoint:", "endpoint:");
        let changed = opened.replacen(&line, old.trim_start_matches("#~ "), 1);
        let new = if old.contains("spread") { "least_requests".to_owned() } else { new };
        let problems = check(&changed).unwrap_err();
        assert!(problems.contains(&format!("did you mean `{new}`?")), "{old}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn keys_and_times_out_of_bounds_are_named() {
    let changed = |from: &str, to: &str| check(&shipped().replacen(from, to, 1));
    let cache = |time: &str| changed("#~ identity_cache: 60s", &format!("identity_cache: {time}"));
    assert!(cache("30s").is_ok() && cache("null").is_ok());
    assert!(cache("61s").unwrap_err().contains("at most 60s"));
    let key = changed("#~ state_key: {credential: gateway-state-key}", "state_key: {file: certs/short}");
    assert!(key.unwrap_err().contains("state_key"));
    let proxies = "trusted_proxies: []\nproxy_protocol: false";
    let problem = changed(proxies, "trusted_proxies: []\nproxy_protocol: true").unwrap_err();
    assert!(problem.contains("list the load balancer in trusted_proxies"), "{problem}");
    let policy = changed("#~ on_behalf_of: refuse", "on_behalf_of: everybody").unwrap_err();
    assert!(policy.contains("use refuse, sign_in_as_staff or sign_in_as_contact"), "{policy}");
    let without = "session_cookies: [Login]    # compared without case";
    let led = shipped()
        .replacen(without, "session_cookies: []", 1)
        .replace("#~ single_logout:", "single_logout:")
        .replace("#~ from_imis: false", "from_imis: true");
    assert!(check(&led).unwrap_err().contains("needs session_cookies"));
    let warned = changed("#~ on_behalf_of: refuse", "on_behalf_of: sign_in_as_contact").unwrap();
    assert!(warned.warnings().iter().any(|warning| warning.contains("as the contact they act for")));
}

/// The shipped file with these keys for its app.
fn with_app(keys: &str) -> Result<Config, String> {
    let app = "        path: /sso/zendesk\n";
    let shipped = || {
        let shipped = shipped();
        // The file has guards of its own.
        let others = |line: &&str| {
            !line.starts_with("        guards:") && !line.starts_with("          staff_domains:")
        };
        shipped.lines().filter(others).map(|line| format!("{line}\n")).collect::<String>()
    };
    check(&shipped().replacen(app, &format!("{app}        {}\n", keys.replace('\n', "\n        ")), 1))
}

#[test]
fn mistakes_in_rules_and_claims_are_named_where_they_are() {
    for (keys, problem) in [
        ("rules: []", "rules: no rule at all would let nobody in"),
        (
            "rules: [{allow: \"profile.statuz == 'A'\"}]",
            "rules[0].allow: knows no `profile.statuz`; did you mean `profile.status`?",
        ),
        ("rules: [{allow: \"profile.status =\"}]", "rules[0].allow: is not an expression"),
        ("rules: [{allow: \"true\", deny: \"true\"}]", "a rule is either"),
        ("rules: [{allow: \"true\", reason: x}]", "only a deny has a reason"),
        ("rules: [{deny: \"true\", reason: Not So}]", "is not a reason's name"),
        ("rules: [{alow: \"true\"}]", "unknown key; did you mean `allow`?"),
        ("rules: [{allow: true}]", "expected text, found true or false"),
        ("rules: [{allow: \"true\"}]\nreasons: {unused: x}", "no rule has the reason `unused`"),
        ("rules: [{allow: \"'x' in profile.attributes\"}]", "profile.attributes.has('NAME')"),
        ("claims: {email: \"profile.email\"}", "always set by the gateway"),
        ("claims: {e_mail: \"profile.email\"}", "is not a claim of Zendesk's"),
        ("claims: {tags: \"['a']\"}", "REPLACE all tags"),
        ("claims: {role: \"'agent'\"}", "write overwrite: [role] beside claims"),
        ("claims: {organization_id: nobody}", "knows no `nobody`"),
        ("claims: {organization_id: 1.5}", "has to be a whole number"),
        ("claims: {user_fields: {a b: 1}}", "is not a field key"),
        ("claims: {user_fields: {a: [1, 2]}}", "has to be a text, a number"),
        ("rules: [{deny: \"true\", reason: rate}]", "the gateway itself refuses"),
        ("rules: [{allow: \"profile.groups.Staff\"}]", "knows no `profile.groups.Staff`"),
        ("rules: [{allow: \"('x' if profile.is_member) == 'x'\"}]", "if without else"),
        ("claims: {locale: \"'en US'\"}", "has to be"),
        ("claims: {role: \"'admn'\"}\noverwrite: [role]", "has to be"),
        ("claims: {organization: \"'a'|nosuch\"}", "knows no filter `nosuch`"),
        ("overwrite: [email]", "overwrites nothing"),
        ("guards: {duplicate_email: maybe}", "use refuse, warn or off"),
        ("guards: {staff: warn}", "use refuse or off"),
        ("guards: {staff_domains: [staff]}", "is not a domain"),
        ("guards: {is_staff: \"profile.staff\"}", "knows no `profile.staff`"),
    ] {
        let found = with_app(keys).unwrap_err();
        assert!(found.contains(problem), "{keys}: {found}");
        assert!(found.contains("sites[0].apps[0]."), "{found}");
    }
    let warned =
        with_app("claims: {tags: \"['a']\", role: \"'end_user'\"}\noverwrite: [tags, role]").unwrap();
    for what in ["tags REPLACE all tags", "takes the seat of an agent away"] {
        assert!(warned.warnings().iter().any(|warning| warning.contains(what)), "{:?}", warned.warnings());
    }
    let asking = with_app("rules: [{allow: \"request.brand_id == 5\"}]").unwrap();
    assert!(asking.warnings().iter().any(|warning| warning.contains("it keeps nobody out")));
    for guard in ["refuse", "warn", "off", "false"] {
        assert!(with_app(&format!("guards: {{duplicate_email: {guard}}}")).is_ok(), "{guard}");
    }
}

#[test]
fn the_examples_in_the_documentation_are_good() {
    let docs = include_str!("../../docs/rules-and-claims.md");
    let blocks: Vec<&str> =
        docs.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let of_app = |block: &&str| block.starts_with("rules:") || block.starts_with("claims:");
    let mut seen = 0;
    for block in blocks.iter().filter(|block| of_app(block)) {
        with_app(block.trim_end()).unwrap_or_else(|problem| panic!("{block}: {problem}"));
        seen += 1;
    }
    assert_eq!(seen, 4);
    // In place of the pair of the shipped file.
    let docs = include_str!("../../docs/operations.md");
    let block = docs.split("```yaml\n").find(|block| block.starts_with("certificate:\n")).unwrap();
    let block = block.split("```").next().unwrap().trim_end().replace('\n', "\n    ");
    let shipped = shipped();
    let pair = shipped.find("    certificate:\n").unwrap();
    let behind = shipped.find("    # The iMIS web servers.").unwrap();
    let yaml = format!("{}    {block}\n{}", &shipped[..pair], &shipped[behind..]);
    let config = check(&yaml).unwrap();
    assert!(
        config.warnings().iter().any(|word| word.contains("the CA has not issued a certificate yet")),
        "{:?}",
        config.warnings()
    );
    assert_eq!(by_schema(&yaml), Vec::<String>::new());
}

#[tokio::test]
async fn a_secret_pasted_instead_of_a_reference_is_not_shown() {
    let stage = Stage::new().await;
    let original = "shared_secret: {file: zendesk-jwt}";
    for pasted in [
        "{env: 'S3CR3T/+='}",
        "{S3CR3T: x}",
        "{file: zendesk-jwt, S3CR3T: x}",
        "S3CR3T",
        "[S3CR3T]",
        "{credential: ../S3CR3T}",
    ] {
        stage.edit(original, &format!("shared_secret: {pasted}"));
        for command in ["check", "reload"] {
            let (code, said) = stage.run(&[command], "").await;
            assert_eq!(code, 78, "{pasted}: {said}");
            assert!(!said.contains("S3CR3T"), "{pasted}: {said}");
        }
        stage.edit(&format!("shared_secret: {pasted}"), original);
    }
    assert!(!stage.gateway.log().contains("S3CR3T"));
}
