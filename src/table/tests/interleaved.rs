//! Every order in which the writer's steps, a request's and a scrape's can follow each other (T4.15): whoever begins
//! after a swap sees nothing older, whoever began before it sees one table to its end, no path that was sold is ever
//! free (R1, R4), and what is counted for an offer that is gone shows nowhere (R5, R7).
//!
//! The steps are those of the product: the writer takes an update, builds, swaps and closes; a request loads the
//! table, looks up and counts, settles; a scrape loads the table and renders. Orders within a step are the processor's
//! business, and each step touches what others see once only.

use super::*;
use crate::metrics::tests::{Series, read};
use crate::metrics::{OfferPage, PerOffer};
use std::collections::{HashMap, VecDeque};

const OFFERS: usize = 2;

/// An offer as it is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sold {
    /// Another one of the same name has another.
    uid: u32,
    price: u128,
}

/// What is sold at each path.
type Market = [Option<Sold>; OFFERS];

/// What a request holds between its steps.
#[derive(Debug, Default)]
enum Request {
    #[default]
    Idle,
    Arrived {
        table: Arc<Table>,
        path: usize,
    },
    Counted {
        entry: Arc<RouteEntry>,
        sold: Sold,
    },
}

/// What a scrape holds between its steps.
#[derive(Debug, Default)]
enum Scrape {
    #[default]
    Idle,
    Begun {
        page: OfferPage,
        market: Market,
    },
}

/// What the writer holds between its steps.
#[derive(Debug, Default)]
enum Writing {
    #[default]
    Idle,
    Built(Arc<Table>),
    Swapped(Arc<Table>, Arc<Table>),
}

/// Whose step is next.
#[derive(Debug, Clone, Copy)]
enum Actor {
    Writer,
    /// A request, and the path that it is for when it begins.
    Request(usize, usize),
    Scrape(usize),
}

/// All of them, and the model.
struct Play {
    world: World,
    writing: Writing,
    waiting: VecDeque<Market>,
    requests: Vec<Request>,
    scrapes: Vec<Scrape>,
    /// The market of every generation from `first` on.
    markets: Vec<Market>,
    first: u64,
    /// Requests and units of every offer that ever was, by UID.
    counts: HashMap<u32, (u32, u128)>,
}

const fn sold(uid: u32, price: u128) -> Option<Sold> {
    Some(Sold { uid, price })
}

fn offers(market: &Market) -> Vec<Offer> {
    let sold = market.iter().enumerate();
    sold.filter_map(|(path, sold)| {
        let Sold { uid, price } = (*sold)?;
        // Not below a managed prefix: what is not closed here passes.
        let base = format!("/shop/o{path}");
        let mut offer = offer("n", &format!("o{path}"), 1, &base);
        Arc::make_mut(&mut offer.identity).uid = Some(format!("uid-{uid}").into());
        offer.routes = vec![route(&format!("{base}/*"), Gate::Paid, price).into()];
        Some(offer)
    })
    .collect()
}

impl Play {
    fn new(market: Market, waiting: impl IntoIterator<Item = Market>, actors: usize) -> Self {
        let mut world = World::with_cluster(Unmatched::Allow);
        world.settings.managed_prefixes = Vec::new();
        world.file(Vec::new());
        let first = world.kube(offers(&market)).table.generation;
        Self {
            world,
            writing: Writing::Idle,
            waiting: waiting.into_iter().collect(),
            requests: (0..actors).map(|_| Request::Idle).collect(),
            scrapes: (0..actors).map(|_| Scrape::Idle).collect(),
            markets: vec![market],
            first,
            counts: HashMap::new(),
        }
    }

    /// The market that requests see which begin now.
    fn published(&self) -> &Market {
        self.markets.last().unwrap()
    }

    fn index_of(&self, table: &Table) -> usize {
        usize::try_from(table.generation - self.first).unwrap()
    }

    fn market_of(&self, table: &Table) -> &Market {
        &self.markets[self.index_of(table)]
    }

    /// Whether a path was sold in this table or before.
    fn was_sold(&self, table: &Table, path: usize) -> bool {
        let mut until = self.markets.iter().take(self.index_of(table) + 1);
        until.any(|market| market[path].is_some())
    }

