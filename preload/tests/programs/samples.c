/*
 * Samples: that they stand for what a program allocates and has, whatever it does with its blocks; and that a sample is a
 * block like any other. Who notes them is this program itself.
 */
#include "specmalloc.h"
#include "support.h"
#include <math.h>
#include <sched.h>
#include <sys/time.h>

#pragma weak specmalloc_on_samples
#pragma weak specmalloc_set_option
#pragma weak specmalloc_held_bytes
#pragma weak specmalloc_walk

enum { SITES = 8, IDS = 1 << 16 };

/* What the calling thread is doing: its samples are counted there. */
static _Thread_local volatile int site;

struct counts {
    double objects, bytes, live;
    long samples;
};

/* Volatile: compilers believe that malloc calls nothing of this file. */
static volatile struct counts counted[SITES];
static struct { volatile int site; double weight; size_t size; } ids[IDS];
static volatile uint32_t next_id;
static volatile int lock;
static volatile long frees, strange;

static void enter(void) { while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) sched_yield(); }
static void leave(void) { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }

static uint32_t allocated(size_t size, size_t counts, size_t rate, void *block, size_t usable)
{
    CHECK(block != NULL && usable >= size);
    double weight = 1 / -expm1(-(double)counts / (double)rate);
    enter();
    uint32_t id = 1 + next_id++ % (IDS - 1);
    while (ids[id].weight != 0) id = 1 + id % (IDS - 1);
    ids[id].site = site;
    ids[id].weight = weight;
    ids[id].size = size;
    volatile struct counts *here = &counted[site];
    here->samples++;
    here->objects += weight;
    here->bytes += weight * (double)size;
    here->live += weight * (double)size;
    leave();
    errno = ERANGE; /* The allocator's caller must not see it. */
    return id;
}

static void freed(uint32_t id, size_t size, size_t rate, void *block, size_t usable)
{
    (void)rate;
    CHECK(block != NULL && usable >= size);
    enter();
    if (ids[id].weight == 0 || ids[id].size != size) strange++;
    counted[ids[id].site].live -= ids[id].weight * (double)size;
    ids[id].weight = 0;
    frees++;
    leave();
}

static void sample(const char *rate)
{
    static const struct specmalloc_samples samples = {allocated, freed};
    CHECK(specmalloc_on_samples != NULL && specmalloc_set_option != NULL);
    specmalloc_on_samples(&samples);
    CHECK(specmalloc_set_option("profile", rate) == 0);
}

/* Demands that `estimate` is `truth`, but for what so many samples leave to chance: five standard deviations. */
static void is_about(double estimate, double truth, double rate, const char *what)
{
    double deviation = sqrt(rate * truth);
    if (fabs(estimate - truth) <= 5 * deviation + rate + 1) return;
    fprintf(stderr, "%s: %.0f for %.0f, deviation %.0f\n", what, estimate, truth, deviation);
    _exit(1);
}

static void *at(int place, size_t size)
{
    site = place;
    return malloc(size);
}

enum { BLOCKS = 300000 };
static void *blocks[BLOCKS];

/* One block comes and goes for each that stays: they share a class, and the freed one is handed out again at once. */
static void what_stays_is_told_from_what_goes(void)
{
    sample("64K");
    for (int i = 0; i < BLOCKS; i++) {
        void *passing = at(1, 100);
        blocks[i] = at(2, 100);
        free(passing);
    }
    site = 0;
    is_about(counted[1].bytes, 100.0 * BLOCKS, 64 * KIB, "passing, all");
    is_about(counted[2].bytes, 100.0 * BLOCKS, 64 * KIB, "staying, all");
    is_about(counted[1].live, 0, 64 * KIB, "passing, live");
    is_about(counted[2].live, 100.0 * BLOCKS, 64 * KIB, "staying, live");
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    CHECK(strange == 0);
    is_about(counted[2].live, 0, 0, "staying, freed");
}

