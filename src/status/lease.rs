//! Who may write: the holder of a Lease, so that replicas do not write against each other.
//!
//! The usual protocol renews every few seconds for ever. This one is silent while nobody has
//! anything to write, because an idle gate is to leave the store alone:
//!
//! - The holder renews when it wants to write, and writes only for [`TERM`] after the moment at
//!   which it *sent* the last renewal. Idle, it only reads the Lease now and then.
//! - Who wants to write and is not the holder asks for the Lease by an annotation. A holder that
//!   lives answers by renewing, which takes the annotation away; then it alone decides, and the
//!   other asks again ever more rarely. Replicas of one mind never ask, for what the holder writes
//!   is what they want.
//! - A Lease that was asked for and did not change for [`DEAD`] belongs to nobody, and neither does
//!   one whose holder left it with an empty name.
//!
//! Two never write at once: a renewal that came before the question carries for [`TERM`] at most,
//! and one that came after it changes the version, so that the takeover is refused (409). Clocks
//! of different machines are not compared.
//!
//! Failure: what cannot be read or written is tried again slowly; meanwhile nobody writes.

use super::api::{Api, Body, Fault};
use super::queue::Want;
use crate::lifecycle::sleep_until;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a renewal carries, from when it was sent.
pub(super) const TERM: Duration = Duration::from_secs(8);
/// A Lease that was asked for and stays as it is for so long belongs to nobody.
const DEAD: Duration = Duration::from_secs(15);
/// How often it is looked at while it matters.
const POLL: Duration = Duration::from_secs(2);
/// How often an idle holder looks whether it is asked; several times in [`DEAD`].
const IDLE_POLL: Duration = Duration::from_secs(4);
/// What the holder is given to write before it is asked whether it lives.
const GRACE: Duration = Duration::from_secs(3);
/// Longest pause between two questions that were answered.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Pause after a refusal by RBAC.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Longest that giving up the Lease may take.
const RELEASE: Duration = Duration::from_secs(3);
/// Who asks.
const WANTED_BY: &str = "x402.obol.org/wanted-by";

/// Until when this process may write.
pub(super) type Term = Option<Instant>;

/// The Lease and our part in it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) api: Api,
    pub(super) name: String,
    /// `None` is the namespace of the credentials.
    pub(super) namespace: Option<String>,
    /// Unlike that of any other process.
    pub(super) identity: String,
    pub(super) want: watch::Receiver<Option<Want>>,
    pub(super) term: watch::Sender<Term>,
    /// Told why the Lease cannot be had; `None` when it can.
    pub(super) refused: watch::Sender<Option<String>>,
    pub(super) now: fn() -> Timestamp,
}

/// What is remembered between two looks.
#[derive(Debug)]
struct Memory {
    /// Ours, when last looked at.
    is_ours: bool,
    /// Version of the Lease of another, and since when it is known.
    other: Option<(String, Instant)>,
    /// Not asked for before this.
    ask_at: Option<Instant>,
    /// We asked, and the pause after an answer.
    has_asked: bool,
    pause: Duration,
    /// What was wanted when the pause last grew.
    news: u64,
}

/// The last look.
#[derive(Debug, Default)]
struct Last {
    look: Option<Instant>,
    /// How long to leave the Lease alone after it.
    pause: Duration,
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It becomes ours, or stays so.
    Take,
    /// Ask the holder.
    Ask,
    /// Nothing.
    Wait,
}

