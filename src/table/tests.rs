//! The table from outside: updates in, meanings of targets out.

use super::fixtures::*;
use super::*;
use crate::offer::{Phase, Route, Withdrawal};
use crate::pricing::{PathOwner, Unmatched};
use crate::route::Pattern;
use proptest::prelude::*;

mod interleaved;
mod owners;
mod released;
mod reuse;
mod targets;
mod upstreams;

const DAY: i64 = 86_400;

fn both() -> [Unmatched; 2] {
    [Unmatched::Deny, Unmatched::Allow]
}

#[test]
fn an_empty_table_resolves_nothing() {
    let (_writer, reader) = TableWriter::new();
    let target = Target::parse("/x", None).unwrap();
    let table = reader.load();
    assert_eq!(table.generation, 0);
    assert!(matches!(
        table.resolve(&target, None, None, at(0)).resolution,
        Resolution::NoRoute
    ));
}

#[test]
fn precedence_is_exact_then_prefix_then_literal_part_then_order() {
    let mut world = World::new(Unmatched::Deny);
    let patterns = [
        "/*", "/a/*", "/a/b", "/a/b*", "/a/b*/c", "/a/b/*", "/*/z", "/a/?*",
    ];
    world.file(vec![file(
        patterns.iter().map(|pattern| paid(pattern)).collect(),
    )]);
    for (path, pattern) in [
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b"),
        ("/a/b/x", "/a/b/*"),
        ("/a/bc", "/a/b*"),
        ("/a/bc/c", "/a/b*/c"),
        ("/a/x", "/a/*"),
        ("/a/x/y", "/a/*"),
        ("/a", "/a/*"),
        ("/q/z", "/*/z"),
        ("/q", "/*"),
    ] {
        assert_eq!(world.ask(path), format!("paid {pattern}"), "{path}");
    }
}

#[test]
fn an_equal_pattern_declared_later_is_reported_as_shadowed() {
    let mut world = World::new(Unmatched::Deny);
    let first = named("shop", "first", vec![route("/a/*", Gate::Paid, 1)]);
    world.file(vec![
        first,
        named("shop", "second", vec![route("/a/*", Gate::Paid, 2)]),
    ]);
    assert_eq!(world.rows("first"), [(ReportedState::Live, "")]);
    assert_eq!(world.rows("second"), [(ReportedState::Live, "shadowed")]);
    assert_eq!(world.ask("/a/x"), "paid /a/*");
}

#[test]
fn r3_what_cannot_be_understood_closes_its_path_and_nothing_else() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        let routes = vec![
            broken("/a/*"),
            paid("/b/x*[/y"),
            paid("/a/ok/*"),
            paid("/c"),
        ];
        world.file(vec![file(routes)]);
        assert_eq!(world.ask("/a/x"), "broken /a/*");
        assert_eq!(world.ask("/a/ok/x"), "paid /a/ok/*");
        assert_eq!(
            world.ask("/b/x1/y"),
            "broken /b/x*[/y",
            "the literal prefix is closed"
        );
        assert_eq!(world.ask("/c"), "paid /c");
        let rows = world.rows("");
        assert_eq!(rows[0], (ReportedState::Misconfigured, "invalid_price"));
        assert_eq!(rows[1], (ReportedState::Misconfigured, "invalid_pattern"));
    }
}

#[test]
fn r3_a_broken_offer_without_routes_closes_its_base_path() {
    let mut world = World::with_cluster(Unmatched::Allow);
    let mut broken = offer("a", "x", 1, "/services/x");
    broken.routes.clear();
    broken.problems = vec![crate::offer::Problem {
        code: "invalid_spec",
        message: "what".to_owned(),
    }];
    world.kube(vec![broken]);
    assert_eq!(world.ask("/services/x/y"), "broken /services/x/*");
}

