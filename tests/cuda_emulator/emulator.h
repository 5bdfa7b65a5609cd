// Runs the kernels of csrc/cuda on a processor, thread by thread, following the CUDA programming guide and PTX manual.
//
// The threads of a cluster of blocks are coroutines. Warps take turns in a random order with a fixed seed, and each
// runs as far as it can, up to a barrier, so that missing barriers cause errors. Shared memory starts as NaN.
// Asynchronous work happens at a random time: at once, late, or as late as possible. Addresses of shared memory are
// checked; so are that the lanes of a warp meet in the same instruction, and that there is no deadlock.
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
// terms are truncated to one bit beyond the last place of the largest, and their sum is truncated to float32. Nothing
// is rounded to nearest.
float cut_sum(float sum, const double* products, int count);

enum class State { ready, in_group, at_barrier, polling, done };

struct Copy {
  void* to;
  const void* from;
  bool there;
};

// A thread's operands for an instruction of its warp or warp group.
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
  int arrivals = 0;  // in the current phase
  int missing = 0;
  std::int64_t bytes = 0;
  int phase = 0;
};

using Work = std::function<void()>;

struct Cluster {
  Extent extent;
  std::int64_t index[3] = {};   // of the first block
  std::vector<Thread> threads;  // block after block
  std::vector<char> memory;
  char* shared = nullptr;  // of the first block, followed by the others'
  const Work* body = nullptr;
  jmp_buf scheduler;
  int current = 0;
  std::mt19937 random{1};
  std::string error;
  std::int64_t events = 0;                     // after which other threads may go on
  std::map<std::pair<int, int>, int> arrived;  // at barriers of threads, by block and barrier
  std::map<const void*, BarrierInMemory> barriers;
  std::vector<Work> copies;                                // in flight
  std::map<int, std::vector<std::vector<Work>>> products;  // by warp group: committed groups, the open one last

  int rank() const { return current / extent.threads; }
  int thread() const { return current % extent.threads; }
  Thread& self() { return threads[static_cast<std::size_t>(current)]; }
  char* shared_of(int rank) const { return shared + rank * shared_stride(); }
  std::int64_t shared_stride() const { return (extent.shared_bytes + 1023) / 1024 * 1024; }
  bool coin() { return random() % 2 == 0; }
};

Cluster& running();

// Lets the other threads run.
void give_way(State state);

// Ends the launch: the error is thrown once all threads have stopped.
[[noreturn]] void stop(const std::string& error);

// Stops a thread until this many have reached that barrier of its block, or of the cluster if `barrier` is -1.
void meet(int barrier, int threads);

// Runs `instruction` on the offers of a group of a block's threads once all of them have made theirs.
void together(int size, const Offer& offer, const std::function<void(const Thread* first)>& instruction);

// Checks that an access is in the shared memory of the thread's block, at a multiple of `alignment`.
void check_shared(const void* pointer, std::int64_t bytes, std::int64_t alignment, const char* what);

}  // namespace scvae::cuda::emulator
