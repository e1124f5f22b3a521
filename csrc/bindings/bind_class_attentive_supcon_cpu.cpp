#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "c2f/class_attentive_supcon.h"

namespace py = pybind11;

namespace c2f {
namespace {

// Sizes, storage type, form and what follows it in c2f/class_attentive_supcon.h.
ClassAttentiveProblem make_problem(int64_t A, int64_t N, int64_t d, int64_t C, int64_t K, int32_t dtype, bool hinge,
                                   float parameter, float eps, int64_t first, const std::vector<float>& attract_weight,
                                   const std::vector<float>& repel_weight) {
  const size_t levels = static_cast<size_t>(K) + 1;
  if (K < 1 || K > kMaxLevels || attract_weight.size() != levels || repel_weight.size() != levels) {
    throw py::value_error("class_attentive_supcon: attract_weight and repel_weight must have one number more than the "
                          "labels have levels, 1 to " + std::to_string(kMaxLevels));
  }
  ClassAttentiveProblem problem;
  problem.A = A;
  problem.N = N;
  problem.d = d;
  problem.C = C;
  problem.K = K;
  problem.dtype = static_cast<DType>(dtype);
  problem.form = hinge ? Repulsion::kHinge : Repulsion::kLogSumExp;
  problem.parameter = parameter;
  problem.eps = eps;
  problem.first = first;
  std::copy(attract_weight.begin(), attract_weight.end(), problem.attract_weight);
  std::copy(repel_weight.begin(), repel_weight.end(), problem.repel_weight);
  return problem;
}

ClassAttentiveFwdArgs make_args(const ClassAttentiveProblem& problem, Address z, int64_t z_stride, Address x,
                                int64_t x_stride, Address z_labels, Address x_labels, Address classes, Address order,
                                Address v, Address repel) {
  ClassAttentiveFwdArgs args;
  args.problem = problem;
  args.z = pointer<const void>(z);
  args.z_stride = z_stride;
  args.x = pointer<const void>(x);
  args.x_stride = x_stride;
  args.z_labels = pointer<const int64_t>(z_labels);
  args.x_labels = pointer<const int64_t>(x_labels);
  args.classes = pointer<const int64_t>(classes);
  args.order = pointer<const int64_t>(order);
  args.v = pointer<const float>(v);
  args.repel = pointer<float>(repel);
  return args;
}

// Every error of this kernel is about the values of an argument.
void throw_if_wrong(const Status& status) {
  if (!status.ok()) throw py::value_error(status.message());
}

void forward(const ClassAttentiveProblem& problem, Address z, int64_t z_stride, Address x, int64_t x_stride,
             Address z_labels, Address x_labels, Address classes, Address order, Address v, Address attract,
             Address repel, Address scratch, int num_threads) {
  ClassAttentiveFwdArgs args =
      make_args(problem, z, z_stride, x, x_stride, z_labels, x_labels, classes, order, v, repel);
  args.attract = pointer<float>(attract);
  args.scratch = pointer<void>(scratch);
  throw_if_wrong(without_gil([&] { return run_class_attentive_fwd(args, num_threads); }));
}

void backward(const ClassAttentiveProblem& problem, Address z, int64_t z_stride, Address x, int64_t x_stride,
              Address z_labels, Address x_labels, Address classes, Address order, Address v, Address repel,
              Address d_attract, Address d_repel, Address d_z, Address d_x, Address d_v, Address scratch,
              int num_threads) {
  ClassAttentiveBwdArgs args;
  args.forward = make_args(problem, z, z_stride, x, x_stride, z_labels, x_labels, classes, order, v, repel);
  args.d_attract = pointer<const float>(d_attract);
  args.d_repel = pointer<const float>(d_repel);
  args.d_z = pointer<void>(d_z);
  args.d_x = pointer<void>(d_x);
  args.d_v = pointer<float>(d_v);
  args.scratch = pointer<void>(scratch);
  throw_if_wrong(without_gil([&] { return run_class_attentive_bwd(args, num_threads); }));
}

}  // namespace

void bind_class_attentive_supcon_cpu(py::module_& m) {
  py::class_<ClassAttentiveProblem>(m, "ClassAttentiveProblem", "Sizes and options of class_attentive_supcon.")
      .def(py::init(&make_problem));
  m.def("class_attentive_supcon_cpu_fwd_scratch", &class_attentive_cpu_fwd_scratch, "Bytes of scratch of a forward.");
  m.def("class_attentive_supcon_cpu_bwd_scratch", &class_attentive_cpu_bwd_scratch, "Bytes of scratch of a backward.");
  m.def("class_attentive_supcon_cpu_fwd", &forward, "Arguments in the order of c2f/class_attentive_supcon.h.");
  m.def("class_attentive_supcon_cpu_bwd", &backward, "Arguments in the order of c2f/class_attentive_supcon.h.");
}

}  // namespace c2f
