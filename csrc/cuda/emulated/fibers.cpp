// The threads of a cluster as fibers of one OS thread (see cuda_runtime.h).
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SWITCHING(save, low, size) __sanitizer_start_switch_fiber(save, low, size)
#define SWITCHED(save, low, size) __sanitizer_finish_switch_fiber(save, low, size)
#else
#define SWITCHING(save, low, size) (void)0
#define SWITCHED(save, low, size) (void)0
#endif

namespace emulated {
namespace {

constexpr std::size_t STACK = 128 << 10;
constexpr std::size_t ALIGNED = 128;  // shared memory, as on a GPU

// Shared memory of exactly so many bytes, so that AddressSanitizer sees one beyond.
struct Memory {
  explicit Memory(std::size_t size, int filled) : at(static_cast<unsigned char*>(::operator new(size, std::align_val_t(ALIGNED)))) {
    std::memset(at, filled, size);
  }
  ~Memory() { ::operator delete(at, std::align_val_t(ALIGNED)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  unsigned char* const at;
};

// Whoever arrives waits until all have. `alive`: who has not ended yet; one that ends while others wait is missed.
struct Barrier {
  unsigned members = 0, arrived = 0;
  std::uint64_t turn = 0;
};

struct Warp {
  Barrier barrier;
  std::uint64_t slots[2][WARP] = {};  // two, so that the next exchange can begin while this one is read
};

struct Fiber {
  Here here{};
  ucontext_t context{};
  unsigned char* stack = nullptr;
  void* shadow = nullptr;  // AddressSanitizer's
  const Barrier* waits = nullptr;
  std::uint64_t turn = 0;
  std::uint64_t exchanges = 0;
  bool ended = false;
};

struct Stacks {  // kept from launch to launch
  ~Stacks() {
    for (unsigned char* stack : all) munmap(stack, STACK);
  }
  unsigned char* of(std::size_t number) {
    while (all.size() <= number)
      all.push_back(static_cast<unsigned char*>(mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    return all[number];
  }
  std::vector<unsigned char*> all;
};

struct Cluster {
  std::vector<Fiber> fibers;
  std::vector<std::unique_ptr<Memory>> memories;
  std::vector<Barrier> blocks;
  std::vector<Warp> warps;
  Barrier all;
  unsigned threads = 0;
  ucontext_t scheduler{};
  void* scheduler_shadow = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_size = 0;
  Fiber* now = nullptr;
  const std::function<void()>* body = nullptr;
};

thread_local Cluster* cluster = nullptr;
thread_local std::string failure;
thread_local bool misaligned = false;

Warp& warp_of(const Fiber& fiber) {
  const unsigned each = (cluster->threads + WARP - 1) / WARP;
  return cluster->warps[fiber.here.rank * each + fiber.here.thread.x / WARP];
}

void yield() {
  Fiber& fiber = *cluster->now;
  SWITCHING(fiber.ended ? nullptr : &fiber.shadow, cluster->scheduler_stack, cluster->scheduler_size);
  swapcontext(&fiber.context, &cluster->scheduler);
  SWITCHED(fiber.shadow, &cluster->scheduler_stack, &cluster->scheduler_size);
}

void arrive(Barrier& barrier) {
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.turn;
    return;
  }
  Fiber& fiber = *cluster->now;
  fiber.waits = &barrier;
  fiber.turn = barrier.turn;
  yield();
}

void start() {
  SWITCHED(nullptr, &cluster->scheduler_stack, &cluster->scheduler_size);
  (*cluster->body)();
  cluster->now->ended = true;
  yield();
}

void resume(Fiber& fiber) {
  cluster->now = &fiber;
  fiber.waits = nullptr;
  SWITCHING(&cluster->scheduler_shadow, fiber.stack, STACK);
  swapcontext(&cluster->scheduler, &fiber.context);
  SWITCHED(cluster->scheduler_shadow, nullptr, nullptr);
  cluster->now = nullptr;
}

std::uint64_t seed() {
  const char* given = std::getenv("VEILKERN_CUDA_EMULATE");
  return given == nullptr ? 1 : std::strtoull(given, nullptr, 10);
}

std::vector<unsigned> ordered(unsigned count, std::mt19937_64& random, bool shuffled) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (shuffled) std::shuffle(order.begin(), order.end(), random);
  return order;
}

void prepare(Fiber& fiber, unsigned char* stack) {
  fiber.stack = stack;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = STACK;
  makecontext(&fiber.context, start, 0);
}

// In which order blocks, their warps and the lanes of those come.
struct Order {
  Order(unsigned blocks_, unsigned threads, std::mt19937_64& random, bool shuffled)
      : blocks(ordered(blocks_, random, shuffled)), warps(ordered((threads + WARP - 1) / WARP, random, shuffled)),
        lanes(ordered(WARP, random, shuffled)) {}
  std::vector<unsigned> blocks, warps, lanes;
};

bool advance_warp(const Order& order, unsigned block, unsigned warp, std::size_t& left) {
  bool moved = false;
  for (const unsigned lane : order.lanes) {
    if (warp * WARP + lane >= cluster->threads) continue;
    Fiber& fiber = cluster->fibers[block * cluster->threads + warp * WARP + lane];
    if (fiber.ended || (fiber.waits != nullptr && fiber.waits->turn == fiber.turn)) continue;
    resume(fiber);
    moved = true;
    left -= fiber.ended;
  }
  return moved;
}

bool advance_block(const Order& order, unsigned block, std::size_t& left) {
  bool moved = false;
  for (const unsigned warp : order.warps)
    while (advance_warp(order, block, warp, left)) moved = true;
  return moved;
}

// All threads of the cluster to their end; false where some wait for others that never come. Whoever comes first in the
// order goes as far as it can before the next one moves at all: a block until it waits for its cluster, a warp for its
// block. So a barrier that is missing shows, as it would not if all went in step.
bool finish(const Order& order) {
  for (std::size_t left = cluster->fibers.size(); left > 0;) {
    bool moved = false;
    for (const unsigned block : order.blocks)
      while (advance_block(order, block, left)) moved = true;
    if (!moved) return false;
  }
  return true;
}

}  // namespace

const Here& here() { return cluster->now->here; }
void sync_threads() { arrive(cluster->blocks[cluster->now->here.rank]); }
void sync_cluster() { arrive(cluster->all); }
void sync_warp() { arrive(warp_of(*cluster->now).barrier); }
unsigned char* memory_of(unsigned rank) { return cluster->memories.at(rank)->at; }

void require_aligned(const void* place, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(place) % bytes == 0) return;
  misaligned = cluster->now->ended = true;  // the thread goes no further: the processor itself may refuse the access
  yield();
}

std::uint64_t exchange(std::uint64_t mine, unsigned lane) {
  Fiber& fiber = *cluster->now;
  Warp& warp = warp_of(fiber);
  auto& slots = warp.slots[fiber.exchanges++ % 2];
  slots[fiber.here.thread.x % WARP] = mine;
  arrive(warp.barrier);
  return slots[lane];
}

cudaError_t run(dim3 blocks, dim3 threads, unsigned size, std::size_t shared, const std::function<void()>& body) {
  if (size == 0 || blocks.x % size != 0 || blocks.y != 1 || blocks.z != 1 || threads.y != 1 || threads.z != 1 ||
      threads.x == 0 || threads.x > 1024)
    return cudaErrorInvalidValue;
  static thread_local Stacks stacks;
  misaligned = false;
  const std::uint64_t chosen = seed();
  std::mt19937_64 random(chosen);
  const bool shuffled = chosen > 1;
  const unsigned each = threads.x, warps = (each + WARP - 1) / WARP;
  for (const unsigned number : ordered(blocks.x / size, random, shuffled)) {
    Cluster here;
    cluster = &here;
    here.threads = each;
    here.body = &body;
    here.all.members = size * each;
    here.blocks.resize(size);
    here.warps.resize(size * warps);
    here.fibers.resize(size * each);
    for (unsigned rank = 0; rank < size; ++rank) {
      here.memories.push_back(std::make_unique<Memory>(shared, shuffled ? static_cast<int>(random() % 256) : 255));
      here.blocks[rank].members = each;
      for (unsigned warp = 0; warp < warps; ++warp)
        here.warps[rank * warps + warp].barrier.members = std::min(WARP, each - warp * WARP);
      for (unsigned thread = 0; thread < each; ++thread) {
        Fiber& fiber = here.fibers[rank * each + thread];
        fiber.here = {dim3(thread), dim3(number * size + rank), threads, blocks, rank, size, here.memories[rank]->at};
        prepare(fiber, stacks.of(rank * each + thread));
      }
    }
    const bool whole = finish(Order(size, each, random, shuffled));
    cluster = nullptr;
    if (misaligned) return cudaErrorMisalignedAddress;
    if (!whole) {
      failure = "block " + std::to_string(number * size) + " and its cluster: threads wait at a barrier that others do not reach";
      return cudaErrorLaunchFailure;
    }
  }
  return cudaSuccess;
}

}  // namespace emulated

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return emulated::failure.c_str();
  if (error == cudaErrorMisalignedAddress) return "misaligned address";
  return error == cudaSuccess ? "no error" : "invalid value";
}
