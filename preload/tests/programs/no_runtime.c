/* A C program: there is no C++ runtime, unless a plug-in brings one. */
#include "support.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    alarm(240);
    if (argc == 2) {
        void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (plugin == NULL) fprintf(stderr, "%s\n", dlerror());
        CHECK(plugin != NULL);
        CHECK(dlsym(RTLD_DEFAULT, "_ZSt15get_new_handlerv") == NULL);
        int (*plugin_throws)(void) = (int (*)(void))dlsym(plugin, "plugin_throws");
        CHECK(plugin_throws != NULL);
        CHECK(plugin_throws() == 4);
        return 0;
    }
    void *(*operator_new)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    void *(*nothrow_new)(size_t, const void *) = (void *(*)(size_t, const void *))dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
    void (*operator_delete)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_ZdlPv");
    CHECK(operator_new != NULL && nothrow_new != NULL && operator_delete != NULL);
    operator_delete(operator_new(100));
    operator_delete(nothrow_new(100, ""));
    CHECK(nothrow_new((size_t)1 << 60, "") == NULL);
    operator_new((size_t)1 << 60);
    return 0;
}
