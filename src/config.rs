//! Flags and environment to one validated [`Config`]: what needs a restart.
//!
//! Everything else is in the pricing document and swaps with the table (R5). Each flag has the
//! environment variable `X402_<FLAG>`; `--kubeconfig` has `KUBECONFIG`. The predecessor's flags
//! keep working. The flags themselves are in `config/args.rs`.
//!
//! Failure: bad flags are all the user's: exit status 2 and what would do.

mod args;

pub use args::{
    AdminAddress, CheckArgs, Cli, ClosedCommand, ClosedListArgs, ClosedReleaseArgs, Command,
    CrdArgs, Documents, ExplainArgs, LogFormat, OutputFormat, PricingFile, ReadyArgs, RouteSource,
    RoutesArgs, RoutesFilterArgs, ServeArgs, StateFilter,
};

use crate::http::listener::ListenAddress;
use crate::ledger::LedgerUrl;
use crate::sources::kube::KubeOptions;
use crate::status::{self, StatusOptions};
use std::path::PathBuf;
use std::time::Duration;

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
#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(args: &[&str]) -> ServeArgs {
        let cli = Cli::try_parse_from([&["x402-verifier"], args].concat()).unwrap();
        match cli.command {
            None => cli.serve,
            Some(Command::Serve(args)) => args,
            Some(other) => panic!("{other:?}"),
        }
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
}
