/* Every live block, told while threads go on: against a table of what the program has. */
#include "support.h"
#include <setjmp.h>
#include "specmalloc.h"
#include <dlfcn.h>
#include <sys/time.h>
#include <stdatomic.h>
#include <stdbool.h>

/* The library is preloaded, not linked: its functions are found by name. */
static typeof(&specmalloc_walk) walk;
static typeof(&specmalloc_trim) trim;

__attribute__((constructor)) static void find_functions(void)
{
    walk = (typeof(walk))dlsym(RTLD_DEFAULT, "specmalloc_walk");
    trim = (typeof(trim))dlsym(RTLD_DEFAULT, "specmalloc_trim");
    CHECK(walk != NULL && trim != NULL);
}

/* What the program has: in memory of its own, so that it changes nothing that a walk tells. */
struct known {
    uintptr_t at;
    size_t asked;
    unsigned told;
};

#define MOST (1 << 17)
static struct known *table;
static size_t known;

static void *own_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static void *know(void *block, size_t asked)
{
    CHECK(block != NULL && known < MOST);
    memset(block, 0x5a, asked < 64 ? asked : 64);
    table[known++] = (struct known){(uintptr_t)block, asked, 0};
    return block;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = ((const struct known *)a)->at, y = ((const struct known *)b)->at;
    return (x > y) - (x < y);
}

/* Sorted in place, for qsort allocates. */
static void heap_sort(struct known *base, size_t count)
{
    for (size_t start = count / 2, end = count; end > 1;) {
        if (start > 0) {
            start--;
        } else {
            struct known last = base[--end];
            base[end] = base[0];
            base[0] = last;
        }
        for (size_t root = start, child; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && by_address(&base[child], &base[child + 1]) < 0) child++;
            if (by_address(&base[root], &base[child]) >= 0) break;
            struct known swapped = base[root];
            base[root] = base[child];
            base[child] = swapped;
        }
    }
}

static struct known *find(uintptr_t at)
{
    size_t low = 0, high = known;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table[middle].at < at) low = middle + 1;
        else high = middle;
    }
    return low < known && table[low].at == at ? &table[low] : NULL;
}

/* What a walk told. */
struct told {
    size_t blocks, others;
    uintptr_t last;
};

static int note(void *context, void *block, size_t size, int class_index)
{
    struct told *told = context;
    CHECK((uintptr_t)block > told->last);
    told->last = (uintptr_t)block;
    struct known *entry = find((uintptr_t)block);
    if (entry == NULL) {
        told->others++;
        return 0;
    }
    entry->told++;
    told->blocks++;
    CHECK(size >= entry->asked && size == malloc_usable_size(block));
    /* A small block at a large alignment is a large one. */
    CHECK(size <= 4 * MIB || class_index == SPECMALLOC_HUGE);
    CHECK(size <= 32 * KIB || class_index < 0);
    CHECK(class_index >= SPECMALLOC_HUGE && class_index < 100);
    return 0;
}

static struct told tell(void)
{
    heap_sort(table, known);
    for (size_t i = 0; i < known; i++) table[i].told = 0;
    struct told told = {0, 0, 0};
    CHECK(walk(note, &told) == 0);
    for (size_t i = 0; i < known; i++) CHECK(table[i].told == 1);
    CHECK(told.blocks == known);
    return told;
}

static void begin(void)
{
    if (table == NULL) table = own_memory(MOST * sizeof *table);
    known = 0;
}

/* Blocks of every class, many of some, some large and huge ones, and aligned ones. */
static void make_all(void)
{
    for (size_t size = 1; size <= 40 * KIB; size += 1 + size / 7)
        for (int i = 0; i < 40; i++) know(malloc(size), size);
    for (size_t size = 33 * KIB; size < 12 * MIB; size += size / 3) know(malloc(size), size);
    for (size_t align = 16; align <= 8 * MIB; align *= 2)
        for (size_t size = 24; size < 200 * KIB; size *= 9) know(aligned_alloc(align, size), size);
    know(calloc(1, 100), 100);
    know(realloc(malloc(10 * MIB), 50 * MIB), 50 * MIB);
    know(realloc(malloc(100 * KIB), 300 * KIB), 300 * KIB);
}

/* Every second of them goes. */
static void free_half(void)
{
    size_t kept = 0;
    for (size_t i = 0; i < known; i++) {
        if (i % 2) free((void *)table[i].at);
        else table[kept++] = table[i];
    }
    known = kept;
}

