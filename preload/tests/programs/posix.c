/* What C, POSIX and glibc say about the arguments and the failures of the malloc family. */
#include "support.h"
#include <dlfcn.h>

static void zero_sizes(void)
{
    void *blocks[100];
    for (int i = 0; i < 100; i++) {
        blocks[i] = i % 4 == 0   ? malloc(0)
                    : i % 4 == 1 ? calloc(0, 8)
                    : i % 4 == 2 ? calloc(8, 0)
                                 : realloc(NULL, 0);
        CHECK(blocks[i] != NULL);
        for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 100; i++) free(blocks[i]);
    CHECK((blocks[0] = aligned_alloc(64, 0)) != NULL);
    CHECK((blocks[1] = memalign(4096, 0)) != NULL);
    CHECK((blocks[2] = valloc(0)) != NULL);
    CHECK(posix_memalign(&blocks[3], 64, 0) == 0 && blocks[3] != NULL);
    for (int i = 0; i < 4; i++) free(blocks[i]);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
}

/* No allocator can give these: null, ENOMEM, and the next call works. */
static void huge_sizes(void)
{
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4095, SIZE_MAX / 2 + 1, SIZE_MAX / 2, SIZE_MAX / 4,
                            (size_t)1 << 56, (size_t)1 << 48};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = opaque_size(sizes[i]);
        void *block = malloc(16), *out = &out;
        CHECK(block != NULL);
        fill(block, 16);
#define FAILS(call)                                                                                       \
    errno = 0;                                                                                            \
    CHECK((call) == NULL);                                                                                \
    CHECK(errno == ENOMEM)
        FAILS(malloc(size));
        FAILS(calloc(1, size));
        FAILS(calloc(size, 1));
        FAILS(realloc(block, size));
        FAILS(realloc(NULL, size));
        FAILS(reallocarray(block, 1, size));
        FAILS(memalign(64, size));
        FAILS(memalign(2 * MIB, size));
        FAILS(aligned_alloc(64, size));
        FAILS(valloc(size));
        FAILS(pvalloc(size));
        errno = 77;
        CHECK(posix_memalign(&out, 64, size) == ENOMEM);
        CHECK(out == &out && errno == ENOMEM);
        check_filled(block, 16);
        free(block);
    }
}

static void overflowing_products(void)
{
    void *block = malloc(32);
    fill(block, 32);
    const size_t pairs[][2] = {{SIZE_MAX / 2, 3},
                               {SIZE_MAX, 2},
                               {(size_t)1 << 32, (size_t)1 << 32},
                               {SIZE_MAX, SIZE_MAX},
                               {((size_t)1 << 32) + 1, ((size_t)1 << 32)}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        size_t count = opaque_size(pairs[i][0]), size = opaque_size(pairs[i][1]);
        FAILS(calloc(count, size));
        FAILS(reallocarray(block, count, size));
        FAILS(reallocarray(NULL, count, size));
    }
    check_filled(block, 32);
    free(block);
}

static void calloc_is_zero_after_reuse(void)
{
    const size_t sizes[] = {1, 16, 100, 1000, 5000, 40000, 100 * KIB, MIB, 40 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int round = 0; round < 3; round++) {
            unsigned char *blocks[2];
            for (int k = 0; k < 2; k++) {
                CHECK((blocks[k] = calloc(sizes[i], 1)) != NULL);
                for (size_t b = 0; b < sizes[i]; b++) CHECK(blocks[k][b] == 0);
            }
            for (int k = 0; k < 2; k++) {
                memset(blocks[k], 0xff, malloc_usable_size(blocks[k]));
                free(blocks[k]);
            }
        }
    }
}

static void realloc_semantics(void)
{
    char *block = realloc(NULL, 100);
    CHECK(block != NULL);
    for (int i = 0; i < 100; i++) block[i] = (char)i;
    const size_t sizes[] = {101, 500,      5000,     50000,    500000, 5000000, 90000000, 200000000, 90000001, 5000001,
                            4999999, 500001, 49999, 4999, 499, 100};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        CHECK((block = realloc(block, sizes[s])) != NULL);
        CHECK(malloc_usable_size(block) >= sizes[s]);
        for (int i = 0; i < 100; i++) CHECK(block[i] == (char)i);
        block[sizes[s] - 1] = block[sizes[s] - 1];
    }
    /* As in glibc: size zero frees. */
    errno = 55;
    CHECK(realloc(block, 0) == NULL);
    CHECK(errno == 55);
}

static void realloc_keeps_the_tail(void)
{
    for (size_t from = 1; from < 3 * MIB; from = from * 3 + 7) {
        for (size_t to = 1; to < 3 * MIB; to = to * 3 + 5) {
            unsigned char *block = malloc(from);
            for (size_t i = 0; i < from; i++) block[i] = (unsigned char)(i * 7 + from);
            CHECK((block = realloc(block, to)) != NULL);
            for (size_t i = 0; i < from && i < to; i++) CHECK(block[i] == (unsigned char)(i * 7 + from));
            free(block);
        }
    }
}

