//! The real library: the one that SPECMALLOC_LIB names, or else built here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("SPECMALLOC_LIB") {
            return path.into();
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("inside the target directory");
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--profile",
                "preload",
                "--package",
                "specmalloc-preload",
                "--manifest-path",
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target)
            .env_remove("CARGO_BUILD_TARGET")
            .status()
            .expect("cargo runs");
        assert!(status.success());
        target.join("preload/libspecmalloc.so")
    })
}
