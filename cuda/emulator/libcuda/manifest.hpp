// What the library's real GPU code contains, as its build wrote it down: the stand-in admits nothing else.
//
// A text file, named by FEWSTEP_EMU_MANIFEST. `#` begins a comment. A line says that one image holds one kernel for one architecture:
//
//   <module> <kernel> <architecture> <bytes of each parameter>... <registers> <static shared bytes>
//
// module: the image's number, counted by the build. architecture: 75, 80, 86 ... for machine code, which runs on the same major
// version from that minor version on, but 90a on 9.0 alone; ptx80 for portable code, which runs on everything from 8.0 on. registers: a thread's (0 if
// unknown, as for ptx).
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace fs::driver {

struct ManifestEntry {
  int module;
  std::string kernel;
  int architecture;
  bool portable;
  bool alone;  // for this architecture and no other
  std::vector<size_t> parameter_sizes;
  int registers;
  uint32_t static_shared;

  bool runs_on(int device_architecture) const;
};

class Manifest {
 public:
  /// Reads the file that the environment names; without one, every kernel is admitted. False with a message if it cannot be read.
  bool load(std::string* problem);
  bool present() const { return present_; }
  /// Does anything in it run on this architecture?
  bool supports(int architecture) const;
  /// The best entry for a kernel: machine code before portable, the newest first. `module` < 0: of any module. Null if there is none;
  /// then `exists` tells whether there is one for another architecture.
  const ManifestEntry* find(int module, const std::string& kernel, int architecture, bool* exists) const;

 private:
  bool present_ = false;
  std::vector<ManifestEntry> entries_;
};

}  // namespace fs::driver
