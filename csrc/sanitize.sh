#!/usr/bin/env bash
# Runs the tests of the CPU kernels on a build with sanitizers: csrc/sanitize.sh [address undefined thread]
# Needs what an editable build needs (CONTRIBUTING.md) and GCC's sanitizer libraries. Stops at the first report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chosen="edges or scratch or several or threads or fork or precision or nan or excluded or empty"
for kind in ${@:-address undefined thread}; do
  echo "== $kind"
  flags="-fsanitize=$kind -fno-sanitize-recover=all -fno-omit-frame-pointer"
  cmake -S . -B "$folder/$kind" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DC2F_CUDA=off -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$folder/$kind/package/c2f_ops" >/dev/null
  cmake --build "$folder/$kind" --parallel 2 >/dev/null
  (cd c2f_ops && tar --exclude="_C*" --exclude=__pycache__ -c .) | tar -x -C "$folder/$kind/package/c2f_ops"
  case $kind in address) library=libasan.so ;; undefined) library=libubsan.so ;; thread) library=libtsan.so ;; esac
  LD_PRELOAD=$(g++ -print-file-name=$library) PYTHONPATH="$folder/$kind/package" OMP_NUM_THREADS=1 \
    ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="ignore_noninstrumented_modules=1 report_signal_unsafe=0 halt_on_error=1" \
    python -m pytest -q -p no:cacheprovider python_tests/ops/test_cpu_kernels.py -k "($chosen) and not instruction_sets"
done
