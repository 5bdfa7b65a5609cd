// Sums of the adjoints over all rows, in float32 and in an order that depends only on the shape.
#pragma once

#include "cuda/multiply.h"

namespace scvae::cuda {

struct CollectArguments {
  const void* codes = nullptr;     // slabs of rows of KP: z_0 ... z_T
  const void* adjoints = nullptr;  // likewise: ĝ_0 ... ĝ_T
  const void* drive = nullptr;     // (rows, KP): b; not read where `given`
  Numbers gain;                    // one value; data is null for 1
  void* d_drive = nullptr;         // (rows, KP): receives the gradient of b, or null
  float* d_theta = nullptr;        // (blocks of rows, KP): receives sums over the rows of a block
  float* d_gain = nullptr;         // likewise
  std::int64_t rows = 0;           // rounded up to whole blocks
  std::int64_t slab = 0;
  int KP = 0, n_iter = 0;
  bool given = false;                // z_0 was given, or is 0: then ĝ_0 does not go through the threshold
  Numbers step;                      // γ, one value or (T,); data is null for 1
  int step_stride = 0;               // 1 for (T,)
  const void* directions = nullptr;  // slabs like the codes: v_0 ... v_{T-1}; or null
  float* d_step = nullptr;           // (T, blocks of rows, KP), if there are directions: likewise
  // If iterations have their own θ, d_theta has that many rows per block: from 0 on, or, with κ = 1, from 1 on.
  bool each_theta = false;
  int kappa = 0;
};

SCVAE_DEVICE float sign(float value) { return value > 0.0f ? 1.0f : value < 0.0f ? -1.0f : 0.0f; }

// Sums over the rows of a block for one iteration: of θ, if each has its own, and of the step. Two columns.
template <typename E>
SCVAE_DEVICE void collect_each(const CollectArguments& a, std::int64_t first, int column) {
  const std::int64_t block = machine::block(0), blocks = a.rows / kCollectRows;
  for (int t = a.given ? 1 : 0; t <= a.n_iter; ++t) {
    float of_theta[2] = {0.0f, 0.0f}, of_step[2] = {0.0f, 0.0f};
    const bool steps = a.directions && t > 0;
    for (int i = 0; i < kCollectRows; ++i) {
      const std::int64_t here = (first + i) * a.KP + column;
      float g[2], z[2], v[2] = {0.0f, 0.0f};
      load_pair(static_cast<const E*>(a.adjoints) + t * a.slab + here, g[0], g[1]);
      load_pair(static_cast<const E*>(a.codes) + t * a.slab + here, z[0], z[1]);
      if (steps) load_pair(static_cast<const E*>(a.directions) + (t - 1) * a.slab + here, v[0], v[1]);
      for (int e = 0; e < 2; ++e) {
        of_theta[e] -= sign(z[e]) * g[e];
        of_step[e] += v[e] * g[e];
      }
    }
    for (int e = 0; e < 2; ++e) {
      if (a.each_theta) a.d_theta[((t - a.kappa) * blocks + block) * a.KP + column + e] = of_theta[e];
      if (steps) a.d_step[((t - 1) * blocks + block) * a.KP + column + e] = of_step[e];
    }
  }
}

// Sums over the rows of a block, two columns per thread.
template <typename E>
SCVAE_KERNEL void SCVAE_BOUNDS(kCollectThreads) collect(SCVAE_GRID_CONSTANT CollectArguments a) {
  const int column = 2 * (machine::block(1) * machine::threads() + machine::thread());
  if (column >= a.KP) return;
  const std::int64_t first = static_cast<std::int64_t>(machine::block(0)) * kCollectRows;
  float of_theta[2] = {0.0f, 0.0f}, of_gain[2] = {0.0f, 0.0f};
  for (int i = 0; i < kCollectRows; ++i) {
    const std::int64_t here = (first + i) * a.KP + column;
    float of_b[2] = {0.0f, 0.0f}, b[2] = {0.0f, 0.0f};
    if (!a.given) load_pair(static_cast<const E*>(a.drive) + here, b[0], b[1]);
    for (int t = a.given ? 1 : 0; t <= a.n_iter; ++t) {
      float g[2], z[2];
      load_pair(static_cast<const E*>(a.adjoints) + t * a.slab + here, g[0], g[1]);
      load_pair(static_cast<const E*>(a.codes) + t * a.slab + here, z[0], z[1]);
      for (int e = 0; e < 2; ++e) {
        of_theta[e] -= sign(z[e]) * g[e];
        if (t == 0) of_gain[e] += b[e] * g[e];
        const Numbers& factor = t == 0 ? a.gain : a.step;
        of_b[e] += factor.data ? factor[t == 0 ? 0 : (t - 1) * a.step_stride] * g[e] : g[e];
      }
    }
    if (a.d_drive) store_pair(static_cast<E*>(a.d_drive) + here, of_b[0], of_b[1]);
  }
  if (a.each_theta || a.directions) collect_each<E>(a, first, column);
  for (int e = 0; e < 2; ++e) {
    if (!a.each_theta) a.d_theta[static_cast<std::int64_t>(machine::block(0)) * a.KP + column + e] = of_theta[e];
    a.d_gain[static_cast<std::int64_t>(machine::block(0)) * a.KP + column + e] = of_gain[e];
  }
}

struct OuterArguments {
  const void* left = nullptr;   // (rows, left_columns), rows left_stride elements apart, each a multiple of 16 bytes
  const void* right = nullptr;  // (rows, right_columns), likewise
  float* sums = nullptr;  // (splits, left_columns, right_columns): receives leftᵀ right of every split of the rows
  std::int64_t rows = 0, left_stride = 0, right_stride = 0;
  std::int64_t per_split = 0;  // rows, in whole steps
  int left_columns = 0, right_columns = 0;
};

// A tile of leftᵀ right: each of 8 warps computes 64 columns of left times 32 of right.
template <typename E, bool THREE>
class Outer {
 public:
  static constexpr int kRows = kSumStepBytes / static_cast<int>(sizeof(E));  // per stage
  static constexpr int kInstruction = 32 / static_cast<int>(sizeof(E));      // rows that one instruction sums over
  // Bytes of a row in a stage. Eight rows (four with 4-byte elements, read as single words) start in different banks.
  static constexpr int kStride = kSumSide * static_cast<int>(sizeof(E)) + (sizeof(E) == 2 ? 16 : 32);
  static constexpr int kStageBytes = 2 * kRows * kStride;
  static constexpr int kDown = 4, kAcross = 4;

