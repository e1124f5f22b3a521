// What the forward and the backward of multilinear_pool share on the CPU: blocking, scratch, rows, projection of a
// block.
//
// Words: a row is a position that exists (all of them, or those that a boolean mask keeps); the rows of all samples
// follow each other. A sample is cut, at multiples of row_step, into tiles of up to mr rows of nearly equal size; one
// that fits whole into the tile before it joins it. A block is up to plan.block_rows / mr tiles, a panel nr columns, a
// unit plan.unit_d columns: the projections of a block by a unit stay in L2.
#pragma once

#include "c2f/multilinear_pool.h"
#include "cpu/arena.h"
#include "cpu/kernels.h"

namespace c2f {

inline constexpr int kMaxBlockTiles = 64;

// Eight tasks a thread even out the end, and a call ends soon where it is interrupted: only between tasks.
inline int64_t tasks_wanted(int num_threads) { return 8 * int64_t{num_threads}; }

// Of those that begin with work of their own, no more than this.
inline int64_t costly_tasks_wanted(int num_threads) { return 2 * int64_t{num_threads}; }

// One thread for what it computes in less time than it takes to wake the others.
int threads_worth(const MultilinearPoolProblem& problem, int num_threads);

// K filled up to k_step.
inline int64_t padded(int64_t K, const Kernels& kernels) { return ceil_div(K, kernels.k_step) * kernels.k_step; }

// Steps of a staged tile of features: the layouts of A operands come in groups of nr of them.
inline int64_t staged_steps(int64_t K, const Kernels& kernels) {
  return ceil_div(padded(K, kernels), int64_t{kernels.nr}) * kernels.nr;
}

// The rows of samples first .. first + samples, and the tiles they are cut into.
struct Rows {
  int64_t L = 0, count = 0, tiles = 0;
  int64_t* position = nullptr;    // [count]: b * L + l, ascending
  int64_t* tile_begin = nullptr;  // [tiles + 1]

  void take(Arena& arena, const MultilinearPoolProblem& problem, int64_t samples, const Kernels& kernels);
  void fill(const MultilinearPoolProblem& problem, const void* mask, int64_t first, int64_t samples,
            const Kernels& kernels);

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
  int64_t padded(int64_t K) const { return c2f::padded(K, kernels); }
  // Address of an element of a packed operand.
  char* packed(void* base, int64_t element) const { return static_cast<char*>(base) + element * kernels.operand_bytes; }
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

// Packs columns j0 .. j0 + width of every W_m into panels, out[m] = [panels][C_m padded][nr]. A task takes some rows.
void pack_weights(const Operands& args, int64_t j0, int64_t width, void* const* out, int num_threads);

// out[n] = the bias of columns j0 .. j0 + width, 0 beyond them and where there is none.
void pack_bias(const Operands& args, int m, int64_t j0, int64_t width, int64_t n, float* out);

// Tiles t0 .. t1 and their features as A operands. Staged: all of them are packed once, tile after tile, for any number
// of projections. Else `a` is scratch of mr * block_k elements a tile, and every projection packs what it multiplies.
// `w` is scratch of nr * block_k elements a panel of a unit where plan.packs_units.
struct Block {
  int64_t t0 = 0, t1 = 0;
  bool staged = false;
  void* a[kMaxFactors] = {};
  void* w = nullptr;
  bool cols[kMaxFactors][kMaxBlockTiles];  // whether a packed tile has the cols layout

  int64_t tiles() const { return t1 - t0; }
};

void stage(const Operands& args, const Rows& rows, Block* block);

// u[panel][tiles][mr][nr] = act(X_m W_m + b_m) on a block and columns j0 .. j0 + width. w: their packed panels
// [panels][C_m padded][nr], or null: they are packed here. `bias`: their biases, `next`: what is read after w, or null.
void project(const Operands& args, int m, const Rows& rows, Block* block, int64_t j0, int64_t width, void* w,
             const void* next, const float* bias, float* u);

// Sets up the thread for products of matrices.
class ProductScope {
 public:
  explicit ProductScope(const Kernels& kernels) : leave_(kernels.leave) {
    if (kernels.enter != nullptr) kernels.enter();
  }
  ~ProductScope() {
    if (leave_ != nullptr) leave_();
  }
  ProductScope(const ProductScope&) = delete;
  ProductScope& operator=(const ProductScope&) = delete;

 private:
  void (*leave_)();
};

// out[position][0 .. C) = 0 for the positions that a boolean mask excludes.
void zero_excluded(const MultilinearPoolProblem& problem, const void* mask, const FeatureGradView& out, int64_t C,
                   int num_threads);

// Asks for large pages where the system hands them out on request: fresh scratch is then mapped in a few steps, and
// operands that are far apart do not miss the TLB. Only a hint.
void prefer_huge_pages(void* scratch, int64_t bytes);

// ---- scratch ------------------------------------------------------------------------------------

struct FwdShared {
  Rows rows;
  void* w[kMaxFactors];      // [chunk panels][C_m padded][nr], null where tasks pack them
  float* bias[kMaxFactors];  // [fwd_chunk_d]
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

struct FwdWorker {
  void* a[kMaxFactors];   // of a Block
  void* w;                // of a Block
  float* u[kMaxFactors];  // [unit panels][tiles][mr][nr]
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

struct BwdShared {
  Rows rows;
  int64_t row_capacity;             // rows of one panel of g and d_x
  int64_t k_capacity;               // steps of one tile of x
  void* x[kMaxFactors];             // [tiles of C_m][k_capacity / nr][mr][nr]: X' as A operand; null: tasks pack it
  void* w[kMaxFactors];             // [chunk panels][C_m padded][nr], null where tasks pack them
  void* w_transposed[kMaxFactors];  // [panels of C_m][chunk_d][nr]
  float* bias[kMaxFactors];         // [chunk_d]
  void* g[kMaxFactors];             // [chunk panels][row_capacity][nr]
  float* d_x[kMaxFactors];          // [panels of C_m][row_capacity][nr]
  float* d_bias[kMaxFactors];       // [blocks of rows][chunk_d]
  float* d_w[kMaxFactors];  // [C_m][D]: sums over passes where the storage type is narrower than float32, else null
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

struct BwdWorker {
  void* a[kMaxFactors];   // of a Block
  void* w;                // of a Block
  float* u[kMaxFactors];  // [unit panels][tiles][mr][nr]
  void* channels;         // [product_channels / mr][block_k / nr][mr][nr]; null where BwdShared has x
  void* panels;           // [product_d / nr][block_k][nr]: G as B operand; null where its panels are that
  float* d_w;             // [product_d / nr][product_channels / mr][mr][nr]
  void take(Arena& arena, const MultilinearPoolProblem& problem, const MultilinearPoolCpuPlan& plan,
            const Kernels& kernels);
};

}  // namespace c2f
