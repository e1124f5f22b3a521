// How Python hands a multilinear_pool problem to a binding: tuples of sizes, enum values and addresses.
#pragma once

#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "c2f/multilinear_pool.h"

namespace c2f {

// (B, L, D, C of each factor, dtype, precision, activation, mask kind, interactions); kinds are values of the enums.
using ProblemTuple = std::tuple<int64_t, int64_t, int64_t, std::vector<int64_t>, int32_t, int32_t, int32_t, int32_t,
                                std::vector<std::vector<int32_t>>>;
using FeatureTuple = std::tuple<Address, int64_t, int64_t, int64_t>;  // address, stride_b, stride_l, stride_c
using WeightTuple = std::tuple<Address, int64_t, int64_t>;            // address, stride_c, stride_d

inline MultilinearPoolProblem make_problem(const ProblemTuple& from) {
  const auto& [B, L, D, channels, dtype, precision, activation, mask, interactions] = from;
  if (channels.empty() || channels.size() > kMaxFactors) {
    throw pybind11::value_error("multilinear_pool: 1 to 4 factors expected");
  }
  if (interactions.empty() || interactions.size() > kMaxInteractions) {
    throw pybind11::value_error("multilinear_pool: 1 to 16 interactions expected");
  }
  MultilinearPoolProblem problem;
  problem.B = B;
  problem.L = L;
  problem.D = D;
  problem.M = static_cast<int32_t>(channels.size());
  std::copy(channels.begin(), channels.end(), problem.C);
  problem.dtype = static_cast<DType>(dtype);
  problem.precision = static_cast<MatmulPrecision>(precision);
  problem.activation = static_cast<Activation>(activation);
  problem.mask = static_cast<MaskKind>(mask);
  for (const std::vector<int32_t>& interaction : interactions) {
    InteractionSet& set = problem.interactions;
    if (interaction.empty() || interaction.size() > kMaxDegree) {
      throw pybind11::value_error("multilinear_pool: interactions of length 1 to 4 expected");
    }
    for (const int32_t factor : interaction) {
      if (factor < 0 || factor >= problem.M)
        throw pybind11::value_error("multilinear_pool: interactions index the factors");
    }
    set.degree[set.count] = static_cast<int32_t>(interaction.size());
    std::copy(interaction.begin(), interaction.end(), set.factor[set.count++]);
  }
  return problem;
}

// The operands that forward and backward have in common.
template <typename Args>
Args make_args(const ProblemTuple& problem, const std::vector<FeatureTuple>& features,
               const std::vector<WeightTuple>& weights, const std::vector<Address>& biases, Address mask) {
  Args args;
  args.problem = make_problem(problem);
  for (int m = 0; m < args.problem.M; ++m) {
    const auto& [data, stride_b, stride_l, stride_c] = features.at(m);
    args.features[m] = {pointer<const void>(data), stride_b, stride_l, stride_c};
    const auto& [weight, stride_row, stride_d] = weights.at(m);
    args.weights[m] = {pointer<const void>(weight), stride_row, stride_d};
    args.biases[m] = pointer<const float>(biases.at(m));
  }
  args.mask = pointer<const void>(mask);
  return args;
}

}  // namespace c2f
