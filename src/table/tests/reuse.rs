//! What a writer keeps from table to table changes nothing: after every update it has the table of a
//! writer that forgets everything it made before each one.

use super::*;
use crate::metrics::OfferCounters;
use crate::offer::{Declared, Offer, Problem};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

/// A step of a random history: what happens, and three choices.
type Step = [u8; 4];

const NAMESPACES: [&str; 3] = ["n1", "n2", "n3"];
const BASES: [&str; 4] = ["/services/a", "/services/a/b", "/services/c", "/d"];
const PATTERNS: [&str; 10] = [
    "/services/a/*",
    "/services/c/x",
    "/d/*",
    "/d",
    "/free/*",
    "/Free/x",
    "/free/p*/z",
    "/x/*[/y",
    "/*",
    "/services/a/b/",
];
const TARGETS: [&str; 16] = [
    "/",
    "/services/a",
    "/services/a/b/x",
    "/services/c/x",
    "/services/c/free/1",
    "/services/zz",
    "/d",
    "/d/free/x",
    "//d/./x",
    "/free/x",
    "/FREE/X",
    "/free/pq/z",
    "/x/q",
    "/old/y",
    "/new/z",
    "/services%2fa/b",
];

/// The sources as they are, and how many things have had a number.
struct History {
    settings: Settings,
    file: Vec<Arc<Offer>>,
    kube: Vec<Arc<Offer>>,
    now: Timestamp,
    number: u32,
}

/// A writer, and the identity of every counter it ever showed.
struct Seen {
    writer: TableWriter,
    counters: HashMap<*const OfferCounters, usize>,
    /// So that no address comes back.
    kept: Vec<Arc<OfferCounters>>,
}

/// A writer that keeps what it made, and one that makes everything anew.
struct Pair {
    keeping: Seen,
    forgetting: Seen,
}

impl Pair {
    fn new() -> Self {
        Self {
            keeping: Seen::new(),
            forgetting: Seen::new(),
        }
    }

    /// Both make the same of an update.
    fn agree(
        &mut self,
        update: impl Fn() -> Update,
        now: Timestamp,
        after: &str,
    ) -> Result<(), TestCaseError> {
        self.forgetting.writer.forget();
        let kept = self.keeping.apply(update(), now);
        let made = self.forgetting.apply(update(), now);
        let differ = kept
            .lines()
            .zip(made.lines())
            .find(|(kept, made)| kept != made);
        prop_assert_eq!(differ, None, "after {}", after);
        prop_assert_eq!(kept.lines().count(), made.lines().count());
        Ok(())
    }
}

impl Seen {
    fn new() -> Self {
        let (mut writer, _reader) = TableWriter::new();
        writer.expect_source("kube");
        Self {
            writer,
            counters: HashMap::new(),
            kept: Vec::new(),
        }
    }

    fn id(&mut self, counters: &Arc<OfferCounters>) -> usize {
        let next = self.counters.len();
        let id = *self.counters.entry(Arc::as_ptr(counters)).or_insert(next);
        if id == next {
            self.kept.push(counters.clone());
        }
        id
    }

    /// Everything there is to see of an update, as text.
    fn apply(&mut self, update: Update, now: Timestamp) -> String {
        let applied = self.writer.apply(update, now);
        let table = &applied.table;
        let mut text = format!(
            "generation {} at {} tick {:?} {:?}\nsources {:?}\n",
            table.generation,
            table.built_at,
            table.next_tick,
            applied.next_tick,
            table.report.sources
        );
        for mut paths in [applied.path_changes.clone(), applied.path_removals.clone()] {
            paths.sort();
            text += &format!("paths {paths:?}\n");
        }
        for row in table.report.rows() {
            text += &format!("{row:?}\n");
        }
        let states: Vec<_> = table.report.states().collect();
        text += &format!("{states:?}\n");
        let mut used = BTreeSet::new();
        for entry in table.routes() {
            let ids: Vec<_> = entry.counters.iter().map(|it| self.id(it)).collect();
            text += &format!("{} counts {ids:?}\n", entry.key());
            used.extend(ids);
        }
        let shown: BTreeSet<_> = table.counters().map(|it| self.id(it)).collect();
        assert_eq!(shown, used, "no ghost series, and none missing (R7)");
        let hosts = [None, Some("h1"), Some("h2")];
        let pins = [
            None,
            Some(("n1", "o0")),
            Some(("n2", "o1")),
            Some(("f", "o")),
        ];
        for raw in TARGETS {
            let target = Target::parse(raw, None).unwrap();
            for (host, pin) in hosts.iter().flat_map(|host| pins.map(|pin| (*host, pin))) {
                let pin = pin.map(|(namespace, name)| Pin { namespace, name });
                let found = table.resolve(&target, host, pin, now);
                let meaning = match found.resolution {
                    Resolution::Route(entry) => format!(
                        "{} {:?} {:?} {:?} {:?} {:?}",
                        entry.key(),
                        entry.state,
                        entry.gate,
                        entry.settle,
                        entry.requirements,
                        entry.endpoint
                    ),
                    other @ (Resolution::Closed
                    | Resolution::NoRoute
                    | Resolution::Unmatched
                    | Resolution::UnknownPin
                    | Resolution::Ambiguous) => format!("{other:?}"),
                };
                text += &format!("{raw} {host:?} {pin:?}: {meaning} {:?}\n", found.ambiguity);
            }
        }
        text
    }
}

