/* Limits that the program sets itself, and what it is told of them. */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <fcntl.h>

/* The library is preloaded, not linked: its functions are found by name. */
#define LIBRARY(function) ((typeof(&function))library_function(#function))
static void *library_function(const char *name)
{
    void *found = dlsym(RTLD_DEFAULT, name);
    CHECK(found != NULL);
    return found;
}

static void set(const char *name, size_t bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%zu", bytes);
    CHECK(LIBRARY(specmalloc_set_option)(name, text) == 0);
    CHECK(LIBRARY(specmalloc_get_option)(name, text, sizeof text) > 0);
    CHECK(strtoull(text, NULL, 10) == bytes);
}

/* As `resident`, without memory. */
static size_t resident_now(void)
{
    char text[128] = "";
    int file = open("/proc/self/statm", O_RDONLY);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    char *second = strchr(text, ' ');
    CHECK(second != NULL);
    return strtoul(second, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t held(void) { return LIBRARY(specmalloc_held_bytes)(); }

/* Allocates blocks of `size` and touches them, until there are no more or `most`; their list. */
static void **take(size_t size, size_t most, size_t *count)
{
    void **list = NULL;
    for (*count = 0; *count < most; ++*count) {
        errno = 0;
        void **block = malloc(size);
        if (block == NULL) {
            CHECK(errno == ENOMEM);
            break;
        }
        memset(block, 1, size);
        block[0] = list;
        list = block;
    }
    return list;
}

static void give(void **list)
{
    while (list != NULL) {
        void **next = list[0];
        free(list);
        list = next;
    }
}

/* What is resident stays within the limit, and all but a little of the limit can be used; again and again. */
static void hard_limit_bounds_what_is_resident(void)
{
    static const size_t sizes[] = {1024, 32768, 250000, MIB, 6 * MIB};
    size_t base = resident_now();
    set("limit", 64 * MIB);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t count;
            void **list = take(sizes[i], SIZE_MAX, &count);
            CHECK(held() <= 64 * MIB);
            CHECK(count * sizes[i] >= 54 * MIB);
            /* Beside what is held: a huge page that is touched ahead, records, the program's own pages. */
            CHECK(resident_now() <= base + 68 * MIB);
            CHECK(realloc(list, 64 * MIB) == NULL && errno == ENOMEM);
            CHECK(calloc(64, MIB) == NULL && memalign(MIB, 64 * MIB) == NULL);
            give(list);
        }
    }
    set("limit", 0);
    free(memset(malloc(100 * MIB), 1, 100 * MIB));
}

/* What is held is what is resident, but for the allocator's own records and the program's own pages, and for what slices
 * hold beside the block. (Where a block fills them that is another slice, while there is no limit.) */
static void held_is_what_is_resident(void)
{
    static const size_t sizes[] = {65536 - 1024, MIB - 1024, 6 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        LIBRARY(specmalloc_trim)();
        size_t count, before = resident_now(), held_before = held();
        void **list = take(sizes[i], 64 * MIB / sizes[i], &count);
        size_t more = resident_now() - before, held_more = held() - held_before;
        size_t difference = more > held_more ? more - held_more : held_more - more;
        CHECK(difference <= 64 * MIB / 50);
        give(list);
    }
}

static int calls, failing, gives;
static size_t last_held, last_wanted;
static void **cache;

static void on_pressure(size_t held_now, size_t wanted, int fails)
{
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    failing += fails;
    last_held = held_now, last_wanted = wanted;
    /* It may allocate and free, and is not called for that. */
    void *block = malloc(100000), *small = malloc(100);
    for (int i = 0; i < gives && cache != NULL; i++) {
        void **next = cache[0];
        free(cache);
        cache = next;
    }
    free(small);
    free(block);
    errno = EBUSY;
}

