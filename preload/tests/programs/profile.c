/*
 * Places that are known to allocate known amounts, for libspecmalloc_profile.so: each is a function of its own that no
 * compiler inlines; what each has allocated and still has is printed.
 */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <sys/time.h>
#include <ucontext.h>

#define PLACE __attribute__((noinline, noclone))

/* Keeps the call before it from being the function's last, which would leave no frame. */
#define HERE __asm__ volatile("" ::: "memory")

/* The bytes that were allocated at or below a function, those that are live, and those at the peak; if that is known. */
static void say(const char *name, double all, double live, double peak)
{
    printf("%s %.0f %.0f %.0f\n", name, all, live, peak);
    fflush(stdout);
}

PLACE void *stays(size_t size) { void *block = malloc(size); HERE; return block; }
PLACE void *goes(size_t size) { void *block = malloc(size); HERE; return block; }
PLACE void *peaks(size_t size) { void *block = calloc(1, size); HERE; return block; }
PLACE void *zeroed(size_t size) { void *block = calloc(1, size); HERE; return block; }
PLACE void *grows(void *block, size_t size) { block = realloc(block, size); HERE; return block; }

/* Amounts at five places, those of one of which were all live at once in the middle. */
static void amounts(void)
{
    enum { MANY = 100000 };
    static void *blocks[MANY];
    for (int i = 0; i < MANY; i++) {
        free(goes(200));
        free(grows(grows(NULL, 100), 1000));
        blocks[i] = stays(100);
    }
    enum { TALL = 20000 };
    static void *tall[TALL];
    for (int i = 0; i < TALL; i++) tall[i] = peaks(3000);
    for (int i = 0; i < TALL; i++) free(tall[i]);
    for (int i = 0; i < 2000; i++) free(zeroed(50000));
    say("goes", 200.0 * MANY, 0, 0);
    say("grows", 1100.0 * MANY, 0, 0);
    say("stays", 100.0 * MANY, 100.0 * MANY, 100.0 * MANY);
    say("peaks", 3000.0 * TALL, 0, 3000.0 * TALL);
    say("zeroed", 50000.0 * 2000, 0, 0);
    CHECK(opaque(blocks[0]) != NULL);
}

/* Blocks that realloc leaves where they are, for they have room, or changes by little; each time that is one more. */
PLACE void *within(void)
{
    void *block = malloc(450);
    block = realloc(opaque(block), 470);
    block = realloc(opaque(block), 452);
    block = realloc(opaque(block), 480);
    HERE;
    return block;
}
PLACE void *shorter(void)
{
    void *block = realloc(opaque(malloc(1000)), 600);
    block = realloc(opaque(block), 1001);
    block = realloc(opaque(block), 700);
    HERE;
    return block;
}
PLACE void *by_one(void)
{
    void *block = NULL;
    for (int size = 1; size <= 200; size++) block = realloc(opaque(block), size);
    HERE;
    return block;
}
PLACE void *aligned(size_t align, size_t size) { void *block = aligned_alloc(align, size); HERE; return block; }
PLACE void *aligned_and_longer(void)
{
    void *block = realloc(opaque(aligned_alloc(512, 300)), 400);
    block = realloc(opaque(block), 512);
    HERE;
    return block;
}

static void resized(void)
{
    enum { MANY = 20000 };
    for (int i = 0; i < MANY; i++) {
        opaque(within());
        opaque(shorter());
        opaque(by_one());
        opaque(aligned(64, 100));
        opaque(aligned(512, 40));
        opaque(aligned_and_longer());
    }
    say("within", 0, 480.0 * MANY, 0);
    say("shorter", 0, 700.0 * MANY, 0);
    say("by_one", 0, 200.0 * MANY, 0);
    say("aligned", 0, 140.0 * MANY, 0);
    say("aligned_and_longer", 0, 512.0 * MANY, 0);
}

/* Blocks of one place that stay, while another rate is asked for in their midst. */
static void rates(void)
{
    enum { MANY = 60000 };
    typeof(&specmalloc_set_option) set = (typeof(set))dlsym(RTLD_DEFAULT, "specmalloc_set_option");
    CHECK(set != NULL);
    for (int i = 0; i < MANY; i++) {
        if (i == MANY / 3) CHECK(set("profile", "512K") == 0);
        opaque(stays(1000));
    }
    say("stays", 1000.0 * MANY, 1000.0 * MANY, 1000.0 * MANY);
    say("goes", 0, 0, 0);
}

/* Each of these allocates 256 blocks of 64 bytes, which stay. */
enum { EACH = 256 };

PLACE void leaf(void)
{
    for (int i = 0; i < EACH; i++) opaque(malloc(64));
    HERE;
}

/* A frame that only the tables describe: with a stack of an odd size, realigned, without a frame pointer. */
PLACE __attribute__((optimize("O2", "omit-frame-pointer"))) void realigned(void)
{
    char room[200] __attribute__((aligned(64)));
    opaque(room);
    leaf();
    opaque(room);
}

PLACE __attribute__((optimize("O2", "omit-frame-pointer"))) void variable(size_t size)
{
    char room[size];
    opaque(room);
    leaf();
    opaque(room);
}

static int compare(const void *one, const void *other)
{
    static int first = 1;
    if (first) {
        first = 0;
        leaf();
    }
    return *(const int *)one - *(const int *)other;
}

PLACE void sorts(void)
{
    int numbers[64];
    for (int i = 0; i < 64; i++) numbers[i] = i * 37 % 64;
    qsort(numbers, 64, sizeof *numbers, compare);
    HERE;
}

static void on_signal(int number)
{
    (void)number;
    leaf();
    HERE;
}

