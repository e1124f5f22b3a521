// Backward of class_attentive_supcon on the CPU. Anchors are cut into slabs and keys into shares, as many as sizes
// alone say. A task forms the slopes of one slab with one share again, a block of anchors and a chunk of keys at a
// time, and multiplies them while they are in cache: its part of Q and E, of d_x, and of the keys' norms in d_v is its
// own. Parts are added in the order of slabs and shares.
#include <cmath>
#include <cstring>

#include "cpu/class_attentive_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

constexpr int64_t kMostSlabs = 8, kMostShares = 4;

// Few rows make one part; 512 to 8,192 make four, more of them up to `most`.
int64_t parts_of(int64_t rows, int64_t most) {
  return std::clamp<int64_t>(std::max(std::min<int64_t>(rows / 128, 4), rows / 2048), 1, most);
}

struct Worker {
  Worker(const Pairs& pairs, Arena& arena)
      : block(pairs, arena, true),
        slopes(arena.take<float>(kPairChunk * kPairBlockRows * pairs.kernels.nr)),
        of_runs(arena.take<float>(kPairChunk * kPairBlockRows * pairs.kernels.nr)),
        tile(arena.take<float>(int64_t{pairs.kernels.mr} * pairs.kernels.nr)) {}

  PairBlock block;
  float* slopes;   // [kPairChunk][kPairBlockRows][nr] S / n(x)
  float* of_runs;  // [kPairChunk][kPairBlockRows][nr] sum over a run of F
  float* tile;
};

class Backward {
 public:
  Backward(const ClassAttentiveBwdArgs& args, Arena& arena)
      : args_(args), problem_(args.forward.problem), pairs_(problem_, arena, true) {
    const int64_t nr = pairs_.kernels.nr;
    const int64_t slabs = parts_of(problem_.A, kMostSlabs), shares = parts_of(problem_.N, kMostShares);
    run_rows_ = std::min(problem_.A, problem_.C) + slabs;
    if (args.d_x) d_x_ = arena.take<float>(slabs * ceil_div(problem_.N, nr) * problem_.d * nr);
    if (args.d_z || args.d_v) q_ = arena.take<float>(shares * pairs_.feature_panels() * problem_.A * nr);
    if (args.d_z || args.d_v) e_ = arena.take<float>(shares * problem_.A);
    if (args.d_v) of_runs_ = arena.take<float>(shares * pairs_.feature_panels() * run_rows_ * nr);
  }

  const Pairs& pairs() const { return pairs_; }

  Status run(std::vector<Worker>& workers, int num_threads) {
    const auto bytes = [&](int64_t rows) { return rows * problem_.d * static_cast<int64_t>(size_of(problem_.dtype)); };
    if (Status status = pairs_.pack(args_.forward, num_threads); !status.ok()) return status;
    if (args_.d_v) std::fill_n(args_.d_v, problem_.C * problem_.d, 0.0f);
    if (args_.d_z) std::memset(args_.d_z, 0, bytes(problem_.A));
    if (args_.d_x) std::memset(args_.d_x, 0, bytes(problem_.N));
    if (pairs_.anchors == 0 || pairs_.keys == 0 || problem_.d == 0) return {};
    for (int64_t i = 0; i < pairs_.anchors; ++i) take_slopes(i);

    slabs_ = std::min(parts_of(pairs_.anchors, kMostSlabs), pairs_.tiles());
    shares_ = std::min(parts_of(pairs_.keys, kMostShares), pairs_.panels());
    parallel_for(slabs_ * shares_, num_threads,
                 [&](int64_t task, int worker) { run_task(task / shares_, task % shares_, workers[worker]); });
    with_storage_type(problem_.dtype, [&](auto type) {
      using T = decltype(type);
      if (args_.d_x) parallel_for(pairs_.panels(), num_threads, [&](int64_t panel, int) { finish_keys<T>(panel); });
      if (!args_.d_z && !args_.d_v) return;
      const int64_t panels = pairs_.feature_panels();
      parallel_for(pairs_.runs * panels, num_threads,
                   [&](int64_t task, int) { finish_run<T>(task / panels, task % panels); });
    });
    return {};
  }

