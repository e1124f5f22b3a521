// Of all optimal relations the lexicographically smallest one.
//
// With optimal prices v a relation is optimal exactly when each row stands in one of its tight columns (cost[i, k] +
// v_k least) and each n_j has slot_j(n_j) <= v_j <= slot_j(n_j + 1). So row after row takes its lowest tight column
// from which a chain of tight moves of later rows, and of slots that open or close at the price, leads back to the
// column it leaves.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/relation_state.h"

namespace c2f {
namespace {

using Bits = std::vector<uint64_t>;

bool has(const uint64_t* set, int64_t k) { return set[k / 64] >> (k % 64) & 1; }
void insert(uint64_t* set, int64_t k) { set[k / 64] |= uint64_t{1} << (k % 64); }
void erase(uint64_t* set, int64_t k) { set[k / 64] &= ~(uint64_t{1} << (k % 64)); }

template <typename F>
void for_each(const uint64_t* set, int64_t words, F f) {
  for (int64_t w = 0; w < words; ++w) {
    for (uint64_t left = set[w]; left != 0; left &= left - 1) f(w * 64 + __builtin_ctzll(left));
  }
}

class Lowest {
 public:
  Lowest(const RelationProblem& problem, RelationSolution* solution)
      : p_(problem), out_(*solution), C_(problem.num_coarse), nodes_(C_ + 1), words_((nodes_ + 63) / 64) {}

  bool run(StopClock* clock) {
    if (!find_ties()) return true;
    for (size_t row = 0; row < tied_.size(); ++row) {
      if (clock->stopped()) return false;
      count_arcs(row, -1);  // this row no longer moves for others
      std::vector<int32_t>& rows = rows_[column(row)];
      rows.erase(std::find(rows.begin(), rows.end(), static_cast<int32_t>(row)));
      if (lowest_tight(row) < column(row)) settle(row);
    }
    return true;
  }

 private:
  int64_t column(size_t row) const { return out_.g[tied_[row]]; }
  const uint64_t* tight(size_t row) const { return tight_.data() + row * words_; }
  uint64_t* into(int64_t y) { return into_.data() + y * words_; }

  // Lists rows with several tight columns; false: no row could stand lower.
  bool find_ties() {
    bool any_lower = false;
    std::vector<int32_t> columns;
    for (int64_t i = 0; i < p_.num_fine; ++i) {
      const int64_t* cost = p_.cost + i * p_.row_stride;
      const int64_t least = cost[out_.g[i]] + out_.price[out_.g[i]];
      int64_t count = 0;
      for (int64_t k = 0; k < C_; ++k) count += cost[k] + out_.price[k] == least;
      if (count == 1) continue;
      tied_.push_back(i);
      tight_.resize(tied_.size() * words_, 0);
      uint64_t* set = tight_.data() + (tied_.size() - 1) * words_;
      for (int64_t k = 0; k < C_; ++k) {
        if (cost[k] + out_.price[k] == least) insert(set, k);
      }
      any_lower = any_lower || lowest_tight(tied_.size() - 1) < out_.g[i];
    }
    if (!any_lower) return false;
    movers_.assign(C_ * C_, 0);
    into_.assign(nodes_ * words_, 0);
    rows_.resize(C_);
    next_.resize(nodes_);
    for (size_t row = 0; row < tied_.size(); ++row) {
      rows_[column(row)].push_back(static_cast<int32_t>(row));
      count_arcs(row, 1);
    }
    for (int64_t j = 0; j < C_; ++j) update_slots(j);
    return true;
  }

  int64_t lowest_tight(size_t row) const {
    int64_t w = 0;
    while (tight(row)[w] == 0) ++w;
    return w * 64 + __builtin_ctzll(tight(row)[w]);
  }

  // The moves that a row offers from its column, once more or once less.
  void count_arcs(size_t row, int32_t sign) {
    const int64_t x = column(row);
    for_each(tight(row), words_, [&](int64_t y) {
      int32_t& count = movers_[x * C_ + y];
      count += sign;
      if (count == 0) erase(into(y), x);
      if (count == 1) insert(into(y), x);
    });
  }

  void update_slots(int64_t j) {
    const int64_t n = out_.n[j];
    slot_cost(p_, j, n + 1) == out_.price[j] ? insert(into(C_), j) : erase(into(C_), j);
    n > 0 && slot_cost(p_, j, n) == out_.price[j] ? insert(into(j), C_) : erase(into(j), C_);
  }

  // Moves the row to its lowest tight column that leads back to where it stands.
  void settle(size_t row) {
    const int64_t home = column(row);
    Bits reached(words_, 0);
    insert(reached.data(), home);
    queue_.assign(1, home);
    for (size_t q = 0; q < queue_.size(); ++q) {
      const int64_t y = queue_[q];
      Bits found(into(y), into(y) + words_);
      for (int64_t w = 0; w < words_; ++w) {
        found[w] &= ~reached[w];
        reached[w] |= found[w];
      }
      for_each(found.data(), words_, [&](int64_t x) {
        next_[x] = y;
        queue_.push_back(x);
      });
    }
    for (int64_t w = 0; w < words_; ++w) reached[w] &= tight(row)[w];
    int64_t w = 0;
    while (reached[w] == 0) ++w;
    const int64_t best = w * 64 + __builtin_ctzll(reached[w]);
    out_.g[tied_[row]] = static_cast<int32_t>(best);
    for (int64_t x = best; x != home; x = next_[x]) follow(x, next_[x]);
  }

  void follow(int64_t x, int64_t y) {
    if (x == C_ || y == C_) {
      const int64_t j = x == C_ ? y : x;
      out_.n[j] += x == C_ ? -1 : 1;
      update_slots(j);
      return;
    }
    std::vector<int32_t>& rows = rows_[x];
    auto mover = rows.begin();
    while (!has(tight(*mover), y)) ++mover;
    const int32_t row = *mover;
    rows.erase(mover);
    rows_[y].push_back(row);
    count_arcs(row, -1);
    out_.g[tied_[row]] = static_cast<int32_t>(y);
    count_arcs(row, 1);
  }

  const RelationProblem& p_;
  RelationSolution& out_;
  const int64_t C_, nodes_, words_;
  std::vector<int64_t> tied_;               // rows with several tight columns, ascending; the other lists index it
  Bits tight_;                              // [tied, words]
  std::vector<int32_t> movers_;             // [C, C] number of rows that could move from x to y
  Bits into_;                               // [nodes, words] nodes with an arc into y
  std::vector<std::vector<int32_t>> rows_;  // [C] tied rows that may still move
  std::vector<int64_t> next_, queue_;
};

}  // namespace

bool make_lowest(const RelationProblem& problem, StopClock* clock, RelationSolution* solution) {
  return Lowest(problem, solution).run(clock);
}

}  // namespace c2f