PLACE void raises(void) { raise(SIGUSR1); HERE; }

/* A signal by a fault: what is interrupted is no call. */
PLACE void faults(volatile int *at) { *at = 1; HERE; }

static void *page;
static void on_fault(int number)
{
    (void)number;
    leaf();
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static ucontext_t back, coroutine;
PLACE void in_coroutine(void)
{
    leaf();
    swapcontext(&coroutine, &back);
}

static void of_key(void *value)
{
    (void)value;
    leaf();
    HERE;
}

static pthread_key_t key;
static void *exits(void *argument)
{
    pthread_setspecific(key, argument);
    return NULL;
}

static void at_end(void)
{
    leaf();
    HERE;
}

static void stacks(void)
{
    realigned();
    say("realigned", 64.0 * EACH, 64.0 * EACH, 0);
    variable(opaque_size(1000));
    say("variable", 64.0 * EACH, 64.0 * EACH, 0);
    sorts();
    say("compare", 64.0 * EACH, 64.0 * EACH, 0);
    say("sorts", 64.0 * EACH, 64.0 * EACH, 0);
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    raises();
    static char small[64 << 10];
    stack_t other = {.ss_sp = small, .ss_size = sizeof small};
    CHECK(sigaltstack(&other, NULL) == 0);
    action.sa_flags = SA_ONSTACK;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    raises();
    say("on_signal", 2 * 64.0 * EACH, 2 * 64.0 * EACH, 0);
    say("raises", 2 * 64.0 * EACH, 2 * 64.0 * EACH, 0);
    action.sa_handler = on_fault;
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    faults(page);
    say("on_fault", 64.0 * EACH, 64.0 * EACH, 0);
    say("faults", 64.0 * EACH, 64.0 * EACH, 0);
    static char tiny[32 << 10];
    CHECK(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = tiny;
    coroutine.uc_stack.ss_size = sizeof tiny;
    coroutine.uc_link = &back;
    makecontext(&coroutine, in_coroutine, 0);
    CHECK(swapcontext(&back, &coroutine) == 0);
    say("in_coroutine", 64.0 * EACH, 64.0 * EACH, 0);
    pthread_t thread;
    CHECK(pthread_key_create(&key, of_key) == 0);
    CHECK(pthread_create(&thread, NULL, exits, &key) == 0 && pthread_join(thread, NULL) == 0);
    say("of_key", 64.0 * EACH, 64.0 * EACH, 0);
    atexit(at_end);
    say("at_end", 64.0 * EACH, 64.0 * EACH, 0);
}

/* A library that is loaded, calls back, and is gone. */
static void plugin(void)
{
    for (int round = 0; round < 20; round++) {
        void *library = dlopen(getenv("PLUGIN"), RTLD_NOW);
        CHECK(library != NULL);
        char *(*allocates)(void) = (char *(*)(void))dlsym(library, "plugin_block");
        CHECK(allocates != NULL);
        for (int i = 0; i < EACH; i++) CHECK(allocates() != NULL);
        CHECK(dlclose(library) == 0);
    }
    leaf();
    say("leaf", 64.0 * EACH, 64.0 * EACH, 0);
    say("plugin_block", 20 * 40.0 * EACH, 20 * 40.0 * EACH, 0);
}

PLACE void *childs(size_t size) { void *block = malloc(size); HERE; return block; }

/* A child has an image of its own, with what was there before; the parent's has nothing of the child's. */
static void forks(void)
{
    void *blocks[200];
    for (int i = 0; i < 200; i++) blocks[i] = stays(1000);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (int i = 0; i < 100; i++) free(blocks[i]);
        for (int i = 0; i < 300; i++) opaque(childs(500));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    say("child", child, 0, 0);
    say("stays", 200000, 200000, 200000);
    say("childs", 150000, 150000, 150000);
}

static volatile int over;

PLACE void *busy(size_t size) { void *block = malloc(size); HERE; return block; }

static void *worker(void *argument)
{
    void *mine[128] = {NULL};
    uint64_t random = (uintptr_t)argument;
    while (!over) {
        for (int i = 0; i < 1000; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            void **at = &mine[random >> 40 & 127];
            free(*at);
            *at = busy(1 + (random >> 50) % 3000);
        }
    }
    for (int i = 0; i < 128; i++) free(mine[i]);
    return NULL;
}

static void on_tick(int number)
{
    (void)number;
    free(busy(100));
}

/* Threads that are interrupted all the time, while libraries come and go. */
static void many_threads(void)
{
    pthread_t threads[16];
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    for (size_t i = 0; i < 16; i++) CHECK(pthread_create(&threads[i], NULL, worker, (void *)(i + 1)) == 0);
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_PROF, &timer, NULL) == 0);
    struct rusage usage;
    do {
        void *library = dlopen(getenv("PLUGIN"), RTLD_NOW);
        CHECK(library != NULL);
        ((char *(*)(void))dlsym(library, "plugin_block"))();
        dlclose(library);
        getrusage(RUSAGE_SELF, &usage);
    } while (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec < 1);
    memset(&timer, 0, sizeof timer);
    setitimer(ITIMER_PROF, &timer, NULL);
    over = 1;
    for (int i = 0; i < 16; i++) pthread_join(threads[i], NULL);
    say("busy", 0, 0, 0);
}

int main(int argc, char **argv)
{
    free(malloc(1)); /* The heap follows. */
    static const struct test_case cases[] = {CASE(amounts), CASE(resized), CASE(rates), CASE(stacks),
                                             CASE(plugin),  CASE(forks),   CASE(many_threads)};
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
