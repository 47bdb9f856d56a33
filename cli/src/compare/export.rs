//! The results for other programs: JSON and CSV as hyperfine writes them, with more beside it, and a table in Markdown.
//!
//! Of an allocator hyperfine's `command` is the name, as if `--command-name` had given it, and so is the parameter
//! `allocator`: scripts that plot hyperfine's results label them with it.

use super::results::{Figure, Results, Row, Run, is_known, is_noise};
use super::table::ratio;
use crate::text::{bytes, duration, grouped};
use serde_json::{Value, json};
use specmalloc_measure::stats::Estimate;
use specmalloc_measure::table::quoted;
use std::fmt::Write;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The sample's; none for a single value.
fn standard_deviation(values: &[f64]) -> Option<f64> {
    let (mean, degrees) = (mean(values), values.len().checked_sub(1).filter(|degrees| *degrees > 0)?);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / degrees as f64).sqrt())
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A run as later versions of hyperfine have it, which say units.
fn measurement(run: &Run) -> Value {
    let seconds = |value: f64| json!({ "value": value, "unit": "second" });
    json!({
        "time_wall_clock": seconds(run.seconds),
        "time_user": seconds(run.usage.user),
        "time_system": seconds(run.usage.system),
        "peak_memory_usage": { "value": run.usage.peak_kib * 1024, "unit": "byte" },
        "exit_code": run.exit,
    })
}

