# Builds what cmake/cuda.cmake has set up; without INSIST a failure is told and no more.
if("$ENV{CMAKE_BUILD_PARALLEL_LEVEL}" STREQUAL "" AND PROCESSORS)
  set(ENV{CMAKE_BUILD_PARALLEL_LEVEL} ${PROCESSORS})
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} RESULT_VARIABLE failed)
if(failed)
  file(REMOVE ${MODULE})  # an earlier build's
  if(INSIST)
    message(FATAL_ERROR "VEILKERN_CUDA is ON, but the CUDA kernels do not compile (see above)")
  endif()
  message("veilkern: no CUDA kernels (they do not compile, see above)")
endif()
