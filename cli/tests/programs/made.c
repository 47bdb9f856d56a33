// Code that is made at run time, and told to perf: a function that calls malloc.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
    // push rbp; mov rbp, rsp; mov edi, 5000; mov rax, malloc; call rax; pop rbp; ret
    unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xbf, 0x88, 0x13, 0, 0, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xd0, 0x5d, 0xc3};
    uint64_t target = (uint64_t)(uintptr_t)malloc;
    memcpy(code + 11, &target, sizeof target);
    void *place = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(place, code, sizeof code);
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    fprintf(map, "%lx %zx jitted function\n", (unsigned long)(uintptr_t)place, sizeof code);
    fclose(map);
    printf("%s\n", path);
    fflush(stdout);
    return ((void *(*)(void))place)() == 0;
}
