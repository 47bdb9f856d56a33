/* Each case breaks the contract once. It prints the pointer that the message must name, then does it. */
#include "support.h"
#include <dlfcn.h>
#include <sys/mman.h>

static void blame(const void *pointer)
{
    printf("%p\n", pointer);
    fflush(stdout);
}

static void double_free_of(size_t size)
{
    void *keep = malloc(size); /* so that the slab or arena stays in use */
    void *block = malloc(size);
    CHECK(keep && block);
    blame(block);
    free(block);
    free(opaque(block));
}

static void double_free(void) { double_free_of(24); }
static void double_free_medium(void) { double_free_of(20000); }
static void double_free_large(void) { double_free_of(600 * KIB); }
static void double_free_huge(void) { double_free_of(8 * MIB); }
/* Too much to keep resident: its pages are gone by the time of the second free, its address space is not. */
static void double_free_without_pages(void) { double_free_of(GIB); }

static void double_free_with_others_between(void)
{
    void *blocks[64];
    for (int i = 0; i < 64; i++) blocks[i] = malloc(48);
    for (int i = 0; i < 64; i++) free(blocks[i]);
    blame(blocks[17]);
    free(opaque(blocks[17]));
}

static void *free_in_thread(void *block)
{
    free(block);
    return NULL;
}

static void in_another_thread(void *block)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_in_thread, block) == 0);
    pthread_join(thread, NULL);
}

static void double_free_owner_then_other(void)
{
    void *block = malloc(100);
    blame(block);
    free(block);
    in_another_thread(opaque(block));
}

static void double_free_other_then_owner(void)
{
    void *block = malloc(100);
    blame(block);
    in_another_thread(block);
    free(opaque(block));
}

static void double_free_other_then_other(void)
{
    void *block = malloc(100);
    blame(block);
    in_another_thread(block);
    in_another_thread(opaque(block));
}

static void *allocate_in_thread(void *out)
{
    *(void **)out = malloc(100);
    return NULL;
}

static void double_free_after_the_owner_exited(void)
{
    void *block = NULL;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, allocate_in_thread, &block) == 0);
    pthread_join(thread, NULL);
    blame(block);
    free(block);
    free(opaque(block));
}

static void realloc_of_a_freed_block(void)
{
    void *block = malloc(64);
    blame(block);
    free(block);
    (void)!realloc(opaque(block), 128);
}

static void usable_size_of_a_freed_block(void)
{
    void *keep = malloc(64), *block = malloc(64);
    CHECK(keep && block);
    blame(block);
    free(block);
    (void)!malloc_usable_size(opaque(block));
}

static void free_sized_twice(void)
{
    void (*sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void *block = malloc(64);
    CHECK(sized && block);
    blame(block);
    sized(block, 64);
    sized(opaque(block), 64);
}

/* The slab goes with the last of its blocks, and its slice is free; what was where is still known. */
static void double_free_of_a_whole_slab(void)
{
    enum { COUNT = 3000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) CHECK((blocks[i] = malloc(500)) != NULL);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    blame(blocks[COUNT / 2]);
    free(opaque(blocks[COUNT / 2]));
}

static void never_allocated_in_a_free_slice(void)
{
    char *block = malloc(600 * KIB);
    CHECK(block);
    blame(block + 128 * KIB);
    free(block);
    free(opaque(block + 128 * KIB));
}

static void inside_a_freed_huge_block(void)
{
    char *block = malloc(8 * MIB);
    CHECK(block);
    blame(block + MIB);
    free(block);
    (void)!realloc(opaque(block + MIB), 5);
}

/* A block's arena is unmapped when it is empty: what the pointer was is not known any more. */
static void double_free_after_its_arena_has_gone(void)
{
    enum { COUNT = 64 };
    static char *blocks[COUNT];
    unsigned char page;
    int gone = 0;
    setvbuf(stdout, NULL, _IONBF, 0); /* its buffer would be a new block, in a new arena at the same place */
    for (int i = 0; i < COUNT; i++) CHECK((blocks[i] = malloc(600 * KIB)) != NULL);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    malloc_trim(0);
    while (gone < COUNT && mincore(blocks[gone], 1, &page) == 0) gone++;
    CHECK(gone < COUNT);
    blame(blocks[gone]);
    free(opaque(blocks[gone]));
}

static void double_free_aligned(void)
{
    void *block = memalign(4096, 100);
    blame(block);
    free(block);
    free(opaque(block));
}

/* A block whose page has gone back to the system, with the words by which a free block is known. */
static void *in_a_page_that_went(void)
{
    enum { COUNT = 20000, KEPT = 600 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        CHECK((blocks[i] = malloc(100)) != NULL);
        memset(blocks[i], 1, 100);
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % KEPT != 0) free(blocks[i]);
    }
    malloc_trim(0);
    void *block = blocks[10 * KEPT + KEPT / 2];
    unsigned char page;
    CHECK(mincore((void *)((uintptr_t)block & ~(uintptr_t)4095), 4096, &page) == 0 && (page & 1) == 0);
    blame(block);
    return block;
}

