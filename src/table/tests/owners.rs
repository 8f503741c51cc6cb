//! Who owns a path: O1 to O7 with made-up offers of namespaces that do not trust each other.

use super::*;

fn conflict() -> Vec<(ReportedState, &'static str)> {
    vec![(ReportedState::Conflict, "PathConflict")]
}

fn live() -> Vec<(ReportedState, &'static str)> {
    vec![(ReportedState::Live, "")]
}

fn binding(prefix: Option<&str>, host: Option<&str>, namespaces: &[&str]) -> PathOwner {
    PathOwner {
        prefix: prefix.map(Into::into),
        host: host.map(Into::into),
        namespaces: namespaces
            .iter()
            .map(|namespace| (*namespace).into())
            .collect(),
    }
}

#[test]
fn o1_intersecting_subtrees_go_to_the_older_offer_as_a_whole() {
    for (older, younger) in [
        ("/services/foo", "/services/foo"),
        ("/services/foo", "/services/foo/v1"),
        ("/services/foo/v1", "/services/foo"),
        ("/services/foo", "/services/FOO/v1"),
        ("/services/foo", "/services/foo;x"),
        ("/services/caf%C3%A9", "/services/café/x"),
    ] {
        for reversed in [false, true] {
            let mut world = World::with_cluster(Unmatched::Allow);
            let mut offers = vec![offer("a", "old", 1, older), offer("b", "new", 2, younger)];
            if reversed {
                offers.reverse();
            }
            world.kube(offers);
            assert_eq!(world.rows("old"), live(), "{older} {younger}");
            assert_eq!(world.rows("new"), conflict(), "{older} {younger}");
            let table = world.reader.load();
            let mut rows = table.report.rows();
            let detail = rows.find_map(|row| row.detail.clone()).unwrap();
            assert!(detail.contains("another namespace"), "O7: {detail}");
            assert!(
                !detail.contains("old") && !detail.contains("\"a\""),
                "O7: {detail}"
            );
        }
    }
}

#[test]
fn o1_neighbours_and_one_namespace_do_not_conflict() {
    let mut world = World::with_cluster(Unmatched::Deny);
    world.kube(vec![
        offer("a", "one", 1, "/services/foo"),
        offer("a", "two", 2, "/services/foo/v1"),
        offer("b", "three", 3, "/services/foobar"),
        offer("b", "four", 3, "/other"),
    ]);
    for name in ["one", "two", "three", "four"] {
        assert_eq!(world.rows(name), live(), "{name}");
    }
    assert_eq!(world.ask("/services/foo/v1/x"), "paid /services/foo/v1/*");
}

#[test]
fn o1_a_tie_in_age_is_broken_by_uid() {
    let mut world = World::with_cluster(Unmatched::Deny);
    world.kube(vec![
        offer("b", "x", 1, "/services/s"),
        offer("a", "y", 1, "/services/s"),
    ]);
    assert_eq!(world.rows("y"), live(), "uid-a-y-1 comes before uid-b-x-1");
    assert_eq!(world.rows("x"), conflict());
}

#[test]
fn o1_one_foreign_pattern_rejects_the_whole_offer() {
    let mut world = World::with_cluster(Unmatched::Allow);
    let mut greedy = offer("b", "new", 2, "/services/bar");
    greedy.routes.push(paid("/services/foo/v1").into());
    world.kube(vec![offer("a", "old", 1, "/services/foo"), greedy]);
    let states: Vec<_> = world
        .rows("new")
        .into_iter()
        .map(|(state, _)| state)
        .collect();
    assert_eq!(states, [ReportedState::Conflict; 2]);
    assert_eq!(world.ask("/services/bar/x"), "no route");
    assert_eq!(world.ask_pin("b/new", "/services/bar/x"), "unknown pin");
    assert_eq!(world.ask("/services/foo/v1"), "paid /services/foo/*");
}

#[test]
fn o1_free_and_auth_routes_act_only_below_their_offers_path() {
    let mut world = World::with_cluster(Unmatched::Deny);
    let mut open = offer("a", "x", 1, "/services/x");
    open.routes.push(free("/services/x/open/*").into());
    open.routes.push(free("/services/other/*").into());
    open.routes
        .push(route("/services/third", Gate::Auth, 0).into());
    world.kube(vec![open]);
    assert_eq!(world.ask("/services/x/open/1"), "free /services/x/open/*");
    assert_eq!(world.ask("/services/other/1"), "broken /services/other/*");
    assert_eq!(world.ask("/services/third"), "broken /services/third");
    assert_eq!(
        world.rows("x")[2],
        (ReportedState::Misconfigured, "outside_base_path")
    );
}

