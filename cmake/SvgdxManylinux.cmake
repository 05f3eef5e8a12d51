# Links for the oldest systems that a wheel of the platform manylinux_2_28 must serve, whatever this system is: glibc 2.28
# and the libstdc++ of GCC 8. The CUDA runtime, a static library, is bound to the old glibc as well, which no compiler
# option could do.

set(svgdx_old_glibc ${CMAKE_CURRENT_BINARY_DIR}/old_glibc)
execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/old_glibc.py ${CMAKE_CXX_COMPILER} ${svgdx_old_glibc}
                ERROR_VARIABLE error RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "SVGDX_MANYLINUX=on: ${error}SVGDX_MANYLINUX=off builds for this system alone.")
endif()

# An undefined symbol at this link is one that the old systems do not have: define it in old_libstdcxx.cpp or do without.
function(svgdx_link_for_manylinux target)
  target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/cmake/old_libstdcxx.cpp)
  target_link_directories(${target} PRIVATE ${svgdx_old_glibc})
endfunction()
