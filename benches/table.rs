//! What a new table costs: from nothing, and for one change among very many routes.
//!
//! `cargo bench --bench table` prints medians in milliseconds and the resident memory per offer (the
//! offers themselves included, as their source would hold them). Plain loops instead of criterion:
//! a build takes long enough to be timed one by one, and memory has to be read in between.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that prints its figures and stops where it cannot go on"
)]

use alloy_primitives::Address;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use x402_verifier::money::{Amount, Asset, Network, TransferMethod};
use x402_verifier::offer::{
    Declared, Gate, Offer, OfferIdentity, PaymentOption, Phase, Route, Settle,
};
use x402_verifier::pricing::{FacilitatorSettings, Settings};
use x402_verifier::table::{Applied, TableReader, TableWriter, Update};

const FACILITATOR: &str = "https://facilitator.example";

/// Times a change is measured.
const ROUNDS: usize = 9;

/// Where the offers come from.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One offer of the cluster each.
    Cluster,
    /// One unnamed offer of the file with all routes.
    Unnamed,
    /// One named offer of the file each.
    Named,
}

/// A writer with its lists.
struct World {
    shape: Shape,
    asset: Arc<Asset>,
    facilitator: Arc<str>,
    offers: Vec<Arc<Offer>>,
    writer: TableWriter,
    reader: TableReader,
    seconds: i64,
}

impl World {
    fn new(shape: Shape) -> Self {
        let asset = Arc::new(Asset {
            address: Address::repeat_byte(0xa5),
            symbol: "USDC".into(),
            decimals: 6,
            transfer: TransferMethod::Eip3009,
            eip712_name: "USDC".into(),
            eip712_version: "2".into(),
        });
        let (mut writer, reader) = TableWriter::new();
        if matches!(shape, Shape::Cluster) {
            writer.expect_source("kube");
        }
        let mut world = Self {
            shape,
            asset,
            facilitator: FACILITATOR.into(),
            offers: Vec::new(),
            writer,
            reader,
            seconds: 0,
        };
        let now = world.now();
        world
            .writer
            .apply(Update::Remembered { paths: Vec::new() }, now);
        if matches!(shape, Shape::Cluster) {
            let update = document(Vec::new());
            world.writer.apply(update, now);
        }
        world
    }

    fn now(&mut self) -> Timestamp {
        self.seconds += 1;
        Timestamp::from_second(1_800_000_000 + self.seconds).expect("a time")
    }

    fn route(&self, number: usize, price: u128) -> Declared {
        Declared::from(Route {
            pattern: format!("/services/offer-{number:06}/*").into(),
            gate: Gate::Paid,
            settle: Settle::Before,
            preflight_pass: false,
            eoa_only: false,
            options: vec![PaymentOption {
                network: Network::from_chain_id(84532),
                asset: self.asset.clone(),
                amount: Amount(price),
                pay_to: Address::repeat_byte(0x11),
                max_timeout_seconds: 600,
                price: "0.001".into(),
            }],
            facilitator: self.facilitator.clone(),
            upstream_auth: None,
            description: None,
            problems: Box::default(),
        })
    }

    fn offer(&self, number: usize, generation: i64, routes: Vec<Declared>) -> Arc<Offer> {
        let name: Arc<str> = format!("offer-{number:06}").into();
        let namespace: Arc<str> = format!("namespace-{}", number % 100).into();
        let created = Timestamp::from_second(1_700_000_000 + number as i64 / 7).expect("a time");
        let uid = format!(
            "{:08x}-0000-4000-8000-{number:012x}",
            number * 2_654_435_761 % (1 << 32)
        );
        Arc::new(match self.shape {
            Shape::Cluster => Offer {
                identity: Arc::new(OfferIdentity {
                    created: Some(created),
                    base_path: Some(format!("/services/{name}").into()),
                    ..OfferIdentity::of_namespace(namespace, name, uid.into())
                }),
                generation: Some(generation),
                routes,
                phase: Phase::Live,
                problems: Vec::new(),
            },
            Shape::Unnamed | Shape::Named => {
                let named = matches!(self.shape, Shape::Named);
                let (namespace, name) = if named {
                    (namespace, name)
                } else {
                    Default::default()
                };
                Offer {
                    identity: Arc::new(OfferIdentity::of_operator(namespace, name)),
                    generation: None,
                    routes,
                    phase: Phase::Live,
                    problems: Vec::new(),
                }
            }
        })
    }

    fn fill(&mut self, count: usize) {
        self.offers = match self.shape {
            Shape::Unnamed => {
                let routes = (0..count).map(|number| self.route(number, 1000)).collect();
                vec![self.offer(0, 1, routes)]
            }
            Shape::Cluster | Shape::Named => (0..count)
                .map(|number| self.offer(number, 1, vec![self.route(number, 1000)]))
                .collect(),
        };
    }

