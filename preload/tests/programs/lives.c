/* How threads begin and end: every kind of start and exit, with malloc and free at the odd moments of both, and what of the
   library outlives them. */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <threads.h>

static struct specmalloc_statistics figures(void)
{
    struct specmalloc_statistics now;
    size_t (*get)(struct specmalloc_statistics *, size_t) =
        (size_t(*)(struct specmalloc_statistics *, size_t))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    CHECK(get != NULL);
    get(&now, sizeof now);
    return now;
}

/* ---- Kinds of threads. None of them allocates but where it says so. ---- */

static void *does_nothing(void *argument) { return argument; }

static void *only_frees(void *block)
{
    free(block);
    return NULL;
}

static void *allocates(void *unused)
{
    free(malloc(1000));
    return unused;
}

static void *exits(void *argument)
{
    pthread_exit(argument);
}

static void *allocates_and_exits(void *argument)
{
    free(malloc(1000));
    pthread_exit(argument);
}

static void *is_cancelled(void *argument)
{
    for (;;) pause();
    return argument;
}

static void *allocates_and_is_cancelled(void *argument)
{
    free(malloc(1000));
    return is_cancelled(argument);
}

static pthread_key_t key;
static _Thread_local int rounds_left;

/* Called once in each round of destructors; allocates in the last one asked for. */
static void late(void *value)
{
    if (--rounds_left > 0)
        CHECK(pthread_setspecific(key, value) == 0);
    else
        free(malloc(1000));
}

static void *allocates_in_round(void *round)
{
    rounds_left = (int)(intptr_t)round;
    CHECK(pthread_setspecific(key, round) == 0);
    return NULL;
}

static int c11_allocates(void *unused)
{
    (void)unused;
    free(malloc(1000));
    return 42;
}

static void run(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    if (body == is_cancelled || body == allocates_and_is_cancelled) CHECK(pthread_cancel(thread) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* A thread with a stack of the program's, detached: the C library frees its tables in the thread itself. */
static void run_detached(void *(*body)(void *), void *argument, int own_stack)
{
    enum { STACK = 64 << 10 };
    static void *stacks[8];
    static unsigned next;
    void **stack = &stacks[next++ % 8];
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    if (own_stack) {
        if (*stack == NULL) {
            *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(*stack != MAP_FAILED);
        }
        CHECK(pthread_attr_setstack(&attributes, *stack, STACK) == 0);
    }
    CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, &attributes, body, argument) == 0);
    pthread_attr_destroy(&attributes);
    while (each_thread(NULL) > 2) sched_yield(); /* This thread, and the library's. */
}

static void every_kind(int count)
{
    for (int i = 0; i < count; i++) {
        run(does_nothing, NULL);
        run(only_frees, malloc(100));
        run(allocates, NULL);
        run(exits, NULL);
        run(allocates_and_exits, NULL);
        run(is_cancelled, NULL);
        run(allocates_and_is_cancelled, NULL);
        for (intptr_t round = 1; round <= PTHREAD_DESTRUCTOR_ITERATIONS; round++)
            run(allocates_in_round, (void *)round);
        thrd_t c11;
        int result = 0;
        CHECK(thrd_create(&c11, c11_allocates, NULL) == thrd_success);
        CHECK(thrd_join(c11, &result) == thrd_success && result == 42);
        for (int own_stack = 0; own_stack < 2; own_stack++) {
            run_detached(does_nothing, NULL, own_stack);
            run_detached(only_frees, malloc(100), own_stack);
            run_detached(allocates, NULL, own_stack);
            run_detached(allocates_in_round, (void *)(intptr_t)4, own_stack);
        }
    }
}

/* At most one thread of the program and the library's at a time, and a thread that has just been joined or has freed
   its tables: so many heaps, however many threads there were. */
static void no_thread_leaves_a_heap(void)
{
    CHECK(pthread_key_create(&key, late) == 0);
    every_kind(100);
    struct specmalloc_statistics now = figures();
    CHECK(now.threads == 1);
    CHECK(now.heaps <= 4);
}

static void no_thread_leaves_a_heap_where_no_keys_are_left(void)
{
    CHECK(pthread_key_create(&key, late) == 0);
    for (pthread_key_t taken; pthread_key_create(&taken, NULL) == 0;) {
    }
    every_kind(20);
    CHECK(figures().threads == 1 && figures().heaps <= 4);
}

/* ---- The C library's locks ---- */

static volatile long sum;

static void *computes(void *number)
{
    long own = 0;
    for (long i = 0; i < 20000; i++) own += i * (long)(intptr_t)number;
    __atomic_fetch_add(&sum, own | 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* At their end the C library frees their tables with the lock of its stacks held. */
static void detached_workers_that_never_allocate(void)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    for (int round = 0; round < 40; round++) {
        for (intptr_t i = 0; i < 16; i++) {
            pthread_t thread;
            CHECK(pthread_create(&thread, &attributes, computes, (void *)i) == 0);
        }
        while (each_thread(NULL) > 2) usleep(1000);
    }
}

/* ---- The library's own thread ---- */

static void *sleeps(void *unused)
{
    /* No guest any more: it has a heap. */
    for (int i = 0; i < 4; i++) free(malloc(1 << 20));
    pause();
    return unused;
}

static void end(pthread_t thread)
{
    CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, NULL) == 0);
}

