/*
 * Pairs of free and malloc for counting instructions: `instructions TABLE LEAST MOST PAIRS` keeps TABLE blocks of
 * LEAST..MOST bytes and replaces one at random PAIRS times.
 */
#include "support.h"

enum { MOST_BLOCKS = 256 };
static void *blocks[MOST_BLOCKS];

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
    CHECK(argc == 5);
    size_t table = strtoul(argv[1], NULL, 10);
    size_t least = strtoul(argv[2], NULL, 10), most = strtoul(argv[3], NULL, 10);
    size_t pairs = strtoul(argv[4], NULL, 10);
    CHECK(table >= 1 && table <= MOST_BLOCKS && least <= most);
    for (size_t i = 0; i < table; i++) CHECK((blocks[i] = malloc(least + next() % (most - least + 1))) != NULL);
    for (size_t pair = 0; pair < pairs; pair++) {
        void **block = &blocks[next() % table];
        size_t size = least + next() % (most - least + 1);
        free(*block);
        *block = malloc(size);
        CHECK(*block != NULL);
    }
    return 0;
}
