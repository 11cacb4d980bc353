// An array in memory mapped for it alone, chunk by chunk: what it holds never moves,
// and a small process maps little.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace hakmem::telemetry {

inline constexpr size_t kChunkBytes = 64 << 10;

// Elements are zero when they come. Callers take turns.
template <class Element, size_t max_chunks>
class MappedArray {
 public:
  static constexpr size_t kPerChunk = kChunkBytes / sizeof(Element);
  static constexpr size_t kCapacity = kPerChunk * max_chunks;

  size_t size() const { return size_.load(std::memory_order_relaxed); }
  Element& operator[](size_t index) { return chunks_[index / kPerChunk][index % kPerChunk]; }

  // `count` elements that stand next to each other; null when there is no memory or no
  // room. What is left of a chunk that is too small stays unused. May change errno.
  Element* extend(size_t count) {
    size_t begin = size();
    if (begin % kPerChunk + count > kPerChunk) begin += kPerChunk - begin % kPerChunk;
    if (count > kPerChunk || begin + count > kCapacity) return nullptr;
    Element*& chunk = chunks_[begin / kPerChunk];
    if (chunk == nullptr) {
      void* mapped = mmap(nullptr, kChunkBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (mapped == MAP_FAILED) return nullptr;
      chunk = static_cast<Element*>(mapped);
    }
    size_.store(begin + count, std::memory_order_release);  // pairs with visit_used()
    return &chunk[begin % kPerChunk];
  }

  // Forgets the elements; they are zero again when they come anew.
  void clear() {
    for (size_t i = 0; i * kPerChunk < size(); ++i) (void)madvise(chunks_[i], kChunkBytes, MADV_DONTNEED);
    size_.store(0, std::memory_order_relaxed);
  }

  // Any thread.
  template <class Visit>
  void visit_used(Visit visit) const {
    size_t size = size_.load(std::memory_order_acquire);
    for (size_t i = 0; i * kPerChunk < size; ++i) {
      size_t used = size - i * kPerChunk;
      size_t bytes = (used < kPerChunk ? used : kPerChunk) * sizeof(Element);
      visit(reinterpret_cast<uintptr_t>(chunks_[i]), (bytes + 4095) / 4096 * 4096);
    }
  }

 private:
  Element* chunks_[max_chunks]{};
  std::atomic<size_t> size_{0};
};

}  // namespace hakmem::telemetry
