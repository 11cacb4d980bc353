// The page arena: addresses for superslabs and their metadata, and a bump
// allocator for metadata that lives as long as the process.
//
// A reservation is a range of superslab addresses at a random place, and apart
// from it a range for their metadata. Both are committed superslab by
// superslab, lowest first; until then the metadata reads as zeroes. The first
// reservation is so large that most processes never need another; under an
// address-space limit reservations are small and come as they are needed.
//
//   superslab addresses   | s0 | s1 | ... | sN-1 | guard page |
//   metadata              | m0 | m1 | ... | mN-1 | guard page |
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "allocator/base/assert.h"
#include "allocator/base/bits.h"
#include "allocator/base/lock.h"
#include "allocator/base/mitigations.h"
#include "allocator/platform/random.h"
#include "allocator/platform/virtual_memory.h"

namespace hakmem {

inline constexpr size_t kSuperslabBytes = 2 * kMiB;
// Metadata of one superslab: two pages of slab records.
inline constexpr size_t kSuperslabMetadataBytes = 2 * kPageBytes;

struct Reservation {
  uintptr_t base;                   // constant once published
  uintptr_t metadata;               // constant once published
  uint32_t capacity;                // superslabs that fit; written under the arena's lock, never grows
  std::atomic<uint32_t> committed;  // written under the arena's lock, released after the commit; grows only
};

template <VirtualMemory Memory>
class PageArena {
 public:
  static constexpr size_t kDefaultReservationBytes = 256 * kGiB;
  static constexpr size_t kLimitedReservationBytes = 64 * kMiB;
  static constexpr uint32_t kMaxReservations = 1024;

  struct NewSuperslab {
    uintptr_t address;   // 0: the kernel gave no memory
    uintptr_t metadata;  // kSuperslabMetadataBytes of zeroes
    uint32_t reservation;
    uint32_t index;  // within the reservation
  };

  // Commits the next superslab that was never used. Any thread.
  NewSuperslab take_superslab() {
    LockGuard guard(lock_);
    uint32_t count = reservation_count_.load(std::memory_order_relaxed);
    if (count == 0 || is_full(reservations_[count - 1])) {
      if (!add_reservation()) return {};
      ++count;
    }
    Reservation& reservation = reservations_[count - 1];
    uint32_t index = reservation.committed.load(std::memory_order_relaxed);
    uintptr_t address = reservation.base + index * kSuperslabBytes;
    uintptr_t metadata = reservation.metadata + index * kSuperslabMetadataBytes;
    if (index % kMetadataBatch == 0 && !commit_metadata(reservation, index)) return {};
    if (!Memory::commit(reinterpret_cast<void*>(address), kSuperslabBytes)) return {};
    // Release pairs with the acquire of find() and of views: metadata is readable from here on.
    reservation.committed.store(index + 1, std::memory_order_release);
    return {address, metadata, count - 1, index};
  }

  // Gives back the addresses of each reservation that were never committed;
  // `before` is told the new capacity of reservation 0 first. Returns the bytes.
  template <class Before>
  size_t trim_reservations(Before before) {
    LockGuard guard(lock_);
    size_t bytes = 0;
    for (uint32_t i = 0; i < reservation_count_.load(std::memory_order_relaxed); ++i) {
      Reservation& reservation = reservations_[i];
      uint32_t committed = reservation.committed.load(std::memory_order_relaxed);
      uint32_t rest = reservation.capacity - committed;
      if (rest == 0) continue;
      // One page stays behind as the guard.
      if (i == 0) before(committed);
      reservation.capacity = committed;
      Memory::release(reinterpret_cast<void*>(reservation.base + committed * kSuperslabBytes + kPageBytes),
                      rest * kSuperslabBytes);
      size_t kept = align_up(committed, kMetadataBatch);
      size_t had = align_up(committed + rest, kMetadataBatch);
      if (had > kept)
        Memory::release(reinterpret_cast<void*>(reservation.metadata + kept * kSuperslabMetadataBytes),
                        (had - kept) * kSuperslabMetadataBytes);
      bytes += rest * kSuperslabBytes;
    }
    return bytes;
  }

