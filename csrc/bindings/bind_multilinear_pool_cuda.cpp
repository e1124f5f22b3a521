#include "bindings/bindings.h"
#include "bindings/multilinear_pool_args.h"

namespace py = pybind11;

namespace c2f {
namespace {

// (major, minor, multiprocessors, bytes of shared memory a block can have, bytes of L2, take kernels of sm_90a?)
using DeviceTuple = std::tuple<int32_t, int32_t, int32_t, int64_t, int64_t, bool>;
// (positions of a tile, accumulators, blocks of a cluster along samples, along columns); 0 positions: the plan decides
using WishTuple = std::tuple<int32_t, int32_t, int32_t, int32_t>;

MultilinearPoolCudaPlan make_plan(const MultilinearPoolProblem& problem, int32_t layout, const DeviceTuple& facts,
                                  const WishTuple& wish_tuple) {
  CudaDevice device;
  std::tie(device.major, device.minor, device.num_sms, device.shared_bytes_per_block, device.l2_bytes, device.sm90a) =
      facts;
  FusedWish wish;
  std::tie(wish.block_l, wish.live, wish.cluster_b, wish.cluster_d) = wish_tuple;
  MultilinearPoolCudaPlan plan;
  throw_if_error(plan_multilinear_pool_cuda(problem, static_cast<Layout>(layout), device, wish, &plan));
  return plan;
}

const char* kernel_name(CudaKernel kernel) {
  return kernel == CudaKernel::kFusedSm90 ? "fused_sm90" : kernel == CudaKernel::kFusedSm80 ? "fused_sm80" : "chunked";
}

py::dict plan(const ProblemTuple& problem, int32_t layout, const DeviceTuple& device, const WishTuple& wish) {
  const MultilinearPoolCudaPlan plan = make_plan(make_problem(problem), layout, device, wish);
  py::dict result;
  result["kernel"] = kernel_name(plan.kernel);
  result["reason"] = plan.reason;
  result["fused"] = kernel_name(plan.fused);
  result["block_l"] = plan.block_l;
  result["block_d"] = plan.block_d;
  result["block_c"] = plan.block_c;
  result["stages"] = plan.stages;
  result["threads"] = plan.threads;
  result["grid"] = plan.grid;
  result["shared_bytes"] = plan.shared_bytes;
  if (plan.fused == CudaKernel::kFusedSm90) {
    result["live"] = plan.live;
    result["cluster_b"] = plan.cluster_b;
    result["cluster_d"] = plan.cluster_d;
    result["modelled_limit"] = plan.limit;
    result["bound"] = plan.bound;
  }
  result["chunk_b"] = plan.chunk_b;
  result["chunk_d"] = plan.chunk_d;
  return result;
}

#ifdef C2F_HAS_CUDA

void forward(const ProblemTuple& problem, const std::vector<FeatureTuple>& features,
             const std::vector<WeightTuple>& weights, const std::vector<Address>& biases, Address mask, Address p,
             int32_t layout, const DeviceTuple& device, const WishTuple& wish, Address stream) {
  auto args = make_args<MultilinearPoolFwdArgs>(problem, features, weights, biases, mask);
  args.p = pointer<float>(p);
  const MultilinearPoolCudaPlan plan = make_plan(args.problem, layout, device, wish);
  throw_if_error(without_gil([&] {
    switch (plan.fused) {
      case CudaKernel::kFusedSm80:
        return launch_multilinear_pool_fwd_sm80(args, plan, pointer<void>(stream));
#ifdef C2F_HAS_SM90
      case CudaKernel::kFusedSm90:
        return launch_multilinear_pool_fwd_sm90(args, plan, pointer<void>(stream));
#endif
      default:
        return Status::error(std::string("multilinear_pool_fwd: ") + plan.reason);
    }
  }));
}

// (address of each factor's [B, L, width], dtype, row stride, first column, width, before bias and activation?)
using ChunkTuple = std::tuple<std::vector<Address>, int32_t, int64_t, int64_t, int64_t, bool>;

HadamardArgs make_hadamard(const ProblemTuple& problem, const ChunkTuple& chunk, const std::vector<Address>& biases,
                           Address mask) {
  const auto& [projections, dtype, row_stride, first, width, raw] = chunk;
  HadamardArgs args;
  args.problem = make_problem(problem);
  args.dtype = static_cast<DType>(dtype);
  args.row_stride = row_stride;
  args.first = first;
  args.width = width;
  args.raw = raw;
  args.mask = pointer<const void>(mask);
  for (int m = 0; m < args.problem.M; ++m) {
    args.projections[m] = pointer<const void>(projections.at(m));
    args.biases[m] = pointer<const float>(biases.at(m));
  }
  return args;
}

void hadamard_reduce(const ProblemTuple& problem, const ChunkTuple& chunk, const std::vector<Address>& biases,
                     Address mask, Address p, Address stream) {
  HadamardArgs args = make_hadamard(problem, chunk, biases, mask);
  args.p = pointer<float>(p);
  throw_if_error(without_gil([&] { return launch_hadamard_reduce(args, pointer<void>(stream)); }));
}

void hadamard_grad(const ProblemTuple& problem, const ChunkTuple& chunk, const std::vector<Address>& biases,
                   Address mask, Address d_p, const std::vector<Address>& grads, Address grad_scale,
                   const std::vector<Address>& d_biases, Address stream) {
  HadamardArgs args = make_hadamard(problem, chunk, biases, mask);
  args.d_p = pointer<const float>(d_p);
  args.grad_scale = pointer<const float>(grad_scale);
  for (int m = 0; m < args.problem.M; ++m) {
    args.grads[m] = pointer<void>(grads.at(m));
    args.d_biases[m] = pointer<float>(d_biases.at(m));
  }
  throw_if_error(without_gil([&] { return launch_hadamard_grad(args, pointer<void>(stream)); }));
}

#endif  // C2F_HAS_CUDA

}  // namespace

void bind_multilinear_pool_cuda(py::module_& m) {
  m.def("multilinear_pool_cuda_plan", &plan, py::arg("problem"), py::arg("layout"), py::arg("device"),
        py::arg("wish") = WishTuple{0, 0, 1, 1},
        "Kernel, tiles and chunks for a device, name -> value. Needs no GPU and no CUDA build.");
#ifdef C2F_HAS_CUDA
  m.def("multilinear_pool_cuda_fwd", &forward, py::arg("problem"), py::arg("features"), py::arg("weights"),
        py::arg("biases"), py::arg("mask"), py::arg("p"), py::arg("layout"), py::arg("device"), py::arg("wish"),
        py::arg("stream"));
  m.def("hadamard_reduce_cuda", &hadamard_reduce, py::arg("problem"), py::arg("chunk"), py::arg("biases"),
        py::arg("mask"), py::arg("p"), py::arg("stream"));
  m.def("hadamard_grad_cuda", &hadamard_grad, py::arg("problem"), py::arg("chunk"), py::arg("biases"), py::arg("mask"),
        py::arg("d_p"), py::arg("grads"), py::arg("grad_scale"), py::arg("d_biases"), py::arg("stream"));
#endif
}

}  // namespace c2f
