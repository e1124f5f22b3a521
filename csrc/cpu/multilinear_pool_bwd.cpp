// Backward of multilinear_pool on the CPU, in passes of chunk_b samples and, inside, chunk_d columns:
//   1. pack the chunk's weights, as they are and transposed;
//   2. G: each task projects (or loads) a block of rows by a unit of columns and forms its G_m in panels [rows][nr] of
//      operands;
//   3. d_feature and d_weight, from the panels: as A operand (rows over columns) and as B operand (columns over rows).
// Every output tile has one owner and one order of sums: k blocks, chunks, passes. d_feature is summed in float32
// scratch and written after the last chunk; d_weight is summed over passes in the output, or in scratch where that is
// 16 bits wide.
#include <algorithm>

#include "cpu/multilinear_pool_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

// One term of G_m: d_p[q] times the other factors of interaction q.
struct Term {
  int32_t q, others;
  int32_t factor[kMaxDegree];
};

class Backward {
 public:
  Backward(const MultilinearPoolBwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch, int num_threads)
      : args_(args),
        plan_(plan),
        problem_(args.problem),
        kernels_(cpu_kernels(args.problem.dtype, args.problem.precision)),
        operands_{kernels_, problem_, args.features, args.weights, args.biases, args.mask},
        num_threads_(threads_worth(args.problem, num_threads)),
        tiles_per_block_(plan.block_rows / kernels_.mr) {
    Arena arena(scratch), count(nullptr);
    shared_.take(arena, problem_, plan, kernels_);
    workers_ = static_cast<char*>(scratch) + arena.used();
    BwdWorker().take(count, problem_, plan, kernels_);
    worker_bytes_ = count.used();
    const InteractionSet& set = problem_.interactions;
    for (int q = 0; q < set.count; ++q) {
      for (int k = 0; k < set.degree[q]; ++k) add_term(q, k);
    }
  }

  void run() {
    for (int m = 0; m < problem_.M; ++m) {
      const FeatureGradView& out = args_.d_features[m];
      zero_excluded(problem_, args_.mask, out, problem_.C[m], num_threads_);
    }
    // Empty sizes take one empty pass, which writes the zeros.
    for (first_ = 0; first_ == 0 || first_ < problem_.B; first_ += plan_.chunk_b) {
      const int64_t samples = std::min(plan_.chunk_b, problem_.B - first_);
      last_pass_ = first_ + samples >= problem_.B;
      shared_.rows.fill(problem_, args_.mask, first_, samples, kernels_);
      stage_channels();
      for (j0_ = 0; j0_ == 0 || j0_ < problem_.D; j0_ += plan_.chunk_d) {
        width_ = std::min(plan_.chunk_d, problem_.D - j0_);
        panels_ = ceil_div(width_, kernels_.nr);
        pack_chunk_weights();
        form_gradients();
        sum_biases();
        multiply();
      }
    }
  }

 private:
  void add_term(int q, int k) {
    const InteractionSet& set = problem_.interactions;
    const int m = set.factor[q][k];
    Term& term = terms_[m][term_count_[m]++];
    term.q = q;
    term.others = 0;
    for (int other = 0; other < set.degree[q]; ++other) {
      if (other != k) term.factor[term.others++] = set.factor[q][other];
    }
  }

  bool wants(int m) const {
    return args_.d_features[m].data != nullptr || args_.d_weights[m] != nullptr || args_.d_biases[m] != nullptr;
  }
  int64_t feature_panels(int m) const { return ceil_div(problem_.C[m], kernels_.nr); }
  // Columns of panel number `panel` of `width` columns.
  int columns(int64_t width, int64_t panel) const {
    return static_cast<int>(std::min<int64_t>(kernels_.nr, width - panel * kernels_.nr));
  }
  BwdWorker scratch(int worker) const {
    Arena arena(workers_ + worker * worker_bytes_);
    BwdWorker result;
    result.take(arena, problem_, plan_, kernels_);
    return result;
  }
  void* g(int m, int64_t panel, int64_t row) const {
    return operands_.packed(shared_.g[m], (panel * shared_.row_capacity + row) * kernels_.nr);
  }
  void* weights(int m, int64_t panel) const {
    if (shared_.w[m] == nullptr) return nullptr;
    return operands_.packed(shared_.w[m], panel * operands_.padded(problem_.C[m]) * kernels_.nr);
  }
  void* transposed(int m, int64_t panel, int64_t k) const {
    return operands_.packed(shared_.w_transposed[m], (panel * plan_.chunk_d + k) * kernels_.nr);
  }
  float* d_x(int m, int64_t panel, int64_t row) const {
    return shared_.d_x[m] + (panel * shared_.row_capacity + row) * kernels_.nr;
  }
  void* staged_channels(int m, int64_t tile, int64_t k) const {
    return operands_.packed(shared_.x[m], (tile * shared_.k_capacity + k) * kernels_.mr);
  }

