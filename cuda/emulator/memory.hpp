// The emulated device's global memory.
#pragma once
#include <string>

namespace fs::emulator {

/// Where an address lies: "12 bytes past the end of a 4096-byte allocation", "in a freed allocation", ...
std::string describe_address(const void* address);
/// A sentence about the first allocation with a byte written just outside it; empty if there is none.
std::string find_overrun();

// ---- overlapping launches. A chain is a launch that waits for all before it, and the overlapping ones behind it. What a launch of the chain has written is
// nobody's to touch until it has ended, and nothing is to be written. Known by whole allocations: all are read-only while a launch runs until it first
// writes to them, which faults. Sanitizers, which want faults for themselves, see nothing of this.

#if defined(__SANITIZE_ADDRESS__) || defined(FEWSTEP_EMU_TSAN)
constexpr bool watches_writes = false;
#else
constexpr bool watches_writes = true;
#endif
/// A launch begins, of the chain of the one before or of a new one.
void begin_launch(bool same_chain);
/// It ends: the host may do what it likes.
void end_launch();
/// A block begins that has not waited.
void close_memory();
/// It has waited.
void open_memory();
/// Makes the allocation writable if the address is in one that the launch may write to and has not before.
bool first_write(const void* address);
/// Is it within an allocation?
bool is_allocated(const void* address);

}  // namespace fs::emulator
