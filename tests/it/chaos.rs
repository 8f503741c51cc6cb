//! A TCP proxy that misbehaves on command, in front of any address.
//!
//! It knows nothing of what it carries. [`Chaos::set`] changes what happens to connections that
//! are open and to new ones, at once; it listens on a free port of loopback, keeps that port while
//! it refuses, and dies with its handle.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The proxy. Dropping it closes the listener and every connection.
pub(crate) struct Chaos {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    applied: watch::Receiver<Mode>,
    _proxy: JoinSet<()>,
}

/// What happens to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything passes.
    Pass,
    /// Nobody listens: new connections are refused, open ones are reset.
    Refuse,
    /// Connections are accepted and kept, no byte passes in either direction.
    Stall,
    /// Open and new connections are reset.
    Reset,
    /// A connection is reset once so many bytes from the client passed in its life.
    CutUp(usize),
    /// A connection is reset once so many bytes from the target passed in its life.
    CutDown(usize),
    /// Every piece passes this much later.
    Delay(Duration),
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Chaos {
    /// Starts in front of `target`, passing everything.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback is there");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (mode, seen) = watch::channel(Mode::Pass);
        let (report, applied) = watch::channel(Mode::Pass);
        let mut proxy = JoinSet::new();
        proxy.spawn(run(listener, address, target, seen, report));
        Self {
            address,
            mode,
            applied,
            _proxy: proxy,
        }
    }

    /// Where clients connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Changes the mode; it holds for new connections when this returns.
    pub(crate) async fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        // The listener closes and opens in its own task.
        let mut applied = self.applied.clone();
        applied
            .wait_for(|applied| *applied == mode)
            .await
            .expect("the proxy runs");
    }
}

async fn run(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    applied: watch::Sender<Mode>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(address).expect("the port is still ours"));
        }
        applied.send_replace(now);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Ok((client, _)) = accepted => {
                let mode = mode.clone();
                connections.spawn(async move {
                    // Whatever ends a connection ends it here.
                    let _ended = carry(client, target, mode).await;
                });
            }
        }
    }
}

/// Carries one connection until it ends or the mode ends it.
async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let cut = {
        let (mut client_read, mut client_write) = client.split();
        let (mut server_read, mut server_write) = server.split();
        let mut watched = mode.clone();
        tokio::select! {
            up = pump(&mut client_read, &mut server_write, Direction::Up, mode.clone()) => up?,
            down = pump(&mut server_read, &mut client_write, Direction::Down, mode) => down?,
            _ = watched.wait_for(|mode| matches!(mode, Mode::Reset | Mode::Refuse)) => true,
        }
    };
    if cut {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// Moves bytes one way until they end (`false`) or the mode cuts them (`true`).
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    direction: Direction,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<bool> {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(false);
        }
        // The proxy ends with its handle; a closed channel is its last moment.
        let Ok(now) = mode
            .wait_for(|mode| *mode != Mode::Stall)
            .await
            .map(|mode| *mode)
        else {
            return Ok(true);
        };
        let limit = match (now, direction) {
            (Mode::CutUp(limit), Direction::Up) | (Mode::CutDown(limit), Direction::Down) => limit,
            (Mode::CutUp(_) | Mode::CutDown(_), _) => usize::MAX,
            (Mode::Delay(delay), _) => {
                tokio::time::sleep(delay).await;
                usize::MAX
            }
            (Mode::Pass | Mode::Refuse | Mode::Stall | Mode::Reset, _) => usize::MAX,
        };
        let allowed = length.min(limit.saturating_sub(passed));
        to.write_all(&buffer[..allowed]).await?;
        passed += allowed;
        if passed >= limit {
            to.flush().await?;
            return Ok(true);
        }
    }
}

/// Binds with address reuse, so that refusing can end.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
