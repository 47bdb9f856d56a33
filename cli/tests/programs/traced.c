/* Makes known calls: those of 50,001 to 59,999 bytes, which nothing else in a small process asks for. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno);                     \
            _exit(9);                                                                                     \
        }                                                                                                 \
    } while (0)

static void *checked(void *block)
{
    CHECK(block);
    return memset(block, 1, 50001);
}

/* Every function of the family, and what fails or does nothing. */
static void family(void)
{
    char *a = checked(malloc(50001)), *b = checked(calloc(2, 25001)), *c = checked(aligned_alloc(64, 50048));
    void *d = 0;
    CHECK(!posix_memalign(&d, 4096, 50004));
    char *e = checked(memalign(256, 50005)), *f = checked(valloc(50006)), *g = checked(realloc(0, 50007));
    a = checked(realloc(a, 50101));
    a = checked(reallocarray(a, 5, 10100));
    errno = 0;
    CHECK(!reallocarray(a, (size_t)-1, 2) && errno == ENOMEM);
    volatile size_t too_much = (size_t)-1 / 4;
    CHECK(!malloc(too_much) && !realloc(a, too_much) && !calloc(too_much, 8));
    CHECK(posix_memalign(&d, 3, 50009) == EINVAL);
    errno = 77;
    free(0), free(b), free(c), free(d), free(e), free(f);
    CHECK(errno == 77);
    CHECK(!realloc(g, 0));
    free(a);
}

static void *handed;

static void *take(void *unused)
{
    (void)unused;
    handed = checked(realloc(handed, 50020));
    void *own = checked(malloc(50021));
    free(own);
    return 0;
}

static void *give(void *size)
{
    handed = checked(malloc((size_t)size));
    return 0;
}

static void run(void *(*main)(void *), void *argument)
{
    pthread_t thread;
    CHECK(!pthread_create(&thread, 0, main, argument));
    CHECK(!pthread_join(thread, 0));
}

/* One thread's block, another's realloc, a third one's free. */
static void threads(void)
{
    run(give, (void *)50019);
    run(take, 0);
    free(handed);
}

static void *short_life(void *size)
{
    free(checked(malloc((size_t)size)));
    return 0;
}

static void short_threads(void)
{
    for (size_t i = 0; i < 1000; i++)
        run(short_life, (void *)(50001 + i));
}

static pthread_key_t key;
static sem_t over;

static void at_thread_exit(void *block)
{
    free(block);
    free(checked(malloc(50031)));
    CHECK(!sem_post(&over));
}

static void *detached_main(void *unused)
{
    (void)unused;
    CHECK(!pthread_detach(pthread_self()));
    CHECK(!pthread_setspecific(key, checked(malloc(50030))));
    return 0;
}

/* Threads that nobody waits for; their last calls are those of a destructor. */
static void detached(void)
{
    CHECK(!pthread_key_create(&key, at_thread_exit) && !sem_init(&over, 0, 0));
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        CHECK(!pthread_create(&thread, 0, detached_main, 0));
        CHECK(!sem_wait(&over));
    }
}

/* A child with a block of its parent's. */
static void forks(void)
{
    void *before = checked(malloc(50040)), *kept = checked(malloc(50041));
    pid_t child = fork();
    if (!child) {
        free(before);
        free(checked(malloc(50042)));
        _exit(5);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
    free(checked(malloc(50043)));
    free(kept);
    free(before);
}

static void ends_at_once(void)
{
    free(checked(malloc(50050)));
    checked(malloc(50051));
    _exit(7);
}

static void killed(void)
{
    free(checked(malloc(50060)));
    checked(malloc(50061));
    kill(getpid(), SIGKILL);
}

static void *volatile shared;

static void handler(int number)
{
    (void)number;
    free(shared);
    shared = checked(malloc(50071));
    shared = checked(realloc(shared, 50072));
}

static void signals(void)
{
    signal(SIGUSR1, handler);
    shared = checked(malloc(50070));
    raise(SIGUSR1);
    raise(SIGUSR1);
    free(shared);
}

static void *early;

__attribute__((constructor)) static void begin(void) { early = checked(malloc(50080)); }

__attribute__((destructor)) static void end(void)
{
    free(early);
    free(checked(malloc(50081)));
}

static void at_exit(void) { free(checked(malloc(50082))); }

/* Constructors, destructors, atexit. */
static void edges(void) { CHECK(!atexit(at_exit)); }

static char **arguments;

static void execs(void)
{
    checked(malloc(50090));
    arguments[1] = "ends_at_once";
    execv("/proc/self/exe", arguments);
}

#define SLOTS 64
static void *slots[SLOTS];

static void *exchange(void *seed)
{
    unsigned random = (unsigned)(size_t)seed;
    for (int i = 0; i < 20000; i++) {
        random = random * 1103515245 + 12345;
        size_t size = 50001 + (random >> 8) % 5000;
        void *block = random & 0x10000 ? malloc(size) : calloc(1, size);
        CHECK(block);
        if (random & 0x20000)
            CHECK(block = realloc(block, size + 500));
        free(__atomic_exchange_n(&slots[(random >> 12) % SLOTS], block, __ATOMIC_ACQ_REL));
    }
    return 0;
}

/* Four threads that free each other's blocks as fast as they can. */
static void storm(void)
{
    pthread_t thread[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&thread[i], 0, exchange, (void *)(i + 1)));
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_join(thread[i], 0));
    for (size_t i = 0; i < SLOTS; i++)
        free(slots[i]);
}

/* As a daemon does it: no descriptor but those three. */
static void closed(void)
{
    for (int i = 3; i < 1024; i++)
        close(i);
    CHECK(!chdir("/"));
    free(checked(malloc(50095)));
}

#define CASE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {CASE(family), CASE(threads), CASE(short_threads), CASE(detached), CASE(forks), CASE(ends_at_once),
             CASE(killed), CASE(signals), CASE(edges), CASE(execs), CASE(storm), CASE(closed)};

int main(int argc, char **argv)
{
    alarm(120);
    arguments = argv;
    for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            return 0;
        }
    return 9;
}
