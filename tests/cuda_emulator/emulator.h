// Runs the kernels of csrc/cuda on a processor, thread by thread, as the CUDA programming guide and the PTX manual say.
//
// The threads of a cluster of blocks are coroutines. Warps take turns in an order drawn from a fixed seed, and each
// runs as far as it can: up to a barrier, so that what lacks one goes wrong. Shared memory starts as NaN. What is
// asynchronous happens at a time that is drawn too: at once, late, or as late as it may. Addresses of shared memory are
// checked; so is that the lanes of a warp meet in the same instruction, and that someone can always go on.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/runtime.h"
#include "cuda/scalars.h"

namespace scvae::cuda::emulator {

// sum plus some products, as the matrix units add (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021): the
// terms are cut to one bit beyond the last place of the largest, and what they add up to is cut to float32. Nothing is
// rounded to nearest.
float cut_sum(float sum, const double* products, int count);

enum class State { ready, in_group, at_barrier, polling, done };

struct Copy {
  void* to;
  const void* from;
  bool there;
};

// What a thread brings to an instruction of its warp or warp group.
struct Offer {
  int instruction = 0;
  const void* in[2] = {};
  void* out = nullptr;
  std::uint32_t a[4] = {}, b[2] = {};
};

struct Thread {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  bool started = false;
  State state = State::ready;
  int barrier = 0;
  Offer offer;
  std::vector<std::vector<Copy>> groups;  // of cp.async, the oldest first
  std::vector<Copy> open;
};

struct BarrierInMemory {
  int arrivals = 0;  // of a phase
  int missing = 0;
  std::int64_t bytes = 0;
  int phase = 0;
};

using Work = std::function<void()>;

struct Cluster {
  Extent extent;
  std::int64_t index[3] = {};   // of its first block
  std::vector<Thread> threads;  // block after block
  std::vector<char> memory;
  char* shared = nullptr;  // of the first block; the others' follow
  const Work* body = nullptr;
  jmp_buf scheduler;
  int current = 0;
  std::mt19937 random{1};
  std::string error;
  std::int64_t events = 0;                     // after which someone else may go on
  std::map<std::pair<int, int>, int> arrived;  // at barriers of threads, by block and barrier
  std::map<const void*, BarrierInMemory> barriers;
  std::vector<Work> copies;                                // that are under way
  std::map<int, std::vector<std::vector<Work>>> products;  // of a warp group: committed groups, the open one last

  int rank() const { return current / extent.threads; }
  int thread() const { return current % extent.threads; }
  Thread& self() { return threads[static_cast<std::size_t>(current)]; }
  char* shared_of(int rank) const { return shared + rank * shared_stride(); }
  std::int64_t shared_stride() const { return (extent.shared_bytes + 1023) / 1024 * 1024; }
  bool coin() { return random() % 2 == 0; }
};

Cluster& running();

// The other threads' turn.
void give_way(State state);

// Ends the launch: the error is thrown once all threads stand still.
[[noreturn]] void stop(const std::string& error);

// A thread stops until so many have come to that barrier of its block; to one of the cluster where `barrier` is -1.
void meet(int barrier, int threads);

// Runs `instruction` on the offers of a group of threads of a block once all of them have made theirs.
void together(int size, const Offer& offer, const std::function<void(const Thread* first)>& instruction);

// In the shared memory of the thread's block, at a multiple of `alignment`.
void check_shared(const void* pointer, std::int64_t bytes, std::int64_t alignment, const char* what);

}  // namespace scvae::cuda::emulator
