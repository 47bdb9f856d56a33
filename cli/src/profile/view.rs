//! What is shown of a profile: one of its kinds of values, by stacks of functions.
//!
//! Addresses of one function are one here, and what was inlined is a function like any other.

use crate::Failure;
use crate::text::{bytes, duration};
use clap::ValueEnum;
use specmalloc_samples::pprof::{Location, Profile};
use std::collections::HashMap;

/// Which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Those that are live at the end.
    Live,
    /// All that were ever allocated.
    Allocated,
    /// Those that were live when most was.
    Peak,
    /// Those that were freed, by how long they lived.
    Lifetimes,
}

impl What {
    /// Those whose values are bytes.
    pub(super) const SIZES: [What; 3] = [What::Live, What::Allocated, What::Peak];

    /// The kinds of values that say how many they are, and how large; or how long they lived all together.
    fn kinds(self) -> [&'static str; 2] {
        match self {
            What::Live => ["inuse_objects", "inuse_space"],
            What::Allocated => ["alloc_objects", "alloc_space"],
            What::Peak => ["peak_objects", "peak_space"],
            What::Lifetimes => ["freed_objects", "lifetime"],
        }
    }

    /// The kind that says how large they are, or how long they lived.
    pub(super) fn bytes(self) -> &'static str {
        self.kinds()[1]
    }

    /// As it is called in headings.
    pub(super) fn name(self) -> &'static str {
        match self {
            What::Live => "live at the end",
            What::Allocated => "allocated",
            What::Peak => "live at the peak",
            What::Lifetimes => "freed",
        }
    }

    /// What a profile is to be shown by if nothing is said.
    pub(super) fn first(profile: &Profile) -> What {
        let mut all = What::SIZES.into_iter().chain([What::Lifetimes]);
        all.find(|what| what.kinds().contains(&profile.first_kind.as_str())).unwrap_or(What::Live)
    }

    /// What the values are counted in.
    pub(super) fn unit(self) -> &'static str {
        if self == What::Lifetimes { "nanoseconds" } else { "bytes" }
    }

    /// A value as people read it.
    pub(super) fn amount(self, value: i64) -> String {
        let value = value.max(0) as u64;
        if self == What::Lifetimes { duration(value as f64 / 1e9) } else { bytes(value) }
    }

    /// Where a profile has its values: how many, and how large.
    pub(super) fn columns(self, profile: &Profile) -> Result<[usize; 2], Failure> {
        let [objects, bytes] = self.kinds().map(|kind| profile.kind(kind));
        objects.zip(bytes).map(|(objects, bytes)| [objects, bytes]).ok_or_else(|| {
            let known: Vec<&str> = profile.kinds.iter().map(|(kind, _)| kind.as_str()).collect();
            Failure::own(format!(
                "the profile does not say what was {}; it has {}",
                self.name(),
                known.join(", ")
            ))
        })
    }
}

/// What was allocated by a stack of functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weighed {
    /// Numbers of names, the outermost first.
    pub(super) functions: Vec<usize>,
    pub(super) objects: i64,
    /// Or nanoseconds.
    pub(super) bytes: i64,
}

/// One kind of values by stacks of functions, of which each is there once; the largest first.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) what: What,
    pub(super) names: Vec<String>,
    pub(super) stacks: Vec<Weighed>,
}

impl View {
    pub(super) fn new(profile: &Profile, what: What) -> Result<View, Failure> {
        let [objects, bytes] = what.columns(profile)?;
        let mut names = Vec::new();
        let mut numbers = HashMap::new();
        let mut functions = |location: &Location| {
            let names = profile.functions(location).into_iter().map(|line| {
                *numbers.entry(line.function.clone()).or_insert_with(|| {
                    names.push(line.function);
                    names.len() - 1
                })
            });
            names.rev().collect::<Vec<usize>>()
        };
        let of_location: Vec<Vec<usize>> = profile.locations.iter().map(&mut functions).collect();
        let mut sums: HashMap<Vec<usize>, (i64, i64)> = HashMap::new();
        for stack in &profile.stacks {
            let values = (stack.values[objects], stack.values[bytes]);
            if values == (0, 0) {
                continue;
            }
            let outermost_first = stack.locations.iter().rev();
            let functions =
                outermost_first.flat_map(|&location| of_location[location].iter().copied()).collect();
            let sum = sums.entry(functions).or_default();
            *sum = (sum.0.saturating_add(values.0), sum.1.saturating_add(values.1));
        }
        let weighed = |(functions, (objects, bytes))| Weighed { functions, objects, bytes };
        let mut stacks: Vec<Weighed> = sums.into_iter().map(weighed).collect();
        stacks.sort_by(|one, other| {
            (other.bytes, other.objects, &one.functions).cmp(&(one.bytes, one.objects, &other.functions))
        });
        Ok(View { what, names, stacks })
    }

    /// All objects and bytes.
    pub(super) fn sum(&self) -> (i64, i64) {
        self.stacks.iter().fold((0, 0), |(objects, bytes), stack| {
            (objects.saturating_add(stack.objects), bytes.saturating_add(stack.bytes))
        })
    }

    /// The names of a stack's functions, the outermost first.
    pub(super) fn functions(&self, stack: &Weighed) -> impl DoubleEndedIterator<Item = &str> {
        stack.functions.iter().map(|&number| self.names[number].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use specmalloc_samples::pprof::example;

    #[test]
    fn stacks_begin_outermost_and_the_unknown_has_its_files_name() {
        let view = View::new(&example(), What::Allocated).ok().unwrap();
        let stacks: Vec<(String, i64, i64)> = view
            .stacks
            .iter()
            .map(|stack| (view.functions(stack).collect::<Vec<_>>().join(" "), stack.objects, stack.bytes))
            .collect();
        let expected = [
            ("main parse copy", 10, 1000),
            ("main [a program]", 1, 64),
            ("main parse copy [unknown]", 2, 20),
        ];
        assert_eq!(stacks, expected.map(|(names, objects, bytes)| (names.to_owned(), objects, bytes)));
        assert_eq!(view.sum(), (13, 1084));
        let live = View::new(&example(), What::Live).ok().unwrap();
        assert_eq!((live.stacks.len(), live.sum()), (2, (5, 464)), "what is nothing is not there");
    }

    #[test]
    fn a_profile_without_such_values_says_what_it_has() {
        let mut profile = example();
        profile.kinds[5].0 = "contentions".to_owned();
        let failure = View::new(&profile, What::Peak).err().unwrap();
        assert!(failure.message.contains("live at the peak") && failure.message.contains("contentions"));
        profile.first_kind = "alloc_space".to_owned();
        assert_eq!(What::first(&profile), What::Allocated);
    }
}
