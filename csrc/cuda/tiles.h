// The only tuning numbers of the CUDA kernels, and the division of a problem by them: a pure function of the card and
// the shape. Not yet measured on a card; README.md explains which numbers follow from shared memory and registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>

#include "host_device.h"

namespace scvae::cuda {

inline constexpr int kStepBytes = 64;        // depth of a stage: two instructions
inline constexpr int kStages = 3;            // parts of a factor in flight to shared memory, or in use
inline constexpr int kWarpColumns = 64;      // of a product, per warp
inline constexpr int kMostWarps = 8;         // per block
inline constexpr int kRowPadding = 16;       // bytes after a row in shared memory: eight rows in different banks
inline constexpr int kDepthUnit = 64;        // elements; at least two stages
inline constexpr int kSumSide = 128;         // rows and columns of a tile of a sum of outer products
inline constexpr int kSumThreads = 256;      // of the block that computes it
inline constexpr int kSumStepBytes = 64;     // a stage has as many rows as this holds elements
inline constexpr int kChain = 512;           // rows summed in the matrix units, which round worse than an addition
inline constexpr int kSumBlocks = 512;       // at most, for a sum of outer products
inline constexpr int kRowsPerSplit = 512;    // at least
inline constexpr int kCollectRows = 16;      // per block of the kernel that sums adjoints
inline constexpr int kCollectThreads = 128;  // with two columns each

// For Hopper cards (hopper/block.h): all columns of 64 rows, in one pass.
inline constexpr int kHopperMajor = 9;
inline constexpr int kHopperRows = 64;
inline constexpr int kHopperColumns = 512;
inline constexpr int kHopperThreads = 3 * 128;
inline constexpr int kHopperCluster = 2;  // blocks that share loads of the right factor
inline constexpr int kHopperRowBytes = kHopperRows * kHopperColumns * 2;
inline constexpr int kHopperDriveBytes = kHopperRowBytes;
inline constexpr int kHopperStageBytes = kHopperColumns * kStepBytes;
inline constexpr int kHopperThetaBytes = kHopperColumns * 4;
inline constexpr int kHopperSharedBytes =
    kHopperRowBytes + kHopperDriveBytes + kHopperThetaBytes + kStages * (kHopperStageBytes + 2 * 8);

// Rows per block, in descending order, for elements of 2 and of 4 bytes. With more, the values needed besides the sums
// don't fit into registers; when compiled for Hopper, nor do those for 64.
inline constexpr int kRowsOfTwoBytes[] = {64, 32, 16};
inline constexpr int kRowsOfFourBytes[] = {16};
inline constexpr int kMostMmaRowsOnHopper = 32;

inline constexpr int kOldestMajor = 8;  // the first compute capability whose matrix units support bfloat16 and TF32

struct Card {
  int major = 0;
  int minor = 0;
  std::int64_t shared_bytes = 0;  // maximum per block
  int multiprocessors = 0;
  bool hopper = false;  // whether the kernels for Hopper cards run on it
};

struct Shape {
  std::int64_t rows = 0;      // M
  std::int64_t atoms = 0;     // K
  std::int64_t features = 0;  // n; 0 without encoding and decoding
  // A single product, (rows, features) times (features, atoms): nothing with `atoms` columns stays in shared memory.
  bool product = false;
};

struct Plan {
  int rows = 0;            // per block
  int warps = 0;           // per block
  int passes = 0;          // over the atoms, 64 per warp
  int KP = 0;              // atoms, rounded up to whole passes
  int NP = 0;              // features, rounded up to whole steps, if a product sums over them
  int feature_passes = 0;  // over the features, if they are columns of a product
  int blocks = 0;          // in the launch: each works on one block of rows after another
  int threads = 0;         // per block
  int cluster = 1;         // blocks in a cluster
  std::int64_t shared_bytes = 0;
};

SCVAE_HOST_DEVICE constexpr std::int64_t divided_up(std::int64_t size, std::int64_t unit) {
  return (size + unit - 1) / unit;
}
SCVAE_HOST_DEVICE constexpr std::int64_t up(std::int64_t size, std::int64_t unit) {
  return divided_up(size, unit) * unit;
}

inline Plan dealt_out(const Card& card, const Shape& shape, int itemsize, int rows, int most_warps) {
  Plan plan;
  plan.rows = rows;
  const std::int64_t panels = std::max<std::int64_t>(1, divided_up(shape.atoms, kWarpColumns));
  plan.passes = static_cast<int>(divided_up(panels, most_warps));
  plan.warps = static_cast<int>(divided_up(panels, plan.passes));
  plan.KP = plan.passes * plan.warps * kWarpColumns;
  plan.NP = static_cast<int>(up(shape.features, kDepthUnit));
  plan.feature_passes = static_cast<int>(divided_up(shape.features, plan.warps * kWarpColumns));
  const std::int64_t widest = shape.product ? plan.NP : std::max(plan.KP, plan.NP);
  const std::int64_t buffers = plan.passes > 1 && !shape.product ? 2 : 1;
  plan.shared_bytes = buffers * rows * (widest * itemsize + kRowPadding) +
                      static_cast<std::int64_t>(kStages) * plan.warps * kWarpColumns * kStepBytes;
  const std::int64_t by_shared = card.shared_bytes / plan.shared_bytes;
  const std::int64_t resident = std::max<std::int64_t>(1, std::min<std::int64_t>(by_shared, kMostWarps / plan.warps));
  plan.blocks = static_cast<int>(std::min(divided_up(shape.rows, rows), resident * card.multiprocessors));
  plan.threads = 32 * plan.warps;
  return plan;
}

// Whether hopper/block.h supports it: two warp groups have columns, and there are rows for all multiprocessors.
inline bool for_hopper(const Card& card, const Shape& shape, int itemsize) {
  return card.hopper && card.shared_bytes >= kHopperSharedBytes && itemsize == 2 && !shape.product &&
         shape.atoms > kHopperColumns / 2 && shape.atoms <= kHopperColumns && shape.features <= kHopperColumns &&
         shape.rows >= std::int64_t{kHopperRows} * card.multiprocessors;
}

inline Plan dealt_out_for_hopper(const Card& card, const Shape& shape) {
  Plan plan;
  plan.rows = kHopperRows;
  plan.warps = kMostWarps;
  plan.passes = plan.feature_passes = 1;
  plan.KP = kHopperColumns;
  plan.NP = static_cast<int>(up(shape.features, kDepthUnit));
  plan.cluster = kHopperCluster;
  const std::int64_t needed = up(divided_up(shape.rows, kHopperRows), kHopperCluster);
  plan.blocks =
      static_cast<int>(std::min<std::int64_t>(needed, card.multiprocessors / kHopperCluster * kHopperCluster));
  plan.threads = kHopperThreads;
  plan.shared_bytes = kHopperSharedBytes;
  return plan;
}

// The largest number of rows per block that fits and gives each multiprocessor some; with few rows, the smallest. Uses
// half the warps if nothing fits otherwise. Throws std::invalid_argument if nothing fits at all.
inline Plan planned(const Card& card, const Shape& shape, int itemsize) {
  if (for_hopper(card, shape, itemsize)) return dealt_out_for_hopper(card, shape);
  const int* const choices = itemsize == 2 ? kRowsOfTwoBytes : kRowsOfFourBytes;
  const int count = itemsize == 2 ? std::size(kRowsOfTwoBytes) : std::size(kRowsOfFourBytes);
  Plan smallest;
  for (int warps = kMostWarps; warps >= kMostWarps / 4; warps /= 2) {
    for (int i = 0; i < count; ++i) {
      smallest = dealt_out(card, shape, itemsize, choices[i], warps);
      if (card.major == kHopperMajor && choices[i] > kMostMmaRowsOnHopper) continue;
      const bool few_rows = shape.rows < static_cast<std::int64_t>(choices[i]) * card.multiprocessors;
      if (smallest.shared_bytes <= card.shared_bytes && (!few_rows || i == count - 1)) return smallest;
    }
  }
  throw std::invalid_argument(
      "backend 'cuda': " + std::to_string(shape.atoms) + " atoms and " + std::to_string(shape.features) +
      " features of " + std::to_string(itemsize) + " bytes need " + std::to_string(smallest.shared_bytes) +
      " bytes of shared memory for a block, this card gives " + std::to_string(card.shared_bytes));
}

// Number of parts into which the rows of a sum of outer products are divided; the order does not depend on the card.
constexpr std::int64_t splits(std::int64_t rows, std::int64_t left_columns, std::int64_t right_columns) {
  const std::int64_t tiles = divided_up(left_columns, kSumSide) * divided_up(right_columns, kSumSide);
  return std::max<std::int64_t>(1, std::min(kSumBlocks / tiles, rows / kRowsPerSplit));
}

// Whole stages, for any element size.
constexpr std::int64_t rows_per_split(std::int64_t rows, std::int64_t left_columns, std::int64_t right_columns) {
  return up(divided_up(rows, splits(rows, left_columns, right_columns)), kSumStepBytes / 2);
}

}  // namespace scvae::cuda
