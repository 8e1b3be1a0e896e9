# For GCC up to 12 _tile_loadconfig() reads no more than the eight first bytes of a tile configuration:
# it drops the stores to the rest, and the first AMX instruction faults. Included into a build of ggml
# by CMAKE_PROJECT_ggml_INCLUDE.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  cmake_language(DEFER CALL set_source_files_properties
    ${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/amx/mmq.cpp TARGET_DIRECTORY ggml-cpu
    PROPERTIES COMPILE_OPTIONS "-fno-tree-dse;-fno-dse")
endif()