#[test]
fn r3_secrets_and_facilitators_that_are_no_headers_close_their_routes() {
    let mut world = World::new(Unmatched::Deny);
    let secret = Some("Bearer a\nb".to_owned().into());
    let bad_auth = Route {
        upstream_auth: secret,
        ..paid("/a")
    };
    let unknown = Route {
        facilitator: "https://nowhere".into(),
        ..paid("/b")
    };
    let nothing = Route {
        options: Vec::new(),
        ..paid("/c")
    };
    let header = crate::pricing::FacilitatorSettings {
        verify_headers: vec![("X Bad".to_owned(), "v".to_owned().into())],
        ..Default::default()
    };
    world
        .settings
        .facilitators
        .insert("https://bad".into(), header);
    let bad_header = Route {
        facilitator: "https://bad".into(),
        ..paid("/d")
    };
    world.file(vec![file(vec![
        bad_auth,
        unknown,
        nothing,
        bad_header,
        paid("/ok"),
    ])]);
    let reasons: Vec<_> = world
        .rows("")
        .into_iter()
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "invalid_upstream_auth",
            "unknown_facilitator",
            "no_payment_option",
            "invalid_facilitator_header",
            ""
        ]
    );
    assert_eq!(world.ask("/ok"), "paid /ok");
}

#[test]
fn r4_a_removed_pattern_is_closed_then_denied_for_good() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        world.remember(Vec::new());
        let applied = world.file(vec![file(vec![paid("/paid/*"), free("/*")])]);
        assert_eq!(
            applied.path_changes.len(),
            1,
            "live gated patterns are recorded"
        );
        assert_eq!(applied.path_changes[0].closed_at, None);
        assert!(
            world
                .file(vec![file(vec![paid("/paid/*"), free("/*")])])
                .path_changes
                .is_empty()
        );
        let applied = world.file(vec![file(vec![free("/*")])]);
        assert_eq!(applied.path_changes[0].closed_at, Some(at(0)));
        assert_eq!(applied.next_tick, Some(at(DAY)));
        assert_eq!(world.ask("/paid/x"), "closed");
        assert_eq!(world.ask("//paid/x"), "closed");
        assert_eq!(world.ask("/other"), "free /*");
        let early = world.tick(DAY - 1);
        assert_eq!(early.table.generation, 4, "nothing is due yet");
        world.tick(DAY);
        assert_eq!(world.ask("/paid/x"), "no route", "never free by removal");
        assert_eq!(world.ask("/other"), "free /*");
    }
}

/// The documented default is a pinned address, so a closed path must be closed there as well.
#[test]
fn r4_a_route_edited_away_is_not_free_by_a_broader_free_one_of_its_pinned_offer() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        let before = vec![free("/a/*"), paid("/a/b/*")];
        world.file(vec![named("n", "x", before)]);
        assert_eq!(world.ask_pin("n/x", "/a/b/c"), "paid /a/b/*");
        world.file(vec![named("n", "x", vec![free("/a/*")])]);
        for target in ["/a/b/c", "/a/B/c", "/a/%62/c", "/a//b/c"] {
            assert_eq!(world.ask(target), "closed", "{target}");
            assert_eq!(world.ask_pin("n/x", target), "closed", "{target}");
        }
        assert_eq!(world.ask_pin("n/x", "/a/c"), "free /a/*");
        world.tick(DAY);
        assert_eq!(world.ask("/a/b/c"), "no route");
        assert_eq!(world.ask_pin("n/x", "/a/b/c"), "no route");
        let on_purpose = vec![free("/a/*"), free("/a/b/*")];
        world.file(vec![named("n", "x", on_purpose)]);
        assert_eq!(world.ask_pin("n/x", "/a/b/c"), "free /a/b/*");
    }
}

#[test]
fn r4_a_closed_path_of_every_host_is_not_free_by_a_broad_route_of_one_host() {
    let mut world = World::new(Unmatched::Deny);
    let broad = on_host(
        "one.example",
        named("n", "y", vec![free("/*"), free("/b/*")]),
    );
    world.file(vec![named("n", "x", vec![paid("/a/*"), paid("/b/*")])]);
    world.file(vec![broad]);
    assert_eq!(world.ask_host("one.example", "/a/b"), "closed");
    assert_eq!(world.ask_host("one.example", "/b/c"), "free /b/*");
    assert_eq!(world.ask_host("one.example", "/c"), "free /*");
    world.tick(DAY);
    assert_eq!(world.ask_host("one.example", "/a/b"), "no route");
}

