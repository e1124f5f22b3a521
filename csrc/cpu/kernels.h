// The inner loops of the CPU kernels, one table of functions per instruction set.
//
// products_body.h is compiled once per instruction set (kernels_*.cpp), with kernels_body.h for float32 operands or
// planes_body.h for operands of bfloat16; everything around them is baseline code that calls through the table. This
// header has no inline function, so that no copy of one can be compiled for AVX-512 and picked by the linker for
// everyone.
//
// Words: a tile is `mr` x `nr` float32, stored as rows of nr. An A operand is a tile's rows over k, a B operand (a
// panel) is k rows of nr columns. Operands are packed as the table wants them, `operand_bytes` an element, with K
// filled up to a multiple of k_step by zeros: float32, or one or two planes of bfloat16.
// A operands are cut into blocks of nr steps of k, mr * nr elements when packed, in one of two layouts:
//   rows   [k / nr][mr][nr]   row stride nr, k stride 1     (the source is contiguous along k)
//   cols   [k / nr][nr][mr]   row stride 1, k stride mr     (the source is contiguous along rows)
// Tiles of the rows layout can also be read straight from a matrix stored as panels [columns / nr][rows][nr].
// A float32 panel is [k][nr]; a bfloat16 panel has pairs of k side by side, [k / 2][nr][2]. Planes stand row by row:
// [mr][planes][nr] of A, [k / 2][planes][nr][2] of B.
#pragma once

#include "c2f/dtype.h"

namespace c2f {

inline constexpr int kMaxTileRows = 32;                         // bound of mr
inline constexpr int kMaxTileCols = 64;                         // bound of nr
alignas(64) inline constexpr float kZeros[kMaxTileCols] = {};   // initial value of sums
inline constexpr int kStorageTypes = 3;                         // float32, bfloat16, float16: the values of DType
inline constexpr int64_t kAheadBytes = 4 * 64;                  // eight tiles fetch a panel of one plane
inline constexpr int kActivationRelu = 1, kActivationTanh = 2;  // of Activation

// c[rows][nr] = init[nr] + A B where init is set, c += A B where it is null. K may be 0. `a_block`: elements from one
// block of A to the next. b and c are best aligned to 64 bytes. `ahead`: where a later call reads, kAheadBytes
// for each nr steps of k; it may be fetched along the way and need not be mapped. Null: nothing.
using GemmFn = void (*)(int64_t K, const void* a, int64_t a_block, const void* b, const float* init, float* c,
                        const void* ahead);

// Packs elements k0 .. k0 + K of `rows` rows, row[i][k * stride_k] with k from 0, into the rows layout. Pieces of a row
// are packed in ascending order.
using PackRowsFn = void (*)(const void* const* row, int rows, int64_t stride_k, int64_t k0, int64_t K, void* out);

// Packs K steps of `rows` rows, src[k * stride_k + i * stride_row], into the cols layout.
using PackColsFn = void (*)(const void* src, int64_t stride_k, int64_t stride_row, int rows, int64_t K, void* out);

// Packs src[k * stride_k + j * stride_n], j < n <= nr, into a panel of K steps; columns from n on are 0.
using PackPanelFn = void (*)(const void* src, int64_t stride_k, int64_t stride_n, int64_t K, int n, void* out);

// Packs a panel's [K][nr], as form_grad left it, as a B operand.
using PackGradFn = void (*)(const void* panel, int64_t K, void* out);

// tile[i][nr] = row[i][j], j < n <= nr, and 0 from n on.
using LoadRowsFn = void (*)(const void* const* row, int rows, int n, float* tile);

// row[i][j * stride_n] = tile[i][j], j < n, rounded to nearest even.
using StoreRowsFn = void (*)(const float* tile, int rows, int n, void* const* row, int64_t stride_n);

// out[nr] += sum_i w[i] * prod_k u[factor[k]][i][nr]: the sum of the tile is formed first. w null: 1.
using HadamardSumFn = void (*)(const float* const* u, const int32_t* factor, int rows, const float* w, float* out);

// One term of a gradient of projections: d_p[nr] times other projections, u[k][rows][nr] for k < others.
struct GradTerm {
  const float* d_p;
  const float* u[3];
  int others;
};

// g[i][j] = w[i] * act'(own[i][j]) * (sum over terms of d_p[j] * prod_k u[k][i][j]), and 0 from column n on, whatever
// the projections hold; packed as rows of an A operand that is a panel's [rows][nr]. sum[nr] += sum_i g[i]. w null: 1.
// `activation`: 0, kActivationRelu or kActivationTanh.
using FormGradFn = void (*)(const GradTerm* terms, int count, int rows, int n, const float* own, const float* w,
                            int activation, float* sum, void* out);

// x = act(x) over n values, n a multiple of nr; not for 0.
using ActivateFn = void (*)(int activation, int64_t n, float* x);

// The multiply-adds of a tile over one step of k, `rounds` times, all in registers; returns the flops of the products
// that they make up. `operands` is read first and written last.
inline constexpr int kPeakFloats = 512;
using PeakFn = double (*)(int64_t rounds, float* operands);

struct Kernels {
  const char* isa;
  int mr, nr;
  int row_step;           // rows are computed in multiples of it: samples are cut into tiles there
  int k_step;             // K is computed in multiples of it
  int64_t operand_bytes;  // of a packed element, all planes
  int64_t block_k;        // steps of k summed in registers before the tile in memory is updated; a multiple of nr
  void (*enter)();        // before and after the products of a task, on its thread; null: nothing to do
  void (*leave)();
  GemmFn gemm_rows[kMaxTileRows];  // by rows - 1
  GemmFn gemm_cols[kMaxTileRows];  // null: there is no cols layout, pack_rows takes every source
  PackRowsFn pack_rows[kStorageTypes];
  PackColsFn pack_cols[kStorageTypes];
  PackPanelFn pack_panel[kStorageTypes];
  PackGradFn pack_grad;  // null: a stored panel is a B operand as it is
  LoadRowsFn load_rows[kStorageTypes];
  StoreRowsFn store_rows[kStorageTypes];
  HadamardSumFn hadamard_sum[5];  // by degree, 1..4
  FormGradFn form_grad;
  ActivateFn activate;
  PeakFn peak;
};

extern const Kernels kKernelsPortable;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx512Bf16;  // operands of one plane
extern const Kernels kKernelsAmx;         // one plane
extern const Kernels kKernelsAmxSplit;    // two, three products
extern const Kernels kKernelsAmxExact;    // two, four products

// The float32 table of cpu_isa(), or the best one below it.
const Kernels& cpu_kernels();

// The table for operands of a storage type, float32 ones to a precision.
const Kernels& cpu_kernels(DType dtype, MatmulPrecision precision);

}  // namespace c2f
