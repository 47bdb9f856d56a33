/* The functions that report on malloc or adjust it: their figures follow what the program does. */
#include "specmalloc.h"
#include "support.h"
#include <dlfcn.h>

/* The library is preloaded, not linked: its functions are found by name. */
#define LIBRARY(function) ((typeof(&function))library_function(#function))
static void *library_function(const char *name)
{
    void *found = dlsym(RTLD_DEFAULT, name);
    CHECK(found != NULL);
    return found;
}

enum { BLOCKS = 4000, SIZE = 1000 };
static void *blocks[BLOCKS];

static void take(void)
{
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(SIZE)) != NULL);
        memset(blocks[i], 1, SIZE);
    }
}

static void release(void)
{
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
}

static void mallinfo2_follows(void)
{
    struct mallinfo2 before = mallinfo2();
    take();
    struct mallinfo2 full = mallinfo2();
    CHECK(full.uordblks >= before.uordblks + BLOCKS * SIZE);
    CHECK(full.uordblks <= before.uordblks + BLOCKS * SIZE * 5 / 4);
    CHECK(full.arena == full.uordblks + full.fordblks);
    CHECK(full.hblks == before.hblks);
    release();
    struct mallinfo2 after = mallinfo2();
    CHECK(after.uordblks <= before.uordblks + 10000);
    CHECK(after.fordblks >= full.fordblks);
    CHECK(after.keepcost <= after.fordblks);
}

static void mallinfo2_counts_large_blocks(void)
{
    struct mallinfo2 before = mallinfo2();
    void *huge = malloc(GIB);
    CHECK(huge != NULL);
    struct mallinfo2 full = mallinfo2();
    CHECK(full.hblks == before.hblks + 1);
    CHECK(full.hblkhd >= before.hblkhd + GIB && full.hblkhd <= before.hblkhd + GIB + GIB / 4);
    CHECK(full.uordblks < before.uordblks + MIB);
    free(huge);
    CHECK(mallinfo2().hblks == before.hblks);
}

/* A block that grows or shrinks where it is counts for what was asked for last. */
static void mallinfo2_follows_realloc(void)
{
    static const size_t sizes[] = {100 * KIB, 127 * KIB, 128 * KIB, 66 * KIB, 64 * KIB, 40 * KIB, 32 * KIB,
                                   3 * MIB, 3 * MIB - 5, 2 * MIB, 5 * MIB, 9 * MIB, 6 * MIB, 40 * MIB};
    struct mallinfo2 before = mallinfo2();
    char *block = malloc(70 * KIB);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK((block = realloc(block, sizes[i])) != NULL);
        struct mallinfo2 now = mallinfo2();
        /* A block of its own mapping counts for whole pages, what is before it in the first one, too. */
        size_t pages = ((uintptr_t)block % 4096 + sizes[i] + 4095) / 4096 * 4096;
        size_t expected = sizes[i] > 4 * MIB ? pages : sizes[i];
        CHECK(now.hblks == before.hblks + 1 && now.hblkhd == before.hblkhd + expected);
    }
    CHECK((block = realloc(block, 100)) != NULL);
    CHECK(mallinfo2().hblks == before.hblks && mallinfo2().hblkhd == before.hblkhd);
    free(block);
}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void mallinfo_does_not_wrap(void)
{
    struct mallinfo before = mallinfo();
    take();
    struct mallinfo full = mallinfo();
    CHECK(full.uordblks - before.uordblks >= BLOCKS * SIZE);
    release();
    void *huge = malloc(5 * GIB);
    CHECK(huge != NULL);
    CHECK(mallinfo().hblkhd == INT_MAX);
    free(huge);
}

/* Prints the document for the caller to read, with blocks live. */
static void malloc_info_document(void)
{
    take();
    void *huge = malloc(GIB);
    CHECK(huge != NULL);
    CHECK(malloc_info(0, stdout) == 0);
    CHECK(malloc_info(1, stdout) == EINVAL);
    FILE *full = fopen("/dev/full", "w");
    setvbuf(full, NULL, _IONBF, 0);
    CHECK(malloc_info(0, full) != 0);
}

static void malloc_stats_lines(void)
{
    take();
    malloc_stats();
}

static void malloc_trim_gives_back(void)
{
    const size_t count = 50000;
    void **many = malloc(count * sizeof *many);
    size_t start = resident();
    for (size_t i = 0; i < count; i++) {
        CHECK((many[i] = malloc(1000)) != NULL);
        memset(many[i], 1, 1000);
    }
    size_t full = resident();
    CHECK(full > start + 40 * MIB);
    for (size_t i = 0; i < count; i++) free(many[i]);
    malloc_trim(0);
    CHECK(resident() < start + 4 * MIB);
    CHECK(mallinfo2().keepcost == 0);
}

static void mallopt_parameters(void)
{
    const int known[] = {M_MXFAST, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_TEST, M_ARENA_MAX};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) CHECK(mallopt(known[i], 1 << 20) == 1);
    CHECK(mallopt(12345, 1) == 0);
    CHECK(mallopt(M_PERTURB, 1) == 0);
}

