//! Medians, spreads, percentiles, ratios taken within each round, and how far to trust them.

/// Resamples behind an interval.
const RESAMPLES: usize = 2_000;
/// The share of resamples that lie within an interval.
const CONFIDENCE: f64 = 0.95;
/// By how much (of their logarithms) the bounds of a ratio move outwards where there are so few rounds, from two on, that
/// resamples fall short of what others would say: Student's quantile for the normal one's, and the root of n / (n - 1). As
/// they are, of two rounds of what is alike every second would tell a difference, of three every fourth.
const WIDER: [f64; 4] = [9.17, 2.69, 1.88, 1.58];

/// The value at `share` (0 to 1) of the sorted values, interpolated between neighbours. Zero for no values.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The middle value; the mean of the middle two of an even number. Zero for no values.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The geometric mean; one for no values.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len().max(1) as f64).exp()
}

/// Largest less smallest, as a share of the median.
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    if middle > 0.0 { (high - low) / middle } else { 0.0 }
}

/// Each value as a share of the base's of the same round; rounds without both are left out.
pub fn ratios(values: &[f64], base: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(base)
        .filter(|pair| *pair.1 > 0.0 && *pair.0 > 0.0)
        .map(|(value, base)| value / base)
        .collect()
}

/// An estimate, and between which bounds it lies in 95 of 100 resamples of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate itself.
    pub value: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

impl Estimate {
    /// The median of `values`, with a bootstrap interval. Nothing for no values.
    pub fn of_median(values: &[f64]) -> Option<Estimate> {
        Estimate::of_mean_of_medians(&[values.to_vec()])
    }

    /// The median of `values` as a share of that of the `base`. For the interval rounds are drawn with what both were in
    /// them, so that what disturbed both does not count; of a single round it is all that may be. Rounds without both are
    /// left out; nothing if there are no others.
    pub fn of_ratio(values: &[f64], base: &[f64]) -> Option<Estimate> {
        let rounds: Vec<(f64, f64)> = values
            .iter()
            .copied()
            .zip(base.iter().copied())
            .filter(|round| round.0 > 0.0 && round.1 > 0.0)
            .collect();
        if rounds.is_empty() {
            return None;
        }
        let ratio = |rounds: Vec<(f64, f64)>| {
            let (values, base): (Vec<f64>, Vec<f64>) = rounds.into_iter().unzip();
            median(&values) / median(&base)
        };
        if let [_] = rounds[..] {
            return Some(Estimate { value: ratio(rounds), low: 0.0, high: f64::INFINITY });
        }
        let mut draw = Draw(0x5EED);
        let mut again = || ratio(rounds.iter().map(|_| rounds[draw.below(rounds.len())]).collect());
        let resampled: Vec<f64> = (0..RESAMPLES).map(|_| again()).collect();
        let wider = WIDER.get(rounds.len() - 2).copied().unwrap_or(1.0);
        let Estimate { value, low, high } = Estimate::within(ratio(rounds), &resampled);
        let moved = |bound: f64| value * (bound / value).powf(wider);
        Some(Estimate { value, low: moved(low), high: moved(high) })
    }

    /// The geometric mean over the rows of each row's median; every row's rounds are resampled for themselves. Nothing
    /// when there is no row, or one without values.
    pub fn of_mean_of_medians(rows: &[Vec<f64>]) -> Option<Estimate> {
        if rows.is_empty() || rows.iter().any(Vec::is_empty) {
            return None;
        }
        // Exactly, where there is but one.
        let mean = |medians: Vec<f64>| if let [one] = medians[..] { one } else { geometric_mean(&medians) };
        let value = mean(rows.iter().map(|row| median(row)).collect());
        let mut draw = Draw(0x5EED);
        let resampled: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                mean(
                    rows.iter()
                        .map(|row| {
                            median(&row.iter().map(|_| row[draw.below(row.len())]).collect::<Vec<_>>())
                        })
                        .collect(),
                )
            })
            .collect();
        Some(Estimate::within(value, &resampled))
    }

    fn within(value: f64, resampled: &[f64]) -> Estimate {
        let outside = (1.0 - CONFIDENCE) / 2.0;
        let (low, high) = (percentile(resampled, outside), percentile(resampled, 1.0 - outside));
        Estimate { value, low, high }
    }
}

