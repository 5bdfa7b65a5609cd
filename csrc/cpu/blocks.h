// Distribution of rows over threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace scvae::cpu {

// Rows per thread at a time: with a panel of S, their drive and their codes before and after a step fit into the
// second-level cache, and the panel is read often enough to be worth loading.
inline constexpr std::int64_t kRowsPerBlock = 96;

// The same if each iteration has its own matrix, which no cache holds from one block to the next: with more rows it is
// read less often.
inline constexpr std::int64_t kRowsPerBlockOfEach = 192;

// For this few rows, packing a matrix may take longer than reading it unpacked.
inline constexpr std::int64_t kFewRows = 4;

// Blocks of nearly equal size with at most this many rows; the same number for each thread if there are enough rows.
struct Blocks {
  Blocks(std::int64_t rows, std::int64_t most, int threads) {
    constexpr std::int64_t unit = 6;  // see Supports::kUnit
    const std::int64_t team = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, rows / unit));
    const std::int64_t rounds = std::max<std::int64_t>(1, (rows + most * team - 1) / (most * team));
    size = (rows + rounds * team - 1) / (rounds * team);
    size = std::max<std::int64_t>(unit, (size + unit - 1) / unit * unit);
    count = (rows + size - 1) / size;
  }

  std::int64_t size;
  std::int64_t count;
};

}  // namespace scvae::cpu
