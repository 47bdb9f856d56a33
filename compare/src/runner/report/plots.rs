//! Plots for a talk, as SVG: where each allocator stands in time and memory, every row against the best of it, and the
//! percentiles of single calls.

use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::markdown::{duration, shares};
use crate::runner::Failure;
use crate::runner::measure::{Results, Row};
use crate::runner::stats::Estimate;
use crate::runner::suite::Group;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Distinct also to those who do not see colours as most do; the first is ours.
const COLOURS: [RGBColor; 12] = [
    RGBColor(204, 0, 51),
    RGBColor(0, 90, 160),
    RGBColor(230, 140, 0),
    RGBColor(0, 140, 90),
    RGBColor(130, 60, 150),
    RGBColor(90, 90, 90),
    RGBColor(60, 170, 210),
    RGBColor(150, 100, 40),
    RGBColor(210, 90, 160),
    RGBColor(110, 150, 30),
    RGBColor(40, 40, 110),
    RGBColor(160, 160, 160),
];

/// Draws what the results have, and answers the files.
pub fn draw(results: &Results, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut plot = |name: &str, size: (u32, u32), body: &dyn Fn(&Area) -> Drawn| -> Result<(), Failure> {
        let file = folder.join(format!("{name}.svg"));
        let area = SVGBackend::new(&file, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| body(&area));
        drawn.and_then(|()| Ok(area.present()?)).map_err(|error| format!("{}: {error}", file.display()))?;
        files.push(file.clone());
        Ok(())
    };
    for (name, groups, title) in [
        ("plane", &[Group::Heap, Group::Aged, Group::Traces, Group::AddressSpace][..], "All workloads"),
        ("plane-programs", &[Group::Programs][..], "Real programs"),
    ] {
        let points = points(results, groups);
        if points.len() > 1 {
            plot(name, (900, 640), &|area| plane(area, results, title, &points))?;
        }
    }
    for group in Group::ALL.into_iter().filter(|&group| group != Group::Tails) {
        let rows: Vec<&Row> = results.of(group).collect();
        if !rows.is_empty() {
            let used: Vec<usize> = (0..results.peers.len())
                .filter(|&peer| rows.iter().any(|row| row.cells[peer].applies))
                .collect();
            let size = (220 + 78 * used.len() as u32, 120 + 24 * rows.len() as u32);
            plot(&format!("matrix-{}", group.name()), size, &|area| {
                matrix(area, results, group, &rows, &used)
            })?;
        }
    }
    let rows: Vec<&Row> = results.of(Group::Tails).collect();
    for call in ["malloc", "free"] {
        if !rows.is_empty() {
            let lines = rows.len().div_ceil(2) as u32;
            plot(&format!("tails-{call}"), (1_100, 60 + 340 * lines), &|area| {
                tails(area, results, call, &rows)
            })?;
        }
    }
    Ok(files)
}

/// An allocator's place among the colours: ours is always the first.
fn colour(results: &Results, peer: usize) -> RGBColor {
    let ours = results.peer("specmalloc");
    let place = match ours {
        Some(ours) if peer == ours => 0,
        Some(ours) if peer < ours => peer + 1,
        _ => peer,
    };
    COLOURS[place % COLOURS.len()]
}

fn text(size: u32, colour: &RGBColor, across: HPos, down: VPos) -> TextStyle<'_> {
    ("sans-serif", size).into_font().color(colour).pos(Pos::new(across, down))
}

/// Time and memory of each allocator as shares of the base's, where it has all rows that the base has.
fn points(results: &Results, groups: &[Group]) -> Vec<(usize, Estimate, Estimate)> {
    let Some(base) = results.peer(&results.base) else { return Vec::new() };
    let of = |peer: usize, figure: &str| {
        Estimate::of_mean_of_medians(&shares(results, groups, peer, base, figure))
    };
    (0..results.peers.len())
        .filter_map(|peer| Some((peer, of(peer, "seconds")?, of(peer, "peak_rss_kib")?)))
        .collect()
}