/* With no free memory kept, what is freed leaves at once. */
static void trim_threshold_bounds_free_memory(void)
{
    CHECK(mallopt(M_TRIM_THRESHOLD, 0) == 1);
    size_t start = resident();
    char *large[20];
    for (int i = 0; i < 20; i++) {
        CHECK((large[i] = malloc(MIB)) != NULL);
        memset(large[i], 1, MIB);
    }
    CHECK(resident() > start + 15 * MIB);
    for (int i = 0; i < 20; i++) free(large[i]);
    CHECK(resident() < start + 5 * MIB);
}

static void statistics(void)
{
    struct specmalloc_statistics before, now, part;
    size_t known = LIBRARY(specmalloc_get_statistics)(&before, sizeof before);
    CHECK(known >= sizeof before);
    take();
    CHECK(LIBRARY(specmalloc_get_statistics)(&now, sizeof now) == known);
    CHECK(now.live_blocks >= before.live_blocks + BLOCKS && now.live_blocks <= before.live_blocks + BLOCKS + 100);
    CHECK(now.live_bytes >= before.live_bytes + BLOCKS * SIZE);
    CHECK(now.reserved_bytes >= now.live_bytes);
    CHECK(now.peak_live_bytes >= now.live_bytes && now.peak_reserved_bytes >= now.reserved_bytes);
    CHECK(now.resident_bytes >= BLOCKS * SIZE);
    CHECK(now.arenas >= 1 && now.regions >= now.arenas && now.mappings >= now.arenas);
    CHECK(now.threads == 1 && now.map_calls >= now.arenas);

    /* A caller of an older header gets what it has room for; one of a newer header gets zeros. */
    memset(&part, 0x55, sizeof part);
    CHECK(LIBRARY(specmalloc_get_statistics)(&part, 16) == known);
    CHECK(part.live_blocks >= BLOCKS && part.cached_bytes == 0x5555555555555555);
    char wide[4096];
    memset(wide, 0x55, sizeof wide);
    CHECK(LIBRARY(specmalloc_get_statistics)((struct specmalloc_statistics *)wide, sizeof wide) == known);
    for (size_t i = known; i < sizeof wide; i++) CHECK(wide[i] == 0);
    release();
    LIBRARY(specmalloc_get_statistics)(&now, sizeof now);
    CHECK(now.live_blocks <= before.live_blocks + 100);
}

static void *allocate_in_thread(void *out)
{
    *(void **)out = malloc(100);
    return NULL;
}

static void heap_of(void)
{
    typeof(&specmalloc_heap_of) heap_of = LIBRARY(specmalloc_heap_of);
    void *mine = malloc(100), *also_mine = malloc(3000), *theirs = NULL;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, allocate_in_thread, &theirs) == 0);
    CHECK(heap_of(mine) != 0 && heap_of(mine) == heap_of(also_mine));
    pthread_join(thread, NULL);
    CHECK(theirs != NULL && heap_of(theirs) != 0);
    CHECK(heap_of(&thread) == 0 && heap_of(NULL) == 0 && heap_of((void *)8) == 0 && heap_of((void *)-8) == 0);
    CHECK(heap_of((void *)&heap_of) == 0);
    free(mine), free(also_mine), free(theirs);
}

