/* A program that is called when a sample is allocated and when it is freed. */
#include "specmalloc.h"
#include "support.h"
#include <sys/time.h>

#pragma weak specmalloc_watch_samples
#pragma weak specmalloc_set_option

enum { MOST = 1 << 16, DEEPEST = 64 };

/* Samples that are told, by the lowest bits of their identity; volatile, for compilers believe that malloc calls nothing
   of this file. */
static struct { volatile uint64_t id; void *volatile block; volatile size_t size, usable; } live[MOST];
static volatile long births, deaths, strange, inside, nested;
static volatile uint64_t last_age;
static volatile size_t last_size;
static volatile uintptr_t last_stack[DEEPEST];
static volatile size_t last_depth;
static volatile int allocates, forks;
static volatile pid_t child;

static void keep(const struct specmalloc_sample *sample)
{
    last_age = sample->age;
    last_size = sample->size;
    last_depth = sample->depth < DEEPEST ? sample->depth : DEEPEST;
    for (size_t at = 0; at < last_depth; at++) last_stack[at] = sample->stack[at];
    errno = ERANGE; /* The allocator's caller must not see it. */
}

static void use_the_allocator(void)
{
    char *blocks[50];
    for (int at = 0; at < 50; at++) memset(blocks[at] = malloc(100 * at + 1), at, 100 * at + 1);
    for (int at = 0; at < 50; at++) CHECK((blocks[at] = realloc(blocks[at], 40000 + at))[0] == at);
    for (int at = 0; at < 50; at++) free(blocks[at]);
}

static _Thread_local volatile int depth;

static void allocated(void *context, const struct specmalloc_sample *sample)
{
    CHECK(context == &live);
    if (depth++ != 0) __atomic_fetch_add(&nested, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&births, 1, __ATOMIC_RELAXED);
    typeof(&live[0]) here = &live[sample->id % MOST];
    if (here->id != 0 || sample->age != 0 || sample->usable < sample->size || sample->rate != 1) strange++;
    here->block = sample->block;
    here->size = sample->size;
    here->usable = sample->usable;
    here->id = sample->id;
    if (allocates) use_the_allocator();
    if (forks) {
        forks = 0;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid != 0) child = pid;
    }
    keep(sample);
    depth--;
}

static void freed(void *context, const struct specmalloc_sample *sample)
{
    CHECK(context == &live);
    if (depth++ != 0) __atomic_fetch_add(&nested, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&deaths, 1, __ATOMIC_RELAXED);
    typeof(&live[0]) here = &live[sample->id % MOST];
    if (here->id != sample->id || here->size != sample->size || here->block != sample->block) strange++;
    here->id = 0;
    if (allocates) use_the_allocator();
    keep(sample);
    depth--;
}

static const struct specmalloc_watcher watcher = {allocated, freed, &live};

static void begin(void)
{
    CHECK(specmalloc_watch_samples != NULL && specmalloc_watch_samples(&watcher) == 0);
    free(opaque(malloc(1)));
    CHECK(specmalloc_set_option("profile", "1") == 0);
    /* From its next slow path on the thread is sampled: what lies ready does not count. */
    free(opaque(malloc(70000)));
    CHECK(births == 1 && deaths == 1);
    births = deaths = 0;
}

static void end(void)
{
    CHECK(specmalloc_set_option("profile", "off") == 0);
    CHECK(strange == 0 && nested == 0);
}

/* Whether the last stack has the call that returns to `address`, and how deep. */
static int depth_of(void *address)
{
    for (size_t at = 0; at < last_depth; at++)
        if (last_stack[at] + 1 == (uintptr_t)address) return (int)at;
    return -1;
}

static void *volatile came_from;

__attribute__((noinline)) static char *leaf(size_t size)
{
    came_from = __builtin_return_address(0);
    errno = 7;
    char *block = malloc(opaque_size(size));
    CHECK(errno == 7);
    return opaque(block);
}

__attribute__((noinline)) static void gives(char *block)
{
    came_from = __builtin_return_address(0);
    errno = 7;
    free(opaque(block));
    CHECK(errno == 7);
}

