/*
 * Pairs of free and malloc for counting instructions: `instructions TABLE LEAST MOST PAIRS ORDER BATCH` keeps TABLE
 * blocks of LEAST..MOST bytes and replaces PAIRS of them, BATCH at a time: so many are freed, then as many are allocated
 * in their place. ORDER says which: the `oldest`, the `newest`, or `random` ones.
 */
#include "support.h"
#include <valgrind/callgrind.h>

enum { MOST_BLOCKS = 1 << 16 };
static void *blocks[MOST_BLOCKS];
static size_t places[MOST_BLOCKS];

static uint64_t state = 0x9e3779b97f4a7c15;
static inline uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 7);
    size_t table = strtoul(argv[1], NULL, 10);
    size_t least = strtoul(argv[2], NULL, 10), most = strtoul(argv[3], NULL, 10);
    size_t pairs = strtoul(argv[4], NULL, 10), batch = strtoul(argv[6], NULL, 10);
    char order = argv[5][0];
    CHECK(table >= 1 && table <= MOST_BLOCKS && least <= most && batch >= 1 && batch <= table);
    for (size_t i = 0; i < table; i++) CHECK((blocks[i] = malloc(least + next() % (most - least + 1))) != NULL);
    size_t oldest = 0;
    CALLGRIND_START_INSTRUMENTATION;
    for (size_t done = 0; done < pairs; done += batch) {
        for (size_t i = 0; i < batch; i++) {
            size_t at = table - 1 - i;
            if (order == 'o') at = oldest++ % table;
            if (order == 'r') do at = next() % table; while (blocks[at] == NULL);
            free(blocks[at]);
            blocks[at] = NULL;
            places[i] = at;
        }
        for (size_t i = 0; i < batch; i++) {
            size_t size = least + next() % (most - least + 1);
            CHECK((blocks[places[i]] = malloc(size)) != NULL);
        }
    }
    CALLGRIND_STOP_INSTRUMENTATION;
    return 0;
}
