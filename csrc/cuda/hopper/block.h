// The rows of a block on a Hopper card: two warp groups each sum 64 rows times 256 columns with wgmma; a thread of a
// third group loads the right factor with bulk copies, each of which one block makes for all blocks of its cluster.
//
// Shared memory: the rows, in blocks of 32 elements of depth; the drive, as pairs in an order private to each thread;
// the stages; the thresholds; the barriers. Rows and stages have the layout of stages.h, which wgmma reads as the
// 64-byte swizzle.
#pragma once

#include "cuda/hopper/machine.h"
#include "cuda/place.h"
#include "cuda/stages.h"

namespace scvae::cuda {

// A thread's share of 64 rows and 256 columns, in wgmma's layout.
struct WgmmaSums {
  float at[hopper::kColumns / 2];

  SCVAE_DEVICE void clear() {
#pragma unroll
    for (int e = 0; e < hopper::kColumns / 2; ++e) at[e] = 0.0f;
  }

  template <typename Body>
  SCVAE_DEVICE static void each_place(const Body& body) {
    const int thread = machine::thread(), lane = thread % 32;
    const int row = thread % hopper::kGroup / 32 * 16 + lane / 4;
    const int column = thread / hopper::kGroup * hopper::kColumns + 2 * (lane % 4);
#pragma unroll
    for (int index = 0; index < hopper::kColumns / 4; ++index)
      body(Place{row + 8 * (index % 2), column + 8 * (index / 2), index});
  }

  template <typename Body>
  SCVAE_DEVICE void begin_with(const Body& body) {
    each_place([&](const Place& place) { body(place, at[2 * place.index], at[2 * place.index + 1]); });
  }

  template <typename Body>
  SCVAE_DEVICE void each_pair(const Body& body) const {
    each_place([&](const Place& place) { body(place, at[2 * place.index], at[2 * place.index + 1]); });
  }
};

template <typename E_>
class WgmmaBlock {
 public:
  using E = E_;
  using Sums = WgmmaSums;
  static constexpr int kRows = hopper::kGroupRows;
  static_assert(sizeof(E) == 2, "wgmma sums up float32 of 2-byte elements here");

  SCVAE_DEVICE WgmmaBlock(const void* const& packed, int, int)
      : packed_(packed),
        rows_(machine::shared_memory()),
        drives_(reinterpret_cast<Pair<E>*>(rows_ + kHopperRowBytes)),
        stages_(rows_ + kHopperRowBytes + kHopperDriveBytes),
        thetas_(reinterpret_cast<Pair<float>*>(stages_ + kStages * kHopperStageBytes)),
        full_(reinterpret_cast<hopper::Barrier*>(thetas_ + kHopperColumns / 2)),
        empty_(full_ + kStages) {
    if (machine::thread() == 0) {
      for (int slot = 0; slot < kStages; ++slot) {
        hopper::init_barrier(full_ + slot, 1);
        hopper::init_barrier(empty_ + slot, kGroups * kHopperCluster);
      }
      hopper::publish_barriers();
    }
    hopper::sync_cluster();
  }

  SCVAE_DEVICE static int rank() { return hopper::rank_in_cluster(); }
  SCVAE_DEVICE static int threads() { return kComputing; }
  SCVAE_DEVICE static int columns() { return kGroups * hopper::kColumns; }
  SCVAE_DEVICE static bool produces() { return machine::thread() >= kComputing; }
  SCVAE_DEVICE void begin(Stages) {}

  // Moves registers from producers to computing threads.
  SCVAE_DEVICE static void as_producer() { hopper::take_fewer_registers(); }
  SCVAE_DEVICE static void as_consumer() { hopper::take_more_registers(); }

  // Loads the stages; each block of the cluster loads its part for all blocks. A slot is free once all have used it.
  SCVAE_DEVICE void produce(Stages now) {
    if (machine::thread() != kComputing) return;
    constexpr int part = kHopperStageBytes / kHopperCluster;
#pragma unroll 1
    for (int step = 0; step < now.count; ++step, ++step_) {
      const int slot = step_ % kStages;
      if (step_ >= kStages) hopper::wait_for(empty_ + slot, (step_ / kStages - 1) % 2);
      const char* const from = static_cast<const char*>(packed_) + std::int64_t{now.first + step} * kHopperStageBytes;
      hopper::expect_bytes(full_ + slot, kHopperStageBytes);
      hopper::copy_to_cluster(stages_ + slot * kHopperStageBytes + rank() * part, from + rank() * part, part,
                              full_ + slot, kHopperCluster);
    }
  }

  SCVAE_DEVICE void read(const E* from, std::int64_t from_stride, int live, int columns, int width) {
    before_put();
    if (in_chunks(from, from_stride, columns))
      each_element<WgmmaBlock>(kRows, width / kElements, [&](int i, int j) {
        Chunk chunk = {};
        if (i < live && j * kElements < columns)
          chunk = *reinterpret_cast<const Chunk*>(from + i * from_stride + j * kElements);
        *reinterpret_cast<Chunk*>(at(i, j * kElements)) = chunk;
      });
    else
      each_element<WgmmaBlock>(kRows, width, [&](int i, int j) {
        *at(i, j) = i < live && j < columns ? from[i * from_stride + j] : rounded<E>(0.0f);
      });
    turn(width);
  }

