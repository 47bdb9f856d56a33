/* A shared library with thread-local data and with memory of its own, for a program that loads and unloads it. */
#include <stdlib.h>
#include <string.h>

static char *table[100];
static __thread char *last;
static __thread char buffer[4000];

__attribute__((constructor)) static void fill_table(void)
{
    for (int i = 0; i < 100; i++) table[i] = strdup("an entry of the table");
}

__attribute__((destructor)) static void free_table(void)
{
    for (int i = 0; i < 100; i++) free(table[i]);
}

char *plugin_block(void)
{
    buffer[0]++;
    last = malloc(40);
    return strcpy(last, "from the plug-in");
}
