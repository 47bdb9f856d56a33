//! Real programs: each is a shell script beside this source, which says what it needs, makes its input, and runs the
//! program with the allocator preloaded. A helper library that is loaded before the allocator says who serves malloc in
//! each process; the one that the script names has to be among them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::peer::Peer;
use super::run::{Figures, LIMIT};
use super::{Failure, Trouble, process};

/// A program, ready to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The script's name without its ending.
    pub name: String,
    script: PathBuf,
    /// The name of the process that has to be reached.
    process: String,
    /// Where its input is, and where it runs.
    folder: PathBuf,
}

/// What programs are run with.
pub struct Kit {
    /// The folder of the scripts.
    pub scripts: PathBuf,
    /// The library that says who serves malloc.
    pub who: PathBuf,
    /// The folder for inputs.
    pub folder: PathBuf,
    /// The smaller amount of work.
    pub quick: bool,
}

impl Kit {
    /// Every program whose script finds what it needs; of the others, what they lack.
    pub fn find(&self) -> Result<(Vec<Program>, Vec<String>), Failure> {
        let entries =
            std::fs::read_dir(&self.scripts).map_err(|e| format!("{}: {e}", self.scripts.display()))?;
        let mut scripts: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        scripts.retain(|path| path.extension().is_some_and(|extension| extension == "sh"));
        scripts.sort();
        let (mut programs, mut lacking) = (Vec::new(), Vec::new());
        for script in scripts {
            let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&script).map_err(|e| format!("{}: {e}", script.display()))?;
            let absent: Vec<&str> =
                header(&text, "needs").split_whitespace().filter(|need| !is_there(need)).collect();
            if !absent.is_empty() {
                lacking.push(format!("{name}: {} is not installed", absent.join(", ")));
                continue;
            }
            programs.push(Program {
                folder: self.folder.join(&name),
                process: header(&text, "process").to_owned(),
                name,
                script,
            });
        }
        Ok((programs, lacking))
    }

    /// Makes a program's input.
    pub fn prepare(&self, program: &Program) -> Result<(), Failure> {
        let _ = std::fs::remove_dir_all(&program.folder);
        std::fs::create_dir_all(&program.folder).map_err(|error| error.to_string())?;
        process::run(&mut self.command(program, "prepare", "", &[]), LIMIT).map(|_| ())
    }

    /// Runs a program once under `peer`.
    pub fn run(&self, program: &Program, peer: &Peer) -> Result<Figures, Trouble> {
        let file = program.folder.join("who");
        let _ = std::fs::remove_file(&file);
        let list = peer.preload_list(&self.who);
        let mut command = self.command(program, "run", &list, &[("WHO_FILE", &file)]);
        command.envs(peer.environment.iter().copied());
        let ended = process::run(&mut command, LIMIT).map_err(Trouble::Failed)?;
        let said = std::fs::read_to_string(&file).unwrap_or_default();
        reached(&said, &program.process, peer)?;
        let own = ended.output.lines().find_map(|line| line.strip_prefix("seconds=")?.parse().ok());
        Ok(Figures {
            seconds: own.unwrap_or(ended.elapsed.as_secs_f64()),
            cpu_seconds: ended.cpu_seconds,
            peak_rss_kib: peak(&said, &program.process),
            faults: ended.faults,
            mappings: f64::NAN,
            extras: Vec::new(),
        })
    }

    fn command(&self, program: &Program, step: &str, preload: &str, files: &[(&str, &Path)]) -> Command {
        let mut command = Command::new("sh");
        let lib = self.scripts.join("lib/common");
        command
            .args(["-euc", &format!(". \"{}\"; . \"{}\"; {step}", lib.display(), program.script.display())])
            .current_dir(&program.folder)
            .env_remove("LD_PRELOAD")
            .env("PRELOAD", preload)
            .env("WORK", if self.quick { "1" } else { "3" })
            .envs(files.iter().copied());
        command
    }
}

/// The value of `# name: value` at the head of a script.
fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let prefix = format!("# {name}: ");
    text.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_default().trim()
}

/// Whether a command, or a file, is there.
fn is_there(need: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    need.starts_with('/') && Path::new(need).exists()
        || std::env::split_paths(&path).any(|folder| folder.join(need).is_file())
}

/// Whether each process called `process` had its malloc from `peer`.
fn reached(said: &str, process: &str, peer: &Peer) -> Result<(), Trouble> {
    let lines = said.lines().filter_map(|line| line.split_once(' ')).filter(|line| line.0 == process);
    let mut objects = lines.filter(|line| !line.1.starts_with("peak "));
    let Some(first) = objects.next() else {
        return Err(Trouble::NotReached(format!("no process {process} said who serves malloc")));
    };
    match std::iter::once(first).chain(objects).find(|line| !peer.is_served_by(Path::new(line.1))) {
        Some((_, object)) => Err(Trouble::NotReached(format!("malloc was served by {object}"))),
        None => Ok(()),
    }
}

/// The highest resident memory of all processes called `process`, in KiB; not a number if none said it.
fn peak(said: &str, process: &str) -> f64 {
    let lines =
        said.lines().filter_map(|line| line.strip_prefix(process)?.strip_prefix(" peak ")?.parse().ok());
    lines.fold(f64::NAN, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::peer::Malloc;

    #[test]
    fn a_script_tells_what_it_needs() {
        let text = "# A program.\n# needs: sh no-such-command\n# process: sh\nrun() { :; }\n";
        assert_eq!((header(text, "needs"), header(text, "process")), ("sh no-such-command", "sh"));
        assert_eq!(header(text, "other"), "");
        assert!(is_there("sh") && is_there("/proc/self/exe"));
        assert!(!is_there("no-such-command") && !is_there("/no/such/file"));
    }

    #[test]
    fn a_program_that_is_not_reached_is_found_out() {
        let peer = Peer {
            name: "glibc".to_owned(),
            version: String::new(),
            malloc: Malloc::CLibrary,
            environment: &[],
            arguments: &[],
            workloads: None,
            program: None,
        };
        let said =
            "sh /lib/other.so\nnode /lib/libc.so.6\nsh peak 99\nnode peak 10\nnode peak 30\nnode peak 20\n";
        assert_eq!((reached(said, "node", &peer), peak(said, "node")), (Ok(()), 30.0));
        assert!(peak(said, "python3").is_nan());
        let other = reached("node /lib/libc.so.6\nnode /lib/other.so\n", "node", &peer);
        assert_eq!(other, Err(Trouble::NotReached("malloc was served by /lib/other.so".to_owned())));
        assert!(matches!(reached("", "node", &peer), Err(Trouble::NotReached(_))));
    }
}
