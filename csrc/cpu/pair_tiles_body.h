// The tiles of class_attentive_supcon for one instruction set. The including file has included its lanes_*.h and includes
// this file in an anonymous namespace inside c2f.

constexpr int kNr = 2 * kLanes;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Ints = int32_t __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
inline Ints load_ints(const int32_t* x) { return *reinterpret_cast<const Ints*>(x); }

struct Weights {
  Vec attract, repel;
};

// The weights of the pairs of an anchor with kLanes keys: those of the first level on which labels differ, the last where none does.
inline Weights weights_of(const PairWeights& of, const PairAnchor& anchor, const int32_t* key_label) {
  Weights w{of.attract[of.levels] - Vec{}, of.repel[of.levels] - Vec{}};
  for (int l = of.levels - 1; l >= 0; --l) {
    const Ints same = load_ints(key_label + l * kNr) == anchor.label[l];
    w.attract = same ? w.attract : of.attract[l] - Vec{};
    w.repel = same ? w.repel : of.repel[l] - Vec{};
  }
  return w;
}

// Lanes that are keys of this anchor.
inline Ints kept(const PairAnchor& anchor, const PairKeys& keys, int column) {
  Ints lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = column + i;
  const int64_t self = anchor.self - keys.begin;
  const int32_t count = static_cast<int32_t>(keys.count), own = self >= 0 && self < kNr ? static_cast<int32_t>(self) : -1;
  return (lane < count) & (lane != own);
}

// Whether all columns are keys of this anchor.
inline bool whole(const PairAnchor& anchor, const PairKeys& keys) {
  return keys.count == kNr && static_cast<uint64_t>(anchor.self - keys.begin) >= static_cast<uint64_t>(kNr);
}

// `shift` is the largest term so far: a sum over one key is that key's term, to the bit.
inline void raise_shift(const Vec* terms, PairSums* sums) {
  const float top = largest_of(larger_of(terms[0], terms[1]));
  if (!(top > sums->shift)) return;
  const float factor = exp_vector(Vec{} + (sums->shift - top))[0];
  store(load(sums->repel) * factor, sums->repel);
  sums->repel_total *= factor;
  sums->shift = top;
}

template <Repulsion kForm, bool kWhole>
inline void forward_row(const PairWeights& of, const PairAnchor& anchor, const PairKeys& keys, const float* row,
                        PairSums* sums) {
  const float* scale = keys.scale + int64_t{anchor.run - keys.first_run} * kNr;
  Vec attract = load(sums->attract), term[2];
  Weights w[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    Vec sim = load(row + j * kLanes) * load(scale + j * kLanes);
    w[j] = weights_of(of, anchor, keys.label + j * kLanes);
    if constexpr (!kWhole) {
      const Ints keep = kept(anchor, keys, j * kLanes);
      sim = keep ? sim : Vec{};
      w[j].attract = keep ? w[j].attract : Vec{};
      w[j].repel = keep ? w[j].repel : Vec{};
    }
    attract += w[j].attract * sim;
    term[j] = kForm == Repulsion::kHinge ? larger_of(Vec{}, sim - of.parameter) : sim * of.inverse;
  }
  store(attract, sums->attract);
  if constexpr (kForm == Repulsion::kLogSumExp) {
    for (int j = 0; j < 2; ++j) term[j] = w[j].repel > 0.0f ? term[j] : Vec{} - kInfinity;
    raise_shift(term, sums);
    for (int j = 0; j < 2; ++j) term[j] = exp_vector(term[j] - sums->shift);
  }
  store(load(sums->repel) + w[0].repel * term[0] + w[1].repel * term[1], sums->repel);
}

template <Repulsion kForm>
void forward_tile(const PairWeights& of, const PairAnchor* anchor, int rows, const PairKeys& keys, const float* tile,
                  PairSums* sums) {
  for (int i = 0; i < rows; ++i) {
    const auto run = whole(anchor[i], keys) ? forward_row<kForm, true> : forward_row<kForm, false>;
    run(of, anchor[i], keys, tile + i * kNr, sums + i);
  }
}

template <Repulsion kForm, bool kWhole>
inline void backward_row(const PairWeights& of, const PairAnchor& anchor, const PairKeys& keys, float* row,
                         float* of_run, PairSums* sums) {
  const int64_t run = int64_t{anchor.run - keys.first_run} * kNr;
  Vec total = load(sums->attract);
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const int64_t at = run + j * kLanes;
    const Vec scale = load(keys.scale + at);
    Vec sim = load(row + j * kLanes) * scale;
    const Weights w = weights_of(of, anchor, keys.label + j * kLanes);
    Vec slope;
    if constexpr (kForm == Repulsion::kHinge) {
      slope = sim > of.parameter ? w.repel : Vec{};
    } else {  // where a weight is 0 the exponential may be beyond float32
      const Vec term = sim * of.inverse - anchor.repel;
      slope = w.repel * exp_vector(w.repel > 0.0f ? term : Vec{} - kInfinity);
    }
    Vec s = w.attract * anchor.d_attract + slope * anchor.d_repel;
    if constexpr (!kWhole) {
      const Ints keep = kept(anchor, keys, j * kLanes);
      sim = keep ? sim : Vec{};
      s = keep ? s : Vec{};
    }
    const Vec product = s * sim;
    total += product;
    store(load(of_run + at) + product, of_run + at);
    store(s * scale, row + j * kLanes);
  }
  store(total, sums->attract);
}

template <Repulsion kForm>
void backward_tile(const PairWeights& of, const PairAnchor* anchor, int rows, const PairKeys& keys, float* tile,
                   float* of_run, PairSums* sums) {
  for (int i = 0; i < rows; ++i) {
    const auto run = whole(anchor[i], keys) ? backward_row<kForm, true> : backward_row<kForm, false>;
    run(of, anchor[i], keys, tile + i * kNr, of_run, sums + i);
  }
}

void square(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(load(x + i) * load(x + i), out + i);
}

void inverse(const float* squares, float least, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1.0f / __builtin_sqrtf(squares[i] <= least ? least : squares[i]);
}

void divide(const float* squares, float least, int64_t n, float* of_run) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec x = load(squares + i);
    store(x > least ? load(of_run + i) / x : Vec{}, of_run + i);
  }
}

void subtract_product(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(load(out + i) - load(a + i) * load(b + i), out + i);
}

void add(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(load(out + i) + load(x + i), out + i);
}

constexpr PairTiles kPairTiles = {{forward_tile<Repulsion::kLogSumExp>, forward_tile<Repulsion::kHinge>},
                                  {backward_tile<Repulsion::kLogSumExp>, backward_tile<Repulsion::kHinge>},
                                  square,
                                  inverse,
                                  divide,
                                  subtract_product,
                                  add};
