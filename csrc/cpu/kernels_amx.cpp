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
// rows do not mix. K comes in 32: both operands end in zeros.
//
// Operands have one plane, x rounded to bfloat16, or two: x = hi + lo, hi the rounded x and lo the rounded rest
// (float16 exactly, float32 to 2^-18). Two planes lie side by side, row by row. They take three products, hi hi + lo hi
// + hi lo, which drops less than 2^-18 of each, or four, which drop nothing.
//
// The element-wise entries are those of AVX-512: C tiles are plain float32.
#ifndef __clang__  // GCC 12 warns of its own headers: unmasked intrinsics pass an undefined register
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "cpu/kernels.h"
#include "cpu/lanes_avx512.h"

namespace c2f {
namespace {

#include "cpu/products_body.h"

constexpr int kMr = 32, kStep = 32, kPairs = kStep / 2;
static_assert(kNr == 32, "two register tiles of 16 columns");

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

// ---- planes -------------------------------------------------------------------------------------

using Words = __m512i;  // 32 bfloat16, or 16 pairs of them

template <int kPlanes>
struct Planes {
  Words plane[kPlanes] = {};
};

inline __mmask32 word_mask(int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }

inline Words rounded(__m512 low, __m512 high) { return (Words)_mm512_cvtne2ps_pbh(high, low); }

// x - hi, and 0 where hi is not finite: infinities and NaN are hi's alone.
inline __m512 rest(__m512 x, __m512 hi) {
  constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;  // quiet NaN, +inf, -inf, signalling NaN
  return _mm512_maskz_sub_ps(static_cast<__mmask16>(~_mm512_fpclass_ps_mask(hi, kNotFinite)), x, hi);
}

template <int kPlanes>
inline __attribute__((always_inline)) Planes<kPlanes> split(__m512 low, __m512 high) {
  Planes<kPlanes> x;
  x.plane[0] = rounded(low, high);
  if constexpr (kPlanes == 2) {
    alignas(64) BFloat16 hi[32];
    _mm512_store_si512(hi, x.plane[0]);
    x.plane[1] = rounded(rest(low, (__m512)load(hi)), rest(high, (__m512)load(hi + kLanes)));
  }
  return x;
}

inline __m512i load_16bit(const void* x, __mmask32 mask) { return _mm512_maskz_loadu_epi16(mask, x); }

// n of 32 neighbouring elements, the rest 0.
template <int kPlanes>
inline __attribute__((always_inline)) Planes<kPlanes> load_planes(const BFloat16* x, int64_t n) {
  static_assert(kPlanes == 1, "bfloat16 has no rest");
  return {{load_16bit(x, word_mask(n))}};
}
template <int kPlanes>
inline __attribute__((always_inline)) Planes<kPlanes> load_planes(const Float16* x, int64_t n) {
  const __m512i words = load_16bit(x, word_mask(n));
  return split<kPlanes>(_mm512_cvtph_ps(_mm512_castsi512_si256(words)),
                        _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1)));
}
template <int kPlanes>
inline __attribute__((always_inline)) Planes<kPlanes> load_planes(const float* x, int64_t n) {
  const __mmask32 mask = word_mask(n);
  const __mmask16 high = static_cast<__mmask16>(mask >> 16);
  return split<kPlanes>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x),
                        high ? _mm512_maskz_loadu_ps(high, x + kLanes) : __m512{});
}

// The same of elements at a stride.
template <int kPlanes, typename T>
Planes<kPlanes> load_planes(const T* x, int64_t stride, int64_t n) {
  if (stride == 1) return load_planes<kPlanes>(x, n);
  T elements[32] = {};
  for (int64_t i = 0; i < n; ++i) elements[i] = x[i * stride];
  return load_planes<kPlanes>(elements, 32);
}

inline void store_words(Words x, void* out) { _mm512_storeu_si512(out, x); }

// ---- packing ------------------------------------------------------------------------------------

// Two rows of 32 -> 32 pairs.
inline void interleave(Words even, Words odd, Words* low_pairs, Words* high_pairs) {
  alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const Words low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  *low_pairs = _mm512_permutex2var_epi16(even, low, odd);
  *high_pairs = _mm512_permutex2var_epi16(even, high, odd);
}

