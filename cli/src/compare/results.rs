//! What was measured: the runs of each allocator, and what they say beside those of another.

use super::allocators::{Allocator, Missing};
use specmalloc_measure::stats::{Estimate, median, spread};
use specmalloc_measure::usage::Usage;

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Wall-clock time in seconds.
    pub(crate) seconds: f64,
    /// What it cost.
    pub(crate) usage: Usage,
    /// The program's exit status.
    pub(crate) exit: i32,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Wall-clock seconds.
    Time,
    /// Processor seconds in the program.
    User,
    /// Processor seconds in the kernel.
    System,
    /// Peak resident bytes.
    Peak,
    /// Page faults.
    Faults,
}

impl Figure {
    fn of(self, run: &Run) -> f64 {
        match self {
            Self::Time => run.seconds,
            Self::User => run.usage.user,
            Self::System => run.usage.system,
            Self::Peak => run.usage.peak_kib as f64 * 1024.0,
            Self::Faults => run.usage.faults() as f64,
        }
    }
}

/// An allocator and its runs.
#[derive(Debug)]
pub(crate) struct Row {
    /// The allocator.
    pub(crate) allocator: Allocator,
    /// The runs that are counted, one for each round.
    pub(crate) runs: Vec<Run>,
    /// Why there are no more. Such an allocator has no figures.
    pub(crate) trouble: Option<String>,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    /// The program and its arguments, as a shell would read them.
    pub(crate) command: String,
    /// The allocators in the order of the table.
    pub(crate) rows: Vec<Row>,
    /// The allocators that are not there.
    pub(crate) missing: Missing,
    /// The place of the one that ratios are taken to.
    pub(crate) reference: usize,
}

impl Row {
    /// A figure in each round.
    pub(crate) fn values(&self, figure: Figure) -> Vec<f64> {
        self.runs.iter().map(|run| figure.of(run)).collect()
    }

    /// The median of a figure.
    pub(crate) fn median(&self, figure: Figure) -> f64 {
        median(&self.values(figure))
    }

    /// From the least to the most, as a share of the median.
    pub(crate) fn spread(&self, figure: Figure) -> f64 {
        spread(&self.values(figure))
    }
}

impl Results {
    /// The allocators that have figures.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.trouble.is_none())
    }

    /// The median of a figure as a share of the reference's. None for the reference itself.
    pub(crate) fn ratio(&self, row: &Row, figure: Figure) -> Option<Estimate> {
        let base = &self.rows[self.reference];
        if row.allocator.name == base.allocator.name || row.trouble.is_some() || base.trouble.is_some() {
            return None;
        }
        Estimate::of_ratio(&row.values(figure), &base.values(figure))
    }
}

/// Whether there are bounds for a ratio: there are none of a single run.
pub(crate) fn is_known(ratio: &Estimate) -> bool {
    ratio.high.is_finite()
}

/// Whether a ratio may as well be 1.
pub(crate) fn is_noise(ratio: &Estimate) -> bool {
    ratio.low <= 1.0 && 1.0 <= ratio.high
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Results of three allocators: one that the others are measured by, one of half its time, one that crashed.
    pub(crate) fn results() -> Results {
        let row = |name: &str, seconds: &[f64], trouble: Option<&str>| Row {
            allocator: Allocator { name: name.to_owned(), library: format!("/lib/{name}.so").into() },
            runs: seconds
                .iter()
                .map(|&seconds| Run {
                    seconds,
                    usage: Usage {
                        user: seconds / 2.0,
                        system: seconds / 4.0,
                        peak_kib: 2048,
                        minor_faults: 1234,
                        major_faults: 1,
                    },
                    exit: 0,
                })
                .collect(),
            trouble: trouble.map(str::to_owned),
        };
        Results {
            command: "program 'an argument'".to_owned(),
            rows: vec![
                row("first", &[1.0, 1.5, 1.25], None),
                row("second", &[0.5, 0.75, 0.625], None),
                row("third", &[], Some("killed by signal 11 (SIGSEGV)")),
            ],
            missing: vec![("fourth".to_owned(), "no libfourth.so in the usual folders".to_owned())],
            reference: 0,
        }
    }

    #[test]
    fn ratios_are_those_of_the_medians_and_rounds_are_drawn_whole() {
        let results = results();
        let ratio = |row: usize, figure| results.ratio(&results.rows[row], figure);
        let time = ratio(1, Figure::Time).unwrap();
        assert_eq!((time.value, time.low, time.high), (0.5, 0.5, 0.5));
        assert!(!is_noise(&time) && is_noise(&ratio(1, Figure::Peak).unwrap()));
        let mut noisy = results;
        noisy.rows[1].runs.rotate_left(1);
        let time = noisy.ratio(&noisy.rows[1], Figure::Time).unwrap();
        assert_eq!(time.value, noisy.rows[1].median(Figure::Time) / noisy.rows[0].median(Figure::Time));
        assert!(time.low < 0.5 && time.high > 0.5);
        let results = noisy;
        let ratio = |row: usize, figure| results.ratio(&results.rows[row], figure);
        assert!(ratio(0, Figure::Time).is_none() && ratio(2, Figure::Time).is_none());
        assert_eq!(results.measured().count(), 2);
        assert_eq!((results.rows[0].median(Figure::Time), results.rows[0].spread(Figure::Time)), (1.25, 0.4));
    }
}