    fn step(&mut self, actor: Actor) {
        match actor {
            Actor::Writer => self.write(),
            Actor::Request(number, path) => self.request(number, path),
            Actor::Scrape(number) => self.scrape(number),
        }
    }

    fn write(&mut self) {
        let writer = &mut self.world.writer;
        self.writing = match std::mem::take(&mut self.writing) {
            Writing::Idle => {
                let Some(next) = self.waiting.front() else {
                    return;
                };
                let offers = offers(next).into_iter().map(Arc::new).collect();
                let source = "kube";
                let taken = writer.take(Update::Offers { source, offers }, self.world.now);
                assert!(taken.is_none(), "a list leads to a table");
                Writing::Built(writer.build(self.world.now))
            }
            Writing::Built(table) => {
                let replaced = writer.swap(&table);
                assert_eq!(table.generation, replaced.generation + 1);
                let market = self.waiting.pop_front().unwrap();
                self.markets.push(market);
                Writing::Swapped(table, replaced)
            }
            Writing::Swapped(table, replaced) => {
                drop(writer.close(table, replaced));
                Writing::Idle
            }
        };
    }

    fn request(&mut self, number: usize, path: usize) {
        let request = std::mem::take(&mut self.requests[number]);
        self.requests[number] = match request {
            Request::Idle => {
                let table = self.world.reader.load_full();
                assert_eq!(self.market_of(&table), self.published(), "nothing older");
                Request::Arrived { table, path }
            }
            Request::Arrived { table, path } => self.look_up(&table, path),
            Request::Counted { entry, sold } => {
                let amount = entry.requirements[0].amount.0;
                assert_eq!(amount, sold.price, "the price that was asked for");
                entry.counters[0].charged(amount, 1);
                self.counts.entry(sold.uid).or_default().1 += amount;
                Request::Idle
            }
        };
    }

    /// R1, R4, R5: what was sold costs what its table says, what was sold once is closed.
    fn look_up(&mut self, table: &Table, path: usize) -> Request {
        let raw = format!("/shop/o{path}/x");
        let target = Target::parse(&raw, None).unwrap();
        let now = self.world.now;
        let wanted = self.market_of(table)[path];
        match (table.resolve(&target, None, None, now).resolution, wanted) {
            (Resolution::Route(entry), Some(sold)) => {
                let uid = format!("uid-{}", sold.uid);
                assert_eq!(entry.offer.uid.as_deref(), Some(uid.as_str()));
                assert_eq!((&entry.state, entry.gate), (&RouteState::Live, Gate::Paid));
                entry.counters[0].request();
                self.counts.entry(sold.uid).or_default().0 += 1;
                Request::Counted {
                    entry: entry.clone(),
                    sold,
                }
            }
            (Resolution::Closed, None) if self.was_sold(table, path) => Request::Idle,
            (Resolution::Unmatched, None) if !self.was_sold(table, path) => Request::Idle,
            (found, wanted) => panic!("{found:?} where {wanted:?} is sold"),
        }
    }

    fn scrape(&mut self, number: usize) {
        let scrape = std::mem::take(&mut self.scrapes[number]);
        self.scrapes[number] = match scrape {
            Scrape::Idle => {
                let table = self.world.reader.load_full();
                Scrape::Begun {
                    page: OfferPage::new("x402", table.counters(), PerOffer::All),
                    market: *self.published(),
                }
            }
            Scrape::Begun { page, market } => {
                let page: String = page.collect();
                self.check_page(&read(&page).unwrap(), &market);
                Scrape::Idle
            }
        };
    }

    /// R7: the series are those of the offers that are sold, and each counts its own offer alone.
    fn check_page(&self, page: &Series, market: &Market) {
        for (path, sold) in market.iter().enumerate() {
            let name = format!("offer_name=\"o{path}\"");
            let value = |family: &str| -> Option<f64> {
                let mut series = page.iter();
                let found = series.find(|(series, _)| {
                    series.starts_with(&format!("x402_{family}{{")) && series.contains(&name)
                });
                found.map(|(_, value)| *value)
            };
            let counted = sold.map(|sold| self.counts.get(&sold.uid).copied().unwrap_or_default());
            let requests = counted.map(|(requests, _)| f64::from(requests));
            let units = counted.map(|(_, units)| f64::from(u32::try_from(units).unwrap()));
            assert_eq!(value("requests_total"), requests, "{name} of {market:?}");
            assert_eq!(value("charged_atomic_units_total"), units, "{name}");
        }
    }

