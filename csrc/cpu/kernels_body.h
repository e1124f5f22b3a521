// GEMM tile, packing and table of the instruction sets that multiply float32 vectors. The including file has included
// its lanes_*.h, defines, in an anonymous namespace inside c2f,
//   kMr                          rows of the register tile; its columns are two vectors
// and includes products_body.h and this file in that namespace: everything here has internal linkage.

// ---- GEMM tile ----------------------------------------------------------------------------------

// All of K is summed in kRows x 2 vector registers; per step of k two loads of B and kRows broadcasts of A.
template <int kRows, int kRowStride, int kStepStride>
void gemm_tile(int64_t K, const void* rows, int64_t a_block, const void* panel, const float* init, float* c,
               const void* ahead) {
  const float *a = static_cast<const float*>(rows), *b = static_cast<const float*>(panel);
  for (int i = 0; i < kRows * kNr; i += 16) __builtin_prefetch(c + i, 1);
  Vec sum[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = Vec{};
  const char* fetch = static_cast<const char*>(ahead);
  for (; K > 0; K -= kNr, a += a_block) {
    for (int64_t i = 0; fetch != nullptr && i < kAheadBytes; i += 64) __builtin_prefetch(fetch + i, 0, 2);
    fetch = fetch == nullptr ? nullptr : fetch + kAheadBytes;
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

double peak(int64_t rounds, float* operands) {
  const Vec x = load(operands), y = load(operands + kLanes);
  Vec sum[kMr][2];
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    sum[i][0] = load(operands + 2 * i * kLanes);
    sum[i][1] = load(operands + (2 * i + 1) * kLanes);
  }
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      sum[i][0] = sum[i][0] * x + y;
      sum[i][1] = sum[i][1] * x + y;
    }
  }
  for (int i = 1; i < kMr; ++i) sum[0][0] += sum[i][0] + sum[i][1];
  store(sum[0][0], operands);
  return 4.0 * kMr * kLanes * static_cast<double>(rounds);
}

// ---- packing ------------------------------------------------------------------------------------

template <typename T>
void pack_rows(const void* const* row, int rows, int64_t stride_k, int64_t k0, int64_t K, void* packed) {
  float* out = static_cast<float*>(packed);
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
void pack_cols(const void* source, int64_t stride_k, int64_t stride_row, int rows, int64_t K, void* packed) {
  float* out = static_cast<float*>(packed);
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
void pack_panel(const void* source, int64_t stride_k, int64_t stride_n, int64_t K, int n, void* packed) {
  float* out = static_cast<float*>(packed);
  const T* src = static_cast<const T*>(source);
  for (int64_t k = 0; stride_n == 1 && k < K; ++k, src += stride_k, out += kNr) {
    copy(src, n, out);
    for (int j = n; j < kNr; ++j) out[j] = 0;
  }
  // The transposed case, a vector of columns at a time: few streams are read at once.
  for (int j0 = 0; stride_n != 1 && j0 < kNr; j0 += kLanes) {
    for (int64_t k0 = 0; k0 < K; k0 += kLanes) {
      const int64_t steps = K - k0 < kLanes ? K - k0 : kLanes;
      Vec x[kLanes] = {};
      for (int j = 0; j < kLanes && j0 + j < n; ++j) {
        x[j] = load_at(src + k0 * stride_k + (j0 + j) * stride_n, stride_k, steps);
      }
      transpose(x);
      for (int64_t k = 0; k < steps; ++k) store(x[k], out + (k0 + k) * kNr + j0);
    }
  }
}

struct FloatRow {
  static constexpr int64_t kRowBytes = kNr * sizeof(float);
  static void store(Vec a, Vec b, char* out) {
    c2f::store(a, reinterpret_cast<float*>(out));
    c2f::store(b, reinterpret_cast<float*>(out) + kLanes);
  }
};

// ---- table --------------------------------------------------------------------------------------

template <int... kIndex>
constexpr Kernels make_kernels(const char* isa, std::integer_sequence<int, kIndex...>) {
  static_assert(kMr <= kMaxTileRows && kNr <= kMaxTileCols, "bounds in kernels.h");
  return {isa,
          kMr,
          kNr,
          /*row_step=*/1,
          /*k_step=*/1,
          /*operand_bytes=*/sizeof(float),
          /*block_k=*/128,
          /*enter=*/nullptr,
          /*leave=*/nullptr,
          {gemm_tile<kIndex + 1, kNr, 1>...},
          {gemm_tile<kIndex + 1, 1, kMr>...},
          {pack_rows<float>, pack_rows<BFloat16>, pack_rows<Float16>},
          {pack_cols<float>, pack_cols<BFloat16>, pack_cols<Float16>},
          {pack_panel<float>, pack_panel<BFloat16>, pack_panel<Float16>},
          /*pack_grad=*/nullptr,
          {load_rows<float>, load_rows<BFloat16>, load_rows<Float16>},
          {store_rows<float>, store_rows<BFloat16>, store_rows<Float16>},
          {nullptr, hadamard_sum<1>, hadamard_sum<2>, hadamard_sum<3>, hadamard_sum<4>},
          form_grad<FloatRow>,
          activate,
          peak};
}
