/* The library is loaded by dlopen in a thread, used through dlsym, and closed, before that thread ends and another. */
#include "support.h"
#include <dlfcn.h>

static void *(*library_malloc)(size_t);
static void (*library_free)(void *);

static void *body(void *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    library_malloc = (void *(*)(size_t))dlsym(library, "malloc");
    library_free = (void (*)(void *))dlsym(library, "free");
    CHECK(library_malloc != NULL && library_free != NULL);
    library_free(library_malloc(10));
    CHECK(dlclose(library) == 0);
    return NULL;
}

static void *uses(void *unused)
{
    for (int i = 0; i < 1000; i++) library_free(library_malloc(10 + i));
    return unused;
}

int main(int argc, char **argv)
{
    alarm(60);
    CHECK(argc == 2);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argv[1]) == 0 && pthread_join(thread, NULL) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(pthread_create(&thread, NULL, uses, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}
