/* Threads, signals, forks, exits and plug-ins, and malloc in the middle of each. */
#include "support.h"
#include <dlfcn.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
    return *state;
}

/* Mostly small, now and then large. */
static size_t some_size(uint32_t *state)
{
    uint32_t random = next_random(state);
    return random % 100 == 0 ? random % 200000 : random % 10 == 0 ? random % 5000 : random % 300;
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
    CHECK(pthread_create(thread, NULL, body, argument) == 0);
}

/* ---- Blocks handed from thread to thread: each slot holds a filled block with its size in front. ---- */

enum { SLOTS = 512 };
static _Atomic(size_t *) slots[SLOTS];

static size_t *new_block(size_t size)
{
    size_t *block = malloc(sizeof *block + size);
    CHECK(block != NULL);
    block[0] = size;
    fill(block + 1, size);
    return block;
}

static void end_block(size_t *block)
{
    if (block == NULL) return;
    check_filled(block + 1, block[0]);
    free(block);
}

static void churn(uint32_t *state, int count)
{
    for (int i = 0; i < count; i++)
        end_block(atomic_exchange(&slots[next_random(state) % SLOTS], new_block(some_size(state))));
}

static void empty_slots(void)
{
    for (int i = 0; i < SLOTS; i++) end_block(atomic_exchange(&slots[i], NULL));
}

/* ---- Signals ---- */

enum { SIGNALS = 5000 };
static atomic_int handled, storm_over;
static sem_t was_handled;

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    static _Thread_local uint32_t state;
    if (state == 0) state = (uint32_t)(uintptr_t)&state | 1;
    churn(&state, 3);
    char *grown = realloc(malloc(10), 1000);
    CHECK(grown != NULL);
    free(grown);
    handled++;
    sem_post(&was_handled);
    errno = saved;
}

static void *send_signals(void *target)
{
    for (int i = 0; i < SIGNALS; i++) {
        CHECK(pthread_kill(*(pthread_t *)target, SIGUSR1) == 0);
        while (sem_wait(&was_handled) != 0) continue; /* or the next one would be merged with this one */
    }
    storm_over = 1;
    return NULL;
}

static void malloc_in_signal_handlers(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(sem_init(&was_handled, 0, 0) == 0);
    pthread_t self = pthread_self(), sender;
    start(&sender, send_signals, &self);
    uint32_t state = 4711;
    while (!storm_over) churn(&state, 100);
    pthread_join(sender, NULL);
    CHECK(handled == SIGNALS);
    empty_slots();
}

/* ---- Fork ---- */

static atomic_int stop, pause_all;
static atomic_ulong rounds;

static void *churn_until_stopped(void *seed)
{
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u + 1;
    while (!stop) {
        churn(&state, 50);
        rounds++;
        while (pause_all) usleep(1000);
    }
    return NULL;
}

static void *churn_some(void *seed)
{
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u + 1;
    churn(&state, 500);
    return NULL;
}

static void live_in_child(int number)
{
    alarm(120); /* not inherited */
    uint32_t state = (uint32_t)number + 99;
    churn(&state, 500);
    void *large = malloc(3 * MIB), *huge = malloc(100 * MIB);
    CHECK(large != NULL && huge != NULL);
    free(large), free(huge);
    pthread_t thread;
    start(&thread, churn_some, (void *)(uintptr_t)number);
    churn(&state, 500);
    CHECK(pthread_join(thread, NULL) == 0);
    /* Blocks of threads that are gone in this process; the one that a vanished thread was busy with is left alone. */
    empty_slots();
    malloc_trim(0);
    churn(&state, 500);
}