  // Zeroed memory that is never given back, aligned to 64 bytes; null when the
  // kernel gives none. Any thread.
  void* allocate_metadata(size_t bytes) {
    bytes = align_up(bytes, 64);
    LockGuard guard(lock_);
    if (bytes > metadata_end_ - metadata_next_ && !add_chunk(bytes)) return nullptr;
    void* result = reinterpret_cast<void*>(metadata_next_);
    metadata_next_ += bytes;
    return result;
  }

  // The committed superslab that holds `address`. Any thread, no lock.
  struct Location {
    const Reservation* reservation;  // null: not an address of ours
    uint32_t superslab;
  };
  Location find(uintptr_t address) const {
    for (uint32_t i = reservation_count_.load(std::memory_order_acquire); i-- > 0;) {
      const Reservation& reservation = reservations_[i];
      size_t superslab = (address - reservation.base) / kSuperslabBytes;
      if (superslab < reservation.committed.load(std::memory_order_acquire))
        return {&reservation, static_cast<uint32_t>(superslab)};
    }
    return {nullptr, 0};
  }

  // Of superslab addresses. Any thread.
  size_t reserved_bytes() const {
    size_t bytes = 0;
    for (uint32_t i = 0; i < reservation_count(); ++i) bytes += reservations_[i].capacity * kSuperslabBytes;
    return bytes;
  }

  uint32_t reservation_count() const { return reservation_count_.load(std::memory_order_acquire); }
  const Reservation& reservation(uint32_t index) const { return reservations_[index]; }

  template <class Visit>
  void visit_metadata(Visit visit) const {
    for (uint32_t i = 0; i < reservation_count(); ++i) {
      size_t committed = reservations_[i].committed.load(std::memory_order_acquire);
      visit(reservations_[i].metadata, align_up(committed, kMetadataBatch) * kSuperslabMetadataBytes);
    }
    for (uint32_t i = 0; i < chunk_count_.load(std::memory_order_acquire); ++i)
      visit(chunks_[i].address, chunks_[i].bytes);
  }

  bool is_consistent() const HAKMEM_NO_THREAD_ANALYSIS {
    for (uint32_t i = 0; i < reservation_count(); ++i)
      if (reservations_[i].committed.load(std::memory_order_relaxed) > reservations_[i].capacity) return false;
    return metadata_next_ <= metadata_end_;
  }

  RankedLock& lock() { return lock_; }

 private:
  // Slab records are committed for so many superslabs at once: fewer system calls.
  static constexpr uint32_t kMetadataBatch = 16;
  static constexpr size_t kMetadataGuardBytes = has(Mitigation::kMetadataGuards) ? kPageBytes : 0;
  // With a byte for each block the record of a superslab has some 150 KiB of addresses.
  static constexpr size_t kMetadataChunkBytes = has(Mitigation::kBlockStates) ? 2 * kMiB : 256 * kKiB;
  // A process with many threads takes larger ones: each chunk is three mappings of the
  // 65,530 that it may have, and every scrape asks for each.
  static constexpr uint32_t kFewChunks = 16;
  static constexpr size_t kLaterChunkBytes = 2 * kMiB;
  static constexpr uint32_t kMaxChunks = 4096;

  struct Chunk {
    uintptr_t address;
    size_t bytes;
  };

  // A chunk with room for `bytes`: where the kernel refuses a larger one, one of the usual size.
  bool add_chunk(size_t bytes) HAKMEM_REQUIRES(lock_) {
    bool has_few = chunk_count_.load(std::memory_order_relaxed) < kFewChunks;
    return (!has_few && try_chunk(align_up(bytes, kLaterChunkBytes))) ||
           try_chunk(align_up(bytes, kMetadataChunkBytes));
  }