fn plane(area: &Area, results: &Results, title: &str, points: &[(usize, Estimate, Estimate)]) -> Drawn {
    let bounds = |of: &dyn Fn(&(usize, Estimate, Estimate)) -> Estimate| {
        let (low, high) = points
            .iter()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(low, high), e| (low.min(e.low), high.max(e.high)));
        let margin = ((high - low) * 0.15).max(0.05);
        (low - margin).max(0.0)..high + margin
    };
    let (across, down) = (bounds(&|point| point.1), bounds(&|point| point.2));
    let (width, height) = (across.end - across.start, down.end - down.start);
    // Whether another point stands where the name would: then the name goes to the other side.
    let crowded = |peer: usize, time: f64, memory: f64| {
        points.iter().any(|(other, t, m)| {
            let right = t.value - time;
            *other != peer && (0.0..0.15 * width).contains(&right) && (m.value - memory).abs() < 0.04 * height
        })
    };
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{title}: time and memory, {} = 1, lower left is better", results.base),
            ("sans-serif", 22),
        )
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(across, down)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("time (geometric mean)")
        .y_desc("peak memory (geometric mean)")
        .label_style(("sans-serif", 15))
        .draw()?;
    for (peer, time, memory) in points {
        let colour = colour(results, *peer);
        let cross = [
            vec![(time.low, memory.value), (time.high, memory.value)],
            vec![(time.value, memory.low), (time.value, memory.high)],
        ];
        chart.draw_series(cross.map(|line| PathElement::new(line, colour.mix(0.5).stroke_width(2))))?;
        let left = crowded(*peer, time.value, memory.value);
        let (side, place) = if left { (HPos::Right, -9) } else { (HPos::Left, 9) };
        let label = text(17, &colour, side, VPos::Bottom);
        chart.draw_series([EmptyElement::at((time.value, memory.value))
            + Circle::new((0, 0), 7, colour.filled())
            + Text::new(results.peers[*peer].name.clone(), (place, -5), label)])?;
    }
    Ok(())
}

/// Each cell is the time as a share of the best of its row: white is the best, red twice as long or more.
fn matrix(area: &Area, results: &Results, group: Group, rows: &[&Row], used: &[usize]) -> Drawn {
    const LEFT: i32 = 200;
    const TOP: i32 = 96;
    let title = format!("{}: time as a share of the best of the row", group.title());
    area.draw(&Text::new(title, (12, 10), text(19, &BLACK, HPos::Left, VPos::Top)))?;
    for (column, &peer) in used.iter().enumerate() {
        let x = LEFT + 78 * column as i32 + 39;
        // Every second name a line lower: they are longer than a column is wide.
        let y = TOP - 8 - 20 * (column % 2) as i32;
        let colour = colour(results, peer);
        area.draw(&Text::new(
            results.peers[peer].name.clone(),
            (x, y),
            text(14, &colour, HPos::Center, VPos::Bottom),
        ))?;
    }
    for (line, row) in rows.iter().enumerate() {
        let y = TOP + 24 * line as i32;
        area.draw(&Text::new(
            row.task.label(),
            (LEFT - 8, y + 12),
            text(14, &BLACK, HPos::Right, VPos::Center),
        ))?;
        let best = row.best("seconds", None);
        for (column, &peer) in used.iter().enumerate() {
            let x = LEFT + 78 * column as i32;
            let share = best.and_then(|best| row.ratio(peer, best, "seconds")).map(|share| share.value);
            let (fill, label) = match share {
                Some(share) => (heat(share), format!("{share:.2}")),
                None if row.cells[peer].applies => (RGBColor(225, 225, 225), "failed".to_owned()),
                None => (RGBColor(240, 240, 240), "-".to_owned()),
            };
            area.draw(&Rectangle::new([(x, y), (x + 76, y + 22)], fill.filled()))?;
            area.draw(&Text::new(label, (x + 38, y + 11), text(13, &BLACK, HPos::Center, VPos::Center)))?;
        }
    }
    Ok(())
}

/// From green at one to red at two.
fn heat(share: f64) -> RGBColor {
    let warm = ((share - 1.0) / 1.0).clamp(0.0, 1.0);
    let mix = |from: f64, to: f64| (from + (to - from) * warm) as u8;
    if warm < 0.03 {
        RGBColor(170, 220, 170)
    } else {
        RGBColor(mix(250.0, 240.0), mix(245.0, 120.0), mix(225.0, 100.0))
    }
}

