//! `imis-gateway staff`: the agents and admins of a Zendesk account, and their iMIS IDs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::base::error_chain::Chain;
use crate::base::escaped::escaped;
use crate::cli::arguments::{AppArguments, Offline};
use crate::cli::output::{
    FAILURE, SUCCESS, USAGE, eprint, exit_with, fail, print, print_verbatim, spreadsheet,
};
use crate::imis::{Imis, PartyId};
use crate::sync::staff::{self, Assignment, Contact, StaffUser};
use crate::zendesk::api::Api;
use crate::zendesk::writes::Writer;

const COLUMNS: [&str; 8] =
    ["user_id", "name", "email", "role", "suspended", "external_id", "imis_id", "result"];

#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: StaffCommand,
}

#[derive(Subcommand)]
enum StaffCommand {
    /// List the agents and admins
    List(Common),
    /// Find the iMIS contact of each agent and admin by the e-mail address
    Match(Common),
    /// Write the iMIS IDs as external IDs: those that `match` finds, or those of a CSV file
    Apply(Apply),
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    apps: AppArguments,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Args)]
struct Apply {
    #[command(flatten)]
    common: Common,
    /// A CSV file with the columns user_id and imis_id, such as the output of `staff match --format csv`
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Show what would be written
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

/// One line of the output.
struct Line {
    user: StaffUser,
    imis_id: String,
    result: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<i32, i32> {
    let common = match &arguments.command {
        StaffCommand::List(common) | StaffCommand::Match(common) => common,
        StaffCommand::Apply(apply) => &apply.common,
    };
    let Offline { gateway, runtime, .. } = Offline::build(&common.apps.config_file)?;
    let apps = common.apps.find(&gateway, "zendesk.api", |app| app.zendesk.api.is_some())?;
    let [(sign_on, app)] = apps[..] else {
        return Err(exit_with(USAGE, "several apps have `zendesk.api`; name one with --app"));
    };
    let Some(api) = &app.zendesk.api else { return Err(FAILURE) };
    let (api, imis) = (Api::new(api).map_err(|error| fail(&error))?, &sign_on.imis);
    runtime.block_on(async {
        let users = staff::read(&api).await.map_err(|error| fail(&error))?;
        let (lines, code) = match &arguments.command {
            StaffCommand::List(_) => (users.into_iter().map(listed).collect(), SUCCESS),
            StaffCommand::Match(_) => (matched(imis, users).await?, SUCCESS),
            StaffCommand::Apply(apply) => applied(imis, &api, users, apply).await?,
        };
        show(&lines, common.format)?;
        Ok(code)
    })
}

fn listed(user: StaffUser) -> Line {
    let result = if user.external_id.is_some() { "known" } else { "no external ID" };
    Line { imis_id: user.external_id.clone().unwrap_or_default(), result: result.to_owned(), user }
}

async fn matched(imis: &Imis, users: Vec<StaffUser>) -> Result<Vec<Line>, i32> {
    let mut lines = Vec::new();
    for user in users {
        let contact = staff::find_contact(imis, &user).await.map_err(|error| fail(&error))?;
        let imis_id = match &contact {
            Contact::Known(id) => id.clone(),
            Contact::Matched(id) => id.as_str().to_owned(),
            Contact::Ambiguous(ids) => ids.iter().map(PartyId::as_str).collect::<Vec<_>>().join(" "),
            Contact::Missing => String::new(),
        };
        lines.push(Line { user, imis_id, result: contact.result().to_owned() });
    }
    Ok(lines)
}

async fn applied(
    imis: &Imis,
    api: &Api,
    users: Vec<StaffUser>,
    arguments: &Apply,
) -> Result<(Vec<Line>, i32), i32> {
    let assignments = match &arguments.csv {
        Some(file) => read_csv(file)?,
        None => {
            let lines = matched(imis, users.clone()).await?;
            let found = lines.iter().filter(|line| line.result == "matched");
            let assignment = |line: &Line| {
                Some(Assignment { user_id: line.user.user_id, imis_id: PartyId::parse(&line.imis_id)? })
            };
            found.filter_map(assignment).collect()
        }
    };
    let writer = Writer::new(api);
    let (mut lines, mut code) = (Vec::new(), SUCCESS);
    for assignment in &assignments {
        let result = match staff::objection(assignment, &users, &assignments) {
            Ok(true) => Ok("unchanged"),
            Ok(false) if arguments.dry_run => Ok("would be written"),
            Ok(false) => staff::assign(imis, api, &writer, assignment).await.map(|()| "written"),
            Err(reason) => Err(reason),
        };
        let result = result.map_or_else(
            |reason| {
                code = FAILURE;
                format!("failed: {reason}")
            },
            str::to_owned,
        );
        let imis_id = assignment.imis_id.as_str().to_owned();
        let user = users.iter().find(|user| user.user_id == assignment.user_id).cloned();
        let unknown = StaffUser {
            user_id: assignment.user_id,
            name: String::new(),
            email: String::new(),
            role: String::new(),
            external_id: None,
            is_suspended: false,
        };
        lines.push(Line { user: user.unwrap_or(unknown), imis_id, result });
    }
    if assignments.is_empty() {
        eprint("nothing to write: no agent or admin without external ID was matched");
    }
    Ok((lines, code))
}

/// Reads the assignments of a CSV file. Lines without iMIS ID, and those of users who are not matched, are left out.
fn read_csv(file: &Path) -> Result<Vec<Assignment>, i32> {
    let unusable = |reason: String| exit_with(FAILURE, format_args!("{}: {reason}", file.display()));
    let mut reader = csv::Reader::from_path(file).map_err(|error| unusable(error.to_string()))?;
    let headers = reader.headers().map_err(|error| unusable(error.to_string()))?.clone();
    let column = |name: &str| headers.iter().position(|own| own.trim().eq_ignore_ascii_case(name));
    let (Some(user_id), Some(imis_id)) = (column("user_id"), column("imis_id")) else {
        return Err(unusable("the first line must name the columns user_id and imis_id".to_owned()));
    };
    let result = column("result");
    let (mut assignments, mut problems) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|error| unusable(error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |index: usize| record.get(index).unwrap_or_default().trim();
        let is_left_out =
            result.is_some_and(|result| ["known", "ambiguous", "missing"].contains(&field(result)));
        if field(imis_id).is_empty() || is_left_out {
            continue;
        }
        match (field(user_id).parse(), PartyId::parse(field(imis_id))) {
            (Ok(user_id), Some(imis_id)) => assignments.push(Assignment { user_id, imis_id }),
            (Err(_), _) => problems.push(format!("line {line}: user_id is not a number")),
            (Ok(_), None) => problems.push(format!("line {line}: imis_id is not an iMIS ID")),
        }
    }
    if problems.is_empty() { Ok(assignments) } else { Err(unusable(problems.join("; "))) }
}

fn show(lines: &[Line], format: Format) -> Result<(), i32> {
    match format {
        Format::Json => {
            let line = |Line { user, imis_id, result }: &Line| {
                json!({"user_id": user.user_id, "name": user.name, "email": user.email, "role": user.role,
                    "suspended": user.is_suspended, "external_id": user.external_id, "imis_id": imis_id, "result": result})
            };
            print_verbatim(json!(lines.iter().map(line).collect::<Vec<_>>()));
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(std::io::stdout());
            let written = csv.write_record(COLUMNS).and_then(|()| {
                lines
                    .iter()
                    .try_for_each(|line| csv.write_record(record(line).map(|field| spreadsheet(&field))))
            });
            let written = written.map_err(std::io::Error::other).and_then(|()| csv.flush());
            written.map_err(|error| exit_with(FAILURE, Chain(&error)))?;
        }
        Format::Table => {
            for line in lines {
                let [user_id, name, email, role, _, _, imis_id, result] = record(line);
                let (name, email) = (escaped(&name), escaped(&email));
                print(format_args!("{user_id:<14} {role:<6} {name:<24} {email:<32} {imis_id:<12} {result}"));
            }
            let _ = std::io::stdout().flush();
        }
    }
    Ok(())
}

fn record(Line { user, imis_id, result }: &Line) -> [String; 8] {
    let suspended = if user.is_suspended { "yes" } else { "no" };
    let external_id = user.external_id.clone().unwrap_or_default();
    [
        user.user_id.to_string(),
        user.name.clone(),
        user.email.clone(),
        user.role.clone(),
        suspended.to_owned(),
        external_id,
        imis_id.clone(),
        result.clone(),
    ]
}
