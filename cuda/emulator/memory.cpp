#include "memory.hpp"

#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "emulator.h"
#include "guarded.hpp"

namespace fs::emulator {
namespace {

// How many freed allocations keep their addresses: enough to catch late use, few enough for the kernel's limit on mappings.
constexpr size_t retired_limit = 4096;

struct Memory {
  std::mutex mutex;
  std::map<const char*, Guarded> live;  // by the start of the mapping
  std::deque<Guarded> retired;
  // Of overlapping launches.
  std::set<const char*> written;  // by the chain, by the start of the mapping
  bool closed = false;            // to a block that has not waited
};
Memory& memory() {
  static Memory& instance = *new Memory;  // outlives static destructors of whoever still frees memory
  return instance;
}

std::map<const char*, Guarded>::iterator find_near(const void* address) {
  auto next = memory().live.upper_bound(static_cast<const char*>(address));
  if (next == memory().live.begin()) return memory().live.end();
  --next;
  return next->second.near(address) ? next : memory().live.end();
}

std::string distance(const Guarded& g, ptrdiff_t offset) {
  const std::string size = std::to_string(g.bytes) + "-byte allocation";
  if (offset < 0) return std::to_string(-offset) + " bytes before a " + size;
  if (size_t(offset) < g.bytes) return "byte " + std::to_string(offset) + " of a " + size;
  return std::to_string(size_t(offset) - g.bytes) + " bytes past the end of a " + size;
}

/// What the chain has written may be touched as `written` says, all else be read.
void allow(Guarded::Access written) {
  if (!watches_writes) return;
  for (auto& [start, g] : memory().live) g.allow(memory().written.count(start) ? written : Guarded::Access::read);
}

std::string overrun_of(const Guarded& g) {
  const ptrdiff_t offset = g.trespass();
  return offset ? "something wrote " + distance(g, offset) : std::string();
}

}  // namespace

std::string describe_address(const void* address) {
  std::lock_guard lock(memory().mutex);
  if (const auto found = find_near(address); found != memory().live.end()) {
    return distance(found->second, static_cast<const char*>(address) - found->second.data);
  }
  for (const Guarded& g : memory().retired) {
    if (g.near(address)) return distance(g, static_cast<const char*>(address) - g.data) + " that was freed";
  }
  return "in no allocation";
}

void begin_launch(bool same_chain) {
  std::lock_guard lock(memory().mutex);
  if (!same_chain) memory().written.clear();
  allow(Guarded::Access::both);
}

void end_launch() {
  std::lock_guard lock(memory().mutex);
  memory().closed = false;
  if (!watches_writes) return;
  for (auto& [start, g] : memory().live) g.allow(Guarded::Access::both);
}

void close_memory() {
  std::lock_guard lock(memory().mutex);
  memory().closed = true;
  allow(Guarded::Access::none);
}

void open_memory() {
  std::lock_guard lock(memory().mutex);
  memory().closed = false;
  allow(Guarded::Access::both);
}

bool first_write(const void* address) {
  std::lock_guard lock(memory().mutex);
  const auto found = find_near(address);
  if (memory().closed || found == memory().live.end() || !found->second.on_pages(address)) return false;
  memory().written.insert(found->first);  // perhaps another thread has just done so
  found->second.allow(Guarded::Access::both);
  return true;
}

bool is_allocated(const void* address) {
  std::lock_guard lock(memory().mutex);
  const auto found = find_near(address);
  return found != memory().live.end() && found->second.contains(address, 1);
}

std::string find_overrun() {
  std::lock_guard lock(memory().mutex);
  for (const auto& [mapping, g] : memory().live) {
    if (auto message = overrun_of(g); !message.empty()) return message;
  }
  return {};
}

}  // namespace fs::emulator

using namespace fs::emulator;

void* fewstep_emu_allocate(size_t bytes) {
  Guarded g;
  if (!g.map(bytes, 16, fewstep_emu_get_config().guard == FEWSTEP_EMU_GUARD_UNDERRUN)) return nullptr;
  std::lock_guard lock(memory().mutex);
  memory().live.emplace(g.mapping, g);
  return g.data;
}

int32_t fewstep_emu_free(void* address) {
  if (!address) return FEWSTEP_EMU_OK;
  std::lock_guard lock(memory().mutex);
  const auto found = find_near(address);
  if (found == memory().live.end() || found->second.data != address) return FEWSTEP_EMU_ILLEGAL_ADDRESS;
  Guarded g = found->second;
  const bool overrun = g.trespass() != 0;
  memory().written.erase(found->first);
  memory().live.erase(found);
  g.retire();
  memory().retired.push_back(g);
  if (memory().retired.size() > retired_limit) {
    memory().retired.front().unmap();
    memory().retired.pop_front();
  }
  return overrun ? FEWSTEP_EMU_OVERRUN : FEWSTEP_EMU_OK;
}

size_t fewstep_emu_allocation_size(const void* address, size_t bytes) {
  std::lock_guard lock(memory().mutex);
  const auto found = find_near(address);
  if (found == memory().live.end() || !found->second.contains(address, bytes)) return 0;
  return found->second.bytes;
}