static void told_at_rest_is_what_is_live(void)
{
    begin();
    size_t others = tell().others;
    make_all();
    CHECK(tell().others == others);
    for (int round = 0; round < 5; round++) {
        free_half();
        CHECK(tell().others == others);
        trim();
        CHECK(tell().others == others);
        for (int i = 0; i < 3000; i++) {
            size_t size = 16 + (size_t)(i * 37 % 5000);
            know(malloc(size), size);
        }
        CHECK(tell().others == others);
    }
    while (known > 0) free((void *)table[--known].at);
    CHECK(tell().others == others);
}

static atomic_bool over;

/* Allocates and frees, its own blocks and those of others, until told to end. */
#define SHARED 256
static _Atomic(void *) shared[SHARED];

static void *churn(void *argument)
{
    unsigned long long random = (uintptr_t)argument * 0x9e3779b97f4a7c15u + 1;
    enum { OWN = 300 };
    void *own[OWN] = {0};
    while (!over) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        size_t pick = random % OWN, scale = (random >> 20) % 200;
        size_t size = scale == 0 ? 5 * MIB : scale < 6 ? 40 * KIB + (random >> 32) % (500 * KIB)
                                                       : 1 + (random >> 32) % (scale < 60 ? 8000 : 300);
        free(own[pick]);
        own[pick] = malloc(size);
        CHECK(own[pick] != NULL);
        memset(own[pick], 0xee, size < 300 ? size : 300);
        if (random >> 62 == 0) own[pick] = atomic_exchange(&shared[(random >> 40) % SHARED], own[pick]);
    }
    for (size_t i = 0; i < OWN; i++) free(own[i]);
    return NULL;
}

#define THREADS 8
static pthread_t threads[THREADS];

static void start(void *(*run)(void *))
{
    over = false;
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, run, (void *)(i + 1)) == 0);
}

