#include "cpu/class_attentive_cpu.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "cpu/cpu_features.h"
#include "cpu/thread_pool.h"

namespace c2f {

int threads_for(const ClassAttentiveProblem& problem, int num_threads) {
  constexpr int64_t kOneThread = 1 << 21;  // products of a forward: some 50 us
  return problem.A * problem.N * problem.d < kOneThread ? 1 : std::clamp(num_threads, 1, kMaxThreads);
}

const PairTiles& pair_tiles() {
#if C2F_HAS_AVX512
  if (cpu_isa() >= Isa::kAvx512) return kPairTilesAvx512;
#endif
#if C2F_HAS_AVX2
  if (cpu_isa() >= Isa::kAvx2) return kPairTilesAvx2;
#endif
  return kPairTilesPortable;
}

// ---- operands -----------------------------------------------------------------------------------

Pairs::Pairs(const ClassAttentiveProblem& problem, Arena& arena, bool backward)
    : kernels(cpu_kernels()), sweeps(pair_tiles()), d(problem.d), backward_(backward) {
  const int64_t mr = kernels.mr, nr = kernels.nr;
  const int64_t most_tiles = ceil_div(problem.A, mr), most_panels = ceil_div(problem.N, nr);
  anchor = arena.take<PairAnchor>(problem.A);
  run_begin = arena.take<int64_t>(std::min(problem.A, problem.C) + 1);
  key = arena.take<int64_t>(problem.N);
  sorted_ = arena.take<int64_t>(problem.N);
  key_label = arena.take<int32_t>(most_panels * problem.K * nr);
  z_rows = arena.take<float>(most_tiles * tile_floats());
  x_columns = arena.take<float>(most_panels * d * nr);
  z_columns = arena.take<float>(backward ? feature_tiles() * problem.A * mr : 0);
  x_rows = arena.take<float>(backward ? feature_panels() * most_panels * nr * nr : 0);

  least = problem.eps * problem.eps;
  weights.levels = static_cast<int>(problem.K);
  weights.parameter = problem.parameter;
  weights.inverse = 1 / problem.parameter;
  std::copy_n(problem.attract_weight, kMaxLevels + 1, weights.attract);
  std::copy_n(problem.repel_weight, kMaxLevels + 1, weights.repel);
}

Status Pairs::pack(const ClassAttentiveFwdArgs& args, int num_threads) {
  const ClassAttentiveProblem& problem = args.problem;
  const auto excluded = [&](int64_t i) { return args.classes[i] < 0; };
  order = std::partition_point(args.order, args.order + problem.A, excluded);
  classes = args.classes;
  v = args.v;
  anchors = args.order + problem.A - order;
  if (anchors > 0 && classes[order[anchors - 1]] >= problem.C) {
    return Status::error("class_attentive_supcon: classes must be below " + std::to_string(problem.C) +
                         ", the rows of v, got " + std::to_string(classes[order[anchors - 1]]));
  }
  for (int64_t j = 0; j < problem.N; ++j) {
    if (args.x_labels[j * problem.K] >= -1) key[keys++] = j;
  }
  for (int64_t i = 0; i < anchors; ++i) {
    const int64_t c = classes[order[i]];
    if (i > 0 && c < classes[order[i - 1]]) {
      return Status::error("class_attentive_supcon: order must list the anchors by class, got class " +
                           std::to_string(c) + " behind class " + std::to_string(classes[order[i - 1]]));
    }
    if (i == 0 || c != classes[order[i - 1]]) run_begin[runs++] = i;
    anchor[i].run = static_cast<int32_t>(runs - 1);
    const int64_t row = args.problem.first + order[i];
    const int64_t* at = std::lower_bound(key, key + keys, row);
    anchor[i].self = args.problem.first >= 0 && at < key + keys && *at == row ? at - key : -1;
  }
  run_begin[runs] = anchors;
  encode_labels(args);

  with_storage_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(tiles() + panels(), num_threads, [&](int64_t task, int) {
      if (task >= tiles()) return pack_panel<T>(args, task - tiles());
      const Span rows = anchors_of({task, task + 1});
      for (int64_t i = rows.begin; i < rows.end; ++i) pack_anchor<T>(args, i);
    });
  });
  return {};
}

