//! `imis-gateway explain` and `imis-gateway claims`: decides about a sign-in and prints why. It cannot sign a token.

use serde_json::{Value, json};

use crate::base::escaped::escaped;
use crate::cli::arguments::{ConfigFile, Format, Offline, read_cookies};
use crate::cli::output::{FAILURE, SUCCESS, USAGE, eprint, fail, print, print_verbatim};
use crate::doctor::explain::{Explanation, Question, Who, explain};
use crate::sso::trace::TraceStep;

#[derive(clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    config_file: ConfigFile,
    /// The app, by its name or path
    #[arg(long, value_name = "NAME")]
    app: String,
    #[command(flatten)]
    person: Person,
    /// The return_to URL that Zendesk would send
    #[arg(long, value_name = "URL")]
    return_to: Option<String>,
    /// The brand_id that Zendesk would send
    #[arg(long, value_name = "NUMBER")]
    brand_id: Option<u64>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Person {
    /// A contact, as if it had signed in
    #[arg(long, value_name = "ID")]
    imis_id: Option<String>,
    /// The person whose Cookie header is on standard input
    #[arg(long)]
    cookies: bool,
}

/// Prints the claims that a token would carry.
pub(super) fn claims(arguments: &Explain) -> Result<i32, i32> {
    let explanation = explained(arguments)?;
    match explanation.outcome.claims() {
        Some(claims) => print_verbatim(Value::from(claims.clone())),
        None => eprint(explanation.outcome.to_string()),
    }
    Ok(exit_code(&explanation))
}

pub(super) fn run(arguments: &Explain) -> Result<i32, i32> {
    let explanation = explained(arguments)?;
    match arguments.format {
        Format::Json => {
            let step = |step: &TraceStep| json!({"step": step.name, "outcome": step.outcome, "ms": milliseconds(step)});
            let Explanation { outcome, steps, .. } = &explanation;
            let steps: Vec<Value> = steps.iter().map(step).collect();
            let (decision, claims) = (outcome.to_string(), outcome.claims());
            print_verbatim(
                json!({"decision": decision, "may_enter": claims.is_some(), "steps": steps, "claims": claims}),
            );
        }
        Format::Text => report(&explanation),
    }
    Ok(exit_code(&explanation))
}

fn exit_code(explanation: &Explanation) -> i32 {
    if explanation.outcome.claims().is_some() { SUCCESS } else { FAILURE }
}

fn milliseconds(step: &TraceStep) -> f64 {
    step.took.as_secs_f64() * 1000.0
}

fn report(explanation: &Explanation) {
    for step in &explanation.steps {
        let outcome = escaped(&step.outcome);
        print(format_args!("{:>8.1} ms  {:<24} {outcome}", milliseconds(step), step.name));
    }
    print(format_args!("\n{}", explanation.outcome));
    for (name, value) in explanation.outcome.claims().into_iter().flatten() {
        print(escaped(&format!("  {name}: {value}")));
    }
}

fn explained(arguments: &Explain) -> Result<Explanation, i32> {
    let Offline { gateway, runtime, .. } = Offline::build(&arguments.config_file)?;
    let who = match &arguments.person.imis_id {
        Some(id) => Who::ImisId(id.clone()),
        None => Who::Cookies(read_cookies()?),
    };
    let question = Question {
        who,
        app: arguments.app.clone(),
        return_to: arguments.return_to.clone(),
        brand_id: arguments.brand_id,
    };
    runtime.block_on(explain(&gateway, &question)).map_err(|error| {
        let code = fail(&error);
        if error.is_usage_error() { USAGE } else { code }
    })
}
