//! The page is what Prometheus reads, so these tests read it back with a checker of the exposition
//! format that refuses what Prometheus (and `promtool check metrics`) refuses.

use super::offers::page::ZERO_REASONS_UP_TO;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Series text (`name{labels}`) to value, of a page that keeps to the exposition format.
pub(crate) type Series = BTreeMap<String, f64>;

/// Reads a page: HELP and TYPE once and before the samples of a family, families in one piece,
/// names and label syntax valid, no series twice.
pub(crate) fn read(page: &str) -> Result<Series, String> {
    let mut series = Series::new();
    let mut finished = BTreeSet::new();
    let mut family: Option<(String, String)> = None;
    let mut help = None;
    assert!(
        page.is_empty() || page.ends_with('\n'),
        "the last line has no end"
    );
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest
                .split_once(' ')
                .ok_or(format!("no help text: {line}"))?;
            if text.trim().is_empty() || !finished.insert(name.to_owned()) {
                return Err(format!("family without help or in two pieces: {line}"));
            }
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(format!("no type: {line}"))?;
            if help.as_deref() != Some(name) {
                return Err(format!("TYPE without its HELP: {line}"));
            }
            if (kind == "counter") != name.ends_with("_total") {
                return Err(format!(
                    "a counter and only a counter ends in _total: {line}"
                ));
            }
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (name, value) = sample(line)?;
            let (of, kind) = family
                .as_ref()
                .ok_or(format!("sample without family: {line}"))?;
            let bare = name.split('{').next().unwrap_or_default();
            let suffix = bare
                .strip_prefix(of.as_str())
                .ok_or(format!("foreign sample: {line}"))?;
            let suffixes: &[&str] = if kind == "histogram" {
                &["_bucket", "_sum", "_count"]
            } else {
                &[""]
            };
            if !suffixes.contains(&suffix) {
                return Err(format!("sample of another family: {line}"));
            }
            if series.insert(name.to_owned(), value).is_some() {
                return Err(format!("series twice: {line}"));
            }
        }
    }
    Ok(series)
}

/// Splits a sample into its series and value and checks the syntax of both.
fn sample(line: &str) -> Result<(&str, f64), String> {
    let (name, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
    let value = value.parse().map_err(|error| format!("{error}: {line}"))?;
    let (bare, labels) = name.split_once('{').unwrap_or((name, "}"));
    let is_name = |text: &str| {
        !text.is_empty()
            && !text.starts_with(|first: char| first.is_ascii_digit())
            && text
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || one == '_')
    };
    if !is_name(bare) {
        return Err(format!("metric name: {line}"));
    }
    let mut rest = labels;
    while rest != "}" {
        let (label, after) = rest.split_once("=\"").ok_or(format!("label: {line}"))?;
        if !is_name(label) {
            return Err(format!("label name {label:?}: {line}"));
        }
        let mut end = None;
        let mut characters = after.char_indices();
        while let Some((at, one)) = characters.next() {
            match one {
                '"' => {
                    end = Some(at);
                    break;
                }
                '\\' => {
                    let escaped = characters.next().map(|(_, escaped)| escaped);
                    if !matches!(escaped, Some('\\' | '"' | 'n')) {
                        return Err(format!("escape: {line}"));
                    }
                }
                _ => {}
            }
        }
        let after_quote = end.and_then(|end| after.get(end + 1..));
        let after_quote = after_quote.ok_or(format!("open label value: {line}"))?;
        rest = after_quote.strip_prefix(',').unwrap_or(after_quote);
    }
    Ok((name, value))
}

pub(crate) fn labels(namespace: &str, name: &str) -> OfferLabels {
    OfferLabels {
        namespace: namespace.into(),
        name: name.into(),
        chain: "eip155:84532".into(),
        asset_symbol: "USDC".into(),
        asset: Arc::new(AssetLabels::new(
            "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            6,
        )),
    }
}

fn offer(labels: &OfferLabels) -> Arc<OfferCounters> {
    Arc::new(OfferCounters::new(labels))
}

