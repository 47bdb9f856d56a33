//! The terminal: draws, and waits for keys.

use super::process::Watched;
use super::sample::Looks;
use super::tables::{Tab, head_within, table};
use super::view::{Input, Key, View};
use crate::output::print;
use crate::{Failure, child, interrupted};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// After so long one looks whether a signal has come.
const SOON: Duration = Duration::from_millis(200);

/// Lines of a screen that is low, less; and those of a table that it has room for.
const LOW: usize = 14;
const TABLE: usize = 5;

/// Shows the process until the user leaves, or it ends.
pub(super) fn show(watched: &Watched, delay: f64) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::own(format!("the terminal: {error}"));
    let mut looks = Looks::new(watched.look()?);
    // The terminal is to be as it was, whatever ends this.
    interrupted::watch();
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let ended = run(&mut terminal, watched, &mut looks, View::new(delay.max(0.05)));
    ratatui::restore();
    // It shows the cursor again.
    drop(terminal);
    if let Some(signal) = interrupted::signal() {
        return child::end_as(ExitStatus::from_raw(signal)).map(|never| match never {});
    }
    match ended.map_err(failed)? {
        // Told below what was on the screen before.
        Some(failure) => {
            print(format!("specmalloc: {}\n", failure.message).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns why there is nothing more to see, if the user did not just leave.
fn run(
    terminal: &mut ratatui::DefaultTerminal,
    watched: &Watched,
    looks: &mut Looks,
    mut view: View,
) -> io::Result<Option<Failure>> {
    let mut looked = Instant::now();
    loop {
        let mut columns = 0;
        terminal.draw(|frame| columns = draw(frame, watched, looks, &mut view))?;
        let until = Duration::from_secs_f64(view.delay).saturating_sub(looked.elapsed());
        if interrupted::signal().is_some() {
            return Ok(None);
        }
        if event::poll(if view.paused { SOON } else { until.min(SOON) })? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && !pressed(&mut view, key, columns)
            {
                return Ok(None);
            }
            continue;
        }
        if !view.paused && looked.elapsed().as_secs_f64() >= view.delay {
            match watched.look() {
                Ok(sample) => looks.add(sample),
                Err(failure) => return Ok(Some(failure)),
            }
            looked = Instant::now();
        }
    }
}

fn pressed(view: &mut View, key: KeyEvent, columns: usize) -> bool {
    let key = match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char(char) => Key::Char(char),
        KeyCode::Tab | KeyCode::Right => Key::Next,
        KeyCode::BackTab | KeyCode::Left => Key::Previous,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return true,
    };
    view.press(key, columns)
}

/// NO_COLOR leaves what is bold and reversed.
fn colour(colour: Color) -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted { Style::new().fg(colour) } else { Style::new() }
}

/// Draws everything, and tells how many columns the table has.
fn draw(frame: &mut Frame<'_>, watched: &Watched, looks: &Looks, view: &mut View) -> usize {
    let (width, height) = (usize::from(frame.area().width), usize::from(frame.area().height));
    // On a low screen the table comes first: its heading and some lines.
    let is_low = height < LOW;
    let tabs = if is_low { 1 } else { 2 };
    let most = height.saturating_sub(tabs + 1 + TABLE).max(1);
    let above = head_within(watched, looks, width, most);
    let rows = [
        Constraint::Length(above.len() as u16),
        Constraint::Length(tabs as u16),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [facts, tabs, body, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(Paragraph::new(above.into_iter().map(Line::from).collect::<Vec<_>>()), facts);
    let tab_line = tab_line(view.tab, width);
    let lines = if is_low { vec![tab_line] } else { vec![Line::default(), tab_line] };
    frame.render_widget(Paragraph::new(lines), tabs);
    let columns = draw_table(frame, body, looks, view);
    frame.render_widget(Paragraph::new(foot_line(view)), foot);
    columns
}

/// All names, or, where there is no room for them, that of the table that is shown.
fn tab_line(shown: Tab, width: usize) -> Line<'static> {
    let names = Tab::ALL.map(|tab| tab.name().len() + " 1  ".len());
    let is_narrow = names.iter().sum::<usize>() > width;
    let mut spans = Vec::new();
    for (number, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == shown {
            colour(Color::Cyan).add_modifier(Modifier::BOLD | Modifier::REVERSED)
        } else {
            Style::new()
        };
        let name = if is_narrow && tab != shown { "" } else { tab.name() };
        spans.push(Span::styled(format!(" {} {name} ", number + 1), style));
    }
    Line::from(spans)
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, looks: &Looks, view: &mut View) -> usize {
    let mut table = table(view.tab, looks);
    view.arrange(&mut table, usize::from(area.height).saturating_sub(1));
    let text = table.marked_text(Some(view.sorted()));
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default().to_owned();
    let heading = Line::styled(heading, colour(Color::Green).add_modifier(Modifier::BOLD));
    let rows = lines.skip(view.scrolled).map(|line| Line::from(line.to_owned()));
    frame.render_widget(Paragraph::new(std::iter::once(heading).chain(rows).collect::<Vec<_>>()), area);
    table.headings.len()
}

fn foot_line(view: &View) -> Line<'static> {
    let faint = Style::new().add_modifier(Modifier::DIM);
    match &view.input {
        Some((Input::Filter, text)) => Line::from(format!("lines with: {text}_")),
        Some((Input::Delay, text)) => Line::from(format!("seconds between two looks: {text}_")),
        None => {
            let mut words = "q leave  Tab table  / filter  < > sort  R turn  d delay  Space stop".to_owned();
            if view.paused {
                words.push_str("  (stopped)");
            }
            if !view.filter.is_empty() {
                words = format!("only lines with '{}' (Esc: all)  {words}", view.filter);
            }
            Line::styled(words, faint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_room_for_all_names_the_table_that_is_shown_has_its() {
        let text = |shown, width| tab_line(shown, width).to_string();
        let all = " 1 classes  2 heaps  3 arenas  4 system calls  5 bets ";
        assert_eq!([text(Tab::Heaps, 80), text(Tab::Heaps, all.len())], [all, all]);
        assert_eq!(text(Tab::Heaps, 40), " 1   2 heaps  3   4   5  ");
        let widest = Tab::ALL.map(|tab| text(tab, 1).trim_end().len()).into_iter().max();
        assert!(widest <= Some(40), "{widest:?}");
    }
}
