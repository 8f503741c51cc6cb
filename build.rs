//! What `/version` and `build_info` say of this build: commit, date of the commit, compiler.
//!
//! A release build asks git and rustc; `X402_BUILD_COMMIT` and `X402_BUILD_DATE` in the environment win,
//! for builds from an archive. A debug build says `dev` and asks nobody, so that a commit does not
//! recompile the crate. The date is the commit's, so that equal sources give equal binaries.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=X402_BUILD_COMMIT");
    println!("cargo::rerun-if-env-changed=X402_BUILD_DATE");
    println!("cargo::rerun-if-changed=build.rs");
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if let (true, Some(log)) = (
        release,
        run("git", &["rev-parse", "--git-path", "logs/HEAD"]),
    ) {
        println!("cargo::rerun-if-changed={log}");
    }
    let ask = |program: &str, args: &[&str]| {
        let told = if release {
            run(program, args)
        } else {
            Some("dev".to_owned())
        };
        told.unwrap_or_else(|| "unknown".to_owned())
    };
    let or = |name: &str, program: &str, args: &[&str]| {
        std::env::var(name).unwrap_or_else(|_| ask(program, args))
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    for (name, value) in [
        (
            "X402_BUILD_COMMIT",
            or("X402_BUILD_COMMIT", "git", &["rev-parse", "HEAD"]),
        ),
        (
            "X402_BUILD_DATE",
            or("X402_BUILD_DATE", "git", &["log", "-1", "--format=%cI"]),
        ),
        ("X402_BUILD_RUSTC", ask(&rustc, &["--version"])),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