#[test]
fn r4_a_pattern_that_comes_back_is_open_again() {
    let mut world = World::new(Unmatched::Allow);
    world.remember(Vec::new());
    world.file(vec![file(vec![paid("/paid/*")])]);
    world.file(vec![file(vec![])]);
    assert_eq!(world.ask("/paid/x"), "closed");
    let applied = world.file(vec![file(vec![paid("/paid/*")])]);
    assert_eq!(applied.path_changes[0].closed_at, None);
    assert_eq!(world.ask("/paid/x"), "paid /paid/*");
    let applied = world.file(vec![file(vec![free("/paid/*")])]);
    assert_eq!(
        applied.path_removals.len(),
        1,
        "made free on purpose by its owner"
    );
    assert_eq!(world.ask("/paid/x"), "free /paid/*");
}

#[test]
fn r4_a_pattern_spelled_with_a_trailing_slash_is_the_same_path() {
    let mut world = World::new(Unmatched::Allow);
    world.remember(Vec::new());
    world.file(vec![file(vec![paid("/paid")])]);
    let applied = world.file(vec![file(vec![paid("/paid/")])]);
    assert_eq!(&*applied.path_changes[0].pattern, "/paid/");
    assert_eq!(&*applied.path_removals[0].pattern, "/paid");
    assert_eq!(world.ask("/paid"), "paid /paid/");
}

#[test]
fn r4_a_removal_while_the_process_was_down_is_noticed() {
    let mut first = World::new(Unmatched::Allow);
    first.remember(Vec::new());
    let records = first
        .file(vec![file(vec![paid("/a"), paid("/b/*")])])
        .path_changes;
    for remember_first in [true, false] {
        let mut world = World::new(Unmatched::Allow);
        let mut changes = Vec::new();
        if remember_first {
            changes.extend(world.remember(records.clone()).path_changes);
            assert!(changes.is_empty(), "the file may only be late (R6)");
        }
        changes.extend(world.file(vec![file(vec![paid("/a")])]).path_changes);
        if !remember_first {
            assert!(
                changes.is_empty(),
                "nothing is written before the ledger was read"
            );
            changes.extend(world.remember(records.clone()).path_changes);
        }
        assert_eq!(world.ask("/b/x"), "closed", "{remember_first}");
        assert_eq!(world.ask("/a"), "paid /a");
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (&*changes[0].pattern, changes[0].closed_at),
            ("/b/*", Some(at(0)))
        );
    }
}

#[test]
fn r4_nothing_closes_before_every_source_has_delivered() {
    let mut first = World::with_cluster(Unmatched::Allow);
    let records = first
        .kube(vec![offer("a", "x", 1, "/services/x")])
        .path_changes;
    assert_eq!(records.len(), 1);
    let mut world = World::new(Unmatched::Allow);
    world.writer.expect_source("kube");
    world.remember(records);
    assert!(
        world.file(Vec::new()).path_changes.is_empty(),
        "kube is still to come (R6)"
    );
    assert_eq!(world.ask("/services/x/y"), "no route");
    let applied = world.kube(Vec::new());
    assert_eq!(applied.path_changes[0].closed_at, Some(at(0)));
    assert_eq!(world.ask("/services/x/y"), "closed");
    assert_eq!(world.ask_pin("a/x", "/"), "closed");
}

