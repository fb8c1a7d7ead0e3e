// The scheduler behind cuda_shim.h: blocks one after another, threads of a block as fibers.
#include "cuda_shim.h"
extern "C" {
void cuda_shim_gather(const unsigned*, unsigned, unsigned*);
void cuda_shim_copy(void*, const void*, int);
void cuda_shim_copy_commit();
void cuda_shim_copy_wait(unsigned);
void cuda_shim_fault(int);
}
#include <csetjmp>
#include <cstring>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <vector>

uint3 cuda_shim_thread, cuda_shim_block, cuda_shim_threads, cuda_shim_blocks;
void* cuda_shim_dynamic_shared;

namespace {
enum Wait { RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
struct Copy {
    void* shared;
    const void* global;
    bool live;
    unsigned group;
};
struct Fiber {
    std::vector<char> stack;
    ucontext_t start;
    jmp_buf resume;
    bool begun;
    Wait wait;
    unsigned mask;
    unsigned long long value;
    unsigned words[8];
    std::vector<Copy> copies;
    unsigned group;
};
std::vector<Fiber*> fibers;
unsigned current, count;
jmp_buf scheduler;
ucontext_t scheduler_context;
void (*entry)(const void*);
const void* words;
int fault;

void pause_fiber(Wait why) {
    Fiber& me = *fibers[current];
    me.wait = why;
    if (_setjmp(me.resume) == 0) _longjmp(scheduler, 1);
}

void run_fiber() {
    entry(words);
    fibers[current]->wait = DONE;
    _longjmp(scheduler, 1);
}

void resume_fiber(unsigned index) {
    Fiber& fiber = *fibers[index];
    current = index;
    cuda_shim_thread = {index, 0, 0};
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.resume, 1);
    fiber.begun = true;
    setcontext(&fiber.start);
}

bool release_warps() {
    bool released = false;
    for (unsigned first = 0; first < count; first += 32) {
        for (unsigned i = first; i < first + 32 && i < count; ++i) {
            Fiber& fiber = *fibers[i];
            if (fiber.wait != AT_WARP_BARRIER) continue;
            bool all = true;
            for (unsigned j = first; j < first + 32 && j < count; ++j)
                if (fiber.mask >> (j - first) & 1)
                    all = all && (fibers[j]->wait == DONE ||
                                  (fibers[j]->wait == AT_WARP_BARRIER && fibers[j]->mask == fiber.mask));
            if (!all) continue;
            unsigned mask = fiber.mask;
            for (unsigned j = first; j < first + 32 && j < count; ++j)
                if ((mask >> (j - first) & 1) && fibers[j]->wait == AT_WARP_BARRIER) fibers[j]->wait = RUNNING;
            released = true;
        }
    }
    return released;
}

bool run_block(bool descending) {
    for (unsigned i = 0; i < count; ++i) {
        Fiber& fiber = *fibers[i];
        fiber.begun = false;
        fiber.copies.clear();
        fiber.group = 0;
        fiber.wait = RUNNING;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = fiber.stack.size();
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_fiber, 0);
    }
    for (;;) {
        unsigned alive = 0, waiting = 0;
        for (unsigned step = 0; step < count; ++step) {
            // Both orders, so that a missing barrier shows in some block.
            unsigned i = descending ? count - 1 - step : step;
            if (fibers[i]->wait == RUNNING) resume_fiber(i);
        }
        for (unsigned i = 0; i < count; ++i) {
            alive += fibers[i]->wait != DONE;
            waiting += fibers[i]->wait == AT_BLOCK_BARRIER;
        }
        if (!alive) return true;
        if (release_warps()) continue;
        if (waiting != alive) return false;
        for (unsigned i = 0; i < count; ++i)
            if (fibers[i]->wait != DONE) fibers[i]->wait = RUNNING;
    }
}
}  // namespace

void cuda_shim_block_barrier() { pause_fiber(AT_BLOCK_BARRIER); }

void cuda_shim_warp_barrier(unsigned mask) {
    fibers[current]->mask = mask;
    pause_fiber(AT_WARP_BARRIER);
}

