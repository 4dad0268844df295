//! How `imis-gateway sync` prints a plan and its results.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use minijinja::HtmlEscape;
use serde_json::{Value, json};

use crate::base::error_chain::Chain;
use crate::base::escaped::escaped;
use crate::cli::output::{FAILURE, exit_with, spreadsheet};
use crate::sync::change::{Change, Kind, each};
use crate::sync::compare::FieldChange;
use crate::sync::error::SyncError;
use crate::sync::run::{Finished, counts};
use crate::sync::state::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
    Html,
}

const HTML_HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sync plan</title>\n\
    <meta name=\"viewport\" content=\"width=device-width\"><style>\n\
    :root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }\n\
    table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886 }\n\
    .number { text-align: right; font-variant-numeric: tabular-nums } del { opacity: .7 } td { overflow-wrap: anywhere }\n\
    </style></head><body>\n<h1>Sync plan</h1>\n";

/// Where the report goes.
pub(super) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    format: Format,
    is_first: bool,
}

impl Output {
    /// A file is created with mode 0600, since a plan contains personal data.
    pub(super) fn open(file: Option<&Path>, format: Format) -> Result<Self, i32> {
        let writer: Box<dyn Write> = match file {
            Some(path) => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
                Box::new(file.map_err(|error| {
                    exit_with(FAILURE, format_args!("cannot write {}: {error}", path.display()))
                })?)
            }
            None => Box::new(std::io::stdout()),
        };
        Ok(Self { writer: BufWriter::new(writer), format, is_first: true })
    }

    /// Prints the report of one app.
    pub(super) fn print(
        &mut self,
        app: &str,
        state: &State,
        finished: &Finished,
        details: bool,
    ) -> Result<(), i32> {
        let is_first = std::mem::take(&mut self.is_first);
        let printed = match self.format {
            Format::Table => self.table(app, state, finished, details),
            Format::Json => self.json(app, state, finished, details, is_first),
            Format::Csv => self.csv(app, state, is_first),
            Format::Html => self.html(app, state, is_first),
        };
        printed.map_err(failed)
    }

    pub(super) fn close(mut self) -> Result<(), i32> {
        let end = match self.format {
            Format::Json if self.is_first => "[]\n",
            Format::Json => "]\n",
            Format::Html => "</body></html>\n",
            Format::Table | Format::Csv => "",
        };
        let closed = self.writer.write_all(end.as_bytes()).and_then(|()| self.writer.flush());
        closed.map_err(|error| failed(PrintError::Output(error)))
    }

    fn table(
        &mut self,
        app: &str,
        state: &State,
        finished: &Finished,
        details: bool,
    ) -> Result<(), PrintError> {
        let totals = &finished.totals;
        writeln!(
            self.writer,
            "{app}: {} members, {} users with an external ID",
            totals.members, totals.known_users
        )?;
        for (kind, count) in counts(state)?.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(self.writer, "  {:<14} {count:>8}  {}", kind.name(), meaning(kind))?;
        }
        for (reason, count) in reasons(state)? {
            writeln!(self.writer, "    {count:>8}  {}", escaped(&reason))?;
        }
        for (key, problem) in &finished.field_problems {
            writeln!(self.writer, "  user_fields.{key}: {problem}")?;
        }
        if finished.written + finished.failed > 0 {
            writeln!(self.writer, "  {} written, {} failed", finished.written, finished.failed)?;
        }
        each(state, |change| {
            let is_shown = details && change.kind != Kind::Unchanged;
            let result = if is_shown { self.line(&change) } else { Ok(()) };
            result.map_err(SyncError::Output)
        })?;
        for (imis_id, outcome) in failures(state)? {
            writeln!(self.writer, "  {imis_id}: {outcome}")?;
        }
        Ok(())
    }

    fn line(&mut self, change: &Change) -> std::io::Result<()> {
        let reason =
            change.reason.as_deref().map(|reason| format!("  {}", escaped(reason))).unwrap_or_default();
        let id = change.imis_id.as_deref().unwrap_or("-");
        writeln!(self.writer, "{:<14} {id:<12}{reason}", change.kind.name())?;
        for field in &change.fields {
            let FieldChange { field, old, new, problem } = field;
            let problem =
                problem.as_ref().map(|problem| format!("  (not written: {problem})")).unwrap_or_default();
            writeln!(self.writer, "    {field}: {} -> {}{problem}", shown(old), shown(new))?;
        }
        Ok(())
    }

    fn json(
        &mut self,
        app: &str,
        state: &State,
        finished: &Finished,
        details: bool,
        is_first: bool,
    ) -> Result<(), PrintError> {
        let counts: serde_json::Map<String, Value> =
            counts(state)?.into_iter().map(|(kind, count)| (kind.name().to_owned(), count.into())).collect();
        let totals = &finished.totals;
        let head = json!({"app": app, "members": totals.members, "known_users": totals.known_users, "counts": counts,
            "reasons": reasons(state)?.into_iter().map(|(reason, count)| json!({"reason": reason, "count": count})).collect::<Vec<_>>(),
            "written": finished.written, "failed": finished.failed, "incomplete": finished.incomplete.is_some(),
            "stopped": finished.stopped.as_ref().map(ToString::to_string),
            "failures": failures(state)?.into_iter().map(|(id, outcome)| json!({"imis_id": id, "outcome": outcome})).collect::<Vec<_>>()});
        let head = head.to_string();
        // Line by line: a plan can have hundreds of thousands of them.
        write!(self.writer, "{}{}", if is_first { "[" } else { ",\n" }, head.trim_end_matches('}'))?;
        if details {
            write!(self.writer, ",\"lines\":[")?;
            let mut separator = "\n";
            each(state, |change| {
                let line = json!({"kind": change.kind.name(), "imis_id": change.imis_id, "user_id": change.user_id,
                    "reason": change.reason, "fields": change.fields});
                let written = write!(self.writer, "{separator}{line}");
                separator = ",\n";
                written.map_err(SyncError::Output)
            })?;
            write!(self.writer, "]")?;
        }
        Ok(writeln!(self.writer, "}}")?)
    }

    fn csv(&mut self, app: &str, state: &State, is_first: bool) -> Result<(), PrintError> {
        let mut csv = csv::Writer::from_writer(&mut self.writer);
        let mut record =
            |fields: [&str; 8]| csv.write_record(fields.map(spreadsheet)).map_err(std::io::Error::other);
        if is_first {
            record(["app", "kind", "imis_id", "user_id", "field", "old", "new", "reason"])?;
        }
        each(state, |change| {
            let user = change.user_id.map(|id| id.to_string()).unwrap_or_default();
            let (kind, id) = (change.kind.name(), change.imis_id.as_deref().unwrap_or_default());
            let reason = change.reason.as_deref().unwrap_or_default();
            if change.fields.is_empty() {
                record([app, kind, id, &user, "", "", "", reason]).map_err(SyncError::Output)?;
            }
            for field in &change.fields {
                let reason = field.problem.as_deref().unwrap_or(reason);
                let (old, new) = (plain(&field.old), plain(&field.new));
                record([app, kind, id, &user, &field.field, &old, &new, reason])
                    .map_err(SyncError::Output)?;
            }
            Ok(())
        })?;
        Ok(csv.flush()?)
    }

    fn html(&mut self, app: &str, state: &State, is_first: bool) -> Result<(), PrintError> {
        if is_first {
            self.writer.write_all(HTML_HEAD.as_bytes())?;
        }
        let text = |text: &str| HtmlEscape(text).to_string();
        writeln!(
            self.writer,
            "<h2>{}</h2><table><tr><th>Change<th class=number>Number<th>Meaning</tr>",
            text(app)
        )?;
        for (kind, count) in counts(state)?.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(
                self.writer,
                "<tr><td>{}<td class=number>{count}<td>{}</tr>",
                kind.name(),
                meaning(kind)
            )?;
        }
        writeln!(self.writer, "</table><table><tr><th>Change<th>iMIS ID<th>User<th>Fields<th>Reason</tr>")?;
        each(state, |change| {
            if change.kind == Kind::Unchanged {
                return Ok(());
            }
            let fields: String = change
                .fields
                .iter()
                .map(|field| {
                    let problem = field.problem.as_ref().map(|problem| format!(" ({})", text(problem)));
                    let (old, new) = (text(&plain(&field.old)), text(&plain(&field.new)));
                    format!(
                        "{}: <del>{old}</del> <ins>{new}</ins>{}<br>",
                        text(&field.field),
                        problem.unwrap_or_default()
                    )
                })
                .collect();
            let user = change.user_id.map(|id| id.to_string()).unwrap_or_default();
            let id = text(change.imis_id.as_deref().unwrap_or_default());
            let reason = text(change.reason.as_deref().unwrap_or_default());
            let kind = change.kind.name();
            writeln!(self.writer, "<tr><td>{kind}<td>{id}<td>{user}<td>{fields}<td>{reason}</tr>")
                .map_err(SyncError::Output)
        })?;
        Ok(writeln!(self.writer, "</table>")?)
    }
}

