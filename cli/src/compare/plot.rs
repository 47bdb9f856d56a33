//! The results as a picture for a talk: each run a dot, medians as bars, time above and peak memory below.

use super::results::{Figure, Results, Row, is_known, is_noise};
use crate::Failure;
use crate::text::{bytes, duration, shortened};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Ours, the other allocators, and what is written.
const OURS: RGBColor = RGBColor(204, 0, 51);
const OTHERS: RGBColor = RGBColor(0, 90, 160);
const INK: RGBColor = RGBColor(40, 40, 40);

const WIDTH: u32 = 900;
/// Height of an allocator's bar with what is between two.
const LINE: i32 = 34;
/// What a panel has besides: its title.
const HEAD: i32 = 44;
/// The title of the whole, and the line below all.
const TITLE: i32 = 52;
const FOOT: i32 = 34;
/// From where to where a bar may reach.
const LEFT: i32 = 130;
const RIGHT: i32 = 660;

/// The picture as the text of an SVG file.
pub(super) fn svg(results: &Results) -> Result<String, Failure> {
    let rows: Vec<&Row> = results.measured().collect();
    let panel = HEAD + LINE * rows.len() as i32;
    let height = TITLE + 2 * panel + FOOT;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (WIDTH, height as u32)).into_drawing_area();
    draw(&area, results, &rows, panel, height)
        .and_then(|()| Ok(area.present()?))
        .map_err(|error| Failure::own(format!("the plot: {error}")))?;
    drop(area);
    Ok(text)
}

fn font(size: i32, colour: &RGBColor, across: HPos) -> TextStyle<'_> {
    ("sans-serif", size).into_font().color(colour).pos(Pos::new(across, VPos::Center))
}

fn draw(area: &Area, results: &Results, rows: &[&Row], panel: i32, height: i32) -> Drawn {
    area.fill(&WHITE)?;
    const MOST: usize = 90;
    let title = shortened(&results.command, MOST);
    area.draw(&Text::new(title, (20, TITLE / 2), font(20, &INK, HPos::Left)))?;
    draw_panel(area, results, rows, Figure::Time, "Time", &duration, TITLE)?;
    let size = |value: f64| format!("{}iB", bytes(value as u64));
    draw_panel(area, results, rows, Figure::Peak, "Peak memory", &size, TITLE + panel)?;
    let runs = rows.iter().map(|row| row.runs.len()).max().unwrap_or(0);
    let base = &results.rows[results.reference].allocator.name;
    let foot =
        format!("medians of {runs} runs, in turn; ratios to {base}'s with 95 % bounds; each dot is a run");
    area.draw(&Text::new(foot, (20, height - FOOT / 2), font(13, &INK, HPos::Left)))?;
    Ok(())
}

fn draw_panel(
    area: &Area,
    results: &Results,
    rows: &[&Row],
    figure: Figure,
    title: &str,
    unit: &dyn Fn(f64) -> String,
    top: i32,
) -> Drawn {
    area.draw(&Text::new(title.to_owned(), (20, top + HEAD / 2), font(17, &INK, HPos::Left)))?;
    let most = rows.iter().flat_map(|row| row.values(figure)).fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| LEFT + ((RIGHT - LEFT) as f64 * value / most) as i32;
    for (line, row) in rows.iter().enumerate() {
        let middle = top + HEAD + LINE * line as i32 + LINE / 2 - 6;
        let name = &row.allocator.name;
        let colour = if name == "specmalloc" { OURS } else { OTHERS };
        area.draw(&Text::new(name.clone(), (LEFT - 10, middle), font(15, &colour, HPos::Right)))?;
        let median = row.median(figure);
        let bar = [(LEFT, middle - 11), (at(median), middle + 11)];
        area.draw(&Rectangle::new(bar, colour.mix(0.35).filled()))?;
        for (index, value) in row.values(figure).into_iter().enumerate() {
            // Beside each other, as far as there is room, so that equal runs are seen.
            let y = middle - 7 + (index as i32 * 5) % 15;
            area.draw(&Circle::new((at(value), y), 2, colour.mix(0.8).filled()))?;
        }
        area.draw(&Text::new(unit(median), (RIGHT + 12, middle), font(13, &INK, HPos::Left)))?;
        if let Some(ratio) = results.ratio(row, figure) {
            let noise = if is_noise(&ratio) { ", noise" } else { "" };
            let share = match is_known(&ratio) {
                true => format!("{:.2} ({:.2} to {:.2}{noise})", ratio.value, ratio.low, ratio.high),
                false => format!("{:.2}", ratio.value),
            };
            area.draw(&Text::new(share, (RIGHT + 72, middle), font(13, &INK, HPos::Left)))?;
        }
    }
    area.draw(&PathElement::new(
        [(LEFT, top + HEAD - 4), (LEFT, top + HEAD + LINE * rows.len() as i32 - 8)],
        INK.stroke_width(1),
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn the_picture_is_whole_and_names_everyone() {
        let text = svg(&results()).ok().expect("draws");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        for word in ["first", "second", "Time", "Peak memory", "0.50 (0.50 to 0.50)", "noise"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
