#include "cpu/memory.h"

#include <iterator>
#include <map>
#include <mutex>

namespace scvae::cpu {
namespace {

// A sanitizer has to see every buffer come and go.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kMostKept = 0;
#else
constexpr std::size_t kMostKept = 32 << 20;
#endif
constexpr std::size_t kLeastKept = 32 << 10;  // what is smaller the allocator keeps itself

void release(void* block) { ::operator delete(block, std::align_val_t(kLine)); }

// Blocks that nobody uses, by size.
class Pool {
 public:
  // A block of at least that size, but not a much larger one; null where there is none.
  void* take(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = blocks_.lower_bound(bytes);
    if (found == blocks_.end() || found->first > bytes + bytes / 4) return nullptr;
    void* block = found->second;
    kept_ -= found->first;
    blocks_.erase(found);
    return block;
  }

  // Whether the block is kept. Smaller ones make room for it.
  bool give(void* block, std::size_t bytes) {
    if (bytes > kMostKept) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    while (kept_ + bytes > kMostKept) {
      kept_ -= blocks_.begin()->first;
      release(blocks_.begin()->second);
      blocks_.erase(blocks_.begin());
    }
    blocks_.emplace(bytes, block);
    kept_ += bytes;
    return true;
  }

 private:
  std::mutex mutex_;
  std::multimap<std::size_t, void*> blocks_;
  std::size_t kept_ = 0;
};

// Never destroyed: a thread may still give something back while the process ends.
Pool& pool() {
  static Pool* const the_pool = new Pool;
  return *the_pool;
}

}  // namespace

void* take_scratch(std::size_t bytes) {
  void* kept = bytes >= kLeastKept ? pool().take(bytes) : nullptr;
  return kept != nullptr ? kept : ::operator new(bytes, std::align_val_t(kLine));
}

void give_scratch(void* block, std::size_t bytes) noexcept {
  if (bytes < kLeastKept || !pool().give(block, bytes)) release(block);
}

}  // namespace scvae::cpu
