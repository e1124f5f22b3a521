// The rows of falcon_loss for one instruction set. The including file has included its lanes_*.h and includes this file in an
// anonymous namespace inside c2f.
//
// Rows of scratch are whole vectors.

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Below this, sum_k exp(z_k - max z) exp(t_k - max t) may have lost terms that count: each is off by at most 2^-126 through
// underflow, and K_F of them stay below float32 rounding of a larger sum for every K_F up to 5e6.
constexpr float kLeastDot = 1e-24f;

// Calls step(k, vector of elements k, k + 1, ...) over a row of logits; past its end they are -inf.
template <typename T, typename Step>
void for_each_vector(const T* row, int64_t size, Step step) {
  int64_t k = 0;
  for (; k + kLanes <= size; k += kLanes) step(k, load(row + k));
  if (k < size) step(k, load_first(row + k, size - k, -kInfinity));
}

template <typename T>
float largest(const T* row, int64_t size) {
  constexpr int64_t kChains = 4;
  const int64_t whole = size / (kChains * kLanes) * (kChains * kLanes);
  Vec top[kChains];
  for (Vec& x : top) x = Vec{} - kInfinity;
  for (int64_t k = 0; k < whole; k += kChains * kLanes) {
#pragma GCC unroll 4
    for (int64_t c = 0; c < kChains; ++c) top[c] = larger_of(load(row + k + c * kLanes), top[c]);
  }
  for_each_vector(row + whole, size - whole, [&](int64_t, Vec x) { top[0] = larger_of(x, top[0]); });
  return largest_of(larger_of(larger_of(top[0], top[1]), larger_of(top[2], top[3])));
}

// out = exp((x - top) * factor), 0 past the end; returns its sum.
template <typename T>
float exp_row(const T* x, int64_t size, float top, float factor, float* out) {
  Vec sum{};
  for_each_vector(x, size, [&](int64_t k, Vec row) {
    const Vec e = exp_vector((row - top) * factor);
    store(e, out + k);
    sum += e;
  });
  return sum_of(sum);
}

// Fine classes in the group of sample i, ascending. `labelled`: whether it has a label at all.
int64_t find_group(const FalconLossFwdArgs& args, int64_t i, bool* labelled, int32_t* members) {
  const int64_t D = args.problem.D, K_F = args.problem.K_F;
  const int64_t* y = args.y + i * D;
  int64_t d = 0;
  while (d < D && y[d] < 0) ++d;
  *labelled = d < D;
  if (d == D || y[d] > INT32_MAX) return 0;

  const int32_t *g = args.g + d * K_F, label = static_cast<int32_t>(y[d]);
  int64_t count = 0, k = 0;
  for (; k + kLanes <= K_F; k += kLanes) {
    count += append_equal(g + k, label, static_cast<int32_t>(k), members + count);
  }
  for (; k < K_F; ++k) {
    if (g[k] == label) members[count++] = static_cast<int32_t>(k);
  }

  const auto under_all = [&](int32_t member) {
    for (int64_t other = d + 1; other < D; ++other) {
      if (y[other] >= 0 && args.g[other * K_F + member] != y[other]) return false;
    }
    return true;
  };
  int64_t common = 0;
  for (int64_t j = 0; j < count; ++j) common += under_all(members[j]);
  if (common == 0 || common == count) return count;
  int64_t kept = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (under_all(members[j])) members[kept++] = members[j];
  }
  return kept;
}

struct FalconScratch {
  float *p, *joint, *rest;                // [K_F] exp(z - max z), a neighbour's exp(z + t - ..), the neighbours' part of grad
  float *group_z, *group_s, *group_grad;  // [members] logits of the group, its part of grad
  int32_t* members;

  FalconScratch(float* begin, int64_t K_F) {
    const int64_t stride = falcon_row_floats(K_F);
    for (float** row : {&p, &joint, &rest, &group_z, &group_s, &group_grad}) {
      *row = begin;
      begin += stride;
    }
    members = reinterpret_cast<int32_t*>(begin);
  }
};

struct Row {
  float z_top, z_sum, log_z_sum;
  float coarse = 0, nn = 0, conf = 0;
  float share = 0;  // of joint in grad, not yet in rest
};