fn page(counters: &[Arc<OfferCounters>], shown: PerOffer) -> String {
    OfferPage::new("x402_verifier", counters.iter(), shown).collect()
}

fn block(family: &str, namespace: &str, name: &str, more: &str) -> String {
    format!(
        "x402_verifier_{family}{{offer_namespace=\"{namespace}\",offer_name=\"{name}\",\
         chain=\"eip155:84532\",asset_symbol=\"USDC\"{more}}}"
    )
}

const ASSET: &str = ",asset=\"0x036CbD53842c5426634e7929541eC2318f3dCF7e\"";

/// R7, P-54: a live offer has all its series from the start, but for rare reasons and the time of
/// a success that never was.
#[test]
fn an_offer_without_requests_has_its_series_at_zero() {
    let series = read(&page(&[offer(&labels("shop", "api"))], PerOffer::All)).unwrap();
    let mut expected = Series::new();
    for family in [
        "requests_total",
        "payment_required_total",
        "payment_verified_total",
        "payment_failed_total",
        "charged_requests_total",
        "upstream_failed_after_verify_total",
    ] {
        expected.insert(block(family, "shop", "api", ""), 0.0);
    }
    for reason in [
        "payment_invalid",
        "no_matching_requirement",
        "facilitator_unreachable",
        "settlement_unknown",
    ] {
        let more = format!(",reason=\"{reason}\"");
        expected.insert(
            block("payment_failure_reasons_total", "shop", "api", &more),
            0.0,
        );
    }
    expected.insert(
        block("charged_atomic_units_total", "shop", "api", ASSET),
        0.0,
    );
    let info = format!("{ASSET},decimals=\"6\"");
    expected.insert(block("offer_info", "shop", "api", &info), 1.0);
    assert_eq!(series, expected);
}

#[test]
fn every_counter_reaches_its_own_family() {
    let one = offer(&labels("shop", "api"));
    (0..2).for_each(|_| one.request());
    (0..3).for_each(|_| one.payment_required());
    (0..4).for_each(|_| one.payment_verified());
    (0..5).for_each(|_| one.payment_failed(FailureReason::Busy));
    one.payment_failed(FailureReason::PaymentInvalid);
    (0..7).for_each(|_| one.upstream_failed());
    one.charged(1_000, 1_790_000_000);
    one.charged(500, 1_780_000_000);
    let series = read(&page(&[one], PerOffer::All)).unwrap();
    let value = |family: &str, more: &str| series[&block(family, "shop", "api", more)];
    assert_eq!(value("requests_total", ""), 2.0);
    assert_eq!(value("payment_required_total", ""), 3.0);
    assert_eq!(value("payment_verified_total", ""), 4.0);
    assert_eq!(value("payment_failed_total", ""), 6.0);
    assert_eq!(
        value("payment_failure_reasons_total", ",reason=\"busy\""),
        5.0
    );
    assert_eq!(
        value(
            "payment_failure_reasons_total",
            ",reason=\"payment_invalid\""
        ),
        1.0
    );
    assert_eq!(value("upstream_failed_after_verify_total", ""), 7.0);
    assert_eq!(value("charged_requests_total", ""), 2.0);
    assert_eq!(value("charged_atomic_units_total", ASSET), 1_500.0);
    assert_eq!(
        value("last_payment_success_seconds", ""),
        1_790_000_000.0,
        "never moves back"
    );
}

#[test]
fn a_restored_success_never_moves_a_later_one_back() {
    let one = offer(&labels("shop", "api"));
    one.charged(1, 200);
    one.restore_last_success(100);
    let name = block("last_payment_success_seconds", "shop", "api", "");
    assert_eq!(
        read(&page(&[Arc::clone(&one)], PerOffer::All)).unwrap()[&name],
        200.0
    );
    one.restore_last_success(300);
    assert_eq!(read(&page(&[one], PerOffer::All)).unwrap()[&name], 300.0);
}

