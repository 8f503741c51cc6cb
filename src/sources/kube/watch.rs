//! One list kept up to date: pages, then a watch, resumed for as long as it can be.
//!
//! ```text
//!          +--------- 410 ---------+
//!          v                       |
//!        List --last page--> Watch(version) --ended--> Watch(later version)
//! ```
//!
//! A watch goes on from the last version seen, whatever ended it; only a version that the API
//! server no longer keeps (410) leads to a new list, because 100,000 offers must not be listed again
//! for a broken connection. An API server that opens a watch and then, again and again, says within
//! it that it cannot go on does not keep the version either: one without a watch cache answers 500
//! for ever where the next change overwrote what was compacted. A page that failed is asked for
//! again; the pages before it stay good, for a list is one version of the whole.
//!
//! Nothing waits for ever: a page has a deadline, and a watch that the API server did not end when
//! it was told to is dead. Failures are reported as they change and tried again with growing pauses.
//! A connection that merely breaks is no news: news is that it cannot be resumed.

use super::access::{Access, Way};
use super::fault::Fault;
use super::target::{PAGE_SIZE, Target, Verb, WATCH_SECONDS};
use super::wire::{self, Change, Object, Page};
use crate::lifecycle::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a page, or the head of a watch, may take.
const PAGE_DEADLINE: Duration = Duration::from_secs(30);
/// When a watch counts as dead: a little after the API server should have ended it.
const WATCH_DEADLINE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 4);
/// A watch that lived this long shows that the API server is well.
const HELD: Duration = Duration::from_secs(1);
/// A watch that was opened and is to be refused is refused within this: 410 comes inside of it.
const REFUSED_WITHIN: Duration = Duration::from_millis(200);
/// A watch that is opened and refused within so often without a change between leads to a new list;
/// if that did not help, the next one waits twice as long.
const PATIENCE: u32 = 3;
const MOST_PATIENCE: u32 = 48;
/// First and longest pause after a failure; nobody may use this process before the first list, so
/// until then it asks more often.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE_AT_START: Duration = Duration::from_secs(5);

/// What a list became.
#[derive(Debug)]
pub(super) enum Event<K> {
    /// A list begins; what was listed of an earlier attempt is void.
    Begin,
    /// Some objects of the list.
    Listed(Vec<K>),
    /// That was the list (R6).
    Complete,
    /// An object is there, or is different.
    Set(K),
    /// An object was deleted.
    Gone(K),
    /// The API cannot be used, for this reason; what was seen last stays.
    Trouble(String),
    /// It can be used again.
    Well,
}

/// Keeps one list up to date.
pub(super) struct Watch<K, M> {
    /// What to read.
    pub(super) target: Target,
    /// The way there.
    pub(super) access: Arc<Access>,
    /// Whom to tell.
    pub(super) events: mpsc::Sender<M>,
    /// Makes an event one of theirs.
    pub(super) wrap: Box<dyn Fn(Event<K>) -> M + Send + Sync>,
}

/// Where the list stands.
#[derive(Debug)]
enum Position {
    /// Being listed; with a token, after the first page.
    List { token: Option<String> },
    /// Listed, and followed up to this version.
    Watch { version: String },
}

/// What the loop remembers between attempts.
struct State {
    position: Position,
    page_size: u32,
    /// There was a complete list.
    listed: bool,
    /// Failures since things went well.
    failures: u32,
    /// Versions that were gone since a watch held.
    expired: u32,
    /// Watches of this version that were opened and then refused, and how many lead to a list.
    stuck: u32,
    patience: u32,
    /// The trouble that was reported last.
    reported: Option<String>,
}

/// Nobody listens any more.
struct Closed;

/// Why an attempt ended.
enum End {
    Fault(Fault),
    Closed,
}

