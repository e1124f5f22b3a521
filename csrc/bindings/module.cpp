#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>

#include "bindings/bindings.h"
#include "build_facts.h"
#include "c2f/cpu_peak.h"
#include "cpu/cpu_features.h"

namespace py = pybind11;

namespace {

std::string compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

// What this module was built from and for.
py::dict build_info() {
  const auto split = [](const char* words) { return *words ? py::str(words).attr("split")(";") : py::list(); };
  py::dict info;
  info["version"] = C2F_VERSION;
  info["commit"] = C2F_COMMIT;
  info["compiler"] = compiler_name();
  info["isas"] = split(C2F_BUILD_ISAS);
  info["cuda"] = *C2F_CUDA_ARCHS != '\0';
  info["cuda_archs"] = split(C2F_CUDA_ARCHS);
  info["cuda_compiler"] = C2F_NVCC;
  info["cuda_note"] = C2F_CUDA_NOTE;
  return info;
}

double cpu_peak(int32_t dtype, int32_t precision, int64_t rounds, int num_threads) {
  const py::gil_scoped_release release;
  return c2f::run_cpu_peak(static_cast<c2f::DType>(dtype), static_cast<c2f::MatmulPrecision>(precision), rounds, num_threads);
}

py::dict cpu_features() {
  const c2f::CpuFeatures& f = c2f::cpu_features();
  py::dict features;
  features["avx2"] = f.avx2;
  features["fma"] = f.fma;
  features["f16c"] = f.f16c;
  features["avx512f"] = f.avx512f;
  features["avx512bw"] = f.avx512bw;
  features["avx512dq"] = f.avx512dq;
  features["avx512vl"] = f.avx512vl;
  features["avx512_bf16"] = f.avx512_bf16;
  features["amx_tile"] = f.amx_tile;
  features["amx_bf16"] = f.amx_bf16;
  return features;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  c2f::Isa isa;
  const c2f::Status status = c2f::choose_isa(c2f::cpu_features(), std::getenv("C2F_CPU_ISA"), &isa);
  if (!status.ok()) throw py::import_error(status.message());

  m.def("build_info", &build_info, "Version, commit, compilers, instruction sets and CUDA architectures of this build.");
  m.def("cpu_features", &cpu_features, "Features that processor and operating system allow, name -> bool.");
  m.def("cpu_isa", [] { return c2f::isa_name(c2f::cpu_isa()); }, "Instruction set of the CPU kernels; C2F_CPU_ISA forces one.");
  m.def("cpu_peak", &cpu_peak, py::arg("dtype"), py::arg("precision"), py::arg("rounds"), py::arg("num_threads"),
        "Multiply in registers alone; returns the flops done.");

  c2f::bind_class_attentive_supcon_cpu(m);
  c2f::bind_falcon_loss_cpu(m);
  c2f::bind_multilinear_pool_cpu(m);
  c2f::bind_signed_sqrt_normalize_cpu(m);
  c2f::bind_multilinear_pool_cuda(m);
  c2f::bind_signed_sqrt_normalize_cuda(m);
  c2f::bind_falcon_loss_cuda(m);
  c2f::bind_class_attentive_supcon_cuda(m);
  c2f::bind_relations(m);
}