fn pick<T: Clone>(list: &[T], choice: u8) -> T {
    list[usize::from(choice) % list.len()].clone()
}

impl History {
    fn new() -> Self {
        let settings = settings(Unmatched::Allow);
        Self {
            settings,
            file: vec![Arc::new(file(Vec::new()))],
            kube: Vec::new(),
            now: at(0),
            number: 0,
        }
    }

    fn new_route(&mut self, pattern: &str, choice: u8) -> Declared {
        self.number += 1;
        let price = u128::from(choice % 3) + 1;
        Declared::from(match choice % 8 {
            0 => free(pattern),
            1 => broken(pattern),
            2 => route(pattern, Gate::Auth, 0),
            3 => Route {
                settle: Settle::Never,
                description: Some("words".into()),
                ..route(pattern, Gate::Paid, price)
            },
            4 => Route {
                facilitator: "https://nowhere".into(),
                ..paid(pattern)
            },
            _ => route(pattern, Gate::Paid, price),
        })
    }

    fn new_offer(&mut self, [_, a, b, c]: Step) -> Offer {
        self.number += 1;
        let base = pick(&BASES, b);
        let name = format!("o{}", c % 3);
        let age = i64::from(a % 5);
        let mut new = offer(pick(&NAMESPACES, a), &name, age, base);
        let identity = Arc::make_mut(&mut new.identity);
        identity.uid = Some(format!("uid-{}", self.number).into());
        identity.hostname = match b % 7 {
            0 => Some("h1".into()),
            1 => Some("h2".into()),
            _ => None,
        };
        new.routes = (0..1 + c % 3)
            .map(|at| match at {
                0 => self.new_route(&format!("{base}/*"), a.wrapping_add(5)),
                1 => self.new_route(&format!("{base}/free/*"), b.wrapping_mul(8)),
                _ => self.new_route(pick(&PATTERNS, a), b),
            })
            .collect();
        new
    }

    /// Changes one offer of a list in a random way; the rest of the list stays what it is.
    fn edit(&mut self, mut list: Vec<Arc<Offer>>, step: Step) -> Vec<Arc<Offer>> {
        let [_, a, b, c] = step;
        if list.is_empty() {
            return list;
        }
        let at = usize::from(a) % list.len();
        let mut offer = Offer::clone(&list[at]);
        let route = usize::from(b) % offer.routes.len().max(1);
        match c % 12 {
            0..=2 if !offer.routes.is_empty() => {
                let pattern = offer.routes[route].pattern.clone();
                offer.routes[route] = self.new_route(&pattern, (b / 8).wrapping_add(c));
            }
            3 => {
                let new = self.new_route(pick(&PATTERNS, b), c / 12);
                offer.routes.insert(route.min(offer.routes.len()), new);
            }
            4 if !offer.routes.is_empty() => drop(offer.routes.remove(route)),
            5 => offer.routes.rotate_left(route),
            6 if !offer.routes.is_empty() => {
                let again = offer.routes[route].clone();
                offer.routes.push(again);
            }
            7 => offer.generation = Some(i64::from(b)),
            8 => {
                let until = self.now + jiff::SignedDuration::from_secs(i64::from(b % 9));
                offer.phase = pick(
                    &[
                        Phase::Draining { until },
                        Phase::Withdrawn(Withdrawal::Paused),
                        Phase::Live,
                    ],
                    b,
                );
            }
            9 => {
                let problem = Problem {
                    code: "invalid_spec",
                    message: "what".to_owned(),
                };
                offer.problems = if b % 2 == 0 {
                    vec![problem]
                } else {
                    Vec::new()
                };
            }
            10 => {
                let base = (b % 4 != 0).then(|| pick(&BASES, b).into());
                Arc::make_mut(&mut offer.identity).base_path = base;
            }
            // The same again in another object.
            _ => {}
        }
        list[at] = Arc::new(offer);
        list
    }

