//! An offer that is deleted and made anew under its name, once and ten thousand times (R4, R7, R11, M13).
//!
//! A name is not an identity: what comes back is another offer with its own price, payee and counters, and of those
//! before it nothing is kept but one closed path.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::seller::{LIVE, Seller};
use crate::{
    harness::{SELLER, Wallet, challenge_of, verdict},
    parts::control_plane::offer,
    scripted::Scripted,
    soak::count,
};

/// Who is paid next.
const HEIR: &str = "0x976EA74026E726554dB657fA54763abd0C3a0aa9";
/// Lines of `/metrics` that an offer has from its start: seven counters, four reasons, units, information.
const SERIES: usize = 12;

/// Thousandths and payee of each heir: another price and another payee each time.
fn sold(number: usize) -> (usize, &'static str) {
    let payee = if number.is_multiple_of(2) {
        SELLER
    } else {
        HEIR
    };
    (number % 900 + 1, payee)
}

/// An offer at the same path.
fn heir(namespace: &str, name: &str, number: usize) -> Value {
    let (thousandths, payee) = sold(number);
    let mut heir = offer(namespace, name, &format!("0.{thousandths:03}"));
    heir["spec"]["payment"]["payTo"] = json!(payee);
    heir
}

/// Amount and payee that a challenge or a call of the facilitator names.
fn terms(requirement: &Value) -> (String, String) {
    let text = |field: &str| {
        requirement[field]
            .as_str()
            .unwrap_or_default()
            .to_lowercase()
    };
    (text("amount"), text("payTo"))
}

/// What an heir asks for.
fn asked(number: usize) -> (String, String) {
    let (thousandths, payee) = sold(number);
    ((thousandths * 1_000).to_string(), payee.to_lowercase())
}

/// What was settled, in order.
fn settled(facilitator: &Scripted) -> Vec<(String, String)> {
    let calls = facilitator.calls().into_iter();
    calls
        .filter(|call| call.path.ends_with("/settle"))
        .map(|call| terms(&call.body["paymentRequirements"]))
        .collect()
}

