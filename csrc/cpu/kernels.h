// The inner loops of the CPU kernels, one table of functions per instruction set.
//
// kernels_body.h is compiled once per instruction set (kernels_portable.cpp, kernels_avx2.cpp, kernels_avx512.cpp);
// everything around it is baseline code that calls through the table. This header has no inline function, so that no
// copy of one can be compiled for AVX-512 and picked by the linker for everyone.
//
// Words: a tile is `mr` x `nr` float32, stored as rows of nr. An A operand is a tile's rows over k, a B operand (a
// panel) is k rows of nr columns. A operands are cut into blocks of nr steps of k, mr * nr floats when packed, in one
// of two layouts:
//   rows   [k / nr][mr][nr]   row stride nr, k stride 1     (the source is contiguous along k)
//   cols   [k / nr][nr][mr]   row stride 1, k stride mr     (the source is contiguous along rows)
// Tiles of the rows layout can also be read straight from a matrix stored as panels [columns / nr][rows][nr].
#pragma once

#include <cstdint>

namespace c2f {

inline constexpr int kMaxTileRows = 16;                         // bound of mr
inline constexpr int kMaxTileCols = 64;                         // bound of nr
inline constexpr int kStorageTypes = 3;                         // float32, bfloat16, float16: the values of DType
inline constexpr int kActivationRelu = 1, kActivationTanh = 2;  // of Activation

// c[rows][nr] = init[nr] + A B where init is set, c += A B where it is null. K may be 0. `a_block`: floats from one
// block of A to the next. b and c are best aligned to 64 bytes.
using GemmFn = void (*)(int64_t K, const float* a, int64_t a_block, const float* b, const float* init, float* c);

// Packs elements k0 .. k0 + K of `rows` rows, row[i][k * stride_k] with k from 0, into the rows layout.
using PackRowsFn = void (*)(const void* const* row, int rows, int64_t stride_k, int64_t k0, int64_t K, float* out);

// Packs K steps of `rows` rows, src[k * stride_k + i * stride_row], into the cols layout.
using PackColsFn = void (*)(const void* src, int64_t stride_k, int64_t stride_row, int rows, int64_t K, float* out);

// Packs src[k * stride_k + j * stride_n], j < n <= nr, into a panel [K][nr]; columns from n on are 0.
using PackPanelFn = void (*)(const void* src, int64_t stride_k, int64_t stride_n, int64_t K, int n, float* out);

// row[i][j * stride_n] = tile[i][j], j < n, rounded to nearest even.
using StoreRowsFn = void (*)(const float* tile, int rows, int n, void* const* row, int64_t stride_n);

// out[nr] += sum_i w[i] * prod_k u[factor[k]][i][nr]: the sum of the tile is formed first. w null: 1.
using HadamardSumFn = void (*)(const float* const* u, const int32_t* factor, int rows, const float* w, float* out);

// g[i][nr] += d_p[nr] * prod_k u[factor[k]][i][nr]; degree 0: the empty product.
using HadamardGradFn = void (*)(const float* const* u, const int32_t* factor, int rows, const float* d_p, float* g);

// g[i] *= w[i] * act'(u[i]), sum[nr] += sum_i g[i]. w null: 1. `activation`: 0, kActivationRelu or kActivationTanh.
using FinishGradFn = void (*)(const float* u, int rows, const float* w, int activation, float* g, float* sum);

// x = act(x) over n values, n a multiple of nr; not for 0.
using ActivateFn = void (*)(int activation, int64_t n, float* x);

struct Kernels {
  const char* isa;
  int mr, nr;
  GemmFn gemm_rows[kMaxTileRows];  // by rows - 1
  GemmFn gemm_cols[kMaxTileRows];
  PackRowsFn pack_rows[kStorageTypes];
  PackColsFn pack_cols[kStorageTypes];
  PackPanelFn pack_panel[kStorageTypes];
  StoreRowsFn store_rows[kStorageTypes];
  HadamardSumFn hadamard_sum[5];    // by degree, 1..4
  HadamardGradFn hadamard_grad[4];  // by number of other factors, 0..3
  FinishGradFn finish_grad;
  ActivateFn activate;
};

extern const Kernels kKernelsPortable;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;

// The table of cpu_isa(), or the best one below it.
const Kernels& cpu_kernels();

}  // namespace c2f