// x[i] pair j -> x[j] pair i: quarters of 4 x 4 pairs, then the quarters themselves.
inline void transpose(Words* x) {
  Words y[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const Words a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    const Words c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c);
    y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d);
    y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Words a = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x88), b = _mm512_shuffle_i32x4(y[i], y[i + 4], 0xdd);
    const Words c = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0x88);
    const Words d = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0xdd);
    x[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// 32 k of up to 32 neighbouring rows, k at a stride: pairs of k are put side by side, then transposed.
template <int kPlanes, typename T>
void pack_neighbours(const T* src, int rows, int64_t stride_k, int64_t K, BFloat16* out) {
  Words pair[kPlanes][2][16];  // [plane][half of the rows][pair of k]
  for (int64_t k = 0; k < kPairs; ++k) {
    const Planes<kPlanes> even = load_planes<kPlanes>(src + 2 * k * stride_k, 2 * k < K ? rows : 0);
    const Planes<kPlanes> odd = load_planes<kPlanes>(src + (2 * k + 1) * stride_k, 2 * k + 1 < K ? rows : 0);
    for (int plane = 0; plane < kPlanes; ++plane) {
      interleave(even.plane[plane], odd.plane[plane], &pair[plane][0][k], &pair[plane][1][k]);
    }
  }
  for (int plane = 0; plane < kPlanes; ++plane) {
    for (int first = 0; first < rows; first += 16) {
      Words* half = pair[plane][first / 16];
      transpose(half);
      for (int i = first; i < rows && i < first + 16; ++i) {
        store_words(half[i - first], out + (i * kPlanes + plane) * kStep);
      }
    }
  }
}

// How many of the rows from `row` on are one element apart.
template <typename T>
int neighbours(const void* const* row, int rows) {
  int count = 1;
  while (count < rows && static_cast<const T*>(row[count]) == static_cast<const T*>(row[count - 1]) + 1) ++count;
  return count;
}

template <int kPlanes, typename T>
void pack_rows(const void* const* row, int rows, int64_t stride_k, int64_t k0, int64_t K, void* packed) {
  BFloat16* out = static_cast<BFloat16*>(packed);
  for (int i = 0, count; i < rows; i += count) {
    count = stride_k == 1 ? rows : neighbours<T>(row + i, rows - i);
    for (int64_t k = 0, n; k < K; k += n) {
      const int64_t in_block = (k0 + k) % kStep;
      n = K - k < kStep - in_block ? K - k : kStep - in_block;
      BFloat16* to = out + ((k0 + k) / kStep * kMr + i) * kPlanes * kStep + in_block;
      if (stride_k != 1 && in_block == 0) {
        pack_neighbours<kPlanes>(static_cast<const T*>(row[i]) + k * stride_k, count, stride_k, n, to);
        continue;
      }
      for (int j = 0; j < count; ++j) {
        const auto x = load_planes<kPlanes>(static_cast<const T*>(row[i + j]) + k * stride_k, stride_k, n);
        for (int plane = 0; plane < kPlanes; ++plane) {
          _mm512_mask_storeu_epi16(to + (j * kPlanes + plane) * kStep, word_mask(kStep - in_block), x.plane[plane]);
        }
      }
    }
  }
}

template <int kPlanes>
void store_pairs(const Planes<kPlanes>& even, const Planes<kPlanes>& odd, BFloat16* out) {
  for (int plane = 0; plane < kPlanes; ++plane) {
    Words low, high;
    interleave(even.plane[plane], odd.plane[plane], &low, &high);
    store_words(low, out + plane * 2 * kNr);
    store_words(high, out + plane * 2 * kNr + 32);
  }
}

template <int kPlanes, typename T>
void pack_panel(const void* source, int64_t stride_k, int64_t stride_n, int64_t K, int n, void* packed) {
  const T* src = static_cast<const T*>(source);
  BFloat16* out = static_cast<BFloat16*>(packed);
  for (int64_t k = 0; k < K; k += kStep, out += kStep * kNr * kPlanes) {
    if (stride_k == 1 && stride_n != 1) {
      for (int j = 0; j < kNr; j += 16) {
        Words pair[kPlanes][16] = {};
        for (int i = 0; i < 16 && j + i < n; ++i) {
          const Planes<kPlanes> x = load_planes<kPlanes>(src + k + (j + i) * stride_n, K - k);
          for (int plane = 0; plane < kPlanes; ++plane) pair[plane][i] = x.plane[plane];
        }
        for (int plane = 0; plane < kPlanes; ++plane) {
          transpose(pair[plane]);
          for (int i = 0; i < kPairs; ++i) {
            store_words(pair[plane][i], out + ((i * kPlanes + plane) * kNr + j) * 2);
          }
        }
      }
    } else {
      for (int64_t i = 0; i < kStep; i += 2) {
        store_pairs(load_planes<kPlanes>(src + (k + i) * stride_k, stride_n, k + i < K ? n : 0),
                    load_planes<kPlanes>(src + (k + i + 1) * stride_k, stride_n, k + i + 1 < K ? n : 0),
                    out + i * kNr * kPlanes);
      }
    }
  }
}

template <int kPlanes>
struct PlaneRow {
  static constexpr int64_t kRowBytes = kPlanes * kNr * sizeof(BFloat16);
  static void store(Vec a, Vec b, char* out) {
    const Planes<kPlanes> x = split<kPlanes>((__m512)a, (__m512)b);
    for (int plane = 0; plane < kPlanes; ++plane) store_words(x.plane[plane], out + plane * 64);
  }
};

template <int kPlanes>
void pack_grad(const void* panel, int64_t K, void* packed) {
  const BFloat16* src = static_cast<const BFloat16*>(panel);
  BFloat16* out = static_cast<BFloat16*>(packed);
  const auto row = [&](int64_t k) {
    Planes<kPlanes> x;
    for (int plane = 0; plane < kPlanes && k < K; ++plane) {
      x.plane[plane] = _mm512_loadu_si512(src + (k * kPlanes + plane) * kNr);
    }
    return x;
  };
  for (int64_t k = 0; k < (K + kStep - 1) / kStep * kStep; k += 2) {
    store_pairs(row(k), row(k + 1), out + k * kNr * kPlanes);
  }
}

// A row of 16-bit numbers that is a whole cache line goes past the caches: the line need not be fetched to be written.
template <typename T>
void store_row(const float* from, int n, T* out) {
  alignas(64) T line[kNr];
  if (sizeof(line) != 64 || n != kNr || reinterpret_cast<uintptr_t>(out) % 64 != 0) {
    void* row = out;
    return store_rows<T>(from, 1, n, &row, 1);
  }
  for (int j = 0; j < kNr; j += kLanes) store(load(from + j), line + j);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(out), _mm512_load_si512(line));
}

