#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "c2f/class_attentive_supcon.h"
#include "plan/class_attentive_cuda_plan.h"

namespace py = pybind11;

namespace c2f {
namespace {

// A, N, d, C, K, dtype, hinge, parameter, eps, first, attract_weight, repel_weight
using ProblemTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int32_t, bool, float, float, int64_t,
                                std::vector<float>, std::vector<float>>;

ClassAttentiveProblem make_problem(const ProblemTuple& from) {
  ClassAttentiveProblem problem;
  int32_t dtype = 0;
  bool hinge = false;
  std::vector<float> attract, repel;
  std::tie(problem.A, problem.N, problem.d, problem.C, problem.K, dtype, hinge, problem.parameter, problem.eps,
           problem.first, attract, repel) = from;
  problem.dtype = static_cast<DType>(dtype);
  problem.form = hinge ? Repulsion::kHinge : Repulsion::kLogSumExp;
  const size_t levels = static_cast<size_t>(problem.K) + 1;
  if (problem.K < 1 || problem.K > kMaxLevels || attract.size() != levels || repel.size() != levels) {
    throw py::value_error("class_attentive_supcon: attract_weight and repel_weight must have one number more than the "
                          "labels have levels, 1 to " + std::to_string(kMaxLevels));
  }
  std::copy(attract.begin(), attract.end(), problem.attract_weight);
  std::copy(repel.begin(), repel.end(), problem.repel_weight);
  return problem;
}

py::dict plan_of(const ProblemTuple& from, int64_t shared_limit) {
  using namespace class_attentive;
  const CudaPlan plan = plan_cuda(make_problem(from));
  py::dict result;
  result["kernel"] = plan.tensor_cores ? "tensor cores" : "float32";
  result["width"] = plan.width;
  result["anchor_tiles"] = plan.anchor_tiles;
  result["key_tiles"] = plan.key_tiles;
  result["out_blocks"] = plan.out_blocks;
  const std::array<std::tuple<const char*, Pass, int64_t, int32_t>, 3> passes = {{
      {"forward", Pass::kForward, plan.anchor_tiles, plan.splits},
      {"anchors", Pass::kAnchors, plan.anchor_tiles * plan.out_blocks, plan.anchor_splits},
      {"keys", Pass::kKeys, plan.key_tiles * plan.out_blocks, plan.key_splits},
  }};
  for (const auto& [name, pass, tiles, splits] : passes) {
    const Feeding feeding = choose_feeding(plan, pass, shared_limit);
    py::dict facts;
    facts["splits"] = splits;
    facts["blocks"] = tiles * splits;
    facts["resident"] = feeding.resident;
    facts["stages"] = feeding.stages;
    facts["shared_bytes"] = feeding.shared_bytes;
    result[name] = facts;
  }
  return result;
}

#ifdef C2F_HAS_CUDA

// z, its row stride, x, its row stride, z_labels, x_labels, classes, order, v
using OperandsTuple =
    std::tuple<Address, int64_t, Address, int64_t, Address, Address, Address, Address, Address>;

ClassAttentiveFwdArgs make_args(const ProblemTuple& problem, const OperandsTuple& from) {
  ClassAttentiveFwdArgs args;
  args.problem = make_problem(problem);
  const auto& [z, z_stride, x, x_stride, z_labels, x_labels, classes, order, v] = from;
  args.z = pointer<const void>(z), args.z_stride = z_stride;
  args.x = pointer<const void>(x), args.x_stride = x_stride;
  args.z_labels = pointer<const int64_t>(z_labels);
  args.x_labels = pointer<const int64_t>(x_labels);
  args.classes = pointer<const int64_t>(classes);
  args.order = pointer<const int64_t>(order);
  args.v = pointer<const float>(v);
  return args;
}

void forward(const ProblemTuple& problem, const OperandsTuple& operands, Address attract, Address repel, Address scratch,
             Address stream) {
  ClassAttentiveFwdArgs args = make_args(problem, operands);
  args.attract = pointer<float>(attract);
  args.repel = pointer<float>(repel);
  args.scratch = pointer<void>(scratch);
  throw_if_error(without_gil([&] { return launch_class_attentive_fwd(args, pointer<void>(stream)); }));
}

// results: d_z, d_x, d_v (0: not wanted)
void backward(const ProblemTuple& problem, const OperandsTuple& operands, Address repel, Address d_attract,
              Address d_repel, const std::array<Address, 3>& results, Address scratch, Address stream) {
  ClassAttentiveBwdArgs args;
  args.forward = make_args(problem, operands);
  args.forward.repel = pointer<float>(repel);
  args.d_attract = pointer<const float>(d_attract);
  args.d_repel = pointer<const float>(d_repel);
  args.d_z = pointer<void>(results[0]);
  args.d_x = pointer<void>(results[1]);
  args.d_v = pointer<float>(results[2]);
  args.scratch = pointer<void>(scratch);
  throw_if_error(without_gil([&] { return launch_class_attentive_bwd(args, pointer<void>(stream)); }));
}

#endif  // C2F_HAS_CUDA

}  // namespace

void bind_class_attentive_supcon_cuda(py::module_& m) {
  m.def(
      "class_attentive_supcon_cuda_scratch",
      [](const ProblemTuple& from) {
        const ClassAttentiveProblem problem = make_problem(from);
        return std::pair(class_attentive_cuda_fwd_scratch(problem), class_attentive_cuda_bwd_scratch(problem));
      },
      "Bytes of scratch of the forward and the backward. (problem)");
  m.def("class_attentive_supcon_cuda_plan", &plan_of, "How pairs are shared out. (problem, bytes of shared memory)");
#ifdef C2F_HAS_CUDA
  m.def("class_attentive_supcon_cuda_fwd", &forward, "(problem, operands, attract, repel, scratch, stream)");
  m.def("class_attentive_supcon_cuda_bwd", &backward,
        "(problem, operands, repel, d_attract, d_repel, results, scratch, stream)");
#endif
}

}  // namespace c2f
