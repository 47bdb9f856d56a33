// Threads of C++ that end by an exception that is caught, by pthread_exit and by cancellation: each unwinds the stack to the
// thread's first frame, and runs the destructors on the way.
#include "support.h"
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::atomic<int> destroyed;

struct Guard {
    std::string text = std::string(100, 'x');
    ~Guard()
    {
        CHECK(text == std::string(100, 'x'));
        destroyed++;
    }
};

static void *exits(void *)
{
    Guard guard;
    pthread_exit(nullptr);
}

static void *waits(void *)
{
    Guard guard;
    for (;;) pause();
}

static void *throws(void *)
{
    try {
        Guard guard;
        throw std::runtime_error(std::string(200, 'y'));
    } catch (const std::runtime_error &error) {
        CHECK(error.what() == std::string(200, 'y'));
    }
    return nullptr;
}

// Nothing but the function itself is on the stack, as a debugger sees it, too.
static void *rethrows_cancellation(void *)
{
    try {
        for (;;) pause();
    } catch (...) {
        destroyed++;
        throw;
    }
}

int main()
{
    alarm(120);
    for (int round = 0; round < 200; round++) {
        for (void *(*body)(void *) : {exits, waits, throws, rethrows_cancellation}) {
            pthread_t thread;
            CHECK(pthread_create(&thread, nullptr, body, nullptr) == 0);
            bool cancels = body == waits || body == rethrows_cancellation;
            if (cancels) {
                // Strikes at the first pause(), or is pending when the thread comes to it.
                CHECK(pthread_cancel(thread) == 0);
            }
            void *result;
            CHECK(pthread_join(thread, &result) == 0);
            CHECK(!cancels || result == PTHREAD_CANCELED);
        }
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++) threads.emplace_back([] { Guard guard; });
        for (auto &thread : threads) thread.join();
    }
    CHECK(destroyed == 200 * (4 + 4));
    return 0;
}