/* Sizes of all kinds, each as many bytes. */
static void every_size_counts(void)
{
    static const size_t sizes[SITES] = {0, 16, 200, 4000, 30000, 100000, 3 << 20, 40 << 20};
    const double total = 240 << 20;
    sample("256K");
    for (int i = 1; i < SITES; i++) {
        for (double sum = 0; sum < total; sum += (double)sizes[i]) free(at(i, sizes[i]));
        site = 0;
        double whole = sizes[i] * ceil(total / (double)sizes[i]);
        is_about(counted[i].bytes, whole, 256 * KIB, "a size");
        is_about(counted[i].live, 0, 0, "a size, live");
    }
    CHECK(strange == 0);
}

static void *replace(void *argument)
{
    void *mine[64] = {NULL};
    unsigned random = (unsigned)(uintptr_t)argument;
    for (int i = 0; i < 200000; i++) {
        random = random * 1103515245 + 12345;
        void **place = &mine[random >> 8 & 63];
        site = 0;
        free(*place);
        *place = at(1, 1 + (random >> 16 & 511));
        fill(*place, 1);
    }
    site = 0;
    for (int i = 0; i < 64; i++) free(mine[i]);
    return NULL;
}

/* Every thread that has a heap is found and counted, also by one that was there before. */
static void threads_are_counted(void)
{
    pthread_t threads[8];
    free(malloc(1));
    for (size_t i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, replace, (void *)(i + 1)) == 0);
    sample("16K");
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    CHECK(counted[1].samples > 0);
    is_about(counted[1].live, 0, 0, "freed by their threads");
    double before = counted[1].bytes;
    for (size_t i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, replace, (void *)(i + 1)) == 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    /* Sizes from 1 to 512: 256.5 on average, with a spread of its own of 148. */
    double truth = 256.5 * 8 * 200000;
    is_about(counted[1].bytes - before, truth, 16 * KIB + 512, "threads that begin later");
    CHECK(strange == 0);
}

static void *allocate_many(void *argument)
{
    (void)argument;
    for (int i = 0; i < BLOCKS; i++) fill(blocks[i] = at(1, 48), 48);
    site = 0;
    return NULL;
}

static void *free_many(void *argument)
{
    (void)argument;
    for (int i = 0; i < BLOCKS; i++) {
        check_filled(blocks[i], 48);
        free(blocks[i]);
    }
    return NULL;
}

/* Freed by another thread, while the one that allocated them lives, and after it has ended. */
static void freed_by_others(void)
{
    sample("8K");
    for (int round = 0; round < 4; round++) {
        pthread_t thread;
        if (round % 2) {
            CHECK(pthread_create(&thread, NULL, allocate_many, NULL) == 0 && pthread_join(thread, NULL) == 0);
            free_many(NULL);
        } else {
            allocate_many(NULL);
            CHECK(pthread_create(&thread, NULL, free_many, NULL) == 0 && pthread_join(thread, NULL) == 0);
        }
        is_about(counted[1].live, 0, 0, "freed by others");
    }
    CHECK(strange == 0 && frees > 100);
    is_about(counted[1].bytes, 4.0 * 48 * BLOCKS, 8 * KIB, "all");
}