static void children(pid_t (*fork_function)(void), int count)
{
    enum { THREADS = 64 };
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) start(&threads[i], churn_until_stopped, (void *)i);
    uint32_t state = 7;
    for (int i = 0; i < count; i++) {
        /* At the moment of the fork all are in the middle of 50 allocations, running or preempted; then they let the
           child have the processor. */
        unsigned long before = rounds;
        pause_all = 0;
        while (rounds < before + THREADS / 4) churn(&state, 20);
        pause_all = 1;
        pid_t child = fork_function();
        CHECK(child >= 0);
        if (child == 0) {
            live_in_child(i);
            _exit(17);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 17);
    }
    stop = 1, pause_all = 0;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    empty_slots();
}

static void fork_while_64_threads_allocate(void) { children(fork, 100); }

/* Runs no atfork handlers: glibc 2.34 has it, and what does not is as good with a raw system call. */
static pid_t bare_fork(void)
{
    pid_t (*function)(void) = (pid_t(*)(void))dlsym(RTLD_DEFAULT, "_Fork");
    return function != NULL ? function() : fork();
}

static void bare_fork_while_64_threads_allocate(void) { children(bare_fork, 40); }

static void grandchildren(void)
{
    uint32_t state = 3;
    churn(&state, 1000);
    for (int depth = 0; depth < 20; depth++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0) {
            int status;
            CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
            empty_slots();
            _exit(0);
        }
        alarm(120);
        live_in_child(depth);
    }
}

static void spawn_while_threads_allocate(void)
{
    extern char **environ;
    pthread_t threads[8];
    for (uintptr_t i = 0; i < 8; i++) start(&threads[i], churn_until_stopped, (void *)i);
    for (int i = 0; i < 50; i++) {
        char *arguments[] = {"true", NULL};
        pid_t child;
        int status;
        CHECK(posix_spawnp(&child, "true", NULL, NULL, arguments, environ) == 0);
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        FILE *pipe = popen("echo some text", "r");
        char text[64];
        CHECK(pipe != NULL && fgets(text, sizeof text, pipe) != NULL && pclose(pipe) == 0);
    }
    stop = 1;
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
}

/* ---- The helper ---- */

static sem_t may_end;

static void *waits(void *none)
{
    while (sem_wait(&may_end) != 0) {}
    return none;
}

/* Waits until there is no helper. */
static void await_none(void)
{
    do {
        usleep(1000);
        helper_number = 0;
        each_thread(look_for_helper);
    } while (helper_number != 0);
}

/* Beside one thread more there is a helper, and no longer. */
static void have_help(void)
{
    pthread_t thread;
    start(&thread, waits, NULL);
    helper();
    CHECK(sem_post(&may_end) == 0 && pthread_join(thread, NULL) == 0);
    await_none();
}

static void a_child_has_a_helper_of_its_own(void)
{
    pthread_t thread;
    start(&thread, waits, NULL);
    helper();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(120);
        have_help();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(sem_post(&may_end) == 0 && pthread_join(thread, NULL) == 0);
}

static void threads_that_cannot_be_made_are_not_helped(void)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, (size_t)1 << 46) == 0);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &attributes, waits, NULL) != 0);
    }
    have_help();
}

/* ---- Threads that come and go ---- */

static void thousands_of_threads_leave_little_behind(void)
{
    enum { BATCH = 16 };
    for (int round = 0; round < 3200 / BATCH; round++) {
        pthread_t threads[BATCH];
        for (uintptr_t i = 0; i < BATCH; i++) start(&threads[i], churn_some, (void *)(round * BATCH + i));
        for (int i = 0; i < BATCH; i++) pthread_join(threads[i], NULL);
        empty_slots();
    }
    /* What is left is purged by age; the test ends by the watchdog's signal if that never happens. */
    printf("%zu at once\n", resident());
    fflush(stdout);
    while (resident() > 5 * MIB) usleep(100000);
}

/* The only thread that ever allocated is gone; its blocks are not. */
static void *wait_for_main(void *main_thread)
{
    CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
    uint32_t state = 5;
    churn(&state, 5000);
    empty_slots();
    exit(0);
}

static void the_first_thread_exits(void)
{
    static pthread_t self, thread;
    uint32_t state = 6;
    churn(&state, 5000);
    self = pthread_self();
    start(&thread, wait_for_main, &self);
    pthread_exit(NULL);
}

