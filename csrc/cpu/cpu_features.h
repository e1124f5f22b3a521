// What the processor and the operating system let this process execute, found once at run time.
#pragma once

#include <cstdint>

#include "c2f/common.h"

namespace c2f {

// A feature is true when the processor has it and the operating system saves its registers.
struct CpuFeatures {
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false, avx512_bf16 = false;
  bool amx_tile = false, amx_bf16 = false;
};

// Levels that source files are compiled for (CMakeLists.txt, by file name), lowest first.
enum class Isa : int32_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4 };

const CpuFeatures& cpu_features();

// Size of a core's second-level cache; 1 MiB where the system does not say.
int64_t l2_bytes();

// "portable" | "avx2" | "avx512" | "avx512_bf16" | "amx"
const char* isa_name(Isa isa);

// The best level that `features` and this build allow, or the level that `request` names. Error: a name that is unknown
// or out of reach. Null or "": the best.
Status choose_isa(const CpuFeatures& features, const char* request, Isa* isa);

// choose_isa for this machine and the environment variable C2F_CPU_ISA, decided once; the best level where the variable
// is in error, which loading the Python module reports.
Isa cpu_isa();

}  // namespace c2f
