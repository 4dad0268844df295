//! Tells the program the commit and the compiler it is built from, for the metric `imis_gateway_build_info`.
#![expect(clippy::disallowed_methods, reason = "cargo passes its settings as environment variables")]

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=IMIS_GATEWAY_REVISION");
    let rustc = var("RUSTC").ok().and_then(|rustc| output(&rustc, &["--version"]));
    // `rustc 1.95.0 (59807616e 2026-04-14)`: the number alone.
    let rustc = rustc.as_deref().and_then(|version| version.split(' ').nth(1)).unwrap_or("unknown");
    println!("cargo::rustc-env=IMIS_GATEWAY_RUSTC={rustc}");
    let revision = var("IMIS_GATEWAY_REVISION").ok().or_else(head).unwrap_or("unknown".to_owned());
    println!("cargo::rustc-env=IMIS_GATEWAY_REVISION={revision}");
}

/// The commit of the working tree. Only release builds ask git, so that a commit does not rebuild the program during
/// development.
fn head() -> Option<String> {
    if var("PROFILE").ok()? != "release" {
        return None;
    }
    // Only this repository, not one that the sources happen to lie in.
    let git = |arguments: &[&str]| output("git", &[&["--git-dir=.git"], arguments].concat());
    // The reflog of HEAD changes with each commit and each checkout. Cargo would take a missing file as changed.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::fs::exists(&log).unwrap_or(false)
    {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}

/// What a command prints, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
