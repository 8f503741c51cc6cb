//! The floor of every comparison: a bare axum handler that returns the same bytes to every request.
//!
//! `axum-static PORT STATUS [HEADERS_FILE [BODY_FILE]]`; the headers file has one `Name: value` a line, and may be
//! a recorded answer's: those that the server writes itself are left out.
//! With a recorded 402 it is what our 402s are measured against; with 200 it is the auth server that
//! says yes to everything. Prints `listening on ADDRESS` once it does; PORT 0 picks a free one.

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode},
};

/// What hyper adds to every answer.
const OWN: [&str; 4] = ["content-length", "date", "connection", "transfer-encoding"];

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (port, status, files) = match args.as_slice() {
        [port, status, files @ ..] if files.len() <= 2 => (port, status, files),
        _ => return Err("usage: axum-static PORT STATUS [HEADERS_FILE [BODY_FILE]]".into()),
    };
    let status = StatusCode::from_bytes(status.as_bytes())?;
    let mut headers = HeaderMap::new();
    if let Some(file) = files.first() {
        for line in std::fs::read_to_string(file)?
            .lines()
            .filter(|line| !line.is_empty())
        {
            let (name, value) = line.split_once(':').ok_or("a header line has no colon")?;
            let name: HeaderName = name.parse()?;
            if !OWN.contains(&name.as_str()) {
                headers.append(name, HeaderValue::from_str(value.trim())?);
            }
        }
    }
    let body = Bytes::from(
        files
            .get(1)
            .map(std::fs::read)
            .transpose()?
            .unwrap_or_default(),
    );

    let answer = move || {
        let mut response = Response::new(Body::from(body.clone()));
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        std::future::ready(response)
    };
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, Router::new().fallback(answer)).await?)
}
