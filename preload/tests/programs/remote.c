/*
 * Frees of other threads' blocks for counting instructions: `remote OWNERS EACH SIZE FREES ORDER`: OWNERS threads make EACH
 * blocks of SIZE bytes and wait; FREES of them are freed, of one owner after the other by `turns`, in the order in which they
 * were made or a `random` one.
 */
#include "support.h"
#include <valgrind/callgrind.h>

enum { MOST_OWNERS = 64, MOST_BLOCKS = 1 << 16 };
static void *blocks[MOST_BLOCKS];
static size_t owners, each, size;
static pthread_barrier_t made;

static void *own(void *number)
{
    for (size_t i = 0; i < each; i++) CHECK((blocks[(size_t)number * each + i] = malloc(size)) != NULL);
    pthread_barrier_wait(&made);
    pause();
    return NULL;
}

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 6);
    owners = strtoul(argv[1], NULL, 10), each = strtoul(argv[2], NULL, 10), size = strtoul(argv[3], NULL, 10);
    size_t frees = strtoul(argv[4], NULL, 10);
    CHECK(owners >= 1 && owners <= MOST_OWNERS && owners * each <= MOST_BLOCKS && frees <= owners * each);
    pthread_barrier_init(&made, NULL, owners + 1);
    for (size_t i = 0; i < owners; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, own, (void *)i) == 0);
    }
    pthread_barrier_wait(&made);
    uint64_t state = 1;
    for (size_t i = owners * each - 1; argv[5][0] == 'r' && i > 0; i--) {
        state = state * 6364136223846793005 + 1442695040888963407;
        size_t at = (state >> 33) % (i + 1);
        void *block = blocks[i];
        blocks[i] = blocks[at];
        blocks[at] = block;
    }
    CALLGRIND_START_INSTRUMENTATION;
    for (size_t i = 0; i < frees; i++) free(blocks[i % owners * each + i / owners]);
    CALLGRIND_STOP_INSTRUMENTATION;
    _exit(0);
}
