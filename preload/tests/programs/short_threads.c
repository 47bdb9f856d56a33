/* Threads that follow each other, each of which allocates 64 blocks of as many sizes and frees them: `short_threads COUNT`. */
#include "support.h"

enum { BLOCKS = 64 };

static void *work(void *unused)
{
    char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(16 << i % 7 | i)) != NULL);
        *blocks[i] = 1;
    }
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    return unused;
}

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 2);
    for (size_t left = strtoul(argv[1], NULL, 10); left > 0; left--) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, work, NULL) == 0 && pthread_join(thread, NULL) == 0);
    }
    return 0;
}
