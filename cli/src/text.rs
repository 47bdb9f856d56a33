//! Numbers as people read them, and tables whose columns are as wide as what is in them.

use std::fmt::Write;

/// `number` with commas between its thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name of somebody's, without what a terminal would act on.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// So many things of a name, which takes an s where there is not one.
pub(crate) fn counted(count: u64, name: &str) -> String {
    format!("{} {name}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// At least three digits of `value`, with a point where it is due.
pub(crate) fn digits(value: f64) -> String {
    match value {
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A time: `1.20s`, `12.3ms`, `950us`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds <= 0.0 => "0".to_owned(),
        _ if seconds < 0.9995e-3 => format!("{}us", digits(seconds * 1e6)),
        _ if seconds < 0.9995 => format!("{}ms", digits(seconds * 1e3)),
        _ => format!("{}s", digits(seconds)),
    }
}

/// A size: `35.2M`, as top has it.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes}") } else { format!("{}{}", digits(value), UNITS[unit]) }
}

/// `facts` in lines of at most `width`, with a comma between two.
pub(crate) fn joined(facts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + fact.chars().count() <= width => {
                line.push_str(", ");
                line.push_str(fact);
            }
            _ => lines.push(fact.clone()),
        }
    }
    lines
}

/// The command, a program and its arguments as a shell reads them, in so many columns at most: what is left out is where
/// the program lies, then the last arguments, and only then the beginning of its name.
pub(crate) fn shortened(command: &str, width: usize) -> String {
    const GAP: &str = "...";
    let width = width.max(2 * GAP.len());
    let len = |text: &str| text.chars().count();
    if len(command) <= width {
        return command.to_owned();
    }
    let quote = if command.starts_with('\'') { "'" } else { "" };
    let end = match quote {
        "" => command.find(' '),
        _ => command[1..].find("' ").map(|at| at + 2),
    };
    let (program, arguments) = command.split_at(end.unwrap_or(command.len()));
    let folders = program.match_indices('/').map(|(at, _)| format!("{quote}{GAP}{}", &program[at..]));
    let mut shorter = program.to_owned();
    for folder in folders {
        shorter = folder;
        if len(&shorter) + len(arguments) <= width {
            break;
        }
    }
    if len(&shorter) > width || len(&shorter) + GAP.len() > width && !arguments.is_empty() {
        let more = if arguments.is_empty() { "" } else { GAP };
        let kept = width - GAP.len() - more.len();
        let name: String = program.chars().skip(len(program).saturating_sub(kept)).collect();
        return format!("{GAP}{name}{more}");
    }
    let whole = shorter + arguments;
    match len(&whole) <= width {
        true => whole,
        false => whole.chars().take(width - GAP.len()).collect::<String>() + GAP,
    }
}

/// How a column stands in its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column of a table: its heading, its side, and a cell for each line.
pub(crate) struct Column {
    heading: String,
    side: Side,
    cells: Vec<String>,
}

impl Column {
    pub(crate) fn new(heading: impl Into<String>, side: Side, cells: Vec<String>) -> Self {
        Self { heading: heading.into(), side, cells }
    }
}

/// The lines of a table, the headings first. `paint` is given each cell, padded, with its line and column, and returns
/// how it is to be shown; headings have no line.
pub(crate) fn lines(
    columns: &[Column],
    gap: usize,
    mut paint: impl FnMut(Option<usize>, usize, &str) -> String,
) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| column.cells.iter().map(|cell| width(cell)).fold(width(&column.heading), usize::max))
        .collect();
    let count = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let mut text = String::new();
    for line in std::iter::once(None).chain((0..count).map(Some)) {
        for (index, (column, &width)) in columns.iter().zip(&widths).enumerate() {
            let cell = line
                .map_or(column.heading.as_str(), |line| column.cells.get(line).map_or("", String::as_str));
            let last = index + 1 == columns.len();
            let padded = match column.side {
                // No blanks at the end of a line.
                Side::Left if last => cell.to_owned(),
                Side::Left => format!("{cell:width$}"),
                Side::Right => format!("{cell:>width$}"),
            };
            let gap = if index == 0 { 0 } else { gap };
            write!(text, "{:gap$}{}", "", paint(line, index, &padded)).expect("a String takes all");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_command_the_programs_name_stays() {
        for (command, width, shorter) in [
            ("/usr/bin/env true", 17, "/usr/bin/env true"),
            ("/usr/bin/env true", 16, ".../bin/env true"),
            ("/usr/bin/env true", 11, ".../env ..."),
            ("/usr/bin/environment", 14, "...environment"),
            ("/usr/bin/environment true", 13, "...ronment..."),
            ("sh -c 'a long / one'", 12, "sh -c 'a ..."),
            ("'/usr/my bin/my env' true", 20, "'.../my env' true"),
            ("'/usr/my bin/my env'", 12, "'.../my env'"),
            ("aaaaaaaaaaaaaaaab", 0, "...aab"),
        ] {
            assert_eq!(shortened(command, width), shorter, "{width}");
        }
    }

    #[test]
    fn names_say_nothing_to_a_terminal() {
        assert_eq!(printable("é\x1b[2J\n"), "é?[2J?");
    }

    #[test]
    fn thousands_are_grouped() {
        let groups = [0, 999, 1000, 1_234_567, u64::MAX].map(grouped);
        assert_eq!(groups, ["0", "999", "1,000", "1,234,567", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!(
            [0.0, 9.5e-4, 0.0123, 0.9996, 1.2034, 75.0].map(duration),
            ["0", "950us", "12.3ms", "1.00s", "1.20s", "75.0s"]
        );
        assert_eq!([0, 512, 1023, 36_909_875, u64::MAX].map(bytes), ["0", "512", "1.00K", "35.2M", "16384P"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let column = |heading, side, cells: [&str; 2]| {
            Column::new(heading, side, cells.iter().map(|cell| (*cell).to_owned()).collect())
        };
        let columns = [
            column("name", Side::Left, ["a", "longer"]),
            column("n", Side::Right, ["100", "1"]),
            column("note", Side::Left, ["", "x"]),
        ];
        let text = lines(&columns, 1, |line, column, cell| {
            if line == Some(1) && column == 1 { format!("<{cell}>") } else { cell.to_owned() }
        });
        assert_eq!(text, "name     n note\na      100\nlonger <  1> x\n");
    }
}
