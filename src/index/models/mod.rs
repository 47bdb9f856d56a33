//! Models of the index and of the space: regions come and go while others look.
//!
//! The memory of each region is a cell of the checker, which reports every touch that is not ordered before the write
//! that stands for its unmapping. Run with
//! `RUSTFLAGS="--cfg loom" cargo test --profile model --lib -p specmalloc index`.

mod current;
mod hands;
mod holes;
mod space;
mod tree;
pub(crate) mod watched;

use crate::sync::SeededBug;
use crate::sync::checker::models;
use current::*;
use hands::*;
use holes::*;
use loom::thread;
use space::*;
use std::sync::Arc;
use tree::*;

/// Every place that can be weakened, and the model that must fail then.
const SEEDED: &[SeededBug] = &[
    SeededBug::new("index.hand_relaxed", "the acquire of a place for a note", "held_by_turns"),
    SeededBug::new("index.hand_left_relaxed", "the release of a place for a note", "held_by_turns"),
    SeededBug::new("index.no_grace", "the grace period before an unmap", "readers_and_an_unmap"),
    SeededBug::new("index.undrained", "the wait for pins before an unmap", "readers_and_an_unmap"),
    SeededBug::new("index.unlink_late", "the order of unlinking and grace period", "readers_and_an_unmap"),
    SeededBug::new("index.no_grace", "the grace period before an unmap", "readers_and_a_reaper"),
    SeededBug::new("index.undrained", "the look at the pins before an unmap", "readers_and_a_reaper"),
    SeededBug::new("index.unlink_first", "the order of exclusion and unlinking", "unmapped_and_retired"),
    SeededBug::new("index.no_freeze", "the freeze of an arena", "claim_and_retire"),
    SeededBug::new("region.clear_relaxed", "the release of the last touch", "claim_and_retire"),
    SeededBug::new(
        "index.near_late",
        "the clearing of the near table before the grace period",
        "near_and_retire",
    ),
    SeededBug::new("index.publish_relaxed", "the release that publishes a region", "published_in_a_node"),
    SeededBug::new("index.lookup_root", "the acquire of a lookup in the root", "published"),
    SeededBug::new(
        "index.lookup_granule",
        "the acquire of a lookup in a node of granules",
        "published_in_granules",
    ),
    SeededBug::new(
        "index.lookup_slice",
        "the acquire of a lookup in a node of slices",
        "published_in_a_node",
    ),
    SeededBug::new("index.fold_blind", "the look for a node in the place of a whole entry", "folded"),
    SeededBug::new("index.unlink_folded_late", "the clearing of the entries below a whole one", "unfolded"),
    SeededBug::new("index.node_relaxed", "the release that links a node", "published"),
    SeededBug::new(
        "index.page_link_relaxed",
        "the release that links a node of pages, and the fence at a guest's entry",
        "published_in_pages",
    ),
    SeededBug::new(
        "index.page_publish_relaxed",
        "the release that publishes pages, and the fence at a guest's entry",
        "joined_in_pages",
    ),
    SeededBug::new(
        "index.page_find_relaxed",
        "the acquire of a lookup in a node of pages",
        "joined_in_pages",
    ),
    SeededBug::new("index.ensure_relaxed", "the acquire of a node that another thread links", "neighbours"),
    SeededBug::new("index.ensure_lost", "the acquire of the node that won the race", "neighbours"),
    SeededBug::new("index.spare_take_relaxed", "the acquire of a spare node", "three_neighbours"),
    SeededBug::new("index.spare_put_relaxed", "the release of a spare node", "three_neighbours"),
    SeededBug::new(
        "index.replace_relaxed",
        "the acquire of a node in the place of a whole entry",
        "whole_over_cut",
    ),
    SeededBug::new(
        "index.page_edit_relaxed",
        "the acquire of a node of pages, and the fence of a guest",
        "neighbours_in_pages",
    ),
    SeededBug::new(
        "index.page_link_two_steps",
        "the one step of the exchange that links a node of pages",
        "neighbours_in_pages",
    ),
    SeededBug::new(
        "index.page_not_abandoned",
        "the clearing of a node that lost the race",
        "neighbours_in_pages",
    ),
    SeededBug::new("index.node_two_steps", "the one step of the exchange that links a node", "neighbours"),
    SeededBug::new("index.page_join_zero", "the refusal to join a node at its end", "join_and_leave"),
    SeededBug::new("index.page_without_grace", "the grace period of a node of pages", "page_node_reused"),
    SeededBug::new(
        "index.page_without_grace",
        "the grace period of a node of pages",
        "two_leave_and_one_comes",
    ),
    SeededBug::new(
        "index.page_written_first",
        "that a region is a user of a node before it is in it",
        "join_and_leave",
    ),
    SeededBug::new(
        "index.page_without_section",
        "the section of those who change nodes of pages",
        "page_node_comes_back",
    ),
    SeededBug::new(
        "index.current_relaxed",
        "the acquire of the word that leads to a region",
        "reopened_under_a_guard",
    ),
    SeededBug::new(
        "index.superseded_relaxed",
        "the release of the word that leads to a region",
        "reopened_under_a_guard",
    ),
    SeededBug::new(
        "index.retired_first",
        "the order in which a region is superseded and retired",
        "reopened_beside_a_reaper",
    ),
    SeededBug::new("index.undrained", "the look at the pins before an unmap", "reopened_under_a_pin"),
    SeededBug::new(
        "index.unmapped_first",
        "the order in which a region is taken out and unmapped",
        "closed_under_readers",
    ),
    SeededBug::new(
        "index.superseded_two_steps",
        "the one step in which a region is superseded",
        "reopened_and_closed",
    ),
    SeededBug::new(
        "index.closed_last",
        "the order in which a region is taken out and retired",
        "closed_beside_a_reaper",
    ),
    SeededBug::new("index.no_grace", "the grace period before an unmap", "closed_if_unpinned"),
    SeededBug::new(
        "region.unpinned_two_steps",
        "the one step in which an unmapper finds no pin and excludes",
        "closed_if_unpinned",
    ),
    SeededBug::new("index.holes_link", "the release that links a map of holes", "holes_linked"),
    SeededBug::new("index.holes_find", "the acquire of a map of holes", "holes_linked"),
    SeededBug::new("index.holes_look", "the acquire of what is known not to fit", "hole_found"),
    SeededBug::new("index.holes_changed", "the release of what is known not to fit", "hole_found"),
    SeededBug::new(
        "index.holes_two_steps",
        "the one step of the exchange that remembers a search",
        "hole_found",
    ),
    SeededBug::new("index.holes_silent", "the word of what was held for a moment", "hole_held_for_a_moment"),
    SeededBug::new(
        "index.whole_silent",
        "the word of a whole that was held for a moment",
        "whole_held_for_a_moment",
    ),
];

fn on_thread<T: 'static, R: 'static>(
    world: &Arc<T>,
    run: impl FnOnce(&T) -> R + 'static,
) -> thread::JoinHandle<R> {
    let world = world.clone();
    thread::spawn(move || run(&world))
}

models! {
    readers_and_an_unmap readers_and_a_reaper unmapped_and_retired claim_and_retire near_and_retire published published_in_granules published_in_a_node folded unfolded
    published_in_pages joined_in_pages neighbours three_neighbours whole_over_cut neighbours_in_pages join_and_leave page_node_reused page_node_comes_back two_leave_and_one_comes
    held_by_turns holes_linked hole_found hole_held_for_a_moment whole_held_for_a_moment
    reopened_under_a_guard reopened_beside_a_reaper reopened_under_a_pin closed_under_readers reopened_and_closed
    closed_beside_a_reaper closed_if_unpinned
}
