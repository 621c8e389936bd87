// What the host asked the driver for, counted, and written to a file if FEWSTEP_EMU_LOG names one.
#pragma once
#include <stdint.h>

#include <string>

namespace fs::driver {

#define FEWSTEP_EMU_COUNTERS(X)                                                                                                         \
  X(calls) X(launches) X(overlapping_launches) X(kernels_run) X(copies_host_to_device) X(copies_device_to_host) X(copies_device_to_device) X(bytes_copied)     \
  X(memsets) X(allocations) X(frees) X(bytes_live) X(bytes_peak) X(host_allocations) X(graphs_captured) X(graph_launches)             \
  X(synchronisations) X(module_loads) X(errors) X(leaks)

/// Guarded by the driver's lock.
struct Counters {
#define FEWSTEP_EMU_COUNTER(name) uint64_t name = 0;
  FEWSTEP_EMU_COUNTERS(FEWSTEP_EMU_COUNTER)
#undef FEWSTEP_EMU_COUNTER
};

/// One line in the log file, if there is one.
void write_log(const std::string& line);

}  // namespace fs::driver
