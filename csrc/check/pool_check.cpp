// multilinear_pool of csrc/cpu without Python, for processors that are only emulated: forward and backward of each
// storage type against loops in double, and the same bits on three threads. Prints the errors; exits with 1 where one
// is too large.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "c2f/multilinear_pool.h"
#include "cpu/half.h"

namespace c2f {
namespace {

constexpr int64_t kB = 3, kL = 53, kD = 45, kM = 2, kQ = 3, kC[kM] = {37, 20};
constexpr int kDegree[kQ] = {2, 1, 3}, kFactor[kQ][3] = {{0, 1}, {0}, {1, 1, 0}};

using Floats = std::vector<float>;

float draw() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(state >> 8) * 0x1p-23f - 1;
}

// A product of projections for each interaction, with one of its factors left out (-1: none).
double product(const double* u, int q, int without) {
  double x = 1;
  for (int k = 0; k < kDegree[q]; ++k) x *= k == without ? 1 : u[kFactor[q][k]];
  return x;
}

double error(const std::vector<double>& want, const Floats& got) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(difference / size);
}

struct Results {
  Floats p, d_x[kM], d_w[kM], d_b[kM];
};

template <typename T>
class Check {
 public:
  explicit Check(DType dtype) {
    problem_.B = kB, problem_.L = kL, problem_.D = kD, problem_.M = kM, problem_.dtype = dtype;
    problem_.interactions.count = kQ;
    for (int q = 0; q < kQ; ++q) {
      problem_.interactions.degree[q] = kDegree[q];
      std::copy_n(kFactor[q], kDegree[q], problem_.interactions.factor[q]);
    }
    for (int m = 0; m < kM; ++m) {
      problem_.C[m] = kC[m];
      x_[m] = values(kB * kL * kC[m]), w_[m] = values(kC[m] * kD);
      for (int64_t j = 0; j < kD; ++j) b_[m].push_back(draw());
    }
    for (int64_t i = 0; i < kB * kQ * kD; ++i) d_p_.push_back(draw());
  }

  // Largest error of p, then of a gradient.
  bool passes(double of_p, double of_gradients) const {
    const Results one = run(1), three = run(3);
    bool same = one.p == three.p;
    std::vector<double> p(kB * kQ * kD), d_x[kM], d_w[kM], d_b[kM];
    for (int m = 0; m < kM; ++m) {
      d_x[m].resize(x_[m].size()), d_w[m].resize(w_[m].size()), d_b[m].resize(kD);
      same = same && one.d_x[m] == three.d_x[m] && one.d_w[m] == three.d_w[m] && one.d_b[m] == three.d_b[m];
    }
    for (int64_t i = 0; i < kB * kL; ++i) {
      for (int64_t j = 0; j < kD; ++j) {
        double u[kM], g[kM] = {};
        for (int m = 0; m < kM; ++m) {
          u[m] = b_[m][j];
          for (int64_t c = 0; c < kC[m]; ++c)
            u[m] += double{to_float(x_[m][at(m, i, c)])} * to_float(w_[m][c * kD + j]);
        }
        for (int q = 0; q < kQ; ++q) {
          const int64_t out = (i / kL * kQ + q) * kD + j;
          p[out] += product(u, q, -1);
          for (int k = 0; k < kDegree[q]; ++k) g[kFactor[q][k]] += d_p_[out] * product(u, q, k);
        }
        for (int m = 0; m < kM; ++m) {
          d_b[m][j] += g[m];
          for (int64_t c = 0; c < kC[m]; ++c) {
            d_x[m][at(m, i, c)] += g[m] * to_float(w_[m][c * kD + j]);
            d_w[m][c * kD + j] += g[m] * to_float(x_[m][at(m, i, c)]);
          }
        }
      }
    }
    double worst = 0;
    for (int m = 0; m < kM; ++m) {
      worst = std::max({worst, error(d_x[m], one.d_x[m]), error(d_w[m], one.d_w[m]), error(d_b[m], one.d_b[m])});
    }
    std::printf("p %.1e gradients %.1e threads %s\n", error(p, one.p), worst, same ? "equal" : "differ");
    return error(p, one.p) <= of_p && worst <= of_gradients && same;
  }

 private:
  // Maps, [B, C, L]: positions are neighbours.
  static int64_t at(int m, int64_t i, int64_t c) { return (i / kL * kC[m] + c) * kL + i % kL; }

  static std::vector<T> values(int64_t n) {
    std::vector<T> result(n);
    for (T& x : result) from_float(draw(), &x);
    return result;
  }

  static Floats widened(const std::vector<T>& x) {
    Floats result;
    for (const T& value : x) result.push_back(to_float(value));
    return result;
  }

  Results run(int num_threads) const {
    MultilinearPoolCpuPlan plan;
    MultilinearPoolFwdArgs forward;
    MultilinearPoolBwdArgs backward;
    Results results;
    std::vector<T> d_x[kM], d_w[kM];
    results.p.resize(kB * kQ * kD);
    forward.problem = backward.problem = problem_;
    forward.p = results.p.data(), backward.d_p = d_p_.data();
    for (int m = 0; m < kM; ++m) {
      d_x[m].resize(x_[m].size()), d_w[m].resize(w_[m].size()), results.d_b[m].resize(kD);
      forward.features[m] = backward.features[m] = {x_[m].data(), kC[m] * kL, 1, kL};
      forward.weights[m] = backward.weights[m] = {w_[m].data(), kD, 1};
      forward.biases[m] = backward.biases[m] = b_[m].data();
      backward.d_features[m] = {d_x[m].data(), kC[m] * kL, 1, kL};
      backward.d_weights[m] = d_w[m].data(), backward.d_biases[m] = results.d_b[m].data();
    }
    if (!plan_multilinear_pool_cpu(problem_, false, num_threads, &plan).ok()) return {};
    std::vector<char> scratch(64 + std::max(plan.fwd_scratch_bytes, plan.bwd_scratch_bytes));
    void* aligned = scratch.data() + (-reinterpret_cast<intptr_t>(scratch.data()) & 63);
    if (!run_multilinear_pool_fwd(forward, plan, aligned, num_threads).ok()) return {};
    if (!run_multilinear_pool_bwd(backward, plan, aligned, num_threads).ok()) return {};
    for (int m = 0; m < kM; ++m) results.d_x[m] = widened(d_x[m]), results.d_w[m] = widened(d_w[m]);
    return results;
  }

  MultilinearPoolProblem problem_;
  std::vector<T> x_[kM], w_[kM];
  Floats b_[kM], d_p_;
};

}  // namespace
}  // namespace c2f

int main() {
  using namespace c2f;
  const bool passed[] = {Check<float>(DType::kFloat32).passes(2e-6, 1e-5),
                         Check<BFloat16>(DType::kBFloat16).passes(2e-6, 6e-3),
                         Check<Float16>(DType::kFloat16).passes(2e-6, 1e-3)};
  return passed[0] && passed[1] && passed[2] ? 0 : 1;
}
