//! Requests that run all the time, and what they may hear.
//!
//! The worlds of a source have an order: of the cluster the one in which the API server took the writes, of the file
//! the one in which it was written. A table is one of them. A request that began when a world was known to be
//! published and ended when another was the newest may hear of those and of all between. What one answer proved, no later
//! request may go behind, at no path: a table is one snapshot (R5), and what is deleted stays deleted (R11).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::world::{
    Answer, FILE_ROUTES, File, OFFERS, SIDES, Shops, Site, World, answer_of, base, rows_of,
};
use crate::{
    dice::Dice,
    harness::{Ask, Verifier},
};

/// Between two requests of one requester: all of them use a port of this machine for a minute.
const PAUSE: Duration = Duration::from_millis(5);
/// Operations that a failure tells.
const TOLD: usize = 40;

/// The worlds of one source.
#[derive(Debug)]
struct Timeline<W> {
    worlds: Vec<W>,
    /// The oldest that may still be answered from.
    since: usize,
}

/// Everything that was sent, and what is wrong.
#[derive(Debug)]
pub(super) struct History {
    cluster: Timeline<Shops>,
    file: Timeline<File>,
    /// Paths at which the table had something for sure, at some time: they never are as if it had not (R4).
    sure: BTreeSet<String>,
    operations: Vec<String>,
    wrong: Vec<String>,
    asked: usize,
}

/// The requests; they end with this.
#[derive(Debug)]
pub(super) struct Requests {
    history: Arc<Mutex<History>>,
    running: JoinSet<()>,
}

impl<W: World> Timeline<W> {
    fn newest(&self) -> &W {
        self.worlds.last().expect("there is one from the start")
    }

    /// Takes an answer; the worlds that were allowed and not it, if it was of none of them.
    fn hear(&mut self, site: Site, from: usize, answer: &Answer, sure: bool) -> Result<(), String> {
        let allowed = || self.worlds.iter().enumerate().skip(from);
        let told = |world: &W| world.answer(site);
        let fits = |world: &W| {
            let told = told(world);
            let never_seen = told == Some(Answer::Withdrawn) && !sure && answer.is_ignorance();
            told.as_ref() == Some(answer) || never_seen
        };
        match allowed().find(|(_, world)| fits(world)) {
            Some((of, _)) => {
                self.since = self.since.max(of);
                Ok(())
            }
            None => {
                let wanted: Vec<_> = allowed().map(|(at, world)| (at, told(world))).collect();
                Err(format!("{answer:?} at {site:?}, allowed was {wanted:?}"))
            }
        }
    }
}

impl History {
    pub(super) fn new(shops: Shops, file: File) -> Self {
        Self {
            cluster: Timeline {
                worlds: vec![shops],
                since: 0,
            },
            file: Timeline {
                worlds: vec![file],
                since: 0,
            },
            sure: BTreeSet::new(),
            operations: Vec::new(),
            wrong: Vec::new(),
            asked: 0,
        }
    }

    /// A write to the cluster is under way: from here on it may show.
    pub(super) fn sent_to_cluster(&mut self, shops: Shops) {
        self.cluster.worlds.push(shops);
    }

    /// As [`History::sent_to_cluster`], to the file.
    pub(super) fn sent_to_file(&mut self, file: File) {
        self.file.worlds.push(file);
    }

    /// What `/routes` has to come to be, and whether it is.
    pub(super) fn compare(&self, routes: &Value) -> Result<(), String> {
        let cluster = self.cluster.newest().rows(&self.sure);
        let wanted = [cluster, self.file.newest().rows(&self.sure)].concat();
        let found = rows_of(routes, &self.sure);
        if found == wanted {
            Ok(())
        } else {
            Err(format!("the table is\n{found:#?}\nthe model\n{wanted:#?}"))
        }
    }

