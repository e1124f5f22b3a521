// AMX: 32 x 32 register tile of float32, 2 x 2 accumulators, fed by bfloat16.
//
//                                 tmm4: B, columns 0..15   tmm5: B, columns 16..31
//                                 (16 pairs of k, [16][2] each)
//   tmm6: A, rows  0..15, 32 k    tmm0                     tmm1                       C, rows  0..15
//   tmm7: A, rows 16..31, 32 k    tmm2                     tmm3                       C, rows 16..31
//
// Every register tile is 16 rows of 64 bytes. A step of 32 k loads four tiles and multiplies four times (16 cycles
// each). B, a panel of 32 columns, is read by all tiles of a block in turn and stays in L1; A streams from L2 past it.
// Rows come in sixteens: those past the end of an A operand are computed from whatever lies there and never read, since
// rows do not mix.
//
// Operands of two planes (planes_body.h) take three products, hi hi + lo hi + hi lo, which drops less than 2^-18 of
// each, or four, which drop nothing.
#include "cpu/kernels.h"
#include "cpu/lanes_avx512.h"

namespace c2f {
namespace {

constexpr int kMr = 32;

#include "cpu/products_body.h"
// Last: uses kNr of products_body.h.
#include "cpu/planes_body.h"

// ---- registers ----------------------------------------------------------------------------------

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTileConfig;

// The tile intrinsics of GCC 12 do not say that they read memory.
inline void compiler_barrier() { __asm__ volatile("" ::: "memory"); }

void enter() { _tile_loadconfig(&kTileConfig); }

// Idle tile registers would be saved at every context switch; streamed rows are there before others are told.
void leave() {
  _tile_release();
  _mm_sfence();
}

// ---- GEMM tile ----------------------------------------------------------------------------------

// kRowTiles: 1 for up to 16 rows, else 2.
template <int kRowTiles>
inline __attribute__((always_inline)) void multiply(const char* a, int64_t a_row, const char* b, int64_t b_row) {
  _tile_loadd(4, b, b_row);
  _tile_stream_loadd(6, a, a_row);
  _tile_dpbf16ps(0, 6, 4);
  _tile_loadd(5, b + 64, b_row);
  _tile_dpbf16ps(1, 6, 5);
  if constexpr (kRowTiles == 2) {
    _tile_stream_loadd(7, a + 16 * a_row, a_row);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
}

template <int kPlanes, int kProducts, int kRowTiles>
void gemm_tile(int64_t K, const void* rows, int64_t a_block, const void* panel, const float* init, float* c,
               const void* ahead) {
  constexpr int64_t kRow = kNr * sizeof(float), kARow = kPlanes * 64, kBRow = kPlanes * 128;
  const char *a = static_cast<const char*>(rows), *b = static_cast<const char*>(panel);
  const char* fetch = static_cast<const char*>(ahead);
  const float* from = init == nullptr ? c : init;
  const int64_t from_row = init == nullptr ? kRow : 0, next_half = init == nullptr ? 16 * kNr : 0;
  compiler_barrier();
  _tile_loadd(0, from, from_row);
  _tile_loadd(1, from + 16, from_row);
  if constexpr (kRowTiles == 2) {
    _tile_loadd(2, from + next_half, from_row);
    _tile_loadd(3, from + next_half + 16, from_row);
  }
  for (int64_t k = 0; k < K; k += kStep) {
    multiply<kRowTiles>(a, kARow, b, kBRow);
    if constexpr (kPlanes == 2) {
      multiply<kRowTiles>(a + 64, kARow, b, kBRow);
      multiply<kRowTiles>(a, kARow, b + 128, kBRow);
    }
    if constexpr (kProducts == 4) multiply<kRowTiles>(a + 64, kARow, b + 128, kBRow);
    if (fetch != nullptr) {
      for (int64_t i = 0; i < kAheadBytes; i += 64) _mm_prefetch(fetch + i, _MM_HINT_T1);
      fetch += kAheadBytes;
    }
    a += a_block * kPlanes * 2;
    b += kStep * kNr * kPlanes * 2;
  }
  _tile_stored(0, c, kRow);
  _tile_stored(1, c + 16, kRow);
  if constexpr (kRowTiles == 2) {
    _tile_stored(2, c + 16 * kNr, kRow);
    _tile_stored(3, c + 16 * kNr + 16, kRow);
  }
}

template <int kProducts>
double peak(int64_t rounds, float* operands) {
  enter();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands + 16 * 16, 64);
  _tile_loadd(6, operands, 64);
  _tile_loadd(7, operands + 16 * 16, 64);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 6, 5);
    _tile_dpbf16ps(2, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
  _tile_stored(0, operands, 64);
  leave();
  return 2.0 * kMr * kNr * kStep * static_cast<double>(rounds) / kProducts;
}

// ---- table --------------------------------------------------------------------------------------

template <int kPlanes, int kProducts>
constexpr Kernels make_kernels(const char* isa) {
  Kernels kernels = plane_kernels<kPlanes>(isa);
  kernels.row_step = 16;
  kernels.block_k = 512 / kPlanes;  // a panel of it fills two thirds of L1
  kernels.enter = enter;
  kernels.leave = leave;
  for (int i = 0; i < kMr; ++i) {
    kernels.gemm_rows[i] = i < 16 ? gemm_tile<kPlanes, kProducts, 1> : gemm_tile<kPlanes, kProducts, 2>;
  }
  kernels.peak = peak<kProducts>;
  if constexpr (kProducts < 4) add_storage_type<kPlanes, float>(DType::kFloat32, &kernels);
  if constexpr (kProducts == 1) add_storage_type<kPlanes, BFloat16>(DType::kBFloat16, &kernels);
  if constexpr (kProducts == 4) add_storage_type<kPlanes, Float16>(DType::kFloat16, &kernels);
  return kernels;
}

}  // namespace

const Kernels kKernelsAmx = make_kernels<1, 1>("amx");
const Kernels kKernelsAmxSplit = make_kernels<2, 3>("amx split");
const Kernels kKernelsAmxExact = make_kernels<2, 4>("amx exact");

}  // namespace c2f