/// 64 bits overflow at 18.4 tokens of 18 decimals.
#[test]
fn charged_units_have_128_bits_and_stop_at_their_end() {
    let one = offer(&labels("shop", "api"));
    one.charged(u128::from(u64::MAX), 1);
    one.charged(1, 1);
    let line = format!(
        "{} 18446744073709551616\n",
        block("charged_atomic_units_total", "shop", "api", ASSET)
    );
    assert!(page(&[Arc::clone(&one)], PerOffer::All).contains(&line));
    one.charged(u128::MAX, 1);
    let line = format!(
        "{} {}\n",
        block("charged_atomic_units_total", "shop", "api", ASSET),
        u128::MAX
    );
    assert!(page(&[one], PerOffer::All).contains(&line));
}

#[test]
fn charged_units_are_not_torn_by_threads() {
    let one = offer(&labels("shop", "api"));
    let step = u128::from(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| one.charged(step, 1)));
        }
    });
    let line = format!(
        "{} {}\n",
        block("charged_atomic_units_total", "shop", "api", ASSET),
        step * 4_000
    );
    assert!(page(&[one], PerOffer::All).contains(&line));
}

/// Prometheus refuses a whole scrape for one duplicate series.
#[test]
fn sets_with_one_label_block_are_one_series() {
    let mut other_asset = labels("", "");
    let address = "0x0000000000000000000000000000000000000001";
    other_asset.asset = Arc::new(AssetLabels::new(address, 18));
    let sets = [
        offer(&labels("", "")),
        offer(&labels("a", "b")),
        offer(&other_asset),
        offer(&labels("", "")),
    ];
    sets[0].request();
    sets[2].request();
    sets[2].charged(7, 50);
    sets[3].charged(5, 40);
    sets[3].payment_failed(FailureReason::PaymentUsed);
    // A set that is named twice counts once.
    let named = [&sets[..], &sets[..]].concat();
    let series = read(&page(&named, PerOffer::All)).unwrap();
    let value = |family: &str, more: &str| series[&block(family, "", "", more)];
    assert_eq!(value("requests_total", ""), 2.0);
    assert_eq!(value("charged_requests_total", ""), 2.0);
    assert_eq!(value("last_payment_success_seconds", ""), 50.0);
    assert_eq!(
        value("payment_failure_reasons_total", ",reason=\"payment_used\""),
        1.0
    );
    assert_eq!(value("charged_atomic_units_total", ASSET), 5.0);
    let other = ",asset=\"0x0000000000000000000000000000000000000001\"";
    assert_eq!(value("charged_atomic_units_total", other), 7.0);
    assert_eq!(value("offer_info", &format!("{ASSET},decimals=\"6\"")), 1.0);
    assert_eq!(
        value("offer_info", &format!("{other},decimals=\"18\"")),
        1.0
    );
}

#[test]
fn per_offer_families_can_be_bounded() {
    let [quiet, busy, paid] = ["quiet", "busy", "paid"].map(|name| offer(&labels("shop", name)));
    busy.request();
    paid.restore_last_success(1);
    let sets = [quiet, busy, paid];
    assert_eq!(page(&sets, PerOffer::None), "");
    let active = page(&sets, PerOffer::Active);
    assert!(
        read(&active)
            .unwrap()
            .contains_key(&block("requests_total", "shop", "busy", ""))
    );
    assert!(active.contains("\"paid\"") && !active.contains("\"quiet\""));
    assert!(page(&sets, PerOffer::All).contains("\"quiet\""));
}

#[test]
fn a_family_without_series_is_not_announced() {
    let text = page(&[offer(&labels("shop", "api"))], PerOffer::All);
    assert!(!text.contains("last_payment_success_seconds"));
    assert_eq!(page(&[], PerOffer::All), "");
}

