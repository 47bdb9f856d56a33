/*
 * Servers that hand their blocks on: each of THREADS threads has a table of blocks, replaces blocks of it at random, and
 * after a while starts a thread that goes on with the table, and ends. (The pattern is Larson and Krishnan's, 1998.)
 *
 * A thread's heap is made when no heap is idle, and heaps need memory of their own. So that their number is steady, too,
 * an heir waits for the end of the thread before it, and the program begins with as many threads at a time as it can
 * have heaps in use at a time: its threads, as many idle heaps that these and the helper look into, and a few more.
 *
 * Prints how often the allocator mapped, unmapped and protected memory between FROM and TO million operations:
 * `steady THREADS FROM TO`.
 */
#include "specmalloc.h"
#include "support.h"
#include <dlfcn.h>
#include <semaphore.h>

enum { MOST_THREADS = 16, BLOCKS_MIN = 1000, BLOCKS_MAX = 5000, LEAST = 8, MOST = 1000, SHIFT = 100000 };

struct table {
    void *blocks[BLOCKS_MAX];
    size_t count;
    uint64_t state;
    uint64_t operations; /* so far */
    pthread_t last;      /* the thread that had the table before, if there was one */
    int inherited;
};

static struct table tables[MOST_THREADS];
static sem_t halted, go_on;

static inline uint64_t next(struct table *table)
{
    table->state ^= table->state << 13;
    table->state ^= table->state >> 7;
    table->state ^= table->state << 17;
    return table->state;
}

static void *allocate(struct table *table)
{
    char *block = malloc(LEAST + next(table) % (MOST - LEAST + 1));
    CHECK(block != NULL);
    *block = 1;
    return block;
}

/* How many operations each table has done when all halt. */
static uint64_t halts[2];

static void *serve(void *argument)
{
    struct table *table = argument;
    if (table->inherited) CHECK(pthread_join(table->last, NULL) == 0);
    for (int i = 0; i < SHIFT; i++) {
        void **block = &table->blocks[next(table) % table->count];
        free(*block);
        *block = allocate(table);
        table->operations++;
        if (table->operations == halts[0] || table->operations == halts[1]) {
            sem_post(&halted);
            while (sem_wait(&go_on) != 0) continue;
            if (table->operations == halts[1]) return NULL;
        }
    }
    pthread_t heir;
    table->inherited = 1;
    table->last = pthread_self();
    CHECK(pthread_create(&heir, NULL, serve, table) == 0);
    return NULL;
}

static void *crowd(void *barrier)
{
    void *block = malloc(100);
    pthread_barrier_wait(barrier);
    free(block);
    return NULL;
}

static void make_heaps(size_t count)
{
    pthread_t crowded[2 * MOST_THREADS + 4];
    pthread_barrier_t barrier;
    CHECK(pthread_barrier_init(&barrier, NULL, count) == 0);
    for (size_t i = 0; i < count; i++) CHECK(pthread_create(&crowded[i], NULL, crowd, &barrier) == 0);
    for (size_t i = 0; i < count; i++) CHECK(pthread_join(crowded[i], NULL) == 0);
}

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 4);
    size_t threads = strtoul(argv[1], NULL, 10);
    CHECK(threads >= 1 && threads <= MOST_THREADS);
    for (int i = 0; i < 2; i++) halts[i] = strtoul(argv[2 + i], NULL, 10) * 1000000 / threads;
    typeof(&specmalloc_get_statistics) get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    CHECK(get != NULL && sem_init(&halted, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
    make_heaps(2 * threads + 4);
    for (size_t i = 0; i < threads; i++) {
        struct table *table = &tables[i];
        table->state = 0x9e3779b97f4a7c15 + i;
        table->count = BLOCKS_MIN + (BLOCKS_MAX - BLOCKS_MIN) * (i + 1) / threads;
        for (size_t j = 0; j < table->count; j++) table->blocks[j] = allocate(table);
        pthread_t first;
        CHECK(pthread_create(&first, NULL, serve, table) == 0);
    }
    struct specmalloc_statistics at[2];
    for (int halt = 0; halt < 2; halt++) {
        for (size_t i = 0; i < threads; i++) {
            while (sem_wait(&halted) != 0) continue;
        }
        CHECK(get(&at[halt], sizeof at[halt]) >= sizeof at[halt]);
        for (size_t i = 0; halt == 0 && i < threads; i++) sem_post(&go_on);
    }
    printf("%lu %lu %lu\n", (unsigned long)(at[1].map_calls - at[0].map_calls),
           (unsigned long)(at[1].unmap_calls - at[0].unmap_calls),
           (unsigned long)(at[1].protect_calls - at[0].protect_calls));
    fflush(stdout);
    _exit(0);
}
