//! A TCP proxy whose every connection can be held, slowed and cut by itself or with all others.
//!
//! It moves bytes and knows nothing of them: TLS between a verifier and an API server goes through unread. A hold
//! stops the bytes and keeps the connections, so the far side sees silence, not an end. A cut is a reset, as of a
//! pulled cable's NAT, at once or once so many more bytes have passed in one direction: anywhere within a TLS record,
//! a list page, a watch event. It keeps its port while it refuses, and dies with its handle.
//!
//! For faults that speak HTTP see [`ApiFaults`](super::control_plane::ApiFaults); [`Chaos`](crate::chaos::Chaos) is
//! the proxy for tests that need one mode for everything.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
};

/// Bytes in hand of one direction of one connection; what the kernel buffers comes on top.
const BUFFER: usize = 16 * 1024;

/// A direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

/// How bytes move. The default is as they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pace {
    hold_up: bool,
    hold_down: bool,
    /// Every piece passes this much later.
    delay: Duration,
    /// At most so many bytes a piece.
    piece: Option<usize>,
}

impl Pace {
    fn holds(self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.hold_up,
            Direction::Down => self.hold_down,
        }
    }
}

/// One connection, open or gone.
#[derive(Debug)]
pub(crate) struct Connection {
    up: Flow,
    down: Flow,
    cut: Notify,
    ended: AtomicBool,
}

/// One direction of a connection.
#[derive(Debug)]
struct Flow {
    passed: AtomicU64,
    /// How many may pass in its whole life; then it is cut.
    limit: watch::Sender<u64>,
}

impl Flow {
    fn new() -> Self {
        Self {
            passed: AtomicU64::new(0),
            limit: watch::Sender::new(u64::MAX),
        }
    }
}

impl Connection {
    /// Resets it now.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    /// Resets it once `bytes` more have passed in this direction; the last of them still arrives.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: u64) {
        let flow = self.flow(direction);
        let limit = flow.passed.load(Ordering::SeqCst).saturating_add(bytes);
        flow.limit.send_replace(limit);
    }

    /// Bytes that went through so far.
    pub(crate) fn passed(&self, direction: Direction) -> u64 {
        self.flow(direction).passed.load(Ordering::SeqCst)
    }

    /// Whether it is still carried.
    pub(crate) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::SeqCst)
    }

    fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

/// The proxy. Dropping it closes the listener and resets every connection.
#[derive(Debug)]
pub(crate) struct StreamProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    pace: watch::Sender<Pace>,
    /// Whether new connections are taken, as wanted and as it is.
    listening: watch::Sender<bool>,
    listens: watch::Sender<bool>,
    connections: Mutex<Vec<Arc<Connection>>>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamProxy {
    /// Starts in front of `target`, passing everything.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener =
            listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback is there");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target,
            pace: watch::Sender::new(Pace::default()),
            listening: watch::Sender::new(true),
            listens: watch::Sender::new(true),
            connections: Mutex::new(Vec::new()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, address, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every open connection. New ones are taken.
    pub(crate) fn cut(&self) {
        self.open().iter().for_each(|connection| connection.cut());
    }

    /// Resets each connection that is open now once `bytes` more of its own have passed in this direction.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: u64) {
        for connection in self.open() {
            connection.cut_after(direction, bytes);
        }
    }

    /// Stops one direction of all connections, those to come included. At most a buffer is under way.
    pub(crate) fn hold_only(&self, direction: Direction) {
        self.shared.pace.send_modify(|pace| match direction {
            Direction::Up => pace.hold_up = true,
            Direction::Down => pace.hold_down = true,
        });
    }

    /// Stops both directions.
    pub(crate) fn hold(&self) {
        self.hold_only(Direction::Up);
        self.hold_only(Direction::Down);
    }

    /// Every piece passes so much later, in both directions, until [`StreamProxy::release`].
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.pace.send_modify(|pace| pace.delay = delay);
    }

    /// At most `piece` bytes pass each `every`, in each direction of each connection.
    pub(crate) fn trickle(&self, piece: usize, every: Duration) {
        assert!(piece > 0, "a trickle of nothing is a hold");
        self.shared.pace.send_modify(|pace| {
            pace.piece = Some(piece);
            pace.delay = every;
        });
    }

    /// Ends holds, delay and trickle; what was held goes on.
    pub(crate) fn release(&self) {
        self.shared.pace.send_replace(Pace::default());
    }

    /// New connections are refused from when this returns; open ones stay.
    pub(crate) async fn refuse(&self) {
        self.set_listening(false).await;
    }

    /// New connections are taken again.
    pub(crate) async fn accept(&self) {
        self.set_listening(true).await;
    }

    async fn set_listening(&self, wanted: bool) {
        self.shared.listening.send_replace(wanted);
        // The listener opens and closes in its own task.
        let mut listens = self.shared.listens.subscribe();
        listens
            .wait_for(|listens| *listens == wanted)
            .await
            .expect("the proxy runs");
    }

    /// Every connection so far, in order of arrival.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections().clone()
    }

    /// Those that are still carried.
    pub(crate) fn open(&self) -> Vec<Arc<Connection>> {
        let mut open = self.connections();
        open.retain(|connection| connection.is_open());
        open
    }

    /// Bytes of all connections so far.
    pub(crate) fn passed(&self, direction: Direction) -> u64 {
        let connections = self.shared.connections();
        connections
            .iter()
            .map(|connection| connection.passed(direction))
            .sum()
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut listening = shared.listening.subscribe();
    let mut listener = Some(listener);
    let mut carried = JoinSet::new();
    loop {
        let wanted = *listening.borrow_and_update();
        if !wanted {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(address).expect("the port is still ours"));
        }
        shared.listens.send_replace(wanted);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = listening.changed() => changed.expect("we hold the sender"),
            Ok((client, _)) = accepted => {
                let mut connections = shared.connections();
                let connection = Arc::new(Connection {
                    up: Flow::new(),
                    down: Flow::new(),
                    cut: Notify::new(),
                    ended: AtomicBool::new(false),
                });
                connections.push(Arc::clone(&connection));
                drop(connections);
                carried.spawn(carry(client, Arc::clone(&shared), connection));
            }
            Some(_ended) = carried.join_next() => {}
        }
    }
}

