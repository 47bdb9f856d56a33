//! The findings for people and for programs.

use super::{Finding, State};
use crate::terminal::Colours;
use serde_json::{Value, json};
use std::fmt::Write;

/// Columns before what was found: the state and the topic.
const STATE: usize = 6;
const TOPIC: usize = 20;

/// One finding after the other, broken at `width`, what to do below what was found.
pub(super) fn lines(findings: &[Finding], width: usize, colours: Colours) -> String {
    let mut text = String::new();
    let room = width.saturating_sub(STATE + TOPIC).max(20);
    for finding in findings {
        let (state, word) = match finding.state {
            State::Fine => (colours.good(format!("{:STATE$}", "ok")), finding.topic.to_owned()),
            State::Note => (colours.strong(format!("{:STATE$}", "note")), finding.topic.to_owned()),
            State::Act => (colours.bad(format!("{:STATE$}", "ACT")), finding.topic.to_owned()),
        };
        let mut found = broken(&finding.found, room).into_iter();
        let first = found.next().unwrap_or_default();
        let _ = writeln!(text, "{state}{word:TOPIC$}{first}");
        for line in found {
            let _ = writeln!(text, "{:indent$}{line}", "", indent = STATE + TOPIC);
        }
        for line in broken(&finding.advice, room) {
            let indent = if is_command(&line) { STATE } else { STATE + TOPIC };
            let _ = writeln!(text, "{:indent$}{}", "", colours.faint(line));
        }
    }
    let count = findings.iter().filter(|finding| finding.state == State::Act).count();
    let _ = match count {
        0 => writeln!(text, "\nThere is nothing to do."),
        1 => writeln!(text, "\nOne thing is to be done: see ACT."),
        _ => writeln!(text, "\n{count} things are to be done: see ACT."),
    };
    text
}

/// `text` in lines of at most `width`, broken between words; a longer word stands alone, and commands stay whole.
fn broken(text: &str, width: usize) -> Vec<String> {
    text.lines()
        .flat_map(|line| if is_command(line) { vec![line.to_owned()] } else { broken_line(line, width) })
        .collect()
}

fn is_command(line: &str) -> bool {
    line.starts_with("$ ")
}

fn broken_line(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The same as a JSON document.
pub(super) fn json(findings: &[Finding]) -> String {
    let entry = |finding: &Finding| {
        let (commands, words): (Vec<&str>, Vec<&str>) =
            finding.advice.lines().partition(|line| is_command(line));
        json!({
            "topic": finding.topic,
            "state": match finding.state {
                State::Fine => "ok",
                State::Note => "note",
                State::Act => "act",
            },
            "found": finding.found,
            "advice": if words.is_empty() { Value::Null } else { words.join(" ").into() },
            "commands": commands.iter().map(|command| &command[2..]).collect::<Vec<_>>(),
        })
    };
    format!("{:#}\n", json!({ "findings": findings.iter().map(entry).collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Colour;

    #[test]
    fn lines_are_broken_between_words_and_what_is_to_be_done_is_counted() {
        let findings = [
            Finding::fine("one", "is well"),
            Finding::new(
                "two",
                State::Act,
                "is not well at all, and that in more words",
                "Do something else.\n$ something else, in full, however long it is",
            ),
        ];
        let text = lines(&findings, 50, Colours::new(Colour::Never, false));
        let expected = "\
ok    one                 is well
ACT   two                 is not well at all, and
                          that in more words
                          Do something else.
      $ something else, in full, however long it is

One thing is to be done: see ACT.
";
        assert_eq!(text, expected);
        assert!(lines(&findings[..1], 50, Colours::new(Colour::Always, false)).contains("\x1b[32mok"));
        let document: Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(document["findings"][1]["state"], "act");
        assert_eq!(document["findings"][1]["advice"], "Do something else.");
        assert_eq!(document["findings"][1]["commands"][0], "something else, in full, however long it is");
        assert!(document["findings"][0]["advice"].is_null());
    }
}
