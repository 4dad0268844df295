//! `imis-gateway explain` and `imis-gateway mint --dry-run`: who may enter, and why; nothing here can sign.

use serde_json::{Value, json};

use crate::base::error_chain::Chain;
use crate::cli::Format;
use crate::cli::doctor::cookies;
use crate::cli::{FAILED, GOOD, USAGE, WithConfig, complain, plain, report, say};
use crate::doctor::explain::{Explanation, Question, Who, explain};
use crate::doctor::test_visitor::pasted_cookies;
use crate::observe::log::Chain;
use crate::server::build;

#[derive(clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    with_config: WithConfig,
    /// The app, by its name or path
    #[arg(long, value_name = "NAME")]
    app: String,
    #[command(flatten)]
    who: OfWhom,
    /// Where Zendesk would have the member sent back to
    #[arg(long, value_name = "URL")]
    return_to: Option<String>,
    /// The brand that Zendesk would name
    #[arg(long, value_name = "NUMBER")]
    brand_id: Option<u64>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct OfWhom {
    /// A contact, as if signed in
    #[arg(long, value_name = "ID")]
    imis_id: Option<String>,
    /// Whoever the Cookie header on standard input belongs to
    #[arg(long)]
    cookies: bool,
}

#[derive(clap::Args)]
pub(super) struct Mint {
    #[command(flatten)]
    explain: Explain,
    /// Needed: tokens are made for browsers that sign in, and for nobody else
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn mint(arguments: &Mint) -> i32 {
    if !arguments.dry_run {
        complain(
            "imis-gateway: tokens are made only for browsers that sign in; --dry-run prints what one would say",
        );
        return USAGE;
    }
    match asked(&arguments.explain) {
        Ok(explanation) => match explanation.outcome.claims() {
            Some(claims) => {
                say(&Value::from(claims.clone()).to_string());
                GOOD
            }
            None => {
                complain(&explanation.outcome.to_string());
                FAILED
            }
        },
        Err(code) => code,
    }
}

pub(super) fn run(arguments: &Explain) -> i32 {
    let explanation = match asked(arguments) {
        Ok(explanation) => explanation,
        Err(code) => return code,
    };
    match arguments.format {
        Format::Json => {
            let step = |step: &crate::sso::trace::TraceStep| json!({"step": step.name, "outcome": step.outcome, "ms": step.took.as_secs_f64() * 1000.0});
            let steps: Vec<Value> = explanation.steps.iter().map(step).collect();
            say(&json!({"decision": explanation.outcome.to_string(), "may_enter": explanation.outcome.claims().is_some(), "steps": steps, "claims": explanation.outcome.claims()}).to_string());
        }
        Format::Text => tell(&explanation),
    }
    if explanation.outcome.claims().is_some() { GOOD } else { FAILED }
}

fn tell(explanation: &Explanation) {
    for step in &explanation.steps {
        let outcome = plain(&step.outcome);
        say(&format!("{:>8.1} ms  {:<24} {outcome}", step.took.as_secs_f64() * 1000.0, step.name));
    }
    say(&format!("\n{}", plain(&explanation.outcome.to_string())));
    for (name, value) in explanation.outcome.claims().into_iter().flatten() {
        say(&plain(&format!("  {name}: {value}")));
    }
}

fn asked(arguments: &Explain) -> Result<Explanation, i32> {
    let config = arguments.with_config.load().map_err(|problems| report(&problems))?;
    let failed = |text: String| {
        complain(&format!("imis-gateway: {text}"));
        FAILED
    };
    let who = match &arguments.who.imis_id {
        Some(id) => Who::ImisId(id.clone()),
        None => {
            let text =
                cookies().map_err(|error| failed(format!("cannot read the Cookie header: {error}")))?;
            Who::Cookies(
                pasted_cookies(&text)
                    .ok_or_else(|| failed("what was given is not a Cookie header".to_owned()))?,
            )
        }
    };
    let question = Question {
        who,
        app: arguments.app.clone(),
        return_to: arguments.return_to.clone(),
        brand_id: arguments.brand_id,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let gateway = build::offline_gateway(&config).map_err(|error| failed(Chain(&error).to_string()))?;
    runtime.block_on(explain(&gateway, &question)).map_err(|error| {
        failed(Chain(&error).to_string());
        if error.is_usage_error() { USAGE } else { FAILED }
    })
}
