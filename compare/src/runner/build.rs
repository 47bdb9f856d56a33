//! Builds the allocators: the Rust programs of the package `peers`, one feature at a time, and from the same crates'
//! sources the libraries to preload, without a Rust wrapper around them. Whatever cannot be built is said, and the rest
//! goes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Failure;
use super::peer::Malloc;

/// Where an allocator comes from.
pub enum Source {
    /// The C library.
    CLibrary,
    /// This repository.
    Specmalloc,
    /// This repository, with locks: see the library's `pal/twin`.
    Twin,
    /// The C source in the crate of mimalloc, of this version.
    Mimalloc(&'static str),
    /// The C++ source in snmalloc's crate.
    Snmalloc,
    /// The C source in rpmalloc's crate.
    Rpmalloc,
    /// The archive that this crate's build leaves behind, and what its functions are to be called besides.
    Archive(&'static str, Aliases),
    /// A library by this name (`*` stands for anything), which is in this Debian package.
    Installed(&'static str, &'static str),
    /// This crate; it serves no malloc.
    Never(&'static str),
}

/// Names of the C library, and of C++, with the functions that are to have them.
pub type Aliases = &'static [(&'static str, &'static str)];

/// The crate of Google's builds it under names of its own only.
pub const TCMALLOC: Aliases = &[
    ("malloc", "TCMallocInternalMalloc"),
    ("free", "TCMallocInternalFree"),
    ("calloc", "TCMallocInternalCalloc"),
    ("realloc", "TCMallocInternalRealloc"),
    ("reallocarray", "TCMallocInternalReallocArray"),
    ("memalign", "TCMallocInternalMemalign"),
    ("aligned_alloc", "TCMallocInternalAlignedAlloc"),
    ("posix_memalign", "TCMallocInternalPosixMemalign"),
    ("valloc", "TCMallocInternalValloc"),
    ("pvalloc", "TCMallocInternalPvalloc"),
    ("malloc_usable_size", "TCMallocInternalMallocSize"),
    ("_Znwm", "TCMallocInternalNew"),
    ("_Znam", "TCMallocInternalNewArray"),
    ("_ZdlPv", "TCMallocInternalDelete"),
    ("_ZdaPv", "TCMallocInternalDeleteArray"),
    ("_ZdlPvm", "TCMallocInternalDeleteSized"),
    ("_ZdaPvm", "TCMallocInternalDeleteArraySized"),
    ("_ZnwmSt11align_val_t", "TCMallocInternalNewAligned"),
    ("_ZdlPvSt11align_val_t", "TCMallocInternalDeleteAligned"),
    ("_ZdlPvmSt11align_val_t", "TCMallocInternalDeleteSizedAligned"),
];

impl Source {
    /// Whether the library comes out of the build of the Rust program.
    pub fn needs_cargo(&self) -> bool {
        matches!(self, Source::Archive(..))
    }

    /// The crate that holds the source, and whose version counts.
    fn package(&self) -> Option<&'static str> {
        match self {
            Source::Mimalloc(_) => Some("libmimalloc-sys"),
            Source::Snmalloc => Some("snmalloc-sys"),
            Source::Rpmalloc => Some("rpmalloc-sys"),
            Source::Archive(package, _) | Source::Never(package) => Some(package),
            Source::Specmalloc | Source::Twin => Some("specmalloc"),
            Source::CLibrary | Source::Installed(..) => None,
        }
    }
}

/// What is built, and where.
pub struct Builder {
    root: PathBuf,
    folder: PathBuf,
    /// The packages that cargo knows for `peers`, asked once.
    packages: Option<Result<Vec<Package>, Failure>>,
    /// The folders that build scripts wrote to, by package.
    outputs: Vec<(String, PathBuf)>,
    say: Box<dyn Fn(&str)>,
}

struct Package {
    name: String,
    version: String,
    folder: PathBuf,
}

impl Builder {
    /// A builder for the repository at `root`, which builds into `folder`.
    pub fn new(root: &Path, folder: &Path) -> Builder {
        Builder {
            root: root.to_owned(),
            folder: folder.to_owned(),
            packages: None,
            outputs: Vec::new(),
            say: Box::new(|_| ()),
        }
    }

    /// Tells `say` what is built, before each step.
    pub fn telling(self, say: impl Fn(&str) + 'static) -> Builder {
        Builder { say: Box::new(say), ..self }
    }

    /// The folder for what is built here.
    fn peers_folder(&self) -> PathBuf {
        self.folder.join("peers")
    }

    fn manifest(&self) -> PathBuf {
        self.root.join("compare/peers/Cargo.toml")
    }

    /// The program `workloads`, if this runs from a release build; a debug build is a test, and finds it built.
    pub fn workloads(&self) -> Result<(), Failure> {
        (self.say)("workloads");
        run(cargo().current_dir(&self.root).args(["build", "--release", "-p", "compare"])).map(|_| ())
    }

    /// Builds the Rust workloads on the allocator of `feature`, and answers where the program is.
    pub fn program(&mut self, feature: &str) -> Result<PathBuf, Failure> {
        (self.say)(feature);
        let folder = self.peers_folder();
        let output = run(cargo()
            .args([
                "build",
                "--release",
                "--quiet",
                "--message-format=json-render-diagnostics",
                "--features",
                feature,
            ])
            .arg("--manifest-path")
            .arg(self.manifest())
            .arg("--target-dir")
            .arg(&folder))?;
        self.outputs.extend(output.lines().filter_map(build_script_output));
        let (built, kept) = (folder.join("release/peers"), folder.join("bin").join(feature));
        let copied = std::fs::create_dir_all(folder.join("bin")).and_then(|()| std::fs::copy(&built, &kept));
        copied.map_err(|error| format!("{}: {error}", built.display()))?;
        Ok(kept)
    }

    /// Builds or finds the library of the allocator called `name`.
    pub fn library(&mut self, name: &str, source: &Source) -> Result<Malloc, Failure> {
        match source {
            Source::CLibrary => return Ok(Malloc::CLibrary),
            Source::Never(_) => return Ok(Malloc::Never),
            Source::Installed(file, package) => {
                let found = installed(file);
                return found.map(Malloc::Library).ok_or(format!("{file} is in Debian's package {package}"));
            }
            Source::Specmalloc => return self.preload_library(&self.folder, &[]),
            Source::Twin => {
                // Built twice: the library, and what asks the index by itself.
                let library = self.preload_library(&self.twin_folder(), &["--features", "locked-twin"])?;
                let folder = self.twin_folder();
                let mut command = cargo();
                command.current_dir(&self.root).args(["build", "--quiet", "--release", "-p", "compare"]);
                command.args(["--bin", "workloads", "--features", "locked-twin", "--target-dir"]);
                run(command.arg(folder))?;
                return Ok(library);
            }
            _ => {}
        }
        (self.say)(&format!("lib{name}.so"));
        let library = self.peers_folder().join(format!("lib{name}.so"));
        let command = match source {
            Source::Mimalloc(version) => {
                let folder = self.package("libmimalloc-sys")?.folder.join("c_src/mimalloc").join(version);
                // As its authors build it.
                let mut command = compiler("CC", "cc");
                command
                    .args(["-std=gnu11", "-O3", "-fvisibility=hidden", "-ftls-model=initial-exec"])
                    .args(["-fno-builtin-malloc", "-DNDEBUG", "-DMI_DEBUG=0", "-DMI_BUILD_RELEASE"])
                    .args(["-DMI_MALLOC_OVERRIDE", "-DMI_SHARED_LIB", "-DMI_SHARED_LIB_EXPORT", "-I"])
                    .arg(folder.join("include"))
                    .arg(folder.join("src/static.c"));
                command
            }
            Source::Snmalloc => {
                let folder = self.package("snmalloc-sys")?.folder.join("upstream/src");
                let mut command = compiler("CXX", "c++");
                command
                    .args(["-std=c++20", "-O3", "-DNDEBUG", "-flto", "-fvisibility=hidden"])
                    .args(["-ftls-model=initial-exec", "-fomit-frame-pointer", "-ffunction-sections"])
                    .args(["-DSNMALLOC_EXPORT=__attribute__((visibility(\"default\")))", "-static-libstdc++"])
                    .args(["-DSNMALLOC_USE_CXX11_THREAD_ATEXIT_DIRECT", "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1"])
                    .args(["-DSNMALLOC_CHECK_LOADS=false", "-DSNMALLOC_PAGEID=false", "-I"])
                    .arg(&folder)
                    .args(["new", "malloc"].map(|name| folder.join(format!("snmalloc/override/{name}.cc"))));
                if cfg!(target_arch = "x86_64") {
                    command.args(["-mcx16", "-mprfchw"]);
                }
                command
            }
            Source::Rpmalloc => {
                let folder = self.package("rpmalloc-sys")?.folder.join("rpmalloc/rpmalloc");
                let mut command = compiler("CC", "cc");
                command
                    .args(["-std=gnu11", "-O3", "-DNDEBUG", "-D_GNU_SOURCE=1", "-fno-builtin-malloc"])
                    .args(["-DENABLE_PRELOAD=1", "-DENABLE_OVERRIDE=1"])
                    .arg(folder.join("rpmalloc.c"));
                command
            }
            Source::Archive(package, aliases) => {
                let archive = self.archive(package)?;
                let mut command = compiler("CXX", "c++");
                command.args(["-Wl,--whole-archive"]).arg(archive).arg("-Wl,--no-whole-archive");
                command.args(aliases.iter().map(|(name, own)| format!("-Wl,--defsym={name}={own}")));
                command
            }
            _ => unreachable!("answered above"),
        };
        self.link(command, &library)?;
        absolute(&library).map(Malloc::Library)
    }

    /// Builds specmalloc's library in a folder of cargo's.
    fn preload_library(&self, folder: &Path, more: &[&str]) -> Result<Malloc, Failure> {
        let library = folder.join("preload/libspecmalloc.so");
        (self.say)(&library.display().to_string());
        let mut command = cargo();
        command.current_dir(&self.root).args(["build", "--quiet", "--profile", "preload"]);
        run(command.args(["-p", "specmalloc-preload", "--target-dir"]).arg(folder).args(more))?;
        absolute(&library).map(Malloc::Library)
    }

    fn twin_folder(&self) -> PathBuf {
        self.folder.join("twin")
    }

    /// The program `workloads` whose index is the twin's.
    pub fn twin_workloads(&self) -> PathBuf {
        self.twin_folder().join("release")
    }

    /// Builds one of the helper libraries beside this source.
    pub fn helper(&self, name: &str) -> Result<PathBuf, Failure> {
        let mut command = compiler("CC", "cc");
        command.args(["-O2", "-fno-builtin"]).arg(self.root.join(format!("compare/preload/{name}.c")));
        let library = self.peers_folder().join(format!("lib{name}.so"));
        self.link(command, &library)?;
        absolute(&library)
    }

    fn link(&self, mut command: Command, library: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(self.peers_folder()).map_err(|error| error.to_string())?;
        run(command.args(["-fPIC", "-shared", "-o"]).arg(library).args(["-lpthread", "-ldl", "-lm"]))
            .map(|_| ())
    }

    /// The archive that the build script of `package` made.
    fn archive(&self, package: &str) -> Result<PathBuf, Failure> {
        let output = self.outputs.iter().rfind(|output| output.0 == package);
        let folder = &output.ok_or(format!("{package} was not built"))?.1;
        let mut archives = Vec::new();
        find_files(folder, "a", 3, &mut archives);
        // Position-independent code, where both kinds are there.
        archives.sort_by_key(|path| !path.to_string_lossy().contains("_pic"));
        archives.into_iter().next().ok_or(format!("{package} left no archive in {}", folder.display()))
    }

    fn package(&mut self, name: &str) -> Result<&Package, Failure> {
        let manifest = self.manifest();
        let packages = self.packages.get_or_insert_with(|| {
            let text = run(cargo()
                .args(["metadata", "--all-features", "--format-version=1", "--manifest-path"])
                .arg(manifest))?;
            let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let packages = value["packages"].as_array().into_iter().flatten();
            Ok(packages.filter_map(package_of).collect())
        });
        let packages = packages.as_ref().map_err(Failure::clone)?;
        packages.iter().find(|package| package.name == name).ok_or(format!("no package {name}"))
    }

    /// The version of an allocator, as its source or its package tells it.
    pub fn version(&mut self, source: &Source, malloc: &Malloc) -> String {
        match (source, malloc) {
            (Source::CLibrary, _) => c_library_version(),
            (Source::Installed(..), Malloc::Library(library)) => debian_version(library).unwrap_or_default(),
            (Source::Mimalloc(version), _) => self.mimalloc_version(version).unwrap_or_default(),
            (source, _) => {
                let package = source.package().and_then(|name| self.package(name).ok());
                let version = package.map(|package| package.version.clone()).unwrap_or_default();
                match source {
                    Source::Specmalloc | Source::Twin => format!("{version}{}", self.commit()),
                    // What comes after the plus is the version of what the crate wraps.
                    Source::Archive(..) => version.rsplit('+').next().map(str::to_owned).unwrap_or(version),
                    _ => version,
                }
            }
        }
    }

    fn mimalloc_version(&mut self, version: &str) -> Result<String, Failure> {
        let header = self.package("libmimalloc-sys")?.folder.join("c_src/mimalloc").join(version);
        let text =
            std::fs::read_to_string(header.join("include/mimalloc.h")).map_err(|error| error.to_string())?;
        let number = text.lines().find_map(|line| line.strip_prefix("#define MI_MALLOC_VERSION"));
        let number: u32 =
            number.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).ok_or("no version")?;
        Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
    }

    fn commit(&self) -> String {
        let git = |arguments: &[&str]| run(Command::new("git").current_dir(&self.root).args(arguments)).ok();
        let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
        let changed =
            git(&["status", "--porcelain", "--", "src", "preload"]).is_some_and(|text| !text.is_empty());
        format!(" ({}{})", commit.trim(), if changed { ", changed" } else { "" })
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
}

fn compiler(variable: &str, default: &str) -> Command {
    Command::new(std::env::var_os(variable).unwrap_or(default.into()))
}

/// Runs a command to its end. A failure is its first error, or the last thing that it said.
fn run(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("error")).or(text.lines().last());
    Err(format!("{name}: {}", line.unwrap_or("fails").trim()))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))
}

