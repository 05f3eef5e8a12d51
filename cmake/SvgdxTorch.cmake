# Finds torch's headers and libtorch_cpu.so. Asks Python instead of find_package(Torch), which with a CUDA build of torch
# would search for all of CUDA; torch is not imported, which would take seconds.
find_package(Python 3.9 COMPONENTS Interpreter)
if(NOT Python_FOUND)
  message(FATAL_ERROR "svgdx needs a Python interpreter (3.9 or newer), to find PyTorch. Looked in PATH. "
                      "Name one with -DPython_EXECUTABLE=...")
endif()
set(find_torch "
import importlib.metadata, importlib.util
spec = importlib.util.find_spec('torch')
if spec is None: raise SystemExit('there is no module named torch')
print(spec.submodule_search_locations[0], importlib.metadata.version('torch'), sep='|', end='')")
execute_process(COMMAND ${Python_EXECUTABLE} -c "${find_torch}" WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
                OUTPUT_VARIABLE location ERROR_VARIABLE error RESULT_VARIABLE failed)
set(fix "Install it with '${Python_EXECUTABLE} -m pip install \"torch>=2.10\"', or choose the interpreter that has it "
        "with -DPython_EXECUTABLE=... (pip: run the pip of that interpreter with --no-build-isolation).")
string(CONCAT fix ${fix})
if(failed)
  message(FATAL_ERROR "svgdx needs PyTorch 2.10 or newer. Looked for the Python package 'torch' with "
                      "${Python_EXECUTABLE}: ${error}\n${fix}")
endif()
string(REPLACE "|" ";" location "${location}")
list(GET location 0 torch_root)
list(GET location 1 svgdx_torch_version)
if(svgdx_torch_version VERSION_LESS 2.10)
  message(FATAL_ERROR "svgdx needs PyTorch 2.10 or newer, but ${torch_root} is ${svgdx_torch_version}.\n${fix}")
endif()
set(torch_cpu_library ${torch_root}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}torch_cpu${CMAKE_SHARED_LIBRARY_SUFFIX})
foreach(needed IN ITEMS ${torch_cpu_library} ${torch_root}/include/torch/csrc/stable/library.h)
  if(NOT EXISTS ${needed})
    message(FATAL_ERROR "PyTorch ${svgdx_torch_version} in ${torch_root} is incomplete: ${needed} is missing. "
                        "Reinstall torch.")
  endif()
endforeach()

get_filename_component(svgdx_csrc ${CMAKE_CURRENT_LIST_DIR}/../csrc ABSOLUTE)

# No rpath: torch is loaded before an ops library is, and its libraries are then found by name.
set(CMAKE_SKIP_RPATH ON)
add_library(svgdx_torch_cpu SHARED IMPORTED)
set_target_properties(svgdx_torch_cpu PROPERTIES IMPORTED_LOCATION ${torch_cpu_library})

# Compile options of every object of an ops library: the stable ABI of torch 2.10, and no other part of
# torch; and the backend, see csrc/common/backend.h.
function(svgdx_ops_library target backend key)
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000 SVGDX_BACKEND=${backend}
                                               SVGDX_KEY=${key} SVGDX_NAMESPACE=${SVGDX_NAMESPACE})
  target_include_directories(${target} PRIVATE ${svgdx_csrc})
  target_include_directories(${target} SYSTEM PRIVATE ${torch_root}/include)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-ffp-contract=fast>)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "SHARED_LIBRARY" AND NOT APPLE)
    # Makes a symbol missing from the stable ABI an error here rather than at the user's first import.
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
endfunction()
