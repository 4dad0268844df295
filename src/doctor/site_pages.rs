//! The pages of iMIS that the gateway sends visitors to. Asked for without cookies, so this signs nobody out.

use crate::base::error_chain::Chain;
use crate::doctor::finding::{Finding, Part};
use crate::doctor::test_visitor::TestVisitor;
use crate::imis::recognise::RecogniseError;
use crate::request::gateway::Site;
use crate::sso::site::SignOn;

const BASE_PATH_ADVICE: &str =
    "base_path: the path of the iMIS application, which is /iMIS/ on 2017 and / on later versions";
const NOT_FOUND: &str = "iMIS answers that there is no such page (404)";

/// Whether `base_path`, `sign_in` and `sign_out` exist. Only a page that is missing is a failure here.
pub(super) async fn check(site: &Site, sign_on: &SignOn) -> Vec<Finding> {
    let Some(visitor) = TestVisitor::new(&site.config.hosts[0], "doctor", None) else { return Vec::new() };
    let imis = &sign_on.imis;
    let default = format!("{}/AsiCommon/", imis.home.trim_end_matches('/'));
    let mut pages = Vec::new();
    for (key, path) in [("base_path", &imis.home), ("sign_in", &imis.sign_in), ("sign_out", &imis.sign_out)] {
        let (report, answer) = imis.recognition.examine_page(&visitor.as_visitor(), path).await;
        let seen: Vec<String> = report.responses.iter().map(ToString::to_string).collect();
        let finding =
            Finding::of_site(site, format!("{key} {path}")).seen(seen.join(", ")).needs([Part::Servers]);
        let is_missing = matches!(answer, Err(RecogniseError::Missing));
        let finding = match answer {
            Err(error @ RecogniseError::Missing) => {
                finding.failed(NOT_FOUND, format!("{key}: {}", error.advice()))
            }
            Err(RecogniseError::Page(error)) => {
                let result = Chain(&error).to_string();
                finding.warning(result, RecogniseError::Page(error).advice())
            }
            Ok(()) | Err(_) => finding.good("exists"),
        };
        pages.push((is_missing, path.starts_with(&default), finding));
    }
    // Defaults are below base_path. If both are missing, base_path is wrong, even if there is a page.
    let missing_defaults =
        pages.iter().filter(|(is_missing, is_default, _)| *is_missing && *is_default).count();
    let mut findings = Vec::new();
    for (_, is_default, finding) in pages {
        findings.push(match (findings.is_empty(), is_default) {
            (true, _) if missing_defaults == 2 => finding
                .failed(format!("sign_in and sign_out, which are below it: {NOT_FOUND}"), BASE_PATH_ADVICE)
                .breaks(Part::BasePath),
            (true, _) => finding.breaks(Part::BasePath),
            (false, true) => finding.needs([Part::BasePath]),
            (false, false) => finding,
        });
    }
    findings
}