    fn reset(&mut self, [_, a, b, _]: Step) {
        let settings = &mut self.settings;
        match a % 9 {
            0 => settings.verify_only ^= true,
            1 => settings.managed_prefixes = vec![pick(&["/services/", "/d", "/new"], b).into()],
            2 => {
                settings.path_owners = match b % 3 {
                    0 => Vec::new(),
                    1 => vec![PathOwner {
                        prefix: Some("/services/a".into()),
                        host: None,
                        namespaces: vec!["n2".into()],
                    }],
                    _ => vec![PathOwner {
                        prefix: None,
                        host: Some("h1".into()),
                        namespaces: vec!["n1".into(), "n3".into()],
                    }],
                };
            }
            3 => settings.closed_path_retention = std::time::Duration::from_secs(u64::from(b % 20)),
            4 => settings.service_name = (b % 2 == 0).then(|| "shop".into()),
            5 => {
                let mut facilitator = crate::pricing::FacilitatorSettings::default();
                let value = format!("v{}", b % 2);
                facilitator.verify_headers = vec![("x-key".to_owned(), value.into())];
                settings
                    .facilitators
                    .insert(FACILITATOR.into(), facilitator);
            }
            6 => settings.closed_paths_per_namespace = usize::from(b % 3),
            7 => settings.unmatched = pick(&both(), b),
            _ => {
                settings.facilitators.remove(FACILITATOR);
                if b % 3 != 0 {
                    *settings = Settings {
                        facilitators: super::settings(Unmatched::Deny).facilitators,
                        ..settings.clone()
                    };
                }
            }
        }
    }

    fn document(&self) -> Update {
        Update::Document {
            settings: Box::new(self.settings.clone()),
            offers: self.file.clone(),
        }
    }

    fn cluster(&self) -> Update {
        Update::Offers {
            source: "kube",
            offers: self.kube.clone(),
        }
    }

    /// The update of a step; called for each writer with the same result.
    fn update(&mut self, step: Step) -> fn(&Self) -> Update {
        let [what, a, b, c] = step;
        self.now += jiff::SignedDuration::from_secs(i64::from(c % 4));
        match what % 16 {
            0..=3 => {
                self.kube = self.edit(self.kube.clone(), step);
                |history: &Self| history.cluster()
            }
            4..=5 => {
                let new = Arc::new(self.new_offer(step));
                let at = usize::from(b) % (self.kube.len() + 1);
                self.kube.insert(at, new);
                |history: &Self| history.cluster()
            }
            6 => {
                if !self.kube.is_empty() {
                    self.kube.remove(usize::from(a) % self.kube.len());
                }
                |history: &Self| history.cluster()
            }
            7 => {
                if !self.kube.is_empty() {
                    let at = usize::from(a) % self.kube.len();
                    self.number += 1;
                    let mut again = Offer::clone(&self.kube[at]);
                    let identity = Arc::make_mut(&mut again.identity);
                    identity.uid = Some(format!("uid-{}", self.number).into());
                    identity.created = Some(self.now);
                    self.kube[at] = Arc::new(again);
                    let turn = usize::from(b) % self.kube.len();
                    self.kube.rotate_left(turn);
                }
                |history: &Self| history.cluster()
            }
            8..=10 => {
                self.file = self.edit(self.file.clone(), step);
                |history: &Self| history.document()
            }
            11 => {
                if self.file.len() > 3 {
                    self.file.truncate(1);
                } else {
                    let routes = vec![paid(pick(&PATTERNS, a))];
                    let mut new = named("f", "o", routes);
                    let host = (b % 2 == 0).then(|| "h1".into());
                    Arc::make_mut(&mut new.identity).hostname = host;
                    self.file.push(Arc::new(new));
                }
                |history: &Self| history.document()
            }
            12 => {
                self.reset(step);
                |history: &Self| history.document()
            }
            13 => {
                let later = if a % 5 == 0 {
                    2 * DAY
                } else {
                    i64::from(b % 30)
                };
                self.now += jiff::SignedDuration::from_secs(later);
                |_: &Self| Update::Tick
            }
            14 if a % 2 == 0 => |_: &Self| Update::Failed {
                source: "kube",
                error: "gone".to_owned(),
            },
            14 => |history: &Self| Update::Remembered {
                paths: vec![
                    remembered("/old/*", None),
                    remembered("/services/a/*", Some(history.now)),
                ],
            },
            // Nothing changed.
            _ if a % 2 == 0 => |history: &Self| history.cluster(),
            _ => |history: &Self| history.document(),
        }
    }
}

