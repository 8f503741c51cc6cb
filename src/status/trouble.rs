//! What keeps status from being written: how long to leave it alone, and who is told.
//!
//! RBAC may differ from namespace to namespace, so a refusal is of one. It is one warning until
//! something is written again, a counter, and a line in what is degraded. An API server that does
//! not answer is left alone as a whole, and its loss is told by whoever reads it.

use super::api::Fault;
use crate::metrics::{Metrics, StatusWrite};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// First and longest pause in a namespace whose RBAC refuses.
const REFUSED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// First and longest pause when the API server does not answer.
const SILENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What does not work.
#[derive(Debug)]
pub(super) struct Trouble {
    metrics: Arc<Metrics>,
    degraded: watch::Sender<Vec<String>>,
    /// Namespaces whose RBAC refuses.
    refused: HashMap<Arc<str>, Refusal>,
    /// Why the Lease cannot be had.
    no_lease: Option<String>,
    /// The API server is left alone until then, the longer the more often it was silent.
    silent_until: Option<Instant>,
    silences: u32,
    /// Events are refused until then.
    no_events_until: Option<Instant>,
    warned: Warned,
}

#[derive(Debug)]
struct Refusal {
    until: Instant,
    pause: Duration,
    why: String,
}

/// What was said once and is not said again.
#[derive(Debug, Default)]
struct Warned {
    status: bool,
    events: bool,
    lease: bool,
}

impl Trouble {
    pub(super) fn new(metrics: Arc<Metrics>, degraded: watch::Sender<Vec<String>>) -> Self {
        Self {
            metrics,
            degraded,
            refused: HashMap::new(),
            no_lease: None,
            silent_until: None,
            silences: 0,
            no_events_until: None,
            warned: Warned::default(),
        }
    }

    /// When to try again after a fault.
    pub(super) fn failed(&mut self, namespace: &Arc<str>, fault: Fault, now: Instant) -> Instant {
        match fault {
            Fault::Forbidden(why) => {
                self.metrics.status_write(StatusWrite::Forbidden);
                let (first, longest) = REFUSED;
                let before = self.refused.get(namespace);
                let is_same = before.is_some_and(|before| before.until > now);
                let pause = match before {
                    None => first,
                    // Several were in flight.
                    Some(before) if is_same => before.pause,
                    Some(before) => (before.pause * 2).min(longest),
                };
                let until = now + pause;
                if !std::mem::replace(&mut self.warned.status, true) {
                    warn!(
                        cause = why,
                        "the status of offers cannot be written; they are gated all the same. Allow \
                         get on serviceoffers and patch on serviceoffers/status, or use \
                         --status=false"
                    );
                }
                self.refused
                    .insert(namespace.clone(), Refusal { until, pause, why });
                self.tell();
                until
            }
            Fault::Unavailable { why, retry_after } => {
                debug!(cause = why, "the status of an offer could not be written");
                self.metrics.status_write(StatusWrite::Error);
                let (first, longest) = SILENT;
                let pause = first.saturating_mul(1 << self.silences.min(8)).min(longest);
                if self.silent_until.is_none_or(|until| until <= now) {
                    self.silences = self.silences.saturating_add(1);
                    let wished = retry_after.unwrap_or_default().min(longest);
                    self.silent_until = Some(now + pause.max(wished));
                }
                self.silent_until.unwrap_or(now + pause)
            }
            // They are dropped before they come here.
            Fault::Gone | Fault::Conflict | Fault::Invalid(_) => now + REFUSED.0,
        }
    }

    /// The API server answered.
    pub(super) const fn answered(&mut self) {
        self.silences = 0;
    }

    /// The API server let us write in this namespace.
    pub(super) fn allowed(&mut self, namespace: &Arc<str>) {
        self.answered();
        if self.refused.remove(namespace).is_some() {
            if self.refused.is_empty() {
                self.warned.status = false;
                info!("the status of offers can be written again");
            }
            self.tell();
        }
    }

    /// An Event could not be made.
    pub(super) fn event_failed(&mut self, fault: &Fault, now: Instant) {
        if let Fault::Forbidden(why) = fault {
            self.no_events_until = Some(now + REFUSED.1);
            if !std::mem::replace(&mut self.warned.events, true) {
                warn!(
                    cause = why,
                    "Events cannot be made; conditions are written. Allow create on events"
                );
            }
        } else {
            debug!(cause = %fault, "an Event could not be made");
        }
    }

