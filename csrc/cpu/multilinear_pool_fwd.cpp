// Forward of multilinear_pool on the CPU, in chunks of fwd_chunk_d columns whose weights are packed once for all
// threads. A task owns (range of samples, range of units): block by block it stages the features, then projects them
// unit by unit with every factor into scratch that stays in its L2, multiplies and sums. p is written by its owner
// alone, tile by tile in the order of positions, so its bits do not depend on how tasks are handed out.
#include <algorithm>

#include "cpu/multilinear_pool_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

constexpr int64_t kGroupColumns = 2048;  // to stage features for fewer costs more than a few per cent of their products

class Forward {
 public:
  Forward(const MultilinearPoolFwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch, int num_threads)
      : args_(args),
        plan_(plan),
        problem_(args.problem),
        kernels_(cpu_kernels(args.problem.dtype, args.problem.precision)),
        operands_{kernels_, problem_, args.features, args.weights, args.biases, args.mask},
        num_threads_(threads_worth(args.problem, num_threads)) {
    Arena arena(scratch), count(nullptr);
    shared_.take(arena, problem_, plan, kernels_);
    workers_ = static_cast<char*>(scratch) + arena.used();
    FwdWorker().take(count, problem_, plan, kernels_);
    worker_bytes_ = count.used();
  }

  void run() {
    std::fill_n(args_.p, problem_.B * problem_.interactions.count * problem_.D, 0.0f);
    for (int m = 0; m < problem_.M && args_.saves(); ++m) {
      const FeatureGradView out{args_.projections[m], problem_.L * problem_.D, problem_.D, 1};
      zero_excluded(problem_, args_.mask, out, problem_.D, num_threads_);
    }
    shared_.rows.fill(problem_, args_.mask, 0, problem_.B, kernels_);
    for (j0_ = 0; j0_ < problem_.D; j0_ += plan_.fwd_chunk_d) {
      width_ = std::min(plan_.fwd_chunk_d, problem_.D - j0_);
      if (!plan_.packs_units) pack_weights(operands_, j0_, width_, shared_.w, num_threads_);
      for (int m = 0; m < problem_.M; ++m) {
        pack_bias(operands_, m, j0_, width_, panels() * kernels_.nr, shared_.bias[m]);
      }
      pool_chunk();
    }
  }

 private:
  int64_t panels() const { return ceil_div(width_, kernels_.nr); }
  int columns(int64_t panel) const {
    return static_cast<int>(std::min<int64_t>(kernels_.nr, width_ - panel * kernels_.nr));
  }
  void* weights(int m, int64_t panel) const {
    if (shared_.w[m] == nullptr) return nullptr;
    return operands_.packed(shared_.w[m], panel * operands_.padded(problem_.C[m]) * kernels_.nr);
  }

  void pool_chunk() {
    const Rows& rows = shared_.rows;
    // Whole samples first, as long as they fill a block: features are staged once for all the units of a task.
    const int64_t units = ceil_div(width_, plan_.unit_d), wanted = tasks_wanted(num_threads_);
    const int64_t parts = std::max<int64_t>(1, std::min({problem_.B, wanted, ceil_div(rows.count, plan_.block_rows)}));
    int64_t groups = std::min(units, ceil_div(wanted, parts));
    if (plan_.staged) {
      groups = std::min(groups, std::max(width_ / kGroupColumns, ceil_div(costly_tasks_wanted(num_threads_), parts)));
    }
    parallel_for(parts * groups, num_threads_, [&](int64_t task, int worker) {
      const ProductScope scope(kernels_);
      const int64_t part = task / groups, group = task % groups;
      const int64_t t0 = part_begin(part, parts), t1 = part_begin(part + 1, parts);
      const int64_t most = plan_.block_rows / kernels_.mr, blocks = ceil_div(t1 - t0, most);
      for (int64_t i = 0; i < blocks; ++i) {
        pool_block(t0 + (t1 - t0) * i / blocks, t0 + (t1 - t0) * (i + 1) / blocks, units * group / groups,
                   units * (group + 1) / groups, worker);
      }
    });
  }

  // First tile of a part: the first at or after an even share that begins a sample.
  int64_t part_begin(int64_t part, int64_t parts) const {
    const Rows& rows = shared_.rows;
    int64_t t = rows.tiles * part / parts;
    while (t > 0 && t < rows.tiles && rows.sample(rows.tile_begin[t]) == rows.sample(rows.tile_begin[t] - 1)) ++t;
    return t;
  }

