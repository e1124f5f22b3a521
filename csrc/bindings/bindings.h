// One bind_<op> per op, each in its own bind_<op>.cpp, called once by module.cpp.
//
// A binding converts integers (addresses, sizes, enum values) to the structs of c2f/<op>.h, releases the GIL around the kernel
// and passes its Status to throw_if_error. It computes nothing.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "c2f/common.h"
#include "c2f/interruptible.h"

namespace c2f {

using Address = uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_class_attentive_supcon_cpu(pybind11::module_& m);
void bind_falcon_loss_cpu(pybind11::module_& m);
void bind_multilinear_pool_cpu(pybind11::module_& m);
void bind_signed_sqrt_normalize_cpu(pybind11::module_& m);
void bind_multilinear_pool_cuda(pybind11::module_& m);
void bind_signed_sqrt_normalize_cuda(pybind11::module_& m);
void bind_falcon_loss_cuda(pybind11::module_& m);
void bind_class_attentive_supcon_cuda(pybind11::module_& m);
void bind_relations(pybind11::module_& m);

// Call with the GIL held. Python sees RuntimeError.
inline void throw_if_error(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

// Calls `run`, which returns a Status, without the GIL.
template <class Run>
Status without_gil(Run run) {
  const pybind11::gil_scoped_release release;
  return run();
}

// The same for a kernel that can be left between tasks: Ctrl-C, or whatever the handler of a signal raises, ends it. Signals are
// handled in Python's main thread only.
template <class Run>
Status without_gil_interruptible(Run run) {
  Status status;
  bool stopped = false;
  {
    const pybind11::gil_scoped_release release;
    const Interruptible scope([] {
      const pybind11::gil_scoped_acquire acquire;
      return PyErr_CheckSignals() != 0;
    });
    status = run();
    stopped = scope.stopped();
  }
  if (stopped) throw pybind11::error_already_set();
  return status;
}

}  // namespace c2f
