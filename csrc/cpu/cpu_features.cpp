#include "cpu/cpu_features.h"

#include <cstdlib>
#include <string>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#endif

namespace c2f {
namespace {

#if defined(__x86_64__)

constexpr bool bit(uint64_t word, int index) { return (word >> index) & 1; }

uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Linux hands out the 8 KiB of tile registers only to a process that asks; threads and forked children inherit the
// answer.
bool request_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return f;  // OSXSAVE: without it xgetbv is illegal
  const bool fma = bit(c, 12), f16c = bit(c, 29);
  const uint64_t xcr0 = read_xcr0();
  const bool os_avx = (xcr0 & 0x6) == 0x6;
  const bool os_avx512 = os_avx && (xcr0 & 0xe0) == 0xe0;
  const bool os_amx = (xcr0 & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.fma = os_avx && fma;
  f.f16c = os_avx && f16c;
  f.avx2 = os_avx && bit(b, 5);
  f.avx512f = os_avx512 && bit(b, 16);
  f.avx512dq = os_avx512 && bit(b, 17);
  f.avx512bw = os_avx512 && bit(b, 30);
  f.avx512vl = os_avx512 && bit(b, 31);
  const bool tiles = bit(d, 24) && os_amx && request_tiles();
  f.amx_tile = tiles;
  f.amx_bf16 = tiles && bit(d, 22);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512_bf16 = os_avx512 && bit(a, 5);
  return f;
}

#else

CpuFeatures detect() { return {}; }

#endif

constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};

bool reachable(Isa isa, const CpuFeatures& f) {
  const bool avx2 = f.avx2 && f.fma && f.f16c;
  const bool avx512 = avx2 && f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl;
  switch (isa) {
    case Isa::kPortable:
      return true;
#if C2F_HAS_AVX2
    case Isa::kAvx2:
      return avx2;
#endif
#if C2F_HAS_AVX512
    case Isa::kAvx512:
      return avx512;
#endif
#if C2F_HAS_AVX512_BF16
    case Isa::kAvx512Bf16:
      return avx512 && f.avx512_bf16;
#endif
#if C2F_HAS_AMX
    case Isa::kAmx:
      return avx512 && f.avx512_bf16 && f.amx_tile && f.amx_bf16;
#endif
    default:
      (void)avx2;
      (void)avx512;
      return false;
  }
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

int64_t l2_bytes() {
  static const int64_t bytes = [] {
    int64_t reported = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return reported > 0 ? reported : int64_t{1} << 20;
  }();
  return bytes;
}

const char* isa_name(Isa isa) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};
  return kNames[static_cast<int>(isa)];
}

Status choose_isa(const CpuFeatures& features, const char* request, Isa* isa) {
  std::string within_reach;
  for (Isa level : kIsas) {
    if (!reachable(level, features)) continue;
    *isa = level;
    within_reach += std::string(within_reach.empty() ? "" : ", ") + isa_name(level);
  }
  if (request == nullptr || *request == '\0') return {};
  for (Isa level : kIsas) {
    if (reachable(level, features) && std::string(request) == isa_name(level)) {
      *isa = level;
      return {};
    }
  }
  return Status::error("C2F_CPU_ISA must be one of " + within_reach + " (what this build and processor reach), got '" +
                       request + "'");
}

Isa cpu_isa() {
  static const Isa isa = [] {
    Isa chosen = Isa::kPortable;
    (void)choose_isa(cpu_features(), std::getenv("C2F_CPU_ISA"), &chosen);
    return chosen;
  }();
  return isa;
}

}  // namespace c2f
