/* What the stand-in libcuda.so.1 exports besides the driver API; a test finds these with dlsym. emulator.h's functions are there too. */
#ifndef FEWSTEP_EMULATED_DRIVER_H
#define FEWSTEP_EMULATED_DRIVER_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How often something happened since the start or the last reset; UINT64_MAX for an unknown name. Names:
 *   calls launches overlapping_launches kernels_run copies_host_to_device copies_device_to_host copies_device_to_device bytes_copied memsets
 *   allocations frees bytes_live bytes_peak host_allocations graphs_captured graph_launches synchronisations module_loads
 *   errors (calls that failed) leaks (allocations alive when their context ended)
 * Work counts when it is asked for, also while captured, except kernels_run, which counts executions. */
__attribute__((visibility("default"))) uint64_t fewstep_emu_log_count(const char* name);
/* Sets all counts but bytes_live to 0, bytes_peak to bytes_live. */
__attribute__((visibility("default"))) void fewstep_emu_log_reset(void);

/* Forgets everything, as a new process would: contexts, memory, errors; reads the environment and the manifest anew. No other thread
 * may be in a call, and no handle from before may be used. */
__attribute__((visibility("default"))) void fewstep_emu_reset(void);

/* How many multiprocessors devices say they have from now on (8 at the start): a backend chooses its launches by that. Returns how many they said before. */
__attribute__((visibility("default"))) int fewstep_emu_set_multiprocessors(int count);

#ifdef __cplusplus
}
#endif
#endif
