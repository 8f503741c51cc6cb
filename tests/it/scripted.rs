//! A facilitator whose every answer is scripted, where a fault must be produced on demand.
//!
//! It speaks HTTP/1.1 by hand, because half of what it says is not HTTP: it cuts, resets, hangs and
//! never ends. It checks no signature. By default it accepts and settles everything, naming the
//! payer of the payment; a test replaces that for all calls ([`Scripted::on_verify`]), for the next
//! one ([`Scripted::next_verify`]) or by a function of the call ([`Scripted::verify_with`]).
//! Every call is logged. It listens on a free port of loopback and dies with its handle.

use alloy_primitives::keccak256;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// The facilitator. Dropping it closes the listener and every connection.
pub(crate) struct Scripted {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinSet<()>,
}

/// One call as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Position among all calls, from 1.
    pub(crate) sequence: usize,
    /// Which connection carried it, from 1.
    pub(crate) connection: usize,
    /// Request target as sent.
    pub(crate) path: String,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Body; `Null` when it was not read or is not JSON.
    pub(crate) body: Value,
}

/// What is answered to a call: bytes, and what then happens to the connection.
#[derive(Clone)]
pub(crate) struct Reply {
    delay: Duration,
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
    end: End,
}

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// It is served.
    Serve,
    /// It is closed before anything is read.
    Close,
    /// It is reset before anything is read.
    Reset,
}

