// What the sweeps of class_attentive_supcon over pairs share: operands in scratch, how tiles reach shared memory, and
// similarities. A block owns a tile of anchors (or of keys) and meets the tiles of the other side one after the other.
#pragma once

#include "cuda/class_attentive_tile.cuh"
#include "cuda/launch.cuh"

namespace c2f::class_attentive {

// e^x within 2 + |1.2 x| ulp, 0 below 2^-126.
__device__ __forceinline__ float exp_of(float x) { return exp2_approx(x * 1.44269504f); }

// Scratch: rows of `width` elements, anchors in the order of classes, everything filled up to whole tiles and chunks with zeros.
template <class T>
struct Prepared {
  T* a;                   // [anchor rows, width] v o z, scaled
  T* v;                   // [anchor rows, width] v of run r of tile t in row 64 t + r, scaled
  T* x;                   // [key rows, width] keys, scaled; 0 where absent
  Anchor* anchors;        // [anchor rows]
  Run* runs;              // [anchor rows]
  Key* keys;              // [key rows]
  int64_t* labels;        // [anchor rows, K] of the anchors; what is unknown is like no label of a key
  int32_t* first_tile;    // of anchors that are not excluded
  float* partial;

  Prepared(const CudaPlan& plan, void* scratch) {
    char* const base = static_cast<char*>(scratch);
    a = reinterpret_cast<T*>(base + plan.a);
    v = reinterpret_cast<T*>(base + plan.v);
    x = reinterpret_cast<T*>(base + plan.x);
    anchors = reinterpret_cast<Anchor*>(base + plan.anchors);
    runs = reinterpret_cast<Run*>(base + plan.runs);
    keys = reinterpret_cast<Key*>(base + plan.keys);
    labels = reinterpret_cast<int64_t*>(base + plan.labels);
    first_tile = reinterpret_cast<int32_t*>(base + plan.first_tile);
    partial = reinterpret_cast<float*>(base + plan.partial);
  }
};

template <class T>
struct SweepArgs {
  ClassAttentiveProblem problem;
  CudaPlan plan;
  Feeding feeding;
  Prepared<T> prepared;
  const int64_t* x_labels;
  int32_t splits;
  bool wants_v;
};

// Fills Prepared; in class_attentive_prepare.cu. `gradients` is null for the forward.
Status launch_prepare(const ClassAttentiveFwdArgs& args, const ClassAttentiveBwdArgs* gradients, const CudaPlan& plan,
                      void* scratch, void* stream);

// How the blocks of a pass are fed on the current device.
inline Status find_feeding(const char* name, const CudaPlan& plan, Pass pass, Feeding* feeding) {
  int64_t limit = 0;
  const Status status = shared_limit(name, &limit);
  if (!status.ok()) return status;
  *feeding = choose_feeding(plan, pass, limit);
  return feeding->stages > 0 ? Status() : Status::error(std::string(name) + ": the GPU has too little shared memory");
}

struct AnchorFacts {
  Anchor anchors[kTile];
  Run runs[kTile];
  int64_t labels[kTile * kMaxLevels];  // [kTile, K]
};
struct KeyFacts {
  Key keys[kTile];
  int64_t labels[kTile * kMaxLevels];  // [kTile, K]
};

template <bool kOfAnchors>
struct FactsOf {
  using Type = AnchorFacts;
};
template <>
struct FactsOf<false> {
  using Type = KeyFacts;
};

__device__ __forceinline__ int round_up_16(int x) { return (x + 15) / 16 * 16; }

// The tiles of one block: its own, and those it meets, in the order in which they are consumed. All threads call all
// functions together.
template <class T, bool kOwnsKeys>
class Feed {
 public:
  static constexpr int kTileElements = kChunkTileBytes / sizeof(T);
  using Own = typename FactsOf<!kOwnsKeys>::Type;
  using Other = typename FactsOf<kOwnsKeys>::Type;

