// malloc_trim, mallinfo and their relatives: answers computed from slab state.
#include <errno.h>
#include <malloc.h>
#include <stdio.h>

#include "allocator/api/allocator.h"
#include "allocator/api/hakmem.h"
#include "allocator/api/statistics.h"
#include "allocator/base/build_profile.h"
#include "allocator/base/message.h"
#include "allocator/thread_cache/lifetime.h"

#define HAKMEM_EXPORT extern "C" [[gnu::visibility("default")]]

// What the calling thread holds back goes too; other threads keep theirs.
HAKMEM_EXPORT int malloc_trim(size_t) {
  hakmem::flush_thread_cache();
  return hakmem::purge_all() > 0 ? 1 : 0;
}

// Every parameter of glibc's is accepted; none has a meaning here.
HAKMEM_EXPORT int mallopt(int, int) { return 1; }

HAKMEM_EXPORT struct mallinfo2 mallinfo2() {
  hakmem::HeapTotals totals = hakmem::heap_totals();
  struct mallinfo2 info {};
  info.arena = totals.superslab_bytes;
  info.ordblks = totals.free_blocks;
  info.hblks = totals.huge_allocations;
  info.hblkhd = totals.huge_bytes;
  info.uordblks = totals.used_bytes - totals.huge_bytes;
  info.fordblks = totals.free_bytes;
  info.keepcost = totals.retained_bytes;
  return info;
}

// The fields are int: what does not fit is cut, as the man page warns.
HAKMEM_EXPORT struct mallinfo mallinfo() {
  struct mallinfo2 wide = mallinfo2();
  struct mallinfo info {};
  info.arena = static_cast<int>(wide.arena);
  info.ordblks = static_cast<int>(wide.ordblks);
  info.hblks = static_cast<int>(wide.hblks);
  info.hblkhd = static_cast<int>(wide.hblkhd);
  info.uordblks = static_cast<int>(wide.uordblks);
  info.fordblks = static_cast<int>(wide.fordblks);
  info.keepcost = static_cast<int>(wide.keepcost);
  return info;
}

HAKMEM_EXPORT void malloc_stats() {
  hakmem::HeapTotals totals = hakmem::heap_totals();
  hakmem::LineBuffer line;
  line.text("hakmem " HAKMEM_VERSION "\n");
  line.text("superslab bytes = ").number(totals.superslab_bytes).text("\n");
  line.text("in use bytes    = ").number(totals.used_bytes).text("\n");
  line.text("free bytes      = ").number(totals.free_bytes).text("\n");
  line.text("retained bytes  = ").number(totals.retained_bytes).text("\n");
  line.text("slabs           = ").number(totals.slabs).text("\n");
  line.text("huge mappings   = ").number(totals.huge_allocations).text("\n");
  line.text("huge bytes      = ").number(totals.huge_bytes).text("\n");
  line.print();
  if constexpr (hakmem::kBuild.assertions) hakmem::print_debug_statistics();
}

HAKMEM_EXPORT int malloc_info(int options, FILE* stream) {
  if (options != 0) {
    errno = EINVAL;
    return -1;
  }
  hakmem::HeapTotals totals = hakmem::heap_totals();
  int written =
      fprintf(stream,
              "<malloc version=\"hakmem-%s\">\n"
              "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n"
              "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n"
              "<system type=\"current\" size=\"%zu\"/>\n"
              "<aspace type=\"total\" size=\"%zu\"/>\n"
              "</malloc>\n",
              HAKMEM_VERSION, totals.free_blocks, totals.free_bytes, totals.huge_allocations, totals.huge_bytes,
              totals.superslab_bytes + totals.huge_bytes, totals.superslab_bytes + totals.huge_bytes);
  return written < 0 ? -1 : 0;
}
