#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "c2f/multilinear_pool.h"

namespace py = pybind11;

namespace c2f {
namespace {

using Address = uintptr_t;
// (B, L, D, C of each factor, dtype, activation, mask kind, interactions); the last but one group are values of the enums.
using ProblemTuple = std::tuple<int64_t, int64_t, int64_t, std::vector<int64_t>, int32_t, int32_t, int32_t,
                                std::vector<std::vector<int32_t>>>;
using FeatureTuple = std::tuple<Address, int64_t, int64_t, int64_t>;  // address, stride_b, stride_l, stride_c
using WeightTuple = std::tuple<Address, int64_t, int64_t>;            // address, stride_c, stride_d

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

MultilinearPoolProblem make_problem(const ProblemTuple& from) {
  const auto& [B, L, D, channels, dtype, activation, mask, interactions] = from;
  if (channels.empty() || channels.size() > kMaxFactors) throw py::value_error("multilinear_pool: 1 to 4 factors expected");
  if (interactions.size() > kMaxInteractions) throw py::value_error("multilinear_pool: at most 16 interactions expected");
  MultilinearPoolProblem problem;
  problem.B = B;
  problem.L = L;
  problem.D = D;
  problem.M = static_cast<int32_t>(channels.size());
  std::copy(channels.begin(), channels.end(), problem.C);
  problem.dtype = static_cast<DType>(dtype);
  problem.activation = static_cast<Activation>(activation);
  problem.mask = static_cast<MaskKind>(mask);
  for (const std::vector<int32_t>& interaction : interactions) {
    InteractionSet& set = problem.interactions;
    if (interaction.empty() || interaction.size() > kMaxDegree) {
      throw py::value_error("multilinear_pool: interactions of length 1 to 4 expected");
    }
    for (int32_t factor : interaction) {
      if (factor < 0 || factor >= problem.M) throw py::value_error("multilinear_pool: interactions index the factors");
    }
    set.degree[set.count] = static_cast<int32_t>(interaction.size());
    std::copy(interaction.begin(), interaction.end(), set.factor[set.count++]);
  }
  return problem;
}

MultilinearPoolCpuPlan make_plan(const MultilinearPoolProblem& problem, int num_threads) {
  MultilinearPoolCpuPlan plan;
  throw_if_error(plan_multilinear_pool_cpu(problem, num_threads, &plan));
  return plan;
}

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

py::dict plan(const ProblemTuple& problem, int num_threads) {
  const MultilinearPoolCpuPlan plan = make_plan(make_problem(problem), num_threads);
  py::dict result;
  result["isa"] = plan.isa;
  result["block_l"] = plan.block_l;
  result["block_d"] = plan.block_d;
  result["unit_d"] = plan.unit_d;
  result["chunk_d"] = plan.chunk_d;
  result["chunk_b"] = plan.chunk_b;
  result["fwd_scratch_bytes"] = plan.fwd_scratch_bytes;
  result["bwd_scratch_bytes"] = plan.bwd_scratch_bytes;
  return result;
}

void forward(const ProblemTuple& problem, const std::vector<FeatureTuple>& features, const std::vector<WeightTuple>& weights,
             const std::vector<Address>& biases, Address mask, Address p, const std::vector<Address>& projections,
             Address scratch, int num_threads) {
  auto args = make_args<MultilinearPoolFwdArgs>(problem, features, weights, biases, mask);
  args.p = pointer<float>(p);
  for (size_t m = 0; m < projections.size(); ++m) args.projections[m] = pointer<void>(projections[m]);
  const MultilinearPoolCpuPlan plan = make_plan(args.problem, num_threads);
  Status status;
  {
    const py::gil_scoped_release release;
    status = run_multilinear_pool_fwd(args, plan, pointer<void>(scratch), num_threads);
  }
  throw_if_error(status);
}

void backward(const ProblemTuple& problem, const std::vector<FeatureTuple>& features,
              const std::vector<WeightTuple>& weights, const std::vector<Address>& biases, Address mask,
              const std::vector<Address>& projections, Address d_p, const std::vector<FeatureTuple>& d_features,
              const std::vector<Address>& d_weights, const std::vector<Address>& d_biases, Address scratch, int num_threads) {
  auto args = make_args<MultilinearPoolBwdArgs>(problem, features, weights, biases, mask);
  args.d_p = pointer<const float>(d_p);
  for (size_t m = 0; m < projections.size(); ++m) args.projections[m] = pointer<const void>(projections[m]);
  for (int m = 0; m < args.problem.M; ++m) {
    const auto& [data, stride_b, stride_l, stride_c] = d_features.at(m);
    args.d_features[m] = {pointer<void>(data), stride_b, stride_l, stride_c};
    args.d_weights[m] = pointer<void>(d_weights.at(m));
    args.d_biases[m] = pointer<float>(d_biases.at(m));
  }
  const MultilinearPoolCpuPlan plan = make_plan(args.problem, num_threads);
  Status status;
  {
    const py::gil_scoped_release release;
    status = run_multilinear_pool_bwd(args, plan, pointer<void>(scratch), num_threads);
  }
  throw_if_error(status);
}

}  // namespace

void bind_multilinear_pool_cpu(py::module_& m) {
  m.def("multilinear_pool_cpu_plan", &plan, py::arg("problem"), py::arg("num_threads"),
        "Blocking and scratch sizes of the CPU kernels, name -> value.");
  m.def("multilinear_pool_cpu_fwd", &forward, py::arg("problem"), py::arg("features"), py::arg("weights"), py::arg("biases"),
        py::arg("mask"), py::arg("p"), py::arg("projections"), py::arg("scratch"), py::arg("num_threads"));
  m.def("multilinear_pool_cpu_bwd", &backward, py::arg("problem"), py::arg("features"), py::arg("weights"), py::arg("biases"),
        py::arg("mask"), py::arg("projections"), py::arg("d_p"), py::arg("d_features"), py::arg("d_weights"),
        py::arg("d_biases"), py::arg("scratch"), py::arg("num_threads"));
}

}  // namespace c2f