// coarse and conf, and group_grad = scale[0] p^G + scale[2] q.
template <typename T>
void group_terms(const FalconLossFwdArgs& args, const T* z, const T* s, int64_t size, const FalconScratch& to, Row* row) {
  for (int64_t j = 0; j < size; ++j) {
    to.group_z[j] = to_float(z[to.members[j]]);
    to.group_s[j] = to_float(s[to.members[j]]);
  }
  const float top = largest(to.group_z, size), sum = exp_row(to.group_z, size, top, 1, to.group_grad);
  row->coarse = (row->z_top - top) + __builtin_logf(row->z_sum / sum);

  const float s_top = largest(to.group_s, size);
  const float soft = args.tau / exp_row(to.group_s, size, s_top, 1 / args.temperature, to.joint);
  int64_t hard = 0;
  while (hard < size && to.group_s[hard] != s_top) ++hard;
  for (int64_t j = 0; j < size; ++j) {
    const float q = to.joint[j] * soft + (j == hard ? 1 - args.tau : 0);
    row->conf += q * (row->z_top - to.group_z[j] + row->log_z_sum);
    to.group_grad[j] = to.group_grad[j] * (args.scale[0] / sum) + args.scale[2] * q;
  }
}

// nn, and scale[1] mean_l softmax(z + t_l) as rest + share * joint. While one neighbour's exponentials are formed, the one before
// is added to rest and the one after is searched for its largest logit: memory and arithmetic overlap.
template <typename T>
void neighbour_terms(const FalconLossFwdArgs& args, const T* z, const int64_t* neighbours, int64_t count,
                     const FalconScratch& to, Row* row) {
  const int64_t K_F = args.problem.K_F, L = args.problem.L;
  const T* t = static_cast<const T*>(args.t);
  const auto next_of = [&](int64_t l) {
    do ++l;
    while (l < L && (neighbours[l] < 0 || neighbours[l] >= args.problem.N));
    return l;
  };
  int64_t l = next_of(-1);
  float t_top = largest(t + neighbours[l] * args.t_stride, K_F);
  while (l < L) {
    const int64_t after = next_of(l);
    const T *here = t + neighbours[l] * args.t_stride, *ahead = after < L ? t + neighbours[after] * args.t_stride : here;
    Vec sums{}, dots{}, tops = Vec{} - kInfinity;
    const float share = row->share;
    const auto step = [&](int64_t k, Vec x, Vec next) {
      store(load(to.rest + k) + load(to.joint + k) * share, to.rest + k);
      const Vec e = exp_vector(x - t_top), joint = load(to.p + k) * e;
      store(joint, to.joint + k);
      sums += e;
      dots += joint;
      tops = larger_of(next, tops);
    };
    int64_t k = 0;
    for (; k + kLanes <= K_F; k += kLanes) step(k, load(here + k), load(ahead + k));
    if (k < K_F) step(k, load_first(here + k, K_F - k, -kInfinity), load_first(ahead + k, K_F - k, -kInfinity));

    float dot = sum_of(dots);
    if (dot < kLeastDot) {  // z + t with its own maximum
      for_each_vector(z, K_F, [&](int64_t k, Vec x) { store(x - row->z_top, to.joint + k); });
      for_each_vector(here, K_F, [&](int64_t k, Vec x) { store(load(to.joint + k) + (x - t_top), to.joint + k); });
      const float top = largest(to.joint, K_F);
      dot = exp_row(to.joint, K_F, top, 1, to.joint);
      row->nn -= top;
    }
    row->nn += __builtin_logf(row->z_sum / dot * sum_of(sums));
    row->share = args.scale[1] / (static_cast<float>(count) * dot);
    t_top = largest_of(tops);
    l = after;
  }
  row->nn /= static_cast<float>(count);
}