static void double_free_after_its_page_has_gone(void) { free(opaque(in_a_page_that_went())); }
static void usable_size_after_its_page_has_gone(void) { (void)!malloc_usable_size(opaque(in_a_page_that_went())); }
static void realloc_after_its_page_has_gone(void) { (void)!realloc(opaque(in_a_page_that_went()), 200); }

static void double_free_by_another_after_its_page_has_gone(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_in_thread, in_a_page_that_went()) == 0);
    pthread_join(thread, NULL);
}

static void interior_of(size_t size, ptrdiff_t offset)
{
    char *block = malloc(size);
    CHECK(block);
    blame(block + offset);
    free(opaque(block + offset));
}

static void interior(void) { interior_of(64, 16); }
static void interior_unaligned(void) { interior_of(64, 1); }
static void interior_medium(void) { interior_of(20000, 4096); }
static void interior_large(void) { interior_of(600 * KIB, 64 * KIB); }
static void interior_huge(void) { interior_of(100 * MIB, MIB); }
static void interior_by_realloc(void)
{
    char *block = malloc(100);
    blame(block + 32);
    (void)!realloc(opaque(block + 32), 10);
}

/* A long block begins some lines, and some pages, behind its run or region. */
static char *long_block(size_t size, size_t unit)
{
    for (int i = 0; i < 100; i++) {
        char *block = malloc(size);
        CHECK(block);
        if ((uintptr_t)block % unit != 0) return block;
    }
    CHECK(!"none begins behind its run");
    return NULL;
}

static void before_of(size_t size, size_t unit)
{
    char *block = long_block(size, unit), *start = block - (uintptr_t)block % unit;
    blame(start);
    free(opaque(start));
}

static void before_large(void) { before_of(100 * KIB, 64 * KIB); }
static void before_huge(void) { before_of(5 * MIB, 4 * KIB); }
static void behind_the_start_of_large(void)
{
    char *block = long_block(100 * KIB, 64 * KIB);
    blame(block + 64);
    free(opaque(block + 64));
}
static void interior_large_by_realloc(void)
{
    char *block = long_block(100 * KIB, 64 * KIB);
    blame(block + 64);
    (void)!realloc(opaque(block + 64), 90 * KIB);
}
static void usable_size_inside_large(void)
{
    char *block = long_block(100 * KIB, 64 * KIB);
    blame(block + 64);
    printf("%zu", malloc_usable_size(opaque(block + 64)));
}

/* A block of the slab that was never handed out is as little the start of a live block. */
static void never_allocated(void)
{
    char *block = malloc(48);
    CHECK(block);
    char *beyond = block + 48 * 1000;
    blame(beyond);
    free(opaque(beyond));
}

static void usable_size_of_the_middle(void)
{
    char *block = malloc(100);
    blame(block + 16);
    (void)!malloc_usable_size(opaque(block + 16));
}

static void foreign_stack(void)
{
    char local[64];
    char *pointer = (char *)(((uintptr_t)local + 15) & ~(uintptr_t)15);
    blame(pointer);
    free(opaque(pointer));
}

static char in_data[64] __attribute__((aligned(16))) = "data";

static void foreign_static(void)
{
    blame(in_data);
    free(opaque(in_data));
}

static void foreign_code(void)
{
    void *pointer = (void *)((uintptr_t)&foreign_static & ~(uintptr_t)15);
    blame(pointer);
    free(opaque(pointer));
}

static void foreign_mapping(void)
{
    free(malloc(10));
    void *mapping = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    blame(mapping);
    free(opaque(mapping));
}

static void foreign_heap_segment(void)
{
    void *pointer = sbrk(4096);
    CHECK(pointer != (void *)-1);
    blame(pointer);
    free(opaque(pointer));
}

static void foreign_low(void)
{
    blame((void *)16);
    free(opaque((void *)16));
}

static void foreign_high(void)
{
    void *pointer = (void *)0xdeadbeefdead0000;
    blame(pointer);
    free(opaque(pointer));
}

static void foreign_by_realloc(void)
{
    blame(in_data);
    (void)!realloc(opaque(in_data), 100);
}