  void pool_block(int64_t t0, int64_t t1, int64_t unit_begin, int64_t unit_end, int worker) {
    Arena arena(workers_ + worker * worker_bytes_);
    FwdWorker scratch;
    scratch.take(arena, problem_, plan_, kernels_);
    Block block;
    block.t0 = t0;
    block.t1 = t1;
    block.staged = plan_.staged;
    std::copy_n(scratch.a, problem_.M, block.a);
    block.w = scratch.w;
    if (block.staged) stage(operands_, shared_.rows, &block);
    const int64_t nr = kernels_.nr, unit_panels = plan_.unit_d / nr;
    for (int64_t first = unit_begin * unit_panels; first < std::min(panels(), unit_end * unit_panels);
         first += unit_panels) {
      const int64_t last = std::min(panels(), first + unit_panels);
      for (int m = 0; m < problem_.M; ++m) {
        const void* next = m + 1 < problem_.M ? weights(m + 1, first) : last < panels() ? weights(0, last) : nullptr;
        project(operands_, m, shared_.rows, &block, j0_ + first * nr, std::min(width_, last * nr) - first * nr,
                weights(m, first), next, shared_.bias[m] + first * nr, scratch.u[m]);
      }
      if (args_.saves()) save(block, first, last, scratch.u);
      for (int64_t panel = first; panel < last; ++panel) {
        for (int64_t i = 0; i < block.tiles(); ++i) {
          const float* u[kMaxFactors];
          for (int m = 0; m < problem_.M; ++m) {
            u[m] = scratch.u[m] + ((panel - first) * block.tiles() + i) * operands_.tile_floats();
          }
          reduce_tile(t0 + i, u, j0_ + panel * nr, columns(panel));
        }
      }
    }
  }

  // Writes projections u[panel][tile] of panels first .. last, the rows of a tile from left to right.
  void save(const Block& block, int64_t first, int64_t last, const float* const* u) const {
    const Rows& rows = shared_.rows;
    for (int m = 0; m < problem_.M; ++m) {
      for (int64_t i = 0; i < block.tiles(); ++i) {
        const int64_t begin = rows.tile_begin[block.t0 + i], n = rows.tile_begin[block.t0 + i + 1] - begin;
        for (int64_t panel = first; panel < last; ++panel) {
          void* out[kMaxTileRows];
          for (int64_t r = 0; r < n; ++r) {
            out[r] = element(args_.projections[m], problem_, problem_.L * problem_.D, problem_.D, 1,
                             rows.position[begin + r], j0_ + panel * kernels_.nr);
          }
          const float* tile = u[m] + ((panel - first) * block.tiles() + i) * operands_.tile_floats();
          kernels_.store_rows[operands_.dtype()](tile, static_cast<int>(n), columns(panel), out, 1);
        }
      }
    }
  }

  // Adds columns j .. j + n of a tile's products to p.
  void reduce_tile(int64_t t, const float* const* u, int64_t j, int n) {
    const Rows& rows = shared_.rows;
    const int64_t begin = rows.tile_begin[t], end = rows.tile_begin[t + 1];
    const InteractionSet& set = problem_.interactions;
    for (int64_t row = begin, next; row < end; row = next) {
      next = rows.sample_end(row, end);
      const float* part[kMaxFactors];
      for (int m = 0; m < problem_.M; ++m) part[m] = u[m] + (row - begin) * kernels_.nr;
      const float* w = operands_.row_weights(rows, row);
      for (int q = 0; q < set.count; ++q) {
        float* p = args_.p + (rows.sample(row) * set.count + q) * problem_.D + j;
        alignas(64) float edge[kMaxTileCols];
        const bool whole = n == kernels_.nr;
        if (!whole) std::fill_n(edge, kernels_.nr, 0.0f);
        kernels_.hadamard_sum[set.degree[q]](part, set.factor[q], static_cast<int>(next - row), w, whole ? p : edge);
        for (int i = 0; !whole && i < n; ++i) p[i] += edge[i];
      }
    }
  }

  const MultilinearPoolFwdArgs& args_;
  const MultilinearPoolCpuPlan& plan_;
  const MultilinearPoolProblem& problem_;
  const Kernels& kernels_;
  const Operands operands_;
  const int num_threads_;
  FwdShared shared_;
  char* workers_;
  int64_t worker_bytes_;
  int64_t j0_ = 0, width_ = 0;  // of the current chunk
};

}  // namespace

Status run_multilinear_pool_fwd(const MultilinearPoolFwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch,
                                int num_threads) {
  prefer_huge_pages(scratch, plan.fwd_scratch_bytes);
  Forward(args, plan, scratch, num_threads).run();
  return {};
}

}  // namespace c2f
