/* A program that shuts itself off once it has started, as a network service does: from then on only the kinds of system call
 * that glibc's malloc makes are allowed, and those that end it. Any other kills it. */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static volatile int shut;

static void install(struct sock_filter *filter, size_t length)
{
    struct sock_fprog program = {length, filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) _exit(3);
    shut = 1;
}

static void shut_off(void)
{
    static const int allowed[] = {SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_brk, SYS_futex,
                                  SYS_write, SYS_exit, SYS_exit_group, SYS_rt_sigprocmask, SYS_rt_sigreturn,
                                  SYS_clock_gettime, SYS_set_robust_list, SYS_clock_nanosleep};
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter filter[2 * COUNT + 2];
    size_t length = 0;
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < COUNT; i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    install(filter, length);
}

static unsigned next_random(unsigned *state)
{
    return *state = *state * 1664525 + 1013904223;
}

static void *work(void *seed)
{
    enum { COUNT = 3000 };
    char **blocks = calloc(COUNT, sizeof *blocks);
    unsigned state = (unsigned)(uintptr_t)seed;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COUNT; i++) {
            size_t size = 16 + (next_random(&state) >> 8) % (i % 10 ? 3000 : 120000);
            if (!(blocks[i] = malloc(size))) _exit(4);
            memset(blocks[i], 1, size);
        }
        for (int i = 0; i < COUNT; i++) free(blocks[i]);
        char *huge = malloc(30 * MIB);
        memset(huge, 1, 30 * MIB);
        huge = realloc(realloc(huge, 60 * MIB), MIB);
        free(huge);
        char *zero = calloc(1, 6 * MIB);
        for (size_t i = 0; i < 6 * MIB; i += 512) if (zero[i]) _exit(5);
        memset(zero, 1, 6 * MIB);
        free(zero);
        malloc_trim(0);
    }
    free(blocks);
    return NULL;
}

/* A program of one thread. */
static void alone(void)
{
    shut_off();
    work((void *)1);
    _exit(0);
}

/* The figures need nothing else either. */
static void reports(void)
{
    char *block = malloc(40), *sparse = calloc(1, 80 * MIB);
    size_t (*get)(struct specmalloc_statistics *, size_t);
    get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    struct specmalloc_statistics now;
    shut_off();
    free(block);
    malloc_stats();
    CHECK(get == NULL || (get(&now, sizeof now) > 0 && now.live_bytes >= 80 * MIB));
    free(sparse);
    _exit(0);
}

/* Threads that are made behind a filter that knows what making threads takes, and no more than that, the barrier and the
 * number of a thread beside: nobody is named, scheduled or bound to processors. */
static void shut_off_from_scheduling(void)
{
    static const int forbidden[] = {SYS_prctl, SYS_sched_setscheduler, SYS_sched_setaffinity, SYS_sched_setattr,
                                    SYS_setpriority, SYS_openat, SYS_close_range, SYS_timerfd_create};
    enum { COUNT = sizeof forbidden / sizeof *forbidden };
    struct sock_filter filter[2 * COUNT + 2];
    size_t length = 0;
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < COUNT; i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    install(filter, length);
}

static void with_threads_later(void)
{
    shut_off_from_scheduling();
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1)) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    /* The helper has come to its looks. */
    nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
    _exit(0);
}

/* The only advice that glibc's malloc gives is MADV_DONTNEED. */
static void shut_off_from_advice(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_DONTNEED, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof *filter);
}

/* Grows steadily, and frees huge blocks that were touched as a whole: what huge pages would be asked for. */
static void grow(void)
{
    enum { COUNT = 500000, HUGE_BLOCKS = 8 };
    char **blocks = malloc(COUNT * sizeof *blocks);
    for (int i = 0; i < COUNT; i++) memset(blocks[i] = malloc(150), 1, 150);
    char *huge[HUGE_BLOCKS];
    for (int i = 0; i < HUGE_BLOCKS; i++) memset(huge[i] = malloc((12 + i) * MIB), 1, (12 + i) * MIB);
    for (int i = 0; i < HUGE_BLOCKS; i++) free(huge[i]);
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    free(blocks);
}

static void without_advice(void)
{
    shut_off_from_advice();
    grow();
    _exit(0);
}

static void without_advice_later(void)
{
    grow();
    shut_off_from_advice();
    grow();
    _exit(0);
}

static void *sleeper(void *unused)
{
    CHECK(malloc(100) != NULL);
    for (;;) pause();
    return unused;
}

/* The barrier worked when the library was loaded, and fails when it is needed: addresses may be lost, memory not. */
static void without_the_barrier(void)
{
    enum { BLOCKS = 10 };
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sleeper, NULL) == 0);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof *filter);
    for (int round = 0; round < 20; round++) {
        char *blocks[BLOCKS];
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = 20 * MIB + (round * BLOCKS + i) * 64 * KIB;
            CHECK((blocks[i] = malloc(size)) != NULL);
            memset(blocks[i], 1, 20 * MIB);
        }
        for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    }
    malloc_trim(0);
    size_t stays = resident();
    if (stays > 60 * MIB) fprintf(stderr, "%zu MiB stay of %d\n", stays / MIB, 20 * BLOCKS), _exit(1);
}

/* Neither the barrier nor any advice is to be had, from when the program has threads. What is free goes all the same. */
static void without_advice_or_barrier(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sleeper, NULL) == 0);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof *filter);
    size_t stays = 0;
    for (int round = 0; round < 3; round++) {
        for (uintptr_t seed = 1; seed <= 3; seed++) work((void *)seed);
        malloc_trim(0);
        stays = resident();
        if (stays > 60 * MIB) fprintf(stderr, "%zu MiB stay after round %d\n", stays / MIB, round), _exit(1);
    }
    /* And reads as zero. */
    char *huge = calloc(1, 40 * MIB);
    for (size_t i = 0; i < 40 * MIB; i += 512) CHECK(huge[i] == 0);
    _exit(0);
}

/* The helper that a thread has brought is gone before, behind a filter, too. */
static void unshares(void)
{
    struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    install(all, 1);
    unshare_after_the_only_thread_was_joined();
}

MAIN(CASE(alone), CASE(reports), CASE(with_threads_later), CASE(without_advice), CASE(without_advice_later), CASE(without_the_barrier),
     CASE(without_advice_or_barrier), CASE(unshares))