 private:
  // Where the sum of exponentials is empty its slopes are 0.
  void take_slopes(int64_t i) {
    PairAnchor& anchor = pairs_.anchor[i];
    const bool hinge = problem_.form == Repulsion::kHinge;
    const float repel = args_.forward.repel[pairs_.order[i]], d_repel = args_.d_repel[pairs_.order[i]];
    const bool empty = !hinge && std::isinf(repel);
    anchor.d_attract = args_.d_attract[pairs_.order[i]];
    anchor.d_repel = empty ? 0 : hinge ? d_repel : d_repel / problem_.parameter;
    anchor.repel = empty ? 0 : repel;
  }

  void run_task(int64_t slab, int64_t share, Worker& worker) {
    const Span tiles = part_of(pairs_.tiles(), slabs_, slab), panels = part_of(pairs_.panels(), shares_, share);
    const int64_t blocks = ceil_div(tiles.size(), pairs_.block_tiles()), nr = pairs_.kernels.nr;
    if (args_.d_v) {
      const Span anchors = pairs_.anchors_of(tiles);
      const int64_t first = pairs_.anchor[anchors.begin].run, last = pairs_.anchor[anchors.end - 1].run;
      for (int64_t f = 0; f < pairs_.feature_panels(); ++f) {
        std::fill_n(run_sums(share, f, first + slab), (last - first + 1) * nr, 0.0f);
      }
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const Span part = part_of(tiles.size(), blocks, b);
      PairBlock& block = worker.block;
      block.open({tiles.begin + part.begin, tiles.begin + part.end});
      block.clear_sums();
      for (int64_t chunk = panels.begin; chunk < panels.end; chunk += kPairChunk) {
        const Span some = {chunk, std::min(panels.end, chunk + kPairChunk)};
        for (int64_t panel = some.begin; panel < some.end; ++panel) {
          form_slopes(worker, panel, panel - chunk);
          if (args_.d_x) add_to_keys(worker, slab, panel, panel - chunk, b == 0);
        }
        if (args_.d_z || args_.d_v) add_to_anchors(worker, share, some, chunk == panels.begin);
        if (args_.d_v) add_to_runs(worker, slab, share, some);
        if ((some.end - panels.begin) % kPairFlush == 0) block.flush_sums();
      }
      block.flush_sums();
      for (int64_t i = 0; e_ != nullptr && i < block.span().size(); ++i) {
        e_[share * pairs_.anchors + block.span().begin + i] = static_cast<float>(block.sums()[i].attract_total);
      }
    }
  }

  void form_slopes(Worker& worker, int64_t panel, int64_t slot) {
    PairBlock& block = worker.block;
    const int64_t nr = pairs_.kernels.nr, mr = pairs_.kernels.mr;
    const auto sweep = pairs_.sweeps.backward[static_cast<int>(problem_.form)];
    const PairKeys keys = block.keys(panel);
    float *slopes = worker.slopes + slot * kPairBlockRows * nr, *of_runs = worker.of_runs + slot * kPairBlockRows * nr;
    std::fill_n(of_runs, block.runs() * nr, 0.0f);
    for (int64_t t = 0; t < block.tile_count(); ++t) {
      block.products(t, panel, slopes + t * mr * nr);
      sweep(pairs_.weights, pairs_.anchor + block.span().begin + t * mr, block.rows(t), keys, slopes + t * mr * nr,
            of_runs, block.sums() + t * mr);
    }
    pairs_.sweeps.divide(block.squares(), pairs_.least, block.runs() * nr, of_runs);
  }

