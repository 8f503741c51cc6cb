//! The model: what each offer and each route of the file is, and what follows for each path.
//!
//! Terms are numbers. Number 7 is 7 atomic units to the seventh address, and no two writes have the same, so an answer
//! tells which write it is of, and a price with another's address is nobody's.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{harness::challenge_of, parts::http};

/// Offers that things happen to. One more has nothing but news.
pub(super) const OFFERS: usize = 6;
/// An offer is at one of its paths.
pub(super) const SIDES: usize = 2;
/// Routes of the file that come and go. One more has nothing but news.
pub(super) const FILE_ROUTES: usize = 3;

/// What has become of an offer, or of a route of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// It never was.
    Never,
    /// It is sold; what is below `/free` of it may be free.
    Live { terms: u64, free: bool },
    /// It cannot be understood (R3).
    Broken,
    /// Deleted, and held by a finalizer.
    Held,
    /// It was sold (R4).
    Gone,
}

/// An offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shop {
    pub(super) life: Life,
    /// Which of its paths it is at, or was last.
    pub(super) side: usize,
    /// Which of them were ever sold.
    sold: [bool; SIDES],
}

/// The offers of the cluster.
#[derive(Debug, Clone)]
pub(super) struct Shops(pub(super) Vec<Shop>);

/// The routes of the file that come and go.
#[derive(Debug, Clone)]
pub(super) struct File(pub(super) Vec<Life>);

/// Something to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// Below a path of an offer.
    Below(usize, usize),
    /// Below `/free` of it.
    BelowFree(usize, usize),
    /// At the pinned address of an offer.
    Pinned(usize),
    /// A route of the file.
    File(usize),
    /// What the file says is free.
    Open,
}

/// What is answered to somebody who does not pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The price, to whom it belongs.
    Pay(u64),
    Free,
    Misconfigured,
    Withdrawn,
    NoRoute,
    UnknownOffer,
    /// What nobody should ever hear.
    Other(String),
}

impl Default for Shops {
    fn default() -> Self {
        let never = Shop {
            life: Life::Never,
            side: 0,
            sold: [false; SIDES],
        };
        Self(vec![never; OFFERS + 1])
    }
}

impl Default for File {
    fn default() -> Self {
        Self(vec![Life::Never; FILE_ROUTES + 1])
    }
}

impl Shop {
    /// It is sold at one of its paths from here on.
    pub(super) fn open(&mut self, side: usize, terms: u64, free: bool) {
        self.life = Life::Live { terms, free };
        self.side = side;
        self.sold[side] = true;
    }

    /// Where it is not, and where it is no longer.
    fn elsewhere(&self, side: usize) -> Answer {
        if self.sold[side] {
            Answer::Withdrawn
        } else {
            Answer::NoRoute
        }
    }

    fn at(&self, side: usize, below_free: bool) -> Answer {
        match self.life {
            _ if side != self.side => self.elsewhere(side),
            Life::Live { free: true, .. } if below_free => Answer::Free,
            Life::Live { terms, .. } => Answer::Pay(terms),
            Life::Broken => Answer::Misconfigured,
            Life::Never | Life::Held | Life::Gone => self.elsewhere(side),
        }
    }

    fn pinned(&self) -> Answer {
        match self.life {
            Life::Never => Answer::UnknownOffer,
            Life::Live { terms, .. } => Answer::Pay(terms),
            Life::Broken => Answer::Misconfigured,
            Life::Held | Life::Gone => Answer::Withdrawn,
        }
    }
}

/// What a source says.
pub(super) trait World {
    /// Of a site, if it has anything to do with it.
    fn answer(&self, site: Site) -> Option<Answer>;

    /// The paths at which something is now.
    fn present(&self) -> Vec<String>;

    /// `/routes`, in order. What was sold for a moment may never have been seen, so closed rows are only of paths of
    /// which it is `sure`.
    fn rows(&self, sure: &BTreeSet<String>) -> Vec<String>;
}

impl Site {
    /// The paths that it is about.
    pub(super) fn paths(self) -> Vec<String> {
        match self {
            Self::Below(number, side) | Self::BelowFree(number, side) => vec![base(number, side)],
            Self::Pinned(number) => (0..SIDES).map(|side| base(number, side)).collect(),
            Self::File(route) => vec![file_base(route)],
            Self::Open => Vec::new(),
        }
    }
}

impl Answer {
    /// Whether a table that never saw what was there answers so.
    pub(super) fn is_ignorance(&self) -> bool {
        matches!(self, Self::NoRoute | Self::UnknownOffer)
    }

    /// Whether it shows that something is there.
    pub(super) fn is_presence(&self) -> bool {
        matches!(self, Self::Pay(_) | Self::Misconfigured)
    }
}

impl World for Shops {
    fn answer(&self, site: Site) -> Option<Answer> {
        match site {
            Site::Below(number, side) => Some(self.0[number].at(side, false)),
            Site::BelowFree(number, side) => Some(self.0[number].at(side, true)),
            Site::Pinned(number) => Some(self.0[number].pinned()),
            Site::File(_) | Site::Open => None,
        }
    }

    fn present(&self) -> Vec<String> {
        let shops = self.0.iter().enumerate();
        let there = shops.filter(|(_, shop)| !matches!(shop.life, Life::Never | Life::Gone));
        there
            .map(|(number, shop)| base(number, shop.side))
            .collect()
    }

