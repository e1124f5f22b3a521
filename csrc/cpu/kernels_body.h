// Body of the per-instruction-set files. The including file has included its lanes_*.h, defines, in an anonymous namespace
// inside c2f,
//   kMr                          rows of the register tile; its columns are two vectors
// and includes this file in that namespace: everything here has internal linkage.

constexpr int kNr = 2 * kLanes;

// ---- GEMM tile
// ----------------------------------------------------------------------------------------------------------

// All of K is summed in kRows x 2 vector registers; per step of k two loads of B and kRows broadcasts of A.
template <int kRows, int kRowStride, int kStepStride>
void gemm_tile(int64_t K, const float* a, int64_t a_block, const float* b, const float* init, float* c) {
  if (init == nullptr) {
    for (int i = 0; i < kRows * kNr; i += 16) __builtin_prefetch(c + i, 1);
  }
  Vec sum[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = Vec{};
  for (; K > 0; K -= kNr, a += a_block) {
    const int64_t steps = K < kNr ? K : kNr;
    const float* step = a;
    for (int64_t k = 0; k < steps; ++k, step += kStepStride, b += kNr) {
      const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const float x = step[i * kRowStride];
        sum[i][0] += b0 * x;
        sum[i][1] += b1 * x;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const float* from = init == nullptr ? c + i * kNr : init;
    const Vec c0 = load(from) + sum[i][0], c1 = load(from + kLanes) + sum[i][1];
    store(c0, c + i * kNr);
    store(c1, c + i * kNr + kLanes);
  }
}

// ---- packing and storing
// ------------------------------------------------------------------------------------------------

template <typename T>
void copy(const T* src, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load(src + i), out + i);
  for (; i < n; ++i) out[i] = to_float(src[i]);
}

template <typename T>
void pack_rows(const void* const* row, int rows, int64_t stride_k, int64_t k0, int64_t K, float* out) {
  for (int i = 0; i < rows; ++i) {
    const T* src = static_cast<const T*>(row[i]);
    for (int64_t k = k0; k < k0 + K;) {
      const int64_t in_block = k % kNr, left = k0 + K - k, n = left < kNr - in_block ? left : kNr - in_block;
      float* to = out + (k / kNr * kMr + i) * kNr + in_block;
      if (stride_k == 1) {
        copy(src, n, to);
      } else {
        for (int64_t j = 0; j < n; ++j) to[j] = to_float(src[j * stride_k]);
      }
      src += n * stride_k;
      k += n;
    }
  }
}

template <typename T>
void pack_cols(const void* source, int64_t stride_k, int64_t stride_row, int rows, int64_t K, float* out) {
  const T* src = static_cast<const T*>(source);
  int64_t k = 0;
  if (stride_row == 1 && stride_k >= kMr + kLanes) {
    // Whole vectors: what is read past the rows lies before the next step of the same array, what is written past them
    // is overwritten by the next step. The last step has no next.
    for (; k + 1 < K; ++k, src += stride_k, out += kMr) {
#pragma GCC unroll 8
      for (int i = 0; i < kMr; i += kLanes) store(load(src + i), out + i);
    }
  }
  for (; k < K; ++k, src += stride_k, out += kMr) {
    for (int i = 0; i < rows; ++i) out[i] = to_float(src[i * stride_row]);
  }
}

template <typename T>
void pack_panel(const void* source, int64_t stride_k, int64_t stride_n, int64_t K, int n, float* out) {
  const T* src = static_cast<const T*>(source);
  constexpr int64_t kBlock = 16;  // of the transposed case: a cache line of the source
  for (int64_t k0 = 0; k0 < K; k0 += kBlock, src += kBlock * stride_k, out += kBlock * kNr) {
    const int64_t steps = K - k0 < kBlock ? K - k0 : kBlock;
    if (stride_n == 1) {
      for (int64_t k = 0; k < steps; ++k) copy(src + k * stride_k, n, out + k * kNr);
    } else {
      for (int j = 0; j < n; ++j) {
        for (int64_t k = 0; k < steps; ++k) out[k * kNr + j] = to_float(src[k * stride_k + j * stride_n]);
      }
    }
    for (int64_t k = 0; k < steps; ++k) {
      for (int j = n; j < kNr; ++j) out[k * kNr + j] = 0;
    }
  }
}

template <typename T>
void store_rows(const float* tile, int rows, int n, void* const* row, int64_t stride_n) {
  if (stride_n == 1) {
    for (int i = 0; i < rows; ++i) {
      T* out = static_cast<T*>(row[i]);
      int j = 0;
      for (; j + kLanes <= n; j += kLanes) store(load(tile + i * kNr + j), out + j);
      for (; j < n; ++j) from_float(tile[i * kNr + j], out + j);
    }
  } else {
    for (int j = 0; j < n; ++j) {
      for (int i = 0; i < rows; ++i) from_float(tile[i * kNr + j], static_cast<T*>(row[i]) + j * stride_n);
    }
  }
}

// ---- products
// -----------------------------------------------------------------------------------------------------------

template <int kDegree>
Vec product(const float* const* u, const int32_t* factor, int64_t offset, Vec x) {
#pragma GCC unroll 4
  for (int k = 0; k < kDegree; ++k) x *= load(u[factor[k]] + offset);
  return x;
}

template <int kDegree>
void hadamard_sum(const float* const* u, const int32_t* factor, int rows, const float* w, float* out) {
  Vec sum[2] = {};
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int64_t offset = i * kNr + j * kLanes;
      const Vec x = product<kDegree - 1>(u, factor + 1, offset, load(u[factor[0]] + offset));
      sum[j] += w == nullptr ? x : x * w[i];
    }
  }
  for (int j = 0; j < 2; ++j) store(load(out + j * kLanes) + sum[j], out + j * kLanes);
}

