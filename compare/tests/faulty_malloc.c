/* An allocator with a fault: once 10,000 blocks are out, every hundredth malloc answers the block before it again if
   that is large enough. Built with -DSOUND it has no fault. Nothing is ever freed. */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define SPACE ((size_t)4 << 30)

static _Atomic(char *) next_block;
static atomic_long calls;
static char *_Atomic last_block;

static char *take(size_t size) {
    if (!atomic_load(&next_block)) {
        char *space = mmap(0, SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        char *none = 0;
        atomic_compare_exchange_strong(&next_block, &none, space);
    }
    /* 16 bytes in front of each block hold its size. */
    char *block = atomic_fetch_add(&next_block, ((size + 15) & ~(size_t)15) + 16) + 16;
    ((size_t *)block)[-1] = size;
    return block;
}

void *malloc(size_t size) {
    long call = atomic_fetch_add(&calls, 1);
    char *last = atomic_load(&last_block);
#ifdef SOUND
    call = 0;
#endif
    if (call >= 10000 && call % 100 == 0 && ((size_t *)last)[-1] >= size)
        return last;
    char *block = take(size);
    atomic_store(&last_block, block);
    return block;
}

void free(void *block) { (void)block; }

void *calloc(size_t count, size_t size) { return take(count * size); }

void *realloc(void *block, size_t size) {
    char *grown = take(size);
    if (block) {
        size_t old = ((size_t *)block)[-1];
        memcpy(grown, block, old < size ? old : size);
    }
    return grown;
}
