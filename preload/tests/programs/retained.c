/*
 * What stays resident though free: as much as the options say, and what was proven to be wanted again, for a while.
 */
#include "support.h"
#include <stdatomic.h>
#include <sys/resource.h>

enum { TOTAL = 100 << 20, PAGE = 4096 };

static void *blocks[TOTAL / 960];

static long faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void build(size_t size)
{
    for (size_t i = 0; i < TOTAL / size; i++) {
        CHECK((blocks[i] = malloc(size)) != NULL);
        for (size_t at = 0; at < size; at += PAGE) ((char *)blocks[i])[at] = 1;
        ((char *)blocks[i])[size - 1] = 1;
    }
}

static void tear_down(size_t size)
{
    for (size_t i = 0; i < TOTAL / size; i++) free(blocks[i]);
}

/* From the third time on what is built up again is still there. */
static void cycles(size_t size)
{
    long pages = TOTAL / PAGE;
    memset(blocks, 1, sizeof blocks);
    for (int cycle = 0; cycle < 8; cycle++) {
        long before = faults();
        build(size);
        tear_down(size);
        long faulted = faults() - before;
        if (cycle >= 3) CHECK(faulted <= pages / 50);
    }
}

static void *sleep_on(void *unused)
{
    free(malloc(100));
    pause();
    return unused;
}

static void start_another(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sleep_on, NULL) == 0);
}

static const size_t sizes[] = {1000, 20000, 60000, 1000000, 5000000, 50000000};

static void small_cycles(void) { cycles(sizes[0]), cycles(sizes[1]); }
static void large_cycles(void) { cycles(sizes[2]), cycles(sizes[3]); }
static void huge_cycles(void) { cycles(sizes[4]), cycles(sizes[5]); }

static void cycles_beside_a_thread(void)
{
    start_another();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) cycles(sizes[i]);
}

/* What was proven is gone some seconds after it was used last: the helper's work. */
static void cycles_end_with_a_helper(void)
{
    start_another();
    memset(blocks, 1, sizeof blocks);
    size_t before = resident();
    cycles(1000);
    cycles(5000000);
    for (int look = 0; look < 200 && resident() > before + 4 * MIB; look++) usleep(50000);
    CHECK(resident() <= before + 4 * MIB);
}

/* One thread: nobody acts while it sleeps, but its next calls do. */
static void cycles_end_with_the_next_calls(void)
{
    memset(blocks, 1, sizeof blocks);
    size_t before = resident();
    cycles(1000);
    CHECK(resident() >= before + TOTAL / 2);
    sleep(6);
    for (int i = 0; i < 1000; i++) CHECK((blocks[i] = malloc(1000)) != NULL);
    for (int i = 0; i < 1000; i++) free(blocks[i]);
    CHECK(resident() <= before + 12 * MIB);
}

/* The first time nothing is known, and the options hold. */
static void first_descent(void)
{
    memset(blocks, 1, sizeof blocks);
    size_t before = resident();
    build(1000);
    size_t full = resident() - before;
    for (size_t i = 0; i < TOTAL / 1000; i++) {
        free(blocks[i]);
        if (i % 1000 == 0) {
            size_t live = full - full / (TOTAL / 1000) * i;
            CHECK(resident() - before <= live + live / 100 * 12 + 6 * MIB);
        }
    }
}

static void *builds(void *size)
{
    build(*(size_t *)size);
    return NULL;
}

static void frees_after_the_other(size_t size)
{
    memset(blocks, 1, sizeof blocks);
    size_t before = resident();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, builds, &size) == 0 && pthread_join(thread, NULL) == 0);
    while (each_thread(NULL) > 1) usleep(10000); /* The library's own ends, too. */
    CHECK(resident() - before >= TOTAL / 100 * 95);
    tear_down(size);
    CHECK(resident() - before <= 6 * MIB);
}

/* What threads that have gone have left is freed by the last one, long after: no helper is there any more, and as
 * little stays as of what that one allocated itself. */