/// The challenge of this heir, once it is asked for; until then nobody passes, and the only other prices are those of
/// the `former` ones before it.
async fn fresh(seller: &Seller, number: usize, former: usize) -> Value {
    let (changed, new) = (Instant::now(), asked(number));
    loop {
        let answer = seller.send(&seller.ask("a")).await;
        assert!(
            matches!(answer.status.as_u16(), 402 | 410),
            "R1: {answer:?}"
        );
        if answer.status == 402 {
            let challenge = challenge_of(&answer);
            let terms = terms(&challenge["accepts"][0]);
            if terms == new {
                return challenge;
            }
            let mut before = number.saturating_sub(former)..number;
            assert!(
                before.any(|one| terms == asked(one)),
                "of nobody: {terms:?}"
            );
        }
        assert!(
            changed.elapsed() < LIVE,
            "{new:?}\n{}",
            seller.verifier.log()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// T4.3, R7, R11, M13: of the former offer nothing is asked for, paid or counted any more, also where the verifier slept
/// through the change.
#[tokio::test]
async fn t4_3_an_offer_made_anew_under_its_name_is_paid_its_own_price_to_its_own_address() {
    let (_control, seller) = Seller::shared("anew").await;
    let cluster = &seller.cluster;
    cluster.create_offer(&heir("anew", "a", 0)).await.unwrap();
    let mut challenge = seller.challenge("a").await;
    assert_eq!(terms(&challenge["accepts"][0]), asked(0));
    let rounds = count(10, 100);
    let mut paid = Vec::new();
    for number in 1..=rounds {
        let wallet = Wallet::new(u8::try_from(number % 200 + 1).unwrap());
        // One more is sold, so that the former offer has something to leave behind.
        let sold = seller.ask("a").pay(&wallet.pay_v2(&challenge));
        assert_eq!(seller.send(&sold).await.status, 200);
        paid.push(asked(number - 1));
        let signed = wallet.pay_v2(&challenge);

        let sleeps = number % 5 == 0;
        if sleeps {
            seller.verifier.signal("STOP");
        }
        cluster.delete_offer("anew", "a").await;
        cluster
            .create_offer(&heir("anew", "a", number))
            .await
            .unwrap();
        if sleeps {
            tokio::time::sleep(Duration::from_secs(count(1, 5) as u64)).await;
            seller.verifier.signal("CONT");
        }
        let fresh = fresh(&seller, number, 1).await;
        assert_eq!(fresh["accepts"].as_array().map(Vec::len), Some(1));

        // R7: the counters are the new one's, and all of it.
        let series = seller.series("a").await;
        assert_eq!(series.len(), SERIES, "{series:#?}");
        let counted = |family: &str| {
            series
                .iter()
                .any(|line| line.contains(family) && line.ends_with(" 0"))
        };
        assert!(counted("charged_requests_total"), "{series:#?}");
        assert!(counted("charged_atomic_units_total"), "{series:#?}");

        // What was signed for the former one buys nothing and is settled to nobody.
        let late = seller.send(&seller.ask("a").pay(&signed)).await;
        assert_eq!(verdict(&late), (402, "no_matching_requirement".to_owned()));
        let bought = seller.ask("a").pay(&wallet.pay_v2(&fresh));
        assert_eq!(seller.send(&bought).await.status, 200);
        paid.push(asked(number));
        assert_eq!(settled(&seller.facilitator), paid, "round {number}");
        challenge = fresh;
    }
}

/// Rows of the ledger's table of paths, by `python3`, which tests need anyway.
async fn paths_remembered(seller: &Seller) -> usize {
    const COUNT: &str = "
import sqlite3, sys
db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)
print(db.execute('select count(*) from paths').fetchone()[0])
";
    let output = tokio::process::Command::new("python3")
        .args(["-c", COUNT])
        .arg(seller.verifier.ledger())
        .output();
    let output = output.await.expect("python3 is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim()
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What a verifier keeps of offers, where it can be seen from outside.
async fn kept(seller: &Seller) -> String {
    let (live, closed) = (
        seller.routes("live").await.len(),
        seller.routes("closed").await.len(),
    );
    let page = seller.get("/metrics").await.text();
    let series = page
        .lines()
        .filter(|line| line.contains("offer_namespace=\"often\""))
        .count();
    let verbose: Value = seller.get("/readyz?verbose").await.json();
    format!(
        "{live} live, {closed} closed, {series} series, {} remembered, degraded {}",
        paths_remembered(seller).await,
        verbose["degraded"]
    )
}

async fn memory(seller: &Seller) -> f64 {
    let bytes = seller
        .verifier
        .metric("process_resident_memory_bytes", &[])
        .await;
    bytes.expect("Linux tells")
}

/// T4.11, R7: an offer that comes and goes all day long leaves one closed path, however often.
#[tokio::test]
async fn t4_11_coming_and_going_under_one_name_keeps_nothing() {
    let cycles = count(300, 10_000);
    let (_control, seller) = Seller::shared("often").await;
    let cluster = &seller.cluster;
    cluster
        .create_offer(&offer("often", "stays", "0.001"))
        .await
        .unwrap();
    seller.becomes("stays", 402).await;
    // The first one leaves its closed path: the pattern, and the base it collapses to.
    cluster.create_offer(&heir("often", "a", 0)).await.unwrap();
    seller.becomes("a", 402).await;
    cluster.delete_offer("often", "a").await;
    seller.becomes("a", 410).await;
    let after_one = format!("1 live, 2 closed, {SERIES} series, 3 remembered, degraded []");
    let (mut warm, mut last) = (0.0, 0.0);
    let started = Instant::now();
    for cycle in 1..=cycles {
        cluster
            .create_offer(&heir("often", "a", cycle))
            .await
            .unwrap();
        // Most are gone before they are seen by anybody; some are sold.
        let seen = cycle % 10 == 0;
        if seen {
            let challenge = fresh(&seller, cycle, 10).await;
            if cycle % 100 == 0 {
                let bought = seller.ask("a").pay(&Wallet::new(7).pay_v2(&challenge));
                assert_eq!(seller.send(&bought).await.status, 200);
            }
        }
        cluster.delete_offer("often", "a").await;
        if seen {
            seller.becomes("a", 410).await;
        }
        if cycle % (cycles / 10) == 0 {
            // The ledger is written a moment after the table.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let kept = kept(&seller).await;
            last = memory(&seller).await;
            println!(
                "{cycle} after {:?}: {:.1} MiB, {kept}",
                started.elapsed(),
                last / 1_048_576.0
            );
            assert_eq!(kept, after_one, "after {cycle}");
        }
        if cycle == cycles / 2 {
            warm = last;
        }
    }
    assert!(
        last < warm * 1.05,
        "RSS grew from {warm} to {last} within {} cycles",
        cycles / 2
    );
}
