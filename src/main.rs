//! The command line of x402-verifier: parse, dispatch, exit status (0, 1 failure, 2 usage).

use clap::Parser;
use jiff::Timestamp;
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;
use x402_verifier::config::{
    CheckArgs, Cli, ClosedCommand, Command, ExplainArgs, LogFormat, OutputFormat, RoutesArgs,
    ServeArgs,
};
use x402_verifier::explain::Question;
use x402_verifier::operate::Selection;
use x402_verifier::{crd, demo, explain, operate, serve};

/// A table of 100,000 offers is millions of small pieces that live long among many that do not.
/// glibc's allocator kept 600 bytes an offer more than this one, most of it holes that it never gave
/// back.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // One provider for every TLS client; there is no other yet that this could fail for.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let cli = Cli::parse();
    match cli.command {
        None => run_serve(cli.serve),
        Some(Command::Serve(args)) => run_serve(args),
        Some(Command::Check(args)) => run_check(&args),
        Some(Command::Explain(args)) => run_explain(&args),
        Some(Command::Crd(args)) => {
            if args.policy {
                print(&crd::policy(args.deny));
            } else {
                print(crd::definition());
            }
            ExitCode::SUCCESS
        }
        Some(Command::Ready(args)) => {
            let verdict = block_on(operate::ready(&args.admin.admin));
            print(&format!("{}\n", verdict.text));
            verdict.exit_code()
        }
        Some(Command::Routes(args)) => run_routes(&args),
        Some(Command::Closed(command)) => run_closed(command),
        Some(Command::Demo) => finish(block_on(demo::run())),
    }
}

fn run_serve(args: ServeArgs) -> ExitCode {
    if let Err(error) = start_logging(args.log_format, &args.log_level) {
        return usage(&format!("--log-level: {error}"));
    }
    match args.validate() {
        Ok(config) => finish(block_on(serve::run(config))),
        Err(error) => usage(&error.to_string()),
    }
}

fn run_check(args: &CheckArgs) -> ExitCode {
    let checked = match explain::check(
        &args.documents.file.config,
        &args.documents.offers,
        args.strict,
        Timestamp::now(),
    ) {
        Ok(checked) => checked,
        Err(error) => return finish(Err(error)),
    };
    match args.format {
        OutputFormat::Text => print(&checked.to_text()),
        OutputFormat::Json => match serde_json::to_string(&checked) {
            Ok(json) => print(&format!("{json}\n")),
            Err(error) => return finish(Err(error.into())),
        },
    }
    if checked.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_explain(args: &ExplainArgs) -> ExitCode {
    let question = Question {
        method: args.method.clone(),
        target: args.target.clone(),
        headers: args.headers.clone(),
        address: args.address.clone(),
    };
    if args.live {
        return match serde_json::to_vec(&question) {
            Ok(question) => tell(block_on(operate::explain_live(&args.admin.admin, question))),
            Err(error) => finish(Err(error.into())),
        };
    }
    let text = block_on(explain::explain(
        &args.documents.file.config,
        &args.documents.offers,
        &question,
        Timestamp::now(),
    ));
    finish(text.map(|text| print(&text)))
}

fn run_routes(args: &RoutesArgs) -> ExitCode {
    let as_json = args.format == OutputFormat::Json;
    tell(block_on(operate::routes(
        &args.admin.admin,
        &args.filter,
        as_json,
    )))
}

fn run_closed(command: ClosedCommand) -> ExitCode {
    match command {
        ClosedCommand::List(args) => {
            let as_json = args.format == OutputFormat::Json;
            tell(block_on(operate::closed(&args.admin.admin, as_json)))
        }
        ClosedCommand::Release(args) => {
            let selection = Selection {
                path: args.path,
                host: args.host,
                namespace: args.namespace,
            };
            let now = Timestamp::now();
            let admin = &args.admin.admin;
            tell(block_on(operate::release(
                admin,
                args.ledger,
                &selection,
                now,
            )))
        }
    }
}

/// Prints what a command found, or why it found nothing.
fn tell<E: std::error::Error + Send + Sync + 'static>(result: Result<String, E>) -> ExitCode {
    match result {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => finish(Err(error.into())),
    }
}

fn start_logging(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
        LogFormat::Text => registry.with(layer).init(),
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => {
            report(&format!("the runtime cannot start: {error}"));
            std::process::abort()
        }
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn usage(message: &str) -> ExitCode {
    report(message);
    ExitCode::from(2)
}

#[expect(clippy::print_stdout, reason = "the answer of a command line")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "the last word of a command line")]
fn report(message: &str) {
    eprintln!("x402-verifier: {message}");
}
