//! The manual pages and completions, as a packager asks for them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn specmalloc(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_specmalloc")).args(arguments).output().unwrap()
}

#[test]
fn every_shell_has_completions_that_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = specmalloc(&["completions", shell]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for word in ["run", "compare", "doctor", "export-json"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(specmalloc(&["completions", "tcl"]).status.code(), Some(125));
}

#[test]
fn there_is_a_page_for_each_command() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manual");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    assert!(specmalloc(&["man", "--folder", folder.to_str().unwrap()]).status.success());
    for page in ["specmalloc.1", "specmalloc-run.1", "specmalloc-compare.1", "specmalloc-doctor.1"] {
        let text = fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".TH ") && text.contains("xit status"), "{page}: {text}");
    }
    let one = specmalloc(&["man", "compare"]);
    assert_eq!(one.stdout, fs::read(folder.join("specmalloc-compare.1")).unwrap());
    assert_eq!(specmalloc(&["man"]).stdout, fs::read(folder.join("specmalloc.1")).unwrap());
    for wrong in [&["man", "nothing"][..], &["man", "--folder", "/no/such/folder"]] {
        let output = specmalloc(wrong);
        assert_eq!(output.status.code(), Some(125));
        assert!(output.stderr.starts_with(b"specmalloc: "));
    }
}
