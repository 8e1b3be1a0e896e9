# Writes a Python module with the x86 instruction sets that the compiler may use anywhere, by their
# names in Linux's /proc/cpuinfo; none on other systems. Sets that compilers use for intrinsics only
# are left out, and so are those of csrc/kernels/x86, which are selected at run time.
function(llamaherd_write_cpu_features file)
  set(names "")
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    get_target_property(options ggml-cpu COMPILE_OPTIONS)
    list(FILTER options INCLUDE REGEX "^-m")
    separate_arguments(flags NATIVE_COMMAND "${CMAKE_CXX_FLAGS}")
    execute_process(
      COMMAND ${CMAKE_CXX_COMPILER} ${flags} ${options} -dM -E -x c++ /dev/null
      OUTPUT_VARIABLE macros COMMAND_ERROR_IS_FATAL ANY)
    foreach(pair IN ITEMS
        SSE3=pni SSSE3=ssse3 SSE4_1=sse4_1 SSE4_2=sse4_2 POPCNT=popcnt MOVBE=movbe
        LZCNT=abm BMI=bmi1 BMI2=bmi2 TBM=tbm F16C=f16c FMA=fma FMA4=fma4 XOP=xop AVX=avx
        AVX2=avx2 AVXVNNI=avx_vnni AVXIFMA=avx_ifma GFNI=gfni AVX512F=avx512f AVX512CD=avx512cd
        AVX512BW=avx512bw AVX512DQ=avx512dq AVX512VL=avx512vl AVX512IFMA=avx512ifma
        AVX512VBMI=avx512vbmi AVX512VBMI2=avx512_vbmi2 AVX512VNNI=avx512_vnni
        AVX512BITALG=avx512_bitalg AVX512VPOPCNTDQ=avx512_vpopcntdq AVX512BF16=avx512_bf16
        AVX512FP16=avx512_fp16)
      string(REGEX MATCH "^(.*)=(.*)$" matched "${pair}")
      if(macros MATCHES "#define __${CMAKE_MATCH_1}__ ")
        string(REGEX REPLACE "^.*=" "" name "${pair}")
        string(APPEND names "    \"${name}\",\n")
      endif()
    endforeach()
  endif()
  file(CONFIGURE OUTPUT ${file} @ONLY CONTENT
"\"\"\"Instruction sets that this build needs, by their names in /proc/cpuinfo.\"\"\"

REQUIRED: tuple[str, ...] = (
@names@)
")
endfunction()
