#include "bindings/bindings.h"
#include "c2f/falcon_loss.h"

namespace py = pybind11;

namespace c2f {
namespace {

FalconLossProblem make_problem(int64_t B, int64_t K_F, int64_t L, int64_t N, int64_t D, int32_t dtype) {
  return {B, K_F, L, N, D, static_cast<DType>(dtype)};
}

void forward(int64_t B, int64_t K_F, int64_t L, int64_t N, int64_t D, int32_t dtype, Address z, int64_t z_stride,
             Address s, int64_t s_stride, Address t, int64_t t_stride, Address neighbours, Address y, Address g,
             Address scale, float temperature, float tau, Address value, Address terms, Address mass, Address lse,
             Address grad, Address scratch, int num_threads) {
  FalconLossFwdArgs args;
  args.problem = make_problem(B, K_F, L, N, D, dtype);
  args.z = pointer<const void>(z);
  args.z_stride = z_stride;
  args.s = pointer<const void>(s);
  args.s_stride = s_stride;
  args.t = pointer<const void>(t);
  args.t_stride = t_stride;
  args.neighbours = pointer<const int64_t>(neighbours);
  args.y = pointer<const int64_t>(y);
  args.g = pointer<const int32_t>(g);
  args.scale = pointer<const float>(scale);
  args.temperature = temperature;
  args.tau = tau;
  args.value = pointer<float>(value);
  args.terms = pointer<float>(terms);
  args.mass = pointer<float>(mass);
  args.lse = pointer<float>(lse);
  args.grad = pointer<float>(grad);
  args.scratch = pointer<void>(scratch);
  const Status status = without_gil([&] { return run_falcon_loss_fwd(args, num_threads); });
  // Every error of this kernel is about the values of an argument.
  if (!status.ok()) throw py::value_error(status.message());
}

void backward(int64_t B, int64_t K_F, int32_t dtype, Address z, int64_t z_stride, Address lse, Address grad,
              Address d_value, Address d_mass, Address d_z, int num_threads) {
  FalconLossBwdArgs args;
  args.problem = make_problem(B, K_F, 0, 0, 0, dtype);
  args.z = pointer<const void>(z);
  args.z_stride = z_stride;
  args.lse = pointer<const float>(lse);
  args.grad = pointer<const float>(grad);
  args.d_value = pointer<const float>(d_value);
  args.d_mass = pointer<const float>(d_mass);
  args.d_z = pointer<void>(d_z);
  throw_if_error(without_gil([&] { return run_falcon_loss_bwd(args, num_threads); }));
}

int64_t scratch_bytes(int64_t B, int64_t K_F, int num_threads) {
  return falcon_loss_cpu_scratch(make_problem(B, K_F, 0, 0, 0, 0), num_threads);
}

}  // namespace

void bind_falcon_loss_cpu(py::module_& m) {
  m.def("falcon_loss_cpu_scratch", &scratch_bytes, "Bytes of scratch for B rows of K_F.");
  m.def("falcon_loss_cpu_fwd", &forward, "Arguments in the order of c2f/falcon_loss.h; dtype as its enum.");
  m.def("falcon_loss_cpu_bwd", &backward, "Arguments in the order of c2f/falcon_loss.h; dtype as its enum.");
}

}  // namespace c2f
