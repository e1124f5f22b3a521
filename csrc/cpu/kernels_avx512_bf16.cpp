// AVX512_BF16: 14 x 32 register tile of float32, 28 accumulators, fed by pairs of bfloat16: 2 registers of B, 2 of A.
//
//                                B, columns 0..15    B, columns 16..31      (a pair of k, [16][2] each)
//   A, row 0: a pair, broadcast  C                   C
//   ...
//   A, row 13                    C                   C
//
// An instruction adds both products of a pair to a sum: twice the multiply-adds of one on float32, at the same rate
// where the processor has full-width units for it (AMD's from Zen 4 on).
#include <utility>

#include "cpu/kernels.h"
#include "cpu/lanes_avx512.h"

namespace c2f {
namespace {

constexpr int kMr = 14;

#include "cpu/products_body.h"
// Last: uses kNr of products_body.h.
#include "cpu/planes_body.h"

// ---- GEMM tile ----------------------------------------------------------------------------------

inline __m512 multiply(__m512 sum, Words a, Words b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline Words load_pairs(const BFloat16* x) { return _mm512_loadu_si512(x); }

inline Words broadcast_pair(const BFloat16* x) {
  int pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return _mm512_set1_epi32(pair);
}

template <int kRows>
void gemm_tile(int64_t K, const void* rows, int64_t a_block, const void* panel, const float* init, float* c,
               const void* ahead) {
  const BFloat16 *a = static_cast<const BFloat16*>(rows), *b = static_cast<const BFloat16*>(panel);
  for (int i = 0; i < kRows * kNr; i += kLanes) __builtin_prefetch(c + i, 1);
  __m512 sum[kRows][2] = {};
  const char* fetch = static_cast<const char*>(ahead);
  for (; K > 0; K -= kStep, a += a_block) {
    for (int64_t i = 0; fetch != nullptr && i < kAheadBytes; i += 64) __builtin_prefetch(fetch + i, 0, 2);
    fetch = fetch == nullptr ? nullptr : fetch + kAheadBytes;
    const int64_t pairs = K < kStep ? (K + 1) / 2 : kPairs;
    for (int64_t k = 0; k < pairs; ++k, b += 2 * kNr) {
      const Words b0 = load_pairs(b), b1 = load_pairs(b + kNr);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Words x = broadcast_pair(a + i * kStep + 2 * k);
        sum[i][0] = multiply(sum[i][0], x, b0);
        sum[i][1] = multiply(sum[i][1], x, b1);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const float* from = init == nullptr ? c + i * kNr : init;
    store(load(from) + (Vec)sum[i][0], c + i * kNr);
    store(load(from + kLanes) + (Vec)sum[i][1], c + i * kNr + kLanes);
  }
}

double peak(int64_t rounds, float* operands) {
  const auto* pairs = reinterpret_cast<const BFloat16*>(operands);
  const Words x = load_pairs(pairs), y = load_pairs(pairs + kNr);
  __m512 sum[kMr][2];
  for (int i = 0; i < 2 * kMr; ++i) sum[i / 2][i % 2] = (__m512)load(operands + i * kLanes);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      sum[i][0] = multiply(sum[i][0], x, y);
      sum[i][1] = multiply(sum[i][1], x, y);
    }
  }
  for (int i = 1; i < kMr; ++i) sum[0][0] += sum[i][0] + sum[i][1];
  store((Vec)sum[0][0], operands);
  return 8.0 * kMr * kLanes * static_cast<double>(rounds);
}

// ---- table --------------------------------------------------------------------------------------

// Streamed rows are there before others are told.
void leave() { _mm_sfence(); }

template <int... kIndex>
constexpr Kernels make_kernels(std::integer_sequence<int, kIndex...>) {
  Kernels kernels = plane_kernels<1>("avx512_bf16");
  kernels.row_step = 1;
  kernels.block_k = 512;  // a panel of it fills L1; shorter ones would update C more often
  kernels.leave = leave;
  ((kernels.gemm_rows[kIndex] = gemm_tile<kIndex + 1>), ...);
  kernels.peak = peak;
  add_storage_type<1, float>(DType::kFloat32, &kernels);
  add_storage_type<1, BFloat16>(DType::kBFloat16, &kernels);
  return kernels;
}

}  // namespace

const Kernels kKernelsAvx512Bf16 = make_kernels(std::make_integer_sequence<int, kMr>());

}  // namespace c2f