static void wrong_size(void)
{
    void (*sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    CHECK(sized != NULL);
    void *block = malloc(100);
    sized(block, 100);
    block = malloc(100);
    blame(block);
    sized(block, 5000);
}

static void usable_size_of_nothing(void)
{
    blame(in_data);
    (void)!malloc_usable_size(opaque(in_data));
}

/* The write is seen when the block would be handed out again. */
static void written_after_free(void)
{
    void *blocks[512];
    for (int i = 0; i < 512; i++) blocks[i] = malloc(64);
    for (int i = 0; i < 512; i++) free(blocks[i]);
    blame(blocks[100]);
    memset(opaque(blocks[100]), 0x41, 64);
    for (int i = 0; i < 4096; i++) (void)!opaque(malloc(64));
}

static void *frees_all(void *blocks)
{
    for (int i = 0; i < 64; i++) free(((void **)blocks)[i]);
    return NULL;
}

/* What another thread frees comes home as one, which the block that it freed last tells of: behind the words of a list. */
static void run_written_after_free(void)
{
    static void *blocks[64];
    setvbuf(stdout, NULL, _IONBF, 0); /* A buffer for it would come after the free. */
    for (int i = 0; i < 64; i++) blocks[i] = malloc(64);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, frees_all, blocks) == 0 && pthread_join(thread, NULL) == 0);
    blame(blocks[63]);
    memset((char *)opaque(blocks[63]) + 16, 0x41, 16);
    for (int i = 0; i < 4096; i++) (void)!opaque(malloc(64));
}

/* The report is no cancellation point. */
static volatile int begun, cancelled;

static void *cancelled_inside(void *unused)
{
    (void)unused;
    void *block = malloc(40);
    blame(block);
    begun = 1;
    while (!cancelled) continue;
    free(block);
    free(opaque(block));
    return NULL;
}

static void double_free_while_cancelled(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cancelled_inside, NULL) == 0);
    while (!begun) continue;
    pthread_cancel(thread);
    cancelled = 1;
    pthread_join(thread, NULL);
    fprintf(stderr, "the program goes on\n");
}

static void double_free_with_the_signal_blocked(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    double_free();
}

static void double_free_with_the_signal_ignored(void)
{
    signal(SIGABRT, SIG_IGN);
    double_free();
}

/* A handler that waits for ever, in a thread that holds the lock of libc's abort. */
static void wait_for_ever(int signal)
{
    (void)signal;
    begun = 1;
    for (;;) pause();
}

static void *abort_in_thread(void *unused)
{
    (void)unused;
    abort();
}

static void double_free_beside_an_abort_that_waits(void)
{
    pthread_t thread;
    signal(SIGABRT, wait_for_ever);
    CHECK(pthread_create(&thread, NULL, abort_in_thread, NULL) == 0);
    while (!begun) continue;
    signal(SIGABRT, SIG_DFL);
    double_free();
}

/* A crash handler that breaks the contract again has one more line, and that is the end. */
static void free_twice(int signal)
{
    (void)signal;
    void *block = malloc(500);
    free(block);
    free(opaque(block));
}

static void double_free_in_the_handler_too(void)
{
    signal(SIGABRT, free_twice);
    double_free();
}

MAIN(CASE(double_free_after_its_page_has_gone), CASE(double_free_by_another_after_its_page_has_gone), CASE(usable_size_after_its_page_has_gone),
     CASE(realloc_after_its_page_has_gone), CASE(usable_size_of_a_freed_block), CASE(free_sized_twice), CASE(double_free_of_a_whole_slab),
     CASE(never_allocated_in_a_free_slice), CASE(inside_a_freed_huge_block), CASE(double_free_after_its_arena_has_gone),
     CASE(usable_size_of_the_middle), CASE(usable_size_of_nothing), CASE(double_free_while_cancelled), CASE(double_free_with_the_signal_blocked),
     CASE(double_free_with_the_signal_ignored), CASE(double_free_beside_an_abort_that_waits),
     CASE(double_free_in_the_handler_too), CASE(double_free), CASE(double_free_medium), CASE(double_free_large), CASE(double_free_huge), CASE(double_free_without_pages),
     CASE(double_free_with_others_between), CASE(double_free_owner_then_other),
     CASE(double_free_other_then_owner), CASE(double_free_other_then_other),
     CASE(double_free_after_the_owner_exited), CASE(realloc_of_a_freed_block), CASE(double_free_aligned),
     CASE(interior), CASE(interior_unaligned), CASE(interior_medium), CASE(interior_large), CASE(interior_huge),
     CASE(before_large), CASE(before_huge), CASE(behind_the_start_of_large), CASE(interior_large_by_realloc), CASE(usable_size_inside_large),
     CASE(interior_by_realloc), CASE(never_allocated), CASE(foreign_stack), CASE(foreign_static),
     CASE(foreign_code), CASE(foreign_mapping), CASE(foreign_heap_segment), CASE(foreign_low), CASE(foreign_high),
     CASE(foreign_by_realloc), CASE(wrong_size), CASE(written_after_free),
     CASE(run_written_after_free))
