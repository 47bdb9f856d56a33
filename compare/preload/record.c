/* Records the malloc calls of a process into the file that RECORD_FILE names, if the program is called as
   RECORD_PROCESS says: one record a call, in the order in which the calls ended (a free, in which it began). What comes
   after the file is full is not recorded. The C library's own allocator serves the calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MALLOC, CALLOC, REALLOC, FREE };

/* As compare's runner reads it. */
struct record {
    uint64_t block, old;
    uint32_t size;
    uint16_t thread, call;
};

#define RECORDS ((uint64_t)2000000)

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static struct record *records;
static atomic_ullong next;
static atomic_uint threads;
static _Thread_local unsigned own_thread __attribute__((tls_model("initial-exec")));

/* A child of fork shares the mapping, and is not the process that is recorded. */
static void forget(void) { records = 0; }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RECORD_FILE"), *name = getenv("RECORD_PROCESS");
    if (!path || !name || strcmp(name, program_invocation_short_name))
        return;
    /* Exclusively: of several processes of one name the first is recorded. */
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        return;
    if (!ftruncate(file, RECORDS * sizeof *records)) {
        void *start = mmap(0, RECORDS * sizeof *records, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (start != MAP_FAILED)
            records = start;
    }
    pthread_atfork(0, 0, forget);
    close(file);
}

static void record(int call, void *block, void *old, size_t size) {
    if (!records)
        return;
    if (!own_thread)
        own_thread = atomic_fetch_add(&threads, 1) + 1;
    uint64_t at = atomic_fetch_add(&next, 1);
    if (at >= RECORDS)
        return;
    uint32_t short_size = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
    uint16_t thread = (uint16_t)(own_thread - 1);
    records[at] = (struct record){(uintptr_t)block, (uintptr_t)old, short_size, thread, (uint16_t)call};
}

void *malloc(size_t size) {
    void *block = __libc_malloc(size);
    record(MALLOC, block, 0, size);
    return block;
}

void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    record(CALLOC, block, 0, count * size);
    return block;
}

void *realloc(void *old, size_t size) {
    void *block = __libc_realloc(old, size);
    if (block)
        record(REALLOC, block, old, size);
    else if (old && !size)
        record(FREE, old, 0, 0);
    return block;
}

void free(void *block) {
    if (block)
        record(FREE, block, 0, 0);
    __libc_free(block);
}

void *memalign(size_t alignment, size_t size) {
    void *block = __libc_memalign(alignment, size);
    record(MALLOC, block, 0, size);
    return block;
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment < sizeof(void *) || alignment & (alignment - 1))
        return EINVAL;
    void *block = memalign(alignment, size);
    if (!block)
        return ENOMEM;
    *out = block;
    return 0;
}