/// The JSON document. Times are in seconds, memory in bytes.
pub(super) fn json(results: &Results) -> String {
    let entry = |row: &Row| {
        let times = row.values(Figure::Time);
        let of = |figure| -> Value {
            let base = row.allocator.name == results.rows[results.reference].allocator.name;
            results.ratio(row, figure).map_or(if base { json!(1.0) } else { Value::Null }, |ratio| {
                json!({
                    "value": ratio.value,
                    "low": if is_known(&ratio) { json!(ratio.low) } else { Value::Null },
                    "high": if is_known(&ratio) { json!(ratio.high) } else { Value::Null },
                    "inside_noise": is_noise(&ratio),
                })
            })
        };
        json!({
            "command": row.allocator.name,
            "mean": mean(&times),
            "stddev": standard_deviation(&times),
            "median": row.median(Figure::Time),
            "user": mean(&row.values(Figure::User)),
            "system": mean(&row.values(Figure::System)),
            "min": least(&times),
            "max": most(&times),
            "times": times,
            "memory_usage_byte": row.values(Figure::Peak).iter().map(|bytes| *bytes as u64).collect::<Vec<_>>(),
            "exit_codes": row.runs.iter().map(|run| run.exit).collect::<Vec<_>>(),
            "parameters": { "allocator": row.allocator.name },
            "measurements": row.runs.iter().map(measurement).collect::<Vec<_>>(),
            "summary": { "time_wall_clock": { "median": row.median(Figure::Time) } },
            "program": results.command,
            "library": row.allocator.library.to_string_lossy(),
            "user_times": row.values(Figure::User),
            "system_times": row.values(Figure::System),
            "page_faults": row.values(Figure::Faults).iter().map(|faults| *faults as u64).collect::<Vec<_>>(),
            "major_faults": row.runs.iter().map(|run| run.usage.major_faults).collect::<Vec<_>>(),
            "ratio": of(Figure::Time),
            "memory_ratio": of(Figure::Peak),
        })
    };
    let failed = results.rows.iter().filter_map(|row| {
        let trouble = row.trouble.as_ref()?;
        Some(json!({ "allocator": row.allocator.name, "why": trouble }))
    });
    let missing = results.missing.iter().map(|(name, why)| json!({ "allocator": name, "why": why }));
    let document = json!({
        "results": results.measured().map(entry).collect::<Vec<_>>(),
        "program": results.command,
        "reference": results.rows[results.reference].allocator.name,
        "failed": failed.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

/// The comma-separated values: hyperfine's columns, then ours.
pub(super) fn csv(results: &Results) -> String {
    let mut text =
        "command,mean,stddev,median,user,system,min,max,parameter_allocator,memory_usage_byte,page_faults,\
                    ratio,ratio_low,ratio_high\n"
            .to_owned();
    for row in results.measured() {
        let times = row.values(Figure::Time);
        let name = quoted(&row.allocator.name);
        let deviation = standard_deviation(&times).map_or(String::new(), |value| value.to_string());
        let ratio = results.ratio(row, Figure::Time);
        let ratio = ratio.unwrap_or(Estimate { value: 1.0, low: 1.0, high: 1.0 });
        let [low, high] = [ratio.low, ratio.high]
            .map(|bound| if is_known(&ratio) { bound.to_string() } else { String::new() });
        let value = ratio.value;
        let _ = writeln!(
            text,
            "{name},{},{deviation},{},{},{},{},{},{name},{},{},{value},{low},{high}",
            mean(&times),
            row.median(Figure::Time),
            mean(&row.values(Figure::User)),
            mean(&row.values(Figure::System)),
            least(&times),
            most(&times),
            row.median(Figure::Peak) as u64,
            row.median(Figure::Faults) as u64,
        );
    }
    text
}

/// A table in Markdown.
pub(super) fn markdown(results: &Results) -> String {
    let base = &results.rows[results.reference].allocator.name;
    let mut text = format!(
        "| Allocator | Time, median | Min | Max | Relative to {base} | 95 % | User | System | Peak memory | Page faults |\n\
         |:---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for row in results.measured() {
        let (times, relative) = (row.values(Figure::Time), results.ratio(row, Figure::Time));
        let known = relative.filter(is_known);
        let bounds = known.map_or(String::new(), |ratio| format!("{:.2} to {:.2}", ratio.low, ratio.high));
        let noise = if known.as_ref().is_some_and(is_noise) { ", noise" } else { "" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {bounds}{noise} | {} | {} | {} | {} |",
            row.allocator.name.replace('|', "\\|"),
            duration(row.median(Figure::Time)),
            duration(least(&times)),
            duration(most(&times)),
            ratio(&relative).trim_end(),
            duration(row.median(Figure::User)),
            duration(row.median(Figure::System)),
            bytes(row.median(Figure::Peak) as u64),
            grouped(row.median(Figure::Faults) as u64),
        );
    }
    for row in results.rows.iter().filter(|row| row.trouble.is_some()) {
        let _ = writeln!(text, "\n{}: {}", row.allocator.name, row.trouble.as_deref().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn the_document_has_what_scripts_for_hyperfine_read() {
        let document: Value = serde_json::from_str(&json(&results())).unwrap();
        let entries = document["results"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        let first = &entries[0];
        assert_eq!(
            (&first["command"], &first["parameters"]["allocator"]),
            (&json!("first"), &json!("first"))
        );
        assert_eq!((&first["mean"], &first["median"]), (&json!(1.25), &json!(1.25)));
        assert_eq!(
            (&first["min"], &first["max"], &first["stddev"]),
            (&json!(1.0), &json!(1.5), &json!(0.25))
        );
        assert_eq!(first["times"], json!([1.0, 1.5, 1.25]));
        assert_eq!(first["exit_codes"], json!([0, 0, 0]));
        assert_eq!(first["memory_usage_byte"], json!([2_097_152, 2_097_152, 2_097_152]));
        assert_eq!((&first["ratio"], &entries[1]["ratio"]["value"]), (&json!(1.0), &json!(0.5)));
        assert_eq!(entries[1]["memory_ratio"]["inside_noise"], json!(true));
        assert_eq!(document["failed"][0]["allocator"], "third");
        assert_eq!(document["missing"][0]["allocator"], "fourth");
    }

    #[test]
    fn each_line_has_as_many_fields_as_the_first() {
        let mut results = results();
        results.rows[1].allocator.name = "a, \"b\"".to_owned();
        let text = csv(&results);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("command,mean,stddev,median,user,system,min,max,"));
        assert_eq!(lines[1].split(',').count(), lines[0].split(',').count());
        assert!(lines[1].starts_with("first,1.25,0.25,1.25,0.625,0.3125,1,1.5,first,2097152,1235,1,1,1"));
        assert!(lines[2].starts_with("\"a, \"\"b\"\"\",") && lines.len() == 3);
        assert_eq!(standard_deviation(&[1.0]), None);
    }

    #[test]
    fn the_table_in_markdown_has_the_failures_below_it() {
        let text = markdown(&results());
        assert!(text.contains("| second | 625ms | 500ms | 750ms | 0.50 | 0.50 to 0.50 |"), "{text}");
        assert!(text.ends_with("\nthird: killed by signal 11 (SIGSEGV)\n"), "{text}");
        let mut results = results();
        results.rows.iter_mut().for_each(|row| row.runs.truncate(1));
        assert!(markdown(&results).contains("| second | 500ms | 500ms | 500ms | 0.50~ |  | 250ms |"));
        assert!(csv(&results).trim_end().ends_with(",0.5,,"), "{}", csv(&results));
        let document: Value = serde_json::from_str(&json(&results)).unwrap();
        assert_eq!(document["results"][1]["ratio"]["low"], Value::Null);
    }
}
