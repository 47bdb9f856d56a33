//! A profile as a flame graph: a picture of its stacks that a browser shows by itself, with search and zoom.

use super::text::collapsed;
use super::view::{View, What};
use crate::Failure;
use inferno::flamegraph::color::{BasicPalette, Palette};
use inferno::flamegraph::{self, Direction, Options};

pub(super) fn svg(view: &View, by_objects: bool, subtitle: &str) -> Result<Vec<u8>, Failure> {
    let stacks = collapsed(view, by_objects);
    if stacks.is_empty() {
        return Err(Failure::own("there is nothing to draw: the profile has no such samples".to_owned()));
    }
    let title = if view.what == What::Lifetimes { "Lifetimes of what was" } else { "Bytes" };
    let mut options = Options::default();
    options.title = format!("{} {}", if by_objects { "Blocks" } else { title }, view.what.name());
    // One line of text, whatever is in it.
    options.subtitle = Some(subtitle.lines().collect::<Vec<_>>().join("; "));
    options.count_name = if by_objects { "blocks" } else { view.what.unit() }.to_owned();
    options.colors = Palette::Basic(BasicPalette::Mem);
    // From the top down: of stacks deeper than the window one sees the wide frames where they begin.
    options.direction = Direction::Inverted;
    // The same profile, the same picture.
    options.deterministic = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, stacks.lines(), &mut svg)
        .map_err(|error| Failure::own(format!("the flame graph cannot be drawn: {error}")))?;
    Ok(svg)
}