#[derive(Clone)]
enum Body {
    Text(&'static str, String),
    Json(Arc<dyn Fn(&Call) -> Value + Send + Sync>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Whole answer, connection kept.
    KeepAlive,
    /// Whole answer promised as kept alive, then closed all the same.
    CloseAfter,
    /// Nothing, closed.
    Close,
    /// Nothing, reset.
    Reset,
    /// Nothing, reset before the body was read.
    ResetOnHead,
    /// Nothing, held open.
    Hang,
    /// Head and half of the body, held open.
    HangInBody,
    /// Head and half of the body, closed.
    Truncate,
    /// Head, then a body that never ends.
    Endless,
    /// A head that never ends.
    EndlessHead,
}

#[derive(Clone)]
enum Script {
    Always(Reply),
    Of(Arc<dyn Fn(&Call) -> Reply + Send + Sync>),
}

struct State {
    scripts: Mutex<Scripts>,
    calls: Mutex<Vec<Call>>,
    connections: AtomicUsize,
    written: AtomicU64,
}

struct Scripts {
    greeting: Greeting,
    verify: Script,
    settle: Script,
    next_verify: VecDeque<Reply>,
    next_settle: VecDeque<Reply>,
}

impl Scripted {
    /// Starts on a free port; accepts and settles everything.
    pub(crate) async fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts on an address that another one had before.
    pub(crate) async fn start_on(address: SocketAddr) -> Self {
        let listener = listen(address).expect("loopback can be bound");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let scripts = Scripts {
            greeting: Greeting::Serve,
            verify: Script::Always(Reply::valid()),
            settle: Script::Always(Reply::settled()),
            next_verify: VecDeque::new(),
            next_settle: VecDeque::new(),
        };
        let state = Arc::new(State {
            scripts: Mutex::new(scripts),
            calls: Mutex::default(),
            connections: AtomicUsize::new(0),
            written: AtomicU64::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            server,
        }
    }

    /// Stops; its port is free when this returns.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.server.shutdown().await;
        self.address
    }

    /// Base URL without trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers every verify from now on.
    pub(crate) fn on_verify(&self, reply: Reply) {
        self.scripts(|scripts| scripts.verify = Script::Always(reply));
    }

    /// Answers every settle from now on.
    pub(crate) fn on_settle(&self, reply: Reply) {
        self.scripts(|scripts| scripts.settle = Script::Always(reply));
    }

    /// Answers one verify, before what [`Scripted::on_verify`] says; the first given comes first.
    pub(crate) fn next_verify(&self, reply: Reply) {
        self.scripts(|scripts| scripts.next_verify.push_back(reply));
    }

    /// Answers one settle, before what [`Scripted::on_settle`] says; the first given comes first.
    pub(crate) fn next_settle(&self, reply: Reply) {
        self.scripts(|scripts| scripts.next_settle.push_back(reply));
    }

    /// Answers every verify by a function of the call.
    pub(crate) fn verify_with(&self, script: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        self.scripts(|scripts| scripts.verify = Script::Of(Arc::new(script)));
    }

    /// Answers every settle by a function of the call.
    pub(crate) fn settle_with(&self, script: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        self.scripts(|scripts| scripts.settle = Script::Of(Arc::new(script)));
    }

    /// Treats every new connection like this.
    pub(crate) fn greet(&self, greeting: Greeting) {
        self.scripts(|scripts| scripts.greeting = greeting);
    }

    /// Every call so far, in the order of arrival.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state
            .calls
            .lock()
            .expect("no test panics with the lock")
            .clone()
    }

    /// How many verifies arrived.
    pub(crate) fn verifies(&self) -> usize {
        self.calls()
            .iter()
            .filter(|call| call.is("/verify"))
            .count()
    }

    /// How many settles arrived.
    pub(crate) fn settles(&self) -> usize {
        self.calls()
            .iter()
            .filter(|call| call.is("/settle"))
            .count()
    }

    /// How many settles arrived for a nonce, in any letter case.
    pub(crate) fn settles_of(&self, nonce: &str) -> usize {
        let named = |call: &Call| call.nonce().is_some_and(|n| n.eq_ignore_ascii_case(nonce));
        self.calls()
            .iter()
            .filter(|call| call.is("/settle") && named(call))
            .count()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many bytes were written into endless answers.
    pub(crate) fn written(&self) -> u64 {
        self.state.written.load(Ordering::SeqCst)
    }

    fn scripts<T>(&self, change: impl FnOnce(&mut Scripts) -> T) -> T {
        change(
            &mut self
                .state
                .scripts
                .lock()
                .expect("no test panics with the lock"),
        )
    }
}

impl Call {
    /// The payer that the payment names.
    pub(crate) fn payer(&self) -> Option<&str> {
        self.authorization()?.get("from")?.as_str()
    }

    /// The nonce of the payment.
    pub(crate) fn nonce(&self) -> Option<&str> {
        self.authorization()?.get("nonce")?.as_str()
    }

    fn authorization(&self) -> Option<&Value> {
        let payload = self.body.get("paymentPayload")?.get("payload")?;
        payload
            .get("authorization")
            .or_else(|| payload.get("permit2Authorization"))
    }

    fn is(&self, operation: &str) -> bool {
        self.path.ends_with(operation)
    }
}

impl Reply {
    /// A verify verdict: valid, by the payer that the payment names.
    pub(crate) fn valid() -> Self {
        Self::json_with(
            200,
            |call| json!({ "isValid": true, "payer": call.payer() }),
        )
    }

    /// A verify verdict: valid, by this payer.
    pub(crate) fn valid_as(payer: &str) -> Self {
        Self::json(200, json!({ "isValid": true, "payer": payer }))
    }

    /// A verify verdict: invalid.
    pub(crate) fn invalid(reason: &str) -> Self {
        Self::json(200, json!({ "isValid": false, "invalidReason": reason }))
    }

    /// A settle verdict: success under a transaction of its own.
    pub(crate) fn settled() -> Self {
        Self::json_with(200, |call| {
            let transaction = keccak256(format!("{} {:?}", call.sequence, call.nonce()));
            settled_json(call, &transaction.to_string())
        })
    }

    /// A settle verdict: success under this transaction, which may be nonsense.
    pub(crate) fn settled_in(transaction: &str) -> Self {
        let transaction = transaction.to_owned();
        Self::json_with(200, move |call| settled_json(call, &transaction))
    }

    /// A settle verdict: failure, naming a transaction or the empty one.
    pub(crate) fn settle_failed(reason: &str, transaction: &str) -> Self {
        let (reason, transaction) = (reason.to_owned(), transaction.to_owned());
        Self::json_with(200, move |call| {
            json!({
                "success": false,
                "errorReason": reason,
                "transaction": transaction,
                "network": call.body["paymentRequirements"]["network"],
                "payer": call.payer(),
            })
        })
    }

    /// Any JSON.
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::json_with(status, move |_| body.clone())
    }

    /// JSON made from the call.
    pub(crate) fn json_with(
        status: u16,
        body: impl Fn(&Call) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::whole(status, Body::Json(Arc::new(body)))
    }

    /// A page.
    pub(crate) fn html(status: u16) -> Self {
        let page = "<!doctype html><title>Welcome</title>".to_owned();
        Self::whole(status, Body::Text("text/html; charset=utf-8", page))
    }

    /// A status with this text.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::whole(status, Body::Text("text/plain", text.to_owned()))
    }