/// Printing failed.
#[derive(Debug, thiserror::Error)]
enum PrintError {
    #[error("cannot write the report")]
    Output(#[from] std::io::Error),
    #[error(transparent)]
    State(#[from] SyncError),
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
}

fn failed(error: PrintError) -> i32 {
    exit_with(FAILURE, Chain(&error))
}

fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Create => "members who get a user",
        Kind::Link => "users with the member's e-mail address, who get the iMIS ID",
        Kind::Update => "users with changed properties",
        Kind::Restore => "users whom an earlier run suspended, and whose members may sign in again",
        Kind::EndSessions => "users whose members may not sign in any more: their sessions are ended",
        Kind::Suspend => "users whose members may not sign in any more: they are suspended",
        Kind::Leaver => "users whose members may not sign in any more: nothing is written",
        Kind::Refused => "members who get no user; the reasons are below",
        Kind::Conflict => "members whose user is not clear",
        Kind::Staff => "agents and admins, left alone",
        Kind::NoUser => "members without a user, and none is created",
        Kind::Unchanged => "users that are up to date",
    }
}

/// The reasons of the lines, with their number, the most frequent first.
fn reasons(state: &State) -> Result<Vec<(String, i64)>, PrintError> {
    let mut statement = state.database.prepare(
        "SELECT kind || ': ' || reason, count(*) FROM changes WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The changes that failed.
fn failures(state: &State) -> Result<Vec<(String, String)>, PrintError> {
    let mut statement = state.database.prepare(
        "SELECT coalesce(imis_id, user_id), outcome FROM changes WHERE outcome LIKE 'failed%' ORDER BY id LIMIT 1000",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A value in one line of a terminal.
fn shown(value: &Value) -> String {
    if value.is_null() { "(none)".to_owned() } else { escaped(&plain(value)).to_string() }
}

/// A text without the quotes of JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}
