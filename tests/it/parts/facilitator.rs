//! The official TypeScript facilitator over a chain of ours: `@x402/core` and `@x402/evm`, v2 and v1.

use super::{
    Anvil,
    process::{Process, supervised},
    require,
};

/// A running facilitator that pays gas from account 0.
#[derive(Debug)]
pub(crate) struct TsFacilitator {
    process: Process,
    url: String,
}

impl TsFacilitator {
    /// One whose settlements take `delay_ms` longer than they would.
    pub(crate) async fn start(chain: &Anvil, delay_ms: u64) -> Self {
        let delay = delay_ms.to_string();
        let arguments = ["servers/facilitator.mjs", "0", chain.url(), &delay];
        let (process, url) = node_server("facilitator", &arguments).await;
        Self { process, url }
    }

    /// Its base URL, for `facilitatorURL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Every verdict it gave, one line each: `TIME verify|settle JSON`.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// How many settlements it was asked for and answered.
    pub(crate) fn settlements(&self) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(" settle "))
            .count()
    }
}

/// A server of `tests/parts/servers` in the v2 package set, and the URL it prints.
///
/// `["servers/upstream.mjs", "0"]` is the seller's service that copies receipts, `["servers/dual.mjs", "0", URL]` a
/// seller without a gate, `["servers/resource.mjs", "0", URL]` the official Express middleware.
pub(crate) async fn node_server(name: &str, arguments: &[&str]) -> (Process, String) {
    require("node");
    require("npm-v2");
    let mut command = supervised(super::parts_dir().join("node.sh"));
    command
        .arg("v2")
        .args(arguments)
        .env("X402_TOOLS_DIR", super::tools_dir());
    let mut process = Process::start(name, command);
    let url = process.wait_for_line("listening on ").await;
    (process, url)
}
