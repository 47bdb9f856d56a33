/* A program whose blocks are guarded: it does something wrong with one, after it has told its address and size; or nothing. */
#include "specmalloc.h"
#include "support.h"
#include <setjmp.h>
#include <sys/time.h>

#pragma weak specmalloc_get_option
#pragma weak specmalloc_walk

enum { PAGE = 4096, SIZE = 96 };

/* A guarded block of SIZE bytes: at the end of its page, or at its beginning. */
static char *block_at(int is_end)
{
    CHECK(specmalloc_get_option != NULL && sysconf(_SC_PAGESIZE) == PAGE);
    static char buffer[1024];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    free(opaque(malloc(1)));
    for (int tries = 0; tries < 10; tries++) {
        char *block = opaque(malloc(SIZE));
        if ((uintptr_t)(block + (is_end ? SIZE : 0)) % PAGE == 0) {
            memset(block, 1, SIZE);
            printf("%p %d\n", (void *)block, SIZE);
            fflush(stdout);
            return block;
        }
        free(block);
    }
    CHECK(!"no guarded block");
    return NULL;
}

/* Writes, and reads, that no compiler leaves out. */
static void put(char *at) { *(volatile char *)opaque(at) = 2; }
static char get(char *at) { return *(volatile char *)opaque(at); }

static void overflow(void) { put(block_at(1) + SIZE); }
static void overflow_read(void) { get(block_at(1) + SIZE + 100); }
static void underflow(void) { put(block_at(0) - 1); }

static void use_after_free(void)
{
    char *block = block_at(1);
    free(block);
    for (int round = 0; round < 20; round++) free(opaque(malloc(SIZE)));
    get(block + 5);
}

/* A block that is resized moves, also where it would fit. */
static void use_after_realloc(void)
{
    char *block = block_at(1), *moved = realloc(opaque(block), SIZE);
    CHECK(moved != NULL);
    put(block + 5);
}

static void *writes(void *block)
{
    put(block);
    return NULL;
}

