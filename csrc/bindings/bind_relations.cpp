#include <tuple>

#include "bindings/bindings.h"
#include "c2f/relations.h"

namespace py = pybind11;

namespace c2f {
namespace {

// Whether the caller has set its flag, or a signal handler has raised (Ctrl-C; in the main thread only).
bool stop_requested(void* flag) {
  if (*static_cast<const volatile int32_t*>(flag) != 0) return true;
  const py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

std::tuple<int32_t, int64_t> solve(int64_t num_fine, int64_t num_coarse, Address cost, int64_t row_stride,
                                   Address level, double slope, int64_t window, int64_t unit, Address lower,
                                   Address upper, Address start, Address stop_flag, Address g, Address n,
                                   Address price) {
  RelationProblem problem;
  problem.num_fine = num_fine;
  problem.num_coarse = num_coarse;
  problem.cost = pointer<const int64_t>(cost);
  problem.row_stride = row_stride;
  problem.level = pointer<const double>(level);
  problem.slope = slope;
  problem.window = window;
  problem.unit = unit;
  problem.lower = pointer<const int64_t>(lower);
  problem.upper = pointer<const int64_t>(upper);
  problem.start = pointer<const int64_t>(start);
  problem.stop = stop_requested;
  problem.stop_context = pointer<void>(stop_flag);
  RelationSolution solution;
  solution.g = pointer<int32_t>(g);
  solution.n = pointer<int64_t>(n);
  solution.price = pointer<int64_t>(price);
  const Status status = without_gil([&] { return solve_relations(problem, &solution); });
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  throw_if_error(status);
  return {static_cast<int32_t>(solution.start), solution.paths};
}

}  // namespace

void bind_relations(py::module_& m) {
  m.def("solve_relations", &solve, py::arg("num_fine"), py::arg("num_coarse"), py::arg("cost"), py::arg("row_stride"),
        py::arg("level"), py::arg("slope"), py::arg("window"), py::arg("unit"), py::arg("lower"), py::arg("upper"),
        py::arg("start"), py::arg("stop_flag"), py::arg("g"), py::arg("n"), py::arg("price"),
        "Addresses and sizes as in c2f/relations.h; returns (start, paths). stop_flag: an int32 that ends the solve "
        "once it is not 0.");
}

}  // namespace c2f
