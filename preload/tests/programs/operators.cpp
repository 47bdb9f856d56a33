// C++ operator new and delete: every form, and what the standard asks of them when memory runs out.
#include "support.h"
#include <algorithm>
#include <dlfcn.h>
#include <new>
#include <string>
#include <vector>

static const size_t impossible = (size_t)1 << 60;

static void all_forms()
{
    const std::align_val_t aligned{256};
    for (size_t size : {(size_t)0, (size_t)1, (size_t)24, (size_t)1000, (size_t)50000, (size_t)3000000}) {
        void *blocks[8] = {
            ::operator new(size),
            ::operator new[](size),
            ::operator new(size, std::nothrow),
            ::operator new[](size, std::nothrow),
            ::operator new(size, aligned),
            ::operator new[](size, aligned),
            ::operator new(size, aligned, std::nothrow),
            ::operator new[](size, aligned, std::nothrow),
        };
        for (int i = 0; i < 8; i++) {
            CHECK(blocks[i] != nullptr);
            for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
            CHECK((uintptr_t)blocks[i] % (i < 4 ? 16 : 256) == 0);
            CHECK(malloc_usable_size(blocks[i]) >= size);
            fill(blocks[i], size);
        }
        for (void *block : blocks) check_filled(block, size);
        ::operator delete(blocks[0]);
        ::operator delete[](blocks[1]);
        ::operator delete(blocks[2], std::nothrow);
        ::operator delete[](blocks[3], std::nothrow);
        ::operator delete(blocks[4], aligned);
        ::operator delete[](blocks[5], aligned);
        ::operator delete(blocks[6], aligned, std::nothrow);
        ::operator delete[](blocks[7], aligned, std::nothrow);
        ::operator delete(::operator new(size), size);
        ::operator delete[](::operator new[](size), size);
        ::operator delete(::operator new(size, aligned), size, aligned);
        ::operator delete[](::operator new[](size, aligned), size, aligned);
    }
    ::operator delete(nullptr);
    ::operator delete[](nullptr);
}

// Unwinding must run what stands between the throw and the catch.
struct Guard {
    int &count;
    ~Guard() { count++; }
};

template <class Exception, class Action> static void throws(Action action)
{
    int unwound = 0;
    bool caught = false;
    try {
        Guard outer{unwound};
        Guard inner{unwound};
        action();
    } catch (const Exception &) {
        caught = true;
    }
    CHECK(caught && unwound == 2);
}

template <class Exception> static void throwing_forms_throw()
{
    const std::align_val_t aligned{64};
    throws<Exception>([] { opaque(::operator new(impossible)); });
    throws<Exception>([] { opaque(::operator new[](impossible)); });
    throws<Exception>([=] { opaque(::operator new(impossible, aligned)); });
    throws<Exception>([=] { opaque(::operator new[](impossible, aligned)); });
}

static void nothrow_forms_return_null()
{
    const std::align_val_t aligned{64};
    CHECK(::operator new(impossible, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, std::nothrow) == nullptr);
    CHECK(::operator new(impossible, aligned, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, aligned, std::nothrow) == nullptr);
}

static void bad_alloc()
{
    throwing_forms_throw<std::bad_alloc>();
    throws<std::bad_alloc>([] { std::string(opaque_size(impossible), 'x'); });
    throws<std::bad_alloc>([] { opaque(new char[opaque_size(impossible)]); });
    // And everything still works.
    std::vector<std::string> words(1000, "still alive, and longer than a small string");
    CHECK(words.back().size() > 20);
}

static void bad_alloc_in_threads()
{
    pthread_t threads[16];
    for (auto &thread : threads)
        CHECK(pthread_create(&thread, nullptr, [](void *) -> void * {
                  for (int i = 0; i < 100; i++) throwing_forms_throw<std::bad_alloc>();
                  return nullptr;
              }, nullptr) == 0);
    for (auto &thread : threads) pthread_join(thread, nullptr);
}