    /// The Lease can be had, or why not.
    pub(super) fn lease(&mut self, refused: Option<String>) {
        if let Some(why) = &refused {
            self.metrics.status_write(StatusWrite::Forbidden);
            if !std::mem::replace(&mut self.warned.lease, true) {
                warn!(
                    cause = why.as_str(),
                    "the Lease for writing status cannot be had, so none is written; offers are \
                     gated all the same. Allow get, create and update on leases, or use \
                     --status=false"
                );
            }
        } else {
            self.warned.lease = false;
        }
        self.no_lease = refused;
        self.tell();
    }

    /// Until when a namespace is left alone.
    pub(super) fn refused_until(&self, namespace: &str, now: Instant) -> Option<Instant> {
        let refusal = self.refused.get(namespace)?;
        (refusal.until > now).then_some(refusal.until)
    }

    /// Until when the API server is left alone; may have passed.
    pub(super) const fn silent_until(&self) -> Option<Instant> {
        self.silent_until
    }

    /// Whether Events are tried.
    pub(super) fn allows_events(&self, now: Instant) -> bool {
        self.no_events_until.is_none_or(|until| until <= now)
    }

    /// Forgets namespaces in which nothing was tried for long: their offers may be gone.
    pub(super) fn tidy(&mut self, now: Instant) {
        let before = self.refused.len();
        self.refused
            .retain(|_, refusal| now < refusal.until + REFUSED.1);
        if self.refused.len() < before {
            self.tell();
        }
    }

    fn tell(&self) {
        let first = self.refused.values().next();
        let first = first.map(|refusal| refusal.why.clone());
        let sentences = self.no_lease.clone().into_iter().chain(first);
        let told = sentences.map(|why| format!("the status of offers cannot be written: {why}"));
        self.degraded.send_replace(told.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> (Trouble, watch::Receiver<Vec<String>>) {
        let (degraded, told) = watch::channel(Vec::new());
        let metrics = Metrics::with_ambiguity_classes("x", &[]).unwrap();
        (Trouble::new(metrics, degraded), told)
    }

    fn forbidden() -> Fault {
        Fault::Forbidden("may not patch".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_refuses_is_tried_ever_more_rarely_and_others_as_before() {
        let ((mut trouble, told), start) = (trouble(), Instant::now());
        let (closed, open): (Arc<str>, Arc<str>) = ("closed".into(), "open".into());
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let until = trouble.failed(&closed, forbidden(), now);
            assert_eq!(
                trouble.failed(&closed, forbidden(), now),
                until,
                "of two in flight"
            );
            pauses.push((until - now).as_secs());
            assert_eq!(trouble.refused_until(&closed, now), Some(until));
            now = until;
        }
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
        assert_eq!(trouble.refused_until(&open, now), None);
        assert_eq!(told.borrow().len(), 1);
        trouble.allowed(&closed);
        assert!(told.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_silent_or_busy_is_left_alone() {
        let ((mut trouble, told), now) = (trouble(), Instant::now());
        let busy = |seconds| Fault::Unavailable {
            why: "busy".to_owned(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let namespace: Arc<str> = "a".into();
        let until = trouble.failed(&namespace, busy(7), now);
        assert_eq!(until, now + Duration::from_secs(7));
        assert_eq!(
            trouble.failed(&namespace, busy(0), now),
            until,
            "of two in flight"
        );
        let later = trouble.failed(&namespace, busy(0), until);
        assert_eq!(later, until + Duration::from_secs(2));
        assert_eq!(
            trouble.failed(&namespace, busy(9_999), later),
            later + SILENT.1
        );
        assert!(told.borrow().is_empty(), "whoever reads the cluster tells");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_tries_any_more_is_not_told_for_ever() {
        let ((mut trouble, told), now) = (trouble(), Instant::now());
        trouble.failed(&"gone".into(), forbidden(), now);
        trouble.tidy(now + REFUSED.0);
        assert_eq!(told.borrow().len(), 1);
        trouble.tidy(now + REFUSED.0 + REFUSED.1);
        assert!(told.borrow().is_empty());
    }
}
