//! Flags and environment to one validated [`Config`]: what needs a restart.
//!
//! Everything else is in the pricing document and swaps with the table (R5). Each flag has the
//! environment variable `X402_<FLAG>`; `--kubeconfig` has `KUBECONFIG`. The predecessor's flags
//! keep working.
//!
//! Failure: bad flags are all the user's: exit status 2 and what would do.

use crate::http::listener::ListenAddress;
use crate::ledger::LedgerUrl;
use crate::sources::kube::{ForeignUpstream, KubeOptions, PredecessorSecret};
use crate::status::{self, StatusOptions};
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
#[expect(clippy::large_enum_variant, reason = "one is made by a process")]
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
    pub format: CheckFormat,
}

/// Flags of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// What is read.
    #[command(flatten)]
    pub documents: Documents,
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

/// Output of `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Everything `serve` needs that a reload cannot change.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pricing file.
    pub file: PathBuf,
    /// Traffic address.
    pub listen: ListenAddress,
    /// Admin address.
    pub admin_listen: ListenAddress,
    /// Re-read the file.
    pub watch: bool,
    /// Ledger.
    pub ledger: LedgerUrl,
    /// Readiness kept after SIGTERM.
    pub shutdown_delay: Duration,
    /// Further roots.
    pub ca_file: Option<PathBuf>,
    /// The cluster, when offers come from there.
    pub kube: Option<KubeOptions>,
    /// How status is written, when it is.
    pub status: Option<StatusOptions>,
}

/// Flags that are well-formed and still cannot be used: exit status 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag that only means something beside `--route-source kube`.
    #[error("--{flag} needs --route-source kube: add it, or remove the flag")]
    NeedsKube {
        /// Its name.
        flag: &'static str,
    },
}

impl ServeArgs {
    /// Validates.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(self) -> Result<Config, ConfigError> {
        // Named one by one, so that a new flag that nobody uses does not compile.
        let Self {
            file: PricingFile { config },
            listen,
            admin_listen,
            route_source,
            watch,
            kubeconfig,
            watch_namespaces,
            offer_selector,
            upstream_secret_names,
            foreign_upstreams,
            status,
            status_lease,
            status_lease_namespace,
            predecessor_secrets,
            ledger,
            shutdown_delay,
            ca_file,
            log_format: _used_by_main,
            log_level: _also_used_by_main,
        } = self;
        let kube = match route_source {
            RouteSource::Kube => Some(KubeOptions {
                kubeconfig,
                namespaces: watch_namespaces,
                offer_selector: offer_selector.filter(|selector| !selector.trim().is_empty()),
                upstream_secret_names: upstream_secret_names
                    .into_iter()
                    .filter(|name| !name.is_empty())
                    .collect(),
                foreign_upstreams,
                predecessor_secrets,
            }),
            // Who says which offers to read and reads none would wonder where they are. KUBECONFIG
            // and the names of Secrets are often there anyway.
            RouteSource::File if !watch_namespaces.is_empty() => {
                return Err(ConfigError::NeedsKube {
                    flag: "watch-namespaces",
                });
            }
            RouteSource::File if offer_selector.is_some() => {
                return Err(ConfigError::NeedsKube {
                    flag: "offer-selector",
                });
            }
            RouteSource::File => None,
        };
        let status = (status && kube.is_some()).then(|| StatusOptions {
            lease_name: status_lease,
            lease_namespace: status_lease_namespace,
            identity: status::identity(),
        });
        Ok(Config {
            file: config,
            listen,
            admin_listen,
            watch,
            ledger,
            shutdown_delay,
            ca_file,
            kube,
            status,
        })
    }
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

    fn parse(args: &[&str]) -> ServeArgs {
        let cli = Cli::try_parse_from([&["x402-verifier"], args].concat()).unwrap();
        match cli.command {
            None => cli.serve,
            Some(Command::Serve(args)) => args,
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        assert_eq!(parse(&[]).shutdown_delay, Duration::ZERO);
        assert_eq!(
            parse(&["serve", "--shutdown-delay", "15s"])
                .shutdown_delay
                .as_secs(),
            15
        );
    }

    #[test]
    fn the_predecessors_flags_keep_working() {
        let args = parse(&[
            "--config=/c/p.yaml",
            "--listen=:8080",
            "--watch",
            "--route-source=kube",
        ]);
        assert!(args.watch);
        let kube = args.validate().unwrap().kube.unwrap();
        assert_eq!(
            kube,
            KubeOptions {
                kubeconfig: kube.kubeconfig.clone(),
                ..KubeOptions::default()
            }
        );
        assert!(!parse(&["--watch=false"]).watch);
    }

    #[test]
    fn what_is_read_of_the_cluster_is_a_matter_of_flags() {
        let kube = parse(&[
            "--route-source=kube",
            "--watch-namespaces=a,b",
            "--offer-selector=gate=canary",
            "--upstream-secret-names=",
            "--foreign-upstreams=a=llm,b=llm",
        ])
        .validate()
        .unwrap()
        .kube
        .unwrap();
        assert_eq!(kube.namespaces, ["a", "b"]);
        assert_eq!(kube.offer_selector.as_deref(), Some("gate=canary"));
        assert!(kube.upstream_secret_names.is_empty());
        assert_eq!(kube.foreign_upstreams[1].offer_namespace, "b");
        assert_eq!(kube.foreign_upstreams[1].upstream_namespace, "llm");
    }

    #[test]
    fn flags_of_the_cluster_alone_are_refused_with_what_would_do() {
        let error = parse(&["--watch-namespaces=a"]).validate().unwrap_err();
        assert!(error.to_string().contains("--route-source kube"), "{error}");
        for bad in [
            "--watch-namespaces=A",
            "--watch-namespaces=a,",
            "--foreign-upstreams=a",
        ] {
            let args = ["x402-verifier", "--route-source=kube", bad];
            assert!(Cli::try_parse_from(args).is_err(), "{bad}");
        }
    }

    #[test]
    fn status_is_written_where_there_is_a_cluster_and_nobody_says_no() {
        let of = |args: &[&str]| parse(args).validate().unwrap().status;
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["--route-source=kube", "--status=false"]), None);
        let written = of(&["--route-source=kube", "--status-lease-namespace=x402"]).unwrap();
        assert_eq!(written.lease_name, status::DEFAULT_LEASE);
        assert_eq!(written.lease_namespace.as_deref(), Some("x402"));
        assert_ne!(written.identity, status::identity(), "of another process");
        for bad in [
            "--status-lease=",
            "--status-lease=Gate",
            "--status-lease-namespace=a.b",
        ] {
            let args = ["x402-verifier", "--route-source=kube", bad];
            assert!(Cli::try_parse_from(args).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_would_do() {
        for text in ["", "5", "-1s", "2h"] {
            assert!(duration(text).unwrap_err().contains("15s"), "{text}");
        }
    }
}