/// The page never exists as a whole: chunks are bounded, and cut between lines.
#[test]
fn a_large_page_comes_in_bounded_chunks() {
    let sets: Vec<_> = (0..2_000)
        .map(|n| offer(&labels("shop", &format!("offer-{n}"))))
        .collect();
    let chunks: Vec<_> = OfferPage::new("x402_verifier", sets.iter(), PerOffer::All).collect();
    assert!(chunks.len() > 10);
    for chunk in &chunks {
        assert!(chunk.len() <= CHUNK + 4096, "{}", chunk.len());
        assert!(chunk.ends_with('\n'));
    }
    let series = read(&chunks.concat()).unwrap();
    assert_eq!(series.len(), 2_000 * 12);
}

/// R7: zeros from the start are for families without `reason`; with very many offers for those alone.
#[test]
fn ten_thousand_idle_offers_are_under_a_hundred_thousand_series_and_failures_stay() {
    let sets: Vec<_> = (0..10_000)
        .map(|n| offer(&labels("shop", &format!("offer-{n}"))))
        .collect();
    sets[7].payment_failed(FailureReason::PaymentUsed);
    let series = read(&page(&sets, PerOffer::All)).unwrap();
    assert_eq!(series.len(), 10_000 * 8 + 1);
    let few = read(&page(&sets[..ZERO_REASONS_UP_TO], PerOffer::All)).unwrap();
    assert_eq!(few.len(), ZERO_REASONS_UP_TO * 12 + 1);
    let failed = block(
        "payment_failure_reasons_total",
        "shop",
        "offer-7",
        ",reason=\"payment_used\"",
    );
    assert_eq!((series[&failed], few[&failed]), (1.0, 1.0));
}

/// 100,000 offers are scraped in under 250 ms by a release build; a debug build is some ten times
/// slower. This prints its time and guards against anything worse than linear.
#[test]
fn a_hundred_thousand_offers_are_rendered_without_delay() {
    let sets: Vec<_> = (0..100_000)
        .map(|n| offer(&labels("shop", &format!("offer-{n}"))))
        .collect();
    let start = std::time::Instant::now();
    let bytes: usize = OfferPage::new("x402_verifier", sets.iter(), PerOffer::All)
        .map(|chunk| chunk.len())
        .sum();
    let elapsed = start.elapsed();
    println!("{} offers, {bytes} bytes, {elapsed:?}", sets.len());
    assert!(bytes > 50_000_000);
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
}

proptest! {
    /// Whatever a seller calls an offer, the page parses and its series are told apart.
    #[test]
    fn any_label_value_keeps_the_page_readable(names in proptest::collection::vec(("(?s).*", "(?s).*"), 0..8)) {
        let sets: Vec<_> = names.iter().map(|(namespace, name)| offer(&labels(namespace, name))).collect();
        let text = page(&sets, PerOffer::All);
        let series = read(&text).map_err(TestCaseError::fail)?;
        let distinct: BTreeSet<_> = names.iter().collect();
        prop_assert_eq!(series.len(), distinct.len() * 12);
    }
}

fn gauges() -> TableGauges {
    TableGauges {
        routes: vec![("live", 3), ("closed", 0)],
        generation: 7,
        age: Duration::from_millis(1_500),
        settle_never_routes: 2,
        sources: vec![("file", true), ("kube", false)],
    }
}

