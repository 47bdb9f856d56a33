//! The library under test. The command's tests have it from here, too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library that `SPECMALLOC_LIB` names, or else the one that cargo builds here, which does nothing if it is fresh.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("SPECMALLOC_LIB") {
            return path.into();
        }
        build("preload", "specmalloc-preload", "libspecmalloc.so")
    })
}

/// Builds the library `name` of `package` by `profile`.
pub fn build(profile: &str, package: &str, name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("inside the target directory");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--profile", profile, "--package", package, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let library = target.join(profile).join(name);
    assert!(library.exists(), "cargo left no {}", library.display());
    library
}