#[test]
fn r6_a_failed_source_keeps_its_routes_and_shows_its_error() {
    let mut world = World::new(Unmatched::Deny);
    world.file(vec![file(vec![paid("/a")])]);
    let error = || "line 3: what".to_owned();
    let before = world.reader.load_full().generation;
    let applied = world.writer.apply(
        Update::Failed {
            source: "file",
            error: error(),
        },
        at(1),
    );
    assert_eq!(applied.table.generation, before + 1);
    assert_eq!(world.ask("/a"), "paid /a");
    let report = world.reader.load().report.clone();
    assert_eq!(report.sources[0].error.as_deref(), Some("line 3: what"));
    assert_eq!(report.sources[0].last_success, Some(at(0)));
    assert!(!report.sources[0].ok);
    assert_eq!(report.len(), 1);
    let again = world.writer.apply(
        Update::Failed {
            source: "file",
            error: error(),
        },
        at(2),
    );
    assert_eq!(
        again.table.generation,
        before + 1,
        "the same failure is no news"
    );
    world.file(vec![file(vec![paid("/a")])]);
    assert!(world.reader.load().report.sources[0].ok);
}

#[test]
fn r7_counters_stay_with_their_offer_and_labels() {
    let mut world = World::new(Unmatched::Deny);
    let sets = |world: &World| -> Vec<Arc<OfferCounters>> {
        world.reader.load().counters().cloned().collect()
    };
    world.file(vec![file(vec![
        paid("/a"),
        paid("/b"),
        route("/c", Gate::Paid, 5),
        free("/d"),
    ])]);
    let first = sets(&world);
    assert_eq!(first.len(), 1, "routes without names share one set");
    world.file(vec![
        file(vec![paid("/a")]),
        named("n", "x", vec![paid("/x")]),
    ]);
    let second = sets(&world);
    assert_eq!(second.len(), 2);
    assert!(
        second.iter().any(|set| Arc::ptr_eq(set, &first[0])),
        "taken over"
    );
    world.file(vec![named("n", "x", vec![broken("/x")])]);
    assert!(sets(&world).is_empty(), "no ghost series");
    world.file(vec![file(vec![paid("/a")])]);
    assert!(
        !Arc::ptr_eq(&sets(&world)[0], &first[0]),
        "nothing comes back"
    );
    let table = world.reader.load_full();
    let entry = table.routes().next().unwrap();
    assert!(Arc::ptr_eq(
        &entry.counters[0],
        table.counters().next().unwrap()
    ));
}

#[test]
fn after_settles_as_before_and_never_stays_never() {
    let mut world = World::new(Unmatched::Deny);
    let with = |pattern, settle| Route {
        settle,
        ..paid(pattern)
    };
    world.file(vec![file(vec![
        with("/a", Settle::After),
        with("/b", Settle::Never),
    ])]);
    let table = world.reader.load_full();
    let entries: Vec<_> = table.routes().collect();
    assert_eq!(
        (entries[0].settle, entries[0].requirements[0].upfront),
        (Settle::Before, true)
    );
    assert_eq!(
        (entries[1].settle, entries[1].requirements[0].upfront),
        (Settle::Never, false)
    );
}

#[test]
fn an_unchanged_facilitator_keeps_its_endpoint() {
    let mut world = World::new(Unmatched::Deny);
    let endpoint = |world: &World| {
        world
            .reader
            .load()
            .routes()
            .next()
            .unwrap()
            .endpoint
            .clone()
            .unwrap()
    };
    world.file(vec![file(vec![paid("/a")])]);
    let first = endpoint(&world);
    world.file(vec![file(vec![paid("/a")])]);
    assert!(Arc::ptr_eq(&first, &endpoint(&world)));
    let facilitator = world.settings.facilitators.get_mut(FACILITATOR).unwrap();
    facilitator
        .verify_headers
        .push(("authorization".to_owned(), "Bearer x".to_owned().into()));
    world.file(vec![file(vec![paid("/a")])]);
    let changed = endpoint(&world);
    assert!(!Arc::ptr_eq(&first, &changed));
    assert!(
        changed.verify_headers["authorization"].is_sensitive(),
        "R13"
    );
}

