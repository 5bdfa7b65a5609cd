# Which GPUs the CUDA sources are compiled for, and whether nvcc can compile anything here.

# Compute capabilities among 8.0, 9.0, 10.0 and 12.0 that this version of nvcc supports: machine code for each, plus PTX,
# which drivers compile for other cards. PTX is for 10.0, because cards of 11.0 can't use that for 12.0. Empty if nvcc
# supports none of them.
function(scvae_fast_cuda_architectures version out)
  if(version VERSION_GREATER_EQUAL 12.8)
    set(found 80-real 90a-real 100 120-real)
  elseif(version VERSION_GREATER_EQUAL 12.0)
    set(found 80-real 90a-real 90-virtual)
  elseif(version VERSION_GREATER_EQUAL 11.8)
    set(found 80-real 90)
  elseif(version VERSION_GREATER_EQUAL 11.0)
    set(found 80)
  else()
    set(found)
  endif()
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# The version of an nvcc; empty if it doesn't report one.
function(scvae_fast_nvcc_version nvcc out)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE told ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" matched "${told}")
  set(${out} "${CMAKE_MATCH_1}" PARENT_SCOPE)
endfunction()

# Why nvcc can't compile with that host compiler: the first error that it prints. Empty if it can.
function(scvae_fast_nvcc_error nvcc host out)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/nvcc_try.cu)
  file(WRITE ${source} "__global__ void kernel() {}\nint main() { return 0; }\n")
  execute_process(
    COMMAND ${nvcc} -std=c++17 -ccbin ${host} -c ${source} -o ${source}.o
    RESULT_VARIABLE status OUTPUT_VARIABLE printed ERROR_VARIABLE printed)
  set(${out} "" PARENT_SCOPE)
  if(NOT status EQUAL 0)
    string(REGEX MATCH "[^\n]*error[^\n]*" line "${printed}")
    if(NOT line)
      string(REGEX MATCH "[^\n]+" line "${printed}")
    endif()
    string(STRIP "${line}" line)
    set(${out} "${line} (exit status ${status})" PARENT_SCOPE)
  endif()
endfunction()
