#include "log.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "state.hpp"

namespace fs::driver {

void write_log(const std::string& line) {
  static FILE* const file = [] {
    const char* path = getenv("FEWSTEP_EMU_LOG");
    return path && *path ? fopen(path, "a") : nullptr;
  }();
  if (!file) return;
  fprintf(file, "%s\n", line.c_str());
  fflush(file);
}

}  // namespace fs::driver

using namespace fs::driver;

uint64_t fewstep_emu_log_count(const char* name) {
  Driver& driver = Driver::instance();
  std::lock_guard lock(driver.mutex);
#define FEWSTEP_EMU_COUNTER(counter) \
  if (!strcmp(name, #counter)) return driver.counters.counter;
  FEWSTEP_EMU_COUNTERS(FEWSTEP_EMU_COUNTER)
#undef FEWSTEP_EMU_COUNTER
  return UINT64_MAX;
}

void fewstep_emu_log_reset(void) {
  Driver& driver = Driver::instance();
  std::lock_guard lock(driver.mutex);
  const uint64_t live = driver.counters.bytes_live;
  driver.counters = {};
  driver.counters.bytes_live = driver.counters.bytes_peak = live;
}