#[test]
fn a_drain_ends_by_itself() {
    let mut world = World::with_cluster(Unmatched::Deny);
    let draining = Offer {
        phase: Phase::Draining { until: at(60) },
        ..offer("a", "x", 1, "/services/x")
    };
    let applied = world.kube(vec![draining]);
    assert_eq!(applied.next_tick, Some(at(60)));
    assert_eq!(world.ask("/services/x/y"), "draining /services/x/*");
    let table = world.reader.load_full();
    assert_eq!(
        table.routes().next().unwrap().requirements.len(),
        1,
        "a payment is still served"
    );
    world.tick(60);
    assert_eq!(world.ask("/services/x/y"), "withdrawn /services/x/*");
    assert_eq!(world.reader.load().counters().count(), 0);
}

#[test]
fn an_offer_being_deleted_is_withdrawn_at_once_and_its_retention_starts_when_it_is_gone() {
    let mut world = World::with_cluster(Unmatched::Deny);
    let withdrawn = Offer {
        phase: Phase::Withdrawn(Withdrawal::Deleting),
        ..offer("a", "x", 1, "/services/x")
    };
    let applied = world.kube(vec![withdrawn]);
    assert_eq!(world.ask("/services/x/y"), "withdrawn /services/x/*");
    assert_eq!(applied.next_tick, None);
    world.now = at(10);
    let applied = world.kube(Vec::new());
    assert_eq!(applied.path_changes[0].closed_at, Some(at(10)));
    assert_eq!(world.ask("/services/x/y"), "closed");
}

#[test]
fn a_pin_selects_among_its_own_routes_and_defaults_to_the_first_paid() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        let routes = vec![
            free("/a/free/*"),
            paid("/a/*"),
            route("/a/premium", Gate::Paid, 9),
        ];
        let others = vec![free("/elsewhere/*"), paid("/b/*")];
        let only_free = named("n", "open", vec![free("/open/*")]);
        world.file(vec![named("n", "x", routes), file(others), only_free]);
        for (target, expected) in [
            ("/a/free/1", "free /a/free/*"),
            ("/a/premium", "paid /a/premium"),
            ("/a/z", "paid /a/*"),
            ("/elsewhere/1", "paid /a/*"),
            ("/b/1", "paid /a/*"),
            ("/", "paid /a/*"),
            ("/a/free/../premium", "paid /a/premium"),
            ("/a/free/..%2fz", "paid /a/*"),
            ("//a/z", "paid /a/*"),
            ("//a/premium", "ambiguous"),
            ("/a/fr%65e/1", "paid /a/*"),
        ] {
            assert_eq!(world.ask_pin("n/x", target), expected, "{target}");
        }
        assert_eq!(world.ask_pin("n/open", "/open/1"), "free /open/*");
        assert_eq!(world.ask_pin("n/open", "/a/z"), "no route");
        assert_eq!(world.ask_pin("n/nobody", "/a/z"), "unknown pin");
        world.file(Vec::new());
        assert_eq!(world.ask_pin("n/x", "/a/z"), "closed");
        world.tick(DAY);
        assert_eq!(world.ask_pin("n/x", "/a/z"), "unknown pin");
    }
}

#[test]
fn a_pinned_offer_with_many_routes_answers_as_one_with_few() {
    let mut world = World::new(Unmatched::Deny);
    let mut routes: Vec<Route> = (0..40).map(|n| paid(&format!("/a/{n}/*"))).collect();
    routes.push(free("/a/free"));
    world.file(vec![named("n", "x", routes)]);
    assert_eq!(world.ask_pin("n/x", "/a/33/y"), "paid /a/33/*");
    assert_eq!(world.ask_pin("n/x", "/a/free"), "free /a/free");
    assert_eq!(world.ask_pin("n/x", "/zzz"), "paid /a/0/*");
}

