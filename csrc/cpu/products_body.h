// What is computed on tiles between the products of matrices, element by element. The including file has included its
// lanes_*.h and includes this file in an anonymous namespace inside c2f: everything here has internal linkage.

constexpr int kNr = 2 * kLanes;  // columns of a tile

template <typename T>
void copy(const T* src, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(load(src + i), out + i);
  for (; i < n; ++i) out[i] = to_float(src[i]);
}

template <typename T>
void load_rows(const void* const* row, int rows, int n, float* tile) {
  for (int i = 0; i < rows; ++i) {
    copy(static_cast<const T*>(row[i]), n, tile + i * kNr);
    for (int j = n; j < kNr; ++j) tile[i * kNr + j] = 0;
  }
}

// How many of the rows from the first one on are one element apart.
template <typename T>
int neighbours(const void* const* row, int rows) {
  int count = 1;
  while (count < rows && static_cast<const T*>(row[count]) == static_cast<const T*>(row[count - 1]) + 1) ++count;
  return count;
}

template <typename T>
void store_rows(const float* tile, int rows, int n, void* const* row, int64_t stride_n) {
  for (int i = 0; stride_n == 1 && i < rows; ++i) {
    T* out = static_cast<T*>(row[i]);
    int j = 0;
    for (; j + kLanes <= n; j += kLanes) store(load(tile + i * kNr + j), out + j);
    for (; j < n; ++j) from_float(tile[i * kNr + j], out + j);
  }
  // Else rows that are neighbours in memory, in squares of kLanes, transposed.
  for (int i = 0, count; stride_n != 1 && i < rows; i += count) {
    count = neighbours<T>(row + i, rows - i < kLanes ? rows - i : kLanes);
    for (int j = 0; j < n; j += kLanes) {
      Vec x[kLanes] = {};
      for (int k = 0; k < count; ++k) x[k] = load(tile + (i + k) * kNr + j);
      transpose(x);
      for (int k = 0; k < kLanes && j + k < n; ++k) {
        T* out = static_cast<T*>(row[i]) + (j + k) * stride_n;
        count == kLanes ? store(x[k], out) : store_first(x[k], count, out);
      }
    }
  }
}

// ---- products -----------------------------------------------------------------------------------

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

// ---- gradients ----------------------------------------------------------------------------------

// x[i] += d_p * prod_k u[k][i] on kRows rows of vectors.
template <int kRows, int kOthers>
inline __attribute__((always_inline)) void add_term(const GradTerm& term, int64_t offset, Vec (*x)[2]) {
  const Vec d_p[2] = {load(term.d_p), load(term.d_p + kLanes)};
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      Vec y = d_p[j];
#pragma GCC unroll 4
      for (int k = 0; k < kOthers; ++k) y *= load(term.u[k] + offset + i * kNr + j * kLanes);
      x[i][j] += y;
    }
  }
}

// Rows row .. row + kRows of form_grad, summed in registers over all terms. Operand::store packs one row.
template <int kRows, typename Operand>
inline __attribute__((always_inline)) void form_rows(const GradTerm* terms, int count, int64_t row, int n,
                                                     const float* own, const float* w, int activation, Vec* total,
                                                     char* out) {
  Vec x[kRows][2] = {};
  for (int t = 0; t < count; ++t) {
    switch (terms[t].others) {
      case 0:
        add_term<kRows, 0>(terms[t], row * kNr, x);
        break;
      case 1:
        add_term<kRows, 1>(terms[t], row * kNr, x);
        break;
      case 2:
        add_term<kRows, 2>(terms[t], row * kNr, x);
        break;
      default:
        add_term<kRows, 3>(terms[t], row * kNr, x);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const float* u = own + (row + i) * kNr + j * kLanes;
      if (w != nullptr) x[i][j] *= w[row + i];
      if (activation == kActivationTanh) x[i][j] *= 1.0f - load(u) * load(u);
      if (activation == kActivationRelu) x[i][j] = load(u) <= 0.0f ? Vec{} : x[i][j];
      if (n < kNr) {
        float lanes[kLanes];
        store(x[i][j], lanes);
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = j * kLanes + lane < n ? lanes[lane] : 0;
        x[i][j] = load(lanes);
      }
      total[j] += x[i][j];
    }
    Operand::store(x[i][0], x[i][1], out + (row + i) * Operand::kRowBytes);
  }
}

template <typename Operand>
void form_grad(const GradTerm* terms, int count, int rows, int n, const float* own, const float* w, int activation,
               float* sum, void* panel) {
  char* out = static_cast<char*>(panel);
  Vec total[2] = {load(sum), load(sum + kLanes)};
  int row = 0;
  for (; row + 4 <= rows; row += 4) form_rows<4, Operand>(terms, count, row, n, own, w, activation, total, out);
  for (; row < rows; ++row) form_rows<1, Operand>(terms, count, row, n, own, w, activation, total, out);
  for (int j = 0; j < 2; ++j) store(total[j], sum + j * kLanes);
}