  // out_begin, out_count: chunks of the other side's features that are asked for after its similarities.
  __device__ Feed(const SweepArgs<T>& args, int64_t own, int64_t begin, int64_t end, int out_begin, int out_count)
      : args_(args), own_(own), end_(end), out_begin_(out_begin), out_count_(out_count), issue_tile_(begin) {
    unsigned char* shared = dynamic_shared();
    const auto take = [&shared](int64_t bytes) {
      unsigned char* const begin = shared;
      shared += bytes;
      return begin;
    };
    const int chunks = args.plan.chunks;
    stage_elements_ = (args.feeding.resident ? (kOwnsKeys ? 2 : 1) * chunks : 3) * kTileElements;
    fixed_ = reinterpret_cast<T*>(take(args.feeding.resident ? (kOwnsKeys ? 1 : 2) * chunks * kChunkTileBytes : 0));
    stages_ = reinterpret_cast<T*>(take(args.feeding.stages * stage_elements_ * static_cast<int64_t>(sizeof(T))));
    own_facts_ = reinterpret_cast<Own*>(take(sizeof(Own)));
    other_facts_ = reinterpret_cast<Other*>(take(2 * sizeof(Other)));
    pairs = reinterpret_cast<float*>(shared);

    copy_facts(own_facts_, own);
    if (args.feeding.resident) copy_all(fixed_, own, kOwnsKeys);
    if (kOwnsKeys && begin < end) next_rows_ = rows_of_v(begin);
    if (!kOwnsKeys) next_rows_ = rows_of_v(own);
    copy_async_commit();
    if (args.feeding.stages == 2) issue();
  }

  // Waits for the next step of the current tile, and starts the one after it.
  __device__ void take() {
    copy_async_wait<0>();
    __syncthreads();  // what was started has arrived for all threads, and all have left the stage that is filled next
    issue();
    if (args_.feeding.stages == 1) {
      copy_async_wait<0>();
      __syncthreads();
    }
    stage_ = stages_ + taken_ * stage_elements_;
    taken_ ^= args_.feeding.stages - 1;
  }

  __device__ const T* a(int chunk) const { return of_anchors(chunk, 0); }
  __device__ const T* v(int chunk) const { return of_anchors(chunk, 1); }
  __device__ const T* x(int chunk) const {
    if (!args_.feeding.resident) return stage_ + 2 * kTileElements;
    return (kOwnsKeys ? fixed_ : stage_) + chunk * kTileElements;
  }
  __device__ const AnchorFacts& anchors(int64_t tile) const {
    if constexpr (kOwnsKeys) {
      return other_facts_[tile & 1];
    } else {
      return *own_facts_;
    }
  }
  __device__ const KeyFacts& keys(int64_t tile) const {
    if constexpr (kOwnsKeys) {
      return *own_facts_;
    } else {
      return other_facts_[tile & 1];
    }
  }
  // First anchor and first key of the pairs of the own tile with `tile`.
  __device__ int64_t key(int64_t tile) const { return (kOwnsKeys ? own_ : tile) * kTile; }

  float* pairs;  // what is left of shared memory

 private:
  __device__ const T* of_anchors(int chunk, int which) const {
    if (!args_.feeding.resident) return stage_ + which * kTileElements;
    return (kOwnsKeys ? stage_ : fixed_) + (which * args_.plan.chunks + chunk) * kTileElements;
  }

  __device__ int rows_of_v(int64_t tile) const { return round_up_16(args_.prepared.runs[tile * kTile].count); }

  // A chunk of the first `rows` rows of a tile.
  __device__ void copy_chunk(T* target, const T* source, int64_t tile, int chunk, int rows) const {
    constexpr int kPieces = kChunkBytes / 16;
    const int64_t width = args_.plan.width;
    const T* const first = source + tile * kTile * width + chunk * Tile<T>::kColumns;
#pragma unroll 1  // small code: copies are made in many places
    for (int index = threadIdx.x; index < rows * kPieces; index += kThreads) {
      const int row = index / kPieces, piece = index % kPieces * (16 / static_cast<int>(sizeof(T)));
      copy_async<16>(target + row * Tile<T>::kRowPitch + piece, first + row * width + piece, 16);
    }
  }

