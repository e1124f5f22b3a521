#!/usr/bin/env bash
# Runs the CPU kernels on builds with sanitizers: csrc/sanitize.sh [address undefined thread]. Stops at the first report.
# Needs what an editable build needs (CONTRIBUTING.md) and GCC's sanitizer libraries. With each instruction set of this
# machine: pool_check, which has no Python in it, so that leaks show, and tests of every kernel. With the best one: threads,
# several callers, forked children, Ctrl-C. The builds stay in build/sanitize for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
tests=$root/python_tests
export OMP_NUM_THREADS=1
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 report_signal_unsafe=0 halt_on_error=1"
of_kernels=("$tests"/ops/test_{cpu_edges,cpu_normalize,class_attentive_cpu,falcon_loss}.py
  -k "test_edges or scratch or normalize or class_attentive or (accurate and cpu-float)")
of_threads=("$tests/ops/test_cpu_threads.py" "$tests/test_relations_calls.py")

for kind in ${@:-address undefined thread}; do
  build=$root/build/sanitize/$kind
  flags="-O1 -g1 -fsanitize=$kind -fno-sanitize-recover=all -fno-omit-frame-pointer"
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=None -DC2F_CUDA=off -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/package/c2f_ops" >/dev/null
  cmake --build "$build" --parallel 2 --target pool_check _C >/dev/null
  (cd c2f_ops && tar --exclude="_C*" --exclude=__pycache__ -c .) | tar -x -C "$build/package/c2f_ops"
  case $kind in address) library=libasan.so ;; undefined) library=libubsan.so ;; thread) library=libtsan.so ;; esac
  # Beside the sanitizer the C++ library, whose __cxa_throw it looks up at its start: Python alone has none.
  preload="$(g++ -print-file-name=$library) $(g++ -print-file-name=libstdc++.so.6)"
  sanitized() {  # Python, away from the sources: it would take the package in its folder
    (cd "$build" && LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0 \
      PYTHONPATH="$build/package" python "$@")
  }
  for isa in portable avx2 avx512 avx512_bf16 amx; do
    export C2F_CPU_ISA=$isa
    place=$(sanitized -c "from c2f_ops import _native; print(_native.module().__file__)" 2>/dev/null) || continue
    [[ $place == "$build"/package/* ]]
    echo "== $kind, $isa"
    "$build/pool_check"
    sanitized -m pytest -q -p no:cacheprovider "${of_kernels[@]}"
  done
  unset C2F_CPU_ISA
  echo "== $kind, threads"
  # ThreadSanitizer does not follow threads that a forked child makes.
  [[ $kind == thread ]] && some="not batch and not fork" || some="not batch"
  sanitized -m pytest -q -p no:cacheprovider "${of_threads[@]}" -k "$some"
done
