// class_attentive_supcon: cosine similarities of anchors with keys under the weights of the anchor's class, summed in two ways over
// the keys; forward and gradient. Contrastive losses are sums over anchors of the two (docs/ops/class_attentive_loss.md).
//
//   sim_ij     = sum_e v[c,e] z[i,e] x[j,e] / (n(z_i, c) n(x_j, c)),   c = classes[i],   n(x, c)^2 = max(sum_e v[c,e] x_e^2, eps^2)
//   attract[i] = sum_j a[h_ij] sim_ij
//   repel[i]   = log sum_j r[h_ij] exp(sim_ij / parameter)           form kLogSumExp; -inf where no key has r > 0
//              = sum_j r[h_ij] max(0, sim_ij - parameter)            form kHinge
//
// z: anchors [A, d], x: keys [N, d], v = w o w: squared class weights [C, d]. h_ij, 0 .. K, is the number of leading levels on which the
// labels of anchor i and key j are the same and known; a and r are tables of K + 1 weights, none negative. The sums leave out key
// first + i (the anchor itself; first < 0: the anchors are not among the keys) and keys whose label on level 0 is below -1. A label of -1
// is unknown: such a key has h = 0 there. An anchor with classes[i] < 0 has attract = repel = 0 and no gradient.
//
// Given d_attract and d_repel, with S_ij = d_attract[i] a[h_ij] + d_repel[i] r[h_ij] (exp(sim_ij / parameter - repel[i]) / parameter, or
// 1 where sim_ij > parameter), T_ij = S_ij / (n(z_i) n(x_j)), F_ij = S_ij sim_ij / n(x_j)^2, E_i = sum_j S_ij sim_ij / n(z_i)^2 and
// Q_i = sum_j T_ij x_j,
//
//   d_z[i] = v_c o (Q_i - E_i z_i)              d_x[j] = sum_i v_c o (T_ij z_i - F_ij x_j)
//   d_v[c] = sum_{i in c} z_i o Q_i - (E_i z_i^2 + sum_j F_ij x_j^2) / 2
//
// where a norm is clamped to eps its own derivative, F_ij or E_i, is 0.
//
// Contract of every kernel behind this header
// - z and x share one storage type (problem.dtype), rows contiguous, row strides free and in elements; v and all results but d_z and d_x are
//   float32. Arithmetic is float32, but where storage has 16 bits, each operand of a matrix product (v o z, x; v, x^2; T, F) may be
//   rounded to that type; sums are float32.
// - `order` lists the anchors by class, excluded ones first, so that neighbours in it share weights: the norms of a tile of keys are needed
//   for the few classes of a tile of anchors only. Results do not depend on which of the valid orders is given, but for rounding.
// - Nothing of size A x N exists, nor C x N. Scratch is at most 12 (A + N) d float32, with A, N and d rounded up to whole tiles, and
//   a few hundred rows of d for each thread.
// - Sums run in one fixed order that depends on sizes alone: bit-equal from run to run and for any number of CPU threads. No float atomics.
// - classes[i] >= C: the CPU kernel returns an error that names it; on a GPU attract[i] and repel[i] are NaN and no memory is touched out
//   of bounds. NaN in key j reaches every anchor that has it as key; NaN in an anchor reaches its own results alone.
// - A, N, C, d >= 0 are all allowed; K is 1 to kMaxLevels. All offsets are 64-bit. The caller owns every buffer.
#pragma once

#include "c2f/common.h"

namespace c2f {

enum class Repulsion : int32_t { kLogSumExp = 0, kHinge = 1 };

inline constexpr int kMaxLevels = 4;

struct ClassAttentiveProblem {
  int64_t A = 0;  // anchors
  int64_t N = 0;  // keys
  int64_t d = 0;  // width
  int64_t C = 0;  // rows of v
  int64_t K = 1;  // levels of labels
  DType dtype = DType::kFloat32;
  Repulsion form = Repulsion::kLogSumExp;
  float parameter = 1;                    // temperature, or margin
  float eps = 1e-6f;
  int64_t first = 0;                      // key of anchor 0, < 0: none
  float attract_weight[kMaxLevels + 1] = {};
  float repel_weight[kMaxLevels + 1] = {};
};

struct ClassAttentiveFwdArgs {
  ClassAttentiveProblem problem;
  const void* z = nullptr;                // [A, d] anchors
  const void* x = nullptr;                // [N, d] keys
  int64_t z_stride = 0, x_stride = 0;
  const int64_t* z_labels = nullptr;      // [A, K] coarse -> fine
  const int64_t* x_labels = nullptr;      // [N, K]
  const int64_t* classes = nullptr;       // [A] row of v, < 0: excluded
  const int64_t* order = nullptr;         // [A] anchors by class
  const float* v = nullptr;               // [C, d]
  float* attract = nullptr;               // [A]
  float* repel = nullptr;                 // [A]
  void* scratch = nullptr;                // class_attentive_*_fwd_scratch bytes
};

struct ClassAttentiveBwdArgs {
  ClassAttentiveFwdArgs forward;          // with the results of the forward; its scratch is not used
  const float* d_attract = nullptr;       // [A]
  const float* d_repel = nullptr;         // [A]
  void* d_z = nullptr;                    // [A, d] in problem.dtype; null: not wanted
  void* d_x = nullptr;                    // [N, d] in problem.dtype; null: not wanted
  float* d_v = nullptr;                   // [C, d]; null: not wanted
  void* scratch = nullptr;                // class_attentive_*_bwd_scratch bytes
};

// Bytes of scratch, aligned to 64 by the caller.
int64_t class_attentive_cpu_fwd_scratch(const ClassAttentiveProblem& problem, int num_threads);
int64_t class_attentive_cpu_bwd_scratch(const ClassAttentiveProblem& problem, int num_threads);
Status run_class_attentive_fwd(const ClassAttentiveFwdArgs& args, int num_threads);
Status run_class_attentive_bwd(const ClassAttentiveBwdArgs& args, int num_threads);

// `stream` is a cudaStream_t.
int64_t class_attentive_cuda_fwd_scratch(const ClassAttentiveProblem& problem);
int64_t class_attentive_cuda_bwd_scratch(const ClassAttentiveProblem& problem);
Status launch_class_attentive_fwd(const ClassAttentiveFwdArgs& args, void* stream);
Status launch_class_attentive_bwd(const ClassAttentiveBwdArgs& args, void* stream);

}  // namespace c2f
