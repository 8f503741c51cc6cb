//! Made-up offers for the tests of the table.

use super::*;
use crate::money::{Amount, Asset, Network, TransferMethod};
use crate::offer::{Declared, OfferIdentity, PaymentOption, Phase, Problem, Route};
use crate::pricing::{FacilitatorSettings, Unmatched};
use alloy_primitives::Address;

pub(crate) const FACILITATOR: &str = "https://facilitator.example";

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(super) fn settings(unmatched: Unmatched) -> Settings {
    let mut settings = Settings {
        unmatched,
        ..Settings::default()
    };
    settings
        .facilitators
        .insert(FACILITATOR.into(), FacilitatorSettings::default());
    settings
}

pub(super) fn option(amount: u128) -> PaymentOption {
    PaymentOption {
        network: Network::from_chain_id(84532),
        asset: Arc::new(Asset {
            address: Address::repeat_byte(0xa5),
            symbol: "USDC".into(),
            decimals: 6,
            transfer: TransferMethod::Eip3009,
            eip712_name: "USDC".into(),
            eip712_version: "2".into(),
        }),
        amount: Amount(amount),
        pay_to: Address::repeat_byte(0x11),
        max_timeout_seconds: 600,
        price: "0.001".into(),
    }
}

pub(crate) fn route(pattern: &str, gate: Gate, amount: u128) -> Route {
    Route {
        pattern: pattern.into(),
        gate,
        settle: Settle::Before,
        preflight_pass: false,
        eoa_only: false,
        options: if gate == Gate::Paid {
            vec![option(amount)]
        } else {
            Vec::new()
        },
        facilitator: FACILITATOR.into(),
        upstream_auth: None,
        description: None,
        problems: Box::default(),
    }
}

pub(super) fn paid(pattern: &str) -> Route {
    route(pattern, Gate::Paid, 1000)
}

pub(super) fn free(pattern: &str) -> Route {
    route(pattern, Gate::Free, 0)
}

pub(super) fn broken(pattern: &str) -> Route {
    let problem = Problem {
        code: "invalid_price",
        message: "price is not a number".to_owned(),
    };
    Route {
        problems: [problem].into(),
        options: Vec::new(),
        ..paid(pattern)
    }
}

/// The unnamed offer of the operator's file.
pub(super) fn file(routes: Vec<Route>) -> Offer {
    named("", "", routes)
}

/// A named offer of the operator's file.
pub(super) fn named(namespace: &str, name: &str, routes: Vec<Route>) -> Offer {
    Offer {
        identity: Arc::new(OfferIdentity::of_operator(namespace.into(), name.into())),
        generation: None,
        routes: routes.into_iter().map(Declared::from).collect(),
        phase: Phase::Live,
        problems: Vec::new(),
    }
}

/// The same offer, bound to a host.
pub(super) fn on_host(host: &str, mut offer: Offer) -> Offer {
    Arc::make_mut(&mut offer.identity).hostname = Some(host.into());
    offer
}

/// An offer of a namespace, created at `age`, with one paid route below its base path.
pub(super) fn offer(namespace: &str, name: &str, age: i64, base: &str) -> Offer {
    let uid = format!("uid-{namespace}-{name}-{age}").into();
    Offer {
        identity: Arc::new(OfferIdentity {
            created: Some(at(age)),
            base_path: Some(base.into()),
            ..OfferIdentity::of_namespace(namespace.into(), name.into(), uid)
        }),
        generation: Some(1),
        ..file(vec![paid(&format!("{base}/*"))])
    }
}

/// A writer, its reader, and a clock.
pub(super) struct World {
    pub(super) writer: TableWriter,
    pub(super) reader: TableReader,
    pub(super) settings: Settings,
    pub(super) now: Timestamp,
}

impl World {
    pub(super) fn new(unmatched: Unmatched) -> Self {
        let (writer, reader) = TableWriter::new();
        Self {
            writer,
            reader,
            settings: settings(unmatched),
            now: at(0),
        }
    }

    /// A world in which cluster offers are expected as well.
    pub(super) fn with_cluster(unmatched: Unmatched) -> Self {
        let mut world = Self::new(unmatched);
        world.writer.expect_source("kube");
        world.remember(Vec::new());
        world.file(Vec::new());
        world
    }

    pub(super) fn file(&mut self, offers: Vec<Offer>) -> Applied {
        let settings = Box::new(self.settings.clone());
        let offers = offers.into_iter().map(Arc::new).collect();
        self.writer
            .apply(Update::Document { settings, offers }, self.now)
    }

    pub(super) fn kube(&mut self, offers: Vec<Offer>) -> Applied {
        let offers = offers.into_iter().map(Arc::new).collect();
        self.writer.apply(
            Update::Offers {
                source: "kube",
                offers,
            },
            self.now,
        )
    }

    pub(super) fn remember(&mut self, paths: Vec<PathRecord>) -> Applied {
        self.writer.apply(Update::Remembered { paths }, self.now)
    }

    pub(super) fn tick(&mut self, seconds: i64) -> Applied {
        self.now = at(seconds);
        self.writer.apply(Update::Tick, self.now)
    }

    /// The meaning of a target in one word.
    pub(super) fn ask(&self, raw: &str) -> String {
        self.ask_at(raw, None, None)
    }

    pub(super) fn ask_pin(&self, pin: &str, raw: &str) -> String {
        self.ask_at(raw, None, Some(pin))
    }

    pub(super) fn ask_host(&self, host: &str, raw: &str) -> String {
        self.ask_at(raw, Some(host), None)
    }

    fn ask_at(&self, raw: &str, host: Option<&str>, pin: Option<&str>) -> String {
        let Ok(target) = Target::parse(raw, Some("h")) else {
            return "refused".to_owned();
        };
        let pin = pin.map(|pin| {
            let (namespace, name) = pin.split_once('/').unwrap();
            Pin { namespace, name }
        });
        let table = self.reader.load();
        match table.resolve(&target, host, pin, self.now).resolution {
            Resolution::Route(entry) => {
                let word = match (&entry.state, entry.gate) {
                    (RouteState::Live, Gate::Paid) => "paid",
                    (RouteState::Live, Gate::Free) => "free",
                    (RouteState::Live, Gate::Auth) => "auth",
                    (RouteState::Draining { .. }, _) => "draining",
                    (RouteState::Misconfigured, _) => "broken",
                    (RouteState::Withdrawn, _) => "withdrawn",
                };
                format!("{word} {}", entry.pattern())
            }
            Resolution::Closed => "closed".to_owned(),
            Resolution::NoRoute => "no route".to_owned(),
            Resolution::Unmatched => "unmatched".to_owned(),
            Resolution::UnknownPin => "unknown pin".to_owned(),
            Resolution::Ambiguous => "ambiguous".to_owned(),
        }
    }

    /// State and reason of the rows with this offer name.
    pub(super) fn rows(&self, name: &str) -> Vec<(ReportedState, &'static str)> {
        let table = self.reader.load();
        let rows = table.report.rows().filter(|row| &*row.offer.name == name);
        rows.map(|row| (row.state, row.reason.unwrap_or("")))
            .collect()
    }
}
