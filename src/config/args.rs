//! The command line as clap reads it: commands, flags, their environment variables and defaults.
//!
//! What is here says what may be written and what a value must look like; whether the flags of
//! `serve` make sense together is said by [`ServeArgs::validate`](super::ServeArgs::validate).
//! Doc comments of fields are the text of `--help`.
//!
//! Failure: clap's, exit status 2 and what would do.

use crate::http::listener::ListenAddress;
use crate::ledger::LedgerUrl;
use crate::sources::kube::{ForeignUpstream, PredecessorSecret};
use crate::status;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "x402-verifier",
    version,
    about = "Payment gate for HTTP APIs: a forwardAuth target that enforces x402 payments",
    long_about = "Payment gate for HTTP APIs: a forwardAuth target for Traefik and other proxies \
                  that lets a request through only with an x402 payment that was verified, claimed \
                  and settled. Without a command it serves.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do; `serve` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve /verify and the admin port (the default)
    Serve(ServeArgs),
    /// Check a pricing file: all problems at once, exit status 0 or 1
    Check(CheckArgs),
    /// Show every step of the decision on one request and the response it leads to
    Explain(ExplainArgs),
    /// Print the ServiceOffer definition, or the admission policy for it, to apply with kubectl
    Crd(CrdArgs),
    /// Ask a running verifier whether it is ready: a sentence and exit status 0 or 1
    Ready(ReadyArgs),
    /// Show what a running verifier made of every route: state, owner, terms, and why
    Routes(RoutesArgs),
    /// List the closed paths of a running verifier, or release one
    #[command(subcommand)]
    Closed(ClosedCommand),
    /// Pay a request on this machine: no chain, no cluster, no network
    Demo,
}

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The file that the routes come from.
    #[command(flatten)]
    pub file: PricingFile,
    /// Address of /verify; ":8080" is every interface, IPv6 included
    #[arg(
        long,
        value_name = "ADDR",
        env = "X402_LISTEN",
        default_value = ":8080"
    )]
    pub listen: ListenAddress,
    /// Address of probes, metrics and /routes; equal to --listen to serve both on one port
    #[arg(
        long,
        value_name = "ADDR",
        env = "X402_ADMIN_LISTEN",
        default_value = ":9090"
    )]
    pub admin_listen: ListenAddress,
    /// Where routes come from: the file alone, or the cluster's offers plus the file
    #[arg(
        long,
        value_name = "SOURCE",
        env = "X402_ROUTE_SOURCE",
        default_value = "file"
    )]
    pub route_source: RouteSource,
    /// Re-read the pricing file when it changes
    #[arg(
        long,
        env = "X402_WATCH",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub watch: bool,
    /// kubeconfig for --route-source kube; without it ~/.kube/config, then the pod's own account
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces whose offers are read, for RBAC per namespace; all when absent
    #[arg(
        long,
        value_name = "NAMESPACE,...",
        env = "X402_WATCH_NAMESPACES",
        value_delimiter = ',',
        value_parser = namespace
    )]
    pub watch_namespaces: Vec<String>,
    /// Label selector of the offers that are read, such as gate=canary; all when absent
    #[arg(long, value_name = "SELECTOR", env = "X402_OFFER_SELECTOR")]
    pub offer_selector: Option<String>,
    /// Names of Secrets that offers may name for their upstream's credential; "" reads none
    #[arg(
        long,
        value_name = "NAME,...",
        env = "X402_UPSTREAM_SECRET_NAMES",
        value_delimiter = ',',
        default_value = "x402-upstream",
        value_parser = secret_name
    )]
    pub upstream_secret_names: Vec<String>,
    /// Upstreams in another namespace that offers may have, as OFFERS=UPSTREAMS
    #[arg(
        long,
        value_name = "NAMESPACE=NAMESPACE,...",
        env = "X402_FOREIGN_UPSTREAMS",
        value_delimiter = ',',
        value_parser = foreign_upstream
    )]
    pub foreign_upstreams: Vec<ForeignUpstream>,
    /// Write what became of each offer into its status
    #[arg(
        long,
        env = "X402_STATUS",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub status: bool,
    /// Lease whose holder writes status; gates that serve different offers need different ones
    #[arg(
        long,
        value_name = "NAME",
        env = "X402_STATUS_LEASE",
        default_value = status::DEFAULT_LEASE,
        value_parser = lease_name
    )]
    pub status_lease: String,
    /// Namespace of that Lease; the pod's own, or that of the kubeconfig's context, when absent
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "X402_STATUS_LEASE_NAMESPACE",
        value_parser = namespace
    )]
    pub status_lease_namespace: Option<String>,
    /// Secrets of other namespaces that the predecessor used by fixed names, each NAMESPACE/NAME
    #[arg(
        long,
        value_name = "NAMESPACE/NAME,...",
        env = "X402_PREDECESSOR_SECRETS",
        value_delimiter = ','
    )]
    pub predecessor_secrets: Vec<PredecessorSecret>,
    /// Where payments are recorded: sqlite:PATH, or memory (forgets on restart)
    #[arg(
        long,
        value_name = "LEDGER",
        env = "X402_LEDGER",
        default_value = "sqlite:x402-verifier.db"
    )]
    pub ledger: LedgerUrl,
    /// How long to stay ready after SIGTERM before connections are closed
    #[arg(
        long,
        value_name = "TIME",
        env = "X402_SHUTDOWN_DELAY",
        default_value = "0s",
        value_parser = duration
    )]
    pub shutdown_delay: Duration,
    /// Further root certificates (PEM) for facilitators
    #[arg(long, value_name = "FILE", env = "X402_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Log format
    #[arg(
        long,
        value_name = "FORMAT",
        env = "X402_LOG_FORMAT",
        default_value = "json"
    )]
    pub log_format: LogFormat,
    /// Log filter (error, warn, info, debug, or target=level,...)
    #[arg(
        long,
        value_name = "FILTER",
        env = "X402_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,
}

