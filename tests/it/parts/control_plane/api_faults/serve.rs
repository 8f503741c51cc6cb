//! Carrying a request to the API server and its answer back, by what the rules say.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Fault, RuleId, Seen, State, body_fault, fault_of};
use crate::parts::control_plane::{authority, file};

/// The way to the API server.
pub(super) type Upstream = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;
type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<Either<Full<Bytes>, Piped>>;

/// A client that trusts the API server's authority and keeps no connection.
pub(super) fn upstream() -> Upstream {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority()).expect("the file is ours");
    roots.add(authority).expect("it is an authority");
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector)
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::from_pem_file(file("server.pem")).expect("the file is ours");
    let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).expect("the file is ours");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

/// Serves connections until it is dropped.
pub(super) async fn accept(listener: TcpListener, state: Arc<State>) {
    let acceptor = acceptor();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(acceptor.clone(), stream, Arc::clone(&state)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<State>) {
    let Ok(()) = stream.set_nodelay(true) else {
        return;
    };
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(|request| carry(request, Arc::clone(&state)));
    // A rule, the client or the API server may end it: each is an end like another.
    let _ended = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// One request, by its rule. An error ends the connection.
async fn carry(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, Error> {
    let (mut head, body) = request.into_parts();
    let seen = Seen::of(&head.method, &head.uri);
    let body = body.collect().await?.to_bytes();
    let met = state.meet(&seen);

    let mut rules = state.rules.subscribe();
    // What holds it may turn into another fault.
    let fault = fault_of(
        &rules
            .wait_for(|rules| fault_of(rules, met) != Fault::Hold)
            .await?,
        met,
    );
    match fault {
        Fault::Answer(status, retry_after) => return answer(status, retry_after),
        Fault::Cut => return Err("cut by a rule".into()),
        Fault::Delay(delay) => tokio::time::sleep(delay).await,
        Fault::Pass
        | Fault::Hold
        | Fault::LoseAnswer
        | Fault::HoldBody(_)
        | Fault::CutBody(_)
        | Fault::DelayBody(_) => {}
    }

    head.uri = format!("https://{}{}", state.target, seen.uri).parse()?;
    head.headers.remove(header::HOST);
    head.headers.remove(header::CONNECTION);
    let answer = state
        .client
        .request(Request::from_parts(head, Full::from(body)))
        .await?;
    if fault == Fault::LoseAnswer {
        answer.into_body().collect().await?;
        return Err("answer lost by a rule".into());
    }
    let (mut head, body) = answer.into_parts();
    head.headers.remove(header::CONNECTION);
    head.headers.remove(header::TRANSFER_ENCODING);
    let (pieces, piped) = mpsc::channel(1);
    tokio::spawn(async move {
        let told = pieces.clone();
        tokio::select! {
            () = pump(body, pieces, seen, met, state) => {}
            () = told.closed() => {}
        }
    });
    Ok(Response::from_parts(head, Either::Right(Piped(piped))))
}

/// An answer of our own, as the API server words its refusals.
fn answer(status: u16, retry_after: Option<u32>) -> Result<Answer, Error> {
    let status = StatusCode::from_u16(status)?;
    let reason = match status.as_u16() {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{reason}, said by a rule of the test"),
        "reason": reason,
        "details": {"retryAfterSeconds": retry_after},
        "code": status.as_u16(),
    });
    let mut answer = Response::new(Either::Left(Full::from(body.to_string())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    Ok(answer)
}

type Piece = Result<Frame<Bytes>, io::Error>;

/// Moves an answer's body by what the rules say from piece to piece.
async fn pump(
    mut body: Incoming,
    pieces: mpsc::Sender<Piece>,
    seen: Seen,
    met: Option<RuleId>,
    state: Arc<State>,
) {
    let mut rules = state.rules.subscribe();
    let mut passed: u64 = 0;
    let mut waiting = Bytes::new();
    loop {
        let fault = body_fault(&rules.borrow_and_update(), &seen, met);
        let limit = match fault {
            Fault::HoldBody(limit) | Fault::CutBody(limit) => limit,
            Fault::Pass
            | Fault::Answer(..)
            | Fault::Delay(_)
            | Fault::Hold
            | Fault::Cut
            | Fault::LoseAnswer
            | Fault::DelayBody(_) => u64::MAX,
        };
        let left = usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX);
        if left == 0 && matches!(fault, Fault::CutBody(_)) {
            // What was passed on must be on its way before the end: hyper flushes when it waits for more.
            tokio::time::sleep(Duration::from_millis(20)).await;
            // The client may be gone, which is an end too.
            let _gone = pieces.send(Err(io::Error::other("cut by a rule"))).await;
            return;
        }
        if !waiting.is_empty() && left > 0 {
            if let Fault::DelayBody(delay) = fault {
                tokio::time::sleep(delay).await;
            }
            let piece = waiting.split_to(left.min(waiting.len()));
            passed += piece.len() as u64;
            if pieces.send(Ok(Frame::data(piece))).await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            frame = body.frame(), if waiting.is_empty() => match frame {
                Some(Ok(frame)) => waiting = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    let _gone = pieces.send(Err(io::Error::other(error))).await;
                    return;
                }
                None => return,
            },
        }
    }
}

/// A body that somebody else fills.
pub(super) struct Piped(mpsc::Receiver<Piece>);

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(context)
    }
}
