# `inspect`: for each CUDA source and architecture, registers and spills (ptxas -v) as <name>.sm_<arch>.ptxas.txt, and the machine
# code as <name>.sm_<arch>.sass where nvdisasm is found (the CUDA toolkit has it, so has the triton package).
execute_process(COMMAND ${Python_EXECUTABLE} -c
  "import importlib.util as u; s = u.find_spec('triton'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE triton_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_program(C2F_NVDISASM nvdisasm HINTS ${CUDAToolkit_BIN_DIR} ${triton_dir}/backends/nvidia/bin)

set(inspect_dir ${CMAKE_BINARY_DIR}/inspect)
file(MAKE_DIRECTORY ${inspect_dir})
file(GLOB_RECURSE inspect_headers CONFIGURE_DEPENDS csrc/*.h csrc/*.cuh)
set(reports "")
foreach(source ${cuda_sources})
  get_filename_component(name ${source} NAME_WE)
  set(source_archs ${archs})
  if(name MATCHES "_sm90$")
    list(FILTER source_archs INCLUDE REGEX "^90a$")
  endif()
  foreach(arch ${source_archs})
    set(stem ${inspect_dir}/${name}.sm_${arch})
    set(disassemble "")
    if(C2F_NVDISASM)
      set(disassemble COMMAND ${C2F_NVDISASM} -c ${stem}.cubin > ${stem}.sass)
    endif()
    add_custom_command(OUTPUT ${stem}.ptxas.txt DEPENDS ${source} ${inspect_headers}
      COMMAND ${CMAKE_CUDA_COMPILER} -std=c++17 -O3 -DNDEBUG --expt-relaxed-constexpr -I${PROJECT_SOURCE_DIR}/csrc/include
              -I${PROJECT_SOURCE_DIR}/csrc -cubin -arch=sm_${arch} -Xptxas=-v -o ${stem}.cubin ${source} > ${stem}.ptxas.txt 2>&1
      ${disassemble} VERBATIM)
    list(APPEND reports ${stem}.ptxas.txt)
  endforeach()
endforeach()
add_custom_target(inspect DEPENDS ${reports})
