// One instruction a kernel: registers in, registers out, as the lanes hold them.
#include "fewstep.cuh"

namespace {
template <int N>
FEWSTEP_DEVICE void read(uint32_t (&registers)[N], const uint32_t* from) {
  for (int i = 0; i < N; i++) registers[i] = from[fs::lane() * N + i];
}
}  // namespace

// a [32][4], b [32][2], d [32][4]: lane, register
FEWSTEP_KERNEL(32, test_mma_f16, const uint32_t* a, const uint32_t* b, float* d) {
  uint32_t ra[4], rb[2];
  read(ra, a);
  read(rb, b);
  fs::mma_f16(*reinterpret_cast<float(*)[4]>(d + fs::lane() * 4), ra, rb);
}
FEWSTEP_KERNEL(32, test_mma_bf16, const uint32_t* a, const uint32_t* b, float* d) {
  uint32_t ra[4], rb[2];
  read(ra, a);
  read(rb, b);
  fs::mma_bf16(*reinterpret_cast<float(*)[4]>(d + fs::lane() * 4), ra, rb);
}
FEWSTEP_KERNEL(32, test_mma_s8, const uint32_t* a, const uint32_t* b, int* d) {
  uint32_t ra[4], rb[2];
  read(ra, a);
  read(rb, b);
  fs::mma_s8(*reinterpret_cast<int(*)[4]>(d + fs::lane() * 4), ra, rb);
}

// matrices [4][8 rows][8], out [32][N]
namespace {
template <int N, bool Transposed>
FEWSTEP_DEVICE void load_matrix(const uint16_t* matrices, uint32_t* out) {
  FEWSTEP_SHARED(uint16_t, shared, 256);
  fs::store_16(shared + fs::lane() * 8, fs::load_16(matrices + fs::lane() * 8));
  fs::sync_warp();
  uint32_t registers[N];
  const void* row = fs::lane() < 8 * N ? shared + fs::lane() * 8 : nullptr;  // other lanes' addresses must not matter
  if constexpr (Transposed) {
    fs::load_matrix_transposed(registers, row);
  } else {
    fs::load_matrix(registers, row);
  }
  for (int i = 0; i < N; i++) out[fs::lane() * N + i] = registers[i];
}
}  // namespace
FEWSTEP_KERNEL(32, test_ldmatrix_x1, const uint16_t* m, uint32_t* out) { load_matrix<1, false>(m, out); }
FEWSTEP_KERNEL(32, test_ldmatrix_x2, const uint16_t* m, uint32_t* out) { load_matrix<2, false>(m, out); }
FEWSTEP_KERNEL(32, test_ldmatrix_x4, const uint16_t* m, uint32_t* out) { load_matrix<4, false>(m, out); }
FEWSTEP_KERNEL(32, test_ldmatrix_x1_trans, const uint16_t* m, uint32_t* out) { load_matrix<1, true>(m, out); }
FEWSTEP_KERNEL(32, test_ldmatrix_x2_trans, const uint16_t* m, uint32_t* out) { load_matrix<2, true>(m, out); }
FEWSTEP_KERNEL(32, test_ldmatrix_x4_trans, const uint16_t* m, uint32_t* out) { load_matrix<4, true>(m, out); }

// out [32][8]: what each lane got
FEWSTEP_KERNEL(32, test_lanes, uint32_t* out) {
  const uint32_t lane = fs::lane(), value = 100 + lane;
  uint32_t* own = out + lane * 8;
  own[0] = fs::shuffle(value, lane * 7 + 3);
  own[1] = fs::shuffle_xor(value, 5);
  own[2] = fs::shuffle_up(value, 3);
  own[3] = fs::shuffle_down(value, 6);
  own[4] = fs::ballot(lane % 3 == 1);
  own[5] = uint32_t(fs::warp_sum(int(value)));
  own[6] = 0;
  if (lane % 2) own[6] = fs::ballot(lane > 20, 0xaaaaaaaau);
  own[7] = fs::bit_cast<uint32_t>(fs::shuffle(float(lane) * 0.5f, 31 - lane));
}

// bytes [17] sizes 0 to 16: rows of 16 bytes copied in part
FEWSTEP_KERNEL(32, test_copy_sizes, const uint8_t* rows, uint8_t* out) {
  FEWSTEP_DYNAMIC_SHARED(shared);
  const uint32_t lane = fs::lane();
  if (lane < 17) fs::copy_async_16(shared + lane * 16, rows + lane * 16, lane);
  fs::copy_async_commit();
  fs::copy_async_wait<0>();
  if (lane < 17) fs::store_16(out + lane * 16, fs::load_16(shared + lane * 16));
}

// x [n] to out: every number function of one value
FEWSTEP_KERNEL(32, test_numbers, const float* x, uint32_t* out) {
  const float v = x[fs::lane()];
  uint32_t* own = out + fs::lane() * 4;
  own[0] = fs::from_float<fs::half>(v).bits;
  own[1] = fs::from_float<fs::bf16>(v).bits;
  own[2] = fs::pack<fs::half>(v, -v);
  own[3] = uint32_t(fs::to_int_rn(v));
}
