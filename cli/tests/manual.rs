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

/// What bash offers for the last of these words.
fn completed(words: &str) -> Vec<String> {
    let script = format!(
        "source /dev/stdin; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         $(complete -p specmalloc | grep -o '_specmalloc[a-z_]*') specmalloc \
         \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let completions = specmalloc(&["completions", "bash"]).stdout;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("completions.bash");
    fs::write(&file, completions).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).stdin(fs::File::open(&file).unwrap());
    String::from_utf8(bash.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_values_and_the_program() {
    assert_eq!(completed("specmalloc re"), ["record-trace", "replay"]);
    assert_eq!(completed("specmalloc replay --allocator je"), ["jemalloc"]);
    assert_eq!(completed("specmalloc compare --only tc"), ["tcmalloc"]);
    assert!(completed("specmalloc compare -- tru").contains(&"true".to_owned()));
    assert!(completed("specmalloc profile record --rate 1 -- tru").contains(&"true".to_owned()));
    // Options are the program's own: files are completed, which bash does when nothing is offered.
    assert_eq!(completed("specmalloc run -- ls -"), [""]);
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
