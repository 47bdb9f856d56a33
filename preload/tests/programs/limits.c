/* What happens when memory runs out, and after. */
#include "support.h"
#include <threads.h>
#include <ucontext.h>

static void limit(int resource, size_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    CHECK(setrlimit(resource, &limit) == 0);
}

/* Allocates blocks of `size` until there are no more and returns their list: each block's first word is the next. */
static void **exhaust(size_t size, size_t *count)
{
    void **list = NULL;
    for (*count = 0;; ++*count) {
        errno = 0;
        void **block = malloc(size);
        if (block == NULL) break;
        block[0] = list;
        list = block;
    }
    CHECK(errno == ENOMEM);
    return list;
}

static size_t release(void **list)
{
    size_t count = 0;
    while (list != NULL) {
        void **next = list[0];
        free(list);
        list = next;
        count++;
    }
    return count;
}

static void rounds_of(size_t size)
{
    size_t first, count;
    void **list = exhaust(size, &first);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        CHECK(malloc(100 * MIB) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(100, MIB) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(memalign(MIB, 100 * MIB) == NULL && errno == ENOMEM);
        if (list != NULL) {
            errno = 0;
            CHECK(realloc(list, 100 * MIB) == NULL && errno == ENOMEM); /* and the list is as it was */
        }
        CHECK(release(list) == first);
        list = exhaust(size, &count);
        CHECK(count >= first - first / 20);
        first = count;
    }
    printf("%zu\n", first * size / MIB);
    release(list);
    void *block = malloc(100 * MIB);
    CHECK(block != NULL);
    memset(block, 1, 100 * MIB);
    free(block);
}

static void exhaust_with_large(void)
{
    limit(RLIMIT_AS, 512 * MIB);
    rounds_of(MIB);
}

static void exhaust_with_small(void)
{
    limit(RLIMIT_AS, 512 * MIB);
    rounds_of(1024);
}

static void exhaust_with_huge(void)
{
    limit(RLIMIT_AS, 512 * MIB);
    rounds_of(40 * MIB);
}

static void once_with_the_smallest_huge(int resource)
{
    size_t count;
    free(opaque(malloc(1)));
    limit(resource, 512 * MIB);
    void **list = exhaust(5 * MIB, &count);
    printf("%zu\n", count * 5);
    release(list);
}

static void exhaust_once_with_the_smallest_huge(void) { once_with_the_smallest_huge(RLIMIT_AS); }

static void exhaust_the_data_segment_once_with_the_smallest_huge(void) { once_with_the_smallest_huge(RLIMIT_DATA); }

static void exhaust_the_data_segment(void)
{
    limit(RLIMIT_DATA, 256 * MIB);
    rounds_of(10000);
}

/* Memory freed as one kind of block serves another. */
static void from_small_to_huge_and_back(void)
{
    limit(RLIMIT_AS, 512 * MIB);
    for (int round = 0; round < 4; round++) {
        size_t count;
        release(exhaust(1000, &count));
        CHECK(count >= 350 * MIB / 1000);
        void *huge = malloc(350 * MIB);
        CHECK(huge != NULL);
        memset(huge, 1, 350 * MIB);
        free(huge);
    }
}

static void *exhaust_in_thread(void *unused)
{
    for (int round = 0; round < 5; round++) {
        size_t count;
        release(exhaust(500, &count));
        release(exhaust(100000, &count));
    }
    return unused;
}

