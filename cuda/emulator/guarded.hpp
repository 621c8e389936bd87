// Memory that ends, or begins, at unmapped pages, with patterns in the bytes between.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace fs::emulator {

/// One run of bytes between two runs of unmapped pages. `bytes` are the user's; what is left of their pages is filled with a pattern.
struct Guarded {
  char* mapping = nullptr;  ///< begins with the lower unmapped pages
  size_t mapped = 0;        ///< with all unmapped pages
  char* data = nullptr;
  size_t bytes = 0;

  /// Maps `bytes` so that their end (or, if `underrun`, their start) meets the unmapped pages, as closely as `alignment` (a power of
  /// two, at most a page) allows. False if there is no memory.
  bool map(size_t user_bytes, size_t alignment, bool underrun);
  void unmap();
  /// Makes every access fault, and gives the memory back; the addresses stay taken.
  void retire();
  /// What may be done with the user's bytes: both, reading, or nothing.
  enum class Access { both, read, none };
  void allow(Access access);
  /// Fills the user's bytes with 0xff: NaN in every floating-point format.
  void poison();
  /// The distance from `data` of a byte close outside the user's that was written; 0 if none was.
  ptrdiff_t trespass() const;
  bool contains(const void* p, size_t n) const {
    const auto address = reinterpret_cast<uintptr_t>(p), begin = reinterpret_cast<uintptr_t>(data);
    return address >= begin && address - begin <= bytes && n <= bytes - (address - begin);
  }
  /// Is the address in the pages that hold the user's bytes?
  bool on_pages(const void* p) const;
  /// Is the address in the mapping or its unmapped pages?
  bool near(const void* p) const { return p >= mapping && p < mapping + mapped; }
};

}  // namespace fs::emulator
