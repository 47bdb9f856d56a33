//! The library that stands in for the real one: examples/stand_in.rs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// Cargo has built it beside the command if it tests all targets; if it is told to run one test, that has it built.
pub fn stand_in() -> PathBuf {
    static BUILT: Once = Once::new();
    let command = Path::new(env!("CARGO_BIN_EXE_specmalloc"));
    let library = command.with_file_name("examples").join("libstand_in.so");
    BUILT.call_once(|| {
        if library.is_file() {
            return;
        }
        let folder = command.parent().and_then(Path::file_name).expect("a profile's").to_str();
        let profile = folder.filter(|name| *name != "debug").unwrap_or("dev");
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "stand_in", "--profile", profile, "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("inside the target directory"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    library.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", library.display()))
}
