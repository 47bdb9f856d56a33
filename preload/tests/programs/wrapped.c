/* A program with a malloc family of its own that counts, and calls the C library's second names for the work, as such
 * wrappers have been written for glibc ever since. */
#include "support.h"

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void __libc_free(void *);

#define OWN(type, name, parameters, arguments) static volatile long name##_calls; \
    __attribute__((visibility("default"))) type name parameters { name##_calls++; return __libc_##name arguments; }

OWN(void *, malloc, (size_t size), (size))
OWN(void *, calloc, (size_t count, size_t size), (count, size))
OWN(void *, realloc, (void *block, size_t size), (block, size))
OWN(void *, memalign, (size_t align, size_t size), (align, size))
OWN(void *, valloc, (size_t size), (size))
OWN(void *, pvalloc, (size_t size), (size))
OWN(void, free, (void *block), (block))

static void *volatile held; /* So that no pair is left out. */

static void each_wrapper_is_called_once_for_a_call(void)
{
    long calls = malloc_calls;
    held = malloc(10);
    CHECK(malloc_calls == calls + 1);
    free(held);
    calls = calloc_calls;
    held = calloc(3, 10);
    CHECK(calloc_calls == calls + 1);
    free(held);
    calls = realloc_calls;
    long allocations = malloc_calls, frees = free_calls;
    held = NULL;
    for (size_t size = 10; size < 64 * MIB; size *= 9) CHECK((held = realloc(held, size)) != NULL);
    CHECK(realloc_calls == calls + 8);
    CHECK((held = realloc(held, 0)) == NULL);
    CHECK(malloc_calls == allocations && free_calls == frees);
    calls = realloc_calls;
    CHECK((held = reallocarray(NULL, 7, 10)) != NULL);
    CHECK(realloc_calls == calls + 1);
    free(held);
    calls = memalign_calls + valloc_calls + pvalloc_calls;
    held = memalign(64, 10), free(held);
    held = valloc(10), free(held);
    held = pvalloc(10), free(held);
    CHECK(memalign_calls + valloc_calls + pvalloc_calls == calls + 3);
}

MAIN(CASE(each_wrapper_is_called_once_for_a_call))
