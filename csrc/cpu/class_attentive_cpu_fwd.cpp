// Forward of class_attentive_supcon on the CPU. A task is a block of anchors: it meets the panels of keys one after the
// other, and its two sums are nobody else's, so their bits do not depend on how tasks are handed out.
#include <cmath>

#include "cpu/class_attentive_cpu.h"
#include "cpu/thread_pool.h"

namespace c2f {
namespace {

struct Worker {
  Worker(const Pairs& pairs, Arena& arena)
      : block(pairs, arena, false), tile(arena.take<float>(int64_t{pairs.kernels.mr} * pairs.kernels.nr)) {}

  PairBlock block;
  float* tile;
};

void run_block(const ClassAttentiveFwdArgs& args, const Pairs& pairs, Span tiles, Worker& worker) {
  PairBlock& block = worker.block;
  const auto sweep = pairs.sweeps.forward[static_cast<int>(args.problem.form)];
  const int64_t mr = pairs.kernels.mr;
  block.open(tiles);
  const Span span = block.span();
  block.clear_sums();
  for (int64_t panel = 0; panel < pairs.panels(); ++panel) {
    const PairKeys keys = block.keys(panel);
    for (int64_t t = 0; t < block.tile_count(); ++t) {
      block.products(t, panel, worker.tile);
      sweep(pairs.weights, pairs.anchor + span.begin + t * mr, block.rows(t), keys, worker.tile, block.sums() + t * mr);
    }
    if ((panel + 1) % kPairFlush == 0) block.flush_sums();
  }
  block.flush_sums();
  for (int64_t i = span.begin; i < span.end; ++i) {
    const PairSums& sums = block.sums()[i - span.begin];
    const bool hinge = args.problem.form == Repulsion::kHinge;
    args.attract[pairs.order[i]] = static_cast<float>(sums.attract_total);
    args.repel[pairs.order[i]] = static_cast<float>(hinge ? sums.repel_total : sums.shift + std::log(sums.repel_total));
  }
}

}  // namespace

int64_t class_attentive_cpu_fwd_scratch(const ClassAttentiveProblem& problem, int num_threads) {
  Arena arena(nullptr);
  const Pairs pairs(problem, arena, false);
  for (int worker = 0; worker < threads_for(problem, num_threads); ++worker) Worker(pairs, arena);
  return arena.used();
}

Status run_class_attentive_fwd(const ClassAttentiveFwdArgs& args, int num_threads) {
  Arena arena(args.scratch);
  Pairs pairs(args.problem, arena, false);
  num_threads = threads_for(args.problem, num_threads);
  std::vector<Worker> workers;
  for (int worker = 0; worker < num_threads; ++worker) workers.emplace_back(pairs, arena);

  std::fill_n(args.attract, args.problem.A, 0.0f);
  std::fill_n(args.repel, args.problem.A, 0.0f);
  if (const Status status = pairs.pack(args, num_threads); !status.ok() || pairs.anchors == 0) return status;
  // Four blocks a thread even out the end; no result depends on the block it is in.
  const int64_t blocks = std::max(ceil_div(pairs.tiles(), pairs.block_tiles()),
                                  std::min<int64_t>(pairs.tiles(), num_threads > 1 ? 4 * num_threads : 1));
  parallel_for(blocks, num_threads, [&](int64_t block, int worker) {
    run_block(args, pairs, part_of(pairs.tiles(), blocks, block), workers[worker]);
  });
  return {};
}

}  // namespace c2f