unsigned long long cuda_shim_exchange(unsigned mask, unsigned long long value, int source) {
    fibers[current]->value = value;
    cuda_shim_warp_barrier(mask);
    unsigned from = (current & ~31u) + (unsigned)source;
    unsigned long long result = from < count ? fibers[from]->value : 0;
    cuda_shim_warp_barrier(mask);
    return result;
}

unsigned cuda_shim_ballot(unsigned mask, int predicate) {
    fibers[current]->value = predicate != 0;
    cuda_shim_warp_barrier(mask);
    unsigned result = 0, first = current & ~31u;
    for (unsigned i = 0; i < 32 && first + i < count; ++i)
        if ((mask >> i & 1) && fibers[first + i]->wait != DONE && fibers[first + i]->value) result |= 1u << i;
    cuda_shim_warp_barrier(mask);
    return result;
}

int cuda_shim_vote(int predicate, int kind) {
    fibers[current]->value = predicate != 0;
    cuda_shim_block_barrier();
    int any = 0, all = 1, sum = 0;
    for (unsigned i = 0; i < count; ++i)
        if (fibers[i]->wait != DONE) {
            int set = fibers[i]->value != 0;
            any |= set;
            all &= set;
            sum += set;
        }
    cuda_shim_block_barrier();
    return kind == 0 ? any : kind == 1 ? all : sum;
}

void cuda_shim_fault(int kind) { fault = kind; }

// The words of all lanes of the warp, which must be there.
void cuda_shim_gather(const unsigned* mine, unsigned number, unsigned* all) {
    std::memcpy(fibers[current]->words, mine, number * sizeof *mine);
    cuda_shim_warp_barrier(0xffffffffu);
    const unsigned first = current & ~31u;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (first + lane >= count || fibers[first + lane]->wait == DONE) fault = 3;
        else std::memcpy(all + lane * number, fibers[first + lane]->words, number * sizeof *mine);
    }
    cuda_shim_warp_barrier(0xffffffffu);
}

// Until it lands the place holds NaN, whatever the type of floats.
void cuda_shim_copy(void* shared, const void* global, int live) {
    if ((uintptr_t)shared % 16 || (live && (uintptr_t)global % 16)) fault = 4;
    std::memset(shared, 0xff, 16);
    fibers[current]->copies.push_back({shared, global, live != 0, fibers[current]->group});
}

void cuda_shim_copy_commit() { ++fibers[current]->group; }

void cuda_shim_copy_wait(unsigned later) {
    Fiber& me = *fibers[current];
    std::vector<Copy> left;
    for (const Copy& copy : me.copies) {
        if (copy.group + later >= me.group) left.push_back(copy);
        else if (copy.live) std::memcpy(copy.shared, copy.global, 16);
        else std::memset(copy.shared, 0, 16);
    }
    me.copies.swap(left);
}

int cuda_shim_launch(
    unsigned blocks, unsigned threads, unsigned shared, int barriers, void (*kernel)(const void*), const void* arguments
) {
    // The stack of the fiber that calls back is this one's: locals changed after _setjmp must not be kept there.
    static const unsigned GUARD = 256;
    std::vector<unsigned char> block(shared + 2 * GUARD + 256);
    unsigned char* start = block.data() + GUARD;
    start += (256 - (uintptr_t)start % 256) % 256;
    cuda_shim_dynamic_shared = start;
    cuda_shim_blocks = {blocks, 1, 1};
    cuda_shim_threads = {threads, 1, 1};
    entry = kernel;
    words = arguments;
    count = threads;
    fault = 0;
    while (barriers && fibers.size() < threads) {
        fibers.push_back(new Fiber);
        fibers.back()->stack.resize(64 * 1024);
    }
    for (unsigned number = 0; number < blocks; ++number) {
        cuda_shim_block = {number, 0, 0};
        std::memset(block.data(), 0xA5, block.size());
        if (!barriers) {
            for (unsigned i = 0; i < threads; ++i) {
                cuda_shim_thread = {number & 1 ? threads - 1 - i : i, 0, 0};
                kernel(arguments);
            }
        } else if (!run_block(number & 1)) {
            return 1;
        }
        if (fault) return fault;
        for (unsigned char* byte = block.data(); byte < block.data() + block.size(); ++byte)
            if ((byte < start || byte >= start + shared) && *byte != 0xA5) return 2;
    }
    return 0;
}