#[test]
fn o2_the_operators_file_beats_every_offer() {
    let mut world = World::with_cluster(Unmatched::Deny);
    world.file(vec![file(vec![
        free("/"),
        paid("/services/foo/v1"),
        paid("/inference-*/v1/*"),
        free("/docs/*"),
    ])]);
    world.kube(vec![
        offer("a", "hit", 1, "/services/foo"),
        offer("a", "glob", 1, "/inference-x"),
        offer("a", "docs", 1, "/docs/mine"),
        offer("a", "ok", 1, "/services/bar"),
        offer("a", "near", 1, "/services/foo2"),
    ]);
    assert_eq!(world.rows("hit"), conflict());
    assert_eq!(world.rows("glob"), conflict());
    assert_eq!(world.rows("docs"), conflict());
    assert_eq!(
        world.rows("ok"),
        live(),
        "an exact / takes nothing from tenants"
    );
    assert_eq!(world.rows("near"), live());
}

#[test]
fn o2_path_owners_beat_age() {
    let mut world = World::with_cluster(Unmatched::Deny);
    world.settings.path_owners = vec![
        binding(Some("/services/acme/"), None, &["acme"]),
        binding(Some("/services/acme/shared"), None, &["beta", "acme"]),
    ];
    world.file(Vec::new());
    world.kube(vec![
        offer("evil", "inside", 1, "/services/acme/x"),
        offer("evil", "case", 1, "/services/ACME"),
        offer("evil", "around", 1, "/services/a"),
        offer("beta", "shared", 2, "/services/acme/shared/y"),
        offer("acme", "own", 3, "/services/acme/z"),
    ]);
    assert_eq!(world.rows("inside"), conflict());
    assert_eq!(world.rows("case"), conflict());
    assert_eq!(world.rows("around"), live(), "a neighbour");
    assert_eq!(world.rows("shared"), live());
    assert_eq!(world.rows("own"), live());
}

#[test]
fn o3_a_closed_path_stays_with_its_namespace_for_the_retention() {
    let mut world = World::with_cluster(Unmatched::Allow);
    let waiting = || offer("b", "waiting", 2, "/services/foo/sub");
    world.kube(vec![offer("a", "old", 1, "/services/foo"), waiting()]);
    assert_eq!(world.rows("waiting"), conflict());
    world.now = at(10);
    world.kube(vec![waiting()]);
    assert_eq!(
        world.rows("waiting"),
        [(ReportedState::Conflict, "PathReserved")]
    );
    assert_eq!(world.ask("/services/foo/sub/x"), "closed");
    world.kube(vec![waiting(), offer("a", "again", 3, "/services/foo")]);
    assert_eq!(
        world.rows("again"),
        live(),
        "its own namespace may come back"
    );
    assert_eq!(world.ask("/services/foo/sub/x"), "paid /services/foo/*");
    world.kube(vec![waiting()]);
    world.tick(10 + DAY - 1);
    assert_eq!(
        world.rows("waiting"),
        [(ReportedState::Conflict, "PathReserved")]
    );
    world.tick(10 + DAY);
    assert_eq!(world.rows("waiting"), live(), "the retention is over");
    assert_eq!(world.ask("/services/foo/sub/x"), "paid /services/foo/sub/*");
    assert_eq!(world.ask("/services/foo/other"), "no route");
}