static void threads_exhaust_together(void)
{
    pthread_t threads[4];
    limit(RLIMIT_AS, 256 * MIB);
    for (int i = 0; i < 4; i++) {
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 128 * KIB);
        CHECK(pthread_create(&threads[i], &attributes, exhaust_in_thread, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    void *block = malloc(100 * MIB);
    CHECK(block != NULL);
    free(block);
}

static void *does_nothing(void *unused)
{
    return unused;
}

/* What is free may be mapped: not where that leaves no addresses for a stack. */
static void a_thread_after_all_was_freed(void)
{
    enum { COUNT = 100 };
    char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) memset(blocks[i] = malloc(MIB), 1, MIB);
    limit(RLIMIT_AS, 300 * MIB);
    size_t count;
    void **list = exhaust(3000, &count);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    release(list);
    release(exhaust(3000, &count));
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * MIB);
    CHECK(pthread_create(&thread, &attributes, does_nothing, NULL) == 0);
    pthread_join(thread, NULL);
    thrd_t another;
    list = exhaust(3000, &count);
    release(list);
    CHECK(thrd_create(&another, (thrd_start_t)does_nothing, NULL) == thrd_success);
    thrd_join(another, NULL);
}

/* Run with an address space that was small from the start. */
static void works_in_64_mib(void)
{
    size_t count;
    release(exhaust(1000, &count));
    printf("%zu\n", count * 1000 / MIB);
    char *block = malloc(8 * MIB);
    CHECK(block != NULL);
    memset(block, 1, 8 * MIB);
    free(block);
}

/* Address space that is reserved must not become memory when the program locks all it has and will have. */
static void locked_memory_stays_small(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        CHECK(errno == EPERM || errno == ENOMEM);
        exit(3);
    }
    void *blocks[100];
    for (int i = 0; i < 100; i++) CHECK((blocks[i] = malloc(10000)) != NULL);
    printf("%zu\n", resident());
    for (int i = 0; i < 100; i++) free(blocks[i]);
    malloc_trim(0);
    CHECK(malloc(10) != NULL);
}

/* What lies behind huge blocks is not theirs, and must not be resident. */
static void locked_huge_blocks_have_nothing_behind_them(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        CHECK(errno == EPERM || errno == ENOMEM);
        exit(3);
    }
    void *blocks[4];
    for (int i = 0; i < 4; i++) CHECK((blocks[i] = malloc(10 * MIB)) != NULL);
    for (int i = 0; i < 4; i++) CHECK((blocks[i] = realloc(blocks[i], 12 * MIB)) != NULL);
    printf("%zu\n", resident());
    for (int i = 0; i < 4; i++) free(blocks[i]);
}

static size_t absent_pages(char *from, size_t bytes)
{
    enum { PAGE = 4096 };
    static unsigned char found[4096];
    char *first = (char *)((uintptr_t)from & -(uintptr_t)PAGE);
    size_t pages = (from + bytes - first + PAGE - 1) / PAGE, absent = 0;
    for (size_t page = 0; page < pages; page += sizeof found) {
        size_t count = pages - page < sizeof found ? pages - page : sizeof found;
        CHECK(mincore(first + page * PAGE, count * PAGE, found) == 0);
        for (size_t i = 0; i < count; i++) absent += !(found[i] & 1);
    }
    return absent;
}

/* Locks what there is, of which blocks of all kinds are to be resident, touched or not, as is a mapping of the program's
   own; and what comes is locked as the flags say. */
static void lock(int flags)
{
    static const size_t sizes[] = {300, 20000, 100000, 700000, 5000000};
    static char *blocks[sizeof sizes / sizeof *sizes][10];
    for (size_t kind = 0; kind < sizeof sizes / sizeof *sizes; kind++)
        for (int i = 0; i < 10; i++) CHECK((blocks[kind][i] = malloc(sizes[kind])) != NULL);
    free(blocks[4][9]);
    char *own = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(own != MAP_FAILED && absent_pages(own, MIB) > 0 && absent_pages(blocks[4][0], 5000000) > 0);
    errno = 77;
    if (mlockall(flags) != 0) {
        CHECK(errno == EPERM || errno == ENOMEM);
        exit(3);
    }
    CHECK(errno == 77);
    printf("%zu\n", resident());
    CHECK(absent_pages(own, MIB) == 0);
    for (size_t kind = 0; kind < sizeof sizes / sizeof *sizes; kind++)
        for (int i = 0; i < 10 - (kind == 4); i++) CHECK(absent_pages(blocks[kind][i], sizes[kind]) == 0);
    char *next = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(next != MAP_FAILED && (absent_pages(next, MIB) == 0) == ((flags & MCL_FUTURE) != 0));
    /* Also what is touched later is locked. */
    CHECK((blocks[4][9] = malloc(5000000)) != NULL);
    memset(blocks[4][9], 1, 5000000);
    CHECK(madvise((void *)(((uintptr_t)blocks[4][9] + 4096) & -4096ul), 4096, MADV_DONTNEED) != 0 && errno == EINVAL);
    CHECK(munlockall() == 0);
}