fn remembered(pattern: &str, closed_at: Option<Timestamp>) -> PathRecord {
    PathRecord {
        host: None,
        pattern: pattern.into(),
        namespace: "n3".into(),
        name: "old".into(),
        uid: "uid-old".into(),
        base: "/services/a".into(),
        closed_at,
    }
}

proptest! {
    #[test]
    fn what_is_kept_from_table_to_table_changes_nothing(
        steps in prop::collection::vec(any::<Step>(), 1..24),
    ) {
        let mut history = History::new();
        let mut pair = Pair::new();
        for step in steps {
            let update = history.update(step);
            pair.agree(|| update(&history), history.now, &format!("{step:?}"))?;
        }
    }
}

/// The point of it all: an unchanged route is the same object in the next table.
#[test]
fn an_unchanged_route_stays_the_same_object_and_so_does_the_index() {
    let mut history = History::new();
    let (mut writer, _reader) = TableWriter::new();
    let routes = ["/a/*", "/b/*", "/c/*"].map(|pattern| Declared::from(paid(pattern)));
    let mut unnamed = file(Vec::new());
    unnamed.routes = routes.to_vec();
    history.file = vec![Arc::new(unnamed.clone())];
    let first = writer.apply(history.document(), at(0)).table;
    unnamed.routes[1] = Declared::from(route("/b/*", Gate::Paid, 7));
    history.file = vec![Arc::new(unnamed.clone())];
    let second = writer.apply(history.document(), at(1)).table;
    let same = |left: &Table, right: &Table| -> Vec<bool> {
        let pairs = left.routes().zip(right.routes());
        pairs
            .map(|(left, right)| Arc::ptr_eq(left, right))
            .collect()
    };
    assert_eq!(same(&first, &second), [true, false, true]);
    assert!(Arc::ptr_eq(&first.index, &second.index));
    unnamed.routes.remove(0);
    history.file = vec![Arc::new(unnamed)];
    let third = writer.apply(history.document(), at(2)).table;
    let moved: Vec<_> = second.routes().skip(1).zip(third.routes()).collect();
    assert!(moved.iter().all(|(left, right)| Arc::ptr_eq(left, right)));
    // What reads reports row by row can tell, too.
    assert!(second.report.has_same(1..3, &third.report, 0..2));
    assert!(first.report.has_same(0..1, &second.report, 0..1));
    assert!(!first.report.has_same(1..2, &second.report, 1..2));
    assert!(!first.report.has_same(0..1, &second.report, 0..2));
    assert!(!Arc::ptr_eq(&second.index, &third.index));
}

