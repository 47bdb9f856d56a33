/* What the helper does with files: it looks at what the system and the control group say of memory, in nobody's way, and
   not once there may be a filter of system calls. */
#include "support.h"
#include "specmalloc.h"
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static size_t dirty(void)
{
    static typeof(&specmalloc_get_statistics) get;
    if (get == NULL) get = (typeof(get))dlsym(RTLD_DEFAULT, "specmalloc_get_statistics");
    struct specmalloc_statistics now;
    CHECK(get != NULL && get(&now, sizeof now) == sizeof now);
    return now.dirty_bytes;
}

static atomic_bool over;

static void *wait_for_the_end(void *unused)
{
    while (!over) usleep(10 * 1000);
    return unused;
}

static pthread_t other;

/* A second thread, so that there is a helper. */
static void begin(void)
{
    CHECK(pthread_create(&other, NULL, wait_for_the_end, NULL) == 0);
}

static void end(void)
{
    over = true;
    CHECK(pthread_join(other, NULL) == 0);
}

/* Builds up 80 MiB and tears it down: where memory is plenty, most of it stays. Returns what does. */
static size_t cycle(void)
{
    enum { COUNT = 800 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        CHECK((blocks[i] = malloc(100 * KIB)) != NULL);
        memset(blocks[i], 1, 100 * KIB);
    }
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    return dirty();
}

/* Cycles until so much stays, or not so much, for `seconds` at most: whether it came to that. */
static bool comes_to(size_t bytes, bool more, int seconds)
{
    for (int round = 0; round < seconds * 20; round++) {
        size_t stays = cycle();
        if (more ? stays >= bytes : stays < bytes) return true;
        usleep(50 * 1000);
    }
    return false;
}

/* No number of the program's is taken, not for a moment, and none of its files is held open. */
static void files_of_its_own(void)
{
    begin();
    int ends[2];
    CHECK(pipe(ends) == 0);
    int next = dup(0);
    CHECK(next >= 0 && close(next) == 0);
    for (int round = 0; round < 100; round++) {
        cycle();
        for (int i = 0; i < 2000; i++) {
            int file = dup(0);
            CHECK(file == next && close(file) == 0);
        }
        usleep(20 * 1000);
    }
    char path[64], byte;
    snprintf(path, sizeof path, "/proc/self/task/%d/fd", helper());
    DIR *files = opendir(path);
    CHECK(files != NULL);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(files)) != NULL;) count += entry->d_name[0] != '.';
    closedir(files);
    CHECK(count == 0);
    CHECK(close(ends[1]) == 0 && read(ends[0], &byte, 1) == 0);
    /* All of the program's files go; the helper's are none of them. */
    for (int file = 3; file < 100; file++) close(file);
    CHECK(comes_to(20 * MIB, true, 20));
    end();
}

/* The file that the helper looks at is another that says what this says. */
static void say(const char *path, long total)
{
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    fprintf(file, "some avg10=0.00 avg60=0.00 avg300=0.00 total=%ld\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            total);
    CHECK(fclose(file) == 0);
}

static void the_system_has_little(void)
{
    char path[] = "/tmp/specmalloc-pressure-XXXXXX";
    int file = mkstemp(path);
    CHECK(file >= 0 && close(file) == 0);
    say(path, 1000);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0
        || mount(path, "/proc/pressure/memory", NULL, MS_BIND, NULL) != 0) {
        unlink(path);
        _exit(3);
    }
    begin();
    CHECK(comes_to(20 * MIB, true, 20));
    bool gone = false;
    size_t stays = 0;
    for (long round = 1; round <= 100 && !gone; round++) {
        say(path, 1000 + round * 1000000);
        cycle();
        for (int i = 0; i < 12 && !gone; i++) {
            usleep(10 * 1000);
            stays = dirty();
            gone = stays < MIB;
        }
    }
    unlink(path);
    if (!gone) fprintf(stderr, "%zu bytes stay\n", stays);
    end();
}

/* Kills for what the helper would do with files. */
static void install(bool tells, bool kills_for_the_question)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kills_for_the_question ? SYS_prctl : SYS_read, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    long told = tells ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    CHECK(told == 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) _exit(3);
}

/* While the helper looks, again and again. */
static void filtered(bool tells, bool kills_for_the_question, int times)
{
    pid_t children[64];
    CHECK(times <= 64);
    for (int i = 0; i < times; i++) {
        CHECK((children[i] = fork()) >= 0);
        if (children[i] != 0) continue;
        begin();
        for (int round = 0; round < 40; round++) {
            cycle();
            if (round == 10 + i % 10) install(tells, kills_for_the_question);
            usleep(50 * 1000 + i * 100);
        }
        _exit(0);
    }
    for (int i = 0; i < times; i++) {
        int status;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 3) _exit(3);
        CHECK(status == 0);
    }
}

static void a_filter_that_was_announced(void) { filtered(true, true, 12); }
static void a_filter_that_was_not(void) { filtered(false, false, 1); }

MAIN(CASE(files_of_its_own), CASE(the_system_has_little), 
     CASE(a_filter_that_was_announced), CASE(a_filter_that_was_not))