/* Every power of two up to 1 GiB, of small and larger sizes; address space is reserved, memory is not used. */
static void alignments_to_1_gib(void)
{
    for (size_t align = 1; align <= GIB; align *= 2) {
        const size_t sizes[] = {0, 1, 24, 1000, 5000, 100000, 3 * MIB, align, align + 1};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t size = sizes[i];
            void *blocks[6] = {aligned_alloc(align, size), memalign(align, size), NULL, aligned_alloc(align, size)};
            int count = 4;
            if (align >= sizeof(void *)) CHECK(posix_memalign(&blocks[2], align, size) == 0);
            for (int k = 0; k < count; k++) {
                if (k == 2 && align < sizeof(void *)) continue;
                CHECK(blocks[k] != NULL);
                CHECK((uintptr_t)blocks[k] % align == 0);
                CHECK(malloc_usable_size(blocks[k]) >= size);
                if (size > 0) {
                    ((char *)blocks[k])[0] = 1;
                    ((char *)blocks[k])[size - 1] = 1;
                }
            }
            for (int k = 0; k < count; k++) free(blocks[k]);
        }
    }
    CHECK(resident() < 200 * MIB);
}

static void alignments_above_1_gib_do_not_harm(void)
{
    for (int shift = 31; shift < 64; shift++) {
        size_t align = (size_t)1 << shift;
        errno = 0;
        void *block = aligned_alloc(align, 100);
        CHECK(block != NULL ? (uintptr_t)block % align == 0 : errno == ENOMEM);
        free(block);
    }
}

static void realloc_of_aligned(void)
{
    for (size_t align = 32; align <= 4 * MIB; align *= 4) {
        char *block = memalign(align, 1000);
        CHECK(block != NULL);
        memset(block, 7, 1000);
        CHECK((block = realloc(block, 100000)) != NULL);
        for (int i = 0; i < 1000; i++) CHECK(block[i] == 7);
        free(block);
    }
}

static void posix_memalign_errors(void)
{
    const size_t bad[] = {0, 1, 2, 4, 3, 12, 24, 48, 100, 4095, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        void *out = &out;
        errno = 33;
        CHECK(posix_memalign(&out, opaque_size(bad[i]), 100) == EINVAL);
        CHECK(out == &out && errno == 33);
    }
    void *out = NULL;
    errno = 44;
    CHECK(posix_memalign(&out, sizeof(void *), 100) == 0);
    CHECK(out != NULL && errno == 44);
    free(out);
    out = &out;
    CHECK(posix_memalign(&out, 128, opaque_size(PTRDIFF_MAX - 4096)) == ENOMEM);
    CHECK(out == &out && errno == ENOMEM);
}

static void aligned_alloc_errors(void)
{
    const size_t bad[] = {0, 3, 12, 24, 48, 100, 4095, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        errno = 0;
        CHECK(aligned_alloc(opaque_size(bad[i]), 100) == NULL);
        CHECK(errno == EINVAL);
    }
}

static void memalign_rounds_up(void)
{
    const size_t pairs[][2] = {{0, 1}, {3, 4}, {24, 32}, {48, 64}, {100, 128}, {4095, 4096}, {4097, 8192}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        void *block = memalign(opaque_size(pairs[i][0]), 100);
        CHECK(block != NULL && (uintptr_t)block % pairs[i][1] == 0);
        free(block);
    }
    errno = 0;
    CHECK(memalign(opaque_size(SIZE_MAX / 2 + 2), 100) == NULL && errno == EINVAL);
}

static void page_aligned(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t sizes[] = {0, 1, page - 1, page, page + 1, 100 * page};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *block = valloc(sizes[i]), *rounded = pvalloc(sizes[i]);
        CHECK(block != NULL && (uintptr_t)block % page == 0);
        CHECK(rounded != NULL && (uintptr_t)rounded % page == 0);
        size_t whole = (sizes[i] + (sizes[i] == 0) + page - 1) / page * page;
        CHECK(malloc_usable_size(rounded) >= whole);
        memset(rounded, 1, whole);
        free(block);
        free(rounded);
    }
    errno = 0;
    CHECK(pvalloc(opaque_size(SIZE_MAX - page / 2)) == NULL && errno == ENOMEM);
}

/* All of it may be written without touching a neighbour. */
static void usable_size_is_usable(void)
{
    static void *blocks[4000];
    for (size_t i = 0; i < 4000; i++) {
        size_t size = i * i / 50;
        CHECK((blocks[i] = malloc(size)) != NULL);
        CHECK(malloc_usable_size(blocks[i]) >= size);
        fill(blocks[i], malloc_usable_size(blocks[i]));
    }
    for (size_t i = 0; i < 4000; i++) {
        check_filled(blocks[i], malloc_usable_size(blocks[i]));
        free(blocks[i]);
    }
}