    /// One route among them all is written anew.
    fn change(&mut self, number: usize, price: u128) {
        let route = self.route(number, price);
        match self.shape {
            Shape::Unnamed => {
                let mut routes = self.offers.first().expect("filled").routes.clone();
                *routes.get_mut(number).expect("filled") = route;
                self.offers = vec![self.offer(0, 1, routes)];
            }
            Shape::Cluster | Shape::Named => {
                let offer = self.offer(number, i64::try_from(price).expect("small"), vec![route]);
                *self.offers.get_mut(number).expect("filled") = offer;
            }
        }
    }

    /// One route more in the middle, or away again.
    fn toggle(&mut self, number: usize, extra: usize, add: bool) {
        match self.shape {
            Shape::Unnamed => {
                let mut routes = self.offers.first().expect("filled").routes.clone();
                if add {
                    routes.insert(number, self.route(extra, 1000));
                } else {
                    routes.remove(number);
                }
                self.offers = vec![self.offer(0, 1, routes)];
            }
            Shape::Cluster | Shape::Named => {
                if add {
                    let offer = self.offer(extra, 1, vec![self.route(extra, 1000)]);
                    self.offers.insert(number, offer);
                } else {
                    self.offers.remove(number);
                }
            }
        }
    }

    /// Time until the table is live, and until everything old is freed.
    fn apply(&mut self) -> (Duration, Duration) {
        let now = self.now();
        let offers = self.offers.clone();
        let update = match self.shape {
            Shape::Cluster => Update::Offers {
                source: "kube",
                offers,
            },
            Shape::Unnamed | Shape::Named => document(offers),
        };
        let start = Instant::now();
        let applied: Applied = self.writer.apply(update, now);
        let live = start.elapsed();
        drop(applied);
        (live, start.elapsed())
    }
}

fn document(offers: Vec<Arc<Offer>>) -> Update {
    let mut settings = Settings::default();
    settings
        .facilitators
        .insert(FACILITATOR.into(), FacilitatorSettings::default());
    Update::Document {
        settings: Box::new(settings),
        offers,
    }
}

fn median(mut rounds: Vec<Duration>) -> f64 {
    rounds.sort_unstable();
    let middle = rounds.get(rounds.len() / 2).expect("measured");
    middle.as_secs_f64() * 1000.0
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("the second field");
    pages.parse::<usize>().expect("a number") * 4096
}

fn measure(shape: Shape, count: usize) {
    let mut world = World::new(shape);
    let empty = resident();
    world.fill(count);
    let offers = resident();
    let (first, _) = world.apply();
    let built = resident();
    let middle = count / 2;
    let mut changes = Vec::new();
    let mut freed = Vec::new();
    for round in 0..ROUNDS {
        world.change(middle + round, 2000 + round as u128);
        let (live, all) = world.apply();
        changes.push(live);
        freed.push(all);
    }
    let mut additions = Vec::new();
    let mut removals = Vec::new();
    for round in 0..ROUNDS {
        world.toggle(middle, count + round, true);
        additions.push(world.apply().0);
        world.toggle(middle, count + round, false);
        removals.push(world.apply().0);
    }
    let end = resident();
    let per = |bytes: usize| bytes / count;
    println!(
        "{shape:?} {count}: from nothing {:.1} ms; change {:.2} ms (with frees {:.2}), \
         addition {:.2} ms, removal {:.2} ms; bytes an offer: itself {}, table {}, after changes {}; \
         {} rows",
        first.as_secs_f64() * 1000.0,
        median(changes),
        median(freed),
        median(additions),
        median(removals),
        per(offers - empty),
        per(built - offers),
        per(end - offers),
        world.reader.load().routes().count(),
    );
}

fn main() {
    // One measurement a process keeps the memory of one from the other.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let (Some(shape), Some(count)) = (arguments.next(), arguments.next()) else {
        let own = std::env::current_exe().expect("a path");
        for (shape, count) in [
            ("cluster", "10000"),
            ("cluster", "100000"),
            ("unnamed", "100000"),
            ("named", "100000"),
        ] {
            let status = std::process::Command::new(&own)
                .args([shape, count])
                .status();
            assert!(status.expect("runs").success(), "{shape} {count}");
        }
        return;
    };
    let shape = match shape.as_str() {
        "cluster" => Shape::Cluster,
        "unnamed" => Shape::Unnamed,
        _ => Shape::Named,
    };
    measure(shape, count.parse().expect("a number"));
}
