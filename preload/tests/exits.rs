//! Every way in which a process ends, with blocks live or not, and the helper absent, awake or asleep.

mod common;

waiting_cases! { "exits.c":
    main_returns,
    exit_is_called,
    quick_exit_is_called,
    _exit_is_called,
    abort_is_called,
    a_signal_comes,
    another_program_is_executed,
    another_thread_calls_exit,
    another_thread_ends_at_once,
    another_thread_aborts,
    another_thread_executes,
    a_signal_comes_without_the_first_thread,
    exit_without_the_first_thread,
    the_first_leaves_and_others_return,
    the_first_leaves_and_others_exit,
    the_first_leaves_and_others_are_cancelled,
    others_return_and_the_first_leaves,
    others_exit_and_the_first_leaves,
    others_are_cancelled_and_the_first_leaves,
}
