#include "telemetry/map_reader.h"

#include <cstring>

#include "telemetry/system.h"

namespace hakmem::telemetry {

bool MapReader::next(MapEntry* entry) {
  const char* text = lines_.next();
  if (text == nullptr) return false;
  entry->begin = parse_hexadecimal(&text);
  if (*text != '-') return false;
  ++text;
  entry->end = parse_hexadecimal(&text);
  // Permissions, offset, device and inode stand before the path.
  for (int field = 0; field < 4; ++field) {
    text += strspn(text, " ");
    const char* offset = text;
    if (field == 1) entry->offset = parse_hexadecimal(&offset);
    text += strcspn(text, " ");
  }
  entry->path = text + strspn(text, " ");
  return true;
}

}  // namespace hakmem::telemetry
