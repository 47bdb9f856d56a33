/* What the statistics add up to, beside what the kernel says is resident; and that no figure ever wraps. */
#include "specmalloc.h"
#include "support.h"
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/prctl.h>

/* The library is preloaded, not linked. */
static size_t statistics(struct specmalloc_statistics *out)
{
    static typeof(&specmalloc_get_statistics) get;
    if (get == NULL) get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    CHECK(get != NULL);
    return get(out, sizeof *out);
}

/* Bytes of anonymous memory that is resident, by /proc/self/smaps_rollup. */
static size_t anonymous(void)
{
    char text[4096];
    read_text("/proc/self/smaps_rollup", text, sizeof text);
    char *line = strstr(text, "\nAnonymous:");
    CHECK(line != NULL);
    return strtoul(line + sizeof "\nAnonymous:" - 1, NULL, 10) * KIB;
}

static size_t sum(void)
{
    struct specmalloc_statistics now;
    statistics(&now);
    CHECK(now.metadata_bytes <= now.reserved_bytes);
    return now.live_bytes + now.cached_bytes + now.dirty_bytes + now.metadata_bytes;
}

/* What is told as resident: the sum, but for what was never touched. */
static size_t told_resident(void)
{
    struct specmalloc_statistics now;
    statistics(&now);
    CHECK(now.resident_bytes <= now.live_bytes + now.cached_bytes + now.dirty_bytes + now.metadata_bytes);
    return now.resident_bytes;
}

