// What tests ask plan/fused_sm90_tile.h.
#include "schedule.h"

#include <pybind11/stl.h>

#include "bindings/multilinear_pool_args.h"
#include "plan/fused_sm90_tile.h"

namespace emulation {

using namespace ::c2f;

// For each block of the grid: (sample, first column, [(position, factor, channel) of each stage]).
std::vector<std::tuple<int, int, std::vector<std::tuple<int, int, int>>>> sm90_schedule(const ProblemTuple& from,
                                                                                        int block_l, int cluster_b,
                                                                                        int cluster_d) {
  const MultilinearPoolProblem problem = make_problem(from);
  const fused_sm90::Cluster cluster{cluster_b, cluster_d};
  std::vector<std::tuple<int, int, int>> steps;
  for (fused_sm90::Step step; step.within(problem); step.next(problem, block_l)) {
    steps.emplace_back(step.position, step.m, step.channel);
  }
  std::vector<std::tuple<int, int, std::vector<std::tuple<int, int, int>>>> schedule;
  for (int block = 0; block < fused_sm90::blocks(problem, cluster); ++block) {
    const fused_sm90::Place place = fused_sm90::place_of(block, problem, cluster);
    schedule.emplace_back(place.b, place.d, steps);
  }
  return schedule;
}

void bind_schedule(pybind11::module_& m) {
  m.def("sm90_schedule", &sm90_schedule);
  m.def("sm90_tiles", [] {
    std::vector<std::pair<int, int>> tiles;
    for (const fused_sm90::Tile tile : fused_sm90::kTiles) tiles.emplace_back(tile.block_l, tile.live);
    return tiles;
  });
}

}  // namespace emulation