  // ---- 1 ----------------------------------------------------------------------------------------

  void pack_chunk_weights() {
    const int64_t nr = kernels_.nr;
    if (!args_.saved()) {
      if (!plan_.packs_units) pack_weights(operands_, j0_, width_, shared_.w, num_threads_);
      for (int m = 0; m < problem_.M; ++m) pack_bias(operands_, m, j0_, width_, panels_ * nr, shared_.bias[m]);
    }
    for (int m = 0; m < problem_.M; ++m) {
      if (args_.d_features[m].data == nullptr) continue;
      parallel_for(feature_panels(m), num_threads_, [&](int64_t panel, int) {
        const WeightView& w = args_.weights[m];
        const int64_t offset = panel * nr * w.stride_c + j0_ * w.stride_d;
        kernels_.pack_panel[operands_.dtype()](
            static_cast<const char*>(w.data) + offset * static_cast<int64_t>(size_of(problem_.dtype)), w.stride_d,
            w.stride_c, width_, columns(problem_.C[m], panel), transposed(m, panel, 0));
      });
    }
  }

  // ---- 2 ----------------------------------------------------------------------------------------

  void form_gradients() {
    const int64_t units = ceil_div(width_, plan_.unit_d), blocks = ceil_div(shared_.rows.tiles, tiles_per_block_);
    // Features that are staged are staged once for all units of a task.
    const int64_t wanted = ceil_div(costly_tasks_wanted(num_threads_), std::max<int64_t>(1, blocks));
    const int64_t groups = plan_.staged ? std::min(wanted, std::max<int64_t>(1, units)) : units;
    parallel_for(blocks * groups, num_threads_, [&](int64_t task, int worker) {
      const ProductScope scope(kernels_);
      const BwdWorker local = scratch(worker);
      const int64_t i = task / groups, group = task % groups;
      Block block;
      block.t0 = i * tiles_per_block_;
      block.t1 = std::min(shared_.rows.tiles, block.t0 + tiles_per_block_);
      block.staged = plan_.staged;
      std::copy_n(local.a, problem_.M, block.a);
      block.w = local.w;
      if (block.staged && !args_.saved()) stage(operands_, shared_.rows, &block);
      for (int64_t unit = units * group / groups; unit < units * (group + 1) / groups; ++unit) {
        form_unit(local, i, &block, unit);
      }
    });
  }

  void form_unit(const BwdWorker& local, int64_t index, Block* block, int64_t unit) {
    const int64_t nr = kernels_.nr, unit_panels = plan_.unit_d / nr, first = unit * unit_panels;
    const int64_t panels = std::min(unit_panels, panels_ - first), t0 = block->t0, t1 = block->t1;
    for (int m = 0; m < problem_.M; ++m) {
      if (args_.saved()) {
        load_projections(m, t0, t1, first, panels, local.u[m]);
      } else {
        const void* next = m + 1 < problem_.M ? weights(m + 1, first) : nullptr;
        project(operands_, m, shared_.rows, block, j0_ + first * nr, std::min(width_ - first * nr, panels * nr),
                weights(m, first), next, shared_.bias[m] + first * nr, local.u[m]);
      }
    }
    for (int m = 0; m < problem_.M; ++m) {
      if (!wants(m)) continue;
      float* d_bias = shared_.d_bias[m] + index * plan_.chunk_d + first * nr;
      std::fill_n(d_bias, panels * nr, 0.0f);
      for (int64_t panel = 0; panel < panels; ++panel) {
        for (int64_t t = t0; t < t1; ++t) {
          const float* u[kMaxFactors];
          for (int f = 0; f < problem_.M; ++f) {
            u[f] = local.u[f] + (panel * (t1 - t0) + t - t0) * operands_.tile_floats();
          }
          form_tile(m, t, first + panel, u, d_bias + panel * nr);
        }
      }
    }
  }

