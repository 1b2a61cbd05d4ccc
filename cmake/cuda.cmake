# The CUDA kernels and their bindings, module _cuda: a build of its own inside this one (csrc/cuda), so that the rest of
# the package is built all the same where it cannot be configured or does not compile. One line then says so; ON fails
# instead.
set(asked "${VEILKERN_CUDA}")
if(asked STREQUAL "")
  set(asked AUTO)
endif()
string(TOUPPER "${asked}" asked)
if(NOT asked MATCHES "^(AUTO|ON|OFF|1|0|TRUE|FALSE|YES|NO)$")
  message(FATAL_ERROR "VEILKERN_CUDA must be AUTO, ON or OFF, got ${VEILKERN_CUDA}")
endif()
set(insist OFF)
if(NOT asked STREQUAL "AUTO" AND asked)
  set(insist ON)
endif()

macro(without why)  # ends this file, or everything where CUDA is insisted on
  if(insist)
    message(FATAL_ERROR "VEILKERN_CUDA is ${asked}, but ${why}")
  endif()
  message(STATUS "veilkern: no CUDA kernels (${why})")
  return()
endmacro()

if(NOT asked STREQUAL "AUTO" AND NOT insist)
  without("VEILKERN_CUDA is ${asked}")
endif()
find_package(CUDAToolkit 12.0 QUIET)  # CMake's own search for nvcc sees PATH alone
if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  without("no CUDA toolkit of 12.0 or later was found")
endif()
if(NOT TARGET CUDA::cudart_static)
  without("the CUDA toolkit in ${CUDAToolkit_TARGET_DIR} has no cudart_static")
endif()

# Machine code for each of these, and the last one's PTX for what comes later. VEILKERN_CUDA_ARCHITECTURES: others, in
# CMake's form (90-real: machine code, 90-virtual: PTX, 90: both).
set(architectures ${VEILKERN_CUDA_ARCHITECTURES})
if(NOT architectures)
  set(architectures 80-real 86-real 89-real 90-real 100-real 120)
  if(CUDAToolkit_VERSION VERSION_LESS 12.8)
    set(architectures 80-real 86-real 89-real 90)
    message(STATUS "veilkern: no machine code for sm_100 and sm_120, which CUDA ${CUDAToolkit_VERSION} does not know")
  endif()
endif()
set(words "")
foreach(architecture ${architectures})
  if(NOT architecture MATCHES "^([0-9]+)(-real|-virtual)?$")
    message(FATAL_ERROR "VEILKERN_CUDA_ARCHITECTURES must be numbers such as 80-real;90, got ${architectures}")
  endif()
  set(number ${CMAKE_MATCH_1})
  set(kind "${CMAKE_MATCH_2}")
  if(NOT kind STREQUAL "-virtual")
    list(APPEND words sm_${number})
  endif()
  if(NOT kind STREQUAL "-real")
    list(APPEND words compute_${number})
  endif()
endforeach()
list(JOIN words " " words)

set(cuda_build ${CMAKE_BINARY_DIR}/cuda)
execute_process(
  COMMAND ${CMAKE_COMMAND} -S ${CMAKE_SOURCE_DIR}/csrc/cuda -B ${cuda_build} -G ${CMAKE_GENERATOR}
    -DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM} -DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}
    -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} -DCMAKE_CUDA_COMPILER=${CUDAToolkit_NVCC_EXECUTABLE}
    "-DCMAKE_CUDA_ARCHITECTURES=${architectures}" "-DWORDS=${words}"
    "-DPYTHON_INCLUDES=${pybind11_INCLUDE_DIRS};${Python_INCLUDE_DIRS}" -DSUFFIX=${PYTHON_MODULE_EXTENSION}
  RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(failed)
  if(insist)
    message("${said}")
  endif()
  set(reason "it fails CMake's trial")
  foreach(pattern "error: ([^\n]+)" "#error *-* *([^\n]+)" "nvcc fatal *: *([^\n]+)")  # the last is the plainest
    if(said MATCHES "${pattern}")
      set(reason "${CMAKE_MATCH_1}")
    endif()
  endforeach()
  without("${CUDAToolkit_NVCC_EXECUTABLE} does not compile here: ${reason}")
endif()

include(ProcessorCount)
ProcessorCount(processors)
set(cuda_module ${cuda_build}/_cuda${PYTHON_MODULE_EXTENSION})
add_custom_target(cuda ALL COMMAND ${CMAKE_COMMAND} -DBUILD=${cuda_build} -DMODULE=${cuda_module} -DINSIST=${insist}
  -DPROCESSORS=${processors} -P ${CMAKE_SOURCE_DIR}/cmake/build_cuda.cmake VERBATIM)
install(FILES ${cuda_module} DESTINATION . OPTIONAL)
message(STATUS "veilkern: CUDA kernels for ${words}, by CUDA ${CUDAToolkit_VERSION}")
