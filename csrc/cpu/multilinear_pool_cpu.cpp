#include "cpu/multilinear_pool_cpu.h"

#include <algorithm>
#include <cstring>

#include "cpu/thread_pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace c2f {

void prefer_huge_pages([[maybe_unused]] void* scratch, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = int64_t{2} << 20;
  char* begin = static_cast<char*>(scratch);
  begin += -reinterpret_cast<intptr_t>(begin) & (kHugePage - 1);
  const int64_t whole = (static_cast<char*>(scratch) + bytes - begin) / kHugePage * kHugePage;
  if (whole > 0) (void)madvise(begin, whole, MADV_HUGEPAGE);
#endif
}

// ---- rows ---------------------------------------------------------------------------------------

void Rows::take(Arena& arena, const MultilinearPoolProblem& problem, int64_t samples, const Kernels& kernels) {
  position = arena.take<int64_t>(samples * problem.L);
  tile_begin = arena.take<int64_t>(samples * ceil_div(problem.L, kernels.mr) + 1);
}

void Rows::fill(const MultilinearPoolProblem& problem, const void* mask, int64_t first, int64_t samples,
                const Kernels& kernels) {
  const int64_t mr = kernels.mr, step = kernels.row_step;
  L = problem.L;
  count = tiles = 0;
  tile_begin[0] = 0;
  const uint8_t* keep = problem.mask == MaskKind::kBool ? static_cast<const uint8_t*>(mask) : nullptr;
  for (int64_t b = first; b < first + samples; ++b) {
    const int64_t begin = count;
    for (int64_t i = b * L; i < (b + 1) * L; ++i) {
      if (keep == nullptr || keep[i]) position[count++] = i;
    }
    const int64_t n = count - begin, parts = ceil_div(n, mr), steps = ceil_div(n, step);
    if (n > 0 && tiles > 0 && count - tile_begin[tiles - 1] <= mr) {
      tile_begin[tiles] = count;  // the whole sample joins the tile before it
      continue;
    }
    for (int64_t i = 1; i <= parts; ++i) tile_begin[++tiles] = begin + std::min(n, steps * i / parts * step);
  }
}