/// A seller who waits is told until when, by whatever it waits for longest; a foreign name is in none
/// of it (O7).
#[test]
fn o3_who_waits_is_told_until_when() {
    let mut world = World::with_cluster(Unmatched::Allow);
    let waiting = |name: &str, path: &str| offer("b", name, 9, path);
    let detail = |world: &World, name: &str| {
        let table = world.reader.load();
        let row = table.report.rows().find(|row| &*row.offer.name == name);
        row.and_then(|row| row.detail.clone()).unwrap_or_default()
    };
    let until = |day: i64| format!("until {}", at(day * DAY));
    let all = [
        offer("a", "one", 1, "/services/foo/one"),
        offer("a", "two", 2, "/services/foo/two"),
        offer("b", "mine", 3, "/services/foo/mine"),
    ];
    world.kube(all.to_vec());
    world.tick(DAY);
    world.kube(all[1..].to_vec());
    world.tick(DAY + DAY / 2);
    let wide = waiting("wide", "/services/foo");
    let deep = waiting("deep", "/services/foo/ONE/deep");
    world.kube(vec![all[1].clone(), wide.clone(), deep.clone()]);
    assert!(
        detail(&world, "deep").contains(&until(2)),
        "{}",
        detail(&world, "deep")
    );
    // An hour before the first ends, its wider neighbour begins.
    world.tick(2 * DAY - 3600);
    world.kube(vec![wide, deep]);
    let longest = format!("until {}", at(3 * DAY - 3600));
    assert!(
        detail(&world, "wide").contains(&longest),
        "{}",
        detail(&world, "wide")
    );
    assert!(!detail(&world, "wide").contains("\"a\""));
    assert!(detail(&world, "deep").contains(&until(2)));
    world.tick(3 * DAY);
    assert_eq!(
        (detail(&world, "wide"), detail(&world, "deep")),
        Default::default()
    );
}

#[test]
fn o3_the_reservation_survives_a_restart_and_a_late_ledger() {
    let mut first = World::with_cluster(Unmatched::Allow);
    let mut records = first
        .kube(vec![offer("a", "old", 1, "/services/foo")])
        .path_changes;
    records[0].closed_at = Some(at(0));
    let waiting = || offer("b", "waiting", 2, "/services/foo");
    for late in [false, true] {
        let mut world = World::new(Unmatched::Allow);
        world.writer.expect_source("kube");
        world.file(Vec::new());
        if late {
            let applied = world.kube(vec![waiting()]);
            assert!(
                applied.path_changes.is_empty(),
                "nothing replaces what was not read yet"
            );
            world.remember(records.clone());
        } else {
            world.remember(records.clone());
            world.kube(vec![waiting()]);
        }
        assert_eq!(
            world.rows("waiting"),
            [(ReportedState::Conflict, "PathReserved")],
            "{late}"
        );
        assert_eq!(world.ask("/services/foo/x"), "closed");
    }
}

#[test]
fn o3_a_live_offer_does_not_wait_for_the_closed_path_of_one_that_lost_to_it() {
    let mut world = World::with_cluster(Unmatched::Allow);
    world.kube(vec![offer("a", "young", 5, "/services/foo")]);
    let both = || {
        vec![
            offer("a", "young", 5, "/services/foo"),
            offer("b", "old", 1, "/services/foo/x"),
        ]
    };
    for round in 0..3 {
        world.now = at(round);
        world.kube(both());
        assert_eq!(world.rows("old"), live(), "round {round}");
        assert_eq!(
            world.rows("young")[0],
            (ReportedState::Conflict, "PathConflict")
        );
        assert_eq!(world.ask("/services/foo/x/1"), "paid /services/foo/x/*");
        assert_eq!(
            world.ask("/services/foo/y"),
            "closed",
            "paid once, never free (R4)"
        );
    }
}

#[test]
fn o4_hosts_compete_as_if_there_were_none_unless_the_operator_binds_them() {
    let offers = || {
        vec![
            offer("a", "plain", 1, "/services/foo"),
            on_host("b.example", offer("b", "hosted", 2, "/services/foo")),
        ]
    };
    let mut world = World::with_cluster(Unmatched::Deny);
    world.kube(offers());
    assert_eq!(world.rows("hosted"), conflict());
    world.settings.path_owners = vec![binding(None, Some("b.example"), &["b"])];
    world.file(Vec::new());
    assert_eq!(world.rows("hosted"), live());
    assert_eq!(world.rows("plain"), live());
    world.kube(vec![on_host(
        "b.example",
        offer("c", "thief", 0, "/services/c"),
    )]);
    assert_eq!(world.rows("thief"), conflict(), "the host is b's");
}

