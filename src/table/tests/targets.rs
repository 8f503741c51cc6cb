//! The targets of `front-doors.md` 5.3, under both policies.
//!
//! The setup is the one the table assumes: paid `/paid/*` and `/u/*`, free `/free/*`. What must hold:
//! none of them is free or passes unmatched, unless its row says that it really is free. Rows about
//! headers, methods, framing and payments belong to the faces and the gate.

use super::*;

/// What a row may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// 402 for `/paid/*`.
    Pay,
    /// 402 for `/u/*`.
    PayU,
    /// 400: no single meaning, found while parsing.
    Refuse,
    /// 400: the views disagree and structure is hidden.
    Ambiguous,
    /// Really free: the free route in every view.
    Free,
    /// Lies nowhere: 403, or passes under `allow`.
    Nowhere,
}

fn rows() -> Vec<(u32, String, Must)> {
    use Must::{Ambiguous, Free, Nowhere, Pay, PayU, Refuse};
    let mut rows: Vec<(u32, String, Must)> = [
        (1, "/free/../paid/x", Ambiguous),
        (4, "/free/.%2e/paid/x", Ambiguous),
        (7, "/free/..%5cpaid/x", Ambiguous),
        (10, "/free/%252e%252e%252fpaid", Ambiguous),
        (13, "/%2e/paid/x", Ambiguous),
        (16, "///paid/x", Pay),
        (19, "/paid%2fx", Ambiguous),
        (22, "/PAID/x", Pay),
        (25, "/paid/", Pay),
        (28, "/free?/paid/x", Free),
        (31, "/free#/../paid/x", Refuse),
        (34, "/paid/x%3Bz", Pay),
        (37, "/free/..;/paid/x", Ambiguous),
        (40, "/free/%2e%2e%3b/paid/x", Ambiguous),
        (43, "\\paid\\x", Refuse),
        (46, "/paid/x%00.png", Refuse),
        (49, "/paid/%c0%af..", Refuse),
        (52, "/pa%69d/%2e%2e/free", Ambiguous),
        (55, "/u/a%5Cb", PayU),
        (55, "/u/a\\b", PayU),
        // As it arrives after StripPrefix `/api`.
        (58, "../paid", Refuse),
        (58, "/../paid", Ambiguous),
        (58, "/api../paid", Nowhere),
        (61, "/api/..", Nowhere),
        (64, "http:/paid/x", Refuse),
        (67, "/paid/x HTTP/1.1\r\nX: y", Refuse),
        (67, "/paid/x\ty", Refuse),
        (70, "/paid/%u002f", Refuse),
        (79, "http://other/paid", Refuse),
        (79, "http://h/paid", Pay),
        (82, "/free, /paid", Refuse),
        (82, "/free,/paid", Nowhere),
        (106, "*", Refuse),
        // The same classes, further shapes.
        (1, "/paid/../free/x", Ambiguous),
        (1, "/paid/..", Ambiguous),
        (4, "/%2e%2e/paid/x", Ambiguous),
        (16, "/free//../paid/x", Ambiguous),
        (16, "/paid//x", Pay),
        (19, "/free%2f..%2fpaid", Ambiguous),
        (22, "/Paid/X%20y", Pay),
        (25, "/paid", Pay),
        (25, "/paid//", Pay),
        (28, "/free%3f/../paid/x", Ambiguous),
        (31, "/paid%23", Pay),
        (31, "/paid%3Fx", Pay),
        (34, "/paid;v=1/x", Pay),
        (34, "/paid;v=1", Pay),
        (40, "/free/%252e%252e%253b/paid/x", Ambiguous),
        (46, "/paid%0a/x", Refuse),
        (46, "/pa%09id/x", Refuse),
        (49, "/paid/%e0%80%af", Refuse),
        (7, "/free\\..\\paid\\x", Ambiguous),
        (7, "/free/%5c../%5c../paid", Ambiguous),
        // Parameters stripped before decoding (Tomcat): the encoded slashes never count.
        (40, "/free/a;%2fb%2fc/%2e%2e/%2e%2e/p%61id/x", Ambiguous),
        (34, "/p%61id;%2f..%2ffree/x", Ambiguous),
        // Dot segments decoded, slashes not (`new URL`, Envoy).
        (19, "/free/x%2fy/%2e%2e/%2e%2e/paid/x", Ambiguous),
        (19, "/free/x%252fy/%252e%252e/%252e%252e/paid/x", Ambiguous),
        // Resolved once literally, then decoded and resolved again.
        (1, "/free/a/b/%2e%2e/../%2e%2e/../paid/x", Ambiguous),
        // An authority to `new URL`.
        (16, "//free/paid/x", Pay),
        (16, "/\\free/paid/x", Ambiguous),
    ]
    .into_iter()
    .map(|(row, target, must)| (row, target.to_owned(), must))
    .collect();
    rows.push((73, format!("/paid/{}", "a".repeat(60 * 1024)), Refuse));
    rows.push((73, "/a".repeat(8_000), Refuse));
    rows.push((73, format!("/{}", "%2e".repeat(20_000)), Refuse));
    rows
}

#[test]
fn no_hostile_target_reaches_the_paid_handler_unpaid() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        world.file(vec![file(vec![
            paid("/paid"),
            paid("/paid/*"),
            route("/u/*", Gate::Paid, 7),
            free("/free/*"),
        ])]);
        for (row, target, must) in rows() {
            let answer = world.ask(&target);
            let shown: String = target.chars().take(60).collect();
            let right = match must {
                Must::Pay => answer == "paid /paid/*" || answer == "paid /paid",
                Must::PayU => answer == "paid /u/*",
                Must::Refuse => answer == "refused",
                Must::Ambiguous => answer == "ambiguous",
                Must::Free => answer == "free /free/*",
                Must::Nowhere if unmatched == Unmatched::Allow => answer == "unmatched",
                Must::Nowhere => answer == "no route",
            };
            // Row 61 hides a dot segment, but every view of it lies nowhere.
            assert!(
                right,
                "row {row} {shown:?} under {unmatched:?}: {answer}, must {must:?}"
            );
        }
    }
}

/// Row 25 with only `/paid` declared, and row 55 with a pattern per segment.
#[test]
fn an_exact_pattern_and_a_glob_are_not_slipped_past() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        world.file(vec![file(vec![paid("/paid"), paid("/u/v*/w")])]);
        for (target, expected) in [
            ("/paid/", "paid /paid"),
            ("//paid", "paid /paid"),
            ("/paid//", "paid /paid"),
            ("/paid;x", "paid /paid"),
            ("/paid?x", "paid /paid"),
            ("/p%61id", "paid /paid"),
            ("/paid%2f", "ambiguous"),
            ("/paid/.", "ambiguous"),
            ("/paid/x/..", "ambiguous"),
            ("//x/paid", "paid /paid"),
            ("/%75/va%2fb/w", "ambiguous"),
            ("/u/v1/w/", "paid /u/v*/w"),
            ("/u/%76/w", "paid /u/v*/w"),
            ("/U/V1/W", "paid /u/v*/w"),
            ("/u/v1\\w", "ambiguous"),
        ] {
            assert_eq!(world.ask(target), expected, "{target} under {unmatched:?}");
        }
    }
}