static void what_is_there_is_locked(void) { lock(MCL_CURRENT); }
static void what_is_there_and_what_comes_is_locked(void) { lock(MCL_CURRENT | MCL_FUTURE); }

static ucontext_t outside, inside;

static void allocates_more_than_an_arena(void)
{
    for (int i = 0; i < 20; i++) CHECK(opaque(malloc(3 * MIB)) != NULL);
}

/* A coroutine, or a signal handler on its own stack: the call that finds out what the process may have needs little. */
static void limits_are_learned_on_a_small_stack(void)
{
    size_t size = 8 * KIB;
    char *stack = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED && mprotect(stack, size, PROT_NONE) == 0);
    CHECK(getcontext(&inside) == 0);
    inside.uc_stack.ss_sp = stack + size;
    inside.uc_stack.ss_size = size;
    inside.uc_link = &outside;
    makecontext(&inside, allocates_more_than_an_arena, 0);
    CHECK(swapcontext(&outside, &inside) == 0);
}

/* A program at its limit frees a part of what it has and goes on. What it frees counts against the limit whether it is
 * resident or not, and is not faulted in again and again. */
static void at_the_limit_pages_stay(void)
{
    enum { COUNT = 30000, HELD = 20000 };
    static char *held[HELD];
    limit(RLIMIT_DATA, 60 * MIB);
    unsigned state = 7, refused = 0;
    int count = 0;
    for (int i = 0; i < COUNT; i++) {
        state = state * 1664525 + 1013904223;
        unsigned kind = (state >> 8) % 100;
        size_t size = (state >> 4) % (kind < 70 ? 3000 : kind < 95 ? 60000 : 3000000) + 1;
        char *block = count < HELD ? malloc(size) : NULL;
        if (block == NULL) {
            refused++;
            for (int left = count / 3; left > 0; left--) {
                state = state * 1664525 + 1013904223;
                int which = (int)((state >> 8) % (unsigned)count);
                free(held[which]);
                held[which] = held[--count];
            }
            continue;
        }
        for (size_t at = 0; at < size; at += 4 * KIB) block[at] = 1;
        held[count++] = block;
    }
    struct rusage usage;
    CHECK(refused > 50 && getrusage(RUSAGE_SELF, &usage) == 0);
    if (usage.ru_minflt > 80000) fprintf(stderr, "%ld faults\n", usage.ru_minflt), _exit(1);
}

MAIN(CASE(at_the_limit_pages_stay), CASE(exhaust_once_with_the_smallest_huge), CASE(exhaust_the_data_segment_once_with_the_smallest_huge),
     CASE(limits_are_learned_on_a_small_stack), CASE(exhaust_with_large), CASE(exhaust_with_small), CASE(exhaust_with_huge), CASE(exhaust_the_data_segment),
     CASE(from_small_to_huge_and_back), CASE(threads_exhaust_together), CASE(a_thread_after_all_was_freed),
     CASE(works_in_64_mib),
     CASE(what_is_there_is_locked), CASE(what_is_there_and_what_comes_is_locked), CASE(locked_memory_stays_small), CASE(locked_huge_blocks_have_nothing_behind_them))