    /// Everybody finishes what was begun; then everything is as the last market.
    fn end(&mut self) {
        while !(self.waiting.is_empty() && matches!(self.writing, Writing::Idle)) {
            self.write();
        }
        for number in 0..self.requests.len() {
            while !matches!(self.requests[number], Request::Idle) {
                self.request(number, 0);
            }
            while !matches!(self.scrapes[number], Scrape::Idle) {
                self.scrape(number);
            }
        }
        for path in 0..OFFERS {
            self.request(0, path);
            self.request(0, path);
            self.requests[0] = Request::Idle;
        }
        self.scrape(0);
        self.scrape(0);
    }
}

/// Calls `play` with every order of so many steps of each actor.
fn every_order(
    left: &mut [(Actor, usize)],
    order: &mut Vec<Actor>,
    play: &mut impl FnMut(&[Actor]),
) {
    if left.iter().all(|(_, steps)| *steps == 0) {
        return play(order);
    }
    for at in 0..left.len() {
        let (actor, steps) = left[at];
        if steps > 0 {
            left[at].1 -= 1;
            order.push(actor);
            every_order(left, order, play);
            order.pop();
            left[at].1 += 1;
        }
    }
}

#[test]
fn i4_no_order_of_writer_request_and_scrape_shows_what_is_gone() {
    let mut play = Play::new([None, None], [], 1);
    let mut uid = 0;
    let mut orders = 0;
    let steps = [
        (Actor::Writer, 3),
        (Actor::Request(0, 0), 3),
        (Actor::Scrape(0), 2),
    ];
    every_order(&mut steps.clone(), &mut Vec::new(), &mut |order| {
        orders += 1;
        // Gone, made anew, dearer, and gone with all others.
        for change in [[2, 0], [3, 0], [1, 0], [2, 2]] {
            uid += 10;
            let before = [sold(uid, 10), sold(uid + 1, 20)];
            play.waiting.push_back(before);
            play.end();
            play.waiting.push_back(changed(before, change, uid + 2));
            for actor in order {
                play.step(*actor);
            }
            play.end();
        }
    });
    assert_eq!(orders, 560, "8! / (3! 3! 2!)");
}

/// What becomes of each offer with an update.
fn change() -> impl Strategy<Value = [u8; OFFERS]> {
    prop::array::uniform2(0..4_u8)
}

/// A market after a change; `next` is the first UID that nobody had, and a price that nobody asked for.
fn changed(market: Market, change: [u8; OFFERS], next: u32) -> Market {
    let mut after = market;
    for (number, (sold, change)) in (next..).zip(after.iter_mut().zip(change)) {
        *sold = match (change, *sold) {
            (0, sold) => sold,
            (1, Some(same)) => Some(Sold {
                price: number.into(),
                ..same
            }),
            (2, Some(_)) => None,
            (_, _) => self::sold(number, number.into()),
        };
    }
    after
}

fn actor() -> impl Strategy<Value = Actor> {
    prop_oneof![
        3 => Just(Actor::Writer),
        4 => (0..3_usize, 0..OFFERS).prop_map(|(number, path)| Actor::Request(number, path)),
        2 => (0..3_usize).prop_map(Actor::Scrape),
    ]
}

proptest! {
    /// The same with several of each, and many updates.
    #[test]
    fn i4_holds_in_random_orders_of_many(
        changes in prop::collection::vec(change(), 1..12),
        order in prop::collection::vec(actor(), 0..120),
    ) {
        let first = [sold(1, 1), None];
        let updates = changes.iter().zip((10..).step_by(OFFERS));
        let updates = updates.scan(first, |market, (change, next)| {
            *market = changed(*market, *change, next);
            Some(*market)
        });
        let mut play = Play::new(first, updates, 3);
        for actor in order {
            play.step(actor);
        }
        play.end();
    }
}