int64_t Rows::sample_end(int64_t row, int64_t end) const {
  const int64_t limit = (sample(row) + 1) * L;
  if (position[end - 1] < limit) return end;
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

int threads_worth(const MultilinearPoolProblem& problem, int num_threads) {
  constexpr int64_t kFewMultiplyAdds = 1 << 20;
  int64_t channels = 0;
  for (int m = 0; m < problem.M; ++m) channels += problem.C[m];
  const double multiply_adds = static_cast<double>(problem.B * problem.L) * static_cast<double>(problem.D * channels);
  return multiply_adds < kFewMultiplyAdds ? 1 : num_threads;
}

// ---- operands -----------------------------------------------------------------------------------

const void* Operands::feature(int m, int64_t position, int64_t c) const {
  const FeatureView& x = features[m];
  return element(x.data, problem, x.stride_b, x.stride_l, x.stride_c, position, c);
}

const float* Operands::row_weights(const Rows& rows, int64_t row) const {
  return problem.mask == MaskKind::kFloat ? static_cast<const float*>(mask) + rows.position[row] : nullptr;
}

namespace {

constexpr int64_t kWeightSteps = 32;  // of k, packed for all columns before the next: few streams are read at once

// Packs steps k .. k + K, at most kWeightSteps, of columns j0 .. j0 + width of W_m. `out`: their place in the first
// panel, `panel_steps`: steps of a panel.
void pack_steps(const Operands& args, int m, int64_t k, int64_t K, int64_t j0, int64_t width, int64_t panel_steps,
                void* out) {
  const int64_t nr = args.kernels.nr, bytes = static_cast<int64_t>(size_of(args.problem.dtype));
  const WeightView& w = args.weights[m];
  for (int64_t j = 0; j < width; j += nr) {
    const char* from = static_cast<const char*>(w.data) + (k * w.stride_c + (j0 + j) * w.stride_d) * bytes;
    const char* ahead = from + kWeightSteps * w.stride_c * bytes;  // may lie behind the end: it is only fetched
    for (int64_t i = 0; i < K && w.stride_d == 1; ++i, ahead += w.stride_c * bytes) {
      for (int64_t line = 0; line < nr * bytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    }
    args.kernels.pack_panel[args.dtype()](from, w.stride_c, w.stride_d, K, static_cast<int>(std::min(nr, width - j)),
                                          args.packed(out, j * panel_steps));
  }
}

}  // namespace

void pack_weights(const Operands& args, int64_t j0, int64_t width, void* const* out, int num_threads) {
  int64_t begin[kMaxFactors + 1] = {};
  for (int m = 0; m < args.problem.M; ++m) begin[m + 1] = begin[m] + ceil_div(args.problem.C[m], kWeightSteps);
  parallel_for(begin[args.problem.M], num_threads, [&](int64_t task, int) {
    int m = 0;
    while (task >= begin[m + 1]) ++m;
    const int64_t k = (task - begin[m]) * kWeightSteps, C = args.problem.C[m];
    pack_steps(args, m, k, std::min(kWeightSteps, C - k), j0, width, args.padded(C),
               args.packed(out[m], k * args.kernels.nr));
  });
}

void pack_bias(const Operands& args, int m, int64_t j0, int64_t width, int64_t n, float* out) {
  std::fill(out, out + n, 0.0f);
  if (args.biases[m] != nullptr) std::copy(args.biases[m] + j0, args.biases[m] + j0 + width, out);
}

namespace {

// Packs steps k0 .. k0 + K of the block's features, tile i at i * stride elements. Where channels are apart, a few of
// them are packed for all tiles before the next: that reads neighbouring positions one after another.
void pack_features(const Operands& args, int m, const Rows& rows, int64_t k0, int64_t K, int64_t stride, Block* block) {
  constexpr int64_t kSteps = 64;
  const FeatureView& x = args.features[m];
  const int64_t step_bytes = x.stride_c * static_cast<int64_t>(size_of(args.problem.dtype));
  const int64_t most = x.stride_c == 1 ? std::max<int64_t>(K, 1) : kSteps;
  const void* source[kMaxBlockTiles][kMaxTileRows];
  for (int64_t k = 0; k < K; k += most) {
    const int64_t steps = std::min(most, K - k);
    for (int64_t i = 0; i < block->tiles(); ++i) {
      const int64_t row = rows.tile_begin[block->t0 + i], end = rows.tile_begin[block->t0 + i + 1];
      const int n = static_cast<int>(end - row);
      void* out = args.packed(block->a[m], i * stride);
      bool& cols = block->cols[m][i];
      if (k == 0) {
        for (int j = 0; j < n; ++j) source[i][j] = args.feature(m, rows.position[row + j], k0);
        cols =
            args.kernels.gemm_cols[0] != nullptr && x.stride_c != 1 && x.stride_l == 1 && rows.run_end(row, end) == end;
      }
      if (cols) {
        args.kernels.pack_cols[args.dtype()](source[i][0], x.stride_c, 1, n, steps,
                                             args.packed(out, k * args.kernels.mr));
      } else {
        args.kernels.pack_rows[args.dtype()](source[i], n, x.stride_c, k, steps, out);
      }
      for (int j = 0; j < n; ++j) source[i][j] = static_cast<const char*>(source[i][j]) + steps * step_bytes;
    }
  }
}

}  // namespace

void stage(const Operands& args, const Rows& rows, Block* block) {
  for (int m = 0; m < args.problem.M; ++m) {
    const int64_t C = args.problem.C[m];
    pack_features(args, m, rows, 0, C, args.kernels.mr * staged_steps(C, args.kernels), block);
  }
}

void project(const Operands& args, int m, const Rows& rows, Block* block, int64_t j0, int64_t width, void* w,
             const void* next, const float* bias, float* u) {
  const Kernels& kernels = args.kernels;
  const int64_t C = args.problem.C[m], tile = args.tile_floats(), tiles = block->tiles(), nr = kernels.nr;
  const int64_t panels = ceil_div(width, nr);
  const int64_t stride = kernels.mr * (block->staged ? staged_steps(C, kernels) : kernels.block_k);
  const int64_t panel_stride = (w == nullptr ? kernels.block_k : args.padded(C)) * nr;
  int64_t k0 = 0;
  do {
    const int64_t K = std::min(kernels.block_k, C - k0);
    if (!block->staged) pack_features(args, m, rows, k0, K, stride, block);
    const int64_t ahead_bytes = ceil_div(K, nr) * kAheadBytes;
    const int64_t panel_bytes = args.padded(K) * nr * kernels.operand_bytes;
    for (int64_t k = 0; w == nullptr && k < K; k += kWeightSteps) {
      pack_steps(args, m, k0 + k, std::min(kWeightSteps, K - k), j0, width, kernels.block_k,
                 args.packed(block->w, k * nr));
    }
    void* b = w == nullptr ? block->w : args.packed(w, k0 * nr);  // this block of k in the first panel
    for (int64_t panel = 0; panel < panels; ++panel) {
      const char* ahead = static_cast<const char*>(next);
      if (panel + 1 < panels) {
        ahead = args.packed(b, (panel + 1) * panel_stride);
      } else if (k0 + K < C) {
        ahead = w == nullptr ? nullptr : args.packed(b, K * nr);
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t t = block->t0 + i, n = rows.tile_begin[t + 1] - rows.tile_begin[t];
        const GemmFn gemm = K > 0 && block->cols[m][i] ? kernels.gemm_cols[n - 1] : kernels.gemm_rows[n - 1];
        const bool fetch = ahead != nullptr && i * ahead_bytes < panel_bytes;
        gemm(K, args.packed(block->a[m], i * stride + (block->staged ? k0 * kernels.mr : 0)), tile,
             args.packed(b, panel * panel_stride), k0 == 0 ? bias + panel * nr : nullptr,
             u + (panel * tiles + i) * tile, fetch ? ahead + i * ahead_bytes : nullptr);
      }
    }
    k0 += kernels.block_k;
  } while (k0 < C);
  if (args.problem.activation == Activation::kNone) return;
  for (int64_t i = 0; i < panels * tiles; ++i) {
    const int64_t t = block->t0 + i % tiles, n = rows.tile_begin[t + 1] - rows.tile_begin[t];
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

// ---- scratch ------------------------------------------------------------------------------------

namespace {

// What a Worker has of a Block, and projections of it by a unit.
template <typename Worker>
void take_block(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                const Kernels& kernels, Worker* worker) {
  const int64_t bytes = kernels.operand_bytes;
  for (int m = 0; m < problem.M; ++m) {
    const int64_t steps = plan.staged ? staged_steps(problem.C[m], kernels) : kernels.block_k;
    worker->a[m] = plan.staged || m == 0 ? arena.take<char>(plan.block_rows * steps * bytes) : worker->a[0];
  }
  worker->w = plan.packs_units ? arena.take<char>(plan.unit_d * kernels.block_k * bytes) : nullptr;
  for (int m = 0; m < problem.M; ++m) worker->u[m] = arena.take<float>(plan.unit_d * plan.block_rows);
}

// Packed weights of one factor and `columns`, null where tasks pack them.
void* take_weights(Arena& arena, const MultilinearPoolCpuPlan& plan, const Kernels& kernels, int64_t C,
                   int64_t columns) {
  return plan.packs_units ? nullptr : arena.take<char>(columns * padded(C, kernels) * kernels.operand_bytes);
}

}  // namespace

void FwdShared::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  rows.take(arena, problem, problem.B, kernels);
  for (int m = 0; m < problem.M; ++m) {
    w[m] = take_weights(arena, plan, kernels, problem.C[m], plan.fwd_chunk_d);
    bias[m] = arena.take<float>(plan.fwd_chunk_d);
  }
}

void FwdWorker::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  take_block(arena, problem, plan, kernels, this);
}

void BwdShared::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  const int64_t nr = kernels.nr, bytes = kernels.operand_bytes;
  rows.take(arena, problem, plan.chunk_b, kernels);
  // Panels one after another must not start at the same cache set: rows of 64 bytes or more, an odd number of mr.
  const int64_t chunk_rows = plan.chunk_b * problem.L;
  row_capacity = ceil_div(chunk_rows, 64) * 64 + kernels.mr;
  const int64_t blocks = ceil_div(plan.chunk_b * ceil_div(problem.L, kernels.mr), plan.block_rows / kernels.mr);
  k_capacity = ceil_div(chunk_rows, nr) * nr;
  const bool wide_sums = problem.dtype != DType::kFloat32 && plan.chunk_b < problem.B;
  for (int m = 0; m < problem.M; ++m) {
    const int64_t C = problem.C[m], c_panels = ceil_div(C, nr);
    const bool prepacked = kernels.pack_grad != nullptr;
    x[m] = prepacked ? arena.take<char>(ceil_div(C, kernels.mr) * kernels.mr * k_capacity * bytes) : nullptr;
    w[m] = take_weights(arena, plan, kernels, C, plan.chunk_d);
    w_transposed[m] = arena.take<char>(plan.chunk_d * c_panels * nr * bytes);
    bias[m] = arena.take<float>(plan.chunk_d);
    g[m] = arena.take<char>(plan.chunk_d * row_capacity * bytes);
    d_x[m] = arena.take<float>(c_panels * nr * row_capacity);
    d_bias[m] = arena.take<float>(blocks * plan.chunk_d);
    d_w[m] = wide_sums ? arena.take<float>(C * problem.D) : nullptr;
  }
}

void BwdWorker::take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
                     const Kernels& kernels) {
  const int64_t bytes = kernels.operand_bytes;
  take_block(arena, problem, plan, kernels, this);
  const bool prepacked = kernels.pack_grad != nullptr;
  channels = prepacked ? nullptr : arena.take<char>(plan.product_channels * kernels.block_k * bytes);
  panels = prepacked ? arena.take<char>(kernels.block_k * plan.product_d * bytes) : nullptr;
  d_w = arena.take<float>(plan.product_d * plan.product_channels);
}

}  // namespace c2f
