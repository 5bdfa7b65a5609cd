// The product on which everything is based: rows in shared memory times a matrix that streams through it in stages.
//
// A block of `warps` warps has ROWS rows of the left factor in shared memory and computes 64 columns per warp. The
// right factor is packed (pack.h) so that a stage, 64 bytes of the sums' depth for all columns, is contiguous.
#pragma once

#include "cuda/machine.h"
#include "cuda/place.h"
#include "cuda/stages.h"
#include "cuda/tiles.h"

namespace scvae::cuda {

// A thread's share of ROWS rows and 64 columns: 16 x 8 elements at a time, in the layout of the matrix units.
template <int ROWS>
struct Sums {
  static constexpr int kDown = ROWS / 16;
  static constexpr int kAcross = kWarpColumns / 8;
  float at[kDown][kAcross][4];

  SCVAE_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[i][j][e] = 0.0f;
  }

  // Calls body(place, i, j, half) for every pair of columns, row by row; columns count from the block's first one.
  template <typename Body>
  SCVAE_DEVICE static void each(const Body& body) {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int thread = machine::thread(), lane = thread % 32;
        const int row = 16 * i + 8 * half + lane / 4, column = thread / 32 * kWarpColumns + 2 * (lane % 4);
#pragma unroll
        for (int j = 0; j < kAcross; ++j) body(Place{row, column + 8 * j, (i * kAcross + j) * 2 + half}, i, j, half);
      }
  }

  // Calls body(place).
  template <typename Body>
  SCVAE_DEVICE static void each_place(const Body& body) {
    each([&](const Place& at, int, int, int) { body(at); });
  }

  // Calls body(place, sum, sum of the next column) to set the initial sums.
  template <typename Body>
  SCVAE_DEVICE void begin_with(const Body& body) {
    each([&](const Place& place, int i, int j, int half) { body(place, at[i][j][2 * half], at[i][j][2 * half + 1]); });
  }

  // The same for finished sums.
  template <typename Body>
  SCVAE_DEVICE void each_pair(const Body& body) const {
    each([&](const Place& place, int i, int j, int half) { body(place, at[i][j][2 * half], at[i][j][2 * half + 1]); });
  }
};

// The product of one instruction: 32 bytes of depth. float32 is split into two TF32 numbers, and three of their four
// products are summed, the small ones first; the fourth is below float32's precision. Infinity and NaN enter only the
// product of the large parts: otherwise ∞ times a small part would cancel it.
template <typename E, bool THREE>
struct Fragment {
  template <int N>
  struct Split {
    std::uint32_t large[N];
    std::uint32_t small[THREE ? N : 1];
  };

  template <int N>
  SCVAE_DEVICE static Split<N> split(const std::uint32_t (&raw)[N]) {
    Split<N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result.large[i] = raw[i];
      if constexpr (sizeof(E) == 4) {
        const float value = bits_as<float>(raw[i]), rounded = machine::round_to_tf32(value);
        // The largest numbers would be rounded to infinity, so they are truncated.
        const bool overflows = (raw[i] & 0x7ffff000u) == 0x7f7ff000u;
        const float large = overflows ? bits_as<float>(raw[i] & 0xffffe000u) : rounded, rest = value - large;
        result.large[i] = bits_as<std::uint32_t>(large);
        if constexpr (THREE) {
          const bool finite = rest == rest;
          result.small[i] = finite ? bits_as<std::uint32_t>(machine::round_to_tf32(rest)) : 0u;
        }
      }
    }
    return result;
  }

  SCVAE_DEVICE static void multiply_add(float (&sums)[4], const Split<4>& a, const Split<4>& b, int half) {
    if constexpr (THREE) {
      const std::uint32_t a_finite[4] = {finite(a.large[0]), finite(a.large[1]), finite(a.large[2]),
                                         finite(a.large[3])};
      machine::multiply_add(sums, a.small, finite(b.large[2 * half]), finite(b.large[2 * half + 1]), E{});
      machine::multiply_add(sums, a_finite, b.small[2 * half], b.small[2 * half + 1], E{});
    }
    machine::multiply_add(sums, a.large, b.large[2 * half], b.large[2 * half + 1], E{});
  }

  // The same for long float32 sums: what is added to them is rounded once, not three times.
  SCVAE_DEVICE static void multiply_add_once(float (&sums)[4], const Split<4>& a, const Split<4>& b, int half) {
    if constexpr (THREE) {
      float part[4] = {};
      multiply_add(part, a, b, half);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[e] += part[e];
    } else {
      multiply_add(sums, a, b, half);
    }
  }

  // The number, or 0.
  SCVAE_DEVICE static std::uint32_t finite(std::uint32_t bits) {
    return (bits & 0x7f800000u) == 0x7f800000u ? 0u : bits;
  }
};