static void options(void)
{
    typeof(&specmalloc_set_option) set = LIBRARY(specmalloc_set_option);
    typeof(&specmalloc_get_option) get = LIBRARY(specmalloc_get_option);
    char value[64] = "untouched";
    CHECK(set("no_such_option", "1") == ENOENT);
    CHECK(get("no_such_option", value, sizeof value) == -1 && strcmp(value, "untouched") == 0);
    CHECK(set("", "") == ENOENT && set("\xff", "1") == ENOENT);
    CHECK(set(NULL, "1") == ENOENT && set("helper", NULL) == EINVAL && get(NULL, value, sizeof value) == -1);
    CHECK(set("dirty_max", "3M") == 0);
    CHECK(get("dirty_max", value, sizeof value) == 7 && strcmp(value, "3145728") == 0);
    CHECK(set("dirty_max", "much") == EINVAL && set("helper", "perhaps") == EINVAL);
    CHECK(get("dirty_max", value, sizeof value) == 7 && strcmp(value, "3145728") == 0);
    CHECK(set("helper", "off") == 0 && get("helper", value, sizeof value) == 1 && strcmp(value, "0") == 0);
    const char *others[][3] = {{"reserve", "off", "0"},    {"reserve", "on", "1"},      {"huge_pages", "off", "0"},
                               {"huge_pages", "on", "1"},  {"names", "on", "1"},        {"names", "off", "0"},
                               {"deepbind", "on", "1"},    {"deepbind", "off", "0"},    {"dirty_percent", "7", "7"},
                               {"arena_size", "2M", "2097152"}, {"keep_huge", "off", "0"}, {"keep_huge", "on", "1"},
                               {"pressure", "off", "0"},   {"pressure", "on", "1"},     {"profile", "1G", "1073741824"},
                               {"profile", "off", "0"},    {"limit", "1G", "1073741824"}, {"limit", "0", "0"},
                               {"soft_limit", "1G", "1073741824"}, {"soft_limit", "0", "0"}, {"helper", "on", "1"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK(set(others[i][0], others[i][1]) == 0 && get(others[i][0], value, sizeof value) > 0);
        CHECK(strcmp(value, others[i][2]) == 0);
    }
    /* A buffer that is too small, or none. */
    CHECK(get("dirty_max", value, 4) == 7 && strcmp(value, "314") == 0);
    CHECK(get("dirty_max", NULL, 0) == 7);
}

/* With dirty_max:5M in the environment: of a program that has not allocated yet. */
static void options_before_anything(void)
{
    char value[64];
    switch (fork()) {
    case 0:
        CHECK(LIBRARY(specmalloc_get_option)("dirty_max", value, sizeof value) > 0 && strcmp(value, "5242880") == 0);
        _exit(0);
    default:
        CHECK(LIBRARY(specmalloc_set_option)("dirty_max", "3M") == 0);
    }
    free(malloc(100));
    CHECK(LIBRARY(specmalloc_get_option)("dirty_max", value, sizeof value) > 0 && strcmp(value, "3145728") == 0);
    int status;
    CHECK(wait(&status) > 0 && status == 0);
}

/* Prints what the environment's options came to. */
static void options_in_force(void)
{
    typeof(&specmalloc_get_option) get = LIBRARY(specmalloc_get_option);
    const char *names[] = {"dirty_max", "dirty_percent", "helper",  "reserve",  "keep_huge", "huge_pages", "deepbind",
                           "limit",     "guarded",       "pressure", "profile", "arena_size"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char value[64];
        CHECK(get(names[i], value, sizeof value) > 0);
        printf("%s:%s\n", names[i], value);
    }
}

/* With membarrier:off in the environment. */
static void there_is_no_barrier(void)
{
    typeof(&specmalloc_get_option) get = LIBRARY(specmalloc_get_option);
    typeof(&specmalloc_set_option) set = LIBRARY(specmalloc_set_option);
    char value[8];
    CHECK(get("membarrier", value, sizeof value) == 1 && strcmp(value, "0") == 0);
    /* It was decided at the start. */
    CHECK(set("membarrier", "on") == EINVAL && set("membarrier", "green") == EINVAL);
    pthread_t thread;
    for (int i = 0; i < 100; i++) {
        void *huge = malloc(10 << 20);
        CHECK(huge != NULL && pthread_create(&thread, NULL, (void *(*)(void *))free, huge) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(malloc_trim(0) >= 0);
    struct specmalloc_statistics now;
    memset(&now, 0, sizeof now);
    CHECK(LIBRARY(specmalloc_get_statistics)((void *)&now, sizeof now) > 0);
    CHECK(now.barrier_calls == 0 && now.grace_periods > 0);
}

static void usable_size_and_trim(void)
{
    void *block = malloc(100);
    CHECK(LIBRARY(specmalloc_usable_size)(block) == malloc_usable_size(block));
    CHECK(LIBRARY(specmalloc_usable_size)(NULL) == 0);
    free(block);
    int trimmed = LIBRARY(specmalloc_trim)();
    CHECK(trimmed == 0 || trimmed == 1);
    int major, minor, patch;
    CHECK(sscanf(LIBRARY(specmalloc_version)(), "%d.%d.%d", &major, &minor, &patch) == 3);
}

/* malloc_stats is no cancellation point: the figures are printed whole, and the thread goes on. */
static volatile int begun, cancelled, printed;

static void *print_cancelled(void *unused)
{
    begun = 1;
    while (!cancelled) continue;
    malloc_stats();
    printed = 1;
    pthread_testcancel();
    return unused;
}

static void malloc_stats_while_cancelled(void)
{
    pthread_t thread;
    void *result = NULL;
    CHECK(pthread_create(&thread, NULL, print_cancelled, NULL) == 0);
    while (!begun) continue;
    pthread_cancel(thread);
    cancelled = 1;
    pthread_join(thread, &result);
    CHECK(printed && result == PTHREAD_CANCELED);
}

MAIN(CASE(malloc_stats_while_cancelled), CASE(mallinfo2_follows), CASE(mallinfo2_counts_large_blocks), CASE(mallinfo2_follows_realloc), CASE(mallinfo_does_not_wrap),
     CASE(malloc_info_document), CASE(malloc_stats_lines), CASE(malloc_trim_gives_back), CASE(mallopt_parameters),
     CASE(trim_threshold_bounds_free_memory), CASE(statistics), CASE(heap_of), CASE(options), CASE(options_before_anything),
     CASE(options_in_force),
     CASE(usable_size_and_trim), CASE(there_is_no_barrier))
