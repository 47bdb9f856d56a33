/* Has what it never touches, says its number, and waits for a line. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *kept[501];

int main(void) {
    for (int i = 0; i < 500; i++)
        kept[i] = malloc(100000);
    kept[500] = calloc(1, 1 << 28);
    /* For a slow path, after which figures are published. */
    usleep(100000);
    for (int i = 0; i < 40; i++)
        free(malloc(200000));
    printf("%d\n", (int)getpid());
    fflush(stdout);
    return getchar() == EOF;
}
