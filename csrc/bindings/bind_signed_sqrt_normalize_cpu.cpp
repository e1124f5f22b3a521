#include "bindings/bindings.h"
#include "c2f/signed_sqrt_normalize.h"

namespace py = pybind11;

namespace c2f {
namespace {

SignedSqrtNormalizeArgs make_args(int64_t B, int64_t Q, int64_t D, int32_t sqrt_mode, float sqrt_eps,
                                  int32_t norm_scope, int32_t l2_mode, float l2_eps, Address p, int32_t dtype) {
  SignedSqrtNormalizeArgs args;
  args.B = B;
  args.Q = Q;
  args.D = D;
  args.sqrt_mode = static_cast<SqrtMode>(sqrt_mode);
  args.sqrt_eps = sqrt_eps;
  args.norm_scope = static_cast<NormScope>(norm_scope);
  args.l2_mode = static_cast<L2Mode>(l2_mode);
  args.l2_eps = l2_eps;
  args.p = pointer<const float>(p);
  args.dtype = static_cast<DType>(dtype);
  return args;
}

void forward(int64_t B, int64_t Q, int64_t D, int32_t sqrt_mode, float sqrt_eps, int32_t norm_scope, int32_t l2_mode,
             float l2_eps, Address p, int32_t dtype, Address out, int num_threads) {
  SignedSqrtNormalizeArgs args = make_args(B, Q, D, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps, p, dtype);
  args.out = pointer<void>(out);
  throw_if_error(without_gil([&] { return run_signed_sqrt_normalize_fwd(args, num_threads); }));
}

void backward(int64_t B, int64_t Q, int64_t D, int32_t sqrt_mode, float sqrt_eps, int32_t norm_scope, int32_t l2_mode,
              float l2_eps, Address p, int32_t dtype, Address d_out, Address d_p, int num_threads) {
  SignedSqrtNormalizeArgs args = make_args(B, Q, D, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps, p, dtype);
  args.d_out = pointer<const void>(d_out);
  args.d_p = pointer<float>(d_p);
  throw_if_error(without_gil([&] { return run_signed_sqrt_normalize_bwd(args, num_threads); }));
}

}  // namespace

void bind_signed_sqrt_normalize_cpu(py::module_& m) {
  m.def("signed_sqrt_normalize_cpu_fwd", &forward,
        "Modes, scope and dtype as the enums of c2f/signed_sqrt_normalize.h.");
  m.def("signed_sqrt_normalize_cpu_bwd", &backward,
        "Modes, scope and dtype as the enums of c2f/signed_sqrt_normalize.h.");
}

}  // namespace c2f
