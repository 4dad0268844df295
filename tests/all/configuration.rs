//! The shipped `config.yaml` is true: it reads, and it shows every key there is.

use std::path::Path;

use imis_gateway::config::Config;
use imis_gateway_simulators::certificates::Authority;

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
    std::fs::write(certs.join("imis-ca.pem"), authority.certificate_pem()).unwrap();
    for name in ["imis-password", "zendesk-jwt"] {
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
        ("password: {", "password: {zzzzzzzz: 1, "),
        ("        zendesk:\n", "        zendesk:\n          zzzzzzzz: 1\n"),
    ];
    let not_yet = ["acme", "rules", "claims", "guards", "api"];
    for (from, to) in sections {
        assert!(shown.contains(from), "{from}");
        let problem = check(&shown.replacen(from, to, 1)).unwrap_err();
        let known = problem.split("known keys here: ").nth(1).unwrap_or_else(|| panic!("{problem}"));
        for key in known.lines().next().unwrap().split(", ").filter(|key| !not_yet.contains(key)) {
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
