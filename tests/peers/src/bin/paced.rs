//! Paced, open-loop load: requests leave at a fixed rate whether or not the ones before were answered.
//!
//! `paced [--header 'Name: value']... [--lines NAME=FILE] RATE SECONDS URL...`
//!
//! RATE is requests a second over all URLs, which take turns: request by request when two servers are
//! compared, so that both see the same machine at the same time. `--lines` gives request number n the
//! header NAME with line n of FILE (payments, each good for one request); the run ends with the lines.
//!
//! Prints one line per request, in order: `URL_INDEX START_US LATENCY_US STATUS`, where START_US is Unix
//! time and LATENCY_US ends with the last byte of the body. A request that had to wait for a free worker
//! counts from when it should have left: a slow server cannot slow the load down and look fast by it.
//! STATUS 0 is a request that failed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Request, Uri},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::Instant;

type Error = Box<dyn std::error::Error>;

const USAGE: &str =
    "usage: paced [--header 'Name: value']... [--lines NAME=FILE] RATE SECONDS URL...";
/// Requests that may be on their way at once; more of them wait, and their wait is counted.
const WORKERS: usize = 128;

/// What is to be sent.
struct Load {
    headers: HeaderMap,
    /// A header that is another one in each request.
    lines: Option<(HeaderName, Vec<HeaderValue>)>,
    urls: Vec<Uri>,
    interval: Duration,
    count: usize,
}

struct Sample {
    number: usize,
    started_us: u128,
    latency: Duration,
    status: u16,
}

/// What the workers share.
struct Run {
    load: Load,
    client: Client<HttpConnector, Empty<Bytes>>,
    next: AtomicUsize,
    begin: Instant,
    samples: Mutex<Vec<Sample>>,
}

fn read_arguments() -> Result<Load, Error> {
    let mut headers = HeaderMap::new();
    let mut lines = None;
    let mut plain = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--header" => {
                let header = arguments.next().ok_or(USAGE)?;
                let (name, value) = header.split_once(':').ok_or(USAGE)?;
                headers.append(
                    name.parse::<HeaderName>()?,
                    HeaderValue::from_str(value.trim())?,
                );
            }
            "--lines" => {
                let named = arguments.next().ok_or(USAGE)?;
                let (name, file) = named.split_once('=').ok_or(USAGE)?;
                let values = std::fs::read_to_string(file)?
                    .lines()
                    .map(HeaderValue::from_str)
                    .collect::<Result<Vec<_>, _>>()?;
                lines = Some((name.parse()?, values));
            }
            _ => plain.push(argument),
        }
    }
    let [rate, seconds, urls @ ..] = plain.as_slice() else {
        return Err(USAGE.into());
    };
    let (rate, seconds) = (rate.parse::<f64>()?, seconds.parse::<f64>()?);
    let urls = urls
        .iter()
        .map(|url| url.parse())
        .collect::<Result<Vec<Uri>, _>>()?;
    if urls.is_empty() || !rate.is_normal() || rate < 0.0 {
        return Err(USAGE.into());
    }
    let count = (rate * seconds).round() as usize;
    let count = lines
        .as_ref()
        .map_or(count, |(_, values): &(_, Vec<_>)| count.min(values.len()));
    Ok(Load {
        headers,
        lines,
        urls,
        interval: Duration::from_secs_f64(1.0 / rate),
        count,
    })
}

impl Run {
    /// Takes one request number after the other until none is left.
    async fn work(self: Arc<Self>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.load.count {
                return;
            }
            let due = self.begin + self.load.interval * u32::try_from(number).unwrap_or(u32::MAX);
            let on_time = Instant::now() <= due;
            tokio::time::sleep_until(due).await;
            // The timer's own lateness (up to 1 ms) is not the server's.
            let started = if on_time { Instant::now() } else { due };
            let started_us = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_micros();
            let status = self.send(number).await.unwrap_or(0);
            let sample = Sample {
                number,
                started_us,
                latency: started.elapsed(),
                status,
            };
            self.samples
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sample);
        }
    }

    async fn send(&self, number: usize) -> Result<u16, Error> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.load.urls[number % self.load.urls.len()].clone();
        *request.headers_mut() = self.load.headers.clone();
        if let Some((name, values)) = &self.load.lines {
            request
                .headers_mut()
                .insert(name.clone(), values[number].clone());
        }
        let response = self.client.request(request).await?;
        let status = response.status().as_u16();
        Body::new(response.into_body()).collect().await?;
        Ok(status)
    }
}

// One thread: the load shares the machine with what it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let load = read_arguments()?;
    let run = Arc::new(Run {
        client: Client::builder(TokioExecutor::new()).build_http(),
        next: AtomicUsize::new(0),
        begin: Instant::now() + Duration::from_millis(10),
        samples: Mutex::new(Vec::with_capacity(load.count)),
        load,
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(run.clone().work()))
        .collect();
    for worker in workers {
        worker.await?;
    }
    let mut samples = run.samples.lock().unwrap_or_else(PoisonError::into_inner);
    samples.sort_by_key(|sample| sample.number);
    let mut out = String::with_capacity(samples.len() * 40);
    for sample in samples.iter() {
        let url = sample.number % run.load.urls.len();
        let latency_us = sample.latency.as_micros();
        out.push_str(&format!(
            "{url} {} {latency_us} {}\n",
            sample.started_us, sample.status
        ));
    }
    print!("{out}");
    Ok(())
}