  SCVAE_DEVICE explicit Outer(const OuterArguments& a) : a_(a), stages_(machine::shared_memory()) {}

  SCVAE_DEVICE void run() {
    const std::int64_t begin = machine::block(2) * a_.per_split;
    const std::int64_t end = a_.rows < begin + a_.per_split ? a_.rows : begin + a_.per_split;
    const int steps = end > begin ? static_cast<int>(divided_up(end - begin, kRows)) : 0;
    for (int ahead = 0; ahead < kStages - 1; ++ahead) load(begin + ahead * kRows, end, ahead, ahead < steps);
    float total[kDown][kAcross][4] = {};
    for (int step = 0; step < steps;) {
      float part[kDown][kAcross][4] = {};
      const int pause = step + kChain / kRows < steps ? step + kChain / kRows : steps;
      for (; step < pause; ++step) {
        machine::wait_for_copies(kStages - 2);
        machine::sync_block();
        const int ahead = step + kStages - 1;
        load(begin + static_cast<std::int64_t>(ahead) * kRows, end, ahead % kStages, ahead < steps);
        add_step(part, stages_ + step % kStages * kStageBytes);
      }
      for (int i = 0; i < kDown; ++i)
        for (int j = 0; j < kAcross; ++j)
          for (int e = 0; e < 4; ++e) total[i][j][e] += part[i][j][e];
    }
    store(total);
  }

