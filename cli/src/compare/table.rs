//! The results for people.

use super::results::{Figure, Results, Row, is_known, is_noise};
use crate::terminal::Colours;
use crate::text::{Column, Side, bytes, digits, duration, grouped, lines, shortened};
use specmalloc_measure::stats::Estimate;
use std::fmt::Write;

/// Columns of a terminal that the ratio of peak memory has room in, too.
const WIDE: usize = 100;

/// The table, and below it what has no place in it.
pub(super) fn table(results: &Results, width: usize, colours: Colours) -> String {
    let rows: Vec<&Row> = results.measured().collect();
    let of = |figure: Figure| -> Vec<Option<Estimate>> {
        rows.iter().map(|row| results.ratio(row, figure)).collect()
    };
    let (time, peak) = (of(Figure::Time), of(Figure::Peak));
    let cells = |cell: &dyn Fn(&Row) -> String| rows.iter().map(|row| cell(row)).collect::<Vec<_>>();
    let right = |heading: &str, cells| Column::new(heading, Side::Right, cells);
    let mut columns = vec![
        Column::new("allocator", Side::Left, cells(&|row| row.allocator.name.clone())),
        right("time", cells(&|row| duration(row.median(Figure::Time)))),
        right("spread", cells(&|row| percent(row.spread(Figure::Time)))),
        right("ratio", time.iter().map(ratio).collect()),
        right("95 %", time.iter().map(interval).collect()),
        right("user", cells(&|row| duration(row.median(Figure::User)))),
        right("system", cells(&|row| duration(row.median(Figure::System)))),
        right("peak", cells(&|row| bytes(row.median(Figure::Peak) as u64))),
    ];
    // Which columns show ratios, and of what.
    let mut painted = vec![(3, &time)];
    if width >= WIDE {
        painted.push((columns.len(), &peak));
        columns.push(right("ratio", peak.iter().map(ratio).collect()));
        columns.push(right("95 %", peak.iter().map(interval).collect()));
    }
    columns.push(right("faults", cells(&|row| grouped(row.median(Figure::Faults) as u64))));

    let mut text = String::new();
    let runs = rows.iter().map(|row| row.runs.len()).max().unwrap_or(0);
    let said = match runs {
        1 => ": one run under each".to_owned(),
        _ => format!(": medians of {runs} runs under each, in turn"),
    };
    let command = shortened(&results.command, width.saturating_sub(said.len()));
    let _ = writeln!(text, "{}\n", colours.strong(command + &said));
    text += &lines(&columns, if width >= WIDE { 2 } else { 1 }, |line, column, cell| {
        let Some(line) = line else { return colours.faint(cell) };
        match painted.iter().find(|painted| painted.0 == column).and_then(|painted| painted.1[line]) {
            Some(ratio) if is_noise(&ratio) => colours.faint(cell),
            Some(ratio) if ratio.value < 1.0 => colours.good(cell),
            Some(_) => colours.bad(cell),
            None => cell.to_owned(),
        }
    });
    text.push('\n');
    let base = &results.rows[results.reference].allocator.name;
    if rows.len() > 1 {
        let _ = write!(text, "Ratios are to {base}'s medians, less is better.");
        if time.iter().chain(peak.iter().filter(|_| width >= WIDE)).flatten().any(is_noise) {
            let _ = write!(text, " ~ is inside the noise.");
        }
        text.push('\n');
    }
    for row in results.rows.iter() {
        if let Some(trouble) = &row.trouble {
            let _ = writeln!(text, "{}: {trouble}", colours.bad(&row.allocator.name));
        }
    }
    for (name, why) in &results.missing {
        let _ = writeln!(text, "{}: not found: {why}", colours.faint(name));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A ratio, with a mark where it may as well be 1.
pub(super) fn ratio(ratio: &Option<Estimate>) -> String {
    ratio.map_or_else(
        || "1.00 ".to_owned(),
        |ratio| format!("{:.2}{}", ratio.value, if is_noise(&ratio) { '~' } else { ' ' }),
    )
}

fn interval(ratio: &Option<Estimate>) -> String {
    ratio
        .filter(is_known)
        .map_or_else(String::new, |ratio| format!("{}-{}", digits(ratio.low), digits(ratio.high)))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;
    use crate::terminal::Colour;

    #[test]
    fn the_table_says_who_is_faster_and_who_is_not_there() {
        let plain = Colours::new(Colour::Never, false);
        let text = table(&results(), 80, plain);
        let expected = "\
program 'an argument': medians of 3 runs under each, in turn

allocator  time spread ratio      95 %  user system  peak faults
first     1.25s   40 % 1.00            625ms  312ms 2.00M  1,235
second    625ms   40 % 0.50  0.50-0.50 312ms  156ms 2.00M  1,235

Ratios are to first's medians, less is better.
third: killed by signal 11 (SIGSEGV)
fourth: not found: no libfourth.so in the usual folders
";
        assert_eq!(text, expected);
        let wide = table(&results(), 120, plain);
        assert!(wide.contains("1.00~  1.00-1.00") && wide.contains("inside the noise"), "{wide}");
        let coloured = table(&results(), 80, Colours::new(Colour::Always, false));
        assert!(coloured.contains("\x1b[32m0.50 \x1b[0m"), "{coloured}");
    }

    #[test]
    fn of_one_run_nobody_knows_how_sure_it_is() {
        let mut results = results();
        results.rows.iter_mut().for_each(|row| row.runs.truncate(1));
        let text = table(&results, 80, Colours::new(Colour::Never, false));
        assert!(text.starts_with("program 'an argument': one run under each\n"), "{text}");
        assert!(text.contains("second    500ms    0 % 0.50~      250ms"), "{text}");
    }

    #[test]
    fn a_long_command_is_shortened_to_the_line() {
        let mut results = results();
        results.command = "x".repeat(200);
        let text = table(&results, 80, Colours::new(Colour::Never, false));
        let first = text.lines().next().unwrap();
        assert!(
            first.chars().count() == 80 && first.contains("...xxx") && first.contains("x: medians"),
            "{first}"
        );
        results.command = format!("/{}/program --argument", "folder/".repeat(20));
        let text = table(&results, 80, Colours::new(Colour::Never, false));
        let first = text.lines().next().unwrap();
        assert!(first.starts_with(".../") && first.contains("/program --argument: medians"), "{first}");
    }
}
