// A shared library in C++ for a program that has no C++ runtime: the runtime comes with it, out of sight of others.
#include <new>
#include <string>
#include <vector>

extern "C" int plugin_throws()
{
    volatile size_t impossible = (size_t)1 << 60;
    int caught = 0;
    try {
        ::operator new(impossible);
    } catch (const std::bad_alloc &) {
        caught++;
    }
    if (::operator new(impossible, std::nothrow) == nullptr) caught++;
    std::set_new_handler([] { throw std::bad_alloc(); });
    if (::operator new[](impossible, std::nothrow) == nullptr) caught++;
    try {
        std::vector<std::string> words(100, "longer than fits into the string itself");
        words.resize(impossible / 64);
    } catch (const std::exception &) {
        caught++;
    }
    return caught;
}