static void soft_limit_is_told_once(void)
{
    size_t count;
    LIBRARY(specmalloc_on_pressure)(on_pressure);
    set("soft_limit", 32 * MIB);
    void **list = take(MIB, 25, &count);
    CHECK(calls == 0);
    errno = 0;
    void **more = take(MIB, 25, &count);
    CHECK(errno == 0 && calls == 1 && failing == 0 && count == 25);
    CHECK(last_held > 32 * MIB && last_held <= 34 * MIB && last_wanted == MIB);
    give(more);
    more = take(1000, 25000, &count); /* It had fallen. */
    CHECK(calls == 2);
    give(more);
    errno = 4711;
    void *huge = malloc(10 * MIB);
    CHECK(calls == 3 && errno == 4711);
    free(huge);
    huge = malloc(5 * MIB);
    CHECK(calls == 3);
    huge = realloc(huge, 12 * MIB);
    CHECK(huge != NULL && calls == 4);
    free(huge);
    give(list);
}

static void another_soft_limit_is_told_anew(void)
{
    size_t count;
    LIBRARY(specmalloc_on_pressure)(on_pressure);
    set("soft_limit", 32 * MIB);
    void **list = take(MIB, 50, &count);
    CHECK(calls == 1);
    set("soft_limit", 40 * MIB);
    void **more = take(MIB, 2, &count);
    CHECK(calls == 2);
    give(more);
    give(list);
}

/* What the function gives back serves the request; a request that it cannot serve fails. */
static void hard_limit_gives_way_to_what_the_program_gives_back(void)
{
    size_t count;
    set("limit", 64 * MIB);
    cache = take(MIB, 50, &count);
    gives = 3;
    LIBRARY(specmalloc_on_pressure)(on_pressure);
    void *block = malloc(30 * MIB);
    CHECK(block != NULL && held() <= 64 * MIB);
    memset(block, 1, 30 * MIB);
    CHECK(calls >= 5 && calls == failing && last_wanted == 30 * MIB);
    int before = calls;
    CHECK(malloc(65 * MIB) == NULL && errno == ENOMEM && calls == before); /* Never. */
    CHECK(malloc(63 * MIB) == NULL && errno == ENOMEM && calls > before);
    CHECK(cache == NULL);
    before = calls;
    CHECK(malloc(63 * MIB) == NULL && calls == before + 1);
    free(block);
    block = malloc(60 * MIB);
    CHECK(block != NULL);
    free(block);
}

static void *in_handler;
static void handle(int number)
{
    (void)number;
    in_handler = malloc(62 * MIB);
}

/* Neither in a handler nor with signals blocked is the function called; afterwards the soft limit is told. */
static void not_in_a_handler(void)
{
    size_t count;
    set("soft_limit", 32 * MIB);
    set("limit", 64 * MIB);
    LIBRARY(specmalloc_on_pressure)(on_pressure);
    CHECK(signal(SIGUSR1, handle) != SIG_ERR);
    void **list = take(MIB, 3, &count);
    raise(SIGUSR1);
    CHECK(in_handler == NULL && calls == 0);
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, &before) == 0);
    void **more = take(MIB, 40, &count);
    CHECK(count == 40 && calls == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    void *block = malloc(MIB);
    CHECK(calls == 1 && failing == 0);
    free(block);
    give(list);
    give(more);
}

static void *fill_up(void *rounds)
{
    for (intptr_t round = 0; round < (intptr_t)rounds; round++) {
        size_t count, size = round % 3 == 0 ? 3000 : round % 3 == 1 ? 300000 : 5 * MIB;
        void **list = take(size, 24 * MIB / size, &count);
        CHECK(held() <= 64 * MIB);
        give(list);
    }
    return NULL;
}

/* Threads that want twice of what there is: never more, and what is left at the end is all of it. */
static void threads_share_the_limit(void)
{
    pthread_t threads[6];
    set("limit", 64 * MIB);
    for (int i = 0; i < 6; i++) CHECK(pthread_create(&threads[i], NULL, fill_up, (void *)30) == 0);
    for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
    size_t count;
    give(take(MIB, 60, &count));
    CHECK(count >= 58);
}

/* A child has the limit, too, whatever the other threads were in the middle of. */
static void children_have_the_limit(void)
{
    pthread_t threads[3];
    set("limit", 64 * MIB);
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, fill_up, (void *)15) == 0);
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            size_t count;
            alarm(60);
            give(take(100000, SIZE_MAX, &count));
            CHECK(held() <= 64 * MIB);
            set("limit", 512 * MIB);
            give(take(MIB, 400, &count));
            CHECK(count == 400);
            _exit(0);
        }
        ends_well(child);
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