/// R1: a proxy that forwards no host does not choose the host on which a path is free.
#[test]
fn a_pin_without_a_host_is_not_free_by_a_route_of_one_host() {
    let on = |host: &str, routes| on_host(host, named("n", "x", routes));
    for more in [0, 20] {
        let many = (0..more).map(|n| paid(&format!("/more/{n}")));
        let mut world = World::new(Unmatched::Deny);
        world.file(vec![
            on("one.example", vec![free("/a/*")]),
            on(
                "two.example",
                vec![paid("/c/*"), route("/a/*", Gate::Paid, 9)],
            ),
            named("n", "x", many.collect()),
            on("one.example", vec![free("/b/*")]),
        ]);
        let table = world.reader.load();
        for (host, path, is_free) in [
            (None, "/a/x", false),
            (None, "/b/x", false),
            (Some("one.example"), "/a/x", true),
            (Some("two.example"), "/a/x", false),
            (Some("three.example"), "/a/x", false),
        ] {
            let target = Target::parse(path, None).unwrap();
            let pin = Pin {
                namespace: "n",
                name: "x",
            };
            let resolved = table.resolve(&target, host, Some(pin), at(0));
            let Resolution::Route(entry) = resolved.resolution else {
                panic!("{host:?} {path}: {resolved:?}");
            };
            assert_eq!(entry.gate == Gate::Free, is_free, "{host:?} {path} {more}");
        }
    }
}

/// R1: a preflight passes only if every reading of its target lets it.
#[test]
fn views_that_differ_in_preflight_are_ambiguous() {
    let mut world = World::new(Unmatched::Deny);
    let open = Route {
        preflight_pass: true,
        ..paid("/open/*")
    };
    world.file(vec![file(vec![open, paid("/shut/*")])]);
    assert_eq!(world.ask("//open/shut/x"), "ambiguous");
}

#[test]
fn a_host_has_its_own_routes_before_those_of_every_host() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        let bound = named("n", "bound", vec![paid("/a/*"), free("/c")]);
        let bound = on_host("one.example", bound);
        world.file(vec![
            bound,
            file(vec![paid("/a/deep/*"), paid("/b"), free("/d")]),
        ]);
        assert_eq!(world.ask_host("ONE.example:443", "/a/deep/x"), "paid /a/*");
        assert_eq!(world.ask_host("two.example", "/a/deep/x"), "paid /a/deep/*");
        assert_eq!(world.ask_host("one.example", "/b"), "paid /b");
        assert_eq!(world.ask_host("one.example", "/c"), "free /c");
        let unmatched_word = if unmatched == Unmatched::Allow {
            "unmatched"
        } else {
            "no route"
        };
        assert_eq!(world.ask_host("two.example", "/c"), unmatched_word);
        assert_eq!(world.ask_host("a, b", "/a/x"), "no route", "not one host");
        assert_eq!(world.ask("/a/x"), "no route", "gated on some host");
        assert_eq!(
            world.ask("/d"),
            "no route",
            "could be gated on the host that was not named"
        );
        assert_eq!(world.ask("/b"), "paid /b");
    }
}

#[test]
fn letter_case_counts_only_where_nothing_more_specific_matches() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        world.file(vec![file(vec![
            paid("/Api/V*/x"),
            paid("/low/*"),
            free("/low/FREE"),
        ])]);
        assert_eq!(world.ask("/Api/V1/x"), "paid /Api/V*/x");
        assert_eq!(world.ask("/api/v1/X"), "paid /Api/V*/x");
        assert_eq!(world.ask("/LOW/y"), "paid /low/*");
        assert_eq!(world.ask("/low/FREE"), "free /low/FREE");
        assert_eq!(world.ask("/low/free"), "paid /low/*");
        let target = Target::parse("/LOW/y", None).unwrap();
        let table = world.reader.load();
        let resolved = table.resolve(&target, None, None, at(0));
        assert_eq!(resolved.ambiguity, Some(AmbiguityClass::Case));
    }
}

