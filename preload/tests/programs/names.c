/* A program with functions of its own that are called as the C library's are, which ISO C leaves to it. Nobody else is to call
 * them: what they do is none of his business. */
#include "support.h"

static void never(const char *name)
{
    fprintf(stderr, "the program's own %s was called\n", name);
    _exit(1);
}

#define OWN(name) __attribute__((visibility("default"))) long own_##name(void) __asm__(#name); \
    long own_##name(void) { never(#name); return 0; }

OWN(mmap) OWN(mmap64) OWN(munmap) OWN(mremap) OWN(mprotect) OWN(madvise) OWN(mincore) OWN(mlock) OWN(munlock)
OWN(open) OWN(open64) OWN(openat) OWN(close) OWN(pread) OWN(pread64) OWN(fstat) OWN(fstat64) OWN(fcntl) OWN(ftruncate)
OWN(getrlimit) OWN(getrlimit64) OWN(syscall) OWN(sched_yield) OWN(gettid) OWN(getppid) OWN(sched_getaffinity)
OWN(sched_setaffinity) OWN(sched_setscheduler) OWN(getrandom) OWN(sbrk) OWN(brk) OWN(tgkill) OWN(poll) OWN(usleep)

static void *work(void *seed)
{
    unsigned state = (unsigned)(uintptr_t)seed;
    char *held[200] = {0};
    for (int i = 0; i < 20000; i++) {
        state = state * 1664525 + 1013904223;
        size_t size = (state >> 8) % (i % 50 ? 3000 : i % 500 ? 300000 : 40 * MIB) + 1;
        char **place = &held[(state >> 20) % 200];
        free(*place);
        CHECK((*place = i % 3 ? malloc(size) : calloc(1, size)) != NULL);
        (*place)[0] = (*place)[size - 1] = 1;
        if (i % 7 == 0) CHECK((*place = realloc(*place, 2 * size)) != NULL);
    }
    for (int i = 0; i < 200; i++) free(held[i]);
    return NULL;
}

static void all_kinds_of_use(void)
{
    pthread_t threads[3];
    work((void *)1);
    malloc_trim(0);
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 2)) == 0);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    malloc_trim(0);
    /* The helper has come to its looks. */
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 200000000}, NULL);
}

static void message_of_a_double_free(void)
{
    char *volatile block = malloc(40);
    free(block);
    free(block);
}

MAIN(CASE(all_kinds_of_use), CASE(message_of_a_double_free))
