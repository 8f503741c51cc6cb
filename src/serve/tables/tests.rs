//! Two sources at once, and builds that take their time (T4.5).

use super::*;
use crate::facilitator::{Client, ClientConfig};
use crate::ledger::{Clock, Store};
use crate::offer::{Offer, OfferIdentity, Owner, Phase};
use crate::pricing::FacilitatorSettings;
use crate::route::Target;
use crate::table::fixtures::{FACILITATOR, route};
use crate::table::{Gate as Gating, Resolution, TableReader};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::hash::{BuildHasher as _, RandomState};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Worlds of T4.5 in `make test` and in `make soak` (`X402_SOAK=1`), and how many of them are at work at once: most of
/// their time is waiting.
const WORLDS: [usize; 2] = [200, 1_000];
const AT_ONCE: usize = 200;
/// A build takes up to this many milliseconds, and so long is it between two changes of a source.
const SLOWEST: u64 = 200;
const PATHS: usize = 3;

/// The price of each path of a source, where it is sold.
type Prices = [Option<u8>; PATHS];

/// What a source says one after the other.
type Script = Vec<Prices>;

/// A source as a reader sees it: which of its lists is in the table.
struct Seen {
    base: &'static str,
    script: Script,
    /// The newest list that was seen.
    newest: Option<usize>,
}

/// Up to [`SLOWEST`] milliseconds.
fn random_pause() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(0) % (SLOWEST + 1))
}

/// The clock of a builder that is slow.
fn slow_now() -> Timestamp {
    std::thread::sleep(random_pause());
    Timestamp::now()
}

/// The offers of a list: one a path, and one whose price is the number of the list.
fn offers(base: &str, owner: &Owner, number: usize, prices: &Prices) -> Vec<Arc<Offer>> {
    let sold = prices.iter().enumerate();
    let sold = sold.filter_map(|(path, price)| Some((format!("o{path}"), u128::from((*price)?))));
    let clock = [("clock".to_owned(), number as u128 + 1)];
    let offer = |(name, price): (String, u128)| {
        let path = format!("{base}/{name}");
        let uid = match owner {
            Owner::Operator => None,
            // Made anew with each list.
            Owner::Namespace(_) => Some(format!("{name} of {number}").into()),
        };
        Arc::new(Offer {
            identity: Arc::new(OfferIdentity {
                uid,
                ..OfferIdentity::of_operator("n".into(), name.into())
            }),
            generation: None,
            routes: vec![route(&format!("{path}/*"), Gating::Paid, price).into()],
            phase: Phase::Live,
            problems: Vec::new(),
        })
    };
    clock.into_iter().chain(sold).map(offer).collect()
}

impl Seen {
    fn price(&self, table: &Table, name: &str) -> Option<u128> {
        let raw = format!("{}/{name}/x", self.base);
        let target = Target::parse(&raw, None).unwrap();
        let found = table.resolve(&target, None, None, Timestamp::now());
        match found.resolution {
            // None while its facilitator is not known, that is before the first document.
            Resolution::Route(entry) => Some(entry.requirements.first()?.amount.0),
            Resolution::Closed
            | Resolution::NoRoute
            | Resolution::Unmatched
            | Resolution::UnknownPin
            | Resolution::Ambiguous => None,
        }
    }

    /// The table has one of the lists, and none that is older than what it had before.
    fn look(&mut self, table: &Table) {
        let number = self.price(table, "clock");
        let number = number.map(|price| usize::try_from(price).unwrap() - 1);
        assert!(number >= self.newest, "{number:?} after {:?}", self.newest);
        self.newest = number;
        let Some(number) = number else { return };
        for (path, price) in self.script[number].iter().enumerate() {
            let found = self.price(table, &format!("o{path}"));
            assert_eq!(found, price.map(u128::from), "path {path} of list {number}");
        }
    }
}