/// R1: Express, IIS and ASP.NET route `/api/PREMIUM` to what is mounted at `/api/premium`.
#[test]
fn r1_another_case_of_a_paid_path_is_not_free_below_a_broader_free_one() {
    for unmatched in both() {
        let mut world = World::new(unmatched);
        let mut routes = vec![
            free("/*"),
            free("/api/*"),
            paid("/api/premium/*"),
            free("/Users/*"),
            route("/users/*", Gate::Paid, 7),
            paid("/cheap/*"),
            route("/cheap/dear/*", Gate::Paid, 7),
        ];
        for many in [false, true] {
            world.file(vec![named("a", "x", routes.clone())]);
            for (target, expected) in [
                ("/api/PREMIUM/x", "paid /api/premium/*"),
                ("/API/premium/x", "paid /api/premium/*"),
                ("/api//PREMIUM/x", "paid /api/premium/*"),
                ("/api/pr%45mium/x", "paid /api/premium/*"),
                ("/api/Other", "free /api/*"),
                ("/Users/x", "free /Users/*"),
                ("/users/X", "paid /users/*"),
                ("/cheap/DEAR/x", "ambiguous"),
                ("/cheap/Any", "paid /cheap/*"),
            ] {
                assert_eq!(world.ask(target), expected, "{target}");
                assert_eq!(world.ask_pin("a/x", target), expected, "{target} {many}");
            }
            routes.extend((0..20).map(|n| paid(&format!("/more/{n}"))));
        }
    }
}

#[test]
fn unmatched_allow_passes_only_outside_managed_owned_and_closed_paths() {
    let mut world = World::with_cluster(Unmatched::Allow);
    world.kube(vec![Offer {
        routes: vec![paid("/shop/only").into()],
        ..offer("a", "x", 1, "/shop")
    }]);
    assert_eq!(world.ask("/"), "unmatched");
    assert_eq!(world.ask("/elsewhere/x?y"), "unmatched");
    assert_eq!(world.ask("/services/none"), "no route", "managed");
    assert_eq!(world.ask("/services"), "no route", "managed");
    assert_eq!(
        world.ask("/x/..//services;a/none"),
        "ambiguous",
        "managed in one view"
    );
    assert_eq!(world.ask("//services/none"), "no route");
    assert_eq!(world.ask("/shop/other"), "no route", "an offer's base path");
    assert_eq!(world.ask("/shop/only"), "paid /shop/only");
    world.file(vec![file(vec![free("/*"), free("/services/open/*")])]);
    assert_eq!(
        world.ask("/services/none"),
        "no route",
        "a catch-all opens nothing managed"
    );
    assert_eq!(world.ask("/services/open/x"), "free /services/open/*");
}

#[test]
fn views_that_differ_are_free_only_if_nothing_gated_is_among_them() {
    let mut world = World::new(Unmatched::Allow);
    world.file(vec![file(vec![
        free("/free/*"),
        paid("/one/*"),
        paid("/same/*"),
        route("/dear/*", Gate::Paid, 9),
        broken("/broken/*"),
    ])]);
    for (target, expected) in [
        ("//free/x", "free /free/*"),
        ("/free/../nothing", "free /free/*"),
        ("/one//x", "paid /one/*"),
        ("/free/;/../one/x", "ambiguous"),
        ("/one%3b/../x", "ambiguous"),
        ("/one/a%2fb", "paid /one/*"),
        ("//one/x", "paid /one/*"),
        ("/same//../one/x", "ambiguous"),
        ("//broken/x", "broken /broken/*"),
        ("/%6fne/x", "paid /one/*"),
        ("/%256fne/x", "ambiguous"),
    ] {
        assert_eq!(world.ask(target), expected, "{target}");
    }
    let mut deny = World::new(Unmatched::Deny);
    deny.file(vec![file(vec![free("/free/*")])]);
    assert_eq!(deny.ask("//free/x"), "free /free/*");
    assert_eq!(
        deny.ask("/free/../nothing"),
        "ambiguous",
        "deny is not bypassed either"
    );
}

