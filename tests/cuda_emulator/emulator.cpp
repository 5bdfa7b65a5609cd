#include "emulator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "cuda/machine.h"

namespace scvae::cuda {
namespace emulator {

float cut_sum(float sum, const double* products, int count) {
  double total = sum, largest = std::abs(total);
  for (int k = 0; k < count; ++k) {
    total += products[k];
    largest = std::max(largest, std::abs(products[k]));
  }
  if (!std::isfinite(total) || largest == 0.0) return static_cast<float>(total);
  // In units of the last kept place, a power of two, every term has at most 25 bits. Read from the bits instead of by
  // frexp and trunc, because this takes most of the emulator's time.
  const std::uint64_t exponent = bits_as<std::uint64_t>(largest) >> 52;
  const auto power_of_two = [](std::uint64_t biased) { return bits_as<double>(biased << 52); };
  const double units = power_of_two(1023 + 1023 + 24 - exponent);
  auto cut = static_cast<std::int32_t>(sum * units);
  for (int k = 0; k < count; ++k) cut += static_cast<std::int32_t>(products[k] * units);
  total = cut * power_of_two(exponent - 24);
  const auto nearest = static_cast<float>(total);
  return std::abs(static_cast<double>(nearest)) > std::abs(total) ? bits_as<float>(bits_as<std::uint32_t>(nearest) - 1)
                                                                  : nearest;
}

namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr int kLanes = 32;

Cluster* now = nullptr;

// Coroutines start as contexts, and switch by jumps, which need no system call.
void take_turn(int thread) {
  now->current = thread;
  if (_setjmp(now->scheduler) != 0) return;
  Thread& self = now->self();
  if (self.started) _longjmp(self.resume, 1);
  self.started = true;
  setcontext(&self.start);
}

void enter() {
  (*now->body)();
  ++now->events;
  give_way(State::done);
}

void begin(Thread& thread) {
  thread.state = State::ready;
  thread.started = false;
  thread.groups.clear();
  thread.open.clear();
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = thread.stack.get();
  thread.start.uc_stack.ss_size = kStackBytes;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, enter, 0);
}

void run_warp(int first) {
  const int end = std::min(first + kLanes, static_cast<int>(now->threads.size()));
  for (bool ran = true; ran;) {
    ran = false;
    for (int i = first; i < end; ++i)
      while (now->threads[static_cast<std::size_t>(i)].state == State::ready) {
        take_turn(i);
        if (!now->error.empty()) throw std::runtime_error("emulated kernel: " + now->error);
        ran = true;
      }
  }
}

void run_a_copy() {
  const std::size_t which = now->random() % now->copies.size();
  const Work copy = now->copies[which];
  now->copies.erase(now->copies.begin() + static_cast<std::ptrdiff_t>(which));
  copy();
  ++now->events;
}

void run_cluster() {
  now->arrived.clear();
  now->barriers.clear();
  now->products.clear();
  std::fill(now->memory.begin(), now->memory.end(), static_cast<char>(0xff));
  for (Thread& thread : now->threads) begin(thread);
  std::vector<int> warps;
  for (int first = 0; first < static_cast<int>(now->threads.size()); first += kLanes) warps.push_back(first);
  const auto live = [](const Thread& thread) { return thread.state != State::done; };
  while (std::any_of(now->threads.begin(), now->threads.end(), live)) {
    const std::int64_t before = now->events;
    std::shuffle(warps.begin(), warps.end(), now->random);
    for (const int first : warps) {
      run_warp(first);
      if (!now->copies.empty() && now->random() % 16 == 0) run_a_copy();
    }
    if (now->events == before) {
      if (now->copies.empty()) throw std::runtime_error("emulated kernel: its threads wait for each other");
      run_a_copy();
    }
    for (Thread& thread : now->threads)
      if (thread.state == State::polling) thread.state = State::ready;
  }
  if (!now->copies.empty()) throw std::runtime_error("emulated kernel: it ended before its copies");
}

}  // namespace

Cluster& running() { return *now; }

void give_way(State state) {
  Thread& self = now->self();
  self.state = state;
  if (_setjmp(self.resume) == 0) _longjmp(now->scheduler, 1);
}

