// A program with its own basic operator new and delete, which put a header before each block. The standard defines
// every other form in terms of these, so all of them must come here.
#include "support.h"
#include <algorithm>
#include <new>
#include <vector>

static long live;
static const uint64_t tag = 0x5041424c4f434b21;

void *operator new(size_t size)
{
    if (size > GIB) throw std::bad_alloc();
    uint64_t *header = (uint64_t *)malloc(size + 16);
    if (header == nullptr) throw std::bad_alloc();
    live++;
    header[0] = tag;
    return header + 2;
}

void operator delete(void *block) noexcept
{
    if (block == nullptr) return;
    uint64_t *header = (uint64_t *)block - 2;
    CHECK(header[0] == tag);
    header[0] = 0;
    live--;
    free(header);
}

static void basic_forms()
{
    const long before = live;
    void *blocks[4] = {::operator new(100), ::operator new[](100), ::operator new(100, std::nothrow),
                       ::operator new[](100, std::nothrow)};
    CHECK(live == before + 4);
    for (void *block : blocks) CHECK(block != nullptr && ((uint64_t *)block)[-2] == tag);
    ::operator delete(blocks[0], (size_t)100);
    ::operator delete[](blocks[1]);
    ::operator delete(blocks[2], std::nothrow);
    ::operator delete[](blocks[3], (size_t)100);
    CHECK(live == before);
}

static void nothrow_catches_what_they_throw()
{
    CHECK(::operator new(2 * GIB, std::nothrow) == nullptr);
    CHECK(::operator new[](2 * GIB, std::nothrow) == nullptr);
}

static void library_algorithms()
{
    const long before = live;
    {
        std::vector<int> numbers;
        for (int i = 0; i < 100000; i++) numbers.push_back(i * 7919 % 100003);
        // Its buffer comes from nothrow new and goes to plain delete.
        std::stable_sort(numbers.begin(), numbers.end());
        CHECK(std::is_sorted(numbers.begin(), numbers.end()));
        CHECK(live > before);
    }
    CHECK(live == before);
}

MAIN(CASE(basic_forms), CASE(nothrow_catches_what_they_throw), CASE(library_algorithms))
