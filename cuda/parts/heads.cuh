// The shape of attention, and which part of it a block has.
#pragma once
#include "device/fewstep.cuh"

namespace {

// q, k, v, out and their gradients are [N, tokens, heads * width]. src/backend/cuda/attention.rs has the same structure, and
// refuses samples of 2^31 elements: places within a sample are int.
struct Heads {
  int tokens, heads, width;
  float scale;
};

// The tile of Rows tokens of one (sample, head) that a block has. Blocks count `parts`, then tiles, heads, samples: neighbours share keys and values in cache.
struct Place {
  int64_t start;  // the head's first element
  int64_t row;    // its first element of lse
  int pitch;      // elements from token to token
  int tiles;
  int tile, part;
};

template <int Rows>
FEWSTEP_DEVICE Place place_of(const fs::Block& own, const Heads& h, int parts) {
  Place p;
  p.tiles = (h.tokens + Rows - 1) / Rows;
  p.pitch = h.heads * h.width;
  int block = int(own.index.x);
  p.part = block % parts;
  block /= parts;
  p.tile = block % p.tiles;
  block /= p.tiles;
  p.start = int64_t(block / h.heads) * h.tokens * p.pitch + int64_t(block % h.heads) * h.width;
  p.row = int64_t(block) * h.tokens;
  return p;
}

// The maximum of no scores.
FEWSTEP_DEVICE float minus_infinity() { return fs::bit_cast<float>(0xff800000u); }

}  // namespace