const PERCENTILES: [(&str, &str); 5] =
    [("p50", "50 %"), ("p99", "99 %"), ("p99.9", "99.9 %"), ("p99.99", "99.99 %"), ("max", "longest")];

/// A panel for each row: nanoseconds, on a logarithmic scale, at each percentile.
fn tails(area: &Area, results: &Results, call: &str, rows: &[&Row]) -> Drawn {
    let (head, panels) = area.split_vertically(56);
    let title = format!("How long one {call} takes (black: no call at all, in the same runs)");
    head.draw(&Text::new(title, (12, 8), text(20, &BLACK, HPos::Left, VPos::Top)))?;
    let used: Vec<usize> =
        (0..results.peers.len()).filter(|&peer| rows.iter().any(|row| row.cells[peer].applies)).collect();
    for (place, &peer) in used.iter().enumerate() {
        let x = 12 + 90 * place as i32;
        let colour = colour(results, peer);
        head.draw(&Text::new(
            results.peers[peer].name.clone(),
            (x, 36),
            text(14, &colour, HPos::Left, VPos::Top),
        ))?;
    }
    for (panel, row) in panels.split_evenly((rows.len().div_ceil(2), 2)).iter().zip(rows) {
        let mut chart = ChartBuilder::on(panel)
            .caption(row.task.label(), ("sans-serif", 17))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.2..4.2, (5.0..1e8).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(5)
            .x_label_formatter(&|at| percentile_name(*at))
            .y_label_formatter(&|nanoseconds| duration(nanoseconds * 1e-9))
            .draw()?;
        let line = |peer: usize, call: &str| -> Vec<(f64, f64)> {
            let value = |name: &str| row.median(peer, &format!("{call}_{name}_ns"));
            let values =
                PERCENTILES.iter().enumerate().filter_map(|(at, name)| Some((at as f64, value(name.0)?)));
            values.map(|(at, value)| (at, value.max(5.0))).collect()
        };
        for &peer in &used {
            let (colour, width) =
                (colour(results, peer), if results.peers[peer].name == "specmalloc" { 4 } else { 2 });
            chart.draw_series(LineSeries::new(line(peer, call), colour.stroke_width(width)))?;
        }
        if let Some(base) = results.peer(&results.base) {
            chart.draw_series(LineSeries::new(line(base, "nothing"), BLACK.stroke_width(1)))?;
        }
    }
    Ok(())
}

fn percentile_name(at: f64) -> String {
    let name = (at.fract().abs() < 1e-9).then(|| PERCENTILES.get(at as usize)).flatten();
    name.map_or(String::new(), |name| name.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::measure::tests::{results, row};

    #[test]
    fn there_is_a_plot_for_each_thing_measured_and_it_says_who_is_who() {
        let rows = vec![
            row(Group::Heap, "x", &[&[2.0; 3], &[1.0; 3]]),
            row(Group::Programs, "y", &[&[2.0; 3], &[1.0; 3]]),
            row(Group::Tails, "z", &[&[2.0; 3], &[1.0; 3]]),
        ];
        let folder = std::env::temp_dir().join(format!("compare-plots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = draw(&results(&["glibc", "specmalloc"], rows), &folder).expect("draws");
        let names: Vec<_> =
            files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(
            names,
            [
                "plane.svg",
                "plane-programs.svg",
                "matrix-heap.svg",
                "matrix-programs.svg",
                "tails-malloc.svg",
                "tails-free.svg"
            ]
        );
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.contains("specmalloc") && text.trim_end().ends_with("</svg>"), "{}", file.display());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn ours_is_red_and_the_worst_is_too() {
        let results = results(&["glibc", "specmalloc", "other"], Vec::new());
        assert_eq!(
            (colour(&results, 1), colour(&results, 0), colour(&results, 2)),
            (COLOURS[0], COLOURS[1], COLOURS[2])
        );
        assert_eq!((heat(2.0), heat(9.0)), (RGBColor(240, 120, 100), RGBColor(240, 120, 100)));
        assert_eq!((percentile_name(1.0), percentile_name(1.5)), ("99 %".to_owned(), String::new()));
    }
}
