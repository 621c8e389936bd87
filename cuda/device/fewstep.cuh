// Everything through which a kernel sees the hardware. A kernel file includes this header, uses the FEWSTEP_ macros and
// namespace fs, and nothing else: then nvcc makes GPU code of it and g++ makes a program that runs under cuda/emulator.
//
//   FEWSTEP_KERNEL(256, fewstep_scale, const float* x, float* y, float factor, int n) {
//     const int64_t i = fs::thread_in_grid(fs::begin(), 256);
//     if (i < n) y[i] = x[i] * factor;
//   }
//
// Rules that the compiler cannot check:
// - A kernel begins with fs::begin(), which says which block it is; functions are told (const fs::Block&). Before it no memory is read (grid.cuh).
// - No CUDA names (threadIdx, __shared__, __half, __expf ...), no #ifdef of a compiler or an architecture.
// - Functions of a .cu file are FEWSTEP_DEVICE and its types stand in an anonymous namespace: the emulator links all .cu files
//   into one library, where two inline functions or types of one name would be merged.
// - Blocks are one-dimensional and a multiple of 32 threads wherever fs::lane(), fs::warp() or a fragment is used.
#pragma once
#include "async_copy.cuh"
#include "block.cuh"
#include "grid.cuh"
#include "kernel.cuh"
#include "math.cuh"
#include "mma.cuh"
#include "number.cuh"
#include "vector.cuh"
#include "warp.cuh"
