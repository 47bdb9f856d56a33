//! The rounds: every row, under every allocator in turn, again and again, so that whatever disturbs the machine
//! disturbs all of them alike.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::peer::{Missing, Peer};
use super::programs::Kit;
use super::run::{Figures, can_preload, run_rust, run_workload};
use super::stats::{Estimate, median, ratios};
use super::suite::{Group, How, Task};
use super::{Failure, Trouble};

/// A row under each allocator.
pub struct Row {
    /// What was measured.
    pub task: Task,
    /// One per allocator, in their order.
    pub cells: Vec<Cell>,
}

/// The rounds of one allocator.
pub struct Cell {
    /// One per round, none for a round that failed.
    pub rounds: Vec<Figures>,
    /// Why there are no more. An allocator that fails is not run again.
    pub trouble: Option<Trouble>,
    /// Whether the row makes sense for the allocator.
    pub applies: bool,
}

/// Everything that was measured.
pub struct Results {
    /// The allocators.
    pub peers: Vec<Peer>,
    /// Those that are not there.
    pub missing: Vec<Missing>,
    /// Programs and traces that are not there.
    pub lacking: Vec<Failure>,
    /// The name of the allocator that ratios are taken to.
    pub base: String,
    /// How many rounds were wanted.
    pub rounds: usize,
    /// Whether it is the quick look.
    pub quick: bool,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Cell {
    /// A figure in each round.
    pub fn values(&self, figure: &str) -> Vec<f64> {
        self.rounds.iter().filter_map(|figures| figures.get(figure)).collect()
    }

    /// Whether it has all its rounds.
    pub fn is_complete(&self) -> bool {
        self.applies && self.trouble.is_none() && !self.rounds.is_empty()
    }
}

impl Row {
    /// The median of a figure under an allocator.
    pub fn median(&self, peer: usize, figure: &str) -> Option<f64> {
        let cell = &self.cells[peer];
        let values = cell.values(figure);
        (cell.is_complete() && !values.is_empty()).then(|| median(&values))
    }

    /// A figure under one allocator as a share of the same under another, round by round.
    pub fn ratios(&self, peer: usize, base: usize, figure: &str) -> Vec<f64> {
        let (cell, base) = (&self.cells[peer], &self.cells[base]);
        if !cell.is_complete() || !base.is_complete() {
            return Vec::new();
        }
        ratios(&cell.values(figure), &base.values(figure))
    }

    /// The same as an estimate.
    pub fn ratio(&self, peer: usize, base: usize, figure: &str) -> Option<Estimate> {
        Estimate::of_median(&self.ratios(peer, base, figure))
    }

    /// The allocator with the least of a figure, `without` left out.
    pub fn best(&self, figure: &str, without: Option<usize>) -> Option<usize> {
        let candidates = (0..self.cells.len()).filter(|&peer| Some(peer) != without);
        let medians = candidates.filter_map(|peer| Some((peer, self.median(peer, figure)?)));
        medians.min_by(|a, b| a.1.total_cmp(&b.1)).map(|best| best.0)
    }
}

impl Results {
    /// The place of an allocator.
    pub fn peer(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.name == name)
    }

    /// The rows of a group.
    pub fn of(&self, group: Group) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.task.group == group)
    }

    /// What failed, once each.
    pub fn troubles(&self) -> Vec<Failure> {
        let mut troubles = Vec::new();
        for row in &self.rows {
            for (cell, peer) in row.cells.iter().zip(&self.peers) {
                let what = match &cell.trouble {
                    Some(Trouble::NotReached(why)) => format!("not reached: {why}"),
                    Some(Trouble::Failed(why)) => why.clone(),
                    None => continue,
                };
                troubles.push(format!(
                    "{} {} under {}: {what}",
                    row.task.group.name(),
                    row.task.label(),
                    peer.name
                ));
            }
        }
        troubles
    }
}

