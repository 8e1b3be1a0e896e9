# GCC up to 12 declares _tile_loadconfig() as reading only the first eight bytes of a tile
# configuration, and removes the stores to the other bytes: the first AMX instruction faults.
# Included in the build of ggml by CMAKE_PROJECT_ggml_INCLUDE.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  cmake_language(DEFER CALL set_source_files_properties
    ${CMAKE_CURRENT_SOURCE_DIR}/src/ggml-cpu/amx/mmq.cpp TARGET_DIRECTORY ggml-cpu
    PROPERTIES COMPILE_OPTIONS "-fno-tree-dse;-fno-dse")
endif()