static void the_helper_comes_and_goes_with_the_threads(void)
{
    for (int i = 0; i < 3; i++) {
        pthread_t first, second;
        CHECK(pthread_create(&first, NULL, sleeps, NULL) == 0);
        CHECK(pthread_create(&second, NULL, sleeps, NULL) == 0);
        int number = helper();
        end(first);
        usleep(150000);
        CHECK(helper() == number);
        CHECK(figures().threads == 2); /* It has no heap of its own. */
        end(second);
        while (each_thread(NULL) > 1) usleep(1000);
    }
}

static void the_helper_is_an_ordinary_thread_of_the_process(void)
{
    cpu_set_t all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    struct sched_param batch = {.sched_priority = 0}, urgent = {.sched_priority = 10};
    if (sched_setscheduler(0, SCHED_FIFO, &urgent) != 0) CHECK(sched_setscheduler(0, SCHED_BATCH, &batch) == 0);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
    int number = helper();
    cpu_set_t processors;
    while (sched_getscheduler(number) != SCHED_OTHER) usleep(1000);
    do {
        CHECK(sched_getaffinity(number, sizeof processors, &processors) == 0);
    } while (CPU_COUNT(&processors) != CPU_COUNT(&all) && usleep(1000) == 0);
    end(other);
}

static int mappings(void)
{
    static char text[1 << 16];
    int count = 0, file = open("/proc/self/maps", O_RDONLY);
    CHECK(file >= 0);
    for (ssize_t length; (length = read(file, text, sizeof text)) > 0;) {
        for (ssize_t i = 0; i < length; i++) count += text[i] == '\n';
    }
    close(file);
    return count;
}

static void helpers_take_no_signals_and_leave_no_stacks(void)
{
    enum { ROUNDS = 12, SETTLED = 4 };
    int before = 0;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_t other;
        CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
        unsigned long long blocked = thread_status(helper(), "\nSigBlk:", 16);
        for (int signal = 1; signal < 32; signal++) {
            if (signal != SIGKILL && signal != SIGSTOP) CHECK(blocked >> (signal - 1) & 1);
        }
        sigset_t own;
        CHECK(pthread_sigmask(SIG_BLOCK, NULL, &own) == 0 && !sigismember(&own, SIGTERM));
        end(other);
        while (each_thread(NULL) > 1) usleep(1000);
        if (i == SETTLED) before = mappings();
    }
    CHECK(mappings() <= before + 2);
}

/* A thread that cannot be made is not counted, and nothing of it stays. */
static void threads_that_cannot_be_made(void)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, (size_t)1 << 46) == 0);
    uint64_t before = figures().live_blocks;
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        errno = 4711;
        CHECK(pthread_create(&thread, &attributes, does_nothing, NULL) == EAGAIN && errno == 4711);
    }
    CHECK(figures().live_blocks == before);
    CHECK(each_thread(NULL) == 1);
    run(allocates, NULL);
    while (each_thread(NULL) > 1) usleep(1000);
}

/* Where the system has no thread left for it, the next thread of the program's brings it. */
static void a_helper_that_could_not_be_made_is_made_later(void)
{
    /* Threads are counted by user; and root may have as many as it likes. So a user of this process's own. */
    uid_t nobody_else = 100000 + (uid_t)getpid();
    CHECK(getuid() != 0 || setresuid(nobody_else, nobody_else, nobody_else) == 0);
    struct rlimit limit, two;
    CHECK(getrlimit(RLIMIT_NPROC, &limit) == 0);
    two = limit, two.rlim_cur = 2;
    for (int round = 0; round < 3; round++) {
        pthread_t first, second;
        CHECK(setrlimit(RLIMIT_NPROC, &two) == 0);
        if (pthread_create(&first, NULL, sleeps, NULL) != 0) {
            puts("not tested: this user has other processes");
            return;
        }
        CHECK(each_thread(NULL) == 2);
        CHECK(setrlimit(RLIMIT_NPROC, &limit) == 0);
        CHECK(pthread_create(&second, NULL, sleeps, NULL) == 0);
        helper();
        end(first);
        end(second);
        while (each_thread(NULL) > 1) usleep(1000);
    }
}

/* ---- Stacks ---- */

static void *looks_at_its_stack(void *expected)
{
    pthread_attr_t attributes;
    void *stack;
    size_t size;
    char here;
    CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
    CHECK(pthread_attr_getstack(&attributes, &stack, &size) == 0);
    pthread_attr_destroy(&attributes);
    CHECK(expected == NULL || stack == expected);
    CHECK((char *)stack <= &here && &here < (char *)stack + size);
    return NULL;
}

