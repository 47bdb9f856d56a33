/*
 * Threads that are alive and idle: what they have no more use for goes back within ten seconds, or at once when another
 * thread trims. And threads that are visited while they work find everything as it was.
 */
#include "support.h"
#include <stdatomic.h>

enum { THREADS = 16, SECONDS = 10, BLOCKS = 256 << 10, SIZE = 100 };

static pthread_barrier_t all, again;
static void **blocks;

/* Whether at most so many bytes are resident within ten seconds. */
static void goes_below(size_t bytes)
{
    for (int tenths = 0; resident() > bytes; tenths++) {
        if (tenths == 10 * SECONDS) {
            fprintf(stderr, "%zu KiB are resident, %zu allowed\n", resident() / KIB, bytes / KIB);
            _exit(1);
        }
        usleep(100000);
    }
}

static void start(size_t count, void *(*run)(void *))
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 128 * KIB) == 0);
    for (size_t i = 0; i < count; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &attributes, run, (void *)i) == 0);
    }
}

/* 64 KiB of each class, or one block. */
static void use_every_class(void)
{
    for (size_t size = 16; size <= 32 * KIB; size += size < 128 ? 16 : size / 8) {
        size_t count = 64 * KIB / size;
        void **held = malloc(count * sizeof *held);
        for (size_t i = 0; i < count; i++) {
            CHECK((held[i] = malloc(size)) != NULL);
            memset(held[i], 1, size);
        }
        for (size_t i = 0; i < count; i++) free(held[i]);
        free(held);
    }
}

static void *sleeper(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&all);
    pthread_barrier_wait(&all);
    use_every_class();
    pthread_barrier_wait(&all);
    pause();
    return NULL;
}

static size_t sleepers(void)
{
    pthread_barrier_init(&all, NULL, THREADS + 1);
    start(THREADS, sleeper);
    pthread_barrier_wait(&all);
    size_t before = resident();
    pthread_barrier_wait(&all);
    pthread_barrier_wait(&all);
    CHECK(resident() > before + THREADS * MIB);
    return before;
}

static void every_class(void)
{
    goes_below(sleepers() + THREADS * 64 * KIB);
}

static void every_class_trimmed(void)
{
    size_t before = sleepers();
    usleep(100000);
    malloc_trim(0);
    size_t after = resident();
    if (after > before + THREADS * 64 * KIB) {
        fprintf(stderr, "%zu KiB are resident after a trim, %zu before\n", after / KIB, before / KIB);
        _exit(1);
    }
}

static void *producer(void *unused)
{
    (void)unused;
    for (size_t i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(SIZE)) != NULL);
        memset(blocks[i], 1, SIZE);
    }
    pthread_barrier_wait(&all);
    pause();
    return NULL;
}

/* What other threads free for a thread that does not allocate again. */
static void freed_for(void)
{
    blocks = mmap(NULL, BLOCKS * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(blocks, 0, BLOCKS * sizeof *blocks);
    pthread_barrier_init(&all, NULL, 2);
    size_t before = resident();
    start(1, producer);
    pthread_barrier_wait(&all);
    CHECK(resident() > before + BLOCKS * SIZE);
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    goes_below(before + MIB);
    CHECK(mallinfo2().uordblks < 256 * KIB);
}

static void *few(void *index)
{
    size_t first = (size_t)index * (BLOCKS / THREADS);
    for (size_t i = first; i < first + BLOCKS / THREADS; i++) CHECK((blocks[i] = malloc(SIZE)) != NULL);
    /* One block in a slab stays. */
    uintptr_t last = 0;
    for (size_t i = first; i < first + BLOCKS / THREADS; i++) {
        uintptr_t slab = (uintptr_t)blocks[i] >> 16;
        if (slab == last) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
        last = slab;
    }
    pthread_barrier_wait(&all);
    pause();
    return NULL;
}

static void *freer(void *unused)
{
    (void)unused;
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    pthread_barrier_wait(&again);
    pause();
    return NULL;
}

/* What a thread holds back for others, a block of each slab, and then goes to sleep. */
static void held_back(void)
{
    blocks = mmap(NULL, BLOCKS * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(blocks, 0, BLOCKS * sizeof *blocks);
    pthread_barrier_init(&all, NULL, THREADS + 1);
    pthread_barrier_init(&again, NULL, 2);
    size_t before = resident();
    start(THREADS, few);
    pthread_barrier_wait(&all);
    start(1, freer);
    pthread_barrier_wait(&again);
    goes_below(before + THREADS * 64 * KIB + MIB);
}

static atomic_int over;

/* Works in bursts. */
static void *worker(void *seed)
{
    unsigned random = (unsigned)(size_t)seed + 1;
    unsigned char *held[64] = {0};
    size_t sizes[64];
    for (int burst = 0; burst < 400; burst++) {
        for (int i = 0; i < 100; i++) {
            random = random * 1103515245 + 12345;
            size_t place = random >> 16 & 63;
            if (held[place] != NULL) {
                for (size_t at = 0; at < sizes[place]; at += sizes[place] - 1) CHECK(held[place][at] == (unsigned char)place);
                free(held[place]);
            }
            sizes[place] = 16 + (random >> 8 & 4095);
            CHECK((held[place] = malloc(sizes[place])) != NULL);
            memset(held[place], (int)place, sizes[place]);
        }
        if (burst % 4 == 0) usleep(1000);
        if (burst % 100 == 99) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                for (int i = 0; i < 64; i++) free(held[i]);
                for (int i = 0; i < 1000; i++) free(malloc(16 + i));
                malloc_trim(0);
                _exit(0);
            }
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
    }
    for (int i = 0; i < 64; i++) free(held[i]);
    over++;
    return NULL;
}

/* Threads that work, fork and exit while another trims and asks for figures all the time. */
static void visited(void)
{
    start(4, worker);
    for (size_t i = 4; over < 12; i++) {
        malloc_trim(0);
        CHECK(mallinfo2().arena > 0);
        if (i < 12) start(1, worker);
    }
}

/* What a thread costs that has nothing, and what one that has a block: the stack and the C library's own are in both. */
enum { SLEEPERS = 1000, MOST_FOR_ONE_BLOCK = KIB };

static void *lone(void *has_block)
{
    if (has_block != NULL) {
        char *block = malloc(64);
        CHECK(block != NULL);
        *block = 1;
    }
    pthread_barrier_wait(&all);
    pause();
    return NULL;
}

static size_t cost_of_sleepers(int have_block)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 64 * KIB) == 0);
    pthread_barrier_init(&all, NULL, SLEEPERS + 1);
    size_t before = resident_of(false);
    for (size_t i = 0; i < SLEEPERS; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, &attributes, lone, have_block ? &all : NULL) == 0);
    }
    pthread_barrier_wait(&all);
    return (resident_of(false) - before) / SLEEPERS;
}

