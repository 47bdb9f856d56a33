//! What comes out: a report in Markdown, every figure as CSV and JSON, and plots.

mod data;
mod markdown;
mod plots;

use std::path::{Path, PathBuf};

pub use markdown::{means, means_of};

use super::Failure;
use super::measure::Results;

/// Writes everything into `folder` and answers the files.
pub fn write(results: &Results, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut files = Vec::new();
    for (name, text) in [
        ("report.md", markdown::report(results)),
        ("runs.csv", data::csv(results)),
        ("results.json", format!("{:#}\n", data::json(results))),
    ] {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(fail)?;
        files.push(file);
    }
    files.extend(plots::draw(results, folder)?);
    Ok(files)
}