  void load_projections(int m, int64_t t0, int64_t t1, int64_t first, int64_t panels, float* u) const {
    const Rows& rows = shared_.rows;
    for (int64_t t = t0; t < t1; ++t) {
      const int n = static_cast<int>(rows.tile_begin[t + 1] - rows.tile_begin[t]);
      for (int64_t panel = 0; panel < panels; ++panel) {
        const void* source[kMaxTileRows];
        for (int i = 0; i < n; ++i) {
          source[i] = element(args_.projections[m], problem_, problem_.L * problem_.D, problem_.D, 1,
                              rows.position[rows.tile_begin[t] + i], j0_ + (first + panel) * kernels_.nr);
        }
        kernels_.load_rows[operands_.dtype()](source, n, columns(width_, first + panel),
                                              u + (panel * (t1 - t0) + t - t0) * operands_.tile_floats());
      }
    }
  }

  // G_m of one tile into its panel; its sum over rows is added to d_bias.
  void form_tile(int m, int64_t t, int64_t panel, const float* const* u, float* d_bias) const {
    const Rows& rows = shared_.rows;
    const int64_t nr = kernels_.nr, begin = rows.tile_begin[t], end = rows.tile_begin[t + 1];
    const int width = columns(width_, panel), count = term_count_[m];
    GradTerm terms[kMaxInteractions * kMaxDegree];
    alignas(64) float edge[kMaxInteractions * kMaxDegree * kMaxTileCols];
    for (int64_t row = begin, next; row < end; row = next) {
      next = rows.sample_end(row, end);
      const int64_t offset = (row - begin) * nr;
      for (int i = 0; i < count; ++i) {
        const Term& term = terms_[m][i];
        terms[i].d_p =
            args_.d_p + (rows.sample(row) * problem_.interactions.count + term.q) * problem_.D + j0_ + panel * nr;
        terms[i].others = term.others;
        for (int k = 0; k < term.others; ++k) terms[i].u[k] = u[term.factor[k]] + offset;
        if (width == nr) continue;
        std::fill_n(edge + i * nr, nr, 0.0f);
        std::copy_n(terms[i].d_p, width, edge + i * nr);
        terms[i].d_p = edge + i * nr;
      }
      kernels_.form_grad(terms, count, static_cast<int>(next - row), width, u[m] + offset,
                         operands_.row_weights(rows, row), static_cast<int>(problem_.activation), d_bias,
                         g(m, panel, row));
    }
  }