static void end(void)
{
    over = true;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void told_once_beside_threads(void)
{
    begin();
    make_all();
    free_half();
    start(churn);
    for (int round = 0; round < 60; round++) {
        tell();
        if (round % 8 == 0) trim();
    }
    end();
    for (int i = 0; i < SHARED; i++) free(atomic_exchange(&shared[i], NULL));
    trim();
    size_t others = tell().others;
    free_half();
    CHECK(tell().others == others);
}

/* Brings what others have at hand to their slabs, again and again. */
static void *tidy(void *argument)
{
    while (!over) trim();
    return argument;
}

static int demand_not_free(void *context, void *block, size_t size, int class_index)
{
    (void)context, (void)size, (void)class_index;
    CHECK(find((uintptr_t)block) == NULL);
    return 0;
}

/* Blocks that are free all along, beside live ones, while another thread takes them from list to list. */
static void free_ones_are_not_told(void)
{
    enum { COUNT = 40000 };
    begin();
    void **blocks = own_memory(COUNT * sizeof *blocks);
    for (size_t i = 0; i < COUNT; i++) blocks[i] = malloc(16 + i % 50 * 16);
    start(tidy);
    for (int round = 0; round < 12; round++) {
        known = 0;
        for (size_t i = 0; i < COUNT; i += 3) {
            know(blocks[i], 16);
            free(blocks[i]);
        }
        heap_sort(table, known);
        CHECK(walk(demand_not_free, NULL) == 0);
        for (size_t i = 0; i < COUNT; i += 3) blocks[i] = malloc(16 + i % 50 * 16);
    }
    end();
}

/* Arenas and huge regions come and go. */
static void *map_and_unmap(void *argument)
{
    (void)argument;
    enum { COUNT = 40 };
    while (!over) {
        void *blocks[COUNT];
        for (int i = 0; i < COUNT; i++) {
            size_t size = i % 2 ? 3 * MIB : 9 * MIB;
            blocks[i] = malloc(size);
            CHECK(blocks[i] != NULL);
            *(char *)blocks[i] = 1;
        }
        for (int i = 0; i < COUNT; i++) free(blocks[i]);
        trim();
    }
    return NULL;
}

static void told_beside_unmaps(void)
{
    begin();
    make_all();
    start(map_and_unmap);
    for (int round = 0; round < 60; round++) tell();
    end();
}

static void in_a_child(void)
{
    begin();
    make_all();
    free_half();
    size_t others = tell().others;
    pid_t child = fork();
    if (child == 0) {
        CHECK(tell().others == others);
        free_half();
        CHECK(tell().others == others);
        know(malloc(1000), 1000);
        CHECK(tell().others == others);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(tell().others == others);
}

static void in_a_child_of_threads(void)
{
    begin();
    make_all();
    free_half();
    start(churn);
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) {
            tell();
            for (int i = 0; i < 1000; i++) know(malloc((size_t)i), (size_t)i);
            tell();
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    end();
}

static pthread_key_t key;
static int late;

static void destroyed(void *value)
{
    free(value);
    tell();
    /* Once more when the library has let the thread go. */
    if (++late < 3) CHECK(pthread_setspecific(key, malloc(10)) == 0);
}

static void *with_a_destructor(void *argument)
{
    CHECK(pthread_setspecific(key, malloc(100)) == 0);
    return argument;
}

static void in_a_destructor(void)
{
    begin();
    make_all();
    CHECK(pthread_key_create(&key, destroyed) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, with_a_destructor, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(late == 3);
}

static atomic_int handled;

static void handle(int number)
{
    (void)number;
    tell();
    handled++;
}

static void in_a_handler(void)
{
    begin();
    make_all();
    free_half();
    struct sigaction action = {.sa_handler = handle};
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_PROF, &every, NULL) == 0);
    while (handled < 100) {
        void *blocks[200];
        for (size_t i = 0; i < 200; i++) blocks[i] = malloc(1 + i * 40);
        for (size_t i = 0; i < 200; i++) free(blocks[i]);
    }
    every = (struct itimerval){{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_PROF, &every, NULL) == 0);
}

static int busy(void *context, void *block, size_t size, int class_index)
{
    note(context, block, size, class_index);
    /* What comes above may come, too: so little at a time, and all of it goes. */
    static void *before[64];
    static unsigned at;
    unsigned place = at++ % 64;
    free(before[place]);
    before[place] = at < 5000 ? malloc(16 + (size_t)(at * 131 % 9000)) : NULL;
    return 0;
}

static void callback_allocates_and_frees(void)
{
    begin();
    make_all();
    free_half();
    heap_sort(table, known);
    struct told told = {0, 0, 0};
    CHECK(walk(busy, &told) == 0);
    CHECK(told.blocks == known);
    for (size_t i = 0; i < known; i++) CHECK(table[i].told == 1);
}

static int inner(void *context, void *block, size_t size, int class_index)
{
    (void)block, (void)size, (void)class_index;
    ++*(size_t *)context;
    return 0;
}

static size_t expected;

static int outer(void *context, void *block, size_t size, int class_index)
{
    if (++*(size_t *)context % 50 == 0) {
        size_t within = 0;
        CHECK(walk(inner, &within) == 0);
        CHECK(within == expected);
    }
    (void)block, (void)size, (void)class_index;
    return 0;
}

static void walk_in_a_walk(void)
{
    begin();
    make_all();
    CHECK(walk(inner, &expected) == 0);
    size_t count = 0;
    CHECK(walk(outer, &count) == 0);
    CHECK(count == expected);
}

static jmp_buf away;

static int stop(void *context, void *block, size_t size, int class_index)
{
    (void)block, (void)size, (void)class_index;
    return ++*(int *)context == 100 ? 17 : 0;
}

static int jump(void *context, void *block, size_t size, int class_index)
{
    (void)context, (void)block, (void)size, (void)class_index;
    longjmp(away, 1);
}

static void ended_by_the_callback(void)
{
    begin();
    make_all();
    int count = 0;
    CHECK(walk(stop, &count) == 17 && count == 100);
    for (int i = 0; i < 1000; i++)
        if (setjmp(away) == 0) walk(jump, NULL);
    /* Nothing is held: an unmap comes to its end. */
    free(malloc(100 * MIB));
    trim();
    tell();
}

static void before_the_first_block(void)
{
    /* As near to it as a program comes: what the C library has. */
    size_t count = 0;
    CHECK(walk(inner, &count) == 0 && count < 100);
}

MAIN(CASE(told_at_rest_is_what_is_live), CASE(told_once_beside_threads), CASE(free_ones_are_not_told),
     CASE(told_beside_unmaps), CASE(in_a_child),
     CASE(in_a_child_of_threads), CASE(in_a_destructor), CASE(in_a_handler), CASE(callback_allocates_and_frees),
     CASE(walk_in_a_walk), CASE(ended_by_the_callback), CASE(before_the_first_block))
