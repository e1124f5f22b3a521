// How the CUDA kernels of class_attentive_supcon share out pairs of anchors and keys: a pure function of sizes, the same on every GPU,
// so that all of them sum in the same order. What a block keeps in shared memory may differ: it changes no result. Plain C++.
#pragma once

#include "c2f/class_attentive_supcon.h"

namespace c2f::class_attentive {

inline constexpr int kTile = 64;         // anchors and keys of a tile
inline constexpr int kChunkBytes = 128;  // of a row of a chunk: 64 bfloat16 or 32 float32 features
inline constexpr int kChunkPitch = kChunkBytes + 16;
inline constexpr int kChunkTileBytes = kTile * kChunkPitch;
inline constexpr int kOutColumns = 128;  // features of a gradient that a block accumulates
inline constexpr int kPitch = kTile + 8;  // of a row of a tile of pairs

// What the kernels know of an anchor, a run (the anchors of one class in a tile) and a key. Scales are powers of two that
// bring the largest entry of a row near one.
struct Anchor {
  int64_t row = 0;      // of z
  int64_t self = -1;    // its own key
  float alpha = 0;      // sim = alpha <a, x> / n(x)
  float inverse = 0;    // 1 / n(z), of scaled operands
  float square = 0;     // its square, 0 where the norm is clamped
  float scale = 1;      // of z
  float v_scale = 1;
  int32_t run = -1;     // in its tile; -1: no anchor
  float d_attract = 0, d_repel = 0, repel = 0;
  int32_t beyond = 0;   // whether its class has no row of v
  int32_t unused[2] = {};
};
struct Run {
  int64_t row = 0;               // of v
  float scale = 1;               // of v
  uint8_t begin = 0, end = 0;    // anchors of the tile
  uint8_t count = 0;             // of the tile's runs
  uint8_t unused = 0;
};
struct Key {
  float scale = 1;    // of x
  float least = 0;    // eps^2 scale^2
  int32_t present = 0;
  int32_t unused = 0;
};
static_assert(sizeof(Anchor) == 64 && sizeof(Run) == 16 && sizeof(Key) == 16);

struct CudaPlan {
  bool tensor_cores = false;  // bfloat16; float32 and float16 are multiplied in float32
  int64_t width = 0;          // d, filled up to whole chunks
  int32_t chunks = 0;
  int64_t anchor_tiles = 0, key_tiles = 0;
  int32_t out_blocks = 0;     // blocks that share the features of a gradient; each computes the similarities
  int32_t splits = 1;         // of the keys: forward
  int32_t anchor_splits = 1;  // of the keys: gradient of anchors
  int32_t key_splits = 1;     // of the anchors: gradient of keys
  // Where in scratch the parts are. The partial sums come last, those of anchors and those of keys in the same place.
  int64_t a = 0, v = 0, x = 0, anchors = 0, runs = 0, keys = 0, labels = 0, first_tile = 0, partial = 0;
  int64_t fwd_scratch = 0, bwd_scratch = 0;

  constexpr int64_t anchor_rows() const { return anchor_tiles * kTile; }
  constexpr int64_t key_rows() const { return key_tiles * kTile; }
};

CudaPlan plan_cuda(const ClassAttentiveProblem& problem);

enum class Pass : int32_t { kForward = 0, kAnchors = 1, kKeys = 2 };

// What a block holds in shared memory: all of its own rows and of the tile it meets, or a chunk of each at a time.
struct Feeding {
  bool resident = false;
  int32_t stages = 0;  // 2: the next tile or chunk arrives while one is at work; 0: the GPU has too little for any
  int64_t shared_bytes = 0;
};

// The fastest that fits.
Feeding choose_feeding(const CudaPlan& plan, Pass pass, int64_t shared_limit);

}  // namespace c2f::class_attentive