static void *allocates_for_a_while(void *unused)
{
    void *volatile block = malloc(100);
    usleep(300000); /* The library's helper has started by then. */
    free(block);
    return unused;
}

/* The process is over when its last thread is gone, and the library's own does not count. */
static void the_last_thread_ends_the_process(void)
{
    void *volatile block = malloc(100);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) start(&threads[i], allocates_for_a_while, NULL);
    usleep(100000);
    free(block);
    alarm(30);
    pthread_exit(NULL);
}

static void allocates_once(int signal)
{
    (void)signal;
    free(opaque(malloc(10)));
    handled++;
}

static void *does_nothing(void *unused) { return unused; }

/* Threads in which a handler allocates before they have begun, and then the first thread exits. */
static void is_over_with_its_last_thread(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t none, one;
    sigemptyset(&none);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    signal(SIGUSR1, allocates_once);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setsigmask_np(&attributes, &none) == 0);
    for (int i = 1; i <= 3; i++) {
        /* It waits for a thread that has it not blocked, and comes before anything that this one does. */
        kill(getpid(), SIGUSR1);
        CHECK(pthread_create(&thread, &attributes, does_nothing, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0 && handled == i);
    }
    pthread_exit(NULL);
}

/* In a child: a library's thread that is left alone has signals blocked, and no alarm would end it. */
static void handlers_before_threads_begin(void)
{
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) is_over_with_its_last_thread();
    for (int looks = 0; waitpid(child, &status, WNOHANG) == 0; looks++) {
        if (looks == 6000) kill(child, SIGKILL);
        usleep(10000);
    }
    CHECK(status == 0);
}

static void *keeps_the_helper_busy(void *unused)
{
    for (int i = 0; i < 30; i++) {
        char *block = opaque(malloc(100000));
        block[5000] = 1;
        usleep(100000);
        free(block);
    }
    return unused;
}

/* After a second the helper looks at files, from a table of its own: it must not be who writes out what is buffered. */
static void what_is_buffered_is_written_at_the_end(void)
{
    FILE *file = tmpfile();
    CHECK(file != NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) start(&threads[i], keeps_the_helper_busy, NULL);
        CHECK(fputs("all", file) >= 0);
        pthread_exit(NULL);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(lseek(fileno(file), 0, SEEK_END) == 3);
}

static void *only_frees(void *unused)
{
    (void)unused;
    empty_slots();
    return NULL;
}

static void threads_that_only_free(void)
{
    uint32_t state = 8;
    for (int round = 0; round < 300; round++) {
        pthread_t thread;
        churn(&state, 2000);
        start(&thread, only_frees, NULL);
        pthread_join(thread, NULL);
    }
    CHECK(resident() < 40 * MIB);
}

/* ---- Destructors of thread-specific data ---- */

enum { KEYS = 100 };
static pthread_key_t keys[KEYS];
static atomic_int destroyed;

static void destructor(void *value)
{
    size_t *block = value;
    int rounds = (int)block[0];
    free(block);
    destroyed++;
    /* POSIX repeats the destructors while values remain, at least four times. */
    if (rounds > 0) {
        size_t *again = malloc(sizeof *again);
        again[0] = (size_t)rounds - 1;
        pthread_setspecific(keys[destroyed % KEYS], again);
    }
    free(malloc(2000));
}

static void *set_all_keys(void *unused)
{
    for (int i = 0; i < KEYS; i++) {
        size_t *block = malloc(sizeof *block);
        block[0] = i % 3 == 0;
        CHECK(pthread_setspecific(keys[i], block) == 0);
    }
    return unused;
}

static void key_destructors_allocate_and_free(void)
{
    for (int i = 0; i < KEYS; i++) CHECK(pthread_key_create(&keys[i], destructor) == 0);
    for (int round = 0; round < 50; round++) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) start(&threads[i], set_all_keys, NULL);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
    CHECK(destroyed >= 50 * 4 * KEYS);
    set_all_keys(NULL);
}

