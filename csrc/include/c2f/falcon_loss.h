// falcon_loss: the row part of the FALCON loss (Fine-grained Classes and How to Find Them, ICML 2024), forward and gradient.
//
//   value[i] = scale[0] coarse_i + scale[1] nn_i + scale[2] conf_i            mass[k] = sum_i p[i,k],  p[i,:] = softmax(z[i,:])
//
//   coarse_i = LSE(z_i) - LSE(z_i over G_i)
//   nn_i     = (1/L_i) sum_l LSE(z_i) + LSE(t_l) - LSE(z_i + t_l)              over the L_i neighbours l = neighbours[i,:] >= 0
//   conf_i   = sum_k q_ik (LSE(z_i) - z_ik)        q_i = tau softmax(s_i / T over G_i) + (1 - tau) onehot(argmax of s_i over G_i)
//   grad[i,k] = d value_i / d z_ik = (scale[0] + scale[1] + scale[2]) p - scale[0] p^G - scale[1] mean_l softmax(z_i + t_l) - scale[2] q
//
// G_i, the group of sample i: the fine classes k with g[d,k] == y[i,d] for every data set d with y[i,d] >= 0; where those labels
// have no fine class in common, the group of the first of them alone. A sample without label (all y[i,:] < 0) has coarse = conf
// = 0, one without neighbour nn = 0, and their parts of grad are 0.
//
// Given d_value and d_mass, backward: d_z[i,k] = d_value[i] grad[i,k] + p[i,k] (d_mass[k] - sum_j p[i,j] d_mass[j]).
//
// Contract of every kernel behind this header
// - z, s and t share one storage type (problem.dtype); rows are contiguous, row strides are free and in elements. Arithmetic is
//   float32: row maxima are taken out before exp, so logits of any finite size give finite results where the truth is finite. nn
//   of two confident rows that disagree is their logit gap, not infinity: the product of two softmaxes may underflow, LSE(z + t) does not.
// - Ties of argmax go to the lowest k.
// - A labelled sample whose group is empty, or neighbours[i,l] >= N: the CPU kernel returns an error that names it; on a GPU, where a
//   check would wait for the device, value[i] and grad[i,:] are NaN and no memory is touched out of bounds.
// - NaN in sample i reaches value[i], terms[i,:], lse[i], grad[i,:] and mass; never another sample's row.
// - mass is summed in one fixed order (blocks of rows, then the blocks): bit-equal from run to run and for any number of CPU threads.
//   No float atomics. Nothing of size B x K_F x K_C or B x L x K_F exists.
// - Each of z, s and t is read from memory once by the forward where a row fits in cache or shared memory, twice beyond.
// - B, L, D, K_F >= 1 is not assumed: B = 0 gives mass = 0, L = 0 gives nn = 0. All offsets are 64-bit. The caller owns every buffer.
#pragma once

#include "c2f/common.h"

namespace c2f {

struct FalconLossProblem {
  int64_t B = 0;    // samples
  int64_t K_F = 0;  // fine classes
  int64_t L = 0;    // neighbours of a sample, at most
  int64_t N = 0;    // rows of t
  int64_t D = 0;    // data sets
  DType dtype = DType::kFloat32;
};

struct FalconLossFwdArgs {
  FalconLossProblem problem;
  const void* z = nullptr;              // [B, K_F] student logits
  const void* s = nullptr;              // [B, K_F] teacher logits of the same samples
  const void* t = nullptr;              // [N, K_F] teacher logits that `neighbours` points into
  int64_t z_stride = 0, s_stride = 0, t_stride = 0;
  const int64_t* neighbours = nullptr;  // [B, L], -1 = none
  const int64_t* y = nullptr;           // [B, D], -1 = none
  const int32_t* g = nullptr;           // [D, K_F]
  const float* scale = nullptr;         // [3], on the device of z: coarse, nn, conf
  float temperature = 1, tau = 1;
  float* value = nullptr;               // [B]
  float* terms = nullptr;               // [B, 3] coarse, nn, conf, unscaled
  float* mass = nullptr;                // [K_F]
  float* lse = nullptr;                 // [B]
  float* grad = nullptr;                // [B, K_F]; null: not wanted
  void* scratch = nullptr;              // falcon_loss_*_scratch bytes
};

struct FalconLossBwdArgs {
  FalconLossProblem problem;            // L, N and D are not used
  const void* z = nullptr;              // [B, K_F]
  int64_t z_stride = 0;
  const float* lse = nullptr;           // [B]
  const float* grad = nullptr;          // [B, K_F]
  const float* d_value = nullptr;       // [B]
  const float* d_mass = nullptr;        // [K_F]
  void* d_z = nullptr;                  // [B, K_F] in problem.dtype
};

int64_t falcon_loss_cpu_scratch(const FalconLossProblem& problem, int num_threads);  // bytes, 64-byte aligned by the caller
Status run_falcon_loss_fwd(const FalconLossFwdArgs& args, int num_threads);
Status run_falcon_loss_bwd(const FalconLossBwdArgs& args, int num_threads);

// `stream` is a cudaStream_t.
int64_t falcon_loss_cuda_scratch(const FalconLossProblem& problem);
Status launch_falcon_loss_fwd(const FalconLossFwdArgs& args, void* stream);
Status launch_falcon_loss_bwd(const FalconLossBwdArgs& args, void* stream);

}  // namespace c2f