#[test]
fn o5_reserved_roots_are_refused_and_close_nothing() {
    let mut world = World::with_cluster(Unmatched::Allow);
    for (index, base) in [
        "/api",
        "/api/x",
        "/openapi.json",
        "/rpc/x",
        "/.well-known/x",
        "/",
        "/services",
        "/API",
    ]
    .into_iter()
    .enumerate()
    {
        world.kube(vec![offer("a", &format!("r{index}"), 1, base)]);
        assert_eq!(
            world.rows(&format!("r{index}")),
            [(ReportedState::Conflict, "ReservedPath")],
            "{base}"
        );
        assert_eq!(world.ask("/api/x"), "unmatched", "{base}");
    }
    let mut inside = offer("a", "inside", 1, "/services/a");
    inside.routes.push(paid("/services/a/auth/login").into());
    world.kube(vec![inside]);
    assert_eq!(
        world.rows("inside")[1],
        (ReportedState::Conflict, "ReservedPath")
    );
}

#[test]
fn o5_a_rejected_offer_that_goes_leaves_nothing_behind() {
    let mut world = World::with_cluster(Unmatched::Allow);
    world.kube(vec![
        offer("a", "old", 1, "/shop"),
        offer("b", "new", 2, "/shop/b"),
    ]);
    let applied = world.kube(vec![offer("a", "old", 1, "/shop")]);
    assert!(applied.path_changes.is_empty());
    assert!(world.rows("new").is_empty());
}

#[test]
fn o5_closed_entries_of_a_gone_offer_collapse_to_its_base_path() {
    let mut world = World::with_cluster(Unmatched::Allow);
    let mut many = offer("a", "x", 1, "/shop");
    many.routes = vec![paid("/shop/a").into(), paid("/shop/b/*").into()];
    let mut one = many.clone();
    one.routes.pop();
    world.kube(vec![many]);
    world.kube(vec![one]);
    assert_eq!(world.ask("/shop/b/1"), "closed", "the pattern that left");
    assert_eq!(
        world.ask("/shop/a"),
        "paid /shop/a",
        "the offer is still there"
    );
    assert_eq!(world.ask("/shop/c"), "no route", "its base path");
    world.kube(Vec::new());
    assert_eq!(
        world.ask("/shop/c"),
        "closed",
        "the base path is closed as a whole"
    );
}

#[test]
fn o5_past_its_cap_a_namespace_closes_its_managed_prefix_and_opens_nothing() {
    let mut world = World::with_cluster(Unmatched::Allow);
    world.settings.closed_paths_per_namespace = 2;
    world.file(Vec::new());
    let mut removed = 0;
    for round in 0..6 {
        world.now = at(round);
        world.kube(vec![offer(
            "a",
            &format!("x{round}"),
            round,
            &format!("/services/x{round}"),
        )]);
        let mut outside = offer("a", &format!("y{round}"), round, &format!("/out/y{round}"));
        outside
            .routes
            .push(paid(&format!("/services/in/y{round}")).into());
        world.kube(vec![outside]);
    }
    world.now = at(10);
    removed += world.kube(Vec::new()).path_removals.len();
    assert!(removed <= 1, "older ones went as they came");
    let table = world.reader.load_full();
    let closed: Vec<_> = table
        .report
        .rows()
        .map(|row| row.pattern.to_string())
        .collect();
    assert!(closed.contains(&"/services/*".to_owned()), "{closed:?}");
    assert!(!closed.contains(&"/services/x0/*".to_owned()), "{closed:?}");
    for round in 0..6 {
        assert_ne!(world.ask(&format!("/services/x{round}/1")), "unmatched");
        assert_eq!(
            world.ask(&format!("/out/y{round}/1")),
            "closed",
            "outside stays"
        );
    }
    world.kube(vec![offer("b", "fresh", 20, "/services/x0")]);
    assert_eq!(
        world.rows("fresh"),
        live(),
        "the wall reserves nothing for anybody"
    );
}

#[test]
fn a_conflict_harms_nobody_else() {
    let mut world = World::with_cluster(Unmatched::Deny);
    let old: Vec<Offer> = (0..20)
        .map(|n| offer("a", &format!("n{n}"), n, &format!("/services/s{n}")))
        .collect();
    let mut all = old.clone();
    all.extend((0..20).map(|n| {
        offer(
            "evil",
            &format!("e{n}"),
            100 + n,
            &format!("/services/s{n}/x"),
        )
    }));
    world.kube(all);
    for n in 0..20 {
        assert_eq!(world.rows(&format!("n{n}")), live());
        assert_eq!(
            world.ask(&format!("/services/s{n}/x/1")),
            format!("paid /services/s{n}/*")
        );
    }
}