/// Where the pricing file is.
#[derive(Debug, Clone, Args)]
pub struct PricingFile {
    /// Pricing file
    #[arg(
        long,
        value_name = "FILE",
        env = "X402_CONFIG",
        default_value = "/config/pricing.yaml"
    )]
    pub config: PathBuf,
}

/// What `check` and `explain` read.
#[derive(Debug, Clone, Args)]
pub struct Documents {
    /// The pricing file.
    #[command(flatten)]
    pub file: PricingFile,
    /// ServiceOffer manifests beside the pricing file, a file or a folder, as often as needed
    #[arg(long = "offer", value_name = "FILE")]
    pub offers: Vec<PathBuf>,
}

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// What is read.
    #[command(flatten)]
    pub documents: Documents,
    /// Warnings are errors
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// What is read.
    #[command(flatten)]
    pub documents: Documents,
    /// Ask the running verifier's table instead of the files
    #[arg(long, conflicts_with = "offers")]
    pub live: bool,
    /// Where to ask with --live.
    #[command(flatten)]
    pub admin: AdminAddress,
    /// A request header, as often as needed
    #[arg(long = "header", value_name = "Name: value")]
    pub headers: Vec<String>,
    /// Address the ingress calls, when it pins an offer (/verify/NAMESPACE/NAME)
    #[arg(long, value_name = "PATH", default_value = "/verify")]
    pub address: String,
    /// Method of the client's request
    pub method: String,
    /// URL or path of the client's request
    pub target: String,
}

/// Flags of `crd`.
#[derive(Debug, Clone, Args)]
pub struct CrdArgs {
    /// The admission policy and its binding instead; it warns and audits
    #[arg(long)]
    pub policy: bool,
    /// The policy refuses instead of warning
    #[arg(long, alias = "enforce", requires = "policy")]
    pub deny: bool,
}

/// Flags of `ready`.
#[derive(Debug, Clone, Args)]
pub struct ReadyArgs {
    /// Where to ask.
    #[command(flatten)]
    pub admin: AdminAddress,
}