static void wants_more_itself(size_t held_now, size_t wanted, int fails)
{
    (void)held_now, (void)wanted, (void)fails;
    calls++;
    CHECK(calls < 10 && malloc(40 * MIB) == NULL && errno == ENOMEM);
}

/* What fails inside the function fails without it. */
static void not_inside_itself(void)
{
    size_t count;
    set("limit", 64 * MIB);
    LIBRARY(specmalloc_on_pressure)(wants_more_itself);
    void **list = take(MIB, 50, &count);
    CHECK(count == 50 && calls == 0);
    CHECK(malloc(30 * MIB) == NULL && calls == 1);
    give(list);
}

static int inside, is_held = 1;

static void stays_inside(size_t held_now, size_t wanted, int fails)
{
    (void)held_now, (void)wanted, (void)fails;
    __atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&is_held, __ATOMIC_SEQ_CST)) usleep(1000);
}

static void *wants_too_much(void *unused)
{
    CHECK(malloc(30 * MIB) == NULL);
    return unused;
}

/* In a child nobody is inside the function, however many of its parent's threads were. */
static void a_child_asks_the_function_itself(void)
{
    pthread_t threads[8];
    size_t count;
    set("limit", 64 * MIB);
    LIBRARY(specmalloc_on_pressure)(stays_inside);
    void **list = take(MIB, 50, &count);
    CHECK(count == 50);
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], NULL, wants_too_much, NULL) == 0);
    while (__atomic_load_n(&inside, __ATOMIC_SEQ_CST) < 8) usleep(1000);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        is_held = inside = 0;
        CHECK(malloc(30 * MIB) == NULL && inside > 0);
        _exit(0);
    }
    ends_well(child);
    __atomic_store_n(&is_held, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    give(list);
}

static int asked;

static void counts_who_asks(size_t held_now, size_t wanted, int fails)
{
    (void)held_now, (void)wanted, (void)fails;
    __atomic_fetch_add(&asked, 1, __ATOMIC_SEQ_CST);
}

enum { ASKERS = 6, TIMES = 200 };

static void *asks_again_and_again(void *unused)
{
    for (int i = 0; i < TIMES; i++) CHECK(malloc(30 * MIB) == NULL);
    return unused;
}

/* Who fails looks for what others have, so that these are refused at their own heaps: they are not inside of them. */
static void each_thread_that_fails_asks_the_function(void)
{
    pthread_t threads[ASKERS];
    size_t count;
    set("limit", 64 * MIB);
    LIBRARY(specmalloc_on_pressure)(counts_who_asks);
    void **list = take(MIB, 50, &count);
    CHECK(count == 50 && asked == 0);
    for (int i = 0; i < ASKERS; i++) CHECK(pthread_create(&threads[i], NULL, asks_again_and_again, NULL) == 0);
    for (int i = 0; i < ASKERS; i++) pthread_join(threads[i], NULL);
    /* Again where less was held after it, whoever gave that back. */
    CHECK(asked >= ASKERS * TIMES);
    give(list);
}

/* By the environment: limit:32M. */
static void limit_of_the_environment(void)
{
    size_t count;
    give(take(MIB, 100, &count));
    CHECK(count >= 28 && count <= 32);
}

MAIN({"hard_limit_bounds_what_is_resident", hard_limit_bounds_what_is_resident},
     {"held_is_what_is_resident", held_is_what_is_resident},
     {"soft_limit_is_told_once", soft_limit_is_told_once},
     {"another_soft_limit_is_told_anew", another_soft_limit_is_told_anew},
     {"hard_limit_gives_way_to_what_the_program_gives_back", hard_limit_gives_way_to_what_the_program_gives_back},
     {"not_in_a_handler", not_in_a_handler},
     {"not_inside_itself", not_inside_itself},
     {"threads_share_the_limit", threads_share_the_limit},
     {"children_have_the_limit", children_have_the_limit},
     {"a_child_asks_the_function_itself", a_child_asks_the_function_itself},
     {"each_thread_that_fails_asks_the_function", each_thread_that_fails_asks_the_function},
     {"limit_of_the_environment", limit_of_the_environment})