/// P-54: closed labels have all their series from the start.
#[test]
fn every_process_wide_series_exists_from_the_start() {
    let metrics =
        Metrics::with_ambiguity_classes("x402_verifier", &["form", "encoded_slash"]).unwrap();
    let series = read(&metrics.render(&gauges())).unwrap();
    let count = |family: &str| {
        let open = format!("x402_verifier_{family}{{");
        series
            .iter()
            .filter(|(name, _)| name.starts_with(&open))
            .map(|(_, value)| value)
            .sum::<f64>()
    };
    let number = |family: &str| {
        let open = format!("x402_verifier_{family}{{");
        series.keys().filter(|name| name.starts_with(&open)).count()
    };
    for (family, expected) in [
        ("request_duration_seconds_count", 8),
        ("facilitator_request_duration_seconds_count", 10),
        ("ledger_operations_total", 10),
        ("reloads_total", 4),
        ("status_writes_total", 4),
        ("untrusted_requests_total", 4),
        ("ambiguous_targets_total", 3),
    ] {
        assert_eq!(number(family), expected, "{family}");
        assert_eq!(count(family), 0.0, "{family}");
    }
    assert_eq!(count("build_info"), 1.0);
    assert_eq!(series["x402_verifier_claims_in_flight"], 0.0);
    assert_eq!(series["x402_verifier_payments_unknown"], 0.0);
    assert_eq!(series["x402_verifier_routes{state=\"live\"}"], 3.0);
    assert_eq!(series["x402_verifier_routes{state=\"closed\"}"], 0.0);
    assert_eq!(series["x402_verifier_table_generation"], 7.0);
    assert_eq!(series["x402_verifier_table_age_seconds"], 1.5);
    assert_eq!(series["x402_verifier_settle_never_routes"], 2.0);
    assert_eq!(series["x402_verifier_source_up{source=\"file\"}"], 1.0);
    assert_eq!(series["x402_verifier_source_up{source=\"kube\"}"], 0.0);
    assert!(series["process_resident_memory_bytes"] > 0.0);
}

#[test]
fn what_is_counted_is_rendered() {
    let metrics = Metrics::with_ambiguity_classes("x402_verifier", &["form"]).unwrap();
    metrics.request(OutcomeLabel::Admit, Duration::from_millis(700));
    metrics.facilitator_call(
        FacilitatorOperation::Settle,
        FacilitatorResult::Timeout,
        Duration::from_secs(30),
    );
    metrics.ledger_operation(LedgerOperation::Claim, false);
    metrics.ambiguous_target("form");
    metrics.ambiguous_target("nobody listed this");
    metrics.untrusted_request(UntrustedClass::DoubledHeader);
    metrics.reload(ReloadSource::File, true);
    metrics.claims_in_flight(2);
    metrics.claims_in_flight(-1);
    metrics.set_payments_unknown(u64::MAX);
    let series = read(&metrics.render(&gauges())).unwrap();
    let value = |name: &str| series[&format!("x402_verifier_{name}")];
    assert_eq!(
        value("request_duration_seconds_count{outcome=\"admit\"}"),
        1.0
    );
    assert_eq!(
        value("request_duration_seconds_bucket{outcome=\"admit\",le=\"0.5\"}"),
        0.0
    );
    assert_eq!(
        value("request_duration_seconds_bucket{outcome=\"admit\",le=\"1\"}"),
        1.0
    );
    let call = "operation=\"settle\",result=\"timeout\"";
    assert_eq!(
        value(&format!(
            "facilitator_request_duration_seconds_sum{{{call}}}"
        )),
        30.0
    );
    assert_eq!(
        value("ledger_operations_total{operation=\"claim\",result=\"error\"}"),
        1.0
    );
    assert_eq!(
        value("ledger_operations_total{operation=\"claim\",result=\"ok\"}"),
        0.0
    );
    assert_eq!(value("ambiguous_targets_total{class=\"form\"}"), 1.0);
    assert_eq!(value("ambiguous_targets_total{class=\"other\"}"), 1.0);
    assert_eq!(
        value("untrusted_requests_total{class=\"doubled_header\"}"),
        1.0
    );
    assert_eq!(value("reloads_total{result=\"ok\",source=\"file\"}"), 1.0);
    assert_eq!(value("claims_in_flight"), 1.0);
    assert!(value("payments_unknown") > 9e18, "never negative");
}

#[test]
fn a_prefix_must_be_a_metric_name() {
    assert_eq!(
        Metrics::new("obol_x402_verifier").unwrap().prefix(),
        "obol_x402_verifier"
    );
    assert_eq!(
        Metrics::new("x402_verifier_").unwrap().prefix(),
        "x402_verifier"
    );
    for wrong in ["", "_", "4x", "x402-verifier", "x 402", "x:402", "é"] {
        let error = Metrics::new(wrong).unwrap_err().to_string();
        assert!(
            error.contains("as in \"x402_verifier\""),
            "{wrong:?}: {error}"
        );
    }
}
