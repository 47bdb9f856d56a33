//! A profile as text: a table of functions, a tree of calls, collapsed stacks, and what was never freed.

use super::view::{View, What};
use crate::Failure;
use crate::text::{Column, Side, bytes, grouped, lines};
use specmalloc_samples::pprof::{Leak, Profile};
use std::collections::HashMap;
use std::fmt::Write;

/// `part` of `whole` in percent.
fn percent(part: i64, whole: i64) -> String {
    format!("{:.1}%", if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 })
}

/// A size that is never negative in a profile of ours.
fn size(value: i64) -> String {
    bytes(value.max(0) as u64)
}

fn count(value: i64) -> String {
    grouped(value.max(0) as u64)
}

/// What comes to each of so many.
fn mean(sum: i64, objects: i64) -> i64 {
    sum / objects.max(1)
}

/// What the figures are of.
pub(super) fn head(profile: &Profile, view: &View) -> String {
    let (objects, bytes) = view.sum();
    let rate = if profile.stacks.is_empty() {
        "no samples".to_owned()
    } else if profile.rate <= 1 {
        "every allocation".to_owned()
    } else {
        format!("one sample for {}", size(profile.rate))
    };
    let (what, name, blocks) = (view.what, view.what.name(), count(objects));
    let mut text = match what {
        What::Lifetimes => {
            let life = what.amount(mean(bytes, objects));
            format!("{name}: {blocks} blocks that lived {life} on average, {rate}\n")
        }
        _ => format!("{name}: {} in {blocks} blocks, {rate}\n", what.amount(bytes)),
    };
    for comment in &profile.comments {
        writeln!(text, "{comment}").expect("a string takes all");
    }
    text
}

/// What a function has allocated itself, and with those it called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shares {
    own: i64,
    all: i64,
    objects: i64,
}

fn shares(view: &View) -> Vec<Shares> {
    let mut shares = vec![Shares::default(); view.names.len()];
    let mut last = vec![usize::MAX; view.names.len()];
    for (number, stack) in view.stacks.iter().enumerate() {
        if let Some(&innermost) = stack.functions.last() {
            shares[innermost].own += stack.bytes;
        }
        for &function in &stack.functions {
            // Once, though it may call itself.
            if std::mem::replace(&mut last[function], number) != number {
                shares[function].all += stack.bytes;
                shares[function].objects += stack.objects;
            }
        }
    }
    shares
}

/// A line for each function, at most `most`: those that allocated most themselves, and then with others.
pub(super) fn table(view: &View, most: usize) -> String {
    let shares = shares(view);
    let (_, whole) = view.sum();
    let mut order: Vec<usize> = (0..shares.len()).filter(|&at| shares[at].all != 0).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse((shares[at].own, shares[at].all)), &view.names[at]));
    let left_out = order.len().saturating_sub(most);
    order.truncate(most);
    let column = |heading, side, cell: &dyn Fn(usize) -> String| {
        Column::new(heading, side, order.iter().map(|&at| cell(at)).collect())
    };
    let amount = |value| view.what.amount(value);
    let mut columns = vec![
        column("self", Side::Right, &|at| amount(shares[at].own)),
        column("%", Side::Right, &|at| percent(shares[at].own, whole)),
        column("with callees", Side::Right, &|at| amount(shares[at].all)),
        column("%", Side::Right, &|at| percent(shares[at].all, whole)),
        column("blocks", Side::Right, &|at| count(shares[at].objects)),
        column("function", Side::Left, &|at| view.names[at].clone()),
    ];
    if view.what == What::Lifetimes {
        let mean = |at: usize| amount(mean(shares[at].all, shares[at].objects));
        columns.insert(5, column("mean", Side::Right, &mean));
    }
    let mut text = lines(&columns, 2, |_, _, cell| cell.to_owned());
    if left_out > 0 {
        writeln!(text, "and {left_out} more: --lines 0 shows all").expect("a string takes all");
    }
    text
}

/// A function, called by one and the same stack.
#[derive(Default)]
struct Node {
    bytes: i64,
    /// By the numbers of functions, and where they are among the nodes.
    callees: Vec<(usize, usize)>,
}

