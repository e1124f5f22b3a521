#pragma once

#include <pybind11/pybind11.h>

namespace emulation {
void bind_schedule(pybind11::module_& m);
}
