/*
 * Claims of slices for counting instructions: `claims ARENAS GONE PAIRS` fills ARENAS arenas with blocks of 4 MiB, frees
 * those of all but the last if GONE, then allocates PAIRS blocks of 100 KiB, and frees them.
 */
#include "support.h"
#include <valgrind/callgrind.h>

enum { IN_ARENA = 7, MOST_ARENAS = 4096, MOST_PAIRS = 4096 };
static void *filling[MOST_ARENAS * IN_ARENA], *blocks[MOST_PAIRS];

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 4);
    size_t count = strtoul(argv[1], NULL, 10) * IN_ARENA, pairs = strtoul(argv[3], NULL, 10);
    int gone = atoi(argv[2]);
    CHECK(count <= MOST_ARENAS * IN_ARENA && pairs <= MOST_PAIRS);
    for (size_t i = 0; i < count; i++) CHECK((filling[i] = malloc(4 << 20)) != NULL);
    for (size_t i = 0; gone && i + IN_ARENA < count; i++) free(filling[i]);
    CALLGRIND_START_INSTRUMENTATION;
    for (size_t i = 0; i < pairs; i++) CHECK((blocks[i] = malloc(100 << 10)) != NULL);
    for (size_t i = 0; i < pairs; i++) free(blocks[i]);
    CALLGRIND_STOP_INSTRUMENTATION;
    return 0;
}