void stop(const std::string& error) {
  now->error = "block " + std::to_string(now->index[0] + now->rank()) + ", thread " + std::to_string(now->thread()) +
               ": " + error;
  for (;;) give_way(State::done);
}

void meet(int barrier, int threads) {
  const std::pair<int, int> key{barrier < 0 ? -1 : now->rank(), barrier};
  ++now->events;
  if (++now->arrived[key] < threads) {
    now->self().barrier = barrier;
    return give_way(State::at_barrier);
  }
  now->arrived[key] = 0;
  for (std::size_t i = 0; i < now->threads.size(); ++i) {
    Thread& thread = now->threads[i];
    const bool same_block = barrier < 0 || static_cast<int>(i) / now->extent.threads == now->rank();
    if (thread.state == State::at_barrier && thread.barrier == barrier && same_block) thread.state = State::ready;
  }
}

void together(int size, const Offer& offer, const std::function<void(const Thread* first)>& instruction) {
  Thread* const first = &now->threads[static_cast<std::size_t>(now->current / size * size)];
  now->self().offer = offer;
  const auto waits = [](const Thread& thread) { return thread.state == State::in_group; };
  if (std::count_if(first, first + size, waits) < size - 1) return give_way(State::in_group);
  for (int i = 0; i < size; ++i)
    if (first[i].offer.instruction != offer.instruction) stop("threads of a group are at different instructions");
  instruction(first);
  ++now->events;
  for (int i = 0; i < size; ++i)
    if (waits(first[i])) first[i].state = State::ready;
}

void check_shared(const void* pointer, std::int64_t bytes, std::int64_t alignment, const char* what) {
  const std::int64_t at = static_cast<const char*>(pointer) - now->shared_of(now->rank());
  if (at < 0 || at + bytes > now->extent.shared_bytes)
    stop(std::string(what) + " outside of shared memory, at byte " + std::to_string(at));
  if (at % alignment != 0)
    stop(std::string(what) + " at byte " + std::to_string(at) + ", no multiple of " + std::to_string(alignment));
}

}  // namespace emulator

void emulate(const Extent& extent, const emulator::Work& body) {
  using namespace emulator;
  Cluster cluster;
  now = &cluster;
  cluster.extent = extent;
  cluster.body = &body;
  cluster.threads = std::vector<Thread>(static_cast<std::size_t>(extent.threads * extent.cluster));
  for (Thread& thread : cluster.threads) thread.stack = std::make_unique<char[]>(kStackBytes);
  cluster.memory.resize(static_cast<std::size_t>(extent.cluster * cluster.shared_stride() + 1024));
  const auto address = reinterpret_cast<std::uintptr_t>(cluster.memory.data());
  cluster.shared = cluster.memory.data() + (1024 - address % 1024);
  if (extent.grid.x % extent.cluster != 0) throw std::runtime_error("a grid is no whole number of clusters");
  for (cluster.index[2] = 0; cluster.index[2] < extent.grid.z; ++cluster.index[2])
    for (cluster.index[1] = 0; cluster.index[1] < extent.grid.y; ++cluster.index[1])
      for (cluster.index[0] = 0; cluster.index[0] < extent.grid.x; cluster.index[0] += extent.cluster) run_cluster();
  now = nullptr;
}