  bool try_chunk(size_t bytes) HAKMEM_REQUIRES(lock_) {
    // One page more at either end stays without access.
    size_t reserved_bytes = bytes + 2 * kMetadataGuardBytes;
    void* reserved = Memory::reserve(reserved_bytes, kPageBytes, 0);
    if (reserved == nullptr) return false;
    uintptr_t start = reinterpret_cast<uintptr_t>(reserved) + kMetadataGuardBytes;
    if (!Memory::commit(reinterpret_cast<void*>(start), bytes)) {
      Memory::release(reserved, reserved_bytes);
      return false;
    }
    metadata_next_ = start;
    metadata_end_ = start + bytes;
    if (uint32_t chunks = chunk_count_.load(std::memory_order_relaxed); chunks < kMaxChunks) {
      chunks_[chunks] = {start, bytes};
      chunk_count_.store(chunks + 1, std::memory_order_release);  // pairs with visit_metadata
    }
    return true;
  }

  static bool is_full(const Reservation& reservation) {
    return reservation.committed.load(std::memory_order_relaxed) == reservation.capacity;
  }

  bool commit_metadata(const Reservation& reservation, uint32_t index) {
    return Memory::commit(reinterpret_cast<void*>(reservation.metadata + index * kSuperslabMetadataBytes),
                          kMetadataBatch * kSuperslabMetadataBytes);
  }

  bool add_reservation() HAKMEM_REQUIRES(lock_) {
    uint32_t count = reservation_count_.load(std::memory_order_relaxed);
    if (count == kMaxReservations) return false;
    size_t limit = Memory::address_space_limit();
    size_t bytes = kDefaultReservationBytes;
    if (limit != SIZE_MAX) {
      // About an eighth of what there is, so that their number stays small; a
      // power of two, so that it can be halved down to one superslab.
      bytes = kLimitedReservationBytes;
      while (bytes < reserved_bytes() / 8) bytes *= 2;
      while (bytes > limit / 16 && bytes > kSuperslabBytes) bytes /= 2;
    }
    for (; bytes >= kSuperslabBytes; bytes /= 2)
      if (try_reservation(reservations_[count], bytes)) {
        reservation_count_.store(count + 1, std::memory_order_release);  // pairs with find()
        return true;
      }
    return false;
  }

  bool try_reservation(Reservation& reservation, size_t bytes) {
    // Two to 34 TiB: clear of the program and of the kernel's own top-down mappings.
    uintptr_t hint = 0;
    if constexpr (has(Mitigation::kRandomAddresses))
      hint = align_up((random_secret() % (size_t{1} << 45)) + (size_t{1} << 41), kSuperslabBytes);
    // The page at the end is never committed, so that no mapping of the host merges with ours.
    size_t reserved_bytes = bytes + kPageBytes;
    void* base = Memory::reserve(reserved_bytes, kSuperslabBytes, hint);
    if (base == nullptr) return false;
    size_t superslabs = bytes / kSuperslabBytes;
    size_t metadata_bytes = align_up(superslabs, kMetadataBatch) * kSuperslabMetadataBytes + kPageBytes;
    void* metadata = Memory::reserve(metadata_bytes, kPageBytes, 0);
    if (metadata == nullptr) {
      Memory::release(base, reserved_bytes);
      return false;
    }
    // Readable from the start, as zeroes: free() looks up the record of any
    // address of the reservation without asking how far it is committed.
    if (!Memory::allow_reading(metadata, metadata_bytes - kPageBytes)) {
      Memory::release(metadata, metadata_bytes);
      Memory::release(base, reserved_bytes);
      return false;
    }
    reservation.base = reinterpret_cast<uintptr_t>(base);
    reservation.metadata = reinterpret_cast<uintptr_t>(metadata);
    reservation.capacity = static_cast<uint32_t>(superslabs);
    return true;
  }

  RankedLock lock_{LockRank::kPageArena};
  std::atomic<uint32_t> reservation_count_{0};  // written under lock_, grows only
  std::atomic<uint32_t> chunk_count_{0};        // written under lock_, grows only
  uintptr_t metadata_next_ HAKMEM_GUARDED_BY(lock_) = 0;
  uintptr_t metadata_end_ HAKMEM_GUARDED_BY(lock_) = 0;
  Reservation reservations_[kMaxReservations]{};
  Chunk chunks_[kMaxChunks]{};
};

}  // namespace hakmem