static uint64_t seed = 1;
static uint32_t draw(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

enum { MANY = 400000 };
static void *blocks[MANY];
static size_t told_before, sum_before, anonymous_before;

static void begin(void)
{
    /* Pages come one by one, whatever the machine is set to. */
    CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    /* All that is the program's own is resident from now on. */
    memset(blocks, 1, sizeof blocks);
    memset(blocks, 0, sizeof blocks);
    free(opaque(malloc(1000)));
    sum();
    anonymous();
    sum_before = sum();
    told_before = told_resident();
    anonymous_before = anonymous();
}

/* Grown alike within 2 % and 192 KiB, of what is not summed up but asked for. */
static void check_resident(const char *when)
{
    double told = (double)told_resident() - (double)told_before, found = (double)anonymous() - (double)anonymous_before;
    double off = told - found, slack = found * 0.02 + 192.0 * KIB;
    if (off <= slack && off >= -slack) return;
    fprintf(stderr, "%s: told %.2f MiB, resident %.2f MiB, off by %.2f\n", when, told / MIB, found / MIB, off / MIB);
    _exit(1);
}

/* Both have grown alike, within `percent`. */
static void check(const char *when, double percent)
{
    double told = (double)sum() - (double)sum_before, found = (double)anonymous() - (double)anonymous_before;
    double off = (told - found) / found * 100;
    if (off <= percent && off >= -percent) return check_resident(when);
    fprintf(stderr, "%s: told %.1f MiB, resident %.1f MiB, off by %.2f %%\n", when, told / MIB, found / MIB, off);
    _exit(1);
}

/* Blocks of `least` to `most` bytes, small ones more often, written to the end. */
static size_t take(size_t least, size_t most, size_t total)
{
    size_t count = 0;
    for (size_t bytes = 0; bytes < total && count < MANY; count++) {
        size_t size = least;
        while (size < most && draw() % 8) size *= 2;
        size = size / 2 + draw() % (size / 2) + 1;
        CHECK((blocks[count] = malloc(size)) != NULL);
        memset(blocks[count], 1, size);
        bytes += size;
    }
    return count;
}

static void drop(size_t count, int every)
{
    for (size_t i = 0; i < count; i++) {
        if (i % every == 0) continue;
        free(blocks[i]);
        blocks[i] = NULL;
    }
}

static void grow_and_shrink(size_t least, size_t most, size_t total)
{
    begin();
    size_t count = take(least, most, total);
    check("taken", 2);
    drop(count, 2);
    check("half freed", 2);
    drop(count, 8);
    check("most freed", 2);
}

static void small_blocks(void) { grow_and_shrink(16, 1024, 100 * MIB); }
static void medium_blocks(void) { grow_and_shrink(16, 32 * KIB, 200 * MIB); }
static void huge_blocks(void) { grow_and_shrink(8 * MIB, 64 * MIB, 600 * MIB); }

static void large_blocks(void) { grow_and_shrink(64 * KIB, MIB, 300 * MIB); }

/* Aligned blocks of all sizes. (A small one that is aligned to pages counts pages that nobody touches.) */
static void aligned_blocks(void)
{
    begin();
    size_t count = 0;
    for (size_t bytes = 0; bytes < 100 * MIB && count < MANY; count++) {
        size_t size = 16;
        while (size < MIB && draw() % 8) size *= 2;
        size = size / 2 + draw() % (size / 2) + 1;
        size_t align = (size_t)1 << (size > 32 * KIB ? 4 + draw() % 17 : 4 + draw() % 9);
        CHECK((blocks[count] = aligned_alloc(align, size)) != NULL);
        memset(blocks[count], 1, size);
        bytes += size;
    }
    check("taken", 2);
    drop(count, 2);
    check("half freed", 2);
    drop(count, 8);
    check("most freed", 2);
}

/* As `check`, where so little may be resident that the C library's own pages show, and what is in nobody's hands while
   the helper gives it back. */
static void check_all(const char *when)
{
    double told, found, off;
    for (int look = 0; look < 50; look++) {
        told = (double)sum() - (double)sum_before;
        found = (double)anonymous() - (double)anonymous_before;
        off = told - found;
        double slack = found * 0.02 + 192.0 * KIB;
        if (off <= slack && off >= -slack) return;
        usleep(100 * 1000);
    }
    fprintf(stderr, "%s: told %.2f MiB, resident %.2f MiB, off by %.2f\n", when, told / MIB, found / MIB, off / MIB);
    _exit(1);
}

enum { WORKERS = 8, OWN = 5000 };
static char stacks[WORKERS][256 * KIB] __attribute__((aligned(4096)));
static void *kept[WORKERS][OWN];

/* Leaves half of its blocks to others, and ends. */
static void *leave_half(void *number)
{
    void **own = kept[(uintptr_t)number];
    for (int i = 0; i < OWN; i++) {
        size_t size = 100 + i % 3000;
        CHECK((own[i] = malloc(size)) != NULL);
        memset(own[i], 1, size);
    }
    for (int i = 0; i < OWN; i += 2) {
        free(own[i]);
        own[i] = NULL;
    }
    return NULL;
}

static void some_threads(void)
{
    pthread_t threads[WORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) {
        pthread_attr_t attributes;
        CHECK(pthread_attr_init(&attributes) == 0);
        CHECK(pthread_attr_setstack(&attributes, stacks[i], sizeof stacks[i]) == 0);
        CHECK(pthread_create(&threads[i], &attributes, leave_half, (void *)i) == 0);
        pthread_attr_destroy(&attributes);
    }
    for (int i = 0; i < WORKERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

/* One kind of blocks after the other, beside what is left of those before; threads; a child; and all of it freed. */
static void phases(void)
{
    static const struct { const char *name; size_t least, most, total; } kinds[] = {
        {"small", 16, 1024, 60 * MIB}, {"medium", KIB, 32 * KIB, 60 * MIB},
        {"large", 64 * KIB, MIB, 150 * MIB}, {"huge", 8 * MIB, 32 * MIB, 200 * MIB},
    };
    memset(stacks, 1, sizeof stacks);
    memset(kept, 1, sizeof kept);
    begin();
    static void *left[MANY];
    memset(left, 1, sizeof left);
    anonymous_before = anonymous();
    size_t lefts = 0;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        size_t count = take(kinds[kind].least, kinds[kind].most, kinds[kind].total);
        check_all(kinds[kind].name);
        for (size_t i = 0; i < count; i++) {
            if (i % 2) left[lefts++] = blocks[i];
            else free(blocks[i]);
        }
        check_all("half of it freed");
    }
    some_threads();
    check_all("threads have ended");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        check_all("in a child");
        size_t count = take(16, 32 * KIB, 60 * MIB);
        check_all("more in a child");
        drop(count, MANY);
        check_all("less in a child");
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    while (lefts > 0) free(left[--lefts]);
    check_all("freed");
    malloc_trim(0);
    check_all("trimmed");
    for (int thread = 0; thread < WORKERS; thread++)
        for (int i = 0; i < OWN; i++) free(kept[thread][i]);
    malloc_trim(0);
    check_all("freed and trimmed");
    CHECK(sum() - sum_before < 2 * MIB);
    check_all("small again");
}

static void touch(char *block, size_t from, size_t to, size_t step)
{
    for (size_t at = from; at < to; at += step) *(volatile char *)(block + at) = 1;
}

/* Huge blocks of which the program touches little: that is what is resident. The last is so large that parts of it are
   looked at. */
static void sparse_blocks(void)
{
    enum { PAGE = 4096 };
    begin();
    char *table = calloc(1, 200 * MIB);
    CHECK(table != NULL);
    check_resident("untouched");
    touch(table, 0, 200 * MIB, 100 * PAGE);
    check_resident("a page in a hundred");
    touch(table, 0, 200 * MIB, PAGE);
    check_resident("all of it");
    CHECK((table = realloc(table, 500 * MIB)) != NULL);
    check_resident("longer");
    touch(table, 300 * MIB, 310 * MIB, PAGE);
    check_resident("a part of what is new");
    char *others[20];
    for (int i = 0; i < 20; i++) {
        CHECK((others[i] = malloc(8 * MIB + i * 100000)) != NULL);
        touch(others[i], 0, i * 100000, PAGE);
    }
    check_resident("others");
    for (int i = 0; i < 20; i++) free(others[i]);
    check_resident("others that are kept");
    free(table);
    malloc_trim(0);
    check_resident("none");
    CHECK((table = malloc(6 * GIB)) != NULL);
    touch(table, 0, 6 * GIB, 64 * PAGE);
    check_resident("a very large one");
    free(table);
}

/* The same of large blocks, and of small ones of several pages. */
static void sparse_blocks_in_arenas(void)
{
    enum { PAGE = 4096, COUNT = 1000 };
    static char *others[2 * COUNT];
    begin();
    for (int i = 0; i < 2 * COUNT; i++) {
        size_t size = i % 2 ? 100 * KIB + draw() % MIB : 8 * KIB + draw() % (24 * KIB);
        CHECK((others[i] = malloc(size)) != NULL);
        if (i % 10 == 0) touch(others[i], 0, size, PAGE);
    }
    check_resident("most of them untouched");
    for (int i = 0; i < 2 * COUNT; i++) free(others[i]);
    check_resident("freed");
    malloc_trim(0);
    check_resident("and trimmed");
}

/* Huge blocks that grew side by side, and are freed one after the other: what stays of each falls with what is live, and
   the last free leaves no region half unmapped. */
static void grown_blocks(void)
{
    enum { BUFFERS = 24, STEPS = 4 };
    begin();
    for (size_t step = 3 * MIB; step <= 4 * MIB; step += MIB / 4) {
        char *buffers[BUFFERS] = {NULL};
        for (size_t size = step; size <= STEPS * step; size += step) {
            for (int i = 0; i < BUFFERS; i++) {
                CHECK((buffers[i] = realloc(buffers[i], size)) != NULL);
                memset(buffers[i] + size - step, 1, step);
            }
        }
        check_all("grown");
        for (int i = 0; i < BUFFERS; i++) {
            free(buffers[i]);
            check_all("freed one by one");
        }
    }
}

/* Small blocks that are aligned to more than a page: of their classes' blocks much is nobody's. Others lie beside them, and
   large ones. */
static void widely_aligned_blocks(void)
{
    begin();
    for (int round = 0; round < 3; round++) {
        size_t count = 0;
        for (size_t bytes = 0; bytes < 60 * MIB && count < MANY; count++) {
            size_t size = 1 + draw() % (round == 0 ? 200 : 20 * KIB), align = (size_t)1 << (13 + draw() % 3);
            if (count % 16 == 1) size = draw() % (200 * KIB) + 1;
            blocks[count] = count % 2 ? malloc(size) : aligned_alloc(align, size);
            CHECK(blocks[count] != NULL && (count % 2 || (uintptr_t)blocks[count] % align == 0));
            memset(blocks[count], 1, size);
            bytes += size;
        }
        check_resident("taken");
        drop(count, 2);
        check_resident("half freed");
        malloc_trim(0);
        check_resident("and trimmed");
        drop(count, MANY);
        check_resident("freed");
    }
}

/* Memory that is locked block by block, and freed as it is. */
static void locked_blocks(void)
{
    begin();
    size_t count = take(64 * KIB, 8 * MIB, 60 * MIB);
    for (size_t i = 0; i < count; i += 2) mlock(blocks[i], malloc_usable_size(blocks[i]));
    check_all("locked");
    drop(count, 3);
    check_all("two thirds freed");
    drop(count, MANY);
    check_all("freed");
    malloc_trim(0);
    check_all("trimmed");
}

static atomic_int busy;

/* Takes blocks, and frees those of whoever comes by. */
static void *exchange(void *start)
{
    static _Atomic(void *) places[1024];
    uint64_t own = (uintptr_t)start;
    for (int i = 0; i < 200000; i++) {
        own = own * 6364136223846793005u + 1442695040888963407u;
        size_t size = (own >> 40) % 100 == 0 ? (own >> 20) % (6 * MIB) : (own >> 20) % 3000;
        free(atomic_exchange(&places[(own >> 50) % 1024], malloc(size)));
    }
    atomic_fetch_sub(&busy, 1);
    return NULL;
}

/* However many threads are in the middle of something: a figure that went below zero would be enormous. */
static void never_negative(void)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    busy = THREADS;
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, exchange, (void *)(i + 1)) == 0);
    long looks = 0;
    while (busy > 0 || looks < 100) {
        struct specmalloc_statistics now;
        size_t bytes = statistics(&now);
        CHECK(bytes == sizeof now);
        const uint64_t *figure = (const uint64_t *)&now;
        for (size_t i = 0; i < sizeof now / sizeof *figure; i++) CHECK(figure[i] < (uint64_t)1 << 46);
        CHECK(now.live_bytes < 16 * GIB && now.cached_bytes < 16 * GIB && now.dirty_bytes < 16 * GIB);
        struct mallinfo2 info = mallinfo2();
        CHECK(info.uordblks < 16 * GIB && info.fordblks < 16 * GIB && info.hblkhd < 16 * GIB);
        looks++;
    }
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

MAIN(CASE(small_blocks), CASE(medium_blocks), CASE(large_blocks), CASE(huge_blocks), CASE(aligned_blocks),
     CASE(phases), CASE(sparse_blocks), CASE(sparse_blocks_in_arenas), CASE(grown_blocks), CASE(widely_aligned_blocks),
     CASE(locked_blocks), CASE(never_negative))
