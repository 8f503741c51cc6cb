//! The seller's service, byte by byte: it remembers what reached it.
//!
//! It speaks HTTP/1.1 by hand, because a library would clean the request line that these tests are
//! about. It answers with 200, unless told otherwise, and copies the receipt, as the documentation tells sellers to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A running service; ends with its handle.
#[derive(Debug)]
pub(super) struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<Head>>>,
    _server: JoinSet<()>,
}

/// The head of one request.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    /// Between the blanks of the request line.
    pub(super) target: Vec<u8>,
    /// Values by lower-case name, in order.
    pub(super) headers: BTreeMap<String, Vec<String>>,
}

impl Head {
    /// The values of a header that are not empty.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get(name).into_iter().flatten();
        values
            .map(String::as_str)
            .filter(|value| !value.is_empty())
            .collect()
    }
}

impl Upstream {
    /// Everybody gets 200.
    pub(super) async fn start() -> Self {
        Self::start_with(|_| 200).await
    }

    /// A status for each head.
    pub(super) async fn start_with(status: fn(&Head) -> u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        let log = Arc::clone(&seen);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&log), status));
            }
        });
        Self {
            port,
            seen,
            _server: server,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What reached it since the last call.
    pub(super) fn take(&self) -> Vec<Head> {
        std::mem::take(&mut *self.seen.lock().expect("no panic inside"))
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Head>>>, status: fn(&Head) -> u16) {
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream).await {
        let receipts: String = ["payment-response", "x-payment-response"]
            .into_iter()
            .filter_map(|name| Some(format!("{name}: {}\r\n", head.values(name).first()?)))
            .collect();
        let status = status(&head);
        seen.lock().expect("no panic inside").push(head);
        let answer =
            format!("HTTP/1.1 {status} As Told\r\n{receipts}Content-Length: 4\r\n\r\npaid");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One request; its body is read and dropped. `None` at the end of the connection.
async fn read_head(stream: &mut BufReader<TcpStream>) -> Option<Head> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    let mut words = line.split(|byte| *byte == b' ');
    let (_method, target) = (words.next()?, words.next()?);
    let mut head = Head {
        target: target.to_vec(),
        ..Head::default()
    };
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line).await.ok()?;
        let text = String::from_utf8_lossy(&line);
        let Some((name, value)) = text.trim_end().split_once(':') else {
            break;
        };
        let values = head.headers.entry(name.to_lowercase()).or_default();
        values.push(value.trim().to_owned());
    }
    if head.values("transfer-encoding").is_empty() {
        let length = head
            .values("content-length")
            .first()
            .copied()
            .unwrap_or("0");
        skip(stream, length.parse().ok()?).await?;
    } else {
        skip_chunks(stream).await?;
    }
    Some(head)
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> Option<()> {
    let mut body = stream.take(length);
    let read = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
    read.ok().map(drop)
}

async fn skip_chunks(stream: &mut BufReader<TcpStream>) -> Option<()> {
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).await.ok()?;
        let size = u64::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            break;
        }
        skip(stream, size + 2).await?;
    }
    // Trailers, to the empty line.
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        if line.trim().is_empty() {
            return Some(());
        }
    }
}
