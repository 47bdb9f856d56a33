/* What the test programs share: checks that name their place, a watchdog, and choosing a case by name. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);             \
            _exit(1);                                                                                     \
        }                                                                                                 \
    } while (0)

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

/* The compiler cannot see through this, and so has no opinion on sizes and freed pointers. */
static inline void *opaque(void *pointer)
{
    void *volatile copy = pointer;
    return copy;
}

static inline size_t opaque_size(size_t size)
{
    volatile size_t copy = size;
    return copy;
}

struct test_case {
    const char *name;
    void (*run)(void);
};

#define CASE(function) {#function, function}

/* Runs the case that the first argument names. A program that hangs dies of SIGALRM. */
static inline int run_case(const struct test_case *cases, size_t count, int argc, char **argv)
{
    alarm(240);
    for (size_t i = 0; argc == 2 && i < count; i++) {
        if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    }
    fprintf(stderr, "no such case\n");
    return 2;
}

#define MAIN(...)                                                                                         \
    int main(int argc, char **argv)                                                                       \
    {                                                                                                     \
        static const struct test_case cases[] = {__VA_ARGS__};                                            \
        return run_case(cases, sizeof cases / sizeof *cases, argc, argv);                                 \
    }

/* The beginning of a file that the kernel writes, as a string. */
static inline void read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    size_t length = fread(text, 1, size - 1, file);
    fclose(file);
    text[length] = 0;
}

/* Bytes of physical memory that the process has now; those of files, if asked: of these the system maps some more around
 * a fault, and takes some away, as it likes. */
static inline size_t resident_of(bool files)
{
    char text[128];
    read_text("/proc/self/statm", text, sizeof text);
    size_t all, shared;
    CHECK(sscanf(text, "%*u %zu %zu", &all, &shared) == 2);
    return (all - (files ? 0 : shared)) * (size_t)sysconf(_SC_PAGESIZE);
}

static inline size_t resident(void) { return resident_of(true); }

/* The number that the kernel gives for a thread under `name`. Without malloc, which would wake the helper, now or when
 * the calling thread ends. */
static inline unsigned long long thread_status(int number, const char *name, int base)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", number);
    int file = open(path, O_RDONLY);
    CHECK(file >= 0);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    CHECK(length > 0);
    text[length] = 0;
    char *found = strstr(text, name);
    CHECK(found != NULL);
    return strtoull(found + strlen(name), NULL, base);
}

/* Calls `one` for the number of each thread of this process, and returns how many there are. */
static inline int each_thread(void (*one)(int))
{
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        count++;
        if (one != NULL) one(atoi(entry->d_name));
    }
    closedir(tasks);
    return count;
}

static inline void is_our_helper(int number, int *found)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", number);
    FILE *file = fopen(path, "r");
    if (file == NULL) return; /* It has ended meanwhile. */
    if (fgets(name, sizeof name, file) != NULL && strcmp(name, "specmalloc\n") == 0) *found = number;
    fclose(file);
}

static int helper_number;
static inline void look_for_helper(int number) { is_our_helper(number, &helper_number); }

/* The number of the library's own thread; waits until there is one. The watchdog ends what waits in vain. */
static inline int helper(void)
{
    for (helper_number = 0; helper_number == 0; usleep(1000)) each_thread(look_for_helper);
    return helper_number;
}

/* Waits for a child, which is to exit with zero. */
static inline void ends_well(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pid_t number_of_the_other;

static inline void *allocates_and_tells(void *unused)
{
    number_of_the_other = (pid_t)syscall(SYS_gettid);
    free(opaque(malloc(100)));
    return unused;
}

/* Fails with EINVAL in a process that has a second thread, which one that was joined may be for a moment: the kernel tells
 * the C library before it is done with it. (A few of 2,000 fail so without any library, on a busy machine.) */
static inline void unshare_after_the_only_thread_was_joined(void)
{
    int failed = 0;
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, allocates_and_tells, NULL) == 0 && pthread_join(thread, NULL) == 0);
            while (syscall(SYS_tgkill, getpid(), number_of_the_other, 0) == 0) sched_yield();
            /* It is off the kernel's lists; a call that takes their lock comes after all else that happens under it. */
            syscall(SYS_getpriority, 1 /* PRIO_PGRP */, 0);
            _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : errno == EINVAL ? 1 : 2);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        failed += WEXITSTATUS(status) == 1;
    }
    CHECK(failed == 0);
}

/* Fills the block with a pattern of its address and checks it later. */
static inline void fill(void *block, size_t size)
{
    memset(block, (int)(((uintptr_t)block >> 4) & 0xff), size);
}

static inline void check_filled(const void *block, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)block;
    unsigned char expected = (unsigned char)(((uintptr_t)block >> 4) & 0xff);
    for (size_t i = 0; i < size; i++) CHECK(bytes[i] == expected);
}

#endif
