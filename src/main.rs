//! The command line of x402-verifier: parse, dispatch, exit status (0, 1 failure, 2 usage).

use clap::Parser;
use jiff::Timestamp;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;
use x402_verifier::config::{
    CheckArgs, CheckFormat, Cli, Command, ExplainArgs, LogFormat, ServeArgs,
};
use x402_verifier::explain::Question;
use x402_verifier::{crd, demo, explain, operate, serve};

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
            let verdict = block_on(operate::ready(&args.admin));
            print(&format!("{}\n", verdict.text));
            verdict.exit_code()
        }
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
        CheckFormat::Text => print(&checked.to_text()),
        CheckFormat::Json => match serde_json::to_string(&checked) {
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
        method: &args.method,
        target: &args.target,
        headers: &args.headers,
        address: &args.address,
    };
    let text = block_on(explain::explain(
        &args.documents.file.config,
        &args.documents.offers,
        &question,
        Timestamp::now(),
    ));
    finish(text.map(|text| print(&text)))
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