  __device__ void copy_all(T* target, int64_t tile, bool keys) const {
    const int chunks = args_.plan.chunks;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      T* const place = target + chunk * kTileElements;
      if (keys) {
        copy_chunk(place, args_.prepared.x, tile, chunk, kTile);
      } else {
        copy_chunk(place, args_.prepared.a, tile, chunk, kTile);
        copy_chunk(place + chunks * kTileElements, args_.prepared.v, tile, chunk, kTile);
      }
    }
  }

  template <class Facts>
  __device__ void copy_bytes(Facts* target, const Facts* source, int count) const {
#pragma unroll 1
    for (int index = threadIdx.x; index < count * static_cast<int>(sizeof(Facts) / 16); index += kThreads) {
      copy_async<16>(reinterpret_cast<char*>(target) + 16 * index, reinterpret_cast<const char*>(source) + 16 * index, 16);
    }
  }

  __device__ void copy_facts(AnchorFacts* target, int64_t tile) const {
    copy_bytes(target->anchors, args_.prepared.anchors + tile * kTile, kTile);
    copy_bytes(target->runs, args_.prepared.runs + tile * kTile, kTile);
    const int K = static_cast<int>(args_.problem.K);
#pragma unroll 1
    for (int index = threadIdx.x; index < kTile * K; index += kThreads) {
      copy_async<8>(target->labels + index, args_.prepared.labels + tile * kTile * K + index, 8);
    }
  }

  __device__ void copy_facts(KeyFacts* target, int64_t tile) const {
    copy_bytes(target->keys, args_.prepared.keys + tile * kTile, kTile);
    const int64_t K = args_.problem.K, first = tile * kTile * K, left = args_.problem.N * K - first;
#pragma unroll 1
    for (int index = threadIdx.x; index < kTile * K; index += kThreads) {
      copy_async<8>(target->labels + index, args_.x_labels + (index < left ? first + index : 0), index < left ? 8 : 0);
    }
  }

  // Starts the copies of the next step.
  __device__ void issue() {
    if (issue_tile_ < end_) {
      const int chunks = args_.plan.chunks, steps = args_.feeding.resident ? 1 : chunks + out_count_;
      T* const target = stages_ + issued_ * stage_elements_;
      if (issue_step_ == 0) copy_facts(other_facts_ + (issue_tile_ & 1), issue_tile_);
      if (args_.feeding.resident) {
        copy_all(target, issue_tile_, !kOwnsKeys);
      } else {
        const int64_t anchors = kOwnsKeys ? issue_tile_ : own_, keys = kOwnsKeys ? own_ : issue_tile_;
        const bool similarities = issue_step_ < chunks;
        const int chunk = similarities ? issue_step_ : out_begin_ + issue_step_ - chunks;
        if (similarities || kOwnsKeys) {
          copy_chunk(target, args_.prepared.a, anchors, chunk, kTile);
          copy_chunk(target + kTileElements, args_.prepared.v, anchors, chunk, next_rows_);
        }
        if (similarities || !kOwnsKeys) copy_chunk(target + 2 * kTileElements, args_.prepared.x, keys, chunk, kTile);
      }
      if (++issue_step_ == steps) {
        issue_step_ = 0;
        ++issue_tile_;
        if (kOwnsKeys && issue_tile_ < end_) next_rows_ = rows_of_v(issue_tile_);
      }
    }
    copy_async_commit();
    issued_ ^= args_.feeding.stages - 1;
  }

  const SweepArgs<T>& args_;
  const int64_t own_, end_;
  const int out_begin_, out_count_;
  int64_t issue_tile_;
  int issue_step_ = 0, issued_ = 0, taken_ = 0, next_rows_ = 0;
  int stage_elements_;
  T *fixed_, *stages_, *stage_ = nullptr;
  Own* own_facts_;
  Other* other_facts_;
};