/// The calls from the outermost function on, each with what was allocated below it; not those with less than `least`
/// percent.
pub(super) fn tree(view: &View, least: f64) -> String {
    let mut nodes = vec![Node::default()];
    let mut places: HashMap<(usize, usize), usize> = HashMap::new();
    for stack in &view.stacks {
        let mut at = 0;
        nodes[at].bytes += stack.bytes;
        for &function in &stack.functions {
            at = *places.entry((at, function)).or_insert_with(|| {
                nodes.push(Node::default());
                let new = nodes.len() - 1;
                nodes[at].callees.push((function, new));
                new
            });
            nodes[at].bytes += stack.bytes;
        }
    }
    let whole = nodes[0].bytes;
    let is_shown = |node: &Node| whole > 0 && node.bytes as f64 * 100.0 >= least * whole as f64;
    let (mut text, mut open) = (String::new(), Vec::new());
    let deeper = |open: &mut Vec<(usize, usize, usize)>, node: &Node, depth| {
        let mut callees: Vec<_> = node.callees.iter().filter(|(_, at)| is_shown(&nodes[*at])).collect();
        callees.sort_by_key(|(function, at)| (nodes[*at].bytes, std::cmp::Reverse(&view.names[*function])));
        open.extend(callees.into_iter().map(|&(function, at)| (function, at, depth)));
    };
    deeper(&mut open, &nodes[0], 0);
    while let Some((function, at, depth)) = open.pop() {
        let node = &nodes[at];
        let (share, size) = (percent(node.bytes, whole), view.what.amount(node.bytes));
        let name = &view.names[function];
        writeln!(text, "{share:>6} {size:>6} {:depth$}{name}", "").expect("a string takes all");
        deeper(&mut open, node, depth + 1);
    }
    text
}

/// A line for each stack: its functions, the outermost first, and a number. As flamegraph.pl and others read them.
pub(super) fn collapsed(view: &View, by_objects: bool) -> String {
    let mut text = String::new();
    for stack in &view.stacks {
        let names: Vec<String> = view.functions(stack).map(|name| name.replace([';', '\n'], ":")).collect();
        let value = if by_objects { stack.objects } else { stack.bytes };
        if value > 0 {
            writeln!(text, "{} {value}", names.join(";")).expect("a string takes all");
        }
    }
    text
}

/// What is live at the end, at most `most` places, with whole stacks and lines of the source.
pub(super) fn leaks(profile: &Profile, most: usize) -> Result<String, Failure> {
    What::Live.columns(profile)?;
    let places = profile.leaks();
    let mut text = String::new();
    for Leak { lines, objects, bytes } in places.iter().take(most) {
        writeln!(text, "{} in {} blocks, allocated at", size(*bytes), count(*objects))
            .expect("a string takes all");
        for line in lines {
            writeln!(text, "    {line}").expect("a string takes all");
        }
        text.push('\n');
    }
    if places.len() > most {
        writeln!(text, "and {} places more: --lines 0 shows all", places.len() - most)
            .expect("a string takes all");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use specmalloc_samples::pprof::example;

    fn view(what: What) -> View {
        View::new(&example(), what).ok().unwrap()
    }

    #[test]
    fn a_table_has_each_function_once_with_its_own_and_with_callees() {
        let text = table(&view(What::Allocated), 3);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["0.98K", "92.3%", "1.00K", "94.1%", "12", "copy"]);
        assert_eq!(lines[2][5..], ["[a", "program]"]);
        assert_eq!(lines[4], ["and", "2", "more:", "--lines", "0", "shows", "all"]);
        let all = shares(&view(What::Allocated));
        assert_eq!(all.iter().map(|shares| shares.own).sum::<i64>(), 1084);
    }

    #[test]
    fn a_tree_has_the_largest_first_and_leaves_out_the_small() {
        let text = tree(&view(What::Allocated), 3.0);
        let expected =
            "100.0%  1.06K main\n 94.1%  1.00K  parse\n 94.1%  1.00K   copy\n  5.9%     64  [a program]\n";
        assert_eq!(text, expected);
        assert_eq!(tree(&view(What::Allocated), 0.0).lines().count(), 5);
    }

    #[test]
    fn collapsed_stacks_add_up_to_the_whole() {
        let text = collapsed(&view(What::Live), false);
        assert_eq!(text, "main;parse;copy 400\nmain;[a program] 64\n");
        assert!(collapsed(&view(What::Live), true).contains("main;parse;copy 4\n"));
    }

    #[test]
    fn lifetimes_are_times_with_their_means() {
        let of = view(What::Lifetimes);
        let text = head(&example(), &of) + &table(&of, 10);
        assert!(
            text.starts_with("freed: 8 blocks that lived 500us on average, one sample for 512K"),
            "{text}"
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["3.00ms", "75.0%", "4.00ms", "100.0%", "8", "500us", "copy"]), "{text}");
    }

    #[test]
    fn leaks_have_lines_of_the_source_innermost_first() {
        let text = leaks(&example(), 1).ok().unwrap();
        let expected =
            "400 in 4 blocks, allocated at\n    copy  a.c:3\n    parse  a.c:12\n    main  a.c:7\n\n";
        assert_eq!(text, format!("{expected}and 1 places more: --lines 0 shows all\n"));
        assert!(
            head(&example(), &view(What::Live))
                .starts_with("live at the end: 464 in 5 blocks, one sample for 512K\n7 s")
        );
    }
}
