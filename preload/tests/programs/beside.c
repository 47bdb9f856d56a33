/* glibc's malloc, which is still there beside the one that is preloaded: who gets it, and what becomes of its blocks. */
#include "support.h"
#include <dlfcn.h>
#include <link.h>

static void *plugin_with(int flags)
{
    void *plugin = dlopen(getenv("PLUGIN"), RTLD_NOW | flags);
    if (!plugin) fprintf(stderr, "%s\n", dlerror());
    CHECK(plugin != NULL);
    return plugin;
}

static void *function(const char *name)
{
    void *found = dlsym(plugin_with(RTLD_DEEPBIND), name);
    CHECK(found != NULL);
    return found;
}

static void plugin_keeps_to_itself(void)
{
    ((void (*)(void))function("own"))();
}

static void plugin_frees_ours(void)
{
    ((void (*)(void *))function("drop"))(malloc(500));
}

static void plugin_grows_ours(void)
{
    char *block = malloc(500);
    strcpy(block, "as it was");
    block = ((void *(*)(void *))function("grow"))(block);
    CHECK(block && strcmp(block, "as it was") == 0);
    free(block);
}

static void plugin_frees_what_libc_made(void)
{
    ((void (*)(void))function("libc_made"))();
}

static void plugin_gives(void)
{
    free(((void *(*)(void))function("give"))());
}

/* glibc's own functions, by a handle of libc. */
static void *(*their_malloc)(size_t);
static void *(*their_memalign)(size_t, size_t);
static void (*their_free)(void *);

static void find_theirs(void)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW);
    CHECK(libc != NULL);
    their_malloc = (void *(*)(size_t))dlsym(libc, "malloc");
    their_memalign = (void *(*)(size_t, size_t))dlsym(libc, "memalign");
    their_free = (void (*)(void *))dlsym(libc, "free");
    CHECK(their_malloc && their_memalign && their_free && their_malloc != malloc);
}

static void take(char *block, size_t size)
{
    CHECK(block != NULL);
    CHECK(malloc_usable_size(block) >= size && malloc_usable_size(block) <= size + 64 * KIB);
    memset(block, 0x77, malloc_usable_size(block));
    errno = 55;
    if (size % 3 == 0) {
        free(opaque(block));
        CHECK(errno == 55);
        return;
    }
    size_t other = size % 3 == 1 ? 2 * size : size / 2 + 1;
    block = realloc(opaque(block), other);
    CHECK(block != NULL);
    for (size_t i = 0; i < size && i < other; i++) CHECK(block[i] == 0x77);
    free(block);
}

static void *take_all_sizes(void *unused)
{
    static const size_t sizes[] = {1, 2, 3, 24, 25, 40, 100, 1000, 1032, 1033, 4000, 30000, 100000, 130000, 131072, 140000,
                                   MIB};
    for (int round = 0; round < 3; round++) {
        char *kept[sizeof sizes / sizeof *sizes];
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            kept[i] = their_malloc(sizes[i]);
            take(their_malloc(sizes[i] + 1), sizes[i] + 1);
            take(their_malloc(sizes[i]), sizes[i]);
            for (size_t align = 32; align <= 64 * KIB; align *= 8) take(their_memalign(align, sizes[i]), sizes[i]);
        }
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) take(kept[i], sizes[i]);
    }
    return unused;
}

static void blocks_of_the_main_arena(void)
{
    find_theirs();
    take_all_sizes(NULL);
}

static void blocks_of_other_arenas(void)
{
    pthread_t threads[4];
    find_theirs();
    free(their_malloc(10)); /* the first one to ask gets the main arena */
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, take_all_sizes, NULL) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

/* A heap of an arena that is full is continued in another one. */
static void blocks_of_an_arenas_second_heap(void)
{
    enum { COUNT = 1000 };
    static char *blocks[COUNT];
    find_theirs();
    mallopt(M_ARENA_MAX, 1);
    for (int i = 0; i < COUNT; i++) CHECK((blocks[i] = their_malloc(120000)) != NULL);
    for (int i = 0; i < COUNT; i++) take(blocks[(i * 7) % COUNT], 120000);
}

static void *second_heap(void *unused)
{
    blocks_of_an_arenas_second_heap();
    return unused;
}

static void blocks_of_second_heaps_in_a_thread(void)
{
    pthread_t thread;
    find_theirs();
    free(their_malloc(10));
    CHECK(pthread_create(&thread, NULL, second_heap, NULL) == 0);
    pthread_join(thread, NULL);
}

/* A library in a namespace of its own has a libc of its own, which we are not in front of. */
static void blocks_of_another_namespace(void)
{
    void *plugin = dlmopen(LM_ID_NEWLM, getenv("PLUGIN"), RTLD_NOW);
    if (!plugin) fprintf(stderr, "%s\n", dlerror());
    CHECK(plugin != NULL);
    void *(*sized)(size_t) = (void *(*)(size_t))dlsym(plugin, "give_sized");
    void *(*other)(void) = (void *(*)(void))dlsym(plugin, "namespaces_malloc");
    CHECK(sized && other && other() != (void *)malloc);
    ((void (*)(void))dlsym(plugin, "own"))();
    for (int round = 0; round < 100; round++)
        for (size_t size = 1; size < 300000; size = size * 3 / 2 + 1) take(sized(size), size);
}

/* The address that a call returns to is the caller's: dlopen and dlmopen look along the caller's RUNPATH. */
static void the_callers_runpath_counts(void)
{
    for (int way = 0; way < 4; way++) {
        void *outer = dlopen("libouter.so", RTLD_NOW | (way & 1 ? RTLD_DEEPBIND : 0)); /* along the program's */
        if (!outer) fprintf(stderr, "%s\n", dlerror());
        CHECK(outer != NULL);
        void *(*inner)(int) = (void *(*)(int))dlsym(outer, "open_inner"); /* along that library's */
        CHECK(inner && inner(way) != NULL);
    }
}

/* RTLD_DEEPBIND means something else for other symbols: the plug-in's own come first if it is honoured. */
int which(void) { return 1; }

static void deepbind_is_honoured(void)
{
    CHECK(((int (*)(void))function("which_from_inside"))() == 2);
}

static void deepbind_is_cleared(void)
{
    CHECK(((int (*)(void))function("which_from_inside"))() == 1);
    void *plugin = dlmopen(LM_ID_BASE, getenv("PLUGIN"), RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin && ((int (*)(void))dlsym(plugin, "which_from_inside"))() == 1);
}

static void errors_are_libcs(void)
{
    CHECK(dlopen("/nowhere/at/all.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    const char *text = dlerror();
    CHECK(text && strstr(text, "/nowhere/at/all.so"));
    CHECK(dlerror() == NULL);
}

MAIN(CASE(plugin_keeps_to_itself), CASE(plugin_frees_ours), CASE(plugin_grows_ours), CASE(plugin_frees_what_libc_made),
     CASE(plugin_gives), CASE(blocks_of_the_main_arena), CASE(blocks_of_other_arenas), CASE(blocks_of_an_arenas_second_heap),
     CASE(blocks_of_second_heaps_in_a_thread), CASE(blocks_of_another_namespace), CASE(the_callers_runpath_counts),
     CASE(deepbind_is_honoured), CASE(deepbind_is_cleared), CASE(errors_are_libcs))