template <typename T>
void forward_row(const FalconLossFwdArgs& args, int64_t i, bool first, float* scratch, float* mass, FalconFault* fault) {
  const int64_t K_F = args.problem.K_F, L = args.problem.L;
  const FalconScratch to(scratch, K_F);
  const T *z = static_cast<const T*>(args.z) + i * args.z_stride, *s = static_cast<const T*>(args.s) + i * args.s_stride;

  bool labelled;
  const int64_t group = find_group(args, i, &labelled, to.members);
  if (labelled && group == 0) {
    fault->empty_row = i < fault->empty_row ? i : fault->empty_row;
    labelled = false;
  }
  for (int64_t j = 0; j < group; ++j) __builtin_prefetch(s + to.members[j]);
  const int64_t* neighbours = args.neighbours + i * L;
  int64_t count = 0;
  for (int64_t l = 0; l < L; ++l) {
    const bool inside = neighbours[l] < args.problem.N;
    count += inside && neighbours[l] >= 0;
    if (!inside && neighbours[l] > fault->neighbour) fault->neighbour = neighbours[l];
  }

  Row row;
  row.z_top = largest(z, K_F);
  row.z_sum = exp_row(z, K_F, row.z_top, 1, to.p);
  row.log_z_sum = __builtin_logf(row.z_sum);
  if (labelled) group_terms(args, z, s, group, to, &row);
  for (int64_t k = 0; k < K_F; k += kLanes) {
    store(Vec{}, to.rest + k);
    store(Vec{}, to.joint + k);
  }
  if (count > 0) neighbour_terms(args, z, neighbours, count, to, &row);

  args.lse[i] = row.z_top + row.log_z_sum;
  args.value[i] = args.scale[0] * row.coarse + args.scale[1] * row.nn + args.scale[2] * row.conf;
  float* terms = args.terms + i * 3;
  terms[0] = row.coarse;
  terms[1] = row.nn;
  terms[2] = row.conf;

  const float norm = 1 / row.z_sum;
  for (int64_t k = 0; k < K_F; k += kLanes) {
    const Vec p = load(to.p + k) * norm;
    store(first ? p : load(mass + k) + p, mass + k);
  }
  if (args.grad == nullptr) return;
  const float total = norm * ((labelled ? args.scale[0] + args.scale[2] : 0) + (count > 0 ? args.scale[1] : 0));
  float* grad = args.grad + i * K_F;
  const auto part = [&](int64_t k) { return load(to.p + k) * total - load(to.rest + k) - load(to.joint + k) * row.share; };
  int64_t k = 0;
  for (; k + kLanes <= K_F; k += kLanes) store(part(k), grad + k);
  if (k < K_F) store_first(part(k), K_F - k, grad + k);
  for (int64_t j = 0; j < group; ++j) grad[to.members[j]] -= to.group_grad[j];
}

// p = exp(z - lse) over its own sum, which is 1 but for the rounding of lse.
template <typename T>
void backward_row(const FalconLossBwdArgs& args, int64_t i, float* p) {
  const int64_t K_F = args.problem.K_F, whole = K_F / kLanes * kLanes;
  const T* z = static_cast<const T*>(args.z) + i * args.z_stride;
  T* d_z = static_cast<T*>(args.d_z) + i * K_F;
  const float *grad = args.grad + i * K_F, lse = args.lse[i], d_value = args.d_value[i];
  Vec sums{}, dots{};
  const auto add = [&](Vec x, Vec d_mass, float* out) {
    const Vec e = exp_vector(x - lse);
    store(e, out);
    sums += e;
    dots += e * d_mass;
  };
  for (int64_t k = 0; k < whole; k += kLanes) add(load(z + k), load(args.d_mass + k), p + k);
  if (whole < K_F) {
    add(load_first(z + whole, K_F - whole, -kInfinity), load_first(args.d_mass + whole, K_F - whole, 0), p + whole);
  }
  const float norm = 1 / sum_of(sums), dot = sum_of(dots) * norm;
  const auto finish = [&](Vec e, Vec d_mass, Vec slope) { return slope * d_value + e * norm * (d_mass - dot); };
  for (int64_t k = 0; k < whole; k += kLanes) {
    store(finish(load(p + k), load(args.d_mass + k), load(grad + k)), d_z + k);
  }
  if (whole < K_F) {
    const int64_t n = K_F - whole;
    store_first(finish(load(p + whole), load_first(args.d_mass + whole, n, 0), load_first(grad + whole, n, 0)), n, d_z + whole);
  }
}

constexpr FalconRows kRows = {{forward_row<float>, forward_row<BFloat16>, forward_row<Float16>},
                              {backward_row<float>, backward_row<BFloat16>, backward_row<Float16>}};
