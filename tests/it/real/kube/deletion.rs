//! An offer is deleted while its requests are under way (R4, R7, R10, R11).
//!
//! Whoever came before the delete gets the answer that was paid for; whoever comes after it was seen gets nothing; and
//! no late hand brings anything of the offer back: no series, no status.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::seller::{Seller, send};
use crate::{
    harness::{Wallet, header_json},
    parts::control_plane::offer,
    scripted::Reply,
    soak::count,
};

/// How often a page is looked at for what must not be there.
const SCRAPES: usize = 20;

/// R7: nothing of the offer is on the page, scrape after scrape.
async fn no_series(seller: &Seller, name: &str) {
    for scrape in 0..SCRAPES {
        let series = seller.series(name).await;
        assert!(series.is_empty(), "scrape {scrape}: {series:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// T4.1, R4, R7, R10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_1_a_delete_under_load_ends_sales_and_series_for_good() {
    let in_flight = count(40, 200);
    let slow = Duration::from_secs(count(4, 14) as u64);
    let after = count(1_000, 10_000);

    let (_control, seller) = Seller::shared("del-load").await;
    for name in ["gone", "stays"] {
        let offer = offer("del-load", name, "0.001");
        seller.cluster.create_offer(&offer).await.unwrap();
    }
    let challenge = seller.challenge("gone").await;
    seller.becomes("stays", 402).await;
    assert!(!seller.series("gone").await.is_empty());

    // Signing takes its time; so they are signed before the first one is sent.
    let payments: Vec<_> = (1..=in_flight)
        .map(|number| Wallet::new(u8::try_from(number).unwrap()).pay_v2(&challenge))
        .collect();
    // Half of them are caught while they are verified or thereafter, half while they are settled; all are settled at
    // one moment.
    let started = Instant::now();
    let (settled, half) = (started + slow, slow / 4);
    seller.facilitator.verify_with(move |call| {
        let late = call.sequence % 2 == 0;
        Reply::valid().after(if late { half } else { Duration::ZERO })
    });
    seller.facilitator.settle_with(move |_| {
        Reply::settled().after(settled.saturating_duration_since(Instant::now()))
    });
    let mut buyers = JoinSet::new();
    for payment in &payments {
        let (pool, ask) = (seller.pool.clone(), seller.ask("gone").pay(payment));
        buyers.spawn(async move { send(&pool, &ask).await });
    }
    while seller.facilitator.verifies() < in_flight {
        assert!(started.elapsed() < slow, "they did not all arrive in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("all are there after {:?}", started.elapsed());

    seller.cluster.delete_offer("del-load", "gone").await;
    println!("seen after {:?}", seller.becomes("gone", 410).await);
    let early = in_flight - buyers_done(&mut buyers);
    println!("{early} of {in_flight} in flight when it was seen");
    assert!(early > in_flight / 2, "the delete came among them");

    // Those who come after it: most do not pay, some present a good payment for the former price.
    let left = Arc::new(AtomicUsize::new(after));
    let scraping = Arc::new(AtomicBool::new(true));
    let mut late = JoinSet::new();
    for client in 0..8 {
        let (pool, left, ask) = (seller.pool.clone(), Arc::clone(&left), seller.ask("gone"));
        let (wallet, challenge) = (Wallet::new(240 + client), challenge.clone());
        late.spawn(async move {
            let taken = || {
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
            };
            while let Ok(number) = taken() {
                let ask = if number % 10 == 0 {
                    ask.clone().pay(&wallet.pay_v2(&challenge))
                } else {
                    ask.clone()
                };
                let answer = send(&pool, &ask).await;
                assert_eq!(answer.status, 410, "R4: {}", answer.text());
            }
        });
    }
    let scrapes = async {
        while scraping.load(Ordering::SeqCst) {
            assert!(
                seller.series("gone").await.is_empty(),
                "R7: while some are in flight"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ends = async {
        late.join_all().await;
        let answers = buyers.join_all().await;
        scraping.store(false, Ordering::SeqCst);
        answers
    };
    let (answers, ()) = tokio::join!(ends, scrapes);

    for answer in &answers {
        assert_eq!(answer.status, 200, "R10: {}", answer.text());
    }
    assert_eq!(
        seller.facilitator.settles(),
        in_flight,
        "and nobody else was charged"
    );
    no_series(&seller, "gone").await;
    assert!(!seller.series("stays").await.is_empty());
    assert_eq!(seller.status("stays").await, 402);
    assert_eq!(seller.status("gone").await, 410);
}

/// How many are done, without waiting; their answers are judged as those of all others.
fn buyers_done(buyers: &mut JoinSet<crate::parts::http::Answer>) -> usize {
    let mut done = 0;
    while let Some(answer) = buyers.try_join_next() {
        assert_eq!(answer.expect("no panic").status, 200);
        done += 1;
    }
    done
}

/// T4.10, R7, R10, R11.
#[tokio::test]
async fn t4_10_a_settlement_in_flight_outlives_its_offer_and_leaves_nothing() {
    let (control, seller) = Seller::shared("del-settle").await;
    let offer = offer("del-settle", "gone", "0.001");
    seller.cluster.create_offer(&offer).await.unwrap();
    let challenge = seller.challenge("gone").await;
    let written = || {
        let user = "system:serviceaccount:del-settle:gate";
        let asked = control.audit().into_iter();
        asked
            .filter(|entry| entry.user == user && entry.name == "gone" && entry.is_write())
            .count()
    };
    // Our condition is there, so that a write afterwards would be one too many.
    let started = Instant::now();
    while written() == 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "no condition");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let slow = Duration::from_secs(3);
    seller.facilitator.on_settle(Reply::settled().after(slow));
    let payment = Wallet::new(1).pay_v2(&challenge);
    let paying = tokio::spawn({
        let (pool, ask) = (seller.pool.clone(), seller.ask("gone").pay(&payment));
        async move { send(&pool, &ask).await }
    });
    while seller.facilitator.settles() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seller.cluster.delete_offer("del-settle", "gone").await;
    seller.becomes("gone", 410).await;
    assert!(!paying.is_finished(), "it is being settled");
    let before = written();
    no_series(&seller, "gone").await;

    let answer = paying.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(header_json(&answer, "payment-response")["success"], true);
    let nonce = payment["payload"]["authorization"]["nonce"]
        .as_str()
        .unwrap();
    assert_eq!(seller.facilitator.settles_of(nonce), 1);
    no_series(&seller, "gone").await;
    // Longer than any pace of the writer of status.
    tokio::time::sleep(Duration::from_secs(count(3, 10) as u64)).await;
    assert_eq!(written(), before, "no status is written for what is gone");
    assert_eq!(seller.cluster.offer("del-settle", "gone").await, None);
    assert_eq!(seller.facilitator.settles(), 1);
    // The payment bought its answer; it buys no second one.
    let again = seller.send(&seller.ask("gone").pay(&payment)).await;
    assert_eq!(again.status, 410);
}
