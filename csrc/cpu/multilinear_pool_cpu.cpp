#include "cpu/multilinear_pool_cpu.h"

#include <algorithm>
#include <cstring>

#include "cpu/thread_pool.h"

namespace c2f {

// ---- rows
// ---------------------------------------------------------------------------------------------------------------

void Rows::take(Arena& arena, const MultilinearPoolProblem& problem, int64_t samples, int mr) {
  position = arena.take<int64_t>(samples * problem.L);
  tile_begin = arena.take<int64_t>(samples * ceil_div(problem.L, mr) + 1);
}

void Rows::fill(const MultilinearPoolProblem& problem, const void* mask, int64_t first, int64_t samples, int mr) {
  L = problem.L;
  count = tiles = 0;
  tile_begin[0] = 0;
  const uint8_t* keep = problem.mask == MaskKind::kBool ? static_cast<const uint8_t*>(mask) : nullptr;
  for (int64_t b = first; b < first + samples; ++b) {
    const int64_t begin = count;
    for (int64_t i = b * L; i < (b + 1) * L; ++i) {
      if (keep == nullptr || keep[i]) position[count++] = i;
    }
    const int64_t n = count - begin, parts = ceil_div(n, mr);
    if (n > 0 && tiles > 0 && count - tile_begin[tiles - 1] <= mr) {
      tile_begin[tiles] = count;  // the whole sample joins the tile before it
      continue;
    }
    for (int64_t i = 1; i <= parts; ++i) tile_begin[++tiles] = begin + n * i / parts;
  }
}

int64_t Rows::sample_end(int64_t row, int64_t end) const {
  const int64_t limit = (sample(row) + 1) * L;
  while (++row < end && position[row] < limit) {
  }
  return row;
}

int64_t Rows::run_end(int64_t row, int64_t end) const {
  const int64_t sample_limit = sample_end(row, end);
  while (++row < sample_limit && position[row] == position[row - 1] + 1) {
  }
  return row;
}

// ---- operands
// -----------------------------------------------------------------------------------------------------------

const void* Operands::feature(int m, int64_t position, int64_t c) const {
  const FeatureView& x = features[m];
  return element(x.data, problem, x.stride_b, x.stride_l, x.stride_c, position, c);
}

const float* Operands::row_weights(const Rows& rows, int64_t row) const {
  return problem.mask == MaskKind::kFloat ? static_cast<const float*>(mask) + rows.position[row] : nullptr;
}

void pack_weight_panel(const Operands& args, int m, int64_t j0, int n, float* out) {
  const WeightView& w = args.weights[m];
  if (args.problem.C[m] == 0) return;
  const char* data =
      static_cast<const char*>(w.data) + j0 * w.stride_d * static_cast<int64_t>(size_of(args.problem.dtype));
  args.kernels.pack_panel[args.dtype()](data, w.stride_c, w.stride_d, args.problem.C[m], n, out);
}

void pack_bias(const Operands& args, int m, int64_t j0, int64_t width, int64_t n, float* out) {
  std::fill(out, out + n, 0.0f);
  if (args.biases[m] != nullptr) std::copy(args.biases[m] + j0, args.biases[m] + j0 + width, out);
}

void project(const Operands& args, int m, const Rows& rows, int64_t t0, int64_t t1, const float* w, const float* bias,
             int64_t panels, float* a, float* u) {
  const Kernels& kernels = args.kernels;
  const FeatureView& x = args.features[m];
  const int64_t C = args.problem.C[m], tile = args.tile_floats(), tiles = t1 - t0, nr = kernels.nr;
  bool cols[kBlockRows];  // layout of each packed tile
  int64_t k0 = 0;
  do {
    const int64_t K = std::min(kBlockK, C - k0);
    for (int64_t t = 0; t < tiles; ++t) {
      cols[t] = false;
      if (K == 0) continue;
      const int64_t row = rows.tile_begin[t0 + t], end = rows.tile_begin[t0 + t + 1];
      const int n = static_cast<int>(end - row);
      float* out = a + t * kernels.mr * kBlockK;
      cols[t] = x.stride_c != 1 && x.stride_l == 1 && rows.run_end(row, end) == end;
      if (cols[t]) {
        kernels.pack_cols[args.dtype()](args.feature(m, rows.position[row], k0), x.stride_c, 1, n, K, out);
      } else {
        const void* source[kMaxTileRows];
        for (int i = 0; i < n; ++i) source[i] = args.feature(m, rows.position[row + i], k0);
        kernels.pack_rows[args.dtype()](source, n, x.stride_c, 0, K, out);
      }
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t n = rows.tile_begin[t0 + t + 1] - rows.tile_begin[t0 + t];
        const GemmFn gemm = cols[t] ? kernels.gemm_cols[n - 1] : kernels.gemm_rows[n - 1];
        gemm(K, a + t * kernels.mr * kBlockK, tile, w + (panel * C + k0) * nr, k0 == 0 ? bias + panel * nr : nullptr,
             u + (panel * tiles + t) * tile);
      }
    }
    k0 += kBlockK;
  } while (k0 < C);
  if (args.problem.activation == Activation::kNone) return;
  for (int64_t i = 0; i < panels * tiles; ++i) {
    const int64_t t = t0 + i % tiles, n = rows.tile_begin[t + 1] - rows.tile_begin[t];
    kernels.activate(static_cast<int>(args.problem.activation), n * nr, u + i * tile);
  }
}