  // d_x^T += (v o z / n)^T slopes - x^T o (v^T of_runs)
  void add_to_keys(Worker& worker, int64_t slab, int64_t panel, int64_t slot, bool first) {
    const Kernels& kernels = pairs_.kernels;
    const int64_t nr = kernels.nr, mr = kernels.mr, a_block = mr * nr;
    const PairBlock& block = worker.block;
    const float *slopes = worker.slopes + slot * kPairBlockRows * nr, *x = pairs_.x_columns + panel * pairs_.d * nr;
    float* d_x = d_x_ + (slab * pairs_.panels() + panel) * pairs_.d * nr;
    for (int64_t f = 0; f < pairs_.feature_tiles(); ++f) {
      const Span features = pairs_.features_of_tile(f);
      const int64_t at = features.begin * nr, rows = features.size();
      kernels.gemm_cols[rows - 1](block.span().size(),
                                  pairs_.z_columns + (f * pairs_.anchors + block.span().begin) * mr, a_block, slopes,
                                  first ? kZeros : nullptr, d_x + at, nullptr);
      kernels.gemm_cols[rows - 1](block.runs(), block.v_columns() + f * kPairBlockRows * mr, a_block,
                                  worker.of_runs + slot * kPairBlockRows * nr, kZeros, worker.tile, nullptr);
      pairs_.sweeps.subtract_product(x + at, worker.tile, rows * nr, d_x + at);
    }
  }

  // Q n(z) += slopes x
  void add_to_anchors(Worker& worker, int64_t share, Span panels, bool first) {
    const Kernels& kernels = pairs_.kernels;
    const int64_t nr = kernels.nr, mr = kernels.mr;
    const PairBlock& block = worker.block;
    for (int64_t f = 0; f < pairs_.feature_panels(); ++f) {
      const float* x = pairs_.x_rows + (f * pairs_.panels() + panels.begin) * nr * nr;
      for (int64_t t = 0; t < block.tile_count(); ++t) {
        kernels.gemm_rows[block.rows(t) - 1](panels.size() * nr, worker.slopes + t * mr * nr, kPairBlockRows * nr, x,
                                             first ? kZeros : nullptr, q_row(share, f, block.span().begin + t * mr),
                                             nullptr);
      }
    }
  }

  // of_runs x^2
  void add_to_runs(Worker& worker, int64_t slab, int64_t share, Span panels) {
    const Kernels& kernels = pairs_.kernels;
    const int64_t nr = kernels.nr, mr = kernels.mr, steps = panels.size() * nr;
    const PairBlock& block = worker.block;
    for (int64_t f = 0; f < pairs_.feature_panels(); ++f) {
      pairs_.sweeps.square(pairs_.x_rows + (f * pairs_.panels() + panels.begin) * nr * nr, steps * nr, block.squared());
      for (int64_t first = 0; first < block.runs(); first += mr) {
        kernels.gemm_rows[std::min(mr, block.runs() - first) - 1](
            steps, worker.of_runs + first * nr, kPairBlockRows * nr, block.squared(), nullptr,
            run_sums(share, f, block.first_run() + first + slab), nullptr);
      }
    }
  }

  template <typename T>
  void finish_keys(int64_t panel) {
    const int64_t nr = pairs_.kernels.nr, d = pairs_.d, size = pairs_.panels() * d * nr;
    float* sum = d_x_ + panel * d * nr;
    for (int64_t slab = 1; slab < slabs_; ++slab) pairs_.sweeps.add(sum + slab * size, d * nr, sum);
    for (int64_t j = 0; j < std::min(nr, pairs_.keys - panel * nr); ++j) {
      T* out = static_cast<T*>(args_.d_x) + pairs_.key[panel * nr + j] * d;
      for (int64_t e = 0; e < d; ++e) from_float(sum[e * nr + j], out + e);
    }
  }

