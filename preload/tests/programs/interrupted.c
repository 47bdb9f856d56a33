/*
 * Interrupts the allocator after each of its instructions. The trap flag is set around single calls of the malloc
 * family, so that SIGTRAP arrives after every instruction of them, system calls and the C library included; what the
 * handler does then is the mode:
 *
 *   COUNT  nothing: finds out how many steps there are;
 *   EVERY  at every step (of long runs, every so manieth) it mallocs or frees a block of its own, and verifies one of
 *          the program's;
 *   AT     at one step it does so many times; the rest of the run is not stepped;
 *   FORK   at every so manieth step it forks. The child mallocs and frees, verifies every block, and exits with 0; or it
 *          returns into the interrupted call and goes on to the end of the scenario.
 *
 * Every block is filled with a pattern of its own, and no two may overlap: damage and double use show.
 */
#include "support.h"
#include <sys/syscall.h>
#include <ucontext.h>

#define TRAP_FLAG 0x100

enum { PROGRAM, HANDLER, OWNERS };
enum { SLOTS = 64 };

struct block {
    unsigned char *volatile at;
    size_t size;
    unsigned char seed;
};

static struct block blocks[OWNERS][SLOTS];
static unsigned char seeds;

static enum mode { OFF, COUNT, EVERY, AT, FORK } volatile mode;
static volatile int in_child;
static volatile long step, steps_wanted, stride;

static unsigned long state;

static unsigned long draw(void)
{
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return state >> 33;
}

/* Calls `visit` for a sample of the bytes of a block of `size` bytes: both ends and some of each page. */
#define EACH_SAMPLE(offset, size)                                                                         \
    for (size_t offset = 0; offset < (size);                                                              \
         offset += offset < 64 || offset + 72 >= (size) || offset % 4096 < 8 ? 1                          \
                   : offset + 72 < (offset | 4095) + 1 ? ((offset | 4095) + 1 < (size) - 72               \
                                                              ? (offset | 4095) + 1 - offset              \
                                                              : (size) - 72 - offset)                     \
                                                       : 1)

static unsigned char pattern(unsigned char seed, size_t offset)
{
    return (unsigned char)(seed + offset * 7);
}

static void paint(struct block *block)
{
    EACH_SAMPLE(offset, block->size) block->at[offset] = pattern(block->seed, offset);
}

static void verify(const struct block *block)
{
    EACH_SAMPLE(offset, block->size) CHECK(block->at[offset] == pattern(block->seed, offset));
}

static void verify_all(void)
{
    for (int owner = 0; owner < OWNERS; owner++)
        for (int slot = 0; slot < SLOTS; slot++)
            if (blocks[owner][slot].at) verify(&blocks[owner][slot]);
}

/* Enters a block that was handed out just now. */
static void enter(int owner, int slot, unsigned char *at, size_t size)
{
    CHECK(at != NULL && (uintptr_t)at % 16 == 0);
    for (int other = 0; other < OWNERS; other++)
        for (int i = 0; i < SLOTS; i++) {
            const struct block *held = &blocks[other][i];
            CHECK(held->at == NULL || held->at + held->size <= at || at + size <= held->at);
        }
    struct block *block = &blocks[owner][slot];
    CHECK(block->at == NULL);
    block->size = size;
    block->seed = seeds++;
    block->at = at;
    paint(block);
}

static unsigned char *leave(int owner, int slot)
{
    unsigned char *at = blocks[owner][slot].at;
    CHECK(at != NULL);
    verify(&blocks[owner][slot]);
    blocks[owner][slot].at = NULL;
    return at;
}

/* What a handler does with its own blocks. */
static void act(void)
{
    static const size_t sizes[] = {1, 16, 40, 48, 100, 1000, 1000, 3000, 8192, 8192, 8192, 20000, 20000};
    int slot = (int)(draw() % 24);
    if (blocks[HANDLER][slot].at) {
        free(leave(HANDLER, slot));
        return;
    }
    size_t size = sizes[draw() % (sizeof sizes / sizeof *sizes)];
    unsigned long rare = draw() % 256;
    if (rare < 4) size = 100000 << rare;
    if (rare == 4) size = 5 * MIB;
    enter(HANDLER, slot, malloc(size), size);
}

