// The emulated device's global memory.
#pragma once
#include <string>

namespace fs::emulator {

/// Where an address lies: "12 bytes past the end of a 4096-byte allocation", "in a freed allocation", ...
std::string describe_address(const void* address);
/// A sentence about the first allocation with a byte written just outside it; empty if there is none.
std::string find_overrun();

}  // namespace fs::emulator