// Shared memory is addressed by byte offsets, which take one register instead of a pointer's two.
template <typename E, int ROWS, bool THREE>
class Multiplier {
 public:
  // `packed`, a kernel argument, is read when needed. Room for stages starts at byte `stages`.
  SCVAE_DEVICE Multiplier(const void* const& packed, int stages) : packed_(packed), stages_(stages) {}

  // To be called before the first product.
  SCVAE_DEVICE void begin(Stages first) {
    for (int step = 0; step < kStages - 1; ++step) load(first.first + step, step * stage_bytes());
  }

  // sums += left · nowᵀ, for rows left_stride bytes apart. Meanwhile the first stages of `next` start loading: the
  // `next` of one call, or of begin(), must be the following call's `now`. It may have no stages. On return, other
  // warps may still read `left`.
  SCVAE_DEVICE void multiply(Sums<ROWS>& sums, int left, int left_stride, Stages now, Stages next) {
    const int last = (kStages - 1) * stage_bytes();
    for (int step = 0; step < now.count; ++step) {
      machine::wait_for_copies(kStages - 2);
      machine::sync_block();
      const int ahead = step + kStages - 1, free = slot_ == 0 ? last : slot_ - stage_bytes();
      if (ahead < now.count)
        load(now.first + ahead, free);
      else if (next.first >= 0)
        load(next.first + ahead - now.count, free);
      else
        machine::commit_copies();
      add_step(sums, machine::shared_memory() + left + step * kStepBytes, left_stride,
               machine::shared_memory() + stages_ + slot_);
      slot_ = slot_ == last ? 0 : slot_ + stage_bytes();
    }
  }

 private:
  SCVAE_DEVICE static int stage_bytes() { return machine::threads() / 32 * kWarpColumns * kStepBytes; }

  // One group of copies; every thread copies 8 chunks of a stage.
  SCVAE_DEVICE void load(int stage, int slot) {
    constexpr int chunks = kWarpColumns * kStepBytes / 16 / 32;
    const char* const from = static_cast<const char*>(packed_) + std::int64_t{stage} * stage_bytes();
#pragma unroll
    for (int i = 0; i < chunks; ++i) {
      const int at = (i * machine::threads() + machine::thread()) * 16;
      machine::copy_async(machine::shared_memory() + stages_ + slot + at, from + at, true);
    }
    machine::commit_copies();
  }

  SCVAE_DEVICE static void add_step(Sums<ROWS>& sums, const char* left, int left_stride, const char* stage) {
    using F = Fragment<E, THREE>;
    const int lane = machine::thread() % 32, first = machine::thread() / 32 * kWarpColumns;
#pragma unroll
    for (int deep = 0; deep < kStepBytes / 32; ++deep) {
      typename F::template Split<4> a[Sums<ROWS>::kDown];
#pragma unroll
      for (int i = 0; i < Sums<ROWS>::kDown; ++i) {
        std::uint32_t raw[4];
        machine::load_matrices(raw, left + (16 * i + lane % 16) * left_stride + 32 * deep + lane / 16 * 16);
        a[i] = F::split(raw);
      }
#pragma unroll
      for (int j = 0; j < kWarpColumns / 16; ++j) {
        const int column = first + 16 * j + lane % 8 + lane / 16 * 8;
        std::uint32_t raw[4];
        machine::load_matrices(raw, stage + swizzled(column, 2 * deep + lane / 8 % 2));
        const auto b = F::split(raw);
#pragma unroll
        for (int i = 0; i < Sums<ROWS>::kDown; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half) F::multiply_add_once(sums.at[i][2 * j + half], a[i], b, half);
      }
    }
  }

  const void* const& packed_;
  int stages_;
  int slot_ = 0;  // of the next step's stage, in bytes after the first one
};

}  // namespace scvae::cuda
