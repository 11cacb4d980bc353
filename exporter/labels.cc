#include "exporter/labels.h"

namespace hakmem::exporter {

using metrics::LabelSet;

const char* label_name(LabelSet labels) {
  switch (labels) {
    case LabelSet::SizeClassSource: return "source";
    case LabelSet::SizeClassSlabState:
    case LabelSet::SuperslabState:
    case LabelSet::KernelState: return "state";
    case LabelSet::SizeClassFragmentation:
    case LabelSet::Fragmentation:
    case LabelSet::BytesKind:
    case LabelSet::AtPeak:
    case LabelSet::CgroupFigure:
    case LabelSet::MemoryError: return "kind";
    case LabelSet::SizeClassOccupancy:
    case LabelSet::Occupancy: return "occupancy";
    case LabelSet::Site: return "site";
    case LabelSet::Step: return "step";
    case LabelSet::KernelCall:
    case LabelSet::SlowCall: return "call";
    case LabelSet::Lock: return "lock";
    case LabelSet::Part: return "part";
    case LabelSet::Finding: return "finding";
    case LabelSet::PageProblem: return "problem";
    case LabelSet::None:
    case LabelSet::SizeClass:
    case LabelSet::Build: break;
  }
  return "";
}

const char* label_value(LabelSet labels, uint32_t index) {
  switch (labels) {
    case LabelSet::SizeClassSource: return metrics::kRefillSourceNames[index];
    case LabelSet::SizeClassSlabState: return metrics::kSlabStateNames[index];
    case LabelSet::SuperslabState: return metrics::kSuperslabStateNames[index];
    case LabelSet::SizeClassFragmentation:
    case LabelSet::Fragmentation: return metrics::kFragmentationNames[index];
    case LabelSet::SizeClassOccupancy:
    case LabelSet::Occupancy: return metrics::kOccupancyNames[index];
    case LabelSet::AtPeak: return metrics::kAtPeakNames[index];
    case LabelSet::BytesKind: return metrics::kBytesKindNames[index];
    case LabelSet::Step: return metrics::kRefillStepNames[index];
    case LabelSet::KernelCall: return metrics::kKernelCallNames[index];
    case LabelSet::SlowCall: return metrics::kSlowCallNames[index];
    case LabelSet::Lock: return metrics::kLockNames[index];
    case LabelSet::Part: return metrics::kPartNames[index];
    case LabelSet::KernelState: return metrics::kKernelStateNames[index];
    case LabelSet::CgroupFigure: return metrics::kCgroupFigureNames[index];
    case LabelSet::Finding: return metrics::kFindings[index].name;
    case LabelSet::PageProblem: return metrics::kPageProblemNames[index];
    case LabelSet::MemoryError: return metrics::kMemoryErrorNames[index];
    case LabelSet::None:
    case LabelSet::SizeClass:
    case LabelSet::Build:
    case LabelSet::Site: break;
  }
  return "";
}

std::string size_class_name(uint32_t size_class, const uint32_t* class_bytes) {
  if (size_class == metrics::kLargeClass) return "large";
  if (size_class == metrics::kHugeClass) return "huge";
  return std::to_string(class_bytes[size_class]);
}

}  // namespace hakmem::exporter