    /// Closed after the request was read.
    pub(crate) fn close() -> Self {
        Self::ends(End::Close)
    }

    /// RST after the request was read.
    pub(crate) fn reset() -> Self {
        Self::ends(End::Reset)
    }

    /// RST after the head of the request, before its body was read.
    pub(crate) fn reset_on_head() -> Self {
        Self::ends(End::ResetOnHead)
    }

    /// Read, and never answered.
    pub(crate) fn hang() -> Self {
        Self::ends(End::Hang)
    }

    /// Half of a valid answer, then silence.
    pub(crate) fn hang_in_body() -> Self {
        Self {
            end: End::HangInBody,
            ..Self::valid()
        }
    }

    /// A body that never ends.
    pub(crate) fn endless() -> Self {
        Self::ends(End::Endless)
    }

    /// A head that never ends.
    pub(crate) fn endless_head() -> Self {
        Self::ends(End::EndlessHead)
    }

    /// This answer, broken off in the middle of its body.
    pub(crate) fn truncated(self) -> Self {
        Self {
            end: End::Truncate,
            ..self
        }
    }

    /// This answer, and the connection closed behind it although it promised to stay.
    pub(crate) fn then_close(self) -> Self {
        Self {
            end: End::CloseAfter,
            ..self
        }
    }

    /// This answer under another status.
    pub(crate) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// This answer with one more header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// This answer, later.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    fn ends(end: End) -> Self {
        Self {
            end,
            ..Self::text(200, "")
        }
    }

    fn whole(status: u16, body: Body) -> Self {
        Self {
            delay: Duration::ZERO,
            status,
            headers: Vec::new(),
            body,
            end: End::KeepAlive,
        }
    }

    /// Head and body, apart.
    fn render(&self, call: &Call) -> (Vec<u8>, Vec<u8>) {
        let (kind, body) = match &self.body {
            Body::Text(kind, text) => (*kind, text.clone()),
            Body::Json(make) => ("application/json", make(call).to_string()),
        };
        let mut head = format!(
            "HTTP/1.1 {} Scripted\r\nContent-Type: {kind}\r\n",
            self.status
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        (head.into_bytes(), body.into_bytes())
    }

    /// Plays the answer; whether the connection is kept.
    async fn play(&self, stream: &mut TcpStream, call: &Call, state: &State) -> io::Result<bool> {
        tokio::time::sleep(self.delay).await;
        let (head, body) = self.render(call);
        match self.end {
            End::KeepAlive | End::CloseAfter => {
                stream.write_all(&[head, body].concat()).await?;
            }
            End::HangInBody | End::Truncate => {
                stream
                    .write_all(&[&head, &body[..body.len() / 2]].concat())
                    .await?;
            }
            End::Endless => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await?;
                let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
                flood(stream, &chunk, state).await?;
            }
            End::EndlessHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                flood(
                    stream,
                    b"X-Padding: 0123456789012345678901234567890123456789\r\n",
                    state,
                )
                .await?;
            }
            End::Close | End::Reset | End::ResetOnHead | End::Hang => {}
        }
        match self.end {
            End::KeepAlive => return Ok(true),
            End::Hang | End::HangInBody => std::future::pending().await,
            End::Reset | End::ResetOnHead => stream.set_zero_linger()?,
            End::CloseAfter | End::Close | End::Truncate | End::Endless | End::EndlessHead => {}
        }
        Ok(false)
    }
}