static void alignment_of_plain_blocks(void)
{
    for (size_t size = 0; size < 70000; size = size + 1 + size / 13) {
        void *block = malloc(size);
        CHECK((uintptr_t)block % 16 == 0);
        free(block);
    }
}

static void free_keeps_errno(void)
{
    for (size_t size = 1; size <= 300 * MIB; size *= 3) {
        void *blocks[4];
        for (int i = 0; i < 4; i++) CHECK((blocks[i] = malloc(size)) != NULL);
        for (int i = 0; i < 4; i++) {
            errno = 4242;
            free(blocks[i]);
            CHECK(errno == 4242);
        }
    }
}

static void success_keeps_errno(void)
{
    for (size_t size = 1; size <= 300 * MIB; size *= 3) {
        errno = 4242;
        void *block = malloc(size);
        CHECK(block != NULL && errno == 4242);
        block = realloc(block, size * 2);
        CHECK(block != NULL && errno == 4242);
        free(block);
    }
}

/* C23's names and the old ones are not in every header: found by name, and it must be ours that is found. */
static void *named(const char *name)
{
    void *found = dlsym(RTLD_DEFAULT, name);
    Dl_info where;
    CHECK(found != NULL && dladdr(found, &where) != 0 && strstr(where.dli_fname, "specmalloc") != NULL);
    return found;
}

static void other_names(void)
{
    ((void (*)(void *, size_t))named("free_sized"))(malloc(100), 100);
    ((void (*)(void *, size_t, size_t))named("free_aligned_sized"))(aligned_alloc(64, 128), 64, 128);
    ((void (*)(void *))named("cfree"))(malloc(100));
    free(((void *(*)(size_t))named("__libc_malloc"))(100));
    free(((void *(*)(size_t, size_t))named("__libc_calloc"))(10, 10));
    free(((void *(*)(void *, size_t))named("__libc_realloc"))(malloc(10), 100));
    free(((void *(*)(size_t, size_t))named("__libc_memalign"))(64, 100));
    free(((void *(*)(size_t))named("__libc_valloc"))(100));
    free(((void *(*)(size_t))named("__libc_pvalloc"))(100));
    ((void (*)(void *))named("__libc_free"))(malloc(100));
    void *block = NULL;
    CHECK(((int (*)(void **, size_t, size_t))named("__posix_memalign"))(&block, 64, 100) == 0 && block != NULL);
    free(block);
}

/* Functions of libc that allocate on the caller's behalf. */
static void blocks_from_libc(void)
{
    char *copy = strdup("text"), *line = NULL, *path = realpath("/", NULL), *text = NULL;
    size_t size = 0;
    CHECK(copy != NULL && path != NULL && asprintf(&text, "%d", 17) == 2);
    FILE *file = fopen("/proc/self/maps", "r");
    CHECK(file != NULL && getline(&line, &size, file) > 0);
    fclose(file);
    char *memory = NULL;
    FILE *stream = open_memstream(&memory, &size);
    for (int i = 0; i < 10000; i++) fprintf(stream, "%d ", i);
    fclose(stream);
    CHECK(malloc_usable_size(memory) >= size);
    free(copy), free(line), free(path), free(text), free(memory);
}

/* A huge block begins behind the start of a page: whole pages of it take one more. */
static void realloc_to_whole_pages(void)
{
    for (int i = 0; i < 4; i++) {
        char *block = malloc(5 << 20);
        CHECK(block != NULL);
        memset(block, 1, 5 << 20);
        size_t size = malloc_usable_size(block) + (uintptr_t)block % 4096;
        CHECK((block = realloc(block, size)) != NULL && malloc_usable_size(block) >= size);
        memset(block + (5 << 20), 2, size - (5 << 20));
        CHECK(block[0] == 1 && block[(5 << 20) - 1] == 1);
    }
}

MAIN(CASE(realloc_to_whole_pages), CASE(zero_sizes), CASE(huge_sizes), CASE(overflowing_products), CASE(calloc_is_zero_after_reuse),
     CASE(realloc_semantics), CASE(realloc_keeps_the_tail), CASE(alignments_to_1_gib),
     CASE(alignments_above_1_gib_do_not_harm), CASE(realloc_of_aligned), CASE(posix_memalign_errors),
     CASE(aligned_alloc_errors), CASE(memalign_rounds_up), CASE(page_aligned), CASE(usable_size_is_usable),
     CASE(alignment_of_plain_blocks), CASE(free_keeps_errno), CASE(success_keeps_errno), CASE(other_names),
     CASE(blocks_from_libc))
