//! `imis-gateway schema`, `man`, `completions`: documents that the program generates.

use std::io::Write;

use clap::Command;

use crate::cli::output::{SUCCESS, fail, print_verbatim};
use crate::config::key::Preset;
use crate::config::keys::KEYS;
use crate::config::schema::schema as of_configuration;

/// A manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Page {
    /// The program
    #[value(name = "imis-gateway")]
    Program,
    /// Its configuration
    #[value(name = "imis-gateway.yaml")]
    Configuration,
}

/// The format of `schema`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Schema {
    Json,
    Markdown,
}

pub(super) fn schema(format: Schema) -> Result<i32, i32> {
    let text = match format {
        Schema::Markdown => markdown(),
        Schema::Json => serde_json::to_string_pretty(&of_configuration()).map_err(|error| fail(&error))?,
    };
    print_verbatim(text.trim_end());
    Ok(SUCCESS)
}

pub(super) fn completions(mut program: Command, shell: clap_complete::Shell) -> i32 {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut program, "imis-gateway", &mut out);
    print_verbatim(String::from_utf8_lossy(&out).trim_end());
    SUCCESS
}

pub(super) fn man(program: Command, page: Page) -> i32 {
    let text = match page {
        Page::Program => program_page(program),
        Page::Configuration => configuration_page(),
    };
    print_verbatim(text.trim_end());
    SUCCESS
}

/// imis-gateway(1), with every command.
fn program_page(mut command: Command) -> String {
    let mut out = Vec::new();
    command.build();
    // Writing to a vector cannot fail.
    let _ = clap_mangen::Man::new(command.clone()).render(&mut out);
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        let _ = writeln!(out, ".SH \"{}\"", sub.get_name().to_uppercase());
        let _ = man.render_synopsis_section(&mut out);
        let _ = man.render_description_section(&mut out);
        let _ = man.render_options_section(&mut out);
    }
    let more = ".SH FILES\n.TP\n/etc/imis-gateway/config.yaml\nThe configuration, imis-gateway.yaml(5).\n.TP\n/run/imis-gateway/control.sock\n\
                The control socket.\n.SH \"SEE ALSO\"\nimis-gateway.yaml(5), systemd.service(5)\n";
    out.extend_from_slice(more.as_bytes());
    // There is one page for all commands; the text after the help is the exit codes.
    let text = String::from_utf8_lossy(&out).replace(".SH EXTRA", ".SH \"EXIT STATUS\"");
    text.replace("imis\\-gateway\\-", "imis\\-gateway ").replace("\\fR(1)", "\\fR")
}

/// docs/configuration.md.
fn markdown() -> String {
    let mut out = "# Configuration\n\n\
        Every key. `imis-gateway schema --format markdown` generates this page. `config.yaml` shows the keys in context.\n\
        Relative paths start at the directory of the file. Unknown keys are errors. `[]` stands for each item of a list.\n\n\
        | key | type | default | description |\n|---|---|---|---|\n"
        .to_owned();
    for key in KEYS {
        let default = match key.default {
            Preset::Required => "**required**".to_owned(),
            Preset::Is(text) | Preset::IsOrNull(text) => format!("`{text}`"),
            Preset::Null => "`null`".to_owned(),
            Preset::Below => "the values below".to_owned(),
            Preset::Absent(text) => text.to_owned(),
        };
        let cells = [format!("`{}`", key.path), key.kind.shown(), default, key.text.to_owned()];
        out += &format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    out
}

/// imis-gateway.yaml(5): each key with what it takes, and its default.
fn configuration_page() -> String {
    let mut out = format!(
        ".TH imis-gateway.yaml 5 \"\" \"imis-gateway {}\"\n.SH NAME\nimis-gateway.yaml \\- configuration of imis-gateway(1)\n.SH DESCRIPTION\n\
         YAML, by default in /etc/imis\\-gateway/config.yaml. Relative paths begin at its folder. Unknown keys are refused. Secrets are references: \
         {{file: PATH}}, {{credential: NAME}} (systemd) or {{env: NAME}}. A path with [] is for each item of a list.\n.SH KEYS\n",
        env!("CARGO_PKG_VERSION")
    );
    for key in KEYS {
        let default = match key.default {
            Preset::Required => "required".to_owned(),
            Preset::Is(text) => format!("default: {text}"),
            Preset::IsOrNull(text) => format!("default: {text}; null = none"),
            Preset::Null => "default: null = none".to_owned(),
            Preset::Below => "default: the values below".to_owned(),
            Preset::Absent(text) => format!("when absent: {text}"),
        };
        let (kind, default) = (capital(&key.kind.shown()), capital(&default));
        out += &escaped(&format!(".TP\n\\fB{}\\fR\n{}\n{kind}. {default}.\n", key.path, key.text));
    }
    out + ".SH \"SEE ALSO\"\nimis-gateway(1)\n"
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// Escapes text for roff: hyphens, and an apostrophe at the start of a line.
fn escaped(text: &str) -> String {
    text.replace('-', "\\-").replace("\n'", "\n\\&'")
}