static void use_after_free_in_thread(void)
{
    char *block = block_at(0);
    free(block);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writes, block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void overflow_by_little(void)
{
    char *block = block_at(0);
    put(block + SIZE);
    free(block);
}

static void underflow_inside_the_page(void)
{
    char *block = block_at(1);
    put(block - 3);
    free(block);
}

static void double_free(void)
{
    char *block = block_at(1);
    free(block);
    free(opaque(block));
}

static void realloc_after_free(void)
{
    char *block = block_at(1);
    free(block);
    free(opaque(realloc(opaque(block), 200)));
}

static void free_inside(void) { free(opaque(block_at(1) + 16)); }

static void blocks_are_blocks(void)
{
    char *block = block_at(1);
    CHECK(malloc_usable_size(block) == SIZE);
    block = realloc(block, 2 * SIZE);
    for (int at = 0; at < SIZE; at++) CHECK(block[at] == 1);
    memset(block, 1, 2 * SIZE);
    block = realloc(block, 10);
    for (int at = 0; at < 10; at++) CHECK(block[at] == 1);
    CHECK((block = realloc(block, 100000)) != NULL);
    memset(block, 1, 100000);
    free(block);
    /* More than there are places: the others are ordinary. */
    static char *blocks[1000];
    for (int round = 0; round < 5; round++) {
        for (int at = 0; at < 1000; at++) memset(blocks[at] = malloc(at * 5), at, at * 5);
        for (int at = 0; at < 1000; at++) {
            for (int byte = 0; byte < at * 5; byte++) CHECK(blocks[at][byte] == (char)at);
            free(blocks[at]);
        }
    }
    free(opaque(malloc(0)));
}

static void zeroed(void)
{
    free(block_at(1));
    for (int round = 0; round < 1000; round++) {
        char *block = calloc(1, 40 + round);
        for (int at = 0; at < 40 + round; at++) CHECK(block[at] == 0);
        memset(block, 7, 40 + round);
        free(block);
    }
}

static void aligned(void)
{
    free(block_at(1));
    for (size_t align = 16; align <= 65536; align *= 2)
        for (size_t size = 1; size <= 5000; size += 333) {
            void *block = NULL;
            CHECK(posix_memalign(&block, align, size) == 0 && (uintptr_t)block % align == 0);
            memset(block, 1, size);
            free(block);
        }
}

static char *wanted;
static int found;
static uintptr_t last;

static int visit(void *context, void *block, size_t size, int class)
{
    (void)context;
    (void)class;
    CHECK((uintptr_t)block > last);
    last = (uintptr_t)block;
    if (block == wanted) {
        CHECK(size == SIZE);
        found++;
    }
    return 0;
}

static void walked(void)
{
    wanted = block_at(1);
    CHECK(specmalloc_walk(visit, NULL) == 0 && found == 1);
    free(wanted);
    last = 0;
    CHECK(specmalloc_walk(visit, NULL) == 0 && found == 1);
}

static char *volatile shared[64];

static void *works(void *number)
{
    unsigned random = (unsigned)(uintptr_t)number;
    for (int round = 0; round < 5000; round++) {
        random = random * 1103515245 + 12345;
        size_t size = 1 + (random >> 8 & 255);
        char *new = malloc(size);
        memset(new, 3, size);
        char *old = __atomic_exchange_n(&shared[random >> 20 & 63], new, __ATOMIC_ACQ_REL);
        if (old != NULL) CHECK(old[0] == 3);
        free(old);
    }
    return NULL;
}

static void threads(void)
{
    free(block_at(1));
    pthread_t threads[8];
    for (uintptr_t at = 0; at < 8; at++) CHECK(pthread_create(&threads[at], NULL, works, (void *)at) == 0);
    for (int at = 0; at < 8; at++) CHECK(pthread_join(threads[at], NULL) == 0);
    for (int at = 0; at < 64; at++) free(shared[at]);
}

static void on_signal(int signal)
{
    (void)signal;
    char *block = malloc(300);
    memset(block, 4, 300);
    free(block);
}

static void in_handlers(void)
{
    free(block_at(1));
    CHECK(signal(SIGPROF, on_signal) != SIG_ERR);
    struct itimerval often = {{0, 500}, {0, 500}};
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    for (int round = 0; round < 50000; round++) {
        char *block = opaque(malloc(round & 511));
        memset(block, 5, round & 511);
        free(block);
    }
}

static void children(void)
{
    char *block = block_at(1), *freed = block_at(1);
    free(freed);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(block[0] == 1 && malloc_usable_size(block) == SIZE);
        free(block);
        for (int round = 0; round < 1000; round++) free(opaque(malloc(round)));
        free(freed); /* Again: it dies of this. */
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(block[0] == 1);
    free(block);
}

static sigjmp_buf resumed;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(signal == SIGSEGV && info->si_addr == (void *)8);
    siglongjmp(resumed, 1);
}

/* A program's own handler comes in the place of ours, and ours, which was there first, in nobody's way. */
static void other_faults_go_to_the_program(void)
{
    free(block_at(1));
    pid_t child = fork();
    if (child == 0) {
        put((char *)8);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    child = fork();
    if (child == 0) {
        raise(SIGSEGV);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    if (sigsetjmp(resumed, 1) == 0) {
        put((char *)8);
        CHECK(!"no fault");
    }
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        CASE(overflow), CASE(overflow_read), CASE(underflow), CASE(use_after_free), CASE(use_after_free_in_thread),
        CASE(use_after_realloc),
        CASE(overflow_by_little), CASE(underflow_inside_the_page), CASE(double_free), CASE(realloc_after_free),
        CASE(free_inside), CASE(blocks_are_blocks), CASE(zeroed), CASE(aligned), CASE(walked), CASE(threads),
        CASE(in_handlers), CASE(children), CASE(other_faults_go_to_the_program),
    };
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
