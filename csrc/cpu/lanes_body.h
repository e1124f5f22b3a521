// The vector type of an instruction set and what every kernel needs on it. lanes_portable.h, lanes_avx2.h and lanes_avx512.h
// define, in an anonymous namespace inside c2f,
//   kLanes                       floats of a vector register
//   load_f16, store_f16          a vector of float16 to and from float32
//   larger_of                    the larger of each two lanes; the second where one is NaN
//   sum_of, largest_of           of the lanes of one vector
//   transpose                    lane i of vector j -> lane j of vector i, of kLanes vectors
//   append_equal                 appends base + i to out for each of kLanes integers x[i] equal to a value; returns how
//                                many. Writes up to kLanes integers.
// and include this file there: everything has internal linkage, so that no copy compiled for AVX-512 runs elsewhere.

using Vec = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Bits = uint32_t __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Half = uint16_t __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

inline Vec load(const float* x) { return *reinterpret_cast<const Vec*>(x); }
inline Vec load(const BFloat16* x) {
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const Half*>(x), Bits) << 16);
}
inline Vec load(const Float16* x) { return load_f16(x); }

inline void store(Vec x, float* out) { *reinterpret_cast<Vec*>(out) = x; }
inline void store(Vec x, BFloat16* out) {
  const Bits bits = (Bits)x;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  *reinterpret_cast<Half*>(out) = __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded, Half);
}
inline void store(Vec x, Float16* out) { store_f16(x, out); }

// The first n < kLanes elements, the rest `fill`; and the first n stored.
template <typename T>
Vec load_first(const T* x, int64_t n, float fill) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? to_float(x[i]) : fill;
  return load(lanes);
}
template <typename T>
void store_first(Vec x, int64_t n, T* out) {
  float lanes[kLanes];
  store(x, lanes);
  for (int64_t i = 0; i < n; ++i) from_float(lanes[i], out + i);
}

// n <= kLanes elements at a stride, the rest 0.
template <typename T>
Vec load_at(const T* x, int64_t stride, int64_t n) {
  if (stride == 1) return n == kLanes ? load(x) : load_first(x, n, 0.0f);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = to_float(x[i * stride]);
  return load(lanes);
}

// exp(x) for x <= 88, 2 ulp, Cephes' float32 polynomial; 0 below the smallest normal number, NaN for NaN.
inline Vec exp_vector(Vec x) {
  const Vec shifted = x * 1.44269504f + 0x1.8p23f;  // rounds to an integer in the low bits
  const Vec n = shifted - 0x1.8p23f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const Vec tail = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
                    1.6666665459e-1f) * r + 5.0000001201e-1f;
  const Vec exp_r = (tail * r + 1.0f) * r + 1.0f;
  const Vec exp_x = exp_r * (Vec)(((Bits)shifted << 23) + 0x3f800000u);
  return x < -87.3365f ? Vec{} : exp_x;
}
