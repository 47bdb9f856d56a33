/*
 * Memory that is free for good goes back to the system, as /proc shows: arenas are unmapped and pages leave. The program
 * gives the allocator ten seconds in which it does nothing itself but look.
 */
#include "support.h"
#include <fcntl.h>

enum { SIZE = 1000, COUNT = 200 << 10, SECONDS = 10 };
#define ARENA ((uintptr_t)32 << 20)

/* Neither the blocks' addresses nor the text that is read are in memory that the allocator has to keep. */
static void *blocks[COUNT];
static uintptr_t arenas[64];
static size_t arena_count;
static char maps[1 << 20];

static void take(void)
{
    for (size_t i = 0; i < COUNT; i++) {
        CHECK((blocks[i] = malloc(SIZE)) != NULL);
        memset(blocks[i], 1, SIZE);
        uintptr_t arena = (uintptr_t)blocks[i] & ~(ARENA - 1);
        size_t known = 0;
        while (known < arena_count && arenas[known] != arena) known++;
        if (known == arena_count) {
            CHECK(arena_count < sizeof arenas / sizeof *arenas);
            arenas[arena_count++] = arena;
        }
    }
    CHECK(arena_count >= COUNT / (ARENA / SIZE));
}

static void release(void)
{
    for (size_t i = 0; i < COUNT; i++) free(blocks[i]);
}

/* How many of the arenas have any mapping in their range. Allocates nothing. */
static size_t still_mapped(void)
{
    int file = open("/proc/self/maps", O_RDONLY);
    CHECK(file >= 0);
    size_t length = 0;
    for (ssize_t part; (part = read(file, maps + length, sizeof maps - 1 - length)) > 0;) length += part;
    close(file);
    CHECK(length < sizeof maps - 1);
    maps[length] = 0;
    size_t mapped = 0;
    for (size_t i = 0; i < arena_count; i++) {
        int found = 0;
        for (char *line = maps; *line != 0;) {
            char *end = strchr(line, '\n');
            CHECK(end != NULL);
            uintptr_t from = strtoul(line, &line, 16), to = strtoul(line + 1, NULL, 16);
            found |= from < arenas[i] + ARENA && to > arenas[i];
            line = end + 1;
        }
        mapped += found;
    }
    return mapped;
}

/* Looks every 50 ms until at most `keep` of the arenas are mapped. */
static void watch_arenas_go(size_t keep)
{
    for (int look = 0; look < SECONDS * 20 && still_mapped() > keep; look++) usleep(50000);
    CHECK(still_mapped() <= keep);
}