// c = <a, x> of the pairs with `tile`, and in feed.pairs [runs][kPitch] the inverse norms of the keys, negative where the norm is
// clamped. Ends with a barrier.
template <class T, bool kOwnsKeys>
__device__ __forceinline__ void multiply(const SweepArgs<T>& args, Feed<T, kOwnsKeys>& feed, int64_t tile,
                                         float (&c)[Tile<T>::kPairs]) {
  float norms[Tile<T>::kNorms] = {};
#pragma unroll
  for (int k = 0; k < Tile<T>::kPairs; ++k) c[k] = 0.f;
  int count = 0;
#pragma unroll 1
  for (int chunk = 0; chunk < args.plan.chunks; ++chunk) {
    if (chunk == 0 || !args.feeding.resident) feed.take();
    count = feed.anchors(tile).runs[0].count;
    Tile<T>::pairs(c, feed.a(chunk), feed.x(chunk));
    Tile<T>::norms(norms, feed.v(chunk), feed.x(chunk), count);
  }
#pragma unroll
  for (int k = 0; k < Tile<T>::kNorms; ++k) {
    const int run = Tile<T>::norm_run(k), key = Tile<T>::norm_key(k);
    if (run < count) {
      const float least = fmaxf(feed.keys(tile).keys[key].least * feed.anchors(tile).runs[run].scale, 1e-37f);
      const float inverse = 1.f / sqrtf(norms[k] <= least ? least : norms[k]);
      feed.pairs[run * kPitch + key] = norms[k] <= least ? -inverse : inverse;
    }
  }
  __syncthreads();
}

// body(value, slot, weights h, sim, signed inverse norm of the key) for the pairs of this thread that count.
template <class T, bool kOwnsKeys, class Body>
__device__ __forceinline__ void each_pair(const SweepArgs<T>& args, const Feed<T, kOwnsKeys>& feed, int64_t tile,
                                          const float (&c)[Tile<T>::kPairs], Body body) {
  const AnchorFacts& anchors = feed.anchors(tile);
  const KeyFacts& keys = feed.keys(tile);
  const int K = static_cast<int>(args.problem.K);
  const int64_t first_key = feed.key(tile);
  Anchor rows[Tile<T>::kSlots];
#pragma unroll
  for (int slot = 0; slot < Tile<T>::kSlots; ++slot) rows[slot] = anchors.anchors[Tile<T>::slot_row(slot)];
#pragma unroll
  for (int k = 0; k < Tile<T>::kPairs; ++k) {
    const int slot = Tile<T>::pair_slot(k), row = Tile<T>::slot_row(slot), column = Tile<T>::pair_column(k);
    const Anchor& anchor = rows[slot];
    if (anchor.run < 0 || keys.keys[column].present == 0 || anchor.self == first_key + column) continue;
    const int64_t *mine = anchors.labels + row * K, *theirs = keys.labels + column * K;
    int agree = mine[0] == theirs[0];
    if (K > 1 && agree == 1) {
#pragma unroll 1
      while (agree < K && mine[agree] == theirs[agree]) ++agree;
    }
    const float inverse = feed.pairs[anchor.run * kPitch + column];
    body(k, slot, anchor, agree, c[k] * anchor.alpha * fabsf(inverse), inverse);
  }
}

// Weights of pairs that agree on h levels, in shared memory so that they can be looked up.
__device__ __forceinline__ void share_tables(const ClassAttentiveProblem& problem, float (&tables)[2][kMaxLevels + 1]) {
  if (threadIdx.x < kMaxLevels + 1) {
#pragma unroll
    for (int h = 0; h <= kMaxLevels; ++h) {
      if (threadIdx.x == h) tables[0][h] = problem.attract_weight[h], tables[1][h] = problem.repel_weight[h];
    }
  }
}

// The part of [begin, end) of one of `splits`.
__device__ __forceinline__ int64_t split_point(int64_t begin, int64_t end, int64_t split, int64_t splits) {
  return begin + (end - begin) * split / splits;
}

}  // namespace c2f::class_attentive