/// Both sources say what they have to say, while somebody looks.
async fn world(file: Script, kube: Script) {
    let (mut writer, reader) = TableWriter::new();
    writer.expect_source(kube::NAME);
    let tasks = Tasks::new();
    let readiness = Readiness::new();
    let metrics = Metrics::new("x402").unwrap();
    let gate = Gate::new(
        Client::new(ClientConfig::default()).unwrap(),
        Store::memory(Clock::system()),
        reader.clone(),
        readiness.clone(),
        tasks.clone(),
        metrics.clone(),
        Timestamp::now,
    );
    let (updates, received) = mpsc::channel(1);
    let (published, publications) = watch::channel(0);
    let tables = Tables {
        durable: false,
        writer,
        updates: received,
        gate,
        readiness,
        metrics,
        settings: watch::channel(None).0,
        published,
        now: slow_now,
    };
    let lists = file.len() + kube.len();
    let operator = {
        let (updates, script) = (updates.clone(), file.clone());
        async move {
            for (number, prices) in script.iter().enumerate() {
                tokio::time::sleep(random_pause()).await;
                let mut settings = Settings::default();
                let facilitator = (FACILITATOR.into(), FacilitatorSettings::default());
                settings.facilitators.extend([facilitator]);
                let update = Update::Document {
                    settings: Box::new(settings),
                    offers: offers("/file", &Owner::Operator, number, prices),
                };
                updates.send(update).await.unwrap();
            }
        }
    };
    let cluster = {
        let script = kube.clone();
        async move {
            for (number, prices) in script.iter().enumerate() {
                tokio::time::sleep(random_pause()).await;
                let owner = Owner::Namespace("n".into());
                let update = Update::Offers {
                    source: kube::NAME,
                    offers: offers("/kube", &owner, number, prices),
                };
                updates.send(update).await.unwrap();
            }
        }
    };
    let seen = [("/file", file), ("/kube", kube)];
    let seen = seen.map(|(base, script)| Seen {
        base,
        script,
        newest: None,
    });
    let looked = look(reader, publications, seen);
    let ((), (), (), generation) = tokio::join!(tables.run(tasks), operator, cluster, looked);
    assert_eq!(generation, lists as u64, "one table for each list");
}

/// Looks at every table until there are no more; the generation of the last.
async fn look(
    reader: TableReader,
    mut publications: watch::Receiver<u64>,
    mut seen: [Seen; 2],
) -> u64 {
    let mut last = 0;
    let mut generation = 0;
    loop {
        let ended = tokio::select! {
            changed = publications.changed() => {
                if changed.is_ok() {
                    let published = *publications.borrow_and_update();
                    assert!(published > last, "{published} after {last}");
                    last = published;
                }
                changed.is_err()
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => false,
        };
        let table = reader.load_full();
        assert!(table.generation >= generation, "it went back");
        generation = table.generation;
        for source in &mut seen {
            source.look(&table);
        }
        if ended {
            assert_eq!(last, generation);
            for source in seen {
                assert_eq!(
                    source.newest,
                    Some(source.script.len() - 1),
                    "the last list"
                );
            }
            return generation;
        }
    }
}

/// T4.5, R5, R11: one task builds, one after the other, whoever asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_5_two_sources_and_slow_builds_never_publish_what_is_older() {
    let script = prop::collection::vec(prop::array::uniform3(prop::option::of(1_u8..)), 3..7);
    let mut runner = TestRunner::deterministic();
    let mut next = || script.new_tree(&mut runner).unwrap().current();
    let mut worlds = JoinSet::new();
    let soak = std::env::var_os("X402_SOAK").is_some_and(|value| value == "1");
    for _ in 0..WORLDS[usize::from(soak)] {
        if worlds.len() == AT_ONCE {
            worlds.join_next().await.unwrap().unwrap();
        }
        worlds.spawn(world(next(), next()));
    }
    while let Some(ended) = worlds.join_next().await {
        ended.unwrap();
    }
}