/* With a rate of 1 every block is a sample, and as good a block. */
static void a_sample_is_a_block(void)
{
    sample("1");
    free(malloc(1)); /* The heap follows. */
    long before = counted[0].samples;
    for (size_t size = 0; size < 40000; size = size * 5 / 4 + 1) {
        unsigned char *block = malloc(size);
        size_t usable = malloc_usable_size(block);
        CHECK(block != NULL && usable >= size && usable <= size + size / 8 + (size > 32 * KIB ? 64 * KIB : 16) && (uintptr_t)block % 16 == 0);
        fill(block, usable);
        check_filled(block, usable);
        unsigned char *zero = calloc(1, size);
        for (size_t i = 0; i < size; i++) CHECK(zero[i] == 0);
        fill(zero, size);
        free(zero);
        memset(block, 7, size);
        unsigned char *larger = realloc(block, 3 * size + 1);
        for (size_t i = 0; i < size; i++) CHECK(larger[i] == 7);
        unsigned char *smaller = realloc(larger, size / 3 + 1);
        for (size_t i = 0; i < size / 3; i++) CHECK(smaller[i] == 7);
        free(smaller);
        for (size_t align = 16; align <= 64 * KIB; align *= 4) {
            void *aligned = NULL;
            CHECK(posix_memalign(&aligned, align, size) == 0 && (uintptr_t)aligned % align == 0);
            fill(aligned, size);
            check_filled(aligned, size);
            free(aligned);
        }
    }
    CHECK(counted[0].samples - before > 300 && strange == 0);
    is_about(counted[0].live, 0, 0, "all were freed");
    errno = EXDEV;
    free(malloc(10));
    CHECK(errno == EXDEV || errno == ERANGE);
}

static int is_class(void *context, void *block, size_t size, int class_index)
{
    void **known = context;
    if (block != known[0] && block != known[1]) return 0;
    CHECK(size == malloc_usable_size(block));
    known[block == known[0] ? 2 : 3] = (void *)(intptr_t)(class_index + 10);
    return 0;
}

/* In figures, too: a walk tells it as what it stands for, and it is held as the page that it takes. */
static void a_sample_is_told_as_a_block(void)
{
    enum { COUNT = 1000 };
    static const size_t sizes[] = {1, 100, 5000, 32000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *known[4] = {malloc(sizes[i])};
        sample("1");
        free(malloc(1));
        known[1] = malloc(sizes[i]);
        CHECK(malloc_usable_size(known[0]) == malloc_usable_size(known[1]));
        CHECK(specmalloc_walk(is_class, known) == 0);
        CHECK(known[2] == known[3] && known[2] != NULL);
        free(known[1]);
        CHECK(specmalloc_set_option("profile", "off") == 0);
        free(known[0]);
    }
    sample("1");
    free(malloc(1));
    size_t before = specmalloc_held_bytes();
    for (int i = 0; i < COUNT; i++) fill(blocks[i] = malloc(100), 100);
    size_t held = specmalloc_held_bytes() - before;
    CHECK(held >= COUNT * 4 * KIB && held < COUNT * 4 * KIB + MIB);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
}

/* A block that grows where it is, or whose pages move, counts anew. */
static void a_block_that_grows(void)
{
    sample("1");
    char *block = malloc(1);
    for (size_t size = 1; size < 64 * MIB; size *= 2) {
        block = realloc(block, size);
        block[size - 1] = (char)size;
        /* A huge block counts in pages. */
        is_about(counted[0].live, (double)size, size > 2 * MIB ? 4096 : 0, "one block");
    }
    free(block);
    CHECK(strange == 0);
    is_about(counted[0].live, 0, 0, "freed");
}

static void a_million_samples(void)
{
    sample("1");
    free(malloc(1));
    for (int i = 0; i < 1000000; i++) free(at(1, (size_t)(i & 255)));
    site = 0;
    CHECK(counted[1].samples == 1000000 && frees >= 1000000 && strange == 0);
}

/* On and off again, in the middle of anything; what is live when it is switched off is freed as it was. */
static void on_and_off(void)
{
    memset(blocks, 0, sizeof blocks);
    for (int round = 0; round < 40; round++) {
        sample(round % 2 ? "off" : "4K");
        long before = counted[0].samples;
        for (int i = 0; i < 20000; i++) {
            int place = (i * 7919 + round) % 3000;
            free(blocks[place]);
            fill(blocks[place] = malloc((size_t)(place % 900) + 1), 1);
        }
        CHECK(round % 2 ? counted[0].samples == before : counted[0].samples > before);
    }
    for (int i = 0; i < 3000; i++) free(blocks[i]);
    is_about(counted[0].live, 0, 0, "freed");
    CHECK(strange == 0);
}