 private:
  SCVAE_DEVICE void load(std::int64_t row, std::int64_t end, int slot, bool there) {
    constexpr int elements = 16 / sizeof(E), chunks = kSumSide / elements;
    for (int at = machine::thread(); there && at < kRows * chunks; at += kSumThreads) {
      const int i = at / chunks, column = at % chunks * elements;
      char* const to = stages_ + slot * kStageBytes + i * kStride + column * static_cast<int>(sizeof(E));
      copy(to, a_.left, a_.left_stride, a_.left_columns, row + i, end, machine::block(0) * kSumSide + column);
      copy(to + kRows * kStride, a_.right, a_.right_stride, a_.right_columns, row + i, end,
           machine::block(1) * kSumSide + column);
    }
    machine::commit_copies();
  }

  // Padding after a row's last column, up to a multiple of 16 bytes, goes into results that are not stored.
  SCVAE_DEVICE static void copy(char* to, const void* matrix, std::int64_t stride, int columns, std::int64_t row,
                                std::int64_t end, int column) {
    const bool there = row < end && column < columns;
    machine::copy_async(to, static_cast<const E*>(matrix) + (there ? row * stride + column : 0), there);
  }

  // 16 columns and the rows of an instruction, from the row-major stage: element (column, row) of a fragment.
  SCVAE_DEVICE static void read(std::uint32_t (&into)[4], const char* rows, int column, bool of_left) {
    const int lane = machine::thread() % 32;
    if constexpr (sizeof(E) == 2) {
      // For left, the second matrix has the next columns; for right, the next rows.
      const int matrix = lane / 8, down = of_left ? matrix / 2 : matrix % 2, across = of_left ? matrix % 2 : matrix / 2;
      machine::load_matrices_transposed(into, rows + (8 * down + lane % 8) * kStride + (column + 8 * across) * 2);
    } else {
      for (int e = 0; e < 4; ++e) {
        const int down = of_left ? e / 2 : e % 2, across = of_left ? e % 2 : e / 2;
        into[e] = *reinterpret_cast<const std::uint32_t*>(rows + (4 * down + lane % 4) * kStride +
                                                          (column + 8 * across + lane / 4) * 4);
      }
    }
  }

  SCVAE_DEVICE static void add_step(float (&part)[kDown][kAcross][4], const char* stage) {
    using F = Fragment<E, THREE>;
    const int warp = machine::thread() / 32;
// One after the other: together they would need too many registers.
#pragma unroll 1
    for (int row = 0; row < kRows; row += kInstruction) {
      const char* const left = stage + row * kStride;
      typename F::template Split<4> b[kAcross / 2];
#pragma unroll
      for (int j = 0; j < kAcross / 2; ++j) {
        std::uint32_t raw[4];
        read(raw, left + kRows * kStride, warp / 2 * 32 + 16 * j, false);
        b[j] = F::split(raw);
      }
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        std::uint32_t raw[4];
        read(raw, left, warp % 2 * 64 + 16 * i, true);
        const auto a = F::split(raw);
#pragma unroll
        for (int j = 0; j < kAcross / 2; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) F::multiply_add_once(part[i][2 * j + half], a, b[j], half);
      }
    }
  }

  SCVAE_DEVICE void store(const float (&total)[kDown][kAcross][4]) {
    const int lane = machine::thread() % 32, warp = machine::thread() / 32;
    float* const sums = a_.sums + static_cast<std::int64_t>(machine::block(2)) * a_.left_columns * a_.right_columns;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = machine::block(0) * kSumSide + warp % 2 * 64 + 16 * i + e / 2 * 8 + lane / 4;
          const int column = machine::block(1) * kSumSide + warp / 2 * 32 + 8 * j + 2 * (lane % 4) + e % 2;
          if (row < a_.left_columns && column < a_.right_columns)
            sums[static_cast<std::int64_t>(row) * a_.right_columns + column] = total[i][j][e];
        }
  }

  const OuterArguments& a_;
  char* stages_;
};

template <typename E, bool THREE>
SCVAE_KERNEL void SCVAE_BOUNDS(kSumThreads) outer(SCVAE_GRID_CONSTANT OuterArguments a) {
  Outer<E, THREE>(a).run();
}

}  // namespace scvae::cuda
