// Known amounts at known places. The first argument says what becomes of the process then.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *volatile blocks[100000];

static inline __attribute__((always_inline)) void *wrapped(size_t bytes) {
    void *block = malloc(bytes);
    return block ? memset(block, 1, bytes) : block;
}

__attribute__((noinline)) static void kept(int count, size_t bytes) {
    for (int number = 0; number < count; number++)
        blocks[number] = wrapped(bytes);
}

__attribute__((noinline)) static void dropped(int count, size_t bytes) {
    for (int number = 0; number < count; number++) {
        void *volatile block = malloc(bytes);
        free(block);
    }
}

__attribute__((noinline)) static void held(int count, size_t bytes) {
    for (int number = 0; number < count; number++)
        blocks[number + 1000] = malloc(bytes);
    for (int number = 0; number < count; number++)
        free(blocks[number + 1000]);
}

__attribute__((noinline)) static void lived(int count, int milliseconds) {
    for (int number = 0; number < count; number++)
        blocks[number] = malloc(100);
    usleep(milliseconds * 1000);
    for (int number = 0; number < count; number++)
        free(blocks[number]);
}

// Once more than it is called, so that it has no place for a shortcut.
__attribute__((noinline)) static int again(int depth) {
    if (depth == 0) {
        kept(1, 50000);
        return 0;
    }
    return again(depth - 1) + 1;
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    if (!strcmp(how, "many")) {
        kept(100000, 1000);
        return 0;
    }
    if (!strcmp(how, "lives")) {
        dropped(50, 100);
        lived(20, 30);
        return 0;
    }
    if (!strcmp(how, "after")) {
        // Until a freed block is one of those whose pages are gone.
        for (int number = 0; number < 100; number++) {
            volatile char *block = malloc(64);
            free((void *)block);
            block[1] = 1;
        }
        return 0;
    }
    dropped(200, 3000);
    if (!strcmp(how, "again"))
        return again(5) != 5;
    kept(100, 1000);
    if (!strcmp(how, "killed"))
        raise(SIGKILL);
    if (!strcmp(how, "exits"))
        _exit(7);
    if (!strcmp(how, "waits")) {
        // A round for each byte of input.
        printf("%d\n", getpid());
        fflush(stdout);
        char byte;
        while (read(0, &byte, 1) == 1) {
            held(20000, 3000);
            write(1, ".", 1);
        }
    }
    return 0;
}
