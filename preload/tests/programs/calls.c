/*
 * One call of the malloc family other than a lone malloc, COUNT times, with the free that ends it: `calls KIND COUNT`.
 * For counting instructions.
 */
#include "support.h"

static void *kept[256];

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 3);
    char kind = argv[1][0];
    size_t count = strtoul(argv[2], NULL, 10), sum = 0;
    void *large = malloc(opaque_size(50000));
    for (size_t i = 0; i < 256; i++) CHECK((kept[i] = malloc(100)) != NULL);
    for (size_t i = 0; i < count; i++) {
        void *block = NULL;
        switch (kind) {
        case 'a': block = aligned_alloc(64, 64); break;
        case 'p': CHECK(posix_memalign(&block, 4096, 4096) == 0 && (uintptr_t)block % 4096 == 0); break;
        case 'r': block = realloc(opaque(malloc(100)), 104); break;
        case 'R': large = realloc(opaque(large), 50000 - i % 2 * 1000); break;
        case 'S': large = realloc(opaque(large), 50000); break;
        case 'U': sum += malloc_usable_size(large); break;
        case 'u': sum += malloc_usable_size(kept[i % 256]); break;
        case 'l': block = malloc(opaque_size(100000)); break;
        case 'n': break;
        default: return 2;
        }
        free(opaque(block));
    }
    return kind == 'u' && sum < 100 * count;
}
