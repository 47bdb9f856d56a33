// C++ objects of threads: their constructors and destructors allocate and free, at the very end of each thread.
#include "support.h"
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Owner {
    std::unordered_map<int, std::string> map;
    std::unique_ptr<std::vector<std::string>> words;
    Owner() : words(new std::vector<std::string>)
    {
        for (int i = 0; i < 200; i++) map[i] = std::string(i, 'x');
    }
    ~Owner()
    {
        for (int i = 0; i < 200; i++) CHECK(map[i].size() == (size_t)i);
        words.reset();
        std::vector<int> late(1000, 7);
        CHECK(late.back() == 7);
    }
};

static thread_local Owner first;
static thread_local std::string second = "longer than fits into the string itself";
static thread_local Owner third;

int main()
{
    alarm(240);
    for (int round = 0; round < 100; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 8; i++)
            threads.emplace_back([i] {
                first.words->push_back(second + std::to_string(i));
                third.words->push_back(first.words->back() + second);
                CHECK(third.words->size() == 1);
            });
        for (auto &thread : threads) thread.join();
    }
    CHECK(first.words->empty());
}