/// Flags of `routes`.
#[derive(Debug, Clone, Args)]
pub struct RoutesArgs {
    /// Where to ask.
    #[command(flatten)]
    pub admin: AdminAddress,
    /// Which routes.
    #[command(flatten)]
    pub filter: RoutesFilterArgs,
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// Which routes are shown.
#[derive(Debug, Clone, Args)]
pub struct RoutesFilterArgs {
    /// Only offers of this namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only offers of this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only routes in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<StateFilter>,
}

/// Commands of `closed`.
#[derive(Debug, Clone, Subcommand)]
pub enum ClosedCommand {
    /// List closed paths: since when, until when, whose, and why
    List(ClosedListArgs),
    /// Forget a closed path, so that the next owner may take it
    Release(ClosedReleaseArgs),
}

/// Flags of `closed list`.
#[derive(Debug, Clone, Args)]
pub struct ClosedListArgs {
    /// Where to ask.
    #[command(flatten)]
    pub admin: AdminAddress,
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// Flags of `closed release`.
#[derive(Debug, Clone, Args)]
pub struct ClosedReleaseArgs {
    /// The path as `closed list` shows it
    pub path: String,
    /// Only where it was closed for this host; "" where it was for every host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only where it was left by this namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Where to ask whether it was taken up.
    #[command(flatten)]
    pub admin: AdminAddress,
    /// Ledger of the verifier; the one that it names on its admin port when absent
    #[arg(long, value_name = "LEDGER", env = "X402_LEDGER")]
    pub ledger: Option<LedgerUrl>,
}

/// Where a running verifier is asked.
#[derive(Debug, Clone, Args)]
pub struct AdminAddress {
    /// Admin address of the verifier to ask
    #[arg(
        long,
        value_name = "ADDR",
        env = "X402_ADMIN_LISTEN",
        default_value = ":9090"
    )]
    pub admin: String,
}

/// Where routes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouteSource {
    /// The pricing file.
    File,
    /// The cluster's offers and the pricing file.
    Kube,
}

/// Log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// States of a route, as `/routes` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateFilter {
    /// Served.
    Live,
    /// Answers 410.
    Closed,
    /// Sold to nobody new.
    Draining,
    /// Cannot be understood: 503.
    Misconfigured,
    /// Of an offer that lost its paths to another owner.
    Conflict,
}

impl StateFilter {
    /// Its word in a query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Closed => "closed",
            Self::Draining => "draining",
            Self::Misconfigured => "misconfigured",
            Self::Conflict => "conflict",
        }
    }
}

/// Output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The name of a namespace: a DNS label.
fn namespace(text: &str) -> Result<String, String> {
    let name = secret_name(text)?;
    if name.is_empty() || name.len() > 63 || name.contains('.') {
        return Err("a namespace has 1 to 63 of a-z, 0-9 and -".to_owned());
    }
    Ok(name)
}

/// The name of a Secret: a DNS name; empty for none.
fn secret_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.len() > 253 || !name.chars().all(known) {
        return Err("a name has at most 253 of a-z, 0-9, - and .".to_owned());
    }
    Ok(name.to_owned())
}

/// The name of a Lease: a DNS name.
fn lease_name(text: &str) -> Result<String, String> {
    match secret_name(text)? {
        name if name.is_empty() => Err("a Lease has a name".to_owned()),
        name => Ok(name),
    }
}

/// `OFFERS=UPSTREAMS`: offers of the first namespace may have upstreams in the second.
fn foreign_upstream(text: &str) -> Result<ForeignUpstream, String> {
    let (offers, upstreams) = text
        .split_once('=')
        .ok_or("write NAMESPACE-OF-OFFERS=NAMESPACE-OF-UPSTREAMS")?;
    Ok(ForeignUpstream {
        offer_namespace: namespace(offers)?,
        upstream_namespace: namespace(upstreams)?,
    })
}

/// A duration such as `0s`, `90s`, `1m30s`; at most an hour.
fn duration(text: &str) -> Result<Duration, String> {
    let hint = "write a time such as 0s, 15s or 1m30s";
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}; {hint}"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration <= Duration::from_secs(3600) => Ok(duration),
        Ok(_) => Err(format!("longer than an hour; {hint}")),
        Err(_) => Err(format!("negative; {hint}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_duration_says_what_would_do() {
        for text in ["", "5", "-1s", "2h"] {
            assert!(duration(text).unwrap_err().contains("15s"), "{text}");
        }
    }
}
