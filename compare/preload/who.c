/* Says which object serves malloc in each process that loads this: one line of the program's name and the object's
   path, appended to the file that WHO_FILE names. Loaded before the allocator under test, and never in its way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void say(void) {
    const char *path = getenv("WHO_FILE");
    Dl_info info;
    const ElfW(Sym) *symbol = 0;
    void *found = dlsym(RTLD_DEFAULT, "malloc");
    /* A program at a fixed address answers its own stub, which leads to the first definition in the objects behind it:
       behind this one, for this is the first. */
    if (found && dladdr1(found, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol && symbol->st_shndx == SHN_UNDEF)
        found = dlsym(RTLD_NEXT, "malloc");
    if (!path || !found || !dladdr(found, &info) || !info.dli_fname)
        return;
    char line[1024];
    size_t name = strlen(program_invocation_short_name), object = strlen(info.dli_fname);
    if (name + object + 2 > sizeof line)
        return;
    memcpy(line, program_invocation_short_name, name);
    line[name] = ' ';
    memcpy(line + name + 1, info.dli_fname, object);
    line[name + 1 + object] = '\n';
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0)
        return;
    ssize_t written = write(file, line, name + object + 2);
    (void)written;
    close(file);
}
