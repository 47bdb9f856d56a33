/*
 * ROUNDS times buffers grow by realloc from 16 to 512 KiB and are freed: `growing KIND ROUNDS`. One by doubling (d), by
 * half (h), in steps of 4 KiB (s) or of 16 (S); two side by side by doubling (t). For counting instructions, most of
 * which are those that copy. Their contents come along.
 */
#include "support.h"

static size_t next_size(char kind, size_t size)
{
    switch (kind) {
    case 'h': return size + size / 2;
    case 's': return size + 4 * KIB;
    case 'S': return size + 16 * KIB;
    default: return 2 * size;
    }
}

static char *grown(char *block, size_t before, size_t size, size_t mark)
{
    block = realloc(opaque(block), size);
    CHECK(block != NULL && block[0] == (char)mark && block[before - 1] == (char)mark);
    block[size - 1] = (char)mark;
    return block;
}

int main(int argc, char **argv)
{
    alarm(240);
    CHECK(argc == 3);
    char kind = argv[1][0];
    size_t rounds = strtoul(argv[2], NULL, 10), blocks = kind == 't' ? 2 : 1;
    for (size_t round = 0; round < rounds; round++) {
        char *all[2];
        for (size_t i = 0; i < blocks; i++) {
            CHECK((all[i] = malloc(16 * KIB)) != NULL);
            all[i][0] = all[i][16 * KIB - 1] = (char)(round + i);
        }
        for (size_t size = 16 * KIB; size < 512 * KIB;) {
            size_t next = next_size(kind, size);
            for (size_t i = 0; i < blocks; i++) all[i] = grown(all[i], size, next, round + i);
            size = next;
        }
        for (size_t i = 0; i < blocks; i++) free(all[i]);
    }
    return 0;
}
