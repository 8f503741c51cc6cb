//! The direction of imports is the design: this reads every `crate::` path in the sources against
//! the table below (design section 3) and fails on an extra arrow, or on a file no module names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module to the modules it may import. A part of a module (`gate/ports.rs`) belongs to it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("money", &[]),
    ("route", &[]),
    ("metrics", &[]),
    ("lifecycle", &[]),
    ("eip712", &["money"]),
    ("offer", &["money"]),
    ("pricing", &["offer", "money"]),
    ("crd", &["offer", "money"]),
    ("x402", &["money"]),
    (
        "table",
        &["money", "route", "offer", "pricing", "x402", "metrics"],
    ),
    (
        "gate",
        &[
            "money",
            "route",
            "x402",
            "eip712",
            "table",
            "lifecycle",
            "metrics",
        ],
    ),
    (
        "facilitator",
        &["gate", "x402", "money", "lifecycle", "metrics"],
    ),
    ("ledger", &["gate", "money", "x402", "lifecycle", "metrics"]),
    (
        "sources/file",
        &["pricing", "offer", "table", "lifecycle", "metrics"],
    ),
    (
        "sources/kube",
        &["crd", "pricing", "offer", "table", "lifecycle", "metrics"],
    ),
    ("status", &["crd", "table", "lifecycle", "metrics"]),
    ("http/respond", &["gate", "x402"]),
    (
        "http/forward_auth",
        &["gate", "route", "http/respond", "metrics"],
    ),
    ("http/admin", &["metrics", "lifecycle", "table"]),
    // The accept loop of both ports: knows connections and shutdown, nothing of payments.
    ("http/listener", &["lifecycle"]),
    (
        "config",
        &[
            "http/listener",
            "ledger",
            "facilitator",
            "sources/file",
            "sources/kube",
            "status",
            "http/admin",
        ],
    ),
    (
        "explain",
        &["pricing", "crd", "table", "gate", "http/respond"],
    ),
    ("operate", &["config", "ledger", "gate", "money"]),
    ("demo", &["serve", "config", "x402", "eip712"]),
];

/// May import everything but [`NOT_BY_SERVE`].
const SERVE: &str = "serve";
const NOT_BY_SERVE: &[&str] = &["demo", "operate"];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_files() -> Vec<String> {
    let mut found = Vec::new();
    files(&sources(), &mut found);
    let mut names: Vec<_> = found
        .iter()
        .map(|path| {
            let name = path
                .strip_prefix(sources())
                .expect("below src")
                .with_extension("");
            name.to_str().expect("UTF-8").to_owned()
        })
        .collect();
    names.sort();
    names
}

/// Whether a file is compiled for tests only: its parent says so.
fn only_for_tests(file: &str) -> bool {
    let Some((parent, name)) = file.rsplit_once('/') else {
        return false;
    };
    let parent = std::fs::read_to_string(sources().join(format!("{parent}.rs")));
    parent
        .unwrap_or_default()
        .contains(&format!("#[cfg(test)]\nmod {name};"))
}

/// The module of the design's table that a file belongs to.
fn module_of(file: &str) -> &str {
    let mut parts = file.splitn(3, '/');
    let first = parts.next().unwrap_or_default();
    match (first, parts.next()) {
        ("http" | "sources", Some(second)) => &file[..first.len() + 1 + second.len()],
        _ => first,
    }
}

/// Every `crate::a::b` path in a text, comments and tests left out.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        // `use crate::{a::X, b::Y}`: each item of the group.
        let items: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group
                .split('}')
                .next()
                .unwrap_or_default()
                .split(',')
                .collect(),
            None => vec![rest],
        };
        for item in items {
            let path: Vec<&str> = item
                .trim()
                .split("::")
                .map(|part| {
                    let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
                    &part[..end.unwrap_or(part.len())]
                })
                .collect();
            let module = match path.as_slice() {
                [folder @ ("http" | "sources"), module, ..] => format!("{folder}/{module}"),
                [module, ..] => (*module).to_owned(),
                [] => continue,
            };
            found.insert(module);
        }
    }
    found
}

fn extra_arrows(module: &str, text: &str) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    imports(text)
        .into_iter()
        .filter(|import| import != module)
        .filter(|import| match allowed.get(module) {
            Some(list) => !list.contains(&import.as_str()),
            None => module != SERVE || NOT_BY_SERVE.contains(&import.as_str()),
        })
        .collect()
}

#[test]
fn imports_follow_the_designs_table() {
    let mut problems = Vec::new();
    for file in all_files()
        .iter()
        .filter(|file| !matches!(file.as_str(), "lib" | "main"))
    {
        if only_for_tests(file) {
            continue;
        }
        let text = std::fs::read_to_string(sources().join(format!("{file}.rs"))).expect("a file");
        let module = module_of(file);
        for import in extra_arrows(module, &text) {
            problems.push(format!("src/{file}.rs: {module} may not import {import}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn an_extra_arrow_is_found() {
    let text = "use crate::{money::Amount, gate::Permit};\nfn f() { crate::ledger::Store::x() }";
    assert_eq!(extra_arrows("table", text), ["gate", "ledger"]);
    assert_eq!(
        extra_arrows("http/admin", "use crate::http::respond::respond;"),
        ["http/respond"]
    );
    assert_eq!(extra_arrows("serve", "use crate::demo::run;"), ["demo"]);
    assert!(extra_arrows("gate", "/// See crate::ledger.\nuse crate::table::Table;").is_empty());
}

#[test]
fn every_file_is_named_by_a_module() {
    let files = all_files();
    let read = |name: &str| {
        std::fs::read_to_string(sources().join(format!("{name}.rs"))).unwrap_or_default()
    };
    let mut orphans = Vec::new();
    for file in files
        .iter()
        .filter(|file| !matches!(file.as_str(), "lib" | "main"))
    {
        let (parent, name) = match file.rsplit_once('/') {
            Some(("http" | "sources", name)) => ("lib", name),
            Some((parent, name)) => (parent, name),
            None => ("lib", file.as_str()),
        };
        let text = read(parent);
        let named = text.lines().map(str::trim).any(|line| {
            line.trim_start_matches("pub(crate) ")
                .trim_start_matches("pub ")
                == format!("mod {name};")
                || line.trim_start_matches("pub(super) ") == format!("mod {name};")
        });
        if !named {
            orphans.push(format!("src/{file}.rs is named by no module"));
        }
    }
    assert!(orphans.is_empty(), "{}", orphans.join("\n"));
}
