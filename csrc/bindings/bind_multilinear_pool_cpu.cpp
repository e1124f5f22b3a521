#include "bindings/bindings.h"
#include "bindings/multilinear_pool_args.h"

namespace py = pybind11;

namespace c2f {
namespace {

// `saves` goes by the number of projections, as where scratch was sized: those of an empty batch have no address.
MultilinearPoolCpuPlan make_plan(const MultilinearPoolProblem& problem, bool saves, int num_threads) {
  MultilinearPoolCpuPlan plan;
  throw_if_error(plan_multilinear_pool_cpu(problem, saves, num_threads, &plan));
  return plan;
}

py::dict plan(const ProblemTuple& problem, bool saves, int num_threads) {
  const MultilinearPoolCpuPlan plan = make_plan(make_problem(problem), saves, num_threads);
  py::dict result;
  result["isa"] = plan.isa;
  result["block_l"] = plan.block_l;
  result["block_d"] = plan.block_d;
  result["block_rows"] = plan.block_rows;
  result["unit_d"] = plan.unit_d;
  result["staged"] = plan.staged;
  result["packs_units"] = plan.packs_units;
  result["fwd_chunk_d"] = plan.fwd_chunk_d;
  result["chunk_d"] = plan.chunk_d;
  result["chunk_b"] = plan.chunk_b;
  result["product_rows"] = plan.product_rows;
  result["product_channels"] = plan.product_channels;
  result["product_d"] = plan.product_d;
  result["fwd_scratch_bytes"] = plan.fwd_scratch_bytes;
  result["bwd_scratch_bytes"] = plan.bwd_scratch_bytes;
  return result;
}

void forward(const ProblemTuple& problem, const std::vector<FeatureTuple>& features,
             const std::vector<WeightTuple>& weights, const std::vector<Address>& biases, Address mask, Address p,
             const std::vector<Address>& projections, Address scratch, int num_threads) {
  auto args = make_args<MultilinearPoolFwdArgs>(problem, features, weights, biases, mask);
  args.p = pointer<float>(p);
  for (size_t m = 0; m < projections.size(); ++m) args.projections[m] = pointer<void>(projections[m]);
  const MultilinearPoolCpuPlan plan = make_plan(args.problem, !projections.empty(), num_threads);
  throw_if_error(without_gil_interruptible(
      [&] { return run_multilinear_pool_fwd(args, plan, pointer<void>(scratch), num_threads); }));
}

void backward(const ProblemTuple& problem, const std::vector<FeatureTuple>& features,
              const std::vector<WeightTuple>& weights, const std::vector<Address>& biases, Address mask,
              const std::vector<Address>& projections, Address d_p, const std::vector<FeatureTuple>& d_features,
              const std::vector<Address>& d_weights, const std::vector<Address>& d_biases, Address scratch,
              int num_threads) {
  auto args = make_args<MultilinearPoolBwdArgs>(problem, features, weights, biases, mask);
  args.d_p = pointer<const float>(d_p);
  for (size_t m = 0; m < projections.size(); ++m) args.projections[m] = pointer<const void>(projections[m]);
  for (int m = 0; m < args.problem.M; ++m) {
    const auto& [data, stride_b, stride_l, stride_c] = d_features.at(m);
    args.d_features[m] = {pointer<void>(data), stride_b, stride_l, stride_c};
    args.d_weights[m] = pointer<void>(d_weights.at(m));
    args.d_biases[m] = pointer<float>(d_biases.at(m));
  }
  const MultilinearPoolCpuPlan plan = make_plan(args.problem, !projections.empty(), num_threads);
  throw_if_error(without_gil_interruptible(
      [&] { return run_multilinear_pool_bwd(args, plan, pointer<void>(scratch), num_threads); }));
}

}  // namespace

void bind_multilinear_pool_cpu(py::module_& m) {
  m.def("multilinear_pool_cpu_plan", &plan, py::arg("problem"), py::arg("saves"), py::arg("num_threads"),
        "Blocking and scratch sizes of the CPU kernels, name -> value.");
  m.def("multilinear_pool_cpu_fwd", &forward, py::arg("problem"), py::arg("features"), py::arg("weights"),
        py::arg("biases"), py::arg("mask"), py::arg("p"), py::arg("projections"), py::arg("scratch"),
        py::arg("num_threads"));
  m.def("multilinear_pool_cpu_bwd", &backward, py::arg("problem"), py::arg("features"), py::arg("weights"),
        py::arg("biases"), py::arg("mask"), py::arg("projections"), py::arg("d_p"), py::arg("d_features"),
        py::arg("d_weights"), py::arg("d_biases"), py::arg("scratch"), py::arg("num_threads"));
}

}  // namespace c2f
