//! Medians, spreads, and ratios taken within each round.

/// The middle value; the mean of the middle two of an even number. Zero for no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

/// The geometric mean; one for no values.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len().max(1) as f64).exp()
}

/// A figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// Largest less smallest, as a share of the median.
    pub spread: f64,
    /// The median of the ratios to the base's figure of the same round. Nothing when the base's is zero.
    pub ratio: Option<f64>,
}

impl Summary {
    /// Sums up `values`, one per round, against `base`, the base's of the same rounds.
    pub fn new(values: &[f64], base: &[f64]) -> Summary {
        let middle = median(values);
        let (low, high) =
            values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let spread = if middle > 0.0 { (high - low) / middle } else { 0.0 };
        let ratios: Vec<f64> =
            values.iter().zip(base).filter(|pair| *pair.1 > 0.0).map(|(v, b)| v / b).collect();
        Summary { median: middle, spread, ratio: (!ratios.is_empty()).then(|| median(&ratios)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn twice_and_half_cancel_in_the_geometric_mean() {
        assert!((geometric_mean(&[2.0, 0.5]) - 1.0).abs() < 1e-12 && geometric_mean(&[]) == 1.0);
    }

    #[test]
    fn the_ratio_is_taken_within_each_round() {
        // The second round was disturbed for both; the medians alone would say 1.0.
        let summary = Summary::new(&[1.0, 9.0, 2.0], &[2.0, 18.0, 2.0]);
        assert_eq!(summary, Summary { median: 2.0, spread: 4.0, ratio: Some(0.5) });
        assert_eq!(Summary::new(&[1.0], &[0.0]).ratio, None);
    }
}