static void one_block(void)
{
    size_t without = cost_of_sleepers(0), with = cost_of_sleepers(1);
    printf("%zu bytes for a thread, %zu with a block\n", without, with);
    CHECK(with <= without + MOST_FOR_ONE_BLOCK);
}

/* Threads that have few blocks share pages, and no cache lines. */
enum { FEW = 3, LINE = 64 };
static uintptr_t given[SLEEPERS][FEW];

static void *with_few(void *index)
{
    size_t number = (size_t)index;
    for (size_t i = 0; i < FEW; i++) {
        char *block = malloc(1 + number % 200);
        CHECK(block != NULL);
        memset(block, 1, 1 + number % 200);
        given[number][i] = (uintptr_t)block;
    }
    pthread_barrier_wait(&all);
    pause();
    return NULL;
}

static int by_address(const void *one, const void *other)
{
    uintptr_t a = *(const uintptr_t *)one, b = *(const uintptr_t *)other;
    return (a > b) - (a < b);
}

static void few_blocks(void)
{
    pthread_barrier_init(&all, NULL, SLEEPERS + 1);
    start(SLEEPERS, with_few);
    pthread_barrier_wait(&all);
    uintptr_t *each = &given[0][0];
    qsort(each, SLEEPERS * FEW, sizeof *each, by_address);
    for (size_t i = 0; i < SLEEPERS * FEW; i++) {
        CHECK(each[i] % LINE == 0 && (i == 0 || each[i] > each[i - 1]));
    }
    /* Another thread than the one that allocated it frees each. */
    for (size_t i = 0; i < SLEEPERS * FEW; i++) free((void *)each[i]);
    CHECK(mallinfo2().uordblks < 512 * KIB);
}

/* A thread that goes on has a heap of its own soon: what it is given then need not lie on lines of its own. */
enum { GOES_ON = 16 };

static void *with_many(void *unused)
{
    (void)unused;
    size_t beside = 0;
    for (size_t i = 0; i < GOES_ON; i++) {
        char *block = malloc(16);
        CHECK(block != NULL);
        beside += (uintptr_t)block % LINE != 0;
    }
    CHECK(beside >= GOES_ON / 4);
    return NULL;
}

static void more_blocks(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, with_many, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

/* Whoever gives back what is free sleeps in between, and when all of it has gone. */
static void *asleep(void *unused)
{
    (void)unused;
    pause();
    return NULL;
}

static uint64_t used_ms(void)
{
    struct timespec used;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
    return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

static void no_time(void)
{
    enum { LONG = 32 };
    char *held[LONG];
    start(2, asleep);
    for (size_t i = 0; i < LONG; i++) {
        held[i] = malloc(MIB);
        CHECK(held[i] != NULL);
        memset(held[i], 1, MIB);
    }
    for (size_t i = 0; i < LONG; i++) free(held[i]);
    for (int looks = 0; looks < 4; looks++) {
        uint64_t before = used_ms();
        usleep(500000);
        uint64_t used = used_ms() - before;
        if (used > 100) {
            fprintf(stderr, "%lu ms of 500\n", (unsigned long)used);
            _exit(1);
        }
    }
}

MAIN(CASE(no_time), CASE(one_block), CASE(few_blocks), CASE(more_blocks),
     CASE(every_class), CASE(every_class_trimmed), CASE(freed_for), CASE(held_back), CASE(visited))
