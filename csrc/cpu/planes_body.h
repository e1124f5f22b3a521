// Operands in planes of bfloat16, for the instruction sets that multiply pairs of them (AVX512_BF16, AMX), and the
// table entries that these share. The including file has included lanes_avx512.h and products_body.h, defines, in an
// anonymous namespace inside c2f,
//   kMr                          rows of the register tile
// and includes this file there: everything has internal linkage.
//
// An operand has one plane, x rounded to bfloat16, or two: x = hi + lo, hi the rounded x and lo the rounded rest
// (float16 exactly, float32 to 2^-18). Two planes lie side by side, row by row. K comes in 32: operands end in zeros.

constexpr int kStep = 32, kPairs = kStep / 2;  // of k, in a row of a packed operand
static_assert(kNr == kStep, "blocks of A have nr steps of k");

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
  // The transposed case, sixteen columns of the panel at a time: fewer streams are read at once.
  for (int j = 0; stride_k == 1 && stride_n != 1 && j < kNr; j += 16) {
    for (int64_t k = 0; k < K; k += kStep) {
      Words pair[kPlanes][16] = {};
      for (int i = 0; i < 16 && j + i < n; ++i) {
        const Planes<kPlanes> x = load_planes<kPlanes>(src + k + (j + i) * stride_n, K - k);
        for (int plane = 0; plane < kPlanes; ++plane) pair[plane][i] = x.plane[plane];
      }
      for (int plane = 0; plane < kPlanes; ++plane) {
        transpose(pair[plane]);
        for (int i = 0; i < kPairs; ++i) {
          store_words(pair[plane][i], out + (((k / 2 + i) * kPlanes + plane) * kNr + j) * 2);
        }
      }
    }
  }
  for (int64_t k = 0; (stride_k != 1 || stride_n == 1) && k < (K + kStep - 1) / kStep * kStep; k += 2) {
    store_pairs(load_planes<kPlanes>(src + k * stride_k, stride_n, k < K ? n : 0),
                load_planes<kPlanes>(src + (k + 1) * stride_k, stride_n, k + 1 < K ? n : 0), out + k * kNr * kPlanes);
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

template <typename T>
void store_lines(const float* tile, int rows, int n, void* const* row, int64_t stride_n) {
  if (stride_n != 1) return store_rows<T>(tile, rows, n, row, stride_n);
  for (int i = 0; i < rows; ++i) store_row(tile + i * kNr, n, static_cast<T*>(row[i]));
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

// Everything but the products themselves: the elements of C tiles are plain float32.
template <int kPlanes>
constexpr Kernels plane_kernels(const char* isa) {
  Kernels kernels = {};
  kernels.isa = isa;
  kernels.mr = kMr;
  kernels.nr = kNr;
  kernels.k_step = kStep;
  kernels.operand_bytes = kPlanes * sizeof(BFloat16);
  kernels.pack_grad = pack_grad<kPlanes>;
  kernels.store_rows[static_cast<int>(DType::kFloat32)] = store_lines<float>;
  kernels.store_rows[static_cast<int>(DType::kBFloat16)] = store_lines<BFloat16>;
  kernels.store_rows[static_cast<int>(DType::kFloat16)] = store_lines<Float16>;
  kernels.hadamard_sum[1] = hadamard_sum<1>;
  kernels.hadamard_sum[2] = hadamard_sum<2>;
  kernels.hadamard_sum[3] = hadamard_sum<3>;
  kernels.hadamard_sum[4] = hadamard_sum<4>;
  kernels.form_grad = form_grad<PlaneRow<kPlanes>>;
  kernels.activate = activate;
  return kernels;
}