/// The same draws in each run, so that a report can be made again from its figures.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 32) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.0), percentile(&hundred, 1.0)), (0.0, 100.0));
        assert_eq!((percentile(&hundred, 0.25), percentile(&hundred, 0.99)), (25.0, 99.0));
        assert_eq!(percentile(&[10.0, 20.0], 0.75), 17.5);
    }

    #[test]
    fn twice_and_half_cancel_in_the_geometric_mean() {
        assert!((geometric_mean(&[2.0, 0.5]) - 1.0).abs() < 1e-12 && geometric_mean(&[]) == 1.0);
    }

    #[test]
    fn the_spread_is_a_share_of_the_median() {
        assert_eq!((spread(&[1.0, 9.0, 2.0]), spread(&[3.0]), spread(&[])), (4.0, 0.0, 0.0));
    }

    #[test]
    fn the_ratio_is_taken_within_each_round() {
        // The second round was disturbed for both; the medians alone would say 1.0.
        assert_eq!(median(&ratios(&[1.0, 9.0, 2.0], &[2.0, 18.0, 2.0])), 0.5);
        assert_eq!(ratios(&[1.0, 2.0, f64::NAN], &[0.0, 1.0, 1.0]), [2.0]);
    }

    #[test]
    fn what_never_changes_has_no_interval() {
        let estimate = Estimate::of_median(&[0.7; 5]).expect("has values");
        assert_eq!((estimate.low, estimate.high), (estimate.value, estimate.value));
        assert_eq!(Estimate::of_median(&[]), None);
        assert_eq!(Estimate::of_mean_of_medians(&[vec![1.0], vec![]]), None);
    }

    #[test]
    fn an_interval_of_few_rounds_is_known_exactly() {
        // The median of three draws from 1, 2, 3 is 1 in 7 of 27 cases and 3 in as many: both are within 95 %.
        let estimate = Estimate::of_median(&[3.0, 1.0, 2.0]).expect("has values");
        assert_eq!((estimate.value, estimate.low, estimate.high), (2.0, 1.0, 3.0));
        // Of seven draws from 1 to 7 it is 1 in 1 % of the cases and at most 2 in 10 %: the bounds are 2 and 6.
        let seven: Vec<f64> = (1..=7).map(f64::from).collect();
        let estimate = Estimate::of_median(&seven).expect("has values");
        assert_eq!((estimate.value, estimate.low, estimate.high), (4.0, 2.0, 6.0));
    }

    #[test]
    fn a_ratio_of_medians_is_what_the_medians_say_and_what_disturbs_both_does_not_count() {
        // Within single rounds it is 0.5, 2 and 1: the medians are told, so it is theirs.
        let estimate = Estimate::of_ratio(&[1.0, 2.0, 1.2], &[2.0, 1.0, 1.2]).expect("has rounds");
        assert_eq!(estimate.value, 1.0);
        let (one, other) = ([0.8, 1.3, 1.0, 0.9], [1.0, 1.0, 1.0, 1.0]);
        let estimate = Estimate::of_ratio(&one, &other).expect("has rounds");
        assert!((estimate.value - median(&one)).abs() < 1e-12 && estimate.low < 0.9 && estimate.high > 1.1);
        // Rounds of very different lengths, in each of which one takes half of the other's time.
        let (slow, fast) = ([2.0, 40.0, 6.0, 8.0, 2.0], [1.0, 20.0, 3.0, 4.0, 1.0]);
        let estimate = Estimate::of_ratio(&fast, &slow).expect("has rounds");
        assert_eq!((estimate.value, estimate.low, estimate.high), (0.5, 0.5, 0.5));
        assert_eq!(Estimate::of_ratio(&[1.0, 0.0], &[0.0, 1.0]), None);
        let estimate = Estimate::of_ratio(&[1.0], &[2.0]).expect("has a round");
        assert_eq!((estimate.value, estimate.low, estimate.high), (0.5, 0.0, f64::INFINITY));
    }

    /// Pairs of rounds of what is alike, of which a difference is told as often as an interval of 95 % says, or less.
    #[test]
    fn of_few_rounds_no_difference_is_told_where_there_is_none() {
        let mut draw = Draw(7);
        let mut time = || 1.0 + (0..6).map(|_| draw.below(1000) as f64).sum::<f64>() / 60_000.0;
        for rounds in [2, 3, 4, 5, 8] {
            let told = (0..400).filter(|_| {
                let [one, other]: [Vec<f64>; 2] = [(); 2].map(|()| (0..rounds).map(|_| time()).collect());
                let estimate = Estimate::of_ratio(&one, &other).expect("has rounds");
                estimate.low > 1.0 || estimate.high < 1.0
            });
            let told = told.count();
            assert!(told <= 40, "{rounds} rounds: {told} of 400");
        }
        let estimate = Estimate::of_ratio(&[1.0, 1.01], &[2.0, 2.01]).expect("has rounds");
        assert!(estimate.high < 0.6, "twice as quick in both rounds: {estimate:?}");
    }

    #[test]
    fn the_mean_of_many_rows_is_surer_than_each_row() {
        let row = vec![0.8, 1.0, 1.25];
        let one = Estimate::of_median(&row).expect("has values");
        let many = Estimate::of_mean_of_medians(&vec![row; 50]).expect("has rows");
        assert!((many.value - 1.0).abs() < 1e-9);
        assert!(many.low > 0.93 && many.high < 1.07 && one.low < 0.85 && one.high > 1.2, "{many:?} {one:?}");
    }
}