    /// The newest worlds are published.
    pub(super) fn confirm(&mut self) {
        self.cluster.since = self.cluster.worlds.len() - 1;
        self.file.since = self.file.worlds.len() - 1;
        let present = [
            self.cluster.newest().present(),
            self.file.newest().present(),
        ];
        self.sure.extend(present.concat());
        self.note("  the table is the model");
    }

    /// Remembers what was done, for a failure to tell.
    pub(super) fn note(&mut self, operation: &str) {
        let world = self.cluster.worlds.len();
        self.operations.push(format!("world {world}: {operation}"));
    }

    pub(super) fn last_operations(&self) -> String {
        let told = self.operations.len().saturating_sub(TOLD);
        self.operations[told..].join("\n")
    }

    /// Every answer so far was right.
    pub(super) fn assert_sound(&self) {
        assert!(
            self.wrong.is_empty(),
            "{}\n{}",
            self.wrong.join("\n"),
            self.last_operations()
        );
    }

    /// The oldest world of a site's source that a request may hear of when it begins now.
    fn since(&self, site: Site) -> usize {
        match site {
            Site::File(_) | Site::Open => self.file.since,
            Site::Below(..) | Site::BelowFree(..) | Site::Pinned(_) => self.cluster.since,
        }
    }

    fn hear(&mut self, site: Site, from: usize, answer: &Answer) {
        self.asked += 1;
        let paths = site.paths();
        let sure = paths.iter().any(|path| self.sure.contains(path));
        let heard = match site {
            Site::File(_) | Site::Open => self.file.hear(site, from, answer, sure),
            Site::Below(..) | Site::BelowFree(..) | Site::Pinned(_) => {
                self.cluster.hear(site, from, answer, sure)
            }
        };
        if let ([path], true) = (paths.as_slice(), answer.is_presence()) {
            self.sure.insert(path.clone());
        }
        if let Err(wrong) = heard {
            self.wrong.push(wrong);
        }
    }
}

impl Requests {
    /// So many requesters, each one request after the other.
    pub(super) fn start(
        verifier: &Verifier,
        namespace: &str,
        history: History,
        seed: u64,
        requesters: u64,
    ) -> Self {
        let history = Arc::new(Mutex::new(history));
        let asks: Arc<Vec<_>> = Arc::new(sites(verifier, namespace));
        let mut running = JoinSet::new();
        for requester in 0..requesters {
            let (history, asks) = (history.clone(), asks.clone());
            let mut dice = Dice::new(seed ^ (requester + 1));
            running.spawn(async move {
                loop {
                    let (site, ask) = &asks[dice.below(asks.len())];
                    let since = lock(&history).since(*site);
                    let answer = match ask.try_send().await {
                        Ok(answer) => answer_of(&answer),
                        Err(error) => Answer::Other(error.to_string()),
                    };
                    lock(&history).hear(*site, since, &answer);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { history, running }
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Ends them; how many there were.
    pub(super) async fn stop(mut self) -> usize {
        self.running.abort_all();
        while let Some(ended) = self.running.join_next().await {
            assert!(
                ended.is_err_and(|ended| ended.is_cancelled()),
                "a requester died"
            );
        }
        let history = self.history();
        history.assert_sound();
        history.asked
    }
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything that is asked for.
fn sites(verifier: &Verifier, namespace: &str) -> Vec<(Site, Ask)> {
    let mut sites = vec![(Site::Open, verifier.ask("/free/x"))];
    for number in 0..=OFFERS {
        let pinned = verifier
            .ask("/elsewhere")
            .pinned(namespace, &format!("n{number}"));
        sites.push((Site::Pinned(number), pinned));
        for side in 0..SIDES {
            let base = base(number, side);
            let below = verifier.ask(&format!("{base}/x"));
            sites.push((Site::Below(number, side), below));
            let below_free = verifier.ask(&format!("{base}/free/x"));
            sites.push((Site::BelowFree(number, side), below_free));
        }
    }
    for route in 0..=FILE_ROUTES {
        let ask = verifier.ask(&format!("/file/f{route}/x"));
        sites.push((Site::File(route), ask));
    }
    sites
}
