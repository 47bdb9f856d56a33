/* A plug-in that allocates and frees, its own blocks and others'; and with OUTER, one that loads another. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void own(void)
{
    char *block = malloc(100);
    strcpy(block, "own");
    block = realloc(block, 5000);
    free(block);
}

void drop(void *block) { free(block); }
void *grow(void *block) { return realloc(block, 100000); }
void *give(void) { return malloc(77); }
void *give_sized(size_t size) { return malloc(size); }
void *namespaces_malloc(void) { return (void *)malloc; }

void libc_made(void)
{
    char *text = strdup("made inside libc");
    free(text);
    if (asprintf(&text, "%d", 42) > 0) free(text);
}

int which(void) { return 2; }
int which_from_inside(void) { return which(); }

void *open_inner(int way)
{
    int flags = RTLD_NOW | (way & 1 ? RTLD_DEEPBIND : 0);
    void *inner = way & 2 ? dlmopen(LM_ID_BASE, "libinner.so", flags) : dlopen("libinner.so", flags);
    if (!inner) fprintf(stderr, "%s\n", dlerror());
    return inner;
}
