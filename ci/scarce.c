/* The two programs of ci/pressure.sh. "keep": has 100 MiB for a moment, twice a second, so that they stay its own in
   between; tells what is free and resident between two times, and, when it is asked to end (SIGTERM), the least that
   ever was since. "take N": takes N MiB, one each 20 ms, and ends. */
#include "specmalloc.h"
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1024 * 1024)

static volatile sig_atomic_t over;

static void end(int signal)
{
    (void)signal;
    over = 1;
}

static size_t dirty(void)
{
    struct specmalloc_statistics now;
    typeof(&specmalloc_get_statistics) get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    if (get == NULL || get(&now, sizeof now) != sizeof now) _exit(3);
    return now.dirty_bytes / MIB;
}

static void tell(const char *when, size_t amount)
{
    printf("%s: %zu\n", when, amount);
    fflush(stdout);
}

/* A second thread, so that there is a helper. */
static void *sleep_for_ever(void *unused)
{
    for (;;) pause();
    return unused;
}

static int keep(void)
{
    enum { COUNT = 1000, BYTES = 100 * 1024 };
    static void *blocks[COUNT];
    pthread_t other;
    if (pthread_create(&other, NULL, sleep_for_ever, NULL) != 0) return 2;
    size_t least = (size_t)-1;
    for (int round = 0; !over; round++) {
        for (int i = 0; i < COUNT && !over; i++) {
            if ((blocks[i] = malloc(BYTES)) == NULL) return 2;
            memset(blocks[i], 1, BYTES);
        }
        for (int i = 0; i < COUNT; i++) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
        for (int i = 0; i < 5 && !over; i++) {
            usleep(100 * 1000);
            size_t now = dirty();
            if (round > 10 && now < least) least = now;
        }
        if (round == 10) tell("before", dirty());
    }
    tell("after", least);
    return 0;
}

static int take(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *piece = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (piece == MAP_FAILED) return 2;
        memset(piece, 1, MIB);
        usleep(20 * 1000);
    }
    return 0;
}

int main(int count, char **arguments)
{
    signal(SIGTERM, end);
    if (count == 2 && strcmp(arguments[1], "keep") == 0) return keep();
    if (count == 3 && strcmp(arguments[1], "take") == 0) return take(strtoul(arguments[2], NULL, 10));
    return 1;
}
