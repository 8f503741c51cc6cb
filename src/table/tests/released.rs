//! What the operator releases (R4): the one thing beside its owner that opens a closed path.

use super::*;
use crate::offer::Declared;

const REASON: &str = "PathReserved";

impl World {
    /// The records that are closed now, as the ledger has them.
    fn closed(&mut self) -> Vec<PathRecord> {
        let known = self.writer.known();
        known
            .iter()
            .map(|record| PathRecord::clone(record))
            .collect()
    }

    fn release(&mut self, paths: &[PathRecord]) -> Applied {
        let paths = paths.to_vec();
        self.writer.apply(Update::Released { paths }, self.now)
    }
}

fn sold_and_left(unmatched: Unmatched) -> World {
    let mut world = World::with_cluster(unmatched);
    let mut offer = offer("shop", "a", 1, "/x/a");
    offer.routes = [paid("/x/a/v1/*"), paid("/x/a/v2/*")]
        .map(Declared::from)
        .to_vec();
    world.kube(vec![offer]);
    world.tick(10);
    world.kube(Vec::new());
    world
}

/// R4, R1: a released path is what it would be had it never been sold, and no more than that.
#[test]
fn r4_a_released_path_matches_nothing_and_its_record_is_forgotten() {
    for (unmatched, word) in [
        (Unmatched::Deny, "no route"),
        (Unmatched::Allow, "unmatched"),
    ] {
        let mut world = sold_and_left(unmatched);
        let closed = world.closed();
        assert_eq!(closed.len(), 2);
        assert_eq!(world.ask("/x/a/v1/q"), "closed");
        let applied = world.release(&closed);
        assert_eq!(applied.path_removals, closed);
        assert!(applied.path_changes.is_empty());
        for path in ["/x/a/v1/q", "/x/a/v2/q", "/x/a"] {
            assert_eq!(world.ask(path), word, "{path}");
        }
        assert_eq!(world.ask_pin("shop/a", "/x/a/v1"), "unknown pin");
        assert!(world.rows("a").is_empty());
    }
}

/// O5: an offer that is gone closes its base path until the last of its patterns is released.
#[test]
fn o5_the_base_path_stays_closed_as_long_as_one_of_its_patterns() {
    let mut world = sold_and_left(Unmatched::Allow);
    let closed = world.closed();
    world.release(&closed[..1]);
    for path in ["/x/a/v1/q", "/x/a/v2/q", "/x/a"] {
        assert_eq!(world.ask(path), "closed", "{path}");
    }
    world.release(&closed[1..]);
    assert_eq!(world.ask("/x/a/v1/q"), "unmatched");
}

/// O3: the reservation ends, and whoever waited for it has the path with the same table.
#[test]
fn o3_after_a_release_the_next_owner_has_the_path() {
    let mut world = sold_and_left(Unmatched::Allow);
    world.kube(vec![offer("other", "b", 20, "/x/a")]);
    assert_eq!(world.rows("b"), [(ReportedState::Conflict, REASON)]);
    assert_eq!(world.ask("/x/a/v1/q"), "closed");
    let closed = world.closed();
    let generation = world.reader.load().generation;
    world.release(&closed);
    assert_eq!(world.ask("/x/a/v1/q"), "paid /x/a/*");
    assert_eq!(world.rows("b"), [(ReportedState::Live, "")]);
    assert_eq!(
        world.reader.load().generation,
        generation + 1,
        "R5: one table"
    );
}

/// A release names one closing. What is live, or was closed again since, is not released (R1, R3).
#[test]
fn r3_what_is_live_or_closed_since_is_not_released_by_an_old_word() {
    let mut world = sold_and_left(Unmatched::Allow);
    let first = world.closed();
    let mut again = offer("shop", "a", 1, "/x/a");
    again.routes = [paid("/x/a/v1/*"), paid("/x/a/v2/*")]
        .map(Declared::from)
        .to_vec();
    world.tick(20);
    world.kube(vec![again]);
    let generation = world.reader.load().generation;
    let as_live: Vec<_> = first
        .iter()
        .map(|record| PathRecord {
            closed_at: None,
            ..record.clone()
        })
        .collect();
    for word in [&first, &as_live] {
        let applied = world.release(word);
        assert!(applied.path_removals.is_empty());
        assert_eq!(world.ask("/x/a/v1/q"), "paid /x/a/v1/*");
    }
    assert_eq!(
        world.reader.load().generation,
        generation,
        "no table for nothing"
    );
    world.tick(30);
    world.kube(Vec::new());
    for word in [&first, &as_live] {
        world.release(word);
        assert_eq!(world.ask("/x/a/v1/q"), "closed");
    }
    let second = world.closed();
    world.release(&second);
    assert_eq!(world.ask("/x/a/v1/q"), "unmatched");
}