  void sum_biases() const {
    const int64_t blocks = ceil_div(shared_.rows.tiles, tiles_per_block_);
    for (int m = 0; m < problem_.M; ++m) {
      if (args_.d_biases[m] == nullptr) continue;
      float* out = args_.d_biases[m] + j0_;
      if (first_ == 0) std::fill_n(out, width_, 0.0f);
      for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t j = 0; j < width_; ++j) out[j] += shared_.d_bias[m][block * plan_.chunk_d + j];
      }
    }
  }

  // ---- 3 ----------------------------------------------------------------------------------------

  // d_feature and d_weight of the chunk, as one list of tasks: they do not depend on each other.
  void multiply() {
    const int64_t rows = plan_.product_rows, channels = plan_.product_channels;
    const int64_t strips = ceil_div(width_, plan_.product_d), row_blocks = ceil_div(shared_.rows.count, rows);
    int64_t begin[2 * kMaxFactors + 1] = {};  // tasks of d_weight, the longer ones, then those of d_feature
    for (int m = 0; m < problem_.M; ++m) {
      begin[m + 1] = begin[m] + (args_.d_weights[m] != nullptr ? ceil_div(problem_.C[m], channels) * strips : 0);
    }
    for (int m = 0; m < problem_.M; ++m) {
      begin[problem_.M + m + 1] = begin[problem_.M + m] + (args_.d_features[m].data != nullptr ? row_blocks : 0);
    }
    parallel_for(begin[2 * problem_.M], num_threads_, [&](int64_t task, int worker) {
      const ProductScope scope(kernels_);
      int list = 0;
      while (task >= begin[list + 1]) ++list;
      task -= begin[list];
      if (list < problem_.M) {
        weight_gradient(list, task / strips * channels, task % strips, worker);
      } else {
        feature_gradient(list - problem_.M, task * rows);
      }
    });
  }

  // d_x += G_m W_m' for a block of rows from `begin` on and all channels.
  void feature_gradient(int m, int64_t begin) {
    const int64_t nr = kernels_.nr, mr = kernels_.mr, end = std::min(shared_.rows.count, begin + plan_.product_rows);
    for (int64_t k0 = 0; k0 == 0 || k0 < width_; k0 += kernels_.block_k) {
      const int64_t K = std::min(kernels_.block_k, width_ - k0);
      for (int64_t panel = 0; panel < feature_panels(m); ++panel) {
        for (int64_t row = begin; row < end; row += mr) {
          const GemmFn gemm = kernels_.gemm_rows[std::min(mr, end - row) - 1];
          const void* ahead = nullptr;
          if (kernels_.pack_grad != nullptr && row + mr < end) {
            ahead = d_x(m, panel, row + mr);
          } else if (panel + 1 < feature_panels(m)) {
            ahead = slice_of(transposed(m, panel + 1, k0), K, (row - begin) / mr);
          }
          gemm(K, g(m, k0 / nr, row), shared_.row_capacity * nr, transposed(m, panel, k0),
               j0_ == 0 && k0 == 0 ? kZeros : nullptr, d_x(m, panel, row), ahead);
        }
      }
    }
    if (j0_ + plan_.chunk_d < problem_.D) return;
    for (int64_t row = begin; row < end; row += mr) {
      const int n = static_cast<int>(std::min(mr, end - row));
      for (int64_t panel = 0; panel < feature_panels(m); ++panel) {
        const FeatureGradView& out = args_.d_features[m];
        void* to[kMaxTileRows];
        for (int i = 0; i < n; ++i) {
          to[i] = element(out.data, problem_, out.stride_b, out.stride_l, out.stride_c, shared_.rows.position[row + i],
                          panel * nr);
        }
        kernels_.store_rows[operands_.dtype()](d_x(m, panel, row), n, columns(problem_.C[m], panel), to, out.stride_c);
      }
    }
  }

  // d_weight = X_m' G_m for a block of channels from `c0` on and one strip of columns, over the rows of the pass.
  void weight_gradient(int m, int64_t c0, int64_t strip, int worker) {
    const BwdWorker local = scratch(worker);
    const int64_t nr = kernels_.nr, mr = kernels_.mr, tile = operands_.tile_floats(), rows = shared_.rows.count;
    const int64_t c1 = std::min(problem_.C[m], c0 + plan_.product_channels), tiles = ceil_div(c1 - c0, mr);
    const int64_t first = strip * (plan_.product_d / nr), panels = std::min(plan_.product_d / nr, panels_ - first);
    const bool prepacked = shared_.x[m] != nullptr;
    for (int64_t k0 = 0; k0 == 0 || k0 < rows; k0 += kernels_.block_k) {
      const int64_t K = std::min(kernels_.block_k, rows - k0);
      bool cols = false;
      for (int64_t t = 0; t < tiles && !prepacked; ++t) {
        const int64_t c = c0 + t * mr;
        cols = pack_channels(m, c, static_cast<int>(std::min(mr, c1 - c)), k0, k0 + K,
                             operands_.packed(local.channels, t * mr * kernels_.block_k));
      }
      for (int64_t panel = 0; panel < panels && kernels_.pack_grad != nullptr; ++panel) {
        kernels_.pack_grad(g(m, first + panel, k0), K, operands_.packed(local.panels, panel * kernels_.block_k * nr));
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        void* b = kernels_.pack_grad == nullptr ? g(m, first + panel, k0)
                                                : operands_.packed(local.panels, panel * kernels_.block_k * nr);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t n = std::min(mr, c1 - c0 - t * mr);
          const GemmFn gemm = cols ? kernels_.gemm_cols[n - 1] : kernels_.gemm_rows[n - 1];
          void* a = prepacked ? staged_channels(m, c0 / mr + t, k0)
                              : operands_.packed(local.channels, t * mr * kernels_.block_k);
          float* out = local.d_w + (panel * tiles + t) * tile;
          const void* ahead = nullptr;
          if (prepacked) {
            ahead = next_channels(m, c0, tiles, k0, panel * tiles + t);
          } else if (panel + 1 < panels) {
            ahead = slice_of(g(m, first + panel + 1, k0), K, t);
          }
          gemm(K, a, tile, b, k0 == 0 ? kZeros : nullptr, out, ahead);
        }
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t c = c0 + t * mr;
      for (int64_t panel = 0; panel < panels; ++panel) {
        store_weight_gradient(m, c, static_cast<int>(std::min(mr, c1 - c)), j0_ + (first + panel) * nr,
                              columns(width_, first + panel), local.d_w + (panel * tiles + t) * tile);
      }
    }
  }

  // What tile number t of a panel fetches ahead of the next panel, K steps of it; null: other tiles have fetched it
  // all.
  const void* slice_of(const void* panel, int64_t K, int64_t t) const {
    const int64_t slice = ceil_div(K, kernels_.nr) * kAheadBytes;
    if (t * slice >= operands_.padded(K) * kernels_.nr * kernels_.operand_bytes) return nullptr;
    return static_cast<const char*>(panel) + t * slice;
  }

  // What tile number `call` of a block of k fetches ahead: a slice of the staged channels' next block.
  const void* next_channels(int m, int64_t c0, int64_t tiles, int64_t k0, int64_t call) const {
    const int64_t next = k0 + kernels_.block_k, slice = call * (kernels_.block_k / kernels_.nr) * kAheadBytes;
    const int64_t block_bytes = kernels_.block_k * kernels_.mr * kernels_.operand_bytes, t = slice / block_bytes;
    if (shared_.x[m] == nullptr || next >= shared_.rows.count || t >= tiles) return nullptr;
    return static_cast<const char*>(staged_channels(m, c0 / kernels_.mr + t, next)) + slice % block_bytes;
  }

  // Channels of the pass as A operands over its rows, for all weight gradients of the pass.
  void stage_channels() {
    int64_t begin[kMaxFactors + 1] = {};
    for (int m = 0; m < problem_.M; ++m) {
      const bool wanted = shared_.x[m] != nullptr && args_.d_weights[m] != nullptr;
      begin[m + 1] = begin[m] + (wanted ? ceil_div(problem_.C[m], kernels_.mr) : 0);
    }
    parallel_for(begin[problem_.M], num_threads_, [&](int64_t task, int) {
      int m = 0;
      while (task >= begin[m + 1]) ++m;
      const int64_t t = task - begin[m], c = t * kernels_.mr;
      pack_channels(m, c, static_cast<int>(std::min<int64_t>(kernels_.mr, problem_.C[m] - c)), 0, shared_.rows.count,
                    staged_channels(m, t, 0));
    });
  }

  // Packs n channels from c on over rows [begin, end); true: in the cols layout.
  bool pack_channels(int m, int64_t c, int n, int64_t begin, int64_t end, void* out) const {
    const FeatureView& x = args_.features[m];
    const Rows& rows = shared_.rows;
    const bool cols = x.stride_c == 1 && kernels_.gemm_cols[0] != nullptr;
    for (int64_t row = begin, next; row < end; row = next) {
      next = rows.run_end(row, end);
      if (cols) {
        kernels_.pack_cols[operands_.dtype()](operands_.feature(m, rows.position[row], c), x.stride_l, 1, n, next - row,
                                              operands_.packed(out, (row - begin) * kernels_.mr));
      } else {
        const void* source[kMaxTileRows];
        for (int i = 0; i < n; ++i) source[i] = operands_.feature(m, rows.position[row], c + i);
        kernels_.pack_rows[operands_.dtype()](source, n, x.stride_l, row - begin, next - row, out);
      }
    }
    return cols;
  }

  // Adds the sums of earlier passes and writes columns j .. j + columns of channels c .. c + n.
  void store_weight_gradient(int m, int64_t c, int n, int64_t j, int columns, float* tile) const {
    const bool narrow = problem_.dtype != DType::kFloat32;
    float* sums = narrow ? shared_.d_w[m] : static_cast<float*>(args_.d_weights[m]);
    for (int i = 0; first_ > 0 && i < n; ++i) {
      for (int k = 0; k < columns; ++k) tile[i * kernels_.nr + k] += sums[(c + i) * problem_.D + j + k];
    }
    const bool to_sums = !narrow || !last_pass_;
    const int64_t size = to_sums ? sizeof(float) : size_of(problem_.dtype);
    char* base = to_sums ? reinterpret_cast<char*>(sums) : static_cast<char*>(args_.d_weights[m]);
    void* out[kMaxTileRows];
    for (int i = 0; i < n; ++i) out[i] = base + ((c + i) * problem_.D + j) * size;
    kernels_.store_rows[to_sums ? 0 : operands_.dtype()](tile, n, columns, out, 1);
  }

  const MultilinearPoolBwdArgs& args_;
  const MultilinearPoolCpuPlan& plan_;
  const MultilinearPoolProblem& problem_;
  const Kernels& kernels_;
  const Operands operands_;
  const int num_threads_;
  const int64_t tiles_per_block_;
  Term terms_[kMaxFactors][kMaxInteractions * kMaxDegree];
  int term_count_[kMaxFactors] = {};
  BwdShared shared_;
  char* workers_;
  int64_t worker_bytes_;
  // The current pass and chunk.
  int64_t first_ = 0, j0_ = 0, width_ = 0, panels_ = 0;
  bool last_pass_ = false;
};

}  // namespace

Status run_multilinear_pool_bwd(const MultilinearPoolBwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch,
                                int num_threads) {
  prefer_huge_pages(scratch, plan.bwd_scratch_bytes);
  Backward(args, plan, scratch, num_threads).run();
  return {};
}

}  // namespace c2f