namespace machine {
namespace {

using emulator::check_shared;
using emulator::Offer;
using emulator::running;
using emulator::stop;
using emulator::Thread;
using emulator::together;

constexpr int kLanes = 32;

// 8 rows of 16 bytes, one address per lane; returns the part for lane l.
std::uint32_t word(const Thread* lanes, int matrix, int lane) {
  std::uint32_t result;
  std::memcpy(&result, static_cast<const char*>(lanes[8 * matrix + lane / 4].offer.in[0]) + lane % 4 * 4, 4);
  return result;
}

std::uint32_t transposed_word(const Thread* lanes, int matrix, int lane) {
  std::uint16_t pair[2];
  for (int e = 0; e < 2; ++e)
    std::memcpy(&pair[e], static_cast<const char*>(lanes[8 * matrix + lane % 4 * 2 + e].offer.in[0]) + lane / 4 * 2, 2);
  return pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
}

template <typename Word>
void load(int instruction, std::uint32_t (&into)[4], const void* row, const Word& of) {
  check_shared(row, 16, 16, "ldmatrix");
  Offer offer;
  offer.instruction = instruction;
  offer.in[0] = row;
  offer.out = into;
  together(kLanes, offer, [&](const Thread* lanes) {
    for (int lane = 0; lane < kLanes; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix)
        static_cast<std::uint32_t*>(lanes[lane].offer.out)[matrix] = of(lanes, matrix, lane);
  });
}

// Element `at` of 32 bytes of depth, of which each lane of four has one word in either half.
template <typename E>
float element(const std::uint32_t words[2], int at) {
  if constexpr (sizeof(E) == 4)
    return bits_as<float>(words[at / 4] & 0xffffe000u);  // the units read 19 bits
  else
    return to_float(E{static_cast<std::uint16_t>(words[at / 8] >> (at % 2 * 16))});
}

template <typename E>
void multiply_add_of(const Thread* lanes) {
  constexpr int depth = 32 / sizeof(E), per_word = 4 / sizeof(E), half = depth / 2;
  double a[16][depth], b[8][depth];
  for (int k = 0; k < depth; ++k) {
    const int member = k % half / per_word;
    for (int row = 0; row < 16; ++row) {
      const Offer& offer = lanes[row % 8 * 4 + member].offer;
      const std::uint32_t words[2] = {offer.a[row / 8], offer.a[2 + row / 8]};
      a[row][k] = element<E>(words, k);
    }
    for (int column = 0; column < 8; ++column) b[column][k] = element<E>(lanes[column * 4 + member].offer.b, k);
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
      float& sum = static_cast<float*>(lanes[lane].offer.out)[e];
      double products[depth];
      for (int k = 0; k < depth; ++k) products[k] = a[row][k] * b[column][k];
      // In two blocks, as on compute capability 8.0.
      for (int block = 0; block < 2; ++block) sum = emulator::cut_sum(sum, products + block * half, half);
    }
}

template <typename E>
void offer_products(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  Offer offer;
  offer.instruction = 16 + static_cast<int>(kKind<E>);
  offer.out = sums;
  std::copy(a, a + 4, offer.a);
  offer.b[0] = b0;
  offer.b[1] = b1;
  together(kLanes, offer, multiply_add_of<E>);
}

}  // namespace

int thread() { return running().thread(); }
int threads() { return running().extent.threads; }
int block(int axis) { return static_cast<int>(running().index[axis]) + (axis == 0 ? running().rank() : 0); }
int blocks(int axis) {
  const Grid& grid = running().extent.grid;
  return static_cast<int>(axis == 0 ? grid.x : axis == 1 ? grid.y : grid.z);
}
char* shared_memory() { return running().shared_of(running().rank()); }

void sync_block() { emulator::meet(0, threads()); }

Pair<float> load_constant(const float* pair) {
  if (reinterpret_cast<std::uintptr_t>(pair) % sizeof(Pair<float>) != 0)
    stop("a pair at an address that is not aligned");
  return {pair[0], pair[1]};
}

void copy_async(void* to_shared, const void* from, bool there) {
  check_shared(to_shared, 16, 16, "cp.async");
  if (there && reinterpret_cast<std::uintptr_t>(from) % 16 != 0) stop("cp.async from an address that is not aligned");
  running().self().open.push_back({to_shared, from, there});
}

void commit_copies() {
  Thread& self = running().self();
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

void wait_for_copies(int allowed) {
  auto& groups = running().self().groups;
  while (static_cast<int>(groups.size()) > allowed) {
    for (const emulator::Copy& copy : groups.front()) {
      if (copy.there)
        std::memcpy(copy.to, copy.from, 16);
      else
        std::memset(copy.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

void load_matrices(std::uint32_t (&into)[4], const void* row) { load(1, into, row, word); }
void load_matrices_transposed(std::uint32_t (&into)[4], const void* row) { load(2, into, row, transposed_word); }

void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, BFloat16) {
  offer_products<BFloat16>(sums, a, b0, b1);
}
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, Float16) {
  offer_products<Float16>(sums, a, b0, b1);
}
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float) {
  offer_products<float>(sums, a, b0, b1);
}

float round_to_tf32(float value) {
  const std::uint32_t bits = bits_as<std::uint32_t>(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return value;
  return bits_as<float>((bits + 0x1000u) & 0xffffe000u);
}

}  // namespace machine
}  // namespace scvae::cuda