/* One thread: what is unmapped is unmapped by the frees. The arena with the slab that the next block comes from stays. */
static void one_thread(void)
{
    take();
    CHECK(still_mapped() == arena_count);
    release();
    CHECK(still_mapped() <= 1);
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

/* Two arenas stay: that of the slab that the next block comes from, and that of the second thread's blocks. */
static void two_threads(void)
{
    start_another();
    take();
    CHECK(still_mapped() == arena_count);
    release();
    watch_arenas_go(2);
}

static void *take_in_thread(void *unused)
{
    take();
    return unused;
}

/* The blocks of a thread that has exited. */
static void owner_exits(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, take_in_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(still_mapped() == arena_count);
    release();
    watch_arenas_go(2);
}

enum { HUGE_COUNT = 8, HUGE_SIZE = 40 << 20 };

static size_t take_and_release_huge(void)
{
    size_t before = resident();
    for (int i = 0; i < HUGE_COUNT; i++) {
        CHECK((blocks[i] = malloc(HUGE_SIZE)) != NULL);
        memset(blocks[i], 1, HUGE_SIZE);
    }
    CHECK(resident() >= before + (size_t)HUGE_COUNT * HUGE_SIZE);
    for (int i = 0; i < HUGE_COUNT; i++) free(blocks[i]);
    return before;
}

/* One thread keeps some freed huge blocks for reuse: 64 MiB and an eighth of what is live. */
static void huge_blocks_one_thread(void)
{
    size_t before = take_and_release_huge();
    CHECK(resident() <= before + 80 * MIB);
}

static void huge_blocks_two_threads(void)
{
    start_another();
    size_t before = take_and_release_huge();
    for (int look = 0; look < SECONDS * 20 && resident() > before + 4 * MIB; look++) usleep(50000);
    CHECK(resident() <= before + 4 * MIB);
}

enum { MIDDLING = 10000 };
static size_t sizes[MIDDLING];
enum { SMALL = 100000 };
static size_t small_sizes[SMALL];

/* Middling blocks, of which one in eight stays: hardly any slab is empty. Returns what is live. */
static size_t thin_out(void)
{
    uint64_t state = 88172645463325252;
    size_t live = 0;
    for (size_t i = 0; i < MIDDLING; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        sizes[i] = 8 * KIB + state % (22 * KIB);
        CHECK((blocks[i] = malloc(sizes[i])) != NULL);
        memset(blocks[i], (int)i, sizes[i]);
    }
    for (size_t i = 0; i < MIDDLING; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (state % 8 != 0) {
            free(blocks[i]);
            sizes[i] = 0;
        }
        live += sizes[i];
    }
    return live;
}

/* What stays holds what was written there. */
static void look_at_middling(void)
{
    for (size_t i = 0; i < MIDDLING; i++) {
        for (size_t at = 0; at < sizes[i]; at++) CHECK(((unsigned char *)blocks[i])[at] == (unsigned char)i);
    }
}

/* Pages inside of free blocks: what stays are the pages that these begin in, and what lies about the live ones. */
static void middling_blocks_trimmed(void)
{
    size_t before = resident(), live = thin_out();
    CHECK(resident() - before > 5 * live);
    malloc_trim(0);
    CHECK(resident() - before < 2 * live + MIDDLING / 8 * 7 * 4 * KIB);
    look_at_middling();
}

static void middling_blocks_idle(void)
{
    start_another();
    size_t before = resident(), live = thin_out();
    size_t most = before + 2 * live + MIDDLING / 8 * 7 * 4 * KIB;
    /* Looking takes blocks, too: a thread that looks all the time is not idle. */
    for (int look = 0; look < SECONDS && resident() > most; look++) sleep(3);
    CHECK(resident() <= most);
    look_at_middling();
}

/* Small blocks, of which one in ten stays: no slab is empty, and no block has a page inside. Returns the pages that what
   is live touches. */
static size_t thin_out_small(void)
{
    uint64_t state = 88172645463325252;
    size_t pages = 0;
    uintptr_t last = 0;
    for (size_t i = 0; i < SMALL; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        small_sizes[i] = 100 + state % 2900;
        CHECK((blocks[i] = malloc(small_sizes[i])) != NULL);
        memset(blocks[i], (int)i, small_sizes[i]);
    }
    for (size_t i = 0; i < SMALL; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (state % 10 != 0) {
            free(blocks[i]);
            blocks[i] = NULL;
            continue;
        }
        uintptr_t from = (uintptr_t)blocks[i] / 4096, to = ((uintptr_t)blocks[i] + small_sizes[i] - 1) / 4096;
        pages += to - from + 1 - (from == last);
        last = to;
    }
    return pages;
}

static void *free_small(void *unused)
{
    for (size_t i = 1; i < SMALL; i += 2) free(blocks[i]), blocks[i] = NULL;
    return unused;
}

/* What is live holds what was written there, and can be asked for, grow, and be freed by anybody, beside blocks whose pages
   went; and those serve again. */
static void use_small(void)
{
    for (size_t i = 0; i < SMALL; i++) {
        if (blocks[i] == NULL) continue;
        CHECK(malloc_usable_size(blocks[i]) >= small_sizes[i]);
        for (size_t at = 0; at < small_sizes[i]; at++) CHECK(((unsigned char *)blocks[i])[at] == (unsigned char)i);
        if (i % 16 == 0) {
            small_sizes[i] *= 2;
            CHECK((blocks[i] = realloc(blocks[i], small_sizes[i])) != NULL);
            CHECK(((unsigned char *)blocks[i])[small_sizes[i] / 2 - 1] == (unsigned char)i);
            memset(blocks[i], (int)i, small_sizes[i]);
        }
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_small, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    for (size_t i = 0; i < SMALL; i++) {
        if (blocks[i] != NULL) continue;
        CHECK((blocks[i] = i % 4 ? malloc(small_sizes[i]) : calloc(small_sizes[i], 1)) != NULL);
        for (size_t at = 0; i % 4 == 0 && at < small_sizes[i]; at++) CHECK(((char *)blocks[i])[at] == 0);
        memset(blocks[i], (int)i, small_sizes[i]);
    }
    for (size_t i = 0; i < SMALL; i++) {
        for (size_t at = 0; at < small_sizes[i]; at++) CHECK(((unsigned char *)blocks[i])[at] == (unsigned char)i);
        free(blocks[i]);
    }
}

static void small_blocks_trimmed(void)
{
    size_t before = resident(), pages = thin_out_small();
    CHECK(resident() - before > 2 * pages * 4 * KIB);
    malloc_trim(0);
    CHECK(resident() - before < pages * 5 * KIB + 8 * MIB);
    use_small();
}

static void small_blocks_idle(void)
{
    start_another();
    size_t before = resident(), most = before + thin_out_small() * 5 * KIB + 8 * MIB;
    for (int look = 0; look < SECONDS && resident() > most; look++) sleep(3);
    CHECK(resident() <= most);
    use_small();
}

/* Other sizes follow: what the first ones needed at their height, and what the next ones do, are not both resident. */
static void other_sizes_follow(void)
{
    static void *others[3 * COUNT / 4];
    size_t before = resident(), live = thin_out(), height = resident() - before;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK((others[i] = malloc(SIZE)) != NULL);
        memset(others[i], 1, SIZE);
    }
    size_t all = live + sizeof others / sizeof *others * SIZE;
    CHECK(all > height * 3 / 4 && resident() - before < all + all / 4 + MIDDLING / 8 * 7 * 4 * KIB / 2);
    look_at_middling();
}

MAIN(CASE(small_blocks_trimmed), CASE(small_blocks_idle), CASE(middling_blocks_trimmed), CASE(middling_blocks_idle), CASE(other_sizes_follow), CASE(one_thread), CASE(two_threads), CASE(owner_exits), CASE(huge_blocks_one_thread),
     CASE(huge_blocks_two_threads))
