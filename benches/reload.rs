//! What a reload of 100,000 routes costs the file source: the same text, one line changed, added
//! or removed, and the whole.
//!
//! The document is that of `measure.py`. What is measured is `pricing::Memory::read`, from the text
//! in memory to the document; freeing what the table would free is not in it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot start is a bug in the bench"
)]

use std::path::Path;
use std::time::{Duration, Instant};
use x402_verifier::pricing::{Document, Memory, parse};

/// Routes in the file.
const ROUTES: usize = 100_000;
/// Repetitions of what is fast and of what is slow.
const MANY: usize = 25;
const FEW: usize = 5;

fn offer(number: usize, price: &str) -> String {
    format!(
        "- {{pattern: \"/services/offer-{number}/*\", price: \"{price}\", offerNamespace: shop, \
         offerName: offer-{number}}}\n"
    )
}

fn document(lines: &[String]) -> String {
    format!(
        "chain: base-sepolia\n\
         wallet: \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n\
         facilitatorURL: http://127.0.0.1:9\n\
         limits: {{permitsPerOffer: 4096, permitsPerFacilitator: 4096, verifyRatePerPayer: 100000, \
         verifyRatePerOffer: 100000}}\n\
         routes:\n{}",
        lines.concat()
    )
}

fn read(memory: &mut Memory, text: &str) -> (Document, Duration) {
    let text = text.to_owned();
    let begin = Instant::now();
    let document = memory.read(text).expect("sound");
    (document, begin.elapsed())
}

/// Reads one text after the other, as a table would: it lets go of a document after the next.
fn measure(what: &str, texts: [&str; 2], times: usize) {
    let mut memory = Memory::new("pricing.yaml", Path::new("."));
    let mut held = Some(read(&mut memory, texts[1]).0);
    let mut took = Vec::new();
    for text in texts.iter().cycle().take(times) {
        let (document, duration) = read(&mut memory, text);
        took.push(duration);
        held.replace(document);
    }
    took.sort();
    let (middle, slowest) = (took[times / 2], took[times - 1]);
    println!("{what:<44} median {middle:>10.1?}   slowest {slowest:>10.1?}");
}

fn main() {
    let lines: Vec<String> = (0..ROUTES).map(|number| offer(number, "0.001")).collect();
    let with = |edit: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        edit(&mut lines);
        document(&lines)
    };
    let whole = document(&lines);
    println!("{ROUTES} routes, {} bytes", whole.len());

    let mut took: Vec<Duration> = (0..FEW)
        .map(|_| {
            let begin = Instant::now();
            let document = parse(&whole, "pricing.yaml", Path::new(".")).expect("sound");
            let took = begin.elapsed();
            drop(document);
            took
        })
        .collect();
    took.sort();
    println!("{:<44} median {:>10.1?}", "all of it", took[FEW / 2]);

    let last = with(&|lines| lines[ROUTES - 1] = offer(ROUTES - 1, "0.002"));
    measure("the last line changed", [&last, &whole], MANY);
    let middle = with(&|lines| lines[ROUTES / 2] = offer(ROUTES / 2, "0.002"));
    measure("a line in the middle changed", [&middle, &whole], MANY);
    let top = with(&|lines| lines.insert(0, offer(ROUTES, "0.001")));
    measure("a line at the top added, removed", [&top, &whole], MANY);
    let end = with(&|lines| lines.push(offer(ROUTES, "0.001")));
    measure("a line at the end added, removed", [&end, &whole], MANY);
    let setting = format!("unmatched: allow\n{whole}");
    measure("a setting added, removed", [&setting, &whole], MANY);
    let both = with(&|lines| {
        lines[1] = offer(1, "0.002");
        lines[ROUTES - 2] = offer(ROUTES - 2, "0.002");
    });
    measure(
        "a line at the top and one at the end changed",
        [&both, &whole],
        FEW,
    );
    let inherited = whole.replacen("base-sepolia", "base", 1);
    measure("what all routes inherit changed", [&inherited, &whole], FEW);
}