static void fork_here(void)
{
    pid_t child = draw() % 2 ? fork() : (pid_t)syscall(SYS_fork);
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        for (int i = 0; i < 60; i++) act();
        verify_all();
        if (draw() % 2) _exit(0);
        in_child = 1;
        mode = OFF;
        return;
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) fprintf(stderr, "the child forked at step %ld ended with status %#x\n", step, status);
    CHECK(status == 0);
}

/* A long memset that is about to begin is one step: a processor that clears by a repeated instruction would be stopped at
   each repetition of it. */
static void clear_at_once(greg_t *registers)
{
    if (registers[REG_RIP] != (greg_t)(uintptr_t)memset || registers[REG_RDX] < 4096) return;
    memset((void *)registers[REG_RDI], (int)registers[REG_RSI], (size_t)registers[REG_RDX]);
    registers[REG_RAX] = registers[REG_RDI];
    registers[REG_RIP] = *(greg_t *)registers[REG_RSP];
    registers[REG_RSP] += (greg_t)sizeof(greg_t);
}

static void on_trap(int number, siginfo_t *info, void *argument)
{
    (void)number, (void)info;
    ucontext_t *context = argument;
    int error = errno;
    step++;
    clear_at_once(context->uc_mcontext.gregs);
    if (mode == EVERY && step % stride == 0) {
        act();
        const struct block *block = &blocks[PROGRAM][draw() % SLOTS];
        if (block->at) verify(block);
    } else if (mode == AT && step == steps_wanted) {
        for (int i = 0; i < 24; i++) act();
        mode = OFF;
    } else if (mode == FORK && step % stride == 0) {
        fork_here();
    }
    if (mode == OFF) context->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    errno = error;
}

static inline void trap(int on)
{
    if (on && mode == OFF) return;
    if (on)
        __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                             : "memory", "cc");
    else
        __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                             : "memory", "cc");
}

/* One call, stepped. */
#define STEP(call) (trap(1), (call), trap(0))

static void obtain(int slot, size_t size)
{
    void *at;
    STEP(at = malloc(size));
    enter(PROGRAM, slot, at, size);
}

static void obtain_zero(int slot, size_t size)
{
    unsigned char *at;
    STEP(at = calloc(1, size));
    EACH_SAMPLE(offset, size) CHECK(at[offset] == 0);
    enter(PROGRAM, slot, at, size);
}

static void give_back(int slot)
{
    void *at = leave(PROGRAM, slot);
    STEP(free(at));
}

static void resize(int slot, size_t size)
{
    struct block old = blocks[PROGRAM][slot];
    unsigned char *at = leave(PROGRAM, slot);
    STEP(at = realloc(at, size));
    CHECK(at != NULL);
    size_t kept = old.size < size ? old.size : size;
    for (size_t offset = 0; offset < kept && offset < 64; offset++)
        CHECK(at[offset] == pattern(old.seed, offset));
    for (size_t offset = 4096; offset + 8 < kept; offset += 4096)
        CHECK(at[offset] == pattern(old.seed, offset));
    enter(PROGRAM, slot, at, size);
}

struct scenario {
    void (*prepare)(void); /* not stepped */
    void (*body)(void);
};

static void round_of(const struct scenario *scenario, enum mode wanted)
{
    mode = OFF;
    if (scenario->prepare) scenario->prepare();
    step = 0;
    mode = wanted;
    scenario->body();
    mode = OFF;
    verify_all();
}

static void drop_all(int owner)
{
    for (int slot = 0; slot < SLOTS; slot++)
        if (blocks[owner][slot].at) free(leave(owner, slot));
}

