// Allocates in less time than passes between two publications, and waits with a second thread for a line.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *volatile blocks[3000];

static void *rest(void *unused)
{
    pause();
    return unused;
}

int main(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, rest, NULL) != 0)
        return 1;
    usleep(100000);
    for (int i = 0; i < 3000; i++)
        blocks[i] = malloc(1000);
    printf("%d\n", getpid());
    fflush(stdout);
    getchar();
    return 0;
}
