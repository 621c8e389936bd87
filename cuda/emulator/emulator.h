/* The emulator's C interface: find a kernel by name, launch it on host threads, allocate guarded "device" memory.
 *
 * The stand-in libcuda.so.1 is built on it; tests of kernels use it directly. Launches run one at a time. A failed launch leaves memory
 * as it was at the failure. Strings stay valid until the next call that fails. */
#ifndef FEWSTEP_EMULATOR_H
#define FEWSTEP_EMULATOR_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FEWSTEP_EMU_API __attribute__((visibility("default")))

/* What can go wrong. The number is stable, fewstep_emu_error_name() gives the name without its prefix in small letters. */
typedef enum fewstep_emu_error {
  FEWSTEP_EMU_OK = 0,
  FEWSTEP_EMU_BAD_LAUNCH = 1,              /* impossible grid, block or shared memory size; nothing ran */
  FEWSTEP_EMU_ILLEGAL_ADDRESS = 2,         /* an access outside every allocation, caught by a guard page */
  FEWSTEP_EMU_OVERRUN = 3,                 /* a write just outside an allocation or shared array, found afterwards */
  FEWSTEP_EMU_MISALIGNED = 4,              /* a wide access, cp.async or ldmatrix at an address that is not a multiple of its size */
  FEWSTEP_EMU_WRONG_SPACE = 5,             /* cp.async or ldmatrix with an address that is not (or is) in shared memory */
  FEWSTEP_EMU_DIVERGENT_BARRIER = 6,       /* threads of one block wait at different barriers */
  FEWSTEP_EMU_EARLY_EXIT = 7,              /* a thread left the kernel while others wait for it at a barrier or collective */
  FEWSTEP_EMU_DEADLOCK = 8,                /* every thread waits; the message lists who waits where */
  FEWSTEP_EMU_MIXED_COLLECTIVE = 9,        /* lanes of a warp make different calls, or name different lanes */
  FEWSTEP_EMU_ABSENT_LANE = 10,            /* a lane outside its own mask, a shuffle from an absent lane, mma with a partial warp */
  FEWSTEP_EMU_UNSUPPORTED_INSTRUCTION = 11,/* an instruction that the emulated architecture lacks */
  FEWSTEP_EMU_SPINNING = 12,               /* a thread polls memory for what no other thread of its block will ever write */
  FEWSTEP_EMU_TRAP = 13,                   /* the kernel gave up: fs::trap() */
  FEWSTEP_EMU_EARLY_ACCESS = 14,           /* an overlapping launch touches memory before fs::grid_wait() that the one before may be using */
  FEWSTEP_EMU_NO_GRID_WAIT = 15            /* a thread of an overlapping launch ends without fs::grid_wait() */
} fewstep_emu_error;

/* When a cp.async takes place. Run both: lazy finds a missing wait, eager finds a buffer that is overwritten while still read. */
enum { FEWSTEP_EMU_COPIES_LAZY = 0, FEWSTEP_EMU_COPIES_EAGER = 1 };
/* Which end of an allocation meets the unmapped page. Run both: reads beyond the other end go unseen. */
enum { FEWSTEP_EMU_GUARD_OVERRUN = 0, FEWSTEP_EMU_GUARD_UNDERRUN = 1 };

typedef struct fewstep_emu_config {
  uint64_t seed;        /* 0: in order. Even: warps, lanes and blocks shuffled, each warp to its next barrier. Odd: any ready thread. */
  int32_t copies;       /* FEWSTEP_EMU_COPIES_* */
  int32_t guard;        /* FEWSTEP_EMU_GUARD_*, for allocations from now on */
  int32_t architecture; /* 75, 80, 86, 89, 90, 100, 120: what FEWSTEP_SM sees */
  int32_t threads;      /* host threads that take blocks; 0: one a processor */
} fewstep_emu_config;

/* Seed 0, lazy, overrun, 80, one thread a processor, unless changed. */
FEWSTEP_EMU_API fewstep_emu_config fewstep_emu_get_config(void);
FEWSTEP_EMU_API void fewstep_emu_set_config(const fewstep_emu_config* config);

typedef struct fewstep_emu_kernel fewstep_emu_kernel;

/* NULL if no kernel has that name. */
FEWSTEP_EMU_API const fewstep_emu_kernel* fewstep_emu_find(const char* name);
/* Kernels in the order of their names; NULL past the last. */
FEWSTEP_EMU_API const fewstep_emu_kernel* fewstep_emu_kernel_at(size_t index);
FEWSTEP_EMU_API const char* fewstep_emu_kernel_name(const fewstep_emu_kernel* kernel);
/* The bound that the kernel was declared with. */
FEWSTEP_EMU_API uint32_t fewstep_emu_kernel_max_threads(const fewstep_emu_kernel* kernel);
FEWSTEP_EMU_API size_t fewstep_emu_parameter_count(const fewstep_emu_kernel* kernel);
/* Bytes of a parameter; 0 past the last. */
FEWSTEP_EMU_API size_t fewstep_emu_parameter_size(const fewstep_emu_kernel* kernel, size_t index);

typedef struct fewstep_emu_shape {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared; /* bytes */
  uint32_t shared_limit;   /* bytes, static and dynamic together; 0: 48 KiB, what a GPU allows without being asked */
  int32_t overlaps;        /* not 0: the launch may begin before the one before it has ended; only with an architecture of 90 or more */
} fewstep_emu_shape;

/* Runs the kernel to its end. parameters[i] points to the i-th argument. Returns a fewstep_emu_error. */
FEWSTEP_EMU_API int32_t fewstep_emu_launch(const fewstep_emu_kernel* kernel, const fewstep_emu_shape* shape, void* const* parameters);

/* Memory filled with 0xff (NaN as half, bf16 and float), 16-byte aligned at its start. NULL if there is none. */
FEWSTEP_EMU_API void* fewstep_emu_allocate(size_t bytes);
/* Frees what fewstep_emu_allocate gave (NULL is fine). The addresses stay unmapped for a while, so that late use is caught.
 * FEWSTEP_EMU_OVERRUN if something wrote just outside, FEWSTEP_EMU_ILLEGAL_ADDRESS for an address that was not given. */
FEWSTEP_EMU_API int32_t fewstep_emu_free(void* address);
/* Bytes of the allocation that contains [address, address + bytes), counted from its start; 0 if there is none. */
FEWSTEP_EMU_API size_t fewstep_emu_allocation_size(const void* address, size_t bytes);

/* The sentence about the last failure, with kernel, block, thread and source line. Never NULL. */
FEWSTEP_EMU_API const char* fewstep_emu_last_error(void);
FEWSTEP_EMU_API const char* fewstep_emu_error_name(int32_t error);

#ifdef __cplusplus
}
#endif
#endif