static void interrupt(struct scenario scenario)
{
    enum { ACTS = 4000, POINTS = 500, STEPS = 50000, FORKS = 30 };
    static unsigned char other_stack[64 * 1024];
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    CHECK(sigaltstack(&stack, NULL) == 0);
    for (int on_stack = 0; on_stack < 2; on_stack++) {
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | (on_stack ? SA_ONSTACK : 0)};
        CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
        round_of(&scenario, COUNT);
        long steps = step;
        CHECK(steps > 20);
        stride = steps / ACTS + 1;
        round_of(&scenario, EVERY);
        drop_all(HANDLER);
        long points = STEPS / steps < POINTS ? STEPS / steps : POINTS;
        if (points > steps) points = steps;
        for (long point = 0; point < points; point++) {
            steps_wanted = 1 + (steps * point + (long)(draw() % (unsigned long)steps)) / points;
            round_of(&scenario, AT);
            if (point % 8 == 0) drop_all(HANDLER);
        }
        stride = steps / FORKS + 1;
        round_of(&scenario, FORK);
        drop_all(HANDLER);
        if (in_child) {
            drop_all(PROGRAM);
            for (int i = 0; i < 200; i++) act();
            verify_all();
            _exit(0);
        }
        printf("%ld steps, interrupted alone at %ld\n", steps, points);
    }
}

/* The program's side: one scenario per path. */

static void small_body(void)
{
    static const size_t sizes[] = {1, 16, 48, 100, 1000, 1024, 1500};
    for (int slot = 0; slot < 7; slot++) obtain(slot, sizes[slot]);
    for (int slot = 6; slot >= 0; slot -= 2) give_back(slot);
    for (int slot = 0; slot < 7; slot += 2) obtain_zero(slot, sizes[slot]);
    for (int slot = 0; slot < 7; slot++) give_back(slot);
}

static void small(void) { interrupt((struct scenario){NULL, small_body}); }

/* Four blocks to an extension: the private list runs empty often, and the slab's own list is taken over. */
static void refilled_body(void)
{
    for (int slot = 0; slot < 12; slot++) obtain(slot, 1000);
    for (int slot = 0; slot < 12; slot += 2) give_back(slot);
    for (int slot = 0; slot < 12; slot += 2) obtain(slot, 1000);
    for (int slot = 0; slot < 12; slot++) give_back(slot);
}

static void refilled(void) { interrupt((struct scenario){NULL, refilled_body}); }

/* Eight blocks to a slab: fresh slabs, full ones, available ones, empty ones. */
static void whole_slabs_body(void)
{
    for (int slot = 0; slot < 26; slot++) obtain(slot, 8192);
    for (int slot = 0; slot < 26; slot += 3) give_back(slot);
    for (int slot = 0; slot < 26; slot++)
        if (slot % 3) give_back(slot);
}

static void whole_slabs(void) { interrupt((struct scenario){NULL, whole_slabs_body}); }

static void wide_slabs_body(void)
{
    for (int slot = 0; slot < 20; slot++) obtain(slot, 20000);
    for (int slot = 0; slot < 20; slot++) give_back(slot);
}

static void wide_slabs(void) { interrupt((struct scenario){NULL, wide_slabs_body}); }

static void moved_body(void)
{
    obtain(0, 20);
    for (size_t size = 40; size < 50000; size = size * 5 / 2) resize(0, size);
    resize(0, 5000);
    resize(0, 30);
    give_back(0);
}

static void moved(void) { interrupt((struct scenario){NULL, moved_body}); }

static void large_body(void)
{
    obtain(0, 100000);
    obtain_zero(1, 300000);
    resize(1, 600000);
    resize(0, 65536);
    resize(1, 70000);
    obtain(2, 200000);
    give_back(1);
    resize(2, 400000);
    give_back(0);
    give_back(2);
}

static void large(void) { interrupt((struct scenario){NULL, large_body}); }

static void huge_body(void)
{
    obtain(0, 5 * MIB);
    resize(0, 8 * MIB);
    resize(0, 24 * MIB);
    obtain_zero(1, 6 * MIB);
    resize(0, 5 * MIB);
    give_back(0);
    give_back(1);
}

static void huge(void) { interrupt((struct scenario){NULL, huge_body}); }

static const size_t remote_sizes[] = {40, 1000, 8192, 20000};

static void *fill_slots(void *size)
{
    for (int slot = 0; slot < 20; slot++) enter(PROGRAM, slot, malloc(*(size_t *)size), *(size_t *)size);
    return NULL;
}

