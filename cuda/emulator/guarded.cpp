#include "guarded.hpp"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fs::emulator {
namespace {

// What the margins hold: 0xffa5 at even addresses, which is NaN in every format, and not what poison or zeros would leave there.
char pattern(const char* p) { return reinterpret_cast<uintptr_t>(p) % 2 ? char(0xff) : char(0xa5); }
void fill_margin(char* begin, char* end) {
  for (char* p = begin; p < end; p++) *p = pattern(p);
}
// How far from the user's bytes a stray write is looked for: this is done after each launch, for every allocation.
constexpr ptrdiff_t watched_margin = 256;
size_t page_bytes() {
  static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
  return bytes;
}
// Unmapped bytes on either side: wide, for strays by a whole row or plane. They cost only addresses; sanitizers, which shadow those,
// get a page.
size_t guard_bytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(FEWSTEP_EMU_TSAN)
  return page_bytes();
#else
  return size_t(16) << 20;
#endif
}

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer sees every byte of the margins itself; the pattern is not needed, and reading it would be a report.
void mark_margins(const Guarded& g, bool forbidden) {
  char* const begin = g.mapping + guard_bytes();
  char* const end = g.mapping + g.mapped - guard_bytes();
  if (forbidden) {
    __asan_poison_memory_region(begin, size_t(g.data - begin));
    __asan_poison_memory_region(g.data + g.bytes, size_t(end - (g.data + g.bytes)));
  } else {
    __asan_unpoison_memory_region(begin, size_t(end - begin));
  }
}
#endif

}  // namespace

bool Guarded::map(size_t user_bytes, size_t alignment, bool underrun) {
  const size_t page = page_bytes(), guard = guard_bytes();
  if (user_bytes > SIZE_MAX / 2) return false;
  const size_t body = user_bytes ? (user_bytes + page - 1) / page * page : page;
  void* memory = mmap(nullptr, body + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  mapping = static_cast<char*>(memory);
  mapped = body + 2 * guard;
  bytes = user_bytes;
  if (mprotect(mapping + guard, body, PROT_READ | PROT_WRITE)) {
    munmap(mapping, mapped);
    *this = Guarded{};
    return false;
  }
  const size_t rounded = (user_bytes + alignment - 1) / alignment * alignment;
  char* const begin = mapping + guard;
  data = begin + (underrun ? 0 : body - rounded);
  fill_margin(begin, data);
  fill_margin(data + bytes, begin + body);
#if defined(__SANITIZE_ADDRESS__)
  mark_margins(*this, true);
#endif
  poison();
  return true;
}

void Guarded::unmap() {
  if (!mapping) return;
#if defined(__SANITIZE_ADDRESS__)
  mark_margins(*this, false);
#endif
  munmap(mapping, mapped);
  *this = Guarded{};
}

void Guarded::retire() {
#if defined(__SANITIZE_ADDRESS__)
  mark_margins(*this, false);
#endif
  mmap(mapping, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

bool Guarded::on_pages(const void* p) const { return p >= mapping + guard_bytes() && p < mapping + mapped - guard_bytes(); }

void Guarded::allow(Access access) {
  const int protection = access == Access::both ? PROT_READ | PROT_WRITE : access == Access::read ? PROT_READ : PROT_NONE;
  mprotect(mapping + guard_bytes(), mapped - 2 * guard_bytes(), protection);
}

void Guarded::poison() { memset(data, 0xff, bytes); }

ptrdiff_t Guarded::trespass() const {
#if !defined(__SANITIZE_ADDRESS__)
  const char* const user_end = data + bytes;
  const ptrdiff_t before = data - (mapping + guard_bytes()), after = mapping + mapped - guard_bytes() - user_end;
  for (ptrdiff_t i = 0; i < after && i < watched_margin; i++) {
    if (user_end[i] != pattern(user_end + i)) return user_end + i - data;
  }
  for (ptrdiff_t i = 1; i <= before && i <= watched_margin; i++) {
    if (data[-i] != pattern(data - i)) return -i;
  }
#endif
  return 0;
}

}  // namespace fs::emulator
