# The CUDA library: finds the toolkit, chooses architectures, and links without a CUDA build of torch.
# Sets svgdx_cuda_built, svgdx_cuda_reason (why not) and svgdx_cuda_architectures (in CMake's notation: 90-real, ...).

include(SvgdxCudaArchitectures)

# ---- Toolkit ---------------------------------------------------------------------------------------------------------
# If the user names a toolkit, no other is used instead.
unset(svgdx_nvcc CACHE)
if(NOT "$ENV{CUDACXX}" STREQUAL "")
  set(nvcc_places "CUDACXX, $ENV{CUDACXX}")
  find_program(svgdx_nvcc NAMES "$ENV{CUDACXX}")
elseif(NOT "$ENV{CUDA_HOME}$ENV{CUDA_PATH}" STREQUAL "")
  set(nvcc_places "CUDA_HOME and CUDA_PATH, $ENV{CUDA_HOME} $ENV{CUDA_PATH}")
  find_program(svgdx_nvcc nvcc PATHS "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" NO_DEFAULT_PATH)
else()
  # The last is where pip installs the package nvidia-cuda-nvcc.
  get_filename_component(packaged_bin ${torch_root}/../nvidia/cu13/bin ABSOLUTE)
  set(nvcc_places "PATH, /usr/local/cuda/bin and ${packaged_bin}; CUDACXX, CUDA_HOME and CUDA_PATH are not set")
  find_program(svgdx_nvcc nvcc PATHS /usr/local/cuda/bin ${packaged_bin})
endif()
if(NOT svgdx_nvcc)
  set(svgdx_cuda_reason "nvcc was not found; looked in ${nvcc_places}")
  if(SVGDX_CUDA STREQUAL "on")
    message(FATAL_ERROR "SVGDX_CUDA=on, but ${svgdx_cuda_reason}. Install the CUDA toolkit or set CUDA_HOME to its "
                        "folder; SVGDX_CUDA=off builds without the CUDA library.")
  endif()
  return()
endif()

# nvcc may be a wrapper in PATH, so ask the compiler itself where the toolkit is.
execute_process(COMMAND ${svgdx_nvcc} --dryrun ${CMAKE_CURRENT_BINARY_DIR}/none.cu
                OUTPUT_VARIABLE dryrun ERROR_VARIABLE dryrun)
string(REGEX MATCH "_HERE_=([^\r\n]+)" here "${dryrun}")
set(here "${CMAKE_MATCH_1}")
string(REGEX MATCH "TOP=([^\r\n]+)" top "${dryrun}")
get_filename_component(cuda_root "${CMAKE_MATCH_1}" ABSOLUTE)
if(NOT here OR NOT EXISTS ${cuda_root}/include/cuda_runtime.h)
  message(FATAL_ERROR "${svgdx_nvcc} is not part of a complete CUDA toolkit: looked for include/cuda_runtime.h in "
                      "'${cuda_root}'. Install the toolkit's runtime headers (cuda_runtime), set CUDA_HOME to a complete "
                      "toolkit, or build without the CUDA library: SVGDX_CUDA=off.\n${dryrun}")