/* ---- Start and end of the process ---- */

static void *early;

__attribute__((constructor(101))) static void allocate_early(void)
{
    early = malloc(100);
    fill(early, 100);
}

static void at_exit(void)
{
    check_filled(early, 100);
    free(early);
    early = malloc(5000);
    fill(early, 5000);
}

__attribute__((destructor(101))) static void free_late(void)
{
    if (early == NULL) return;
    check_filled(early, 100);
    free(early);
    free(malloc(100000));
}

static void constructors_and_exit_handlers(void)
{
    CHECK(atexit(at_exit) == 0);
}

/* ---- Plug-ins ---- */

static const char *plugin_path;

static void *load_and_unload(void *unused)
{
    for (int i = 0; i < 100; i++) {
        void *plugin = dlopen(plugin_path, RTLD_NOW);
        CHECK(plugin != NULL);
        char *(*plugin_block)(void) = (char *(*)(void))dlsym(plugin, "plugin_block");
        CHECK(plugin_block != NULL);
        char *block = plugin_block();
        CHECK(strcmp(block, "from the plug-in") == 0);
        if (i % 2 == 0) block = realloc(block, 100);
        dlclose(plugin);
        CHECK(strcmp(block, "from the plug-in") == 0);
        free(block);
    }
    return unused;
}

static void plugins_come_and_go(void)
{
    pthread_t threads[8], busy[2];
    plugin_path = getenv("PLUGIN");
    CHECK(plugin_path != NULL);
    for (uintptr_t i = 0; i < 2; i++) start(&busy[i], churn_until_stopped, (void *)i);
    for (int i = 0; i < 8; i++) start(&threads[i], load_and_unload, NULL);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(busy[i], NULL);
}

/* What a child does first with memory takes longer than usual, with signals blocked: then it has those of its parent. */
static void *pauses(void *unused)
{
    (void)unused;
    free(malloc(100));
    pause();
    return NULL;
}

static void a_child_takes_the_signals_of_its_parent(void)
{
    pthread_t other;
    sigset_t some, own;
    CHECK(pthread_create(&other, NULL, pauses, NULL) == 0);
    free(malloc(100));
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &some, NULL) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        free(malloc(100));
        CHECK(pthread_sigmask(SIG_BLOCK, NULL, &own) == 0);
        for (int signal = 1; signal < 32; signal++) CHECK(sigismember(&own, signal) == (signal == SIGUSR1));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Pages of addresses that the process has. */
static size_t addresses(void)
{
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%zu", &pages) == 1);
    fclose(file);
    return pages;
}

static void the_helper_has_a_small_stack(void)
{
    pthread_t other;
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 128 * KIB) == 0);
    size_t before = addresses();
    before = addresses();
    CHECK(pthread_create(&other, &attributes, pauses, NULL) == 0);
    usleep(100000);
    size_t more = (addresses() - before) * 4096;
    if (more >= 2 * MIB) fprintf(stderr, "%zu KiB\n", more / KIB);
    CHECK(more < 2 * MIB);
}

MAIN(CASE(the_helper_has_a_small_stack), CASE(a_child_takes_the_signals_of_its_parent), CASE(malloc_in_signal_handlers), CASE(fork_while_64_threads_allocate),
     CASE(bare_fork_while_64_threads_allocate), CASE(grandchildren), CASE(spawn_while_threads_allocate),
     CASE(thousands_of_threads_leave_little_behind), CASE(the_first_thread_exits), CASE(the_last_thread_ends_the_process),
     CASE(handlers_before_threads_begin), CASE(what_is_buffered_is_written_at_the_end),
     CASE(threads_that_only_free), CASE(key_destructors_allocate_and_free), CASE(constructors_and_exit_handlers), CASE(plugins_come_and_go),
     CASE(a_child_has_a_helper_of_its_own), CASE(threads_that_cannot_be_made_are_not_helped))
