// Numbers that kernels and the Rust code around them must agree on. build/shared.rs makes of each namespace in here a Rust module, and of each
// `constexpr int kSomeName = 1;  // what it is` a constant: src/backend/cuda/shared.rs has them as shared::some_op::SOME_NAME. It understands nothing else.
#pragma once

namespace shared {

namespace head_product {
constexpr int kThreads = 256;  // a block, an element of its tile each
constexpr int kTile = 16;  // rows and columns of a tile, and the depth that is taken at a time
}  // namespace head_product

namespace run {
constexpr int kBytes = 16;  // what a thread moves at once where addresses and counts allow
}  // namespace run

namespace attention {
constexpr int kThreads = 128;  // a block, with and without tensor cores
constexpr int kTile = 32;  // tokens of a block without tensor cores
constexpr int kTallQueries = 64;  // queries of a block on tensor cores
constexpr int kSplitQueries = 16;  // the same where the warps of a block split the keys
constexpr int kSplitChannels = 64;  // channels of the output of such a block
}  // namespace attention

namespace combine {
constexpr int kThreads = 256;  // a block
constexpr int kMostValues = 8;  // values that one launch takes
}  // namespace combine

namespace conv {
constexpr int kThreads = 256;  // a block of the kernels that take an element a thread
constexpr int kTensorThreads = 128;  // a block of the products on tensor cores
constexpr int kDepth = 16;  // steps of the summed index that a block takes at a time, on ordinary cores
constexpr int kTensorDepth = 32;  // the same on tensor cores
constexpr int kTallRows = 128;  // rows of the largest tiles, on tensor cores
constexpr int kMostTaps = 15;  // in a direction: 32 bits are a bit for each row and column of taps, and one behind each
constexpr int kNormChannels = 512;  // the most that a convolution normalises: 4 KiB of shared memory for their scales and shifts
}  // namespace conv

namespace elementwise {
constexpr int kThreads = 256;  // a block
constexpr int kSilu = 0;  // the functions
constexpr int kGelu = 1;
constexpr int kMish = 2;
constexpr int kRelu = 3;
constexpr int kAbs = 4;
constexpr int kSquare = 5;
constexpr int kHuber = 6;
constexpr int kClamp = 7;
constexpr int kRsqrt = 8;
constexpr int kAdd = 0;  // the arithmetic of two operands
constexpr int kSub = 1;
constexpr int kMul = 2;
}  // namespace elementwise

namespace gather {
constexpr int kThreads = 256;  // a block
}  // namespace gather

namespace group_norm {
constexpr int kThreads = 256;  // a block
constexpr int kGroups = 32;  // the most groups of a slab
constexpr int kRaggedRun = 4;  // elements of a run that is not whole
constexpr int kKept = 8;  // rows of a slab that a thread keeps, 32 KiB a block: a slab that fits is read once
constexpr int kMomentChannels = 512;  // channels of a slab whose channels have their moments: their scales and shifts are in shared memory
constexpr int kMomentBlocks = 3;  // blocks of such slabs that a multiprocessor has registers for
constexpr int kSumChannels = 128;  // channels of a slab of the gradients' sums: whole lines, one column a thread
constexpr int kParameterChannels = 32;  // channels of a block of the parameters' gradients
}  // namespace group_norm

namespace optimizer {
constexpr int kThreads = 256;  // a block
}  // namespace optimizer

namespace random {
constexpr int kThreads = 256;  // a block
}  // namespace random

namespace reduce {
constexpr int kThreads = 256;  // a block
constexpr int kColumns = 32;  // neighbouring columns of a block, so that a warp reads whole lines
}  // namespace reduce

namespace resample {
constexpr int kThreads = 256;  // a block
}  // namespace resample

namespace shape {
constexpr int kThreads = 256;  // a block
constexpr int kUnits = 2;  // that a thread moves
constexpr int kMostParts = 8;  // that one concatenation joins
}  // namespace shape

namespace timestep_embedding {
constexpr int kThreads = 128;  // a block
}  // namespace timestep_embedding

namespace transpose {
constexpr int kThreads = 256;  // a block
constexpr int kTile = 32;  // rows and columns of a block's tile
}  // namespace transpose

}  // namespace shared