/// Targets around a small table, made of what confuses parsers.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("/"),
        Just("//"),
        Just("/../"),
        Just("/./"),
        Just("%2e"),
        Just(".."),
        Just("%2F"),
        Just("%252f"),
        Just("%5c"),
        Just("\\"),
        Just(";"),
        Just(";a"),
        Just("%3b"),
        Just("%3F"),
        Just("free"),
        Just("paid"),
        Just("PAID"),
        Just("p%61id"),
        Just("p%2561id"),
        Just("services"),
        Just("gone"),
        Just("base"),
        Just("x"),
        Just("?"),
        Just("%23"),
        Just("/"),
        Just("/"),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// R1, R4: the property of the issue.
    #[test]
    fn nothing_gated_managed_or_closed_in_any_view_is_ever_free(raw in hostile(), allow in any::<bool>()) {
        let unmatched = if allow { Unmatched::Allow } else { Unmatched::Deny };
        let mut world = World::new(unmatched);
        let with_gone = vec![file(vec![free("/free/*"), paid("/paid/*"), paid("/gone/*"), free("/*")])];
        world.file(with_gone);
        world.file(vec![file(vec![free("/free/*"), paid("/paid/*"), free("/*")])]);
        for _ in 0..2 {
            let answer = world.ask(&raw);
            if answer.starts_with("free") || answer == "unmatched" {
                let target = Target::parse(&raw, Some("h")).unwrap();
                for view in target.views() {
                    let first = view.split('/').find(|segment| !segment.is_empty()).unwrap_or("");
                    let direct = view.strip_prefix('/').unwrap_or(&view).split('/').next().unwrap_or("");
                    if first == direct {
                        prop_assert!(!["paid", "gone", "services"].contains(&first), "{raw}: {view}");
                    }
                }
            }
            world.tick(2 * DAY);
        }
    }

    /// The trie and its packed precedence against a scan that sorts.
    #[test]
    fn a_plain_target_gets_what_a_linear_scan_would_choose(
        segments in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("*"), 1 => Just("a*"), 1 => Just("?b*")],
                0..4,
            ),
            1..12,
        ),
        path in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab"), Just("abc")], 0..5),
    ) {
        let texts: Vec<String> = segments.iter().map(|parts| format!("/{}", parts.join("/"))).collect();
        let path = format!("/{}", path.join("/"));
        let mut world = World::new(Unmatched::Deny);
        world.settings.managed_prefixes.clear();
        world.file(vec![file(texts.iter().map(|text| paid(text)).collect())]);
        let chosen = texts
            .iter()
            .enumerate()
            .filter_map(|(order, text)| Some((Pattern::parse(text).ok()?, order, text)))
            .filter(|(pattern, ..)| pattern.matches(&path))
            .max_by_key(|(pattern, order, _)| (pattern.specificity(), std::cmp::Reverse(*order)));
        let expected = chosen.map_or("no route".to_owned(), |(.., text)| format!("paid {text}"));
        prop_assert_eq!(world.ask(&path), expected);
    }

    #[test]
    fn r5_generations_only_grow(updates in prop::collection::vec(0_u8..5, 1..12)) {
        let mut world = World::new(Unmatched::Deny);
        let mut last = 0;
        for (second, update) in (0..).zip(updates) {
            world.now = at(second);
            let applied = match update {
                0 => world.file(vec![file(vec![paid("/a")])]),
                1 => world.file(Vec::new()),
                2 => world.writer.apply(Update::Failed { source: "file", error: "x".to_owned() }, at(second)),
                3 => world.remember(Vec::new()),
                _ => world.tick(second),
            };
            prop_assert!(applied.table.generation >= last);
            prop_assert_eq!(applied.table.generation, world.reader.load().generation);
            last = applied.table.generation;
        }
    }
}

#[test]
fn the_last_success_is_restored_before_and_after_the_offer() {
    let mut world = World::new(Unmatched::Deny);
    let asset = option(1).asset.address.to_checksum(None);
    let chain = "eip155:84532";
    world
        .writer
        .restore_last_success("n", "x", chain, &asset, 77);
    world.file(vec![
        named("n", "x", vec![paid("/x")]),
        named("n", "y", vec![paid("/y")]),
    ]);
    world
        .writer
        .restore_last_success("n", "y", chain, &asset, 88);
    let text = |world: &World| -> String {
        world
            .reader
            .load()
            .counters()
            .map(|set| format!("{set:?}"))
            .collect()
    };
    assert!(
        text(&world).contains("77") && text(&world).contains("88"),
        "{}",
        text(&world)
    );
}
