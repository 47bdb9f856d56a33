//! What of the tables is shown: which, sorted by what, filtered how. Keys change it.

use super::tables::{Tab, Table};

/// A key, as far as there is a use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Next,
    Previous,
    Up,
    Down,
    PageUp,
    PageDown,
    Enter,
    Escape,
    Backspace,
}

/// What the user is typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Filter,
    Delay,
}

/// The state of the screen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) tab: Tab,
    /// The column that each table is sorted by, and whether upwards.
    sorts: [(usize, bool); Tab::ALL.len()],
    pub(super) filter: String,
    pub(super) delay: f64,
    pub(super) paused: bool,
    /// Lines that are scrolled away above.
    pub(super) scrolled: usize,
    /// What is being typed, and for what.
    pub(super) input: Option<(Input, String)>,
}

/// Lines that a page key scrolls.
const PAGE: usize = 10;

impl View {
    pub(super) fn new(delay: f64) -> Self {
        // The largest first; system calls, bets and heaps in their order.
        let sorts = [(3, false), (0, true), (2, false), (0, false), (0, false)];
        let (filter, input) = (String::new(), None);
        Self { tab: Tab::Classes, sorts, filter, delay, paused: false, scrolled: 0, input }
    }

    fn place(&self) -> usize {
        Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0)
    }

    /// The column that the table is sorted by, and the mark of the direction.
    pub(super) fn sorted(&self) -> (usize, char) {
        let (column, upwards) = self.sorts[self.place()];
        (column, if upwards { '↑' } else { '↓' })
    }

    /// Acts on a key; `false` to leave. `columns` are those of the table that is shown.
    pub(super) fn press(&mut self, key: Key, columns: usize) -> bool {
        if let Some((what, text)) = &mut self.input {
            match key {
                Key::Char(char) => text.push(char),
                Key::Backspace => drop(text.pop()),
                Key::Escape => self.input = None,
                Key::Enter => {
                    match what {
                        Input::Filter => self.filter = std::mem::take(text),
                        Input::Delay => {
                            let delay = text.parse().ok().filter(|delay| (0.05..=3600.0).contains(delay));
                            self.delay = delay.unwrap_or(self.delay);
                        }
                    }
                    (self.input, self.scrolled) = (None, 0);
                }
                _ => {}
            }
            return true;
        }
        let place = self.place();
        match key {
            Key::Char('q') => return false,
            Key::Char(' ') => self.paused = !self.paused,
            Key::Char('/') => self.input = Some((Input::Filter, self.filter.clone())),
            Key::Char('d' | 's') => self.input = Some((Input::Delay, String::new())),
            Key::Char('R') => self.sorts[place].1 = !self.sorts[place].1,
            Key::Char('<') => self.sorts[place].0 = self.sorts[place].0.saturating_sub(1),
            Key::Char('>') => self.sorts[place].0 = (self.sorts[place].0 + 1).min(columns.saturating_sub(1)),
            Key::Char(digit @ '1'..='5') => self.show(digit as usize - '1' as usize),
            Key::Next => self.show((place + 1) % Tab::ALL.len()),
            Key::Previous => self.show((place + Tab::ALL.len() - 1) % Tab::ALL.len()),
            Key::Up => self.scrolled = self.scrolled.saturating_sub(1),
            Key::Down => self.scrolled += 1,
            Key::PageUp => self.scrolled = self.scrolled.saturating_sub(PAGE),
            Key::PageDown => self.scrolled += PAGE,
            Key::Escape => self.filter.clear(),
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        true
    }

    fn show(&mut self, place: usize) {
        (self.tab, self.scrolled) = (Tab::ALL[place], 0);
    }

    /// Sorts and filters the table as it is to be shown, and bounds what is scrolled away.
    pub(super) fn arrange(&mut self, table: &mut Table, room: usize) {
        let (column, upwards) = self.sorts[self.place()];
        table.rows.sort_by(|a, b| {
            let order = a[column].number.total_cmp(&b[column].number);
            if upwards { order } else { order.reverse() }
        });
        if !self.filter.is_empty() {
            let wanted =
                |row: &Vec<super::tables::Cell>| row.iter().any(|cell| cell.text.contains(&self.filter));
            table.rows.retain(wanted);
        }
        self.scrolled = self.scrolled.min(table.rows.len().saturating_sub(room));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::looks;
    use super::super::tables::table;
    use super::*;

    fn first_column(view: &mut View) -> Vec<String> {
        let mut shown = table(view.tab, &looks());
        view.arrange(&mut shown, 10);
        shown.rows.iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn keys_sort_turn_and_filter() {
        let mut view = View::new(1.0);
        let all = first_column(&mut view);
        let mut turned = all.clone();
        turned.reverse();
        assert!(view.press(Key::Char('R'), 6));
        assert_eq!((first_column(&mut view), view.sorted()), (turned, (3, '↑')));
        for _ in 0..5 {
            view.press(Key::Char('<'), 6);
        }
        assert_eq!(view.sorted().0, 0);
        for _ in 0..9 {
            view.press(Key::Char('>'), 6);
        }
        assert_eq!(view.sorted().0, 5);
        for key in ['/', '7', '0'] {
            view.press(Key::Char(key), 6);
        }
        view.press(Key::Enter, 6);
        assert_eq!(first_column(&mut view).len(), 1);
        assert_eq!(view.filter, "70");
        view.press(Key::Escape, 6);
        assert_eq!(first_column(&mut view).len(), all.len());
    }

    #[test]
    fn keys_choose_the_table_the_delay_and_the_end() {
        let mut view = View::new(1.0);
        view.press(Key::Next, 6);
        assert_eq!(view.tab, Tab::Heaps);
        view.press(Key::Previous, 6);
        view.press(Key::Previous, 6);
        assert_eq!(view.tab, Tab::Bets);
        view.press(Key::Char('4'), 6);
        assert_eq!((view.tab, first_column(&mut view)[0].as_str()), (Tab::Calls, "map"));
        for (typed, delay) in [("2.5", 2.5), ("nonsense", 2.5), ("0", 2.5)] {
            view.press(Key::Char('d'), 6);
            typed.chars().for_each(|char| assert!(view.press(Key::Char(char), 6)));
            view.press(Key::Enter, 6);
            assert_eq!(view.delay, delay, "{typed}");
        }
        view.press(Key::PageDown, 6);
        first_column(&mut view);
        assert_eq!(view.scrolled, 0, "there is nothing below");
        view.press(Key::Char(' '), 6);
        assert!(view.paused && !view.press(Key::Char('q'), 6));
    }
}