static void descent_after_the_others(void)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pid_t child = fork();
        if (child == 0) frees_after_the_other(sizes[i]), _exit(0);
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static long processor_ms(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* Memory that the program has locked is given back where the system can do that, and nobody is kept busy by it. */
static void locked(void)
{
    start_another();
    size_t before = resident();
    if (mlockall(MCL_CURRENT) != 0) return;
    for (int i = 0; i < 1000; i++) CHECK((blocks[i] = malloc(60000)) != NULL);
    if (mlock(blocks[0], 60000) != 0) return;
    for (int i = 0; i < 1000; i++) memset(blocks[i], 1, 60000);
    if (mlockall(MCL_CURRENT) != 0) return;
    for (int i = 0; i < 1000; i++) free(blocks[i]);
    for (int look = 0; look < 100 && resident() > before + 8 * MIB; look++) usleep(50000);
    long busy = processor_ms();
    sleep(3);
    CHECK(processor_ms() - busy < 30);
}

/* Small blocks are exchanged for large ones, a little at a time: what is behind the large ones does not stay. */
static void exchanged(void)
{
    static const size_t large[] = {33792, 40000, 66560, 100000, 131073};
    for (size_t kind = 0; kind < sizeof large / sizeof *large; kind++) {
        size_t size = large[kind], slot = (size + 65535) & ~(size_t)65535, got = 0, freed = 0;
        memset(blocks, 1, sizeof blocks);
        size_t before = resident();
        build(1000);
        static void *exchange[TOTAL / 33792];
        for (size_t i = 0; i < TOTAL / 1000; i++) {
            free(blocks[i]);
            freed += 1000;
            if (freed >= (got + 4) * slot) {
                CHECK((exchange[got] = malloc(size)) != NULL);
                memset(exchange[got++], 1, size);
            }
        }
        CHECK(resident() - before <= got * size / 8 * 9 + got * slot / 100 * 12 + 14 * MIB);
        malloc_trim(0);
        CHECK(resident() - before <= got * size / 8 * 9 + 11 * MIB);
        while (got > 0) free(exchange[--got]);
        malloc_trim(0);
    }
}

/* Blocks of all sizes up to 100,000 bytes, in another order each time: they find the pages that they need, and no others
   stay behind them. */
static void mixed_cycles(void)
{
    uint64_t state = 88172645463325252;
    long pages = TOTAL / PAGE;
    memset(blocks, 1, sizeof blocks);
    size_t before = resident(), count = 0;
    for (int cycle = 0; cycle < 10; cycle++) {
        long faulted = faults();
        for (size_t total = 0; total < TOTAL; count++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            size_t size = 16 + state % 100000;
            CHECK((blocks[count] = malloc(size)) != NULL);
            memset(blocks[count], 1, size);
            total += size;
        }
        CHECK(resident() - before <= TOTAL / 4 * 5);
        if (cycle >= 3) CHECK(faults() - faulted <= pages / 8);
        while (count > 0) free(blocks[--count]);
    }
}

/* Random medium and large blocks, 100 MiB of them all the time. */
static void random_blocks(void)
{
    enum { SLOTS = 2048, LIMIT = 100 << 20 };
    static char *held[SLOTS];
    static size_t sizes_held[SLOTS];
    uint64_t state = 88172645463325252;
    size_t live = 0, before = resident();
    for (long turn = 0; turn < 60000; turn++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t slot = state % SLOTS, size = (size_t)4096 << state / SLOTS % 11;
        size += state / SLOTS / 11 % size;
        live -= sizes_held[slot];
        free(held[slot]);
        held[slot] = NULL, sizes_held[slot] = 0;
        if (live + size > LIMIT) continue;
        CHECK((held[slot] = malloc(size)) != NULL);
        sizes_held[slot] = size;
        live += size;
        memset(held[slot], 1, size);
        if (turn % 500 == 0) CHECK(resident() - before <= LIMIT / 20 * 27);
    }
}

/* Large blocks of many sizes, 100 MiB of them replaced at random: of what is allocated no more than one page in five is
 * faulted in, and what is resident for nothing is less than a third of what is live. */
static void many_sizes(void)
{
    enum { SLOTS = 1024, LIMIT = 100 << 20, TURNS = 8000 };
    static char *held[SLOTS];
    static size_t sizes_held[SLOTS];
    uint64_t state = 88172645463325252;
    size_t live = 0, allocated = 0, resident_before = resident();
    long before = 0;
    for (long turn = 0; turn < TURNS; turn++) {
        if (turn == TURNS / 2) before = faults(), allocated = 0;
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t slot = state % SLOTS, size = (size_t)32768 << state / SLOTS % 7;
        size += state / SLOTS / 7 % size;
        while (live + size > LIMIT || held[slot] != NULL) {
            live -= sizes_held[slot];
            free(held[slot]);
            held[slot] = NULL, sizes_held[slot] = 0;
            if (live + size > LIMIT) slot = (slot + 1) % SLOTS;
        }
        CHECK((held[slot] = malloc(size)) != NULL);
        sizes_held[slot] = size;
        live += size, allocated += size;
        memset(held[slot], 1, size);
        if (turn % 100 == 0) CHECK(resident() - resident_before <= LIMIT / 20 * 26);
    }
    CHECK(faults() - before <= (long)(allocated / PAGE / 5));
}

enum { POOL = 100, OF_A_TASK = 2 * MIB / 1000 };
static pthread_barrier_t turn, done;
static atomic_int whose;

static void *has_tasks(void *number)
{
    char *held[OF_A_TASK];
    for (;;) {
        pthread_barrier_wait(&turn);
        if (whose == (int)(intptr_t)number) {
            for (int i = 0; i < OF_A_TASK; i++) memset(held[i] = malloc(500 + i * 377 % 1000), 1, 500);
            for (int i = 0; i < OF_A_TASK; i++) free(held[i]);
        }
        pthread_barrier_wait(&done);
    }
    return number;
}

/* Many threads have a task each by turns, of 2 MiB at a time: what one needed is there for the others. */
static void pool_by_turns(void)
{
    size_t most = 0;
    pthread_barrier_init(&turn, NULL, POOL + 1), pthread_barrier_init(&done, NULL, POOL + 1);
    for (intptr_t i = 0; i < POOL; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, has_tasks, (void *)i) == 0);
    }
    size_t before = resident();
    for (int task = 0; task < 3 * POOL; task++) {
        whose = task % POOL;
        pthread_barrier_wait(&turn), pthread_barrier_wait(&done);
        if (resident() > most) most = resident();
    }
    if (most > before + 48 * MIB) fprintf(stderr, "%zu MiB\n", (most - before) / MIB), _exit(1);
}

/* Of what a limit leaves, half may be free and resident. (A program that is started under one of its own, which counts as
 * what a control group leaves does. Limits of address space do not: pages that go leave no more of that.) */
static void little_left(void)
{
    if (getenv("LITTLE_LEFT") == NULL) {
        CHECK(setenv("SPECMALLOC_CONF", "limit:180M", 1) == 0 && setenv("LITTLE_LEFT", "1", 1) == 0);
        execl("/proc/self/exe", "retained", "little_left", NULL);
        CHECK(0);
    }
    memset(blocks, 1, sizeof blocks);
    size_t before = resident();
    for (int cycle = 0; cycle < 5; cycle++) {
        build(960);
        tear_down(960);
        CHECK(resident() <= before + 90 * MIB);
    }
}

MAIN(CASE(small_cycles), CASE(large_cycles), CASE(huge_cycles), CASE(cycles_beside_a_thread),
     CASE(cycles_end_with_a_helper), CASE(cycles_end_with_the_next_calls), CASE(first_descent), CASE(locked), CASE(exchanged), CASE(random_blocks), CASE(many_sizes),
     CASE(little_left), CASE(mixed_cycles), CASE(descent_after_the_others), CASE(pool_by_turns))