  static constexpr bool kDrivesInScratch = false;
  static constexpr bool kSumsBeginWithDrive = false;  // wgmma would wait for the loads
  static constexpr bool kOnHopper = true;
  SCVAE_DEVICE void keep_drive(E*, int index, float b0, float b1) {
    drives_[index * kComputing + machine::thread()] = {rounded<E>(b0), rounded<E>(b1)};
  }
  SCVAE_DEVICE void drive(const E*, int index, float& b0, float& b1) {
    load_pair(&drives_[index * kComputing + machine::thread()].first, b0, b1);
  }

  // Thresholds from the next before_put() or multiply() on; not earlier, as threads may still use the previous ones.
  SCVAE_DEVICE void take_thresholds(const float* row) {
    thetas_[machine::thread()] = machine::load_constant(row + 2 * machine::thread());
  }
  SCVAE_DEVICE Pair<float> threshold(const float*, int column) { return thetas_[column / 2]; }

  // sums += the rows · nowᵀ. When it returns, all warps have read the rows.
  SCVAE_DEVICE void multiply(Sums& sums, Stages now, Stages) {
    const int group = machine::thread() / hopper::kGroup;
    hopper::hold(sums.at);
    for (int step = 0; step < now.count; ++step, ++step_) {
      const int slot = step_ % kStages;
      const char* const left = rows_ + step * kRows * kStepBytes;
      const char* const right = stages_ + slot * kHopperStageBytes + group * hopper::kColumns * kStepBytes;
      hopper::wait_for(full_ + slot, step_ / kStages % 2);
      hopper::begin_products();
#pragma unroll
      for (int deep = 0; deep < kStepBytes; deep += 32) hopper::multiply_add(sums.at, left + deep, right + deep, E{});
      hopper::commit_products();
      hopper::wait_for_products(1);
      if (step > 0) release(step_ - 1);
    }
    hopper::wait_for_products(0);
    hopper::hold(sums.at);
    release(step_ - 1);
    before_put();
  }

  SCVAE_DEVICE void before_put() { hopper::sync_threads(kBarrier, kComputing); }
  SCVAE_DEVICE void put(const Place& at, int, float first, float second) { store_pair(pair(at.index), first, second); }
  SCVAE_DEVICE void turn(int) {
    hopper::publish_to_async();
    hopper::sync_threads(kBarrier, kComputing);
  }
  // Writes all rows, of whole chunks.
  SCVAE_DEVICE void write_rows(E* to, int width) {
    each_element<WgmmaBlock>(kRows, width / kElements, [&](int i, int j) {
      reinterpret_cast<Chunk*>(to + i * width)[j] = *reinterpret_cast<const Chunk*>(at(i, j * kElements));
    });
  }
  // Writes a number of rows with a number of elements, one after another.
  SCVAE_DEVICE void write(E* to, int rows, int columns) {
    if (in_chunks(to, columns, columns))
      each_element<WgmmaBlock>(rows, columns / kElements, [&](int i, int j) {
        reinterpret_cast<Chunk*>(to + i * columns)[j] = *reinterpret_cast<const Chunk*>(at(i, j * kElements));
      });
    else
      each_element<WgmmaBlock>(rows, columns, [&](int i, int j) { to[i * columns + j] = *at(i, j); });
  }
  SCVAE_DEVICE Pair<E> get(const Place& at) { return *reinterpret_cast<const Pair<E>*>(pair(at.index)); }

  // No block may end while another one copies to it or arrives at its barriers.
  SCVAE_DEVICE void finish() { hopper::sync_cluster(); }

 private:
  static constexpr int kGroups = 2, kComputing = kGroups * hopper::kGroup, kBarrier = 1;
  static_assert(2 * kComputing == kHopperColumns, "each thread takes two thresholds");

  // 16 bytes, which are contiguous in shared memory too.
  struct alignas(16) Chunk {
    std::uint32_t words[4];
  };
  static constexpr int kElements = sizeof(Chunk) / sizeof(E);

  // Whether rows at this distance are whole chunks.
  SCVAE_DEVICE static bool in_chunks(const E* rows, std::int64_t stride, int columns) {
    return reinterpret_cast<std::uintptr_t>(rows) % sizeof(Chunk) == 0 && stride % kElements == 0 &&
           columns % kElements == 0;
  }

  SCVAE_DEVICE E* at(int row, int column) {
    constexpr int depth = kStepBytes / sizeof(E);
    char* const block = rows_ + column / depth * kRows * kStepBytes;
    return reinterpret_cast<E*>(block + swizzled(row, column % depth / 8)) + column % 8;
  }

  // The same for one of the thread's own pairs: the part that depends on the index is added to four addresses.
  SCVAE_DEVICE E* pair(int index) {
    constexpr int chunks = kStepBytes / 16, block_bytes = kRows * kStepBytes;
    const int thread = machine::thread(), lane = thread % 32, row = thread % hopper::kGroup / 32 * 16 + lane / 4;
    const int chunk = index / 2;
    char* const first = rows_ + thread / hopper::kGroup * (hopper::kColumns / 8 / chunks) * block_bytes + lane % 4 * 4;
    return reinterpret_cast<E*>(first + swizzled(row, chunk % chunks) + index % 2 * 8 * kStepBytes +
                                chunk / chunks * block_bytes);
  }

  // A warp group no longer needs a stage: for each block of the cluster, one of its threads signals this there.
  SCVAE_DEVICE void release(int step) {
    const int thread = machine::thread() % hopper::kGroup;
    if (thread < kHopperCluster) hopper::arrive_at(empty_ + step % kStages, thread);
  }

  const void* const& packed_;
  char* rows_;
  Pair<E>* drives_;
  char* stages_;
  Pair<float>* thetas_;
  hopper::Barrier *full_, *empty_;
  int step_ = 0;  // over all products so far
};

}  // namespace scvae::cuda