endif()
set(cudart_places ${cuda_root}/lib64 ${cuda_root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib ${cuda_root}/lib
                  ${cuda_root}/targets/sbsa-linux/lib)
unset(cudart_static CACHE)
find_library(cudart_static cudart_static PATHS ${cudart_places} NO_DEFAULT_PATH)
if(NOT cudart_static)
  list(JOIN cudart_places "\n  " places)
  message(FATAL_ERROR "The CUDA library is linked with the static CUDA runtime, but libcudart_static.a was not found in\n"
                      "  ${places}\nInstall the toolkit's development libraries (cuda-cudart-dev), set CUDA_HOME to a "
                      "complete toolkit, or build without the CUDA library: SVGDX_CUDA=off.")
endif()

unset(cccl_include CACHE)
find_path(cccl_include nv/target PATHS ${cuda_root}/include ${cuda_root}/include/cccl NO_DEFAULT_PATH)
if(NOT cccl_include)
  message(FATAL_ERROR "The header nv/target of CUDA's C++ libraries was not found in ${cuda_root}/include. Install them "
                      "(cuda-cccl; for NVIDIA's Python packages: pip install \"cuda-toolkit[nvcc,cccl]\"), or build without "
                      "the CUDA library: SVGDX_CUDA=off.")
endif()

execute_process(COMMAND ${here}/nvcc --list-gpu-code OUTPUT_VARIABLE known_codes)
string(REGEX MATCHALL "[0-9]+" known_codes "${known_codes}")
svgdx_choose_cuda_architectures(svgdx_cuda_architectures "$ENV{TORCH_CUDA_ARCH_LIST}" "${known_codes}")

# ---- Compiler --------------------------------------------------------------------------------------------------------
set(CMAKE_CUDA_COMPILER ${here}/nvcc)
set(CMAKE_CUDA_ARCHITECTURES ${svgdx_cuda_architectures})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
# NVIDIA's Python packages hold the libraries in lib, where their nvcc does not look: CMake's trials, and the library below.
get_filename_component(cudart_folder ${cudart_static} DIRECTORY)
if("$ENV{LIBRARY_PATH}" STREQUAL "")
  set(ENV{LIBRARY_PATH} ${cudart_folder})
else()
  string(PREPEND ENV{LIBRARY_PATH} "${cudart_folder}:")
endif()
enable_language(CUDA)
# Two threads per file, since each file is compiled for several architectures, and as many files at a time as cores allow.
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
math(EXPR nvcc_jobs "(${cores} + 1) / 2")
set_property(GLOBAL APPEND PROPERTY JOB_POOLS nvcc=${nvcc_jobs})

# ---- Library ---------------------------------------------------------------------------------------------------------
file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/*/cuda/*.cu csrc/*/cuda/*.cpp)

# torch's own libtorch_cuda.so exists only in CUDA builds of torch. This stand-in has the same soname and defines the
# functions of the stable ABI that live there, so that linking works with any torch; at load time torch's own is used.
set(stable_cuda_symbols
    aoti_torch_get_current_cuda_stream aoti_torch_create_cuda_guard aoti_torch_delete_cuda_guard
    aoti_torch_cuda_guard_set_index torch_c10_cuda_check_msg torch_c10_cuda_free_error_msg)
list(TRANSFORM stable_cuda_symbols REPLACE "(.+)" "extern \"C\" __attribute__((visibility(\"default\"))) void \\1() {}")
list(JOIN stable_cuda_symbols "\n" stand_in)
file(CONFIGURE OUTPUT stand_in/torch_cuda.cpp CONTENT "${stand_in}\n" @ONLY)
add_library(svgdx_torch_cuda_stand_in SHARED ${CMAKE_CURRENT_BINARY_DIR}/stand_in/torch_cuda.cpp)
set_target_properties(svgdx_torch_cuda_stand_in PROPERTIES OUTPUT_NAME torch_cuda
                      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/stand_in)

add_library(svgdx_cuda SHARED ${host_sources} ${cuda_sources})
svgdx_ops_library(svgdx_cuda cuda CUDA)
target_compile_definitions(svgdx_cuda PRIVATE USE_CUDA)
target_include_directories(svgdx_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(svgdx_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all;--threads=2;--ptxas-options=-v;--expt-relaxed-constexpr>)
target_link_libraries(svgdx_cuda PRIVATE svgdx_torch_cpu svgdx_torch_cuda_stand_in)
target_link_directories(svgdx_cuda PRIVATE ${cudart_folder})
if(SVGDX_MANYLINUX)
  svgdx_link_for_manylinux(svgdx_cuda)
endif()
set_target_properties(svgdx_cuda PROPERTIES
  JOB_POOL_COMPILE nvcc
  # Writes the compiler's report of registers and spills to <object>.log instead of the screen.
  CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${PROJECT_SOURCE_DIR}/cmake/nvcc_log.py")
install(TARGETS svgdx_cuda LIBRARY DESTINATION lib)
set(svgdx_cuda_built true)
set(svgdx_cuda_reason "")