/// Carries one connection until it ends or is cut.
async fn carry(client: TcpStream, shared: Arc<Shared>, connection: Arc<Connection>) {
    // Whatever ends a connection ends it here.
    let _ended = carry_to(client, shared.target, shared.pace.subscribe(), &connection).await;
    connection.ended.store(true, Ordering::SeqCst);
}

async fn carry_to(
    mut client: TcpStream,
    target: SocketAddr,
    pace: watch::Receiver<Pace>,
    connection: &Connection,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let end = {
        let (mut client_read, mut client_write) = client.split();
        let (mut server_read, mut server_write) = server.split();
        let (up, down) = (Direction::Up, Direction::Down);
        tokio::select! {
            end = pump(&mut client_read, &mut server_write, up, &connection.up, pace.clone()) => end,
            end = pump(&mut server_read, &mut client_write, down, &connection.down, pace) => end,
            () = connection.cut.notified() => Ok(End::Cut),
        }
    };
    // What one side broke, the other must not take for an orderly end.
    if !matches!(end, Ok(End::Closed)) {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    end.map(drop)
}

/// Why a direction moves no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its sender is done.
    Closed,
    /// Its limit is reached.
    Cut,
}

/// Moves bytes one way until they end or are cut.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    direction: Direction,
    flow: &Flow,
    mut pace: watch::Receiver<Pace>,
) -> io::Result<End> {
    let mut buffer = vec![0; BUFFER];
    let mut limit = flow.limit.subscribe();
    loop {
        let passed = flow.passed.load(Ordering::SeqCst);
        let next = async {
            flowing(&mut pace, direction).await;
            let piece = pace.borrow().piece.unwrap_or(BUFFER).min(BUFFER);
            let length = from.read(&mut buffer[..piece]).await?;
            // It may have been held while we waited for bytes.
            let now = flowing(&mut pace, direction).await;
            if length > 0 && !now.delay.is_zero() {
                tokio::time::sleep(now.delay).await;
                flowing(&mut pace, direction).await;
            }
            io::Result::Ok(length)
        };
        let length = tokio::select! {
            length = next => length?,
            _ = limit.wait_for(|limit| passed >= *limit) => return Ok(End::Cut),
        };
        if length == 0 {
            return Ok(End::Closed);
        }
        let left = limit.borrow_and_update().saturating_sub(passed);
        let allowed = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        to.write_all(&buffer[..allowed]).await?;
        flow.passed.fetch_add(allowed as u64, Ordering::SeqCst);
    }
}

/// Waits until this direction is not held.
async fn flowing(pace: &mut watch::Receiver<Pace>, direction: Direction) -> Pace {
    let pace = pace.wait_for(|pace| !pace.holds(direction)).await;
    *pace.expect("whoever carries holds the sender")
}

/// Binds with address reuse, so that refusing can end.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
