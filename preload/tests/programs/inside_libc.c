/* Parts of the C library that allocate while they hold locks of their own, that load libraries, and code that runs before
 * the constructors of the preloaded library. */
#include "support.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <glob.h>
#include <iconv.h>
#include <langinfo.h>
#include <locale.h>
#include <netdb.h>
#include <pwd.h>
#include <regex.h>
#include <time.h>
#include <wchar.h>

static void use_locales(void)
{
    static const char *const names[] = {"C", "C.UTF-8", "POSIX", "no_SUCH.locale"};
    for (size_t i = 0; i < 4; i++) {
        locale_t locale = newlocale(LC_ALL_MASK, names[i], NULL);
        if (!locale) continue;
        locale_t copy = duplocale(locale), before = uselocale(copy);
        CHECK(nl_langinfo(CODESET) != NULL);
        uselocale(before);
        freelocale(copy);
        freelocale(locale);
    }
}

static void use_streams(void)
{
    char *text = NULL, *line = NULL;
    size_t size = 0, room = 0;
    FILE *stream = open_memstream(&text, &size);
    CHECK(stream != NULL);
    for (int i = 0; i < 500; i++) fprintf(stream, "line %d of %s, %ls\n", i, "many", L"wide");
    CHECK(fclose(stream) == 0 && size > 5000);
    stream = fmemopen(text, size, "r");
    int lines = 0;
    while (getline(&line, &room, stream) >= 0) lines++;
    CHECK(lines == 500);
    fclose(stream);
    free(line);
    free(text);
    stream = popen("echo through a pipe", "r");
    char words[64] = "";
    CHECK(stream && fgets(words, sizeof words, stream) && strcmp(words, "through a pipe\n") == 0);
    CHECK(pclose(stream) == 0);
}

static void use_the_loader(void)
{
    CHECK(dlsym(RTLD_DEFAULT, "no_such_symbol") == NULL && dlerror() != NULL);
    CHECK(dlopen("/no/such/library.so", RTLD_NOW) == NULL && strstr(dlerror(), "/no/such/library.so"));
    void *maths = dlopen("libm.so.6", RTLD_LAZY);
    CHECK(maths && dlsym(maths, "cos") && !dlsym(maths, "no_such_symbol"));
    dlclose(maths); /* and the message waits until the thread ends */
}

static void use_databases(void)
{
    struct addrinfo *found = NULL, hints = {.ai_flags = AI_NUMERICHOST};
    CHECK(getaddrinfo("127.0.0.1", "80", &hints, &found) == 0);
    freeaddrinfo(found);
    if (getaddrinfo("localhost", NULL, NULL, &found) == 0) freeaddrinfo(found);
    struct passwd record, *result;
    char names[4096];
    getpwuid_r(0, &record, names, sizeof names, &result);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void use_the_rest(void)
{
    iconv_t conversion = iconv_open("UTF-16", "ISO-8859-15");
    if (conversion != (iconv_t)-1) iconv_close(conversion);
    regex_t pattern;
    CHECK(regcomp(&pattern, "^(a|b)*[[:digit:]]{2,5}$", REG_EXTENDED) == 0);
    CHECK(regexec(&pattern, "abba123", 0, NULL, 0) == 0);
    regfree(&pattern);
    glob_t matches;
    if (glob("/proc/self/*", 0, NULL, &matches) == 0) globfree(&matches);
    enum { COUNT = 2000 };
    char *table[COUNT];
    for (int i = 0; i < COUNT; i++) CHECK(asprintf(&table[i], "%d", i * 7919 % COUNT) > 0);
    qsort(table, COUNT, sizeof *table, compare);
    for (int i = 0; i < COUNT; i++) free(table[i]);
    void *frames[8];
    CHECK(backtrace(frames, 8) > 0); /* loads libgcc_s */
    char **symbols = backtrace_symbols(frames, 2);
    free(symbols);
    time_t now = 0;
    struct tm broken;
    char text[64];
    setenv("TZ", "Europe/Berlin", 1);
    tzset();
    localtime_r(&now, &broken);
    CHECK(strftime(text, sizeof text, "%c %Z", &broken) > 0);
    pthread_attr_t attributes;
    CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
    pthread_attr_destroy(&attributes);
}

static void *use_all(void *unused)
{
    for (int round = 0; round < 5; round++) {
        use_locales();
        use_streams();
        use_the_loader();
        use_databases();
    }
    return unused;
}

static void one_thread_uses_all(void)
{
    CHECK(setlocale(LC_ALL, "C.UTF-8") || setlocale(LC_ALL, "C"));
    use_all(NULL);
    use_the_rest();
}

static void many_threads_use_all(void)
{
    pthread_t threads[4];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, use_all, NULL) == 0);
        CHECK(setlocale(LC_ALL, "C"));
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
}

/* Runs before the constructor of any library. */
static char *early;
static void *early_thread(void *unused)
{
    free(malloc(5000));
    return unused;
}

static void before_all(int argc, char **argv, char **environment)
{
    (void)argc, (void)argv, (void)environment;
    pthread_t thread;
    char *block = malloc(100);
    for (size_t size = 1; size < 20 * MIB; size = size * 3 + 1) CHECK((block = realloc(block, size)) != NULL);
    CHECK(malloc_usable_size(block) >= 6 * MIB);
    free(block);
    early = strdup("from before the beginning");
    use_the_loader();
    use_locales();
    CHECK(pthread_create(&thread, NULL, early_thread, NULL) == 0);
    pthread_join(thread, NULL);
    pid_t child = fork();
    if (child == 0) _exit(malloc(1000) == NULL);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **, char **) = before_all;

static void before_constructors(void)
{
    CHECK(early && strcmp(early, "from before the beginning") == 0);
    free(early);
}

MAIN(CASE(one_thread_uses_all), CASE(many_threads_use_all), CASE(before_constructors))