// Labels become the ranks they have among those of the keys: 32 bits are enough to compare.
void Pairs::encode_labels(const ClassAttentiveFwdArgs& args) {
  constexpr int32_t kOfNoKey = -1, kUnknown = -2;
  const int64_t K = args.problem.K, nr = kernels.nr;
  std::fill_n(key_label, panels() * K * nr, kUnknown);
  for (int64_t level = 0; level < K; ++level) {
    int64_t* end = sorted_;
    for (int64_t j = 0; j < keys; ++j) {
      if (const int64_t label = args.x_labels[key[j] * K + level]; label >= 0) *end++ = label;
    }
    std::sort(sorted_, end);
    end = std::unique(sorted_, end);
    const auto rank = [&](int64_t label) { return std::lower_bound(sorted_, end, label); };
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t label = args.x_labels[key[j] * K + level];
      if (label >= 0) key_label[(j / nr * K + level) * nr + j % nr] = static_cast<int32_t>(rank(label) - sorted_);
    }
    for (int64_t i = 0; i < anchors; ++i) {
      const int64_t label = args.z_labels[order[i] * K + level];
      const int64_t* at = rank(label);
      anchor[i].label[level] = label >= 0 && at < end && *at == label ? static_cast<int32_t>(at - sorted_) : kOfNoKey;
    }
  }
}

template <typename T>
void Pairs::pack_anchor(const ClassAttentiveFwdArgs& args, int64_t i) {
  const int64_t mr = kernels.mr, nr = kernels.nr;
  const T* z = static_cast<const T*>(args.z) + order[i] * args.z_stride;
  const float* weight = v + classes[order[i]] * d;
  double sum = 0;
  for (int64_t e = 0; e < d; ++e) sum += weight[e] * to_float(z[e]) * to_float(z[e]);
  const float square = static_cast<float>(sum);
  const float scale = 1 / std::sqrt(square <= least ? least : square);
  anchor[i].inverse_norm = scale;
  anchor[i].inverse_square = square > least ? 1 / square : 0;

  float* rows = z_rows + i / mr * tile_floats() + i % mr * nr;
  for (int64_t e0 = 0; e0 < d; e0 += nr, rows += mr * nr) {
    const int64_t n = std::min(nr, d - e0);
    for (int64_t e = 0; e < n; ++e) rows[e] = weight[e0 + e] * to_float(z[e0 + e]) * scale;
  }
  if (!backward_) return;
  for (int64_t f = 0; f < feature_tiles(); ++f) {
    const Span features = features_of_tile(f);
    float* columns = z_columns + (f * anchors + i) * mr - features.begin;
    for (int64_t e = features.begin; e < features.end; ++e) columns[e] = weight[e] * to_float(z[e]) * scale;
  }
}

template <typename T>
void Pairs::pack_panel(const ClassAttentiveFwdArgs& args, int64_t panel) {
  const int64_t nr = kernels.nr, begin = panel * nr, n = std::min(nr, keys - begin);
  float* columns = x_columns + panel * d * nr;
  if (n < nr) std::fill_n(columns, d * nr, 0.0f);
  for (int64_t j = 0; j < n; ++j) {
    const T* x = static_cast<const T*>(args.x) + key[begin + j] * args.x_stride;
    for (int64_t e = 0; e < d; ++e) columns[e * nr + j] = to_float(x[e]);
  }
  for (int64_t f = 0; backward_ && f < feature_panels(); ++f) {
    const int64_t width = std::min(nr, d - f * nr);
    float* rows = x_rows + (f * panels() * nr + begin) * nr;
    std::fill_n(rows, nr * nr, 0.0f);
    for (int64_t j = 0; j < n; ++j) {
      const T* x = static_cast<const T*>(args.x) + key[begin + j] * args.x_stride + f * nr;
      for (int64_t e = 0; e < width; ++e) rows[j * nr + e] = to_float(x[e]);
    }
  }
}

// ---- block --------------------------------------------------------------------------------------

