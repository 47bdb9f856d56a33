/* How threads and processes end: every way, with blocks live, freed or none, and the helper absent, awake or asleep. Each is
   a process of its own; one that does not end is killed, and fails. */
#include "support.h"
#include <fcntl.h>
#include <semaphore.h>
#include <spawn.h>

enum { CODE = 3, OTHERS = 2, PATIENCE_MS = 120000 };
enum blocks { NONE, FREED, LIVE, BLOCKS };
enum state { ALONE, AWAKE, ASLEEP, STATES };
enum end { RETURNS, EXITS, IS_CANCELLED };

struct way {
    const char *name;
    void (*first)(void); /* what the first thread does; if it returns, main does */
    void (*other)(void); /* what another does when it is told to; null: it ends by itself */
    enum end end;        /* how it does that */
    int code, signal;    /* what the process ends with */
};

static const struct way *way;
static enum blocks blocks;
static enum state state;
static pthread_t first, others[OTHERS];
static sem_t ready, go;
static int number; /* the helper's */
static char **arguments;

/* ---- What threads do before they end ---- */

static void use_memory(void)
{
    static const size_t sizes[] = {24, 3000, 100000, MIB, 6 * MIB};
    for (size_t i = 0; blocks != NONE && i < sizeof sizes / sizeof *sizes; i++) {
        void *block = opaque(malloc(sizes[i]));
        CHECK(block != NULL);
        fill(block, sizes[i]);
        if (blocks == FREED) free(block);
    }
}

/* How often the helper has slept. */
static long switches(void) { return (long)thread_status(number, "\nvoluntary_ctxt_switches:", 10); }

/* Brings the helper into the state that is asked for. It has a timer of a second as long as it has anything to look at. */
static void settle(void)
{
    if (state == ALONE) return;
    if (state == AWAKE) {
        char *block = opaque(malloc(8 * MIB));
        CHECK(block != NULL);
        fill(block, 8 * MIB);
        free(block);
        return;
    }
    for (long before = -1, now; (now = switches()) != before; before = now) usleep(1200000);
}

/* ---- Ends ---- */

static void calls_exit(void) { exit(CODE); }
static void calls_quick_exit(void) { quick_exit(CODE); }
static void calls__exit(void) { _exit(CODE); }
static void calls_abort(void) { abort(); }

static void is_killed(void)
{
    CHECK(kill(getpid(), SIGTERM) == 0);
    for (;;) pause();
}

static void executes(void)
{
    execl("/proc/self/exe", arguments[0], "code", (char *)NULL);
    CHECK(!"executed");
}

static void returns(void) {}

static void leaves(void) { pthread_exit(NULL); }

static void tells_another(void)
{
    sem_post(&go);
    for (;;) pause();
}

static void leaves_last(void)
{
    for (int i = 0; i < OTHERS && state != ALONE; i++)
        CHECK((way->end == IS_CANCELLED ? pthread_cancel(others[i]) : sem_post(&go)) == 0);
    for (int i = 0; i < OTHERS && state != ALONE; i++) CHECK(pthread_join(others[i], NULL) == 0);
    pthread_exit(NULL);
}

static void *other(void *index)
{
    use_memory();
    sem_post(&ready);
    if (way->first == leaves && index == NULL) {
        CHECK(pthread_join(first, NULL) == 0);
        settle();
        /* The two that are left end at the same time. */
        CHECK((way->end == IS_CANCELLED ? pthread_cancel(others[1]) : sem_post(&go)) == 0);
    } else {
        while (sem_wait(&go) != 0) {}
    }
    if (way->other != NULL) way->other();
    if (way->end == EXITS) pthread_exit(NULL);
    if (way->end == IS_CANCELLED) pthread_cancel(pthread_self());
    while (way->end == IS_CANCELLED) pause();
    return NULL;
}