static void small_stacks(void)
{
    size_t size = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    for (int i = 0; i < 20; i++) {
        pthread_attr_t attributes;
        pthread_t thread;
        CHECK(pthread_attr_init(&attributes) == 0);
        CHECK((i % 2 ? pthread_attr_setstack(&attributes, stack, size) : pthread_attr_setstacksize(&attributes, size)) == 0);
        CHECK(pthread_create(&thread, &attributes, i % 4 < 2 ? allocates : does_nothing, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(pthread_create(&thread, &attributes, looks_at_its_stack, i % 2 ? stack : NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        pthread_attr_destroy(&attributes);
    }
}

/* ---- Forks ---- */

static void *forks(void *depth)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        ends_well(child);
        return NULL;
    }
    alarm(120);
    /* This thread is the child's first and only one. */
    run(allocates, NULL);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
    helper();
    end(other);
    while (each_thread(NULL) > 1) usleep(1000);
    if ((intptr_t)depth > 0) run(forks, (void *)((intptr_t)depth - 1));
    free(malloc(100));
    /* The process is over when its last thread is. */
    pthread_exit(NULL);
}

static void children_of_threads(void)
{
    pthread_t other;
    CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
    helper();
    for (int i = 0; i < 5; i++) run(forks, (void *)(intptr_t)3);
    end(other);
}

/* Its blocks stay its own, whatever the others do. */
static void *keeps(void *mark)
{
    enum { COUNT = 500, ROUNDS = 150 };
    unsigned char *blocks[COUNT], own = (unsigned char)(intptr_t)mark;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++) {
            size_t size = 16 + (size_t)(i * 37 + round * 11) % 3000;
            CHECK((blocks[i] = malloc(size)) != NULL);
            memset(blocks[i], own, size);
        }
        for (int i = 0; i < COUNT; i++) {
            size_t size = 16 + (size_t)(i * 37 + round * 11) % 3000;
            CHECK(blocks[i][0] == own && blocks[i][size / 2] == own && blocks[i][size - 1] == own);
            free(blocks[i]);
        }
    }
    return NULL;
}

static void threads_of_a_child(void)
{
    run(keeps, (void *)1);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        ends_well(child);
        return;
    }
    alarm(120);
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, keeps, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    exit(0);
}

/* The thread that forked is one of the child's: with another one the helper is there to stay. */
static void the_helper_stays_in_a_child_of_two_threads(void)
{
    free(malloc(100));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        ends_well(child);
        return;
    }
    alarm(30);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
    int number = helper();
    usleep(400000);
    CHECK(each_thread(NULL) == 3 && helper() == number);
    end(other);
    while (each_thread(NULL) > 1) usleep(1000);
    exit(0);
}

static void *is_a_guest_at_first(void *barrier)
{
    free(malloc(1000));
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier); /* It was looked at. */
    for (int i = 0; i < 4; i++) free(malloc(1000));
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    return NULL;
}

/* (The helper possesses one for moments.) */
static void demand_heaps(uint64_t possessed)
{
    for (int look = 0; look < 1000 && figures().threads != possessed; look++) usleep(1000);
    CHECK(figures().threads == possessed);
}

static void a_thread_gets_a_heap_if_it_goes_on(void)
{
    pthread_barrier_t barrier;
    pthread_t other;
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    free(malloc(1000));
    demand_heaps(1);
    CHECK(pthread_create(&other, NULL, is_a_guest_at_first, &barrier) == 0);
    for (uint64_t heaps = 1; heaps <= 2; heaps++) {
        pthread_barrier_wait(&barrier);
        demand_heaps(heaps);
        pthread_barrier_wait(&barrier);
    }
    CHECK(pthread_join(other, NULL) == 0);
    demand_heaps(1);
}

/* What is free in the heap of a thread that has ended is free, whoever has that next. */
static void what_a_thread_has_left_is_not_live(void)
{
    pthread_t other;
    CHECK(pthread_create(&other, NULL, sleeps, NULL) == 0);
    helper();
    uint64_t before = figures().live_blocks;
    for (int i = 0; i < 10; i++) {
        run(keeps, (void *)1);
        /* The C library keeps a few for its threads. And the helper may just be at the heap that the thread has left; its
         * next tick, which would do what the figures are to do, is much later. */
        for (int look = 0; look < 20 && figures().live_blocks > before + 10; look++) usleep(1000);
        CHECK(figures().live_blocks <= before + 10);
    }
    end(other);
}

MAIN(CASE(no_thread_leaves_a_heap), CASE(no_thread_leaves_a_heap_where_no_keys_are_left),
     CASE(detached_workers_that_never_allocate), CASE(the_helper_comes_and_goes_with_the_threads),
     CASE(the_helper_is_an_ordinary_thread_of_the_process),
     CASE(helpers_take_no_signals_and_leave_no_stacks), CASE(unshare_after_the_only_thread_was_joined),
     CASE(threads_that_cannot_be_made), CASE(a_helper_that_could_not_be_made_is_made_later), CASE(small_stacks),
     CASE(children_of_threads), CASE(threads_of_a_child), CASE(what_a_thread_has_left_is_not_live),
     CASE(the_helper_stays_in_a_child_of_two_threads), CASE(a_thread_gets_a_heap_if_it_goes_on))
