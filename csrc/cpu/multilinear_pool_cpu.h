// What the forward and the backward of multilinear_pool share on the CPU: blocking, scratch, rows, projection of a
// block.
//
// Words: a row is a position that exists (all of them, or those that a boolean mask keeps); the rows of all samples
// follow each other. A sample is cut into tiles of up to mr rows of nearly equal size; one that fits whole into the
// tile before it joins it. A block is block_tiles(mr) tiles, a panel nr columns.
#pragma once

#include "c2f/multilinear_pool.h"
#include "cpu/arena.h"
#include "cpu/kernels.h"

namespace c2f {

// A block's projections of one unit of columns (1.4 MB for three factors) stay in L2; longer blocks stream the weights
// less often, wider units the features.
inline constexpr int64_t kBlockRows = 224;
inline constexpr int64_t kBlockK = 256;  // steps of k summed in registers before the tile in memory is updated

inline constexpr int64_t block_tiles(int mr) { return kBlockRows / mr; }

// The rows of samples first .. first + samples, and the tiles they are cut into.
struct Rows {
  int64_t L = 0, count = 0, tiles = 0;
  int64_t* position = nullptr;    // [count]: b * L + l, ascending
  int64_t* tile_begin = nullptr;  // [tiles + 1]

  void take(Arena& arena, const MultilinearPoolProblem& problem, int64_t samples, int mr);
  void fill(const MultilinearPoolProblem& problem, const void* mask, int64_t first, int64_t samples, int mr);

  int64_t sample(int64_t row) const { return position[row] / L; }
  int64_t sample_end(int64_t row, int64_t end) const;  // end of the rows after `row` in its sample
  int64_t run_end(int64_t row, int64_t end) const;     // and at neighbouring positions
};

// Operands of one call and the addresses in them.
struct Operands {
  const Kernels& kernels;
  const MultilinearPoolProblem& problem;
  const FeatureView* features;
  const WeightView* weights;
  const float* const* biases;
  const void* mask;

  int dtype() const { return static_cast<int>(problem.dtype); }
  int64_t tile_floats() const { return int64_t{kernels.mr} * kernels.nr; }
  const void* feature(int m, int64_t position, int64_t c) const;
  // Weights of the rows of a tile from `row` on; null: all 1.
  const float* row_weights(const Rows& rows, int64_t row) const;
};

// Address of element (position, c) of a [B, L, C] array.
inline char* element(const void* data, const MultilinearPoolProblem& problem, int64_t stride_b, int64_t stride_l,
                     int64_t stride_c, int64_t position, int64_t c) {
  const int64_t offset = position / problem.L * stride_b + position % problem.L * stride_l + c * stride_c;
  return static_cast<char*>(const_cast<void*>(data)) + offset * static_cast<int64_t>(size_of(problem.dtype));
}

// Packs columns j0 .. j0 + n, n <= nr, of W_m into out[C_m][nr].
void pack_weight_panel(const Operands& args, int m, int64_t j0, int n, float* out);

// out[n] = the bias of columns j0 .. j0 + width, 0 beyond them and where there is none.
void pack_bias(const Operands& args, int m, int64_t j0, int64_t width, int64_t n, float* out);

// u[panel][t1 - t0][mr][nr] = act(X_m W_m + b_m) on tiles t0 .. t1, at most a block of them. w: packed panels, `bias`:
// their biases, a: scratch of block_tiles * mr * kBlockK floats.
void project(const Operands& args, int m, const Rows& rows, int64_t t0, int64_t t1, const float* w, const float* bias,
             int64_t panels, float* a, float* u);

// out[position][0 .. C) = 0 for the positions that a boolean mask excludes.
void zero_excluded(const MultilinearPoolProblem& problem, const void* mask, const FeatureGradView& out, int64_t C,
                   int num_threads);

// ---- scratch
// ------------------------------------------------------------------------------------------------------------

struct FwdShared {
  Rows rows;
  int64_t* packed_unit;  // [threads][8]: the unit whose weights a worker holds
  void take(Arena& arena, const MultilinearPoolProblem& problem, const Kernels& kernels, int num_threads);
};

struct FwdWorker {
  float* w[kMaxFactors];     // [unit panels][C_m][nr]
  float* bias[kMaxFactors];  // [unit_d]
  float* u[kMaxFactors];     // [unit panels][tiles][mr][nr]
  float* a;
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

struct BwdShared {
  Rows rows;
  int64_t row_capacity;              // rows of one panel of g and d_x
  float* w[kMaxFactors];             // [chunk panels][C_m][nr]
  float* w_transposed[kMaxFactors];  // [panels of C_m][chunk_d][nr]
  float* bias[kMaxFactors];          // [chunk_d]
  float* g[kMaxFactors];             // [chunk panels][row_capacity][nr]
  float* d_x[kMaxFactors];           // [panels of C_m][row_capacity][nr]
  float* d_bias[kMaxFactors];        // [blocks of rows][chunk_d]
  float* d_w[kMaxFactors];  // [C_m][D]: sums over passes where the storage type is narrower than float32, else null
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

struct BwdWorker {
  float* u[kMaxFactors];  // [unit panels][tiles][mr][nr]
  float* a;
  float* d_w;  // [unit panels][tiles][mr][nr]
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

}  // namespace c2f
