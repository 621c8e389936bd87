// Every arithmetic and memory wrapper that the other test kernels do not use.
#include "fewstep.cuh"

constexpr int results = 24;

// a, b, c [32]; out [32][24]
FEWSTEP_KERNEL(32, test_math, const float* a, const float* b, const float* c, float* out) {
  const uint32_t lane = fs::lane();
  const float x = a[lane], y = b[lane], z = c[lane];
  float* own = out + lane * results;
  own[0] = fs::add_rn(x, y);
  own[1] = fs::sub_rn(x, y);
  own[2] = fs::mul_rn(x, y);
  own[3] = fs::div_rn(x, y);
  own[4] = fs::sqrt_rn(y);
  own[5] = fs::fma(x, y, z);
  own[6] = fs::exp(x);
  own[7] = fs::log(y);
  own[8] = fs::tanh(x);
  own[9] = fs::erf(x);
  own[10] = fs::sin(x);
  own[11] = fs::cos(x);
  own[12] = fs::rsqrt(y);
  own[13] = fs::fast_exp(x);
  own[14] = fs::fast_log(y);
  own[15] = fs::fast_div(x, y);
  own[16] = fs::fast_tanh(x);
  own[17] = fs::min(x, y);
  own[18] = fs::max(x, y);
  own[19] = fs::unpack_low<fs::half>(fs::pack<fs::half>(x, y));
  own[20] = fs::unpack_high<fs::bf16>(fs::pack<fs::bf16>(x, y));
  own[21] = fs::load_l2(a + lane);
  own[22] = fs::shuffle_xor(fs::shuffle_down(fs::shuffle_up(x, 32), 32), 0);
  own[23] = fs::add_rn(fs::mul_rn(x, y), z);  // must not be contracted
}

// a, b [32]; out [32][8]; total [2] starts at 0
FEWSTEP_KERNEL(32, test_integers, const uint32_t* a, const uint32_t* b, uint32_t* out, uint32_t* total) {
  const uint32_t lane = fs::lane(), x = a[lane], y = b[lane];
  uint32_t* own = out + lane * 8;
  own[0] = fs::mul_hi(x, y);
  own[1] = uint32_t(fs::dot4(x, y, -5));
  own[2] = fs::min(x, y);
  own[3] = fs::max(x, y);
  own[4] = uint32_t(fs::min(int(x), int(y)));
  own[5] = uint32_t(fs::max(int(x), int(y)));
  own[6] = fs::pack_s8(int(lane), -int(lane), 127, -128);
  own[7] = fs::ballot(x > y, 0xffffffffu);
  if (lane % 2) fs::atomic_add(total, x & 0xff);
  if (lane % 2 == 0) fs::atomic_add_ordered(total, x & 0xff);
  fs::atomic_max(total + 1, x & 0xff);
}

// 16 bytes a lane from `from` to `to`, in all three widths
FEWSTEP_KERNEL(32, test_vectors, const uint32_t* from, uint32_t* to) {
  const uint32_t* source = from + fs::lane() * 4;
  uint32_t* target = to + fs::lane() * 12;
  fs::store_16(target, fs::load_16(source));
  fs::store_8(target + 4, fs::load_8(source));
  fs::store_8(target + 6, fs::load_8(source + 2));
  for (int i = 0; i < 4; i++) fs::store_4(target + 8 + i, fs::load_4(source + i));
}

// out [blocks][6]: where every last thread finds itself in a grid and a block of three dimensions
FEWSTEP_KERNEL(64, test_indices, uint32_t* out) {
  const fs::Index t = fs::thread_index(), b = fs::this_block().index, n = fs::block_size(), g = fs::this_block().grid;
  if (t.x + 1 != n.x || t.y + 1 != n.y || t.z + 1 != n.z) return;
  uint32_t* own = out + (b.x + g.x * (b.y + g.y * b.z)) * 6;
  own[0] = t.x;
  own[1] = t.y;
  own[2] = t.z;
  own[3] = b.x;
  own[4] = b.y;
  own[5] = b.z;
}
