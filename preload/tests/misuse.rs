//! Each way to break the contract of free, in a child process: the one line on standard error, to the letter, and
//! SIGABRT.

mod common;

/// Demands of what became of a program the message `before`, the pointer that the program named, `after`; and SIGABRT.
#[track_caller]
fn died(outcome: common::Outcome, before: &str, after: &str) {
    let pointer = outcome.stdout.trim_end();
    assert!(pointer.starts_with("0x"), "the program named no pointer: {pointer:?}, {}", outcome.stderr);
    assert_eq!(outcome.stderr, format!("specmalloc: {before}{pointer}{after}\n"));
    assert_eq!((outcome.code, outcome.signal), (None, Some(libc::SIGABRT)));
}

macro_rules! dying_cases {
    ($before:literal, $after:literal: $($case:ident),* $(,)?) => {$(
        #[test]
        fn $case() {
            died(common::case("misuse.c", stringify!($case)), $before, $after);
        }
    )*};
}

dying_cases! { "double free of ", "":
    double_free,
    double_free_medium,
    double_free_large,
    double_free_huge,
    double_free_without_pages,
    double_free_with_others_between,
    double_free_owner_then_other,
    double_free_other_then_owner,
    double_free_other_then_other,
    double_free_after_the_owner_exited,
    double_free_aligned,
    free_sized_twice,
    double_free_of_a_whole_slab,
    double_free_while_cancelled,
    double_free_with_the_signal_blocked,
    double_free_with_the_signal_ignored,
    double_free_beside_an_abort_that_waits,
    double_free_after_its_page_has_gone,
    double_free_by_another_after_its_page_has_gone,
}

#[test]
fn a_handler_that_does_it_again_is_the_end() {
    let outcome = common::case("misuse.c", "double_free_in_the_handler_too");
    assert_eq!(outcome.stderr.matches("specmalloc: double free of 0x").count(), 2, "{}", outcome.stderr);
    assert_eq!((outcome.code, outcome.signal), (None, Some(libc::SIGABRT)));
}

dying_cases! { "invalid realloc of ", ": the block is free":
    realloc_of_a_freed_block,
    realloc_after_its_page_has_gone,
}

dying_cases! { "invalid malloc_usable_size of ", ": the block is free":
    usable_size_of_a_freed_block,
    usable_size_after_its_page_has_gone,
}

dying_cases! { "invalid free of ", ": not the start of a block":
    interior,
    interior_unaligned,
    interior_medium,
    interior_large,
    interior_huge,
    before_large,
    before_huge,
    behind_the_start_of_large,
    never_allocated,
}

dying_cases! { "invalid realloc of ", ": not the start of a block":
    interior_by_realloc,
    interior_large_by_realloc,
}

dying_cases! { "invalid malloc_usable_size of ", ": not the start of a block":
    usable_size_of_the_middle,
    usable_size_inside_large,
}

dying_cases! { "invalid free of ", ": no live block is there":
    never_allocated_in_a_free_slice,
}

dying_cases! { "invalid realloc of ", ": no live block is there":
    inside_a_freed_huge_block,
}

dying_cases! { "invalid free of ", ": not in the memory of this allocator":
    foreign_stack,
    foreign_static,
    foreign_code,
    foreign_mapping,
    foreign_heap_segment,
    foreign_low,
    foreign_high,
    double_free_after_its_arena_has_gone,
}

dying_cases! { "invalid realloc of ", ": not in the memory of this allocator":
    foreign_by_realloc,
}

dying_cases! { "invalid malloc_usable_size of ", ": not in the memory of this allocator":
    usable_size_of_nothing,
}

dying_cases! { "invalid free_sized of ", ": the size is not the block's":
    wrong_size,
}

dying_cases! { "memory written after free at ", "":
    written_after_free,
    run_written_after_free,
}
