//! Official buyers, unmodified: what people who pay through x402 really run.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::Command;

use super::{
    ACCOUNTS, parts_dir,
    process::{signal_group, supervised},
    require, tools_dir,
};

/// A purchase includes signing, verifying and settling; Node and Python take a second to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// A buyer, named after its package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buyer {
    /// TypeScript v2, `@x402/fetch`.
    Fetch,
    /// TypeScript v2, `@x402/axios`.
    Axios,
    /// TypeScript v1, `x402-fetch`.
    V1,
    /// Python `x402[httpx]`.
    Httpx,
    /// Python `x402[requests]`.
    Requests,
    /// Rust `x402-reqwest`.
    Rust,
}

/// What a buyer saw in the end.
#[derive(Debug, Clone)]
pub(crate) struct BuyerResult {
    /// Status of the last answer: 200, or 402 when the payment was not accepted.
    pub(crate) status: u16,
    /// Its body, as JSON if it was that, else as a string.
    pub(crate) body: Value,
    /// The decoded payment response header.
    pub(crate) receipt: Option<Value>,
}

impl Buyer {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Fetch,
        Self::Axios,
        Self::V1,
        Self::Httpx,
        Self::Requests,
        Self::Rust,
    ];

    /// GETs `url` with account number `account` of [`ACCOUNTS`] as the payer.
    ///
    /// # Panics
    /// When the buyer gave up with an exception, with what it said.
    pub(crate) async fn pay(self, url: &str, account: usize) -> BuyerResult {
        let mut command = Command::from(self.command(url, account));
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {self:?}: {error}"));
        let leader = child.id();
        // Kept until it ended: closing it kills the buyer.
        let lifeline = child.stdin.take();
        let Ok(output) = tokio::time::timeout(LIMIT, child.wait_with_output()).await else {
            leader
                .into_iter()
                .for_each(|leader| signal_group(leader, "KILL"));
            panic!("{self:?} has not finished in {LIMIT:?}");
        };
        drop(lifeline);
        let output = output.unwrap_or_else(|error| panic!("{self:?}: {error}"));

        let stdout = String::from_utf8_lossy(&output.stdout);
        let line = stdout.lines().last().unwrap_or_default();
        let Ok(report) = serde_json::from_str::<Value>(line) else {
            let stderr = String::from_utf8_lossy(&output.stderr);
            panic!("{self:?} gave up, {}: {stdout}{stderr}", output.status);
        };
        let field = |name: &str| report.get(name).cloned().unwrap_or(Value::Null);
        BuyerResult {
            status: field("status")
                .as_u64()
                .and_then(|n| u16::try_from(n).ok())
                .unwrap_or(0),
            body: field("body"),
            receipt: Some(field("receipt")).filter(|receipt| !receipt.is_null()),
        }
    }

    fn command(self, url: &str, account: usize) -> std::process::Command {
        let index = account.to_string();
        match self {
            Self::Fetch => node("v2", "buyers/fetch.mjs", url, &index),
            Self::Axios => node("v2", "buyers/axios.mjs", url, &index),
            Self::V1 => node("v1", "buyers/v1.mjs", url, &index),
            Self::Httpx => python("httpx", url, &index),
            Self::Requests => python("requests", url, &index),
            Self::Rust => {
                let Some(payer) = ACCOUNTS.get(account) else {
                    panic!("there is no account {account}");
                };
                let mut command = supervised(require("peers").join("buyer"));
                command.args([payer.key, url]);
                command
            }
        }
    }
}

fn node(set: &str, script: &str, url: &str, index: &str) -> std::process::Command {
    require("node");
    require(&format!("npm-{set}"));
    let mut command = supervised(parts_dir().join("node.sh"));
    command
        .args([set, script, url, index])
        .env("X402_TOOLS_DIR", tools_dir());
    command
}

fn python(kind: &str, url: &str, index: &str) -> std::process::Command {
    require("python3");
    let mut command = supervised("python3");
    command
        .arg(parts_dir().join("buyers/buyer.py"))
        .args([kind, url, index]);
    command.env("PYTHONPATH", require("python"));
    command
}