impl Lease {
    /// Runs until `stopped`, and gives the Lease back.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut memory = Memory::new();
        let mut last = Last::default();
        loop {
            let wanting = *self.want.borrow_and_update();
            let due = self.due(&memory, &last, wanting);
            let is_time = tokio::select! {
                () = super::told(&mut stopped) => break,
                () = sleep_until(due) => true,
                changed = self.want.changed() => match changed {
                    Ok(()) => false,
                    Err(_nobody_writes) => break,
                },
            };
            if !is_time {
                continue;
            }
            let looked = tokio::select! {
                () = super::told(&mut stopped) => break,
                looked = self.look(&mut memory, wanting) => looked,
            };
            last = Last {
                look: Some(Instant::now()),
                pause: self.note(looked),
            };
        }
        self.term.send_replace(None);
        if memory.is_ours {
            let released = tokio::time::timeout(RELEASE, self.release()).await;
            tracing::debug!(?released, "the Lease is given back");
        }
    }

    /// When to look next; `None` for as long as nobody wants anything.
    fn due(&self, memory: &Memory, last: &Last, wanting: Option<Want>) -> Option<Instant> {
        let Some(look) = last.look else {
            return wanting.map(|_| Instant::now());
        };
        let due = match (memory.is_ours, wanting) {
            (true, None) => look + IDLE_POLL,
            // Half a term early; at once when there is none.
            (true, Some(_)) => self.term.borrow().map_or(look, |until| until - TERM / 2),
            (false, None) => return None,
            (false, Some(_)) if memory.other.is_none() => look,
            (false, Some(_)) => look + POLL,
        };
        Some(due.max(look + last.pause))
    }

    /// What came of a look, and how long to leave it alone.
    fn note(&self, looked: Result<(), Fault>) -> Duration {
        match looked {
            Ok(()) => {
                self.tell(None);
                Duration::ZERO
            }
            // Somebody was faster: see who.
            Err(Fault::Conflict) => POLL / 4,
            Err(Fault::Forbidden(why)) => {
                self.tell(Some(why));
                REFUSED_PAUSE
            }
            Err(fault @ (Fault::Gone | Fault::Invalid(_))) => {
                self.tell(Some(format!(
                    "the Lease {} in namespace {}: {fault}",
                    self.name,
                    self.place().unwrap_or_default()
                )));
                REFUSED_PAUSE
            }
            Err(Fault::Unavailable { why, retry_after }) => {
                tracing::debug!(cause = why, "the Lease cannot be looked at");
                retry_after.unwrap_or_default().max(POLL)
            }
        }
    }

    fn tell(&self, refused: Option<String>) {
        self.refused.send_if_modified(|told| {
            let is_news = *told != refused;
            *told = refused;
            is_news
        });
    }

    async fn look(&self, memory: &mut Memory, wanting: Option<Want>) -> Result<(), Fault> {
        let lease = self.read().await?;
        let step = memory.decide(lease.as_ref(), &self.identity, wanting, Instant::now());
        if !memory.is_ours {
            self.term.send_replace(None);
        }
        let sent = Instant::now();
        match (step, lease) {
            (Step::Wait, _) => return Ok(()),
            (Step::Create, _) => {
                let lease = self.renewed(json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name},
                }));
                self.send(Method::POST, &self.folder()?, &lease).await?;
            }
            (Step::Ask, Some(mut lease)) => {
                let me = json!(self.identity);
                set(&mut lease, &["metadata", "annotations", WANTED_BY], me);
                let text = self.send(Method::PUT, &self.path()?, &lease).await?;
                let asked: Value = parse(&text)?;
                memory.asked(version(&asked), Instant::now());
                return Ok(());
            }
            (Step::Take, Some(lease)) => {
                let lease = self.renewed(lease);
                self.send(Method::PUT, &self.path()?, &lease).await?;
            }
            (Step::Ask | Step::Take, None) => return Ok(()),
        }
        if !memory.is_ours {
            tracing::info!(
                lease.name = self.name,
                "this replica writes the status of offers"
            );
        }
        memory.took();
        self.term.send_replace(Some(sent + TERM));
        Ok(())
    }

    /// The Lease with us as its holder from now on.
    fn renewed(&self, mut lease: Value) -> Value {
        // RFC 3339 with six digits: others are refused.
        let now = json!(format!("{:.6}", (self.now)()));
        if holder(&lease) != self.identity {
            let before = lease.pointer("/spec/leaseTransitions");
            let count = before
                .and_then(Value::as_i64)
                .map(|count| count.saturating_add(1));
            set(
                &mut lease,
                &["spec", "leaseTransitions"],
                json!(count.unwrap_or(0)),
            );
            set(&mut lease, &["spec", "acquireTime"], now.clone());
            set(
                &mut lease,
                &["spec", "holderIdentity"],
                json!(self.identity),
            );
        }
        set(
            &mut lease,
            &["spec", "leaseDurationSeconds"],
            json!(DEAD.as_secs()),
        );
        set(&mut lease, &["spec", "renewTime"], now);
        let annotations = lease.pointer_mut("/metadata/annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove(WANTED_BY);
        }
        lease
    }

    /// Leaves the Lease to whoever comes, if it is still ours.
    async fn release(&self) -> Result<(), Fault> {
        let Some(mut lease) = self.read().await? else {
            return Ok(());
        };
        if holder(&lease) != self.identity {
            return Ok(());
        }
        set(&mut lease, &["spec", "holderIdentity"], json!(""));
        set(&mut lease, &["spec", "leaseDurationSeconds"], json!(1));
        self.send(Method::PUT, &self.path()?, &lease).await?;
        Ok(())
    }

    async fn read(&self) -> Result<Option<Value>, Fault> {
        match self.api.get(&self.path()?).await {
            Ok(text) => parse(&text).map(Some),
            Err(Fault::Gone) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn send(&self, method: Method, path: &str, lease: &Value) -> Result<String, Fault> {
        let content = lease.to_string().into_bytes();
        self.api.call(method, path, Body::Json, content).await
    }

    fn place(&self) -> Option<String> {
        self.namespace.clone().or_else(|| self.api.own_namespace())
    }

    fn folder(&self) -> Result<String, Fault> {
        let namespace = self.place().ok_or_else(|| Fault::Unavailable {
            why: "there are no credentials yet".to_owned(),
            retry_after: None,
        })?;
        Ok(format!(
            "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        ))
    }

    fn path(&self) -> Result<String, Fault> {
        Ok(format!("{}/{}", self.folder()?, self.name))
    }
}

impl Memory {
    const fn new() -> Self {
        Self {
            is_ours: false,
            other: None,
            ask_at: None,
            has_asked: false,
            pause: POLL,
            news: 0,
        }
    }

    fn decide(
        &mut self,
        lease: Option<&Value>,
        me: &str,
        wanting: Option<Want>,
        now: Instant,
    ) -> Step {
        let Some(lease) = lease else {
            self.is_ours = false;
            self.other = None;
            return if wanting.is_some() {
                Step::Create
            } else {
                Step::Wait
            };
        };
        let holder = holder(lease);
        let asked = lease
            .pointer("/metadata/annotations")
            .and_then(|all| all.get(WANTED_BY));
        if holder == me {
            // Also when the answer to our renewal was lost.
            self.is_ours = true;
            self.other = None;
            return if asked.is_some() || wanting.is_some() {
                Step::Take
            } else {
                Step::Wait
            };
        }
        self.is_ours = false;
        let Some(want) = wanting else {
            return Step::Wait;
        };
        if holder.is_empty() {
            return Step::Take;
        }
        let version = version(lease);
        let since = match &self.other {
            Some((known, since)) if known == version => *since,
            _ => {
                self.other_lives(version, want, now);
                now
            }
        };
        if asked.is_some() {
            return if now.saturating_duration_since(since) >= DEAD {
                Step::Take
            } else {
                Step::Wait
            };
        }
        if self.ask_at.is_none_or(|at| at <= now) && want.since + GRACE <= now {
            return Step::Ask;
        }
        Step::Wait
    }

    /// The Lease changed in the hands of its holder.
    fn other_lives(&mut self, version: &str, want: Want, now: Instant) {
        let is_first = self.other.is_none();
        self.other = Some((version.to_owned(), now));
        if std::mem::take(&mut self.has_asked) {
            self.pause = if want.news == self.news {
                self.pause * 2
            } else {
                POLL * 2
            };
            self.pause = self.pause.min(LONGEST_PAUSE);
            self.news = want.news;
        }
        if !is_first {
            self.ask_at = Some(now + self.pause.max(DEAD));
        }
    }

    fn asked(&mut self, version: &str, now: Instant) {
        self.other = Some((version.to_owned(), now));
        self.has_asked = true;
    }

    fn took(&mut self) {
        *self = Self {
            is_ours: true,
            ..Self::new()
        };
    }
}

/// Sets a value, and makes the objects above it where there are none.
fn set(object: &mut Value, path: &[&str], value: Value) {
    let [key, below @ ..] = path else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    if let Some(entries) = object.as_object_mut() {
        set(entries.entry(*key).or_insert(Value::Null), below, value);
    }
}

fn parse(text: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Invalid(error.to_string()))
}

fn holder(lease: &Value) -> &str {
    let holder = lease.pointer("/spec/holderIdentity");
    holder.and_then(Value::as_str).unwrap_or_default()
}

fn version(lease: &Value) -> &str {
    let version = lease.pointer("/metadata/resourceVersion");
    version.and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: u32, asked: Option<&str>) -> Value {
        let mut lease = json!({"metadata": {"resourceVersion": version.to_string()}, "spec": {"holderIdentity": holder}});
        if let Some(asked) = asked {
            lease["metadata"]["annotations"][WANTED_BY] = json!(asked);
        }
        lease
    }

    fn want(since: Instant) -> Option<Want> {
        Some(Want { since, news: 1 })
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_free_is_taken_only_by_who_has_something_to_write() {
        let (mut memory, now) = (Memory::new(), Instant::now());
        assert_eq!(memory.decide(None, "b", None, now), Step::Wait);
        assert_eq!(memory.decide(None, "b", want(now), now), Step::Create);
        let left = lease("", 4, None);
        assert_eq!(memory.decide(Some(&left), "b", None, now), Step::Wait);
        assert_eq!(memory.decide(Some(&left), "b", want(now), now), Step::Take);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_renews_when_it_writes_or_is_asked_and_is_silent_else() {
        let (mut memory, now) = (Memory::new(), Instant::now());
        assert_eq!(
            memory.decide(Some(&lease("a", 1, None)), "a", None, now),
            Step::Wait
        );
        assert_eq!(
            memory.decide(Some(&lease("a", 1, Some("b"))), "a", None, now),
            Step::Take
        );
        assert_eq!(
            memory.decide(Some(&lease("a", 1, None)), "a", want(now), now),
            Step::Take
        );
        assert!(memory.is_ours);
        assert_eq!(
            memory.decide(Some(&lease("b", 2, None)), "a", None, now),
            Step::Wait
        );
        assert!(!memory.is_ours);
    }

    /// The holder died: asked, silent, taken.
    #[tokio::test(start_paused = true)]
    async fn one_that_was_asked_for_in_vain_is_taken_and_not_before() {
        let (mut memory, start) = (Memory::new(), Instant::now());
        let dead = lease("a", 7, None);
        assert_eq!(
            memory.decide(Some(&dead), "b", want(start), start),
            Step::Wait
        );
        let asking = start + GRACE;
        assert_eq!(
            memory.decide(Some(&dead), "b", want(start), asking),
            Step::Ask
        );
        memory.asked("8", asking);
        let asked = lease("a", 8, Some("b"));
        let early = asking + DEAD - Duration::from_millis(1);
        assert_eq!(
            memory.decide(Some(&asked), "b", want(start), early),
            Step::Wait
        );
        assert_eq!(
            memory.decide(Some(&asked), "b", want(start), asking + DEAD),
            Step::Take
        );
    }

    /// T4.13: two of different minds; the one that holds it decides.
    #[tokio::test(start_paused = true)]
    async fn a_holder_that_answers_keeps_it_and_is_asked_ever_more_rarely() {
        let (mut memory, start) = (Memory::new(), Instant::now());
        let (mut now, mut number, mut questions, mut asked_by) = (start, 1, 0, None);
        while now < start + Duration::from_secs(3600) {
            match memory.decide(Some(&lease("a", number, asked_by)), "b", want(start), now) {
                Step::Ask => {
                    questions += 1;
                    number += 1;
                    asked_by = Some("b");
                    memory.asked(&number.to_string(), now);
                }
                Step::Wait => {
                    if asked_by.take().is_some() {
                        number += 1;
                    }
                }
                step @ (Step::Create | Step::Take) => panic!("{step:?}"),
            }
            now += POLL;
        }
        assert!((5..25).contains(&questions), "{questions}");
    }

    /// A question of somebody else is ours too: the version tells the silence.
    #[tokio::test(start_paused = true)]
    async fn two_who_ask_do_not_keep_each_other_waiting() {
        let (mut memory, start) = (Memory::new(), Instant::now());
        let asked = lease("a", 8, Some("c"));
        assert_eq!(
            memory.decide(Some(&asked), "b", want(start), start),
            Step::Wait
        );
        assert_eq!(
            memory.decide(Some(&asked), "b", want(start), start + DEAD),
            Step::Take
        );
    }

    #[test]
    fn a_renewal_is_done_before_a_takeover_can_be() {
        assert!(TERM + POLL < DEAD);
        assert!(IDLE_POLL * 3 < DEAD);
    }
}
