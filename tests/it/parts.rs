//! Real parts for tests: Traefik, a chain with a token, the official facilitator, the buyers of four ecosystems,
//! a Kubernetes control plane.
//!
//! Everything comes from the folder that `make tools` fills ([`tools_dir`]); a test that needs a tool which is not
//! there fails and says so ([`require`]), it never passes by skipping. Each part is a guard: it is ready when
//! `start` returns, listens on loopback at a free port, logs into a folder of its own, and dies with its guard or
//! with the test process, however that ends (see [`process`]). When the test panics the folder is kept and named,
//! with the end of the log.
//!
//! Not here: the verifier itself, and scripted servers that misbehave on purpose.
//!
//! Tests that use these parts belong into modules named `real`; that is how `make check` leaves them out. Those
//! that need promtool carry `promtool` in their name, so that `make test` can leave out them alone.
//!
//! Helpers panic instead of returning errors: in a test there is nobody to handle them.

mod buyer;
mod chain;
pub(crate) mod control_plane;
mod facilitator;
pub(crate) mod http;
pub(crate) mod process;
mod promtool;
mod selftest;
pub(crate) mod stream_proxy;
mod traefik;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

pub(crate) use self::process::scratch_dir;
pub(crate) use self::{
    buyer::{Buyer, BuyerResult},
    chain::{ACCOUNTS, Anvil, CHAIN_ID, PAYEE, TOKEN},
    facilitator::{TsFacilitator, node_server},
    promtool::check_metrics,
    traefik::Traefik,
};

/// Where `make tools` installs: `$X402_TOOLS_DIR`, else `~/.cache/x402-verifier-tools`.
pub(crate) fn tools_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("X402_TOOLS_DIR") {
        // Parts run in folders of their own: a relative path would mean another place there.
        return std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir));
    }
    match std::env::var_os("HOME") {
        Some(home) => Path::new(&home).join(".cache/x402-verifier-tools"),
        None => panic!("neither X402_TOOLS_DIR nor HOME is set: where are the test tools?"),
    }
}

/// The folder of scripts and lock files, in the sources.
pub(crate) fn parts_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts")
}

/// The folder of an installed tool, or of a command's program for those that the system brings.
///
/// `tool` is a name of `tests/parts/tools.sh` (`traefik`, `npm-v2`, `npm-v1`, `python`, `token`, `peers`, `kube`,
/// `traefik-crds`) or a command to be found in `PATH` (`node`, `python3`, `promtool`, `wrk`).
///
/// # Panics
/// When it is not there, with what to do.
pub(crate) fn require(tool: &str) -> PathBuf {
    let tools = tools_dir();
    // The stamp, not the folder: a half-finished installation has none.
    if tools.join("stamps").join(tool).exists() {
        return tools.join(tool);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(|dir| dir.join(tool).is_file()) {
        return found;
    }
    let missing = std::fs::read_to_string(tools.join("missing")).unwrap_or_default();
    let reason = missing
        .lines()
        .find(|line| line.starts_with(&format!("{tool}: ")));
    panic!(
        "{tool} is not installed in {}: run `make tools`{}",
        tools.display(),
        reason
            .map(|reason| format!(" (last time: {reason})"))
            .unwrap_or_default(),
    );
}

/// A loopback port that nothing listens on, for servers that cannot report a port they picked.
///
/// Taken from below the range of outgoing connections, each number once per process and from a start that differs
/// between processes, so that tests beside each other do not race for one.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let start = u16::try_from(std::process::id() % 500).unwrap_or(0) * 40;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