/// Runs all rounds. After each, `report` gets what is there.
pub fn measure(
    results: &mut Results,
    tasks: Vec<Task>,
    programs: &Path,
    kit: Option<&Kit>,
    report: impl Fn(&Results),
) {
    let cells = |task: &Task, peers: &[Peer]| {
        let applies = |peer: &Peer| match &task.how {
            How::Rust => peer.program.is_some(),
            How::Workload(arguments) => can_preload(peer) && peer.takes_part(&arguments[0]),
            How::Program(_) => can_preload(peer) && peer.arguments.is_empty(),
        };
        peers.iter().map(|peer| Cell { rounds: Vec::new(), trouble: None, applies: applies(peer) }).collect()
    };
    results.rows = tasks.into_iter().map(|task| Row { cells: cells(&task, &results.peers), task }).collect();
    let runs: usize =
        results.rows.iter().map(|row| row.cells.iter().filter(|cell| cell.applies).count()).sum();
    let bar = ProgressBar::new((runs * results.rounds) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {eta} to go: {msg}");
    bar.set_style(style.expect("the template is well formed"));
    bar.enable_steady_tick(Duration::from_secs(1));
    for round in 0..results.rounds {
        for row in &mut results.rows {
            let count = results.peers.len();
            for turn in 0..count {
                // Each round starts with another allocator: nobody always follows the same one.
                let at = (turn + round) % count;
                let (peer, cell) = (&results.peers[at], &mut row.cells[at]);
                if !cell.applies {
                    continue;
                }
                bar.inc(1);
                if cell.trouble.is_some() {
                    continue;
                }
                bar.set_message(format!("{} under {}", row.task.label(), peer.name));
                let run = match (&row.task.how, kit) {
                    (How::Workload(arguments), _) => {
                        run_workload(programs, peer, arguments, row.task.options)
                    }
                    (How::Program(program), Some(kit)) => kit.run(program, peer),
                    (How::Program(_), None) => Err(Trouble::Failed("programs are not set up".to_owned())),
                    (How::Rust, _) => run_rust(peer, &row.task.name, results.quick),
                };
                match run {
                    Ok(figures) => cell.rounds.push(figures),
                    Err(trouble) => cell.trouble = Some(trouble),
                }
            }
        }
        report(results);
        let seconds = bar.elapsed().as_secs();
        bar.suspend(|| eprintln!("round {} of {} after {seconds} s", round + 1, results.rounds));
    }
    bar.finish_and_clear();
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::runner::peer::Malloc;

    fn figures(seconds: f64) -> Figures {
        let extras = vec![("malloc_p99_ns".to_owned(), seconds * 10.0)];
        Figures {
            seconds,
            cpu_seconds: seconds,
            peak_rss_kib: 1_024.0,
            faults: 1.0,
            mappings: f64::NAN,
            extras,
        }
    }

    /// A row with the seconds of each allocator's rounds.
    pub fn row(group: Group, name: &str, seconds: &[&[f64]]) -> Row {
        let cell = |rounds: &&[f64]| Cell {
            rounds: rounds.iter().map(|&seconds| figures(seconds)).collect(),
            trouble: None,
            applies: true,
        };
        let task = Task { group, name: name.to_owned(), threads: 2, options: "", how: How::Rust };
        Row { task, cells: seconds.iter().map(cell).collect() }
    }

    /// Results for allocators of these names.
    pub fn results(names: &[&str], rows: Vec<Row>) -> Results {
        let peer = |name: &&str| Peer {
            name: (*name).to_owned(),
            version: "1".to_owned(),
            malloc: Malloc::CLibrary,
            environment: &[],
            arguments: &[],
            workloads: None,
            program: None,
        };
        let peers = names.iter().map(peer).collect();
        let base = names[0].to_owned();
        Results { peers, missing: Vec::new(), lacking: Vec::new(), base, rounds: 3, quick: true, rows }
    }

    #[test]
    fn the_best_has_the_least_median_and_one_that_failed_is_none() {
        let mut row = row(Group::Heap, "x", &[&[2.0, 9.0, 2.0], &[1.0, 1.0, 9.0], &[3.0, 3.0, 3.0]]);
        assert_eq!((row.best("seconds", None), row.best("seconds", Some(1))), (Some(1), Some(0)));
        assert_eq!(row.ratio(1, 0, "seconds").expect("both ran").value, 0.5);
        row.cells[1].trouble = Some(Trouble::Failed("crashed".to_owned()));
        assert_eq!((row.best("seconds", None), row.median(1, "seconds")), (Some(0), None));
        assert_eq!((row.ratio(1, 0, "seconds"), row.ratio(0, 1, "seconds")), (None, None));
        let results = results(&["a", "b", "c"], vec![row]);
        assert_eq!(results.troubles(), ["heap x 2 under b: crashed"]);
    }
}