// Rows of a tile that are neighbours in memory, columns at a stride: sixteen by sixteen, transposed.
template <typename T>
void store_rows_of_columns(const float* tile, int rows, int n, void* const* row, int64_t stride_n) {
  for (int i = 0, count; stride_n != 1 && i < rows; i += count) {
    count = neighbours<T>(row + i, rows - i < 16 ? rows - i : 16);
    for (int j = 0; j < n; j += 16) {
      Words x[16] = {};
      for (int k = 0; k < count; ++k) x[k] = _mm512_loadu_si512(tile + (i + k) * kNr + j);
      transpose(x);
      for (int k = 0; k < 16 && j + k < n; ++k) {
        T* out = static_cast<T*>(row[i]) + (j + k) * stride_n;
        count == 16 ? store((Vec)x[k], out) : store_first((Vec)x[k], count, out);
      }
    }
  }
  for (int i = 0; stride_n == 1 && i < rows; ++i) store_row(tile + i * kNr, n, static_cast<T*>(row[i]));
}

// ---- table --------------------------------------------------------------------------------------

// `T` is packed into kPlanes planes.
template <int kPlanes, typename T>
constexpr void add_storage_type(DType dtype, Kernels* kernels) {
  const int type = static_cast<int>(dtype);
  kernels->pack_rows[type] = pack_rows<kPlanes, T>;
  kernels->pack_panel[type] = pack_panel<kPlanes, T>;
  kernels->load_rows[type] = load_rows<T>;
}

template <int kPlanes, int kProducts>
constexpr Kernels make_kernels(const char* isa) {
  Kernels kernels = {};
  kernels.isa = isa;
  kernels.mr = kMr;
  kernels.nr = kNr;
  kernels.row_step = 16;
  kernels.k_step = kStep;
  kernels.operand_bytes = kPlanes * sizeof(BFloat16);
  kernels.block_k = 512 / kPlanes;  // a panel of it fills two thirds of L1
  kernels.enter = enter;
  kernels.leave = leave;
  for (int i = 0; i < kMr; ++i) {
    kernels.gemm_rows[i] = i < 16 ? gemm_tile<kPlanes, kProducts, 1> : gemm_tile<kPlanes, kProducts, 2>;
  }
  if constexpr (kProducts < 4) add_storage_type<kPlanes, float>(DType::kFloat32, &kernels);
  if constexpr (kProducts == 1) add_storage_type<kPlanes, BFloat16>(DType::kBFloat16, &kernels);
  if constexpr (kProducts == 4) add_storage_type<kPlanes, Float16>(DType::kFloat16, &kernels);
  kernels.form_grad = form_grad<PlaneRow<kPlanes>>;
  kernels.pack_grad = pack_grad<kPlanes>;
  kernels.store_rows[static_cast<int>(DType::kFloat32)] = store_rows_of_columns<float>;
  kernels.store_rows[static_cast<int>(DType::kBFloat16)] = store_rows_of_columns<BFloat16>;
  kernels.store_rows[static_cast<int>(DType::kFloat16)] = store_rows_of_columns<Float16>;
  kernels.hadamard_sum[1] = hadamard_sum<1>;
  kernels.hadamard_sum[2] = hadamard_sum<2>;
  kernels.hadamard_sum[3] = hadamard_sum<3>;
  kernels.hadamard_sum[4] = hadamard_sum<4>;
  kernels.activate = activate;
  kernels.peak = peak<kProducts>;
  return kernels;
}

}  // namespace

const Kernels kKernelsAmx = make_kernels<1, 1>("amx");
const Kernels kKernelsAmxSplit = make_kernels<2, 3>("amx split");
const Kernels kKernelsAmxExact = make_kernels<2, 4>("amx exact");

}  // namespace c2f