void zero_excluded(const MultilinearPoolProblem& problem, const void* mask, const FeatureGradView& out, int64_t C,
                   int num_threads) {
  if (problem.mask != MaskKind::kBool || out.data == nullptr) return;
  const uint8_t* keep = static_cast<const uint8_t*>(mask);
  parallel_for(problem.B, num_threads, [&](int64_t b, int) {
    for (int64_t i = b * problem.L; i < (b + 1) * problem.L; ++i) {
      for (int64_t c = 0; !keep[i] && c < C; ++c) {
        std::memset(element(out.data, problem, out.stride_b, out.stride_l, out.stride_c, i, c), 0,
                    size_of(problem.dtype));
      }
    }
  });
}

// ---- scratch
// ------------------------------------------------------------------------------------------------------------

namespace {

// Floats of one factor's projections, a block of rows by one unit of columns.
int64_t unit_floats(const MultilinearPoolCpuPlan& plan, const Kernels& kernels) {
  return plan.unit_d * block_tiles(kernels.mr) * kernels.mr;
}

int64_t packed_floats(const Kernels& kernels) { return block_tiles(kernels.mr) * kernels.mr * kBlockK; }

}  // namespace

void FwdShared::take(Arena& arena, const MultilinearPoolProblem& problem, const Kernels& kernels, int num_threads) {
  rows.take(arena, problem, problem.B, kernels.mr);
  packed_unit = arena.take<int64_t>(int64_t{num_threads} * 8);
}

void FwdWorker::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  for (int m = 0; m < problem.M; ++m) {
    w[m] = arena.take<float>(plan.unit_d * problem.C[m]);
    bias[m] = arena.take<float>(plan.unit_d);
    u[m] = arena.take<float>(unit_floats(plan, kernels));
  }
  a = arena.take<float>(packed_floats(kernels));
}

void BwdShared::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  const int64_t nr = kernels.nr;
  rows.take(arena, problem, plan.chunk_b, kernels.mr);
  // Panels one after another must not start at the same cache set.
  row_capacity = ceil_div(plan.chunk_b * problem.L, 16) * 16 + kernels.mr;
  const int64_t blocks = ceil_div(plan.chunk_b * ceil_div(problem.L, kernels.mr), block_tiles(kernels.mr));
  const bool wide_sums = problem.dtype != DType::kFloat32 && plan.chunk_b < problem.B;
  for (int m = 0; m < problem.M; ++m) {
    const int64_t C = problem.C[m], c_panels = ceil_div(C, nr);
    w[m] = arena.take<float>(plan.chunk_d * C);
    w_transposed[m] = arena.take<float>(plan.chunk_d * c_panels * nr);
    bias[m] = arena.take<float>(plan.chunk_d);
    g[m] = arena.take<float>(plan.chunk_d * row_capacity);
    d_x[m] = arena.take<float>(c_panels * nr * row_capacity);
    d_bias[m] = arena.take<float>(blocks * plan.chunk_d);
    d_w[m] = wide_sums ? arena.take<float>(C * problem.D) : nullptr;
  }
}

void BwdWorker::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  for (int m = 0; m < problem.M; ++m) u[m] = arena.take<float>(unit_floats(plan, kernels));
  a = arena.take<float>(packed_floats(kernels));
  d_w = arena.take<float>(unit_floats(plan, kernels));
}

}  // namespace c2f
