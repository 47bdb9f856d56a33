/* Huge blocks that come and go, grow, are cleared, and are refused: what that costs in memory, addresses and faults. */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <sys/syscall.h>

static size_t figure(const char *file, const char *name)
{
    char line[256];
    size_t kib = 0;
    FILE *status = fopen(file, "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, name, strlen(name)) == 0) kib = strtoul(line + strlen(name) + 1, NULL, 10);
    fclose(status);
    return kib;
}

static long faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

/* Bursts of any size and order need no more memory and no more addresses after the first ten. */
static void bursts_stay_flat(void)
{
    enum { BLOCKS = 300 };
    static char *blocks[BLOCKS];
    uintptr_t lowest = UINTPTR_MAX, low = UINTPTR_MAX;
    size_t resident = 0;
    unsigned seed = 1;
    for (int cycle = 0; cycle < 40; cycle++) {
        low = UINTPTR_MAX;
        for (int i = 0; i < BLOCKS; i++) {
            blocks[i] = malloc(5 * MIB + rand_r(&seed) % (60 * MIB));
            CHECK(blocks[i] != NULL);
            if ((uintptr_t)blocks[i] < low) low = (uintptr_t)blocks[i];
            if (rand_r(&seed) % 4 == 0) {
                free(blocks[i]);
                blocks[i] = NULL;
            }
        }
        for (int i = 0; i < BLOCKS; i++) free(blocks[(i * 7) % BLOCKS]);
        if (cycle < 10) {
            if (low < lowest) lowest = low;
            resident = figure("/proc/self/status", "VmRSS:");
        }
    }
    CHECK(low + 64 * GIB >= lowest);
    CHECK(figure("/proc/self/status", "VmRSS:") <= resident + 128);
}

/* The time by the program's clock, which the library asks like everybody: when `faults_cost` is set, each page that is
 * looked at first takes 900 ns, each that becomes the process's own 1,100 more. */
static int faults_cost;
int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!faults_cost) return (int)syscall(SYS_clock_gettime, clock, now);
    char text[128];
    read_text("/proc/self/statm", text, sizeof text);
    unsigned long long pages = strtoul(strchr(text, ' '), NULL, 10);
    unsigned long long ns = (unsigned long long)faults() * 900 + pages * 1100;
    *now = (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    return 0;
}

static uint64_t bets_on_huge_pages(void)
{
    struct specmalloc_statistics statistics;
    typeof(&specmalloc_get_statistics) get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    CHECK(get != NULL && get(&statistics, sizeof statistics) != 0);
    return statistics.population_taken;
}

/* What nobody touches is not faulted in: that looking at a page takes less than writing to it does not make it a
 * touched one. What was touched is, though only zeros were written. */
static void untouched_blocks_are_not_populated(void)
{
    enum { BLOCKS = 8 };
    char *blocks[BLOCKS];
    faults_cost = 1;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            blocks[i] = malloc((9 + round % 50 + 4 * i) * MIB);
            CHECK(blocks[i] != NULL);
        }
        for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    }
    CHECK(bets_on_huge_pages() == 0);
    CHECK(figure("/proc/self/smaps_rollup", "AnonHugePages:") == 0);
    for (size_t size = 100 * MIB; size <= 500 * MIB; size = 2 * size + 10 * MIB) {
        char *block = malloc(size);
        CHECK(block != NULL);
        for (size_t at = 0; at < size; at += 4 * KIB) ((volatile char *)block)[at] = 0;
        free(block);
    }
    CHECK(bets_on_huge_pages() > 0 || access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0);
}

/* Old and new are never both resident, however often the block moves. */
static void grows_without_copies(void)
{
    char *block = NULL, *neighbour = NULL;
    int moves = 0;
    size_t size = 0;
    for (size_t longer = 6 * MIB; longer <= 300 * MIB; longer += 2 * MIB) {
        char *grown = realloc(block, longer);
        CHECK(grown != NULL);
        moves += grown != block;
        for (size_t at = 0; at < size; at += 64 * KIB) CHECK(grown[at] == 1);
        memset(grown + size, 1, longer - size);
        block = grown;
        size = longer;
        free(neighbour);
        neighbour = malloc(5 * MIB);
    }
    CHECK(moves >= 3);
    CHECK(figure("/proc/self/status", "VmHWM:") <= 310 * 1024);
    /* What is cut off goes. */
    block = realloc(block, 10 * MIB);
    CHECK(figure("/proc/self/status", "VmRSS:") <= 40 * 1024);
    free(block);
}

/* A block that was used before is cleared, not faulted in again. */
static void calloc_does_not_fault(void)
{
    static const size_t sizes[] = {100 * KIB, 1 * MIB, 6000000};
    for (size_t kind = 0; kind < sizeof sizes / sizeof *sizes; kind++) {
        long before = 0;
        for (int round = 0; round < 200; round++) {
            if (round == 100) before = faults();
            char *block = calloc(1, sizes[kind]);
            for (size_t at = 0; at < sizes[kind]; at += 512) {
                CHECK(block[at] == 0);
                block[at] = 1;
            }
            free(block);
        }
        CHECK(faults() - before <= 100);
    }
}

/* Tables of which little is used, made and freed again and again, never become resident as a whole. */
static void tables_stay_sparse(void)
{
    static const struct { size_t size; int count; } kinds[] = {{1000000, 100}, {3000000, 50}, {16 * MIB, 8}, {40 * MIB, 8}};
    static unsigned char *tables[100];
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        for (int cycle = 0; cycle < 10; cycle++) {
            for (int i = 0; i < kinds[kind].count; i++) {
                CHECK((tables[i] = calloc(1, kinds[kind].size)) != NULL);
                for (size_t at = 0; at < kinds[kind].size; at += 128 * KIB) {
                    CHECK(tables[i][at] == 0);
                    tables[i][at] = 1;
                }
            }
            for (int i = 0; i < kinds[kind].count; i++) free(tables[i]);
        }
    }
    /* 10 MiB of pages are in use at most; what is kept of one kind is there beside the next. */
    CHECK(figure("/proc/self/status", "VmHWM:") <= 32 * 1024);
}

/* What no address space can hold is refused by every call, and nothing that is free is given back for it. */
static void refuses_without_giving_back(void)
{
    static void *blocks[2000];
    long before = 0;
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 2000; i++) memset(blocks[i] = malloc(4000), 1, 4000);
        for (int i = 0; i < 2000; i++) free(blocks[i]);
        size_t size = opaque_size((size_t)1 << (round % 2 == 0 ? 50 : 47));
        errno = 0;
        CHECK(malloc(size) == NULL && errno == ENOMEM);
        CHECK(calloc(size / 2, 2) == NULL);
        CHECK(memalign(4096, size) == NULL);
        void *small = malloc(100);
        CHECK(realloc(small, size) == NULL);
        free(small);
        if (round == 20) before = faults();
    }
    CHECK(faults() - before <= 80 * 50);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        CASE(bursts_stay_flat),
        CASE(grows_without_copies),
        CASE(calloc_does_not_fault),
        CASE(refuses_without_giving_back),
        CASE(tables_stay_sparse),
        CASE(untouched_blocks_are_not_populated),
    };
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
