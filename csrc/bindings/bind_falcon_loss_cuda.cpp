#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <utility>

#include "bindings/bindings.h"
#include "c2f/falcon_loss.h"

namespace py = pybind11;

namespace c2f {
namespace {

using ProblemTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int32_t>;  // B, K_F, L, N, D, dtype
using RowsTuple = std::pair<Address, int64_t>;                                          // address, row stride

FalconLossProblem make_problem(const ProblemTuple& from) {
  FalconLossProblem problem;
  int32_t dtype = 0;
  std::tie(problem.B, problem.K_F, problem.L, problem.N, problem.D, dtype) = from;
  problem.dtype = static_cast<DType>(dtype);
  return problem;
}

int64_t scratch(const ProblemTuple& problem) { return falcon_loss_cuda_scratch(make_problem(problem)); }

#ifdef C2F_HAS_CUDA

// outputs: value, terms, mass, lse, grad (0: not wanted)
void forward(const ProblemTuple& problem, const RowsTuple& z, const RowsTuple& s, const RowsTuple& t,
             Address neighbours, Address y, Address g, Address scale, float temperature, float tau,
             const std::array<Address, 5>& outputs, Address scratch, Address stream) {
  FalconLossFwdArgs args;
  args.problem = make_problem(problem);
  args.z = pointer<const void>(z.first), args.z_stride = z.second;
  args.s = pointer<const void>(s.first), args.s_stride = s.second;
  args.t = pointer<const void>(t.first), args.t_stride = t.second;
  args.neighbours = pointer<const int64_t>(neighbours);
  args.y = pointer<const int64_t>(y);
  args.g = pointer<const int32_t>(g);
  args.scale = pointer<const float>(scale);
  args.temperature = temperature;
  args.tau = tau;
  args.value = pointer<float>(outputs[0]);
  args.terms = pointer<float>(outputs[1]);
  args.mass = pointer<float>(outputs[2]);
  args.lse = pointer<float>(outputs[3]);
  args.grad = pointer<float>(outputs[4]);
  args.scratch = pointer<void>(scratch);
  throw_if_error(without_gil([&] { return launch_falcon_loss_fwd(args, pointer<void>(stream)); }));
}

void backward(const ProblemTuple& problem, const RowsTuple& z, Address lse, Address grad, Address d_value,
              Address d_mass, Address d_z, Address stream) {
  FalconLossBwdArgs args;
  args.problem = make_problem(problem);
  args.z = pointer<const void>(z.first), args.z_stride = z.second;
  args.lse = pointer<const float>(lse);
  args.grad = pointer<const float>(grad);
  args.d_value = pointer<const float>(d_value);
  args.d_mass = pointer<const float>(d_mass);
  args.d_z = pointer<void>(d_z);
  throw_if_error(without_gil([&] { return launch_falcon_loss_bwd(args, pointer<void>(stream)); }));
}

#endif  // C2F_HAS_CUDA

}  // namespace

void bind_falcon_loss_cuda(py::module_& m) {
  m.def("falcon_loss_cuda_scratch", &scratch, "Bytes of scratch that the CUDA forward needs. (problem)");
#ifdef C2F_HAS_CUDA
  m.def("falcon_loss_cuda_fwd", &forward,
        "(problem, z, s, t, neighbours, y, g, scale, temperature, tau, outputs, scratch, stream)");
  m.def("falcon_loss_cuda_bwd", &backward, "(problem, z, lse, grad, d_value, d_mass, d_z, stream)");
#endif
}

}  // namespace c2f
