// How a kernel is declared, what it may ask about itself, and which of the two worlds this compilation is in.
//
// FEWSTEP_KERNEL(bound, name, parameters...) { body }   a kernel with at most `bound` threads a block, found by its plain name
// FEWSTEP_KERNEL_RESIDENT(bound, blocks, name, ...)     the same, with registers for at least `blocks` blocks a multiprocessor. Unasked, ptxas picks a
//                                                       number of its own and may spill a few registers to reach it
// FEWSTEP_DEVICE                                        a function of kernels: inlined, private to its file
// FEWSTEP_SHARED(T, name, N);                           T name[N] shared by the block, 16-byte aligned, not initialised
// FEWSTEP_DYNAMIC_SHARED(name);                         unsigned char name[], the launch's dynamic shared memory, 128-byte aligned
// FEWSTEP_SM(n)                                         does this code run for compute capability n/10 or later? To be used in
//                                                       `if`, never in `#if`: constant under nvcc, a setting under the emulator
// FEWSTEP_UNROLL                                        before a loop over fragments: registers cannot be indexed at run time
//
// FEWSTEP_SITE and its kin carry the caller's file, line and column to the emulator, which names them in its errors; under nvcc
// they are empty. In a parameter list: FEWSTEP_SITE alone, FEWSTEP_AND_SITE after others. In a call: FEWSTEP_HERE, FEWSTEP_AND_HERE.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__

#define FEWSTEP_KERNEL(bound, name, ...) extern "C" __global__ void __launch_bounds__(bound) name(__VA_ARGS__)
#define FEWSTEP_KERNEL_RESIDENT(bound, blocks, name, ...) extern "C" __global__ void __launch_bounds__(bound, blocks) name(__VA_ARGS__)
#define FEWSTEP_DEVICE static __device__ __forceinline__
#define FEWSTEP_SHARED(T, name, N) __shared__ __align__(16) T name[N]
#define FEWSTEP_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define FEWSTEP_UNROLL _Pragma("unroll")
#define FEWSTEP_SITE
#define FEWSTEP_AND_SITE
#define FEWSTEP_HERE
#define FEWSTEP_AND_HERE
#ifdef __CUDA_ARCH__
#define FEWSTEP_SM(n) (__CUDA_ARCH__ >= (n) * 10)
#else  // nvcc's host pass compiles kernel bodies only to forget them
#define FEWSTEP_SM(n) false
#endif

namespace fs {
/// Three coordinates, x fastest.
struct Index {
  uint32_t x, y, z;
};
}  // namespace fs
#include "ptx.cuh"

#else
#include "../emulator/kernel.hpp"
#include "../emulator/ptx.hpp"
#endif

namespace fs {

/// This thread within its block.
FEWSTEP_DEVICE Index thread_index() { return ptx::thread_index(); }
/// Threads a block.
FEWSTEP_DEVICE Index block_size() { return ptx::block_size(); }

/// Whose part of the work a function does: a block and the grid that it is one of. Kernels ask for theirs and hand it down; functions never ask, so that
/// a kernel with several launches' work in it can give each its own.
struct Block {
  Index index, grid;  // this block within the grid; blocks in the grid
};
/// The block that runs. Kernels alone may ask, mostly by begin() (grid.cuh): in the body of a FEWSTEP_KERNEL, never in a FEWSTEP_DEVICE function
/// (tests/abi/kernel_build.rs looks).
FEWSTEP_DEVICE Block this_block() { return {ptx::block_index(), ptx::grid_size()}; }
/// This thread's number in a grid of one dimension whose blocks have `threads` threads.
FEWSTEP_DEVICE int64_t thread_in_grid(const Block& block, uint32_t threads) { return int64_t(block.index.x) * threads + ptx::thread_index().x; }

/// This thread's place in its warp, 0 to 31. One-dimensional blocks only.
FEWSTEP_DEVICE uint32_t lane() { return ptx::thread_index().x & 31; }
/// This thread's warp in its block. One-dimensional blocks only.
FEWSTEP_DEVICE uint32_t warp() { return ptx::thread_index().x >> 5; }

/// x, computed here and kept in a register. Without it a GPU compiler that is short of registers computes again in every turn of a loop what follows from
/// the thread's index: in the convolutions' loop that was more than the multiplications.
FEWSTEP_DEVICE int keep(int x) { return ptx::keep(x); }

}  // namespace fs
