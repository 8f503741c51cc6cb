//! The documentation is run: examples are checked and executed, and what the product says by name
//! (reasons, metrics, flags, links) must stand in the page that explains it.

use crate::harness::{Verifier, pricing};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// The code blocks of a page with this info string.
pub(crate) fn blocks(page: &str, info: &str) -> Vec<String> {
    let text = read(page);
    let mut found = Vec::new();
    let mut current: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut current, line.strip_prefix("```")) {
            (None, Some(opening)) => current = Some((opening.trim() == info, String::new())),
            (Some(_), Some(_)) => {
                if let Some((true, block)) = current.take() {
                    found.push(block);
                }
                current = None;
            }
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

fn run(args: &[&str], stdin_file: Option<&Path>) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_x402-verifier"));
    command.args(args).current_dir(root());
    if let Some(file) = stdin_file {
        command.arg("--config").arg(file);
    }
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn every_pricing_example_is_a_sound_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut examples = vec![(
        "examples/pricing.yaml".to_owned(),
        read("examples/pricing.yaml"),
    )];
    for page in pages() {
        examples.extend(
            blocks(&page, "yaml pricing")
                .into_iter()
                .map(|text| (page.clone(), text)),
        );
    }
    assert!(examples.len() > 3, "the pages show examples");
    for (number, (page, text)) in examples.iter().enumerate() {
        let file: PathBuf = folder.path().join(format!("{number}.yaml"));
        // Files that an example names exist for whoever follows it.
        std::fs::write(
            folder.path().join("facilitator-headers.yaml"),
            "Authorization: Bearer x\n",
        )
        .expect("writable");
        std::fs::write(
            folder.path().join("verify-secret"),
            "0123456789abcdef0123456789abcdef",
        )
        .expect("writable");
        std::fs::write(&file, text).expect("writable");
        let (ok, said) = run(&["check", "--strict"], Some(&file));
        assert!(ok, "{page}:\n{text}\n{said}");
    }
}

#[test]
fn every_tested_command_runs() {
    let mut commands = 0;
    for page in pages() {
        for block in blocks(&page, "console tested") {
            for line in block
                .lines()
                .filter_map(|line| line.strip_prefix("$ x402-verifier "))
            {
                let args = words(line);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let (ok, said) = run(&args, None);
                assert!(ok, "{page}: {line}\n{said}");
                commands += 1;
            }
        }
    }
    assert!(commands >= 4, "{commands}");
}

/// The commands for a running verifier, against one that serves the example and has closed a path.
#[tokio::test]
async fn every_command_for_a_running_verifier_runs() {
    let example = read("examples/pricing.yaml");
    let (kept, removed) = example
        .split_once("  # The offer demo/archive")
        .expect("two offers");
    assert!(removed.contains("pattern: /archive/*"));
    let verifier = Verifier::start(&example).await;
    verifier.write_pricing(kept);
    let is_closed = || async { verifier.ask("/archive/x").send().await.status == 410 };
    let within = std::time::Duration::from_secs(5);
    verifier
        .eventually(within, "the path to close", is_closed)
        .await;
    let admin = verifier.admin_url("");
    let admin = admin.trim_start_matches("http://");
    let mut commands = 0;
    for page in pages() {
        for block in blocks(&page, "console live") {
            for line in block
                .lines()
                .filter_map(|line| line.strip_prefix("$ x402-verifier "))
            {
                let mut command = Command::new(env!("CARGO_BIN_EXE_x402-verifier"));
                command
                    .args(words(line))
                    .env("X402_ADMIN_LISTEN", admin)
                    .env_remove("X402_LEDGER")
                    .current_dir(verifier.home());
                let output = tokio::task::spawn_blocking(move || command.output());
                let output = output.await.expect("no panic").expect("the binary runs");
                let said = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{page}: {line}\n{said}");
                commands += 1;
            }
        }
    }
    assert!(commands >= 6, "{commands}");
    assert_eq!(
        verifier.ask("/archive/x").send().await.status,
        403,
        "released"
    );
}

/// Splits a command line at spaces outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("one word").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_documented_traefik_configuration_is_the_example() {
    let example = read("examples/traefik-dynamic.yml");
    let documented = blocks("docs/operating.md", "yaml traefik");
    let strip = |text: &str| {
        text.lines()
            .map(|line| line.split(" #").next().unwrap_or_default().trim_end())
            .filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        documented
            .iter()
            .any(|block| strip(block) == strip(&example)),
        "they differ"
    );
}

#[test]
fn every_reason_is_explained_to_buyers() {
    let source = read("src/gate/reason.rs");
    let (_, from) = source.split_once("The stable code.").expect("as_str");
    let (codes, _) = from.split_once("The sentence for").expect("sentence");
    let page = read("docs/buyers.md");
    let mut found = 0;
    for code in codes.split('"').skip(1).step_by(2) {
        assert!(
            page.contains(&format!("`{code}`")),
            "{code} is not in docs/buyers.md"
        );
        found += 1;
    }
    assert!(found > 20, "{found}");
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_exists() {
    let verifier = Verifier::start(&pricing("https://facilitator.example")).await;
    let scrape = verifier.admin("/metrics").await.text();
    let page = read("docs/metrics.md");
    let mut families = 0;
    for line in scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let family = line.split(' ').next().expect("a name");
        if family.starts_with("process_") {
            continue;
        }
        let name = family.strip_prefix("x402_verifier_").unwrap_or(family);
        assert!(page.contains(name), "{family} is not in docs/metrics.md");
        families += 1;
    }
    assert!(families > 20, "{families}");
    for name in page.split('`').filter(|name| {
        (name.ends_with("_total") || name.ends_with("_seconds"))
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }) {
        // Absent until there was one (surface, metrics).
        if name == "last_payment_success_seconds" {
            continue;
        }
        let bare = name.strip_prefix("x402_verifier_").unwrap_or(name);
        assert!(
            scrape.contains(bare),
            "docs/metrics.md names {name}, which does not exist"
        );
    }
}

#[test]
fn every_flag_is_documented() {
    let page = read("docs/configuration.md");
    for command in [
        &["--help"][..],
        &["check", "--help"],
        &["explain", "--help"],
        &["ready", "--help"],
        &["routes", "--help"],
        &["closed", "list", "--help"],
        &["closed", "release", "--help"],
    ] {
        let (_, help) = run(command, None);
        for flag in help
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
            .map(|word| word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric()))
            .map(|word| word.split(['=', '[']).next().unwrap_or_default())
        {
            if matches!(flag, "--help" | "--version") {
                continue;
            }
            assert!(
                page.contains(flag),
                "{flag} is not in docs/configuration.md"
            );
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let anchors = |page: &str| -> Vec<String> {
        read(page)
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| {
                line.trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                    .map(|c| if c == ' ' { '-' } else { c })
                    .collect()
            })
            .collect()
    };
    for page in pages() {
        let folder = Path::new(&page).parent().expect("a parent").to_owned();
        for link in read(&page)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                folder
                    .join(file)
                    .to_str()
                    .expect("UTF-8")
                    .replace("docs/../", "")
            };
            assert!(root().join(&target).exists(), "{page}: {link}");
            if !anchor.is_empty() && target.ends_with(".md") {
                assert!(
                    anchors(&target).contains(&anchor.to_owned()),
                    "{page}: {link}"
                );
            }
        }
    }
}
