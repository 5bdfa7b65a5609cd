# Runs PROGRAM for each instruction set that it finds on this processor: a process chooses one of them for good.
execute_process(
  COMMAND ${PROGRAM} --instruction-sets
  OUTPUT_VARIABLE listed OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" names "${listed}")
if(NOT names)
  message(FATAL_ERROR "${PROGRAM} lists no instruction set")
endif()
foreach(name IN LISTS names)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env SCVAE_FAST_ISA=${name} ${PROGRAM} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
