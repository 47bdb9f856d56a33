/* What a program that does next to nothing costs. */
#include "support.h"

static void nothing(void) {}

static void faults(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    printf("%ld\n", usage.ru_minflt);
}

/* Resident bytes with a few small blocks, as most programs have. Not those of the files of the C library: how much of them a
 * fault makes resident beside the page that is needed depends on the addresses. */
static void small(void)
{
    static void *volatile blocks[3];
    for (int i = 0; i < 3; i++) memset(blocks[i] = malloc(24 << i), 1, 24 << i);
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    char line[4096];
    unsigned long start, end, kib, sum = 0;
    int counts = 1;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            counts = !strstr(line, "/libc") && !strstr(line, "/ld-");
        else if (counts && sscanf(line, "Rss: %lu", &kib) == 1)
            sum += kib;
    }
    fclose(file);
    printf("%lu\n", sum << 10);
}

MAIN(CASE(nothing), CASE(faults), CASE(small))
