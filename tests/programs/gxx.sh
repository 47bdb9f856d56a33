# g++ on a file full of templates: the same assembly as without the library, and a program that is right and is
# itself served, in C++'s ways of getting memory.
cat >templates.cpp <<'CPP'
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <regex>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Fib { static constexpr unsigned long long value = Fib<N - 1>::value + Fib<N - 2>::value; };
template <> struct Fib<0> { static constexpr unsigned long long value = 0; };
template <> struct Fib<1> { static constexpr unsigned long long value = 1; };

template <int N> struct Shape {
    std::map<std::string, std::vector<std::tuple<int, std::string, Shape<N - 1>>>> parts;
    unsigned long long weigh() const {
        unsigned long long sum = N;
        for (auto& [name, list] : parts)
            for (auto& [count, text, part] : list) sum += count + text.size() + name.size() + part.weigh();
        return sum;
    }
    static Shape make(int width) {
        Shape shape;
        for (int i = 0; i < width; ++i)
            shape.parts["part " + std::to_string(i)].emplace_back(
                i, std::string(N * i % 50, 'x'), Shape<N - 1>::make(width));
        return shape;
    }
};
template <> struct Shape<0> {
    unsigned long long weigh() const { return 1; }
    static Shape make(int) { return {}; }
};

template <std::size_t I> unsigned long long mixed() {
    std::unordered_map<int, std::variant<int, std::string, std::vector<double>>> map;
    for (int i = 0; i < 40; ++i) {
        if (i % 3 == 0) map[i] = i;
        else if (i % 3 == 1) map[i] = std::string(I, 'y');
        else map[i] = std::vector<double>(I, 0.5);
    }
    auto weight = [](auto& v) -> unsigned long long {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, int>) return v;
        else return v.size();
    };
    unsigned long long sum = I;
    for (auto& [key, value] : map) sum += key + std::visit(weight, value);
    return sum;
}
template <std::size_t... I> unsigned long long fold(std::index_sequence<I...>) { return (mixed<I>() + ...); }

struct alignas(256) Wide { char bytes[256]; };

int main() {
    auto shape = std::make_unique<Shape<5>>(Shape<5>::make(6));
    std::vector<std::thread> threads;
    std::vector<unsigned long long> results(8);
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] { results[t] = t % 2 ? Shape<4>::make(7).weigh() : shape->weigh(); });
    for (auto& thread : threads) thread.join();
    std::string text;
    for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i) + (i % 7 ? " " : "; ");
    std::regex word("word(\\d+);");
    long found = std::distance(std::sregex_iterator(text.begin(), text.end(), word), std::sregex_iterator());
    auto* wide = new Wide[3];
    bool aligned = reinterpret_cast<std::size_t>(wide) % 256 == 0;
    delete[] wide;
    bool caught = false;
    volatile std::size_t huge = ~std::size_t(0) / 2 - 64;
    try { delete[] new char[huge]; } catch (const std::bad_alloc&) { caught = true; }
    bool null = ::operator new(huge, std::nothrow) == nullptr;
    std::printf("%llu %llu %llu %llu %ld %d %d %d\n", Fib<80>::value, fold(std::make_index_sequence<60>()),
        std::accumulate(results.begin(), results.end(), 0ULL), shape->weigh(), found, aligned, caught, null);
}
CPP
served g++ -c -x c++ /dev/null -o empty.o
BIND_BY=cc1plus served g++ -c -x c++ /dev/null -o empty.o
g++ -std=c++17 -O2 -S templates.cpp -o expected.s &
preloaded g++ -std=c++17 -O2 -S templates.cpp -o found.s
wait $!
same found.s expected.s
preloaded g++ found.s -o program -pthread
./program >expected
served ./program
preloaded ./program >found
same found expected
grep -q ' 286 1 1 1$' found || fail "not what the program should print: $(cat found)"