static volatile sig_atomic_t handled;
static void *volatile handlers[16];

static void handler(int number)
{
    (void)number;
    if (lock) return; /* This program's own, which a handler cannot take twice. */
    int place = handled++ & 15;
    int before = site;
    site = 3;
    free(handlers[place]);
    handlers[place] = malloc(1 + (size_t)handled % 3000);
    site = before;
}

/* A handler that interrupts anything may allocate, and its blocks may be samples. */
static void in_handlers(void)
{
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGPROF, &action, NULL);
    sample("4K");
    for (int i = 0; i < 16; i++) handlers[i] = malloc(1);
    /* By the clock: a timer of the processor's time comes with the system's ticks, 4 ms apart. */
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    struct itimerspec often = {{0, 200000}, {0, 200000}};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    memset(blocks, 0, sizeof blocks);
    for (unsigned i = 0; handled < 2000; i++) {
        unsigned place = i * 31 % 2000;
        free(blocks[place]);
        fill(blocks[place] = malloc((size_t)(i % 700) + 1), 1);
    }
    CHECK(timer_delete(timer) == 0);
    for (int i = 0; i < 2000; i++) free(blocks[i]);
    for (int i = 0; i < 16; i++) free(handlers[i]);
    CHECK(strange == 0 && counted[3].samples > 0);
    is_about(counted[0].live + counted[3].live, 0, 0, "freed");
}

/* The child of a busy process goes on, and frees what its parent had. */
static void children(void)
{
    pthread_t threads[4];
    sample("4K");
    for (int i = 0; i < 1000; i++) fill(blocks[i] = malloc((size_t)i + 1), (size_t)i + 1);
    for (size_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, replace, (void *)(i + 1)) == 0);
    for (int round = 0; round < 50; round++) {
        enter();
        pid_t child = fork();
        leave();
        CHECK(child >= 0);
        if (child == 0) {
            for (int i = 0; i < 1000; i++) {
                check_filled(blocks[i], (size_t)i + 1);
                free(blocks[i]);
            }
            replace((void *)(size_t)1);
            _exit(strange != 0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 1000; i++) free(blocks[i]);
    CHECK(strange == 0);
}

/* Steps for callgrind: as many replacements as the environment says, with the sampling that it says. */
static void replacements(void)
{
    const char *count = getenv("REPLACEMENTS");
    CHECK(count != NULL);
    unsigned random = 1;
    for (long i = atol(count); i > 0; i--) {
        random = random * 1103515245 + 12345;
        void **place = &blocks[random >> 8 & 255];
        free(*place);
        *place = malloc(16 + (random >> 16 & 511));
    }
}

/* Of a large sample all can be used up to the end of its run, and no more. */
static void large_samples(void)
{
    sample("1");
    char *held[32];
    for (int i = 0; i < 32; i++) {
        held[i] = at(1, 100000);
        CHECK(held[i] != NULL && ((uintptr_t)held[i] + malloc_usable_size(held[i])) % 65536 == 0);
        CHECK(malloc_usable_size(held[i]) >= 100000);
    }
    for (int i = 0; i < 32; i++) memset(held[i], i, malloc_usable_size(held[i]));
    for (int i = 0; i < 32; i++) CHECK(held[i][0] == i && held[i][malloc_usable_size(held[i]) - 1] == i);
    for (int i = 0; i < 32; i++) free(held[i]);
}

MAIN(CASE(large_samples), CASE(what_stays_is_told_from_what_goes), CASE(every_size_counts), CASE(threads_are_counted),
     CASE(freed_by_others), CASE(a_sample_is_a_block), CASE(a_sample_is_told_as_a_block),
     CASE(a_block_that_grows), CASE(a_million_samples),
     CASE(on_and_off), CASE(in_handlers), CASE(children), CASE(replacements))