  // d_z and d_v of one class, features of one panel.
  template <typename T>
  void finish_run(int64_t run, int64_t f) {
    const int64_t nr = pairs_.kernels.nr, e0 = f * nr, n = std::min(nr, pairs_.d - e0);
    const Span span = {pairs_.run_begin[run], pairs_.run_begin[run + 1]};
    const int64_t c = pairs_.classes[pairs_.order[span.begin]];
    const float* v = pairs_.v + c * pairs_.d + e0;
    double d_v[kMaxTileCols] = {};
    for (int64_t slab = 0; args_.d_v && slab < slabs_; ++slab) {
      const Span anchors = pairs_.anchors_of(part_of(pairs_.tiles(), slabs_, slab));
      if (anchors.end <= span.begin || anchors.begin >= span.end) continue;
      for (int64_t share = 0; share < shares_; ++share) {
        const float* sums = run_sums(share, f, run + slab);
        for (int64_t e = 0; e < n; ++e) d_v[e] -= sums[e] / 2;
      }
    }
    for (int64_t i = span.begin; i < span.end; ++i) {
      const PairAnchor& anchor = pairs_.anchor[i];
      const T* z = static_cast<const T*>(args_.forward.z) + pairs_.order[i] * args_.forward.z_stride + e0;
      float q[kMaxTileCols] = {}, clamped = 0;
      for (int64_t share = 0; share < shares_; ++share) {
        const float* part = q_row(share, f, i);
        for (int64_t e = 0; e < n; ++e) q[e] += part[e];
        clamped += e_[share * pairs_.anchors + i];
      }
      const float scale = anchor.inverse_norm, of_anchor = clamped * anchor.inverse_square;
      for (int64_t e = 0; args_.d_v && e < n; ++e) {
        const float value = to_float(z[e]);
        d_v[e] += value * (q[e] * scale - of_anchor * value / 2);
      }
      T* d_z = static_cast<T*>(args_.d_z) + pairs_.order[i] * pairs_.d + e0;
      for (int64_t e = 0; args_.d_z && e < n; ++e)
        from_float(v[e] * (q[e] * scale - of_anchor * to_float(z[e])), d_z + e);
    }
    for (int64_t e = 0; args_.d_v && e < n; ++e) args_.d_v[c * pairs_.d + e0 + e] = static_cast<float>(d_v[e]);
  }

  float* q_row(int64_t share, int64_t f, int64_t i) const {
    return q_ + ((share * pairs_.feature_panels() + f) * pairs_.anchors + i) * pairs_.kernels.nr;
  }

  // A class has a row in each slab that it reaches into: row run + slab is no other's.
  float* run_sums(int64_t share, int64_t f, int64_t row) const {
    return of_runs_ + ((share * pairs_.feature_panels() + f) * run_rows_ + row) * pairs_.kernels.nr;
  }

  const ClassAttentiveBwdArgs& args_;
  const ClassAttentiveProblem& problem_;
  Pairs pairs_;
  int64_t slabs_ = 0, shares_ = 0, run_rows_;
  float* d_x_ = nullptr;      // [slabs][panels][d][nr]
  float* q_ = nullptr;        // [shares][feature_panels][anchors][nr]
  float* e_ = nullptr;        // [shares][anchors]
  float* of_runs_ = nullptr;  // [shares][feature_panels][run_rows][nr]
};

}  // namespace

int64_t class_attentive_cpu_bwd_scratch(const ClassAttentiveProblem& problem, int num_threads) {
  Arena arena(nullptr);
  float wanted;  // any address: every gradient is
  ClassAttentiveBwdArgs args;
  args.forward.problem = problem;
  args.d_z = args.d_x = args.d_v = &wanted;
  const Backward backward(args, arena);
  for (int worker = 0; worker < threads_for(problem, num_threads); ++worker) Worker(backward.pairs(), arena);
  return arena.used();
}

Status run_class_attentive_bwd(const ClassAttentiveBwdArgs& args, int num_threads) {
  Arena arena(args.scratch);
  Backward backward(args, arena);
  num_threads = threads_for(args.forward.problem, num_threads);
  std::vector<Worker> workers;
  for (int worker = 0; worker < num_threads; ++worker) workers.emplace_back(backward.pairs(), arena);
  return backward.run(workers, num_threads);
}

}  // namespace c2f