template <int kDegree>
void hadamard_grad(const float* const* u, const int32_t* factor, int rows, const float* d_p, float* g) {
  const Vec scale[2] = {load(d_p), load(d_p + kLanes)};
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int64_t offset = i * kNr + j * kLanes;
      store(load(g + offset) + product<kDegree>(u, factor, offset, scale[j]), g + offset);
    }
  }
}

// Cephes' float32 polynomials: 2 ulp. tanh(x) = 1 - 2 / (exp(2x) + 1) away from 0.
Vec tanh_vector(Vec x) {
  const Bits sign = (Bits)x & 0x80000000u;
  const Vec magnitude = (Vec)((Bits)x & 0x7fffffffu);
  const Vec square = x * x;
  const Vec small =
      x + x * square *
              ((((-5.70498872745e-3f * square + 2.06390887954e-2f) * square - 5.37397155531e-2f) * square +
                1.33314422036e-1f) *
                   square -
               3.33332819422e-1f);
  const Vec y = magnitude < 10.0f ? magnitude + magnitude : Vec{} + 20.0f;
  const Vec large = (Vec)((Bits)(1.0f - 2.0f / (exp_vector(y) + 1.0f)) | sign);
  return magnitude > 0.625f ? large : small;  // NaN takes `small`
}

void activate(int activation, int64_t n, float* x) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load(x + i);
    store(activation == kActivationTanh ? tanh_vector(v) : (v < 0.0f ? Vec{} : v), x + i);
  }
}

void finish_grad(const float* u, int rows, const float* w, int activation, float* g, float* sum) {
  Vec total[2] = {};
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const int64_t offset = i * kNr + j * kLanes;
      Vec x = load(g + offset);
      if (w != nullptr) x *= w[i];
      if (activation == kActivationTanh) x *= 1.0f - load(u + offset) * load(u + offset);
      if (activation == kActivationRelu) x = load(u + offset) <= 0.0f ? Vec{} : x;
      store(x, g + offset);
      total[j] += x;
    }
  }
  for (int j = 0; j < 2; ++j) store(load(sum + j * kLanes) + total[j], sum + j * kLanes);
}

// ---- table
// --------------------------------------------------------------------------------------------------------------

template <int... kIndex>
constexpr Kernels make_kernels(const char* isa, std::integer_sequence<int, kIndex...>) {
  static_assert(kMr <= kMaxTileRows && kNr <= kMaxTileCols, "bounds in kernels.h");
  return {isa,
          kMr,
          kNr,
          {gemm_tile<kIndex + 1, kNr, 1>...},
          {gemm_tile<kIndex + 1, 1, kMr>...},
          {pack_rows<float>, pack_rows<BFloat16>, pack_rows<Float16>},
          {pack_cols<float>, pack_cols<BFloat16>, pack_cols<Float16>},
          {pack_panel<float>, pack_panel<BFloat16>, pack_panel<Float16>},
          {store_rows<float>, store_rows<BFloat16>, store_rows<Float16>},
          {nullptr, hadamard_sum<1>, hadamard_sum<2>, hadamard_sum<3>, hadamard_sum<4>},
          {hadamard_grad<0>, hadamard_grad<1>, hadamard_grad<2>, hadamard_grad<3>},
          finish_grad,
          activate};
}
