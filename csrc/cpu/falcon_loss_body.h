// The rows of falcon_loss for one instruction set. The including file has included its lanes_*.h and includes this file in an
// anonymous namespace inside c2f.
//
// Rows of scratch are whole vectors. Past K_F logits are -inf, so that their exp is 0 and no loop but the first and the last
// over a row has a remainder.

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Below this, sum_k exp(z_k - max z) exp(t_k - max t) may have lost terms that count: each is off by at most 2^-126 through
// underflow, and K_F of them stay below float32 rounding of a larger sum for every K_F up to 5e6.
constexpr float kLeastDot = 1e-24f;

// out = row as float32; returns its largest.
template <typename T>
float copy_row(const T* row, int64_t size, float* out) {
  constexpr int kChains = 4;
  Vec top[kChains];
  for (Vec& x : top) x = Vec{} - kInfinity;
  int64_t k = 0;
  for (; k + kChains * kLanes <= size; k += kChains * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const Vec x = load(row + k + c * kLanes);
      store(x, out + k + c * kLanes);
      top[c] = x > top[c] ? x : top[c];
    }
  }
  for (; k < size; k += kLanes) {
    const Vec x = k + kLanes <= size ? load(row + k) : load_first(row + k, size - k, -kInfinity);
    store(x, out + k);
    top[0] = x > top[0] ? x : top[0];
  }
  for (int c = 1; c < kChains; ++c) top[0] = top[c] > top[0] ? top[c] : top[0];
  return largest_of(top[0]);
}

// out = exp((x - top) * factor); returns its sum.
float exp_row(const float* x, int64_t size, float top, float factor, float* out) {
  Vec sum{};
  for (int64_t k = 0; k < size; k += kLanes) {
    const Vec e = exp_vector((load(x + k) - top) * factor);
    store(e, out + k);
    sum += e;
  }
  return sum_of(sum);
}

// out[j] = row[members[j]], padded to a whole vector; returns the largest.
float gather(const float* row, const int32_t* members, int64_t size, float* out) {
  for (int64_t j = 0; j < size; ++j) out[j] = row[members[j]];
  return copy_row(out, size, out);
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
    for (unsigned mask = equal_mask(g + k, label); mask != 0; mask &= mask - 1) {
      members[count++] = static_cast<int32_t>(k + __builtin_ctz(mask));
    }
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

template <typename T>
void forward_row(const FalconLossFwdArgs& args, int64_t i, bool first, float* scratch, float* mass, FalconFault* fault) {
  const FalconLossProblem& problem = args.problem;
  const int64_t K_F = problem.K_F, L = problem.L, stride = falcon_row_floats(K_F);
  float *z = scratch, *p = z + stride, *t = p + stride, *v = t + stride, *pull = v + stride, *rest = pull + stride;
  int32_t* members = reinterpret_cast<int32_t*>(rest + stride);
  const T *z_row = static_cast<const T*>(args.z) + i * args.z_stride,
          *s_row = static_cast<const T*>(args.s) + i * args.s_stride;

  bool labelled;
  const int64_t group = find_group(args, i, &labelled, members);
  for (int64_t j = 0; j < group; ++j) __builtin_prefetch(s_row + members[j]);
  if (labelled && group == 0) {
    fault->empty_row = i < fault->empty_row ? i : fault->empty_row;
    labelled = false;
  }

  const float z_top = copy_row(z_row, K_F, z);
  const float z_sum = exp_row(z, K_F, z_top, 1, p), log_z_sum = __builtin_logf(z_sum);

  // The group: pull = scale[0] p^G + scale[2] q on its members.
  float coarse = 0, conf = 0;
  if (labelled) {
    const float top = gather(z, members, group, t), sum = exp_row(t, group, top, 1, v);
    coarse = (z_top - top) + __builtin_logf(z_sum / sum);
    for (int64_t j = 0; j < group; j += kLanes) store(load(v + j) * (args.scale[0] / sum), pull + j);

    for (int64_t j = 0; j < group; ++j) rest[j] = to_float(s_row[members[j]]);
    const float s_top = copy_row(rest, group, rest);
    const float soft = args.tau / exp_row(rest, group, s_top, 1 / args.temperature, v);
    int64_t hard = 0;
    while (hard + 1 < group && rest[hard] != s_top) ++hard;
    if (rest[hard] != s_top) hard = 0;
    for (int64_t j = 0; j < group; j += kLanes) store(load(v + j) * soft, v + j);
    v[hard] += 1 - args.tau;
    for (int64_t j = 0; j < group; ++j) {
      conf += v[j] * (z_top - t[j] + log_z_sum);
      pull[j] += args.scale[2] * v[j];
    }
  }

  // The neighbours: rest = scale[1] mean_l softmax(z + t_l).
  const int64_t* neighbours = args.neighbours + i * L;
  int64_t count = 0;
  for (int64_t l = 0; l < L; ++l) {
    if (neighbours[l] >= problem.N) {
      fault->neighbour = neighbours[l] > fault->neighbour ? neighbours[l] : fault->neighbour;
    } else {
      count += neighbours[l] >= 0;
    }
  }
  for (int64_t k = 0; k < K_F; k += kLanes) store(Vec{}, rest + k);
  float nn = 0;
  for (int64_t l = 0; l < L; ++l) {
    if (neighbours[l] < 0 || neighbours[l] >= problem.N) continue;
    const float t_top = copy_row(static_cast<const T*>(args.t) + neighbours[l] * args.t_stride, K_F, t);
    Vec sums{}, dots{};
    for (int64_t k = 0; k < K_F; k += kLanes) {
      const Vec e = exp_vector(load(t + k) - t_top), joint = load(p + k) * e;
      store(joint, v + k);
      sums += e;
      dots += joint;
    }
    const float t_sum = sum_of(sums);
    float dot = sum_of(dots);
    if (dot < kLeastDot) {  // z + t with its own maximum
      for (int64_t k = 0; k < K_F; k += kLanes) store((load(z + k) - z_top) + (load(t + k) - t_top), t + k);
      const float top = copy_row(t, K_F, t);
      dot = exp_row(t, K_F, top, 1, v);
      nn -= top;
    }
    nn += __builtin_logf(z_sum / dot * t_sum);
    if (args.grad == nullptr) continue;
    const float share = args.scale[1] / (static_cast<float>(count) * dot);
    for (int64_t k = 0; k < K_F; k += kLanes) store(load(rest + k) + load(v + k) * share, rest + k);
  }
  if (count > 0) nn /= static_cast<float>(count);

  args.lse[i] = z_top + log_z_sum;
  args.value[i] = args.scale[0] * coarse + args.scale[1] * nn + args.scale[2] * conf;
  float* terms = args.terms + i * 3;
  terms[0] = coarse;
  terms[1] = nn;
  terms[2] = conf;

  const float total = (labelled ? args.scale[0] + args.scale[2] : 0) + (count > 0 ? args.scale[1] : 0), norm = 1 / z_sum;
  float* grad = args.grad + i * K_F;
  for (int64_t k = 0; k < K_F; k += kLanes) {
    const Vec share = load(p + k) * norm;
    store(first ? share : load(mass + k) + share, mass + k);
    if (args.grad == nullptr) continue;
    const Vec row = share * total - load(rest + k);
    if (k + kLanes <= K_F) {
      store(row, grad + k);
    } else {
      store_first(row, K_F - k, grad + k);
    }
  }
  if (args.grad == nullptr || !labelled) return;
  for (int64_t j = 0; j < group; ++j) grad[members[j]] -= pull[j];
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