impl<K: Object, M: Send + 'static> Watch<K, M> {
    /// Runs until shutdown.
    pub(super) async fn run(self, tasks: Tasks) {
        tokio::select! {
            () = tasks.stopping() => {}
            Closed = self.follow() => {}
        }
    }

    async fn follow(&self) -> Closed {
        let mut state = State::new();
        loop {
            let pause = match self.attempt(&mut state).await {
                Ok(()) => continue,
                Err(End::Closed) => return Closed,
                Err(End::Fault(fault)) => match self.failed(&mut state, fault).await {
                    Ok(pause) => pause,
                    Err(closed) => return closed,
                },
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One page, or one watch to its end.
    async fn attempt(&self, state: &mut State) -> Result<(), End> {
        let verb = state.verb();
        let way = match timeout(PAGE_DEADLINE, self.access.client()).await {
            Ok(way) => way?,
            Err(_elapsed) => return Err(Fault::Silent(PAGE_DEADLINE).into()),
        };
        let done = match verb {
            Verb::List => self.page(state, &way).await,
            Verb::Watch => self.changes(state, &way).await,
        };
        if let Err(End::Fault(fault)) = &done
            && fault.wants_new_access()
        {
            self.access.renew(&way).await;
        }
        done
    }

    async fn page(&self, state: &mut State, way: &Way) -> Result<(), End> {
        let Position::List { token } = &state.position else {
            return Ok(());
        };
        let first = token.is_none();
        let request = self.target.page(state.page_size, token.as_deref())?;
        let text = match timeout(PAGE_DEADLINE, wire::page(&way.client, request)).await {
            Ok(text) => text?,
            Err(_elapsed) => return Err(Fault::Silent(PAGE_DEADLINE).into()),
        };
        let page = Page::read(&text)?;
        if first {
            self.send(Event::Begin).await?;
        }
        for some in page.objects() {
            self.send(Event::Listed(some?)).await?;
        }
        state.failures = 0;
        match page.next {
            Some(token) => state.position = Position::List { token: Some(token) },
            None => {
                state.position = Position::Watch {
                    version: page.resource_version,
                };
                state.page_size = PAGE_SIZE;
                state.listed = true;
                // In a storm of 410 a list proves little: there a watch has to hold.
                if state.expired < 2 {
                    self.well(state).await?;
                }
                self.send(Event::Complete).await?;
            }
        }
        Ok(())
    }

    async fn changes(&self, state: &mut State, way: &Way) -> Result<(), End> {
        let Position::Watch { version } = &state.position else {
            return Ok(());
        };
        let opened = Instant::now();
        let request = self.target.changes(version)?;
        let mut lines = match timeout(PAGE_DEADLINE, wire::watch(&way.client, request)).await {
            Ok(lines) => lines?,
            Err(_elapsed) => return Err(Fault::Silent(PAGE_DEADLINE).into()),
        };
        let dead = opened + WATCH_DEADLINE;
        loop {
            let refused = Instant::now() + REFUSED_WITHIN;
            let until = if state.reported.is_some() {
                refused.min(dead)
            } else {
                dead
            };
            let change = match timeout_at(until, lines.next::<K>()).await {
                Ok(change) => change.inspect_err(|fault| state.refused_within(fault))?,
                Err(_elapsed) if until < dead => {
                    self.well(state).await?;
                    state.held();
                    continue;
                }
                Err(_elapsed) => return Err(Fault::Silent(WATCH_DEADLINE).into()),
            };
            let Some(change) = change else {
                if opened.elapsed() < HELD {
                    return Err(Fault::Broken("a watch ended at once".to_owned()).into());
                }
                state.held();
                return Ok(());
            };
            state.held();
            self.well(state).await?;
            let (version, event) = match change {
                Change::Bookmark(version) => (Some(version), None),
                Change::Set(object) => (version_of(&object), Some(Event::Set(object))),
                Change::Gone(object) => (version_of(&object), Some(Event::Gone(object))),
            };
            if let Some(event) = event {
                self.send(event).await?;
            }
            // After the event is delivered: what is not delivered must come again.
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                state.went_on(version);
            }
        }
    }

    /// Books a failure: reports what is new, decides where to go on, and how long to wait.
    async fn failed(&self, state: &mut State, fault: Fault) -> Result<Duration, Closed> {
        let verb = state.verb();
        state.failures = state.failures.saturating_add(1);
        tracing::debug!(error = %fault, target = %self.target, %verb, "reading the API failed");
        state.lose_patience();
        let news = match &fault {
            Fault::Expired => {
                state.position = Position::List { token: None };
                state.expired = state.expired.saturating_add(1);
                // It answers: what came before does not delay the list that it wants.
                state.failures = state.expired;
                state.expired > 1
            }
            Fault::TooLarge => {
                let smaller = state.page_size / 2;
                let can_shrink = smaller > 0;
                state.page_size = smaller.max(1);
                !can_shrink
            }
            Fault::Broken(_) => state.failures > 1,
            Fault::NoAccess(_)
            | Fault::Unreachable(_)
            | Fault::Silent(_)
            | Fault::Refused { .. }
            | Fault::Unusable(_) => true,
        };
        if news {
            let sentence = fault.sentence(verb, &self.target);
            if state.reported.as_ref() != Some(&sentence) {
                state.reported = Some(sentence.clone());
                self.send(Event::Trouble(sentence)).await?;
            }
        }
        let longest = if state.listed {
            LONGEST_PAUSE
        } else {
            LONGEST_PAUSE_AT_START
        };
        Ok(match fault.retry_after() {
            Some(after) => after + pause(1, longest),
            None => pause(state.failures, longest),
        })
    }

    /// The API can be used again.
    async fn well(&self, state: &mut State) -> Result<(), Closed> {
        if state.reported.take().is_some() {
            self.send(Event::Well).await?;
        }
        Ok(())
    }

    async fn send(&self, event: Event<K>) -> Result<(), Closed> {
        let sent = self.events.send((self.wrap)(event)).await;
        sent.map_err(|_nobody| Closed)
    }
}

impl State {
    const fn new() -> Self {
        Self {
            position: Position::List { token: None },
            page_size: PAGE_SIZE,
            listed: false,
            failures: 0,
            expired: 0,
            stuck: 0,
            patience: PATIENCE,
            reported: None,
        }
    }

    const fn verb(&self) -> Verb {
        match self.position {
            Position::List { .. } => Verb::List,
            Position::Watch { .. } => Verb::Watch,
        }
    }

    /// A change of this version was delivered.
    fn went_on(&mut self, version: String) {
        self.position = Position::Watch { version };
        self.stuck = 0;
        self.patience = PATIENCE;
    }

    /// A watch was opened, and within it something came that is no change.
    const fn refused_within(&mut self, fault: &Fault) {
        if matches!(fault, Fault::Refused { .. } | Fault::Unusable(_)) {
            self.stuck = self.stuck.saturating_add(1);
        }
    }

    /// Lists again if the version has shown that it leads nowhere.
    fn lose_patience(&mut self) {
        if self.stuck >= self.patience {
            self.position = Position::List { token: None };
            self.stuck = 0;
            self.patience = self.patience.saturating_mul(2).min(MOST_PATIENCE);
        }
    }

    /// A watch delivered something, or lived.
    const fn held(&mut self) {
        self.failures = 0;
        self.expired = 0;
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

fn version_of<K: Object>(object: &K) -> Option<String> {
    object.resource_version().map(str::to_owned)
}

/// A pause that doubles with every failure, up to the longest, half of it random: those who lost one
/// API server must not come back to it all at once.
fn pause(failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = SHORTEST_PAUSE.saturating_mul(1 << doublings).min(longest);
    let half = whole / 2;
    // Without randomness the pause is the whole one.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_never_equal_for_all() {
        for (failures, longest) in [(1, 200), (2, 400), (5, 3_200), (9, 30_000), (4_000, 30_000)] {
            let longest = Duration::from_millis(longest);
            let pauses: Vec<_> = (0..50).map(|_| pause(failures, LONGEST_PAUSE)).collect();
            assert!(pauses.iter().all(|p| *p >= longest / 2 && *p <= longest));
            assert!(pauses.iter().any(|p| *p != pauses[0]));
        }
    }

    /// How many refusals within a watch it takes to list again.
    fn until_listed(state: &mut State) -> u32 {
        let refusal = Fault::refused(500, "etcd event received with PrevKv=nil", None);
        let mut refusals = 0;
        while state.verb() == Verb::Watch {
            refusals += 1;
            state.refused_within(&refusal);
            state.lose_patience();
        }
        refusals
    }

    #[test]
    fn a_version_that_leads_nowhere_is_listed_again_with_growing_patience() {
        let mut state = State::new();
        let mut refusals = Vec::new();
        for version in 0..7 {
            state.position = Position::Watch {
                version: version.to_string(),
            };
            // What ends a watch is no word about its version.
            state.refused_within(&Fault::Broken("reset".to_owned()));
            refusals.push(until_listed(&mut state));
        }
        assert_eq!(refusals, [3, 6, 12, 24, 48, 48, 48]);
        state.went_on("8".to_owned());
        assert_eq!(until_listed(&mut state), PATIENCE);
    }

    /// A hung API server is noticed within 60 s.
    #[test]
    fn the_deadlines_keep_the_promise() {
        assert!(WATCH_DEADLINE < Duration::from_secs(60));
        assert!(WATCH_DEADLINE > Duration::from_secs(u64::from(WATCH_SECONDS)));
    }
}