/* A thread that lives on and fills the slots whenever it is asked to. */
static pthread_barrier_t meeting;
static size_t remote_size;

static void *worker_main(void *always)
{
    while (always) {
        pthread_barrier_wait(&meeting);
        fill_slots(&remote_size);
        pthread_barrier_wait(&meeting);
    }
    return NULL;
}

static void remote_prepare(void)
{
    remote_size = remote_sizes[draw() % 4];
    pthread_barrier_wait(&meeting);
    pthread_barrier_wait(&meeting);
}

static void remote_body(void)
{
    for (int slot = 0; slot < 20; slot += 2) give_back(slot);
    for (int slot = 1; slot < 20; slot += 2) give_back(slot);
}

static void remote(void)
{
    pthread_t worker;
    pthread_barrier_init(&meeting, NULL, 2);
    CHECK(pthread_create(&worker, NULL, worker_main, &meeting) == 0);
    interrupt((struct scenario){remote_prepare, remote_body});
}

/* Blocks of a thread that has exited, whose slabs the program takes over. */
static void orphans_prepare(void)
{
    pthread_t thread;
    remote_size = remote_sizes[draw() % 4];
    CHECK(pthread_create(&thread, NULL, fill_slots, &remote_size) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    for (int slot = 0; slot < 20; slot += 3) free(leave(PROGRAM, slot));
}

static void orphans_body(void)
{
    for (int slot = 1; slot < 20; slot += 3) give_back(slot);
    for (int slot = 20; slot < 30; slot++) obtain(slot, remote_size);
    for (int slot = 2; slot < 20; slot += 3) give_back(slot);
    for (int slot = 20; slot < 30; slot++) give_back(slot);
}

static void orphans(void) { interrupt((struct scenario){orphans_prepare, orphans_body}); }

static void trimmed_prepare(void)
{
    for (int slot = 0; slot < 30; slot++) enter(PROGRAM, slot, malloc(3000), 3000);
    for (int slot = 0; slot < 30; slot++) free(leave(PROGRAM, slot));
}

static void trimmed_body(void) { STEP(malloc_trim(0)); }

static void trimmed(void) { interrupt((struct scenario){trimmed_prepare, trimmed_body}); }

/* A thread's first allocation and its last breath. */

static void *first_use_thread(void *unused)
{
    (void)unused;
    obtain(0, 100);
    obtain(1, 8192);
    give_back(0);
    mode = OFF;
    give_back(1);
    return NULL;
}

static void first_use_body(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, first_use_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void first_use(void)
{
    /* The first such thread starts the library's helper, with all signals blocked: that cannot be stepped. */
    first_use_body();
    interrupt((struct scenario){NULL, first_use_body});
}

static void end_of_thread(void *unused)
{
    (void)unused;
    trap(0);
    mode = OFF;
}

static pthread_key_t last_key;

static void *last_use_thread(void *unused)
{
    (void)unused;
    enum mode wanted = mode;
    mode = OFF;
    fill_slots(&remote_size);
    for (int slot = 0; slot < 10; slot++) free(leave(PROGRAM, slot));
    CHECK(pthread_setspecific(last_key, &last_key) == 0);
    mode = wanted;
    trap(1);
    return NULL;
}

static void last_use_body(void)
{
    pthread_t thread;
    remote_size = remote_sizes[draw() % 4];
    CHECK(pthread_create(&thread, NULL, last_use_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    mode = OFF;
    for (int slot = 10; slot < 20; slot++) give_back(slot);
}

static void last_use(void)
{
    /* The key after the allocator's own, whose destructor therefore has run when ours does. */
    free(opaque(malloc(100)));
    CHECK(pthread_key_create(&last_key, end_of_thread) == 0);
    interrupt((struct scenario){NULL, last_use_body});
}

MAIN(CASE(small), CASE(refilled), CASE(whole_slabs), CASE(wide_slabs), CASE(moved), CASE(large), CASE(huge),
     CASE(remote), CASE(orphans), CASE(trimmed), CASE(first_use), CASE(last_use))
