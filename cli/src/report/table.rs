//! The statistics as a table for people: the program's own figures beside those of all processes together.

use super::{End, Report, bets, calls, counts, sizes};
use crate::text::grouped;
use specmalloc::{Bet, Statistics};
use std::fmt::{self, Display, Write};

/// Lines that the list of processes has at most; the JSON document has them all.
const PROCESSES: usize = 20;

impl Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(formatter, "exit status {code}"),
            Self::Signal(signal) => write!(formatter, "killed by signal {signal}"),
            Self::Exited => formatter.write_str("exited"),
            Self::Exec => formatter.write_str("ran another program"),
            Self::Running => formatter.write_str("still running"),
            Self::Abrupt => formatter.write_str("killed or _exit"),
        }
    }
}

impl Report {
    /// The table.
    pub(crate) fn table(&self, classes: bool) -> String {
        let mut text = String::new();
        self.write(&mut text, classes).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String, classes: bool) -> fmt::Result {
        let Some(program) = self.program.map(|index| &self.processes[index]) else {
            writeln!(out, "specmalloc: the program was not served ({})", self.end)?;
            return if self.processes.is_empty() { Ok(()) } else { self.write_processes(out) };
        };
        let pid = program.record.pid;
        writeln!(out, "specmalloc: {} (process {pid}), {}", program.name(), self.end)?;
        let Some(own) = program.record.statistics else {
            writeln!(out, "it ended before it told any figures")?;
            return self.write_processes(out);
        };
        writeln!(out, "{:18}{:>20}{:>20}", "", "program", "all processes")?;
        let both = |own: &[(String, u64)], sum: &[(String, u64)], out: &mut String, unit: &str| {
            own.iter().zip(sum).try_for_each(|((name, own), (_, sum))| {
                writeln!(out, "{:18}{:>20}{:>20}{unit}", name, grouped(*own), grouped(*sum))
            })
        };
        both(&sizes(&own), &sizes(&self.sum), out, " bytes")?;
        both(&counts(&own), &counts(&self.sum), out, "")?;
        writeln!(out, "system calls")?;
        for ((name, own), (_, sum)) in calls(&own).iter().zip(calls(&self.sum)) {
            writeln!(out, "  {:16}{:>20}{:>20}", name, grouped(*own), grouped(sum))?;
        }
        writeln!(out, "bets of all processes{:>13}{:>14}{:>10}", "taken", "won", "lost")?;
        for (name, Bet { taken, won, lost }) in bets(&self.sum) {
            writeln!(out, "  {:16}{:>16}{:>14}{:>10}", name, grouped(taken), grouped(won), grouped(lost))?;
        }
        if classes {
            write_classes(out, &self.sum)?;
        }
        self.write_processes(out)
    }

    fn write_processes(&self, out: &mut String) -> fmt::Result {
        if self.processes.len() > 1 {
            let exited = self.count(|end| matches!(end, End::Exited | End::Status(_)));
            let exec = self.count(|end| end == End::Exec);
            let running = self.count(|end| end == End::Running);
            let killed = self.count(|end| matches!(end, End::Abrupt | End::Signal(_)));
            let all = self.processes.len();
            writeln!(out, "{all} programs in all: {exited} exited, {exec} ran another program,")?;
            writeln!(out, "  {killed} killed or ended by _exit, {running} still running")?;
            writeln!(out, "{:>10}{:>10}  {:18}{:>16}  end", "process", "parent", "name", "live bytes")?;
            for process in self.processes.iter().take(PROCESSES) {
                let live =
                    process.record.statistics.map_or("-".into(), |statistics| grouped(statistics.live_bytes));
                let (pid, parent) = (process.record.pid, process.record.parent);
                writeln!(out, "{pid:>10}{parent:>10}  {:18}{live:>16}  {}", process.name(), process.end)?;
            }
            if self.processes.len() > PROCESSES {
                writeln!(out, "  and {} others", self.processes.len() - PROCESSES)?;
            }
        }
        if self.uncounted > 0 {
            writeln!(out, "{} more found no room to write their figures", self.uncounted)?;
        }
        Ok(())
    }
}

fn write_classes(out: &mut String, sum: &Statistics) -> fmt::Result {
    writeln!(out, "classes of all processes{:>18}{:>14}", "live blocks", "slabs")?;
    for class in sum.classes.iter().filter(|class| class.slabs > 0 || class.live_blocks > 0) {
        let size = grouped(class.block_bytes);
        writeln!(out, "  {size:>12} bytes{:>23}{:>14}", grouped(class.live_blocks), grouped(class.slabs))?;
    }
    Ok(())
}
