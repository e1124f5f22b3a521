#include "bindings/bindings.h"
#include "c2f/signed_sqrt_normalize.h"

namespace py = pybind11;

namespace c2f {

#ifdef C2F_HAS_CUDA
namespace {

// One function for both directions: addresses that a direction does not use are 0.
template <Status (*kLaunch)(const SignedSqrtNormalizeArgs&, void*)>
void run(int64_t B, int64_t Q, int64_t D, int32_t sqrt_mode, float sqrt_eps, int32_t norm_scope, int32_t l2_mode,
         float l2_eps, Address p, int32_t dtype, Address out, Address d_out, Address d_p, Address stream) {
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
  args.out = pointer<void>(out);
  args.d_out = pointer<const void>(d_out);
  args.d_p = pointer<float>(d_p);
  throw_if_error(without_gil([&] { return kLaunch(args, pointer<void>(stream)); }));
}

}  // namespace
#endif  // C2F_HAS_CUDA

void bind_signed_sqrt_normalize_cuda([[maybe_unused]] py::module_& m) {
#ifdef C2F_HAS_CUDA
  const char* doc = "(B, Q, D, sqrt_mode, sqrt_eps, norm_scope, l2_mode, l2_eps, p, dtype, out, d_out, d_p, stream)";
  m.def("signed_sqrt_normalize_cuda_fwd", &run<launch_signed_sqrt_normalize_fwd>, doc);
  m.def("signed_sqrt_normalize_cuda_bwd", &run<launch_signed_sqrt_normalize_bwd>, doc);
#endif
}

}  // namespace c2f
