// Forward of multilinear_pool on the CPU. A task owns (unit of columns, range of samples): it packs the unit's weights
// of all factors into its own L2, walks over blocks of rows, projects each with every factor into scratch, multiplies
// and sums. p is written by its owner alone, tile by tile in the order of positions, so its bits do not depend on how
// tasks are handed out.
#include <algorithm>

#include "cpu/multilinear_pool_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

class Forward {
 public:
  Forward(const MultilinearPoolFwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch, int num_threads)
      : args_(args),
        plan_(plan),
        problem_(args.problem),
        kernels_(cpu_kernels()),
        operands_{kernels_, problem_, args.features, args.weights, args.biases, args.mask},
        num_threads_(num_threads) {
    Arena arena(scratch), count(nullptr);
    shared_.take(arena, problem_, kernels_, num_threads);
    workers_ = static_cast<char*>(scratch) + arena.used();
    FwdWorker().take(count, problem_, plan, kernels_);
    worker_bytes_ = count.used();
  }

  void run() {
    std::fill_n(args_.p, problem_.B * problem_.interactions.count * problem_.D, 0.0f);
    for (int m = 0; m < problem_.M; ++m) {
      const FeatureGradView out{args_.projections[m], problem_.L * problem_.D, problem_.D, 1};
      zero_excluded(problem_, args_.mask, out, problem_.D, num_threads_);
    }
    shared_.rows.fill(problem_, args_.mask, 0, problem_.B, kernels_.mr);
    std::fill_n(shared_.packed_unit, num_threads_ * 8, -1);

    const int64_t units = ceil_div(problem_.D, plan_.unit_d);
    if (units == 0) return;
    // Four tasks a thread even out the end; fewer units than that are also split by samples.
    const int64_t parts = std::max<int64_t>(1, std::min(problem_.B, ceil_div(4 * num_threads_, units)));
    parallel_for(units * parts, num_threads_, [&](int64_t task, int worker) {
      const int64_t unit = task / parts, part = task % parts;
      run_unit(unit, part_begin(part, parts), part_begin(part + 1, parts), worker);
    });
  }

 private:
  // First tile of a part: the first at or after an even share that begins a sample.
  int64_t part_begin(int64_t part, int64_t parts) const {
    const Rows& rows = shared_.rows;
    int64_t t = rows.tiles * part / parts;
    while (t > 0 && t < rows.tiles && rows.sample(rows.tile_begin[t]) == rows.sample(rows.tile_begin[t] - 1)) ++t;
    return t;
  }

  void run_unit(int64_t unit, int64_t tile_begin, int64_t tile_end, int worker) {
    Arena arena(workers_ + worker * worker_bytes_);
    FwdWorker scratch;
    scratch.take(arena, problem_, plan_, kernels_);
    const int64_t j0 = unit * plan_.unit_d, width = std::min(plan_.unit_d, problem_.D - j0);
    const int64_t nr = kernels_.nr, panels = ceil_div(width, nr);
    if (shared_.packed_unit[worker * 8] != unit) {
      shared_.packed_unit[worker * 8] = unit;
      for (int m = 0; m < problem_.M; ++m) {
        pack_bias(operands_, m, j0, width, panels * nr, scratch.bias[m]);
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int n = static_cast<int>(std::min(nr, width - panel * nr));
          pack_weight_panel(operands_, m, j0 + panel * nr, n, scratch.w[m] + panel * problem_.C[m] * nr);
        }
      }
    }
    for (int64_t t0 = tile_begin; t0 < tile_end; t0 += block_tiles(kernels_.mr)) {
      const int64_t t1 = std::min(tile_end, t0 + block_tiles(kernels_.mr));
      for (int m = 0; m < problem_.M; ++m) {
        project(operands_, m, shared_.rows, t0, t1, scratch.w[m], scratch.bias[m], panels, scratch.a, scratch.u[m]);
      }
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int n = static_cast<int>(std::min(nr, width - panel * nr));
        for (int64_t t = t0; t < t1; ++t) {
          const float* u[kMaxFactors];
          for (int m = 0; m < problem_.M; ++m) {
            u[m] = scratch.u[m] + (panel * (t1 - t0) + t - t0) * operands_.tile_floats();
          }
          reduce_tile(t, u, j0 + panel * nr, n);
        }
      }
    }
  }

  // Saves columns j .. j + n of a tile's projections where asked, adds its products to p.
  void reduce_tile(int64_t t, const float* const* u, int64_t j, int n) {
    const Rows& rows = shared_.rows;
    const int64_t begin = rows.tile_begin[t], end = rows.tile_begin[t + 1];
    for (int m = 0; m < problem_.M; ++m) {
      if (args_.projections[m] == nullptr) continue;
      void* out[kMaxTileRows];
      for (int64_t row = begin; row < end; ++row) {
        out[row - begin] =
            element(args_.projections[m], problem_, problem_.L * problem_.D, problem_.D, 1, rows.position[row], j);
      }
      kernels_.store_rows[operands_.dtype()](u[m], static_cast<int>(end - begin), n, out, 1);
    }
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
};

}  // namespace

Status run_multilinear_pool_fwd(const MultilinearPoolFwdArgs& args, const MultilinearPoolCpuPlan& plan, void* scratch,
                                int num_threads) {
  Forward(args, plan, scratch, num_threads).run();
  return {};
}

}  // namespace c2f