fn settled_json(call: &Call, transaction: &str) -> Value {
    json!({
        "success": true,
        "transaction": transaction,
        "network": call.body["paymentRequirements"]["network"],
        "payer": call.payer(),
    })
}

/// Binds with address reuse, so that a restart gets its port back.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let greeting = state
            .scripts
            .lock()
            .expect("no test panics with the lock")
            .greeting;
        match greeting {
            Greeting::Serve => {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    // A client that hangs up ends its connection, which is all there is to do.
                    let _ended = serve(stream, number, &state).await;
                });
            }
            Greeting::Close => drop(stream),
            Greeting::Reset => stream.set_zero_linger().expect("a socket takes options"),
        }
    }
}

async fn serve(mut stream: TcpStream, connection: usize, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        let Some(end) = read_head(&mut stream, &mut unread).await? else {
            return Ok(());
        };
        let head: Vec<u8> = unread.drain(..end).collect();
        let (path, headers) = parse_head(&head);
        let mut call = Call {
            sequence: 0,
            connection,
            path,
            headers,
            body: Value::Null,
        };
        let script = state.script(&call);
        let reads_body = !matches!(&script, Script::Always(reply) if reply.end == End::ResetOnHead);
        if reads_body {
            let length = call.headers.get("content-length");
            let length = length
                .and_then(|v| v.to_str().ok()?.parse().ok())
                .unwrap_or(0);
            while unread.len() < length {
                if stream.read_buf(&mut unread).await? == 0 {
                    return Ok(());
                }
            }
            let body: Vec<u8> = unread.drain(..length).collect();
            call.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        }
        state.log(&mut call);
        let reply = match script {
            Script::Always(reply) => reply,
            Script::Of(script) => script(&call),
        };
        if !reply.play(&mut stream, &call, state).await? {
            return Ok(());
        }
    }
}

impl State {
    /// What answers a call of which only the head is known: the queue first.
    fn script(&self, call: &Call) -> Script {
        let mut scripts = self.scripts.lock().expect("no test panics with the lock");
        let verify = call.is("/verify");
        let queue = if verify {
            &mut scripts.next_verify
        } else {
            &mut scripts.next_settle
        };
        match queue.pop_front() {
            Some(reply) => Script::Always(reply),
            None if verify => scripts.verify.clone(),
            None => scripts.settle.clone(),
        }
    }

    /// Gives the call its number and keeps it.
    fn log(&self, call: &mut Call) {
        let mut calls = self.calls.lock().expect("no test panics with the lock");
        call.sequence = calls.len() + 1;
        calls.push(call.clone());
    }
}

/// Reads until the blank line; the length of the head, or `None` at the end of the stream.
async fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse_head(head: &[u8]) -> (String, HeaderMap) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let path = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("our client writes names");
        headers.append(
            name,
            HeaderValue::from_str(value.trim()).expect("and values"),
        );
    }
    (path.to_owned(), headers)
}

/// Writes the same bytes until the client has had enough.
async fn flood(stream: &mut TcpStream, bytes: &[u8], state: &State) -> io::Result<()> {
    loop {
        stream.write_all(bytes).await?;
        state
            .written
            .fetch_add(bytes.len().try_into().unwrap_or(0), Ordering::SeqCst);
    }
}