static const struct way ways[] = {
    {"main_returns", returns, NULL, RETURNS, CODE, 0},
    {"exit_is_called", calls_exit, NULL, RETURNS, CODE, 0},
    {"quick_exit_is_called", calls_quick_exit, NULL, RETURNS, CODE, 0},
    {"_exit_is_called", calls__exit, NULL, RETURNS, CODE, 0},
    {"abort_is_called", calls_abort, NULL, RETURNS, 0, SIGABRT},
    {"a_signal_comes", is_killed, NULL, RETURNS, 0, SIGTERM},
    {"another_program_is_executed", executes, NULL, RETURNS, CODE, 0},
    {"another_thread_calls_exit", tells_another, calls_exit, RETURNS, CODE, 0},
    {"another_thread_ends_at_once", tells_another, calls__exit, RETURNS, CODE, 0},
    {"another_thread_aborts", tells_another, calls_abort, RETURNS, 0, SIGABRT},
    {"another_thread_executes", tells_another, executes, RETURNS, CODE, 0},
    {"a_signal_comes_without_the_first_thread", leaves, is_killed, RETURNS, 0, SIGTERM},
    {"exit_without_the_first_thread", leaves, calls_exit, RETURNS, CODE, 0},
    {"the_first_leaves_and_others_return", leaves, NULL, RETURNS, 0, 0},
    {"the_first_leaves_and_others_exit", leaves, NULL, EXITS, 0, 0},
    {"the_first_leaves_and_others_are_cancelled", leaves, NULL, IS_CANCELLED, 0, 0},
    {"others_return_and_the_first_leaves", leaves_last, NULL, RETURNS, 0, 0},
    {"others_exit_and_the_first_leaves", leaves_last, NULL, EXITS, 0, 0},
    {"others_are_cancelled_and_the_first_leaves", leaves_last, NULL, IS_CANCELLED, 0, 0},
};

static int end_this_process(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    first = pthread_self();
    CHECK(sem_init(&ready, 0, 0) == 0 && sem_init(&go, 0, 0) == 0);
    for (int i = 0; i < OTHERS && state != ALONE; i++)
        CHECK(pthread_create(&others[i], NULL, other, i == 0 ? NULL : &others[i]) == 0);
    for (int i = 0; i < OTHERS && state != ALONE; i++)
        while (sem_wait(&ready) != 0) {}
    use_memory();
    if (state != ALONE) number = helper();
    if (way->first != leaves) settle();
    way->first();
    return CODE;
}

/* ---- The process that watches them ---- */

static int ends_as_it_should(int status)
{
    if (way->signal != 0) return WIFSIGNALED(status) && WTERMSIG(status) == way->signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == way->code;
}

static void watch(void)
{
    extern char **environ;
    pid_t children[STATES][BLOCKS] = {{0}};
    for (int s = 0; s < STATES; s++) {
        if (s == ALONE && way->first == tells_another) continue;
        if (s == ALONE && way->first == leaves && way->other != NULL) continue;
        for (int b = 0; b < BLOCKS; b++) {
            char which[3] = {(char)('0' + s), (char)('0' + b), 0};
            char *call[] = {arguments[0], (char *)way->name, which, NULL};
            CHECK(posix_spawn(&children[s][b], "/proc/self/exe", NULL, NULL, call, environ) == 0);
        }
    }
    for (int s = 0; s < STATES; s++) {
        for (int b = 0; b < BLOCKS; b++) {
            int status = 0, waited = 0;
            if (children[s][b] == 0) continue;
            /* Not by SIGALRM in the child: what is left of it may have every signal blocked. */
            while (waitpid(children[s][b], &status, WNOHANG) == 0) {
                usleep(10000);
                if ((waited += 10) > PATIENCE_MS) kill(children[s][b], SIGKILL);
            }
            if (ends_as_it_should(status)) continue;
            fprintf(stderr, "%s, state %d, blocks %d: status %x\n", way->name, s, b, (unsigned)status);
        }
    }
}

int main(int argc, char **argv)
{
    arguments = argv;
    if (argc == 2 && strcmp(argv[1], "code") == 0) return CODE;
    for (size_t i = 0; argc >= 2 && i < sizeof ways / sizeof *ways; i++)
        if (strcmp(argv[1], ways[i].name) == 0) way = &ways[i];
    CHECK(way != NULL);
    if (argc == 2) {
        watch();
        return 0;
    }
    state = (enum state)(argv[2][0] - '0'), blocks = (enum blocks)(argv[2][1] - '0');
    return end_this_process();
}
