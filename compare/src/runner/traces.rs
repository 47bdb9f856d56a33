//! The traces beside this source, made ready for the workload that replays them: a file of records that it maps, for it is
//! to allocate nothing itself.

use std::path::{Path, PathBuf};

use specmalloc_trace::file;
use specmalloc_trace::steps::Steps;

use super::Failure;
use crate::workloads::trace::Call;

/// The traces in a folder, by name.
pub fn find(folder: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut traces: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "trace"))
        .map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect();
    traces.sort();
    Ok(traces)
}

/// Turns the trace `from` into records at `to`, and answers how many calls it has.
pub fn convert(from: &Path, to: &Path) -> Result<usize, Failure> {
    let contents = std::fs::read(from).and_then(file::unpack);
    let trace = contents.and_then(|contents| file::read(&contents));
    let steps = Steps::take(&mut trace.map_err(|error| format!("{}: {error}", from.display()))?).steps;
    let mut bytes = Vec::new();
    for step in &steps {
        let call = match step.kind {
            1 => Call::Calloc,
            3 => Call::Realloc,
            4 => Call::Free,
            _ => Call::Malloc,
        };
        // As the workload's `Record` lies in memory.
        bytes.extend(step.slot.to_ne_bytes());
        bytes.extend(step.turn.to_ne_bytes());
        bytes.extend(u32::try_from(step.size).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend((step.thread as u16).to_ne_bytes());
        bytes.extend((call as u16).to_ne_bytes());
    }
    std::fs::write(to, bytes).map_err(|error| format!("{}: {error}", to.display()))?;
    Ok(steps.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::trace::Trace;

    #[test]
    fn every_trace_beside_this_source_is_small_and_becomes_records() {
        let traces = find(&Path::new(env!("CARGO_MANIFEST_DIR")).join("traces")).unwrap();
        assert!(traces.iter().any(|trace| trace.0 == "python"));
        for (name, path) in traces {
            assert!(std::fs::metadata(&path).unwrap().len() <= 100 << 10, "{name}");
            let records = std::env::temp_dir().join(format!("compare-{name}-{}.records", std::process::id()));
            let calls = convert(&path, &records).unwrap();
            let trace = Trace::open(records.to_str().unwrap()).unwrap();
            std::fs::remove_file(records).unwrap();
            assert!(calls > 10_000 && calls == trace.records.len(), "{name}");
            assert_eq!(trace.threads, if name == "git" { 3 } else { 1 });
        }
    }
}