    fn rows(&self, sure: &BTreeSet<String>) -> Vec<String> {
        let mut rows = Vec::new();
        for (number, shop) in self.0.iter().enumerate() {
            for side in 0..SIDES {
                let base = base(number, side);
                rows.extend(row(&base, &shop.at(side, false), sure));
                if shop.at(side, true) == Answer::Free {
                    rows.extend(row(&format!("{base}/free"), &Answer::Free, sure));
                }
            }
        }
        rows.sort();
        rows
    }
}

impl World for File {
    fn answer(&self, site: Site) -> Option<Answer> {
        match site {
            Site::File(route) => Some(match self.0[route] {
                Life::Never => Answer::NoRoute,
                Life::Live { terms, .. } => Answer::Pay(terms),
                Life::Broken => Answer::Misconfigured,
                Life::Held | Life::Gone => Answer::Withdrawn,
            }),
            Site::Open => Some(Answer::Free),
            Site::Below(..) | Site::BelowFree(..) | Site::Pinned(_) => None,
        }
    }

    fn present(&self) -> Vec<String> {
        let routes = self.0.iter().enumerate();
        let there = routes.filter(|(_, life)| matches!(life, Life::Live { .. }));
        there.map(|(route, _)| file_base(route)).collect()
    }

    fn rows(&self, sure: &BTreeSet<String>) -> Vec<String> {
        let answers = (0..=FILE_ROUTES).filter_map(|route| self.answer(Site::File(route)));
        let rows = answers.enumerate();
        rows.filter_map(|(route, answer)| row(&file_base(route), &answer, sure))
            .collect()
    }
}

impl File {
    /// The routes as the file has them.
    pub(super) fn lines(&self) -> String {
        let mut lines = String::new();
        for (route, life) in self.0.iter().enumerate() {
            if let Life::Live { terms, .. } = life {
                let (base, price, payee) = (file_base(route), price(*terms), payee(*terms));
                lines.push_str(&format!(
                    "- {{pattern: \"{base}/*\", price: \"{price}\", payTo: \"{payee}\"}}\n"
                ));
            }
        }
        lines
    }
}

fn row(base: &str, answer: &Answer, sure: &BTreeSet<String>) -> Option<String> {
    match answer {
        Answer::Pay(terms) => Some(format!("{base} live {terms}")),
        Answer::Free => Some(format!("{base} free")),
        Answer::Misconfigured => Some(format!("{base} misconfigured")),
        Answer::Withdrawn => sure.contains(base).then(|| format!("{base} closed")),
        Answer::NoRoute | Answer::UnknownOffer | Answer::Other(_) => None,
    }
}

/// The rows of `/routes` in the model's words. What is always there is left out, and so is what is closed where nobody
/// is `sure` that anything was there.
pub(super) fn rows_of(routes: &Value, sure: &BTreeSet<String>) -> Vec<String> {
    let rows = routes["routes"].as_array().expect("rows");
    let mut cluster = Vec::new();
    let mut file = Vec::new();
    for found in rows {
        let text = |field: &str| found[field].as_str().unwrap_or_default();
        let base = text("pattern").trim_end_matches("/*");
        let told = match (text("state"), text("gate")) {
            ("live", "free") => format!("{base} free"),
            ("live", _) => {
                let told = terms_of(&found["accepts"][0]);
                row(base, &told, sure).unwrap_or_else(|| format!("{base} {told:?}"))
            }
            // What was free below a closed path is closed with it.
            ("closed", _) => {
                let base = base.trim_end_matches("/free");
                if !sure.contains(base) {
                    continue;
                }
                format!("{base} closed")
            }
            (state, _) => format!("{base} {state}"),
        };
        if base.starts_with("/services/") {
            cluster.push(told);
        } else if base.starts_with("/file/") {
            file.push(told);
        }
    }
    for rows in [&mut cluster, &mut file] {
        rows.sort();
        rows.dedup();
    }
    [cluster, file].concat()
}

/// A path of an offer.
pub(super) fn base(number: usize, side: usize) -> String {
    format!("/services/n{number}-{}", ["a", "b"][side])
}

/// The path of a route of the file.
fn file_base(route: usize) -> String {
    format!("/file/f{route}")
}

/// Terms in USDC.
pub(super) fn price(terms: u64) -> String {
    assert!(terms < 1_000_000, "a number of six digits");
    format!("0.{terms:06}")
}

/// Whose the money is.
pub(super) fn payee(terms: u64) -> String {
    format!("0x{:040x}", 0xabcd_0000_0000_u64 + terms)
}

/// What was answered.
pub(super) fn answer_of(answer: &http::Answer) -> Answer {
    let (status, reason) = crate::harness::verdict(answer);
    match (status, reason.as_str()) {
        (200, _) => Answer::Free,
        (402, "payment_required") => terms_of(&challenge_of(answer)["accepts"][0]),
        (403, "no_route") => Answer::NoRoute,
        (403, "unknown_offer") => Answer::UnknownOffer,
        (410, "offer_withdrawn") => Answer::Withdrawn,
        (503, "offer_misconfigured") => Answer::Misconfigured,
        _ => Answer::Other(format!("{status} {reason}")),
    }
}

/// The terms of an option; a price with an address of another is no terms.
fn terms_of(option: &Value) -> Answer {
    let text = |field: &str| option[field].as_str().unwrap_or_default();
    match text("amount").parse() {
        Ok(terms) if payee(terms).eq_ignore_ascii_case(text("payTo")) => Answer::Pay(terms),
        _ => Answer::Other(format!("{} to {}", text("amount"), text("payTo"))),
    }
}