static void a_sample_is_told_from_its_malloc_to_its_free(void)
{
    begin();
    static const size_t sizes[] = {1, 24, 1000, 4096, 32768, 40000, 1000000, 5000000};
    for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
        long before = births;
        char *block = leaf(sizes[at]);
        /* (Of more than 4 MiB only the last page is known.) */
        size_t size = sizes[at] <= 4 * MIB ? sizes[at] : malloc_usable_size(block);
        CHECK(size >= sizes[at] && size - sizes[at] < 4096);
        CHECK(births == before + 1 && last_size == size && depth_of(came_from) == 1);
        typeof(&live[0]) here = NULL;
        for (size_t place = 0; place < MOST; place++)
            if (live[place].id != 0 && live[place].block == block) here = &live[place];
        CHECK(here != NULL && here->size == size && here->usable == malloc_usable_size(block));
        memset(block, 1, here->usable);
        usleep(2000);
        before = deaths;
        gives(block);
        CHECK(deaths == before + 1 && here->id == 0 && depth_of(came_from) == 1);
        CHECK(last_age >= 2000000 && last_age < 60ull * 1000000000);
    }
    long before = births;
    CHECK(specmalloc_watch_samples(NULL) == 0);
    free(leaf(100));
    CHECK(births == before && births == deaths);
    /* Of what was not told when it was allocated, nothing is told. */
    char *block = leaf(100);
    CHECK(specmalloc_watch_samples(&watcher) == 0);
    free(block);
    CHECK(births == before && births == deaths);
    end();
}

static void what_grows_is_freed_and_allocated(void)
{
    begin();
    char *block = leaf(100000);
    for (size_t size = 200000; size < 20000000; size += 777777) {
        long born = births, died = deaths;
        CHECK((block = realloc(opaque(block), size)) != NULL);
        CHECK(births == born + 1 && deaths == died + 1);
    }
    free(block);
    CHECK(births == deaths);
    end();
}

static void a_watcher_allocates_itself(void)
{
    allocates = 1;
    begin();
    for (size_t round = 0; round < 200; round++) free(leaf(round * 37 + 1));
    CHECK(births == deaths && births == 200);
    end();
}

static char *volatile shared[256];

static void *works(void *number)
{
    unsigned random = (unsigned)(uintptr_t)number;
    for (int round = 0; round < 4000; round++) {
        random = random * 1103515245 + 12345;
        char *new = malloc(random >> 8 & 4095);
        free(__atomic_exchange_n(&shared[random >> 20 & 255], new, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static void threads_are_told_of(void)
{
    begin();
    long before = births - deaths;
    pthread_t threads[8];
    for (uintptr_t at = 0; at < 8; at++) CHECK(pthread_create(&threads[at], NULL, works, (void *)at) == 0);
    for (int at = 0; at < 8; at++) CHECK(pthread_join(threads[at], NULL) == 0);
    for (int at = 0; at < 256; at++) free(shared[at]);
    CHECK(births > 30000);
    /* But for what the C library keeps for threads. */
    CHECK(births - deaths - before >= 0 && births - deaths - before <= 64);
    end();
}

static void on_signal(int signal)
{
    (void)signal;
    free(opaque(malloc(300)));
}

static void in_handlers(void)
{
    CHECK(signal(SIGPROF, on_signal) != SIG_ERR);
    begin();
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    for (int round = 0; round < 100000; round++) free(opaque(malloc(round & 2047)));
    CHECK(setitimer(ITIMER_PROF, &never, NULL) == 0);
    /* A handler that came in while the thread was inside a function of the watcher's was not told. */
    CHECK(births == deaths && births >= 100000);
    nested = 0;
    end();
}

static void a_child_is_told_of(void)
{
    begin();
    char *before = leaf(5000);
    forks = 1;
    char *block = leaf(6000);
    pid_t pid = child;
    long born = births;
    for (int round = 0; round < 100; round++) free(leaf(100));
    CHECK(births == born + 100);
    long died = deaths;
    free(block);
    free(before);
    CHECK(deaths == died + 2);
    end();
    if (pid == 0) _exit(0);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void wrong_watchers(void)
{
    static const struct specmalloc_watcher nothing = {NULL, NULL, NULL};
    CHECK(specmalloc_watch_samples(&nothing) == EINVAL);
    static const struct specmalloc_watcher half = {NULL, freed, &live};
    CHECK(specmalloc_watch_samples(&half) == 0);
    CHECK(specmalloc_set_option("profile", "1") == 0);
    free(leaf(70000));
    CHECK(births == 0 && deaths == 1);
    CHECK(specmalloc_watch_samples(NULL) == 0);
}

static void without_the_allocator(void)
{
    CHECK(specmalloc_set_option == NULL && specmalloc_watch_samples != NULL);
    CHECK(specmalloc_watch_samples(&watcher) == ENOSYS);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        CASE(a_sample_is_told_from_its_malloc_to_its_free), CASE(what_grows_is_freed_and_allocated),
        CASE(a_watcher_allocates_itself), CASE(threads_are_told_of), CASE(in_handlers), CASE(a_child_is_told_of),
        CASE(wrong_watchers), CASE(without_the_allocator),
    };
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
