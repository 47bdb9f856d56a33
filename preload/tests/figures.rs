//! The functions that report on malloc or adjust it, from glibc and from `specmalloc.h`.

mod common;

use std::process::Command;

passing_cases! { "figures.c":
    mallinfo2_follows,
    mallinfo2_counts_large_blocks,
    mallinfo2_follows_realloc,
    mallinfo_does_not_wrap,
    malloc_trim_gives_back,
    mallopt_parameters,
    trim_threshold_bounds_free_memory,
    statistics,
    heap_of,
    options,
    usable_size_and_trim,
}

/// The tags of an XML document in order; panics unless they nest.
fn tags(document: &str) -> Vec<&str> {
    let mut open = Vec::new();
    let mut all = Vec::new();
    for part in document.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag that ends");
        assert!(text.trim().is_empty(), "text between tags: {text:?}");
        all.push(tag);
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {document}");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag with a name"));
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    all
}

/// The number in the attribute `name` of `tag`.
fn attribute(tag: &str, name: &str) -> u64 {
    let (_, rest) = tag.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {tag}"));
    rest.split('"').next().and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{tag}"))
}

#[test]
fn malloc_info_is_xml_with_real_figures() {
    let document = common::case("figures.c", "malloc_info_document").passed();
    let tags = tags(&document);
    assert_eq!(tags.first(), Some(&"malloc version=\"1\""));
    assert_eq!(tags.last(), Some(&"/malloc"));
    let of_type = |kind: &str| {
        let start = format!("total type=\"{kind}\"");
        *tags
            .iter()
            .rfind(|tag| tag.starts_with(&start))
            .unwrap_or_else(|| panic!("no {start} in {document}"))
    };
    assert_eq!(attribute(of_type("mmap"), "count"), 1);
    assert!(attribute(of_type("mmap"), "size") >= 1 << 30);
    assert!(attribute(of_type("live"), "count") > 4000);
    assert!(attribute(of_type("live"), "size") >= 4_000_000 + (1 << 30));
    let resident =
        tags.iter().rfind(|tag| tag.starts_with("system type=\"current\"")).expect("the resident size");
    assert!(attribute(resident, "size") >= 4_000_000);
}

#[test]
fn malloc_stats_goes_to_standard_error() {
    let outcome = common::case("figures.c", "malloc_stats_lines");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
    let live: u64 = outcome
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("specmalloc: live"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no live bytes in {}", outcome.stderr));
    assert!(live >= 4_000_000, "{live}");
    assert!(outcome.stderr.lines().all(|line| line.starts_with("specmalloc: ")));
}

#[test]
fn malloc_stats_is_no_cancellation_point() {
    let outcome = common::case("figures.c", "malloc_stats_while_cancelled");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 5, "{}", outcome.stderr);
}

#[test]
fn the_environment_comes_before_what_a_program_sets() {
    let program = common::compile("figures.c", &[]);
    common::run(Command::new(program).arg("options_before_anything").env("SPECMALLOC_CONF", "dirty_max:5M"))
        .passed();
}

/// What the options come to with `conf` in the environment, and what is said about it.
fn with_conf(conf: &str) -> (String, String) {
    let program = common::compile("figures.c", &[]);
    let outcome = common::run(Command::new(program).arg("options_in_force").env("SPECMALLOC_CONF", conf));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    (outcome.stdout, outcome.stderr)
}

#[test]
fn options_come_from_the_environment() {
    let conf = [
        ("dirty_max:2M", 2_u64 << 20),
        ("dirty_percent:7", 7),
        ("helper:off", 0),
        ("reserve:off", 0),
        ("keep_huge:off", 0),
        ("huge_pages:off", 0),
        ("deepbind:on", 1),
        ("limit:3G", 3 << 30),
        ("guarded:on", 1),
        ("pressure:off", 0),
        // Guarded blocks are samples.
        ("profile", 512 << 10),
        ("arena_size:2M", 2 << 20),
    ];
    let (said, told): (Vec<_>, Vec<_>) = conf
        .iter()
        .map(|(pair, value)| (*pair, format!("{}:{value}\n", pair.split(':').next().unwrap())))
        .unzip();
    let said: Vec<_> = said.into_iter().filter(|pair| pair.contains(':')).collect();
    let (values, complaints) = with_conf(&said.join(","));
    assert_eq!(values, told.concat());
    assert_eq!(complaints, "");
}

#[test]
fn a_wrong_option_gives_one_line_and_the_default() {
    let (defaults, _) = with_conf("");
    let (values, complaints) = with_conf("dirty_max:lots,colour:green");
    assert_eq!(values, defaults);
    let lines: Vec<_> = complaints.lines().collect();
    assert_eq!(lines.len(), 2, "{complaints}");
    assert!(lines[0].starts_with("specmalloc: ") && lines[0].contains("dirty_max:lots"), "{complaints}");
    assert!(lines[1].starts_with("specmalloc: ") && lines[1].contains("colour:green"), "{complaints}");
}