/// The package and the folder of a build script, if the line of cargo's is about one.
fn build_script_output(line: &str) -> Option<(String, PathBuf)> {
    let value: Value = serde_json::from_str(line).ok()?;
    if value["reason"] != "build-script-executed" {
        return None;
    }
    // `registry+URL#name@version`, or `path+URL#version` where the folder has the package's name.
    let name = value["package_id"].as_str()?.rsplit('#').next()?.split('@').next()?;
    Some((name.to_owned(), PathBuf::from(value["out_dir"].as_str()?)))
}

fn package_of(value: &Value) -> Option<Package> {
    Some(Package {
        name: value["name"].as_str()?.to_owned(),
        version: value["version"].as_str()?.to_owned(),
        folder: Path::new(value["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

fn find_files(folder: &Path, extension: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            find_files(&path, extension, depth - 1, found);
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
}

/// Where the dynamic linker, and clang, keep libraries.
fn installed(file: &str) -> Option<PathBuf> {
    let arch = std::env::consts::ARCH;
    let mut folders: Vec<PathBuf> = [
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
    ]
    .map(PathBuf::from)
    .into();
    for llvm in std::fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        if llvm.file_name().to_string_lossy().starts_with("llvm-") {
            let versions = std::fs::read_dir(llvm.path().join("lib/clang")).into_iter().flatten().flatten();
            folders.extend(versions.map(|version| version.path().join("lib/linux")));
        }
    }
    let file = file.replace('*', arch);
    folders.into_iter().find_map(|folder| folder.join(&file).canonicalize().ok())
}

fn debian_version(library: &Path) -> Option<String> {
    let owner = run(Command::new("dpkg-query").arg("-S").arg(library)).ok()?;
    let package = owner.split(':').next()?;
    run(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package])).ok()
}

fn c_library_version() -> String {
    // SAFETY: answers a constant string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    version.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_script_is_known_by_its_package() {
        let line = r#"{"reason":"build-script-executed","package_id":"registry+x/y#some-sys@0.7+5.3","out_dir":"/o"}"#;
        assert_eq!(build_script_output(line), Some(("some-sys".to_owned(), PathBuf::from("/o"))));
        assert_eq!(build_script_output(r#"{"reason":"compiler-artifact"}"#), None);
        assert_eq!(build_script_output("warning: words"), None);
    }

    #[test]
    fn a_failing_build_says_its_error() {
        let script = "echo working >&2; echo 'error: no such thing' >&2; echo bye >&2; exit 1";
        let failure = run(Command::new("sh").args(["-c", script])).unwrap_err();
        assert_eq!(failure, "sh: error: no such thing");
        assert!(run(&mut Command::new("/no/such/compiler")).unwrap_err().starts_with("/no/such/compiler: "));
    }

    #[test]
    fn what_is_not_installed_names_its_package() {
        let mut builder = Builder::new(Path::new("/no/root"), Path::new("/no/folder"));
        let failure = builder.library("x", &Source::Installed("libnone.so.9", "libnone9")).unwrap_err();
        assert!(failure.contains("Debian's package libnone9"), "{failure}");
        assert!(
            builder.library("y", &Source::Archive("none-sys", &[])).unwrap_err().contains("was not built")
        );
    }
}