PairBlock::PairBlock(const Pairs& pairs, Arena& arena, bool backward) : pairs_(pairs) {
  const int64_t mr = pairs.kernels.mr, nr = pairs.kernels.nr;
  v_rows_ = arena.take<float>(ceil_div(kPairBlockRows, mr) * pairs.tile_floats());
  v_columns_ = arena.take<float>(backward ? pairs.feature_tiles() * kPairBlockRows * mr : 0);
  squares_ = arena.take<float>(kPairBlockRows * nr);
  scale_ = arena.take<float>(kPairBlockRows * nr);
  squared_ = arena.take<float>(kPairChunk * nr * nr);
  sums_ = arena.take<PairSums>(kPairBlockRows);
  if (!backward) v_columns_ = nullptr;
}

void PairBlock::open(Span tiles) {
  tiles_ = tiles;
  const Kernels& kernels = pairs_.kernels;
  const int64_t mr = kernels.mr, d = pairs_.d;
  for (int64_t first = 0; first < runs(); first += mr) {
    const void* row[kMaxTileRows];
    const int count = static_cast<int>(std::min(mr, runs() - first));
    for (int i = 0; i < count; ++i) {
      const int64_t member = pairs_.run_begin[first_run() + first + i];
      row[i] = pairs_.v + pairs_.classes[pairs_.order[member]] * d;
    }
    kernels.pack_rows[0](row, count, 1, 0, d, v_rows_ + first / mr * pairs_.tile_floats());
    for (int64_t f = 0; v_columns_ != nullptr && f < pairs_.feature_tiles(); ++f) {
      const Span features = pairs_.features_of_tile(f);
      for (int i = 0; i < count; ++i) {
        const float* from = static_cast<const float*>(row[i]);
        std::copy(from + features.begin, from + features.end, v_columns_ + (f * kPairBlockRows + first + i) * mr);
      }
    }
  }
}

PairKeys PairBlock::keys(int64_t panel) {
  const Kernels& kernels = pairs_.kernels;
  const int64_t mr = kernels.mr, nr = kernels.nr, d = pairs_.d;
  const int64_t most = 2 * nr;  // steps whose squares stay in the first cache
  for (int64_t e = 0; e == 0 || e < d; e += most) {
    const int64_t steps = std::min(most, d - e);
    pairs_.sweeps.square(pairs_.x_columns + (panel * d + e) * nr, steps * nr, squared_);
    for (int64_t first = 0; first < runs(); first += mr) {
      const int64_t count = std::min(mr, runs() - first);
      kernels.gemm_rows[count - 1](steps, v_rows_ + first / mr * pairs_.tile_floats() + e * mr, mr * nr, squared_,
                                   e == 0 ? kZeros : nullptr, squares_ + first * nr, nullptr);
    }
  }
  pairs_.sweeps.inverse(squares_, pairs_.least, runs() * nr, scale_);
  return {panel * nr, std::min(nr, pairs_.keys - panel * nr), pairs_.key_label + panel * pairs_.weights.levels * nr,
          scale_, static_cast<int32_t>(first_run())};
}

void PairBlock::products(int64_t tile, int64_t panel, float* out) const {
  const int64_t d = pairs_.d, nr = pairs_.kernels.nr;
  pairs_.kernels.gemm_rows[rows(tile) - 1](d, pairs_.z_rows + (tiles_.begin + tile) * pairs_.tile_floats(),
                                           pairs_.kernels.mr * nr, pairs_.x_columns + panel * d * nr, kZeros, out,
                                           nullptr);
}

void PairBlock::clear_sums() {
  for (int64_t i = 0; i < span().size(); ++i) {
    sums_[i] = {};
    sums_[i].shift = std::numeric_limits<float>::lowest();
  }
}

void PairBlock::flush_sums() {
  for (int64_t i = 0; i < span().size(); ++i) {
    for (float& lane : sums_[i].attract) sums_[i].attract_total += std::exchange(lane, 0.0f);
    for (float& lane : sums_[i].repel) sums_[i].repel_total += std::exchange(lane, 0.0f);
  }
}

}  // namespace c2f