/// Offers that come and go one by one, as in a cluster: the step that the random history rarely takes
/// many times in a row.
fn passing(history: &mut History, [what, a, b, c]: Step) {
    history.now += jiff::SignedDuration::from_secs(i64::from(c % 2));
    let count = history.kube.len();
    match what % 8 {
        0..=2 => {
            history.number += 1;
            let number = history.number;
            let base = format!("/services/p{}", b % 24);
            let mut new = offer(
                pick(&NAMESPACES, a),
                &format!("p{number}"),
                i64::from(c),
                &base,
            );
            Arc::make_mut(&mut new.identity).uid = Some(format!("uid-{number}").into());
            let price = u128::from(c % 3) + 1;
            new.routes = match c % 5 {
                0 => vec![
                    Declared::from(route(&format!("{base}/v1/*"), Gate::Paid, price)),
                    Declared::from(free(&format!("{base}/docs/*"))),
                ],
                1 => vec![Declared::from(route(
                    &format!("{base}/x*/y"),
                    Gate::Paid,
                    price,
                ))],
                2 => (0..20)
                    .map(|n| Declared::from(route(&format!("{base}/r{n}"), Gate::Paid, price)))
                    .collect(),
                _ => vec![Declared::from(route(
                    &format!("{base}/*"),
                    Gate::Paid,
                    price,
                ))],
            };
            let at = usize::from(a) % (count + 1);
            history.kube.insert(at, Arc::new(new));
        }
        3..=4 if count > 0 => {
            history.kube.remove(usize::from(a) % count);
        }
        // Made anew under its name.
        5 if count > 0 => {
            let at = usize::from(a) % count;
            history.number += 1;
            let mut again = Offer::clone(&history.kube[at]);
            let identity = Arc::make_mut(&mut again.identity);
            identity.uid = Some(format!("uid-{}", history.number).into());
            identity.created = Some(history.now);
            history.kube[at] = Arc::new(again);
        }
        // Another price, a route less, another path.
        6 if count > 0 => {
            let at = usize::from(a) % count;
            let mut edited = Offer::clone(&history.kube[at]);
            if edited.routes.len() > 1 && b % 2 == 0 {
                edited.routes.pop();
            } else {
                let moved: Arc<str> = format!("/services/p{}/*", b % 24).into();
                let first = edited.routes.first().map(|first| first.pattern.clone());
                let pattern = first.filter(|_| b % 3 != 0).unwrap_or(moved);
                edited.routes.splice(
                    ..edited.routes.len().min(1),
                    [history.new_route(&pattern, c)],
                );
            }
            history.kube[at] = Arc::new(edited);
        }
        _ => history.kube = history.edit(history.kube.clone(), [what, a, b, c]),
    }
}

/// As [`what_is_kept_from_table_to_table_changes_nothing`], for tables that are the last one amended.
#[test]
fn an_amended_table_is_the_one_that_would_be_made_from_nothing() {
    let (amended, tables) = (Cell::new(0), Cell::new(0));
    let steps = prop::collection::vec(any::<Step>(), 1..40);
    let mut config = ProptestConfig::with_source_file(file!());
    // Each compares dozens of whole tables.
    config.cases = config.cases.div_ceil(4);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&steps, |steps| {
        let mut history = History::new();
        let mut pair = Pair::new();
        for writer in [&mut pair.keeping, &mut pair.forgetting] {
            writer.apply(Update::Remembered { paths: Vec::new() }, history.now);
            writer.apply(history.document(), history.now);
        }
        for step in steps {
            passing(&mut history, step);
            pair.agree(|| history.cluster(), history.now, &format!("{step:?}"))?;
            tables.set(tables.get() + 1);
            // Now and then the operator releases a closed path (R4).
            let known = pair.keeping.writer.known();
            if step[3] % 4 == 0
                && let Some(path) = known.get(usize::from(step[1]) % known.len().max(1))
            {
                let released = || Update::Released {
                    paths: vec![PathRecord::clone(path)],
                };
                pair.agree(released, history.now, &format!("the release of {path:?}"))?;
            }
        }
        amended.set(amended.get() + pair.keeping.writer.amended());
        Ok(())
    });
    outcome.unwrap();
    let share = amended.get() * 100 / tables.get();
    assert!(
        share > 20,
        "{share} % of {} tables were amended",
        tables.get()
    );
}

/// Found at random: an offer without routes lost its pin with another of its name.
#[test]
fn who_shares_a_pin_without_having_a_route_keeps_it() {
    let steps = [
        [116, 177, 0, 24],
        [52, 15, 19, 39],
        [56, 0, 0, 0],
        [48, 138, 0, 160],
        [6, 161, 0, 0],
    ];
    let mut history = History::new();
    let mut pair = Pair::new();
    for step in steps {
        let update = history.update(step);
        pair.agree(|| update(&history), history.now, &format!("{step:?}"))
            .unwrap();
    }
}