static void nothrow() { nothrow_forms_return_null(); }

static int calls;
struct Custom {};

static void handler_that_throws()
{
    std::set_new_handler([] {
        if (++calls % 3 == 0) throw Custom();
    });
    throwing_forms_throw<Custom>();
    CHECK(calls == 12);
}

static void handler_that_throws_bad_alloc()
{
    std::set_new_handler([] {
        calls++;
        throw std::bad_alloc();
    });
    throwing_forms_throw<std::bad_alloc>();
    CHECK(calls == 4);
    nothrow_forms_return_null();
    CHECK(calls == 8);
}

static void handler_that_gives_up()
{
    std::set_new_handler([] {
        if (++calls % 5 == 0) std::set_new_handler(nullptr);
    });
    throws<std::bad_alloc>([] { opaque(::operator new(impossible)); });
    CHECK(calls == 5);
}

static void *reserve;

// Lets the address space grow by little more than what is asked for, once the reserve is given up.
static void limit_to_reserve()
{
    opaque(malloc(1));
    CHECK((reserve = mmap(nullptr, 400 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) != MAP_FAILED);
    FILE *statm = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    CHECK(statm != nullptr && fscanf(statm, "%lu", &pages) == 1);
    fclose(statm);
    rlimit limit{};
    limit.rlim_cur = limit.rlim_max = pages * sysconf(_SC_PAGESIZE) + 100 * MIB;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void release_reserve()
{
    calls++;
    CHECK(reserve != nullptr);
    munmap(reserve, 400 * MIB);
    reserve = nullptr;
}

static void handler_that_frees(void *(*allocate)())
{
    limit_to_reserve();
    std::set_new_handler(release_reserve);
    void *block = allocate();
    CHECK(block != nullptr && calls == 1);
    memset(block, 1, 200 * MIB);
}

static void handler_frees_for_new() { handler_that_frees([] { return ::operator new(200 * MIB); }); }
static void handler_frees_for_new_array() { handler_that_frees([] { return ::operator new[](200 * MIB); }); }
static void handler_frees_for_aligned()
{
    handler_that_frees([] { return ::operator new(200 * MIB, std::align_val_t(4096)); });
}
static void handler_frees_for_nothrow()
{
    handler_that_frees([] { return ::operator new(200 * MIB, std::nothrow); });
}
static void handler_frees_for_aligned_nothrow_array()
{
    handler_that_frees([] { return ::operator new[](200 * MIB, std::align_val_t(64), std::nothrow); });
}

// An impossible alignment is a failure that no handler can help with.
static void wrong_alignment()
{
    std::set_new_handler([] { calls++; });
    throws<std::bad_alloc>([] { opaque(::operator new(100, std::align_val_t(48))); });
    throws<std::bad_alloc>([] { opaque(::operator new[](100, std::align_val_t(0))); });
    CHECK(::operator new(100, std::align_val_t(48), std::nothrow) == nullptr);
    CHECK(calls == 0);
    void *block = ::operator new(100, std::align_val_t(1));
    CHECK(block != nullptr);
    ::operator delete(block, std::align_val_t(1));
}

static void served_by_the_library()
{
    for (const char *name :
         {"_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPv", "_ZdaPvmSt11align_val_t"}) {
        Dl_info where;
        CHECK(dladdr(dlsym(RTLD_DEFAULT, name), &where) != 0 && strstr(where.dli_fname, "specmalloc") != nullptr);
    }
}

MAIN(CASE(all_forms), CASE(bad_alloc), CASE(bad_alloc_in_threads), CASE(nothrow), CASE(handler_that_throws),
     CASE(handler_that_throws_bad_alloc), CASE(handler_that_gives_up), CASE(handler_frees_for_new),
     CASE(handler_frees_for_new_array), CASE(handler_frees_for_aligned), CASE(handler_frees_for_nothrow),
     CASE(handler_frees_for_aligned_nothrow_array), CASE(wrong_alignment), CASE(served_by_the_library))
