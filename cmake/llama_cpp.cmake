# Adds llama.cpp to the build as static libraries, from the pinned sources or a user's checkout, and
# `herd_common`, the part of llama.cpp's `common` that chat templates require.

# Defaults for upstream's options; -D on the command line overrides them.
macro(llamaherd_default name value)
  if(NOT DEFINED ${name})
    set(${name} ${value} CACHE STRING "llama.cpp option" FORCE)
  endif()
endmacro()
llamaherd_default(BUILD_SHARED_LIBS OFF)
llamaherd_default(GGML_NATIVE ON)
llamaherd_default(GGML_OPENMP OFF)   # see csrc/llama/common/thread_pool.h
llamaherd_default(GGML_CCACHE OFF)   # set in the top-level file
llamaherd_default(GGML_CUDA_NCCL OFF)
llamaherd_default(GGML_METAL_EMBED_LIBRARY ON)
llamaherd_default(LLAMA_OPENSSL OFF)
llamaherd_default(LLAMA_ALL_WARNINGS OFF)
llamaherd_default(LLAMA_BUILD_COMMON OFF)

set(LLAMAHERD_VENDOR_DIR ${PROJECT_SOURCE_DIR}/vendor)
if(LLAMAHERD_LLAMA_CPP_DIR)
  set(LLAMA_CPP_DIR ${LLAMAHERD_LLAMA_CPP_DIR})
  if(NOT EXISTS ${LLAMA_CPP_DIR}/include/llama.h)
    message(FATAL_ERROR "LLAMAHERD_LLAMA_CPP_DIR=${LLAMA_CPP_DIR} must be a checkout of "
                        "llama.cpp; include/llama.h is missing")
  endif()
  set(LLAMAHERD_LLAMA_COMMIT "own checkout")
else()
  set(LLAMA_CPP_DIR ${LLAMAHERD_VENDOR_DIR}/llama.cpp)
  set(groups core gpu)
  if(GGML_RPC)
    list(APPEND groups rpc)
  endif()
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${LLAMAHERD_VENDOR_DIR}/fetch.py ${groups}
    RESULT_VARIABLE fetched)
  if(NOT fetched EQUAL 0)
    message(FATAL_ERROR "llama.cpp's sources could not be fetched; see the message above")
  endif()
  file(STRINGS ${LLAMAHERD_VENDOR_DIR}/llama_cpp.lock.toml commit_line REGEX "^commit = ")
  string(REGEX REPLACE "^commit = \"(.*)\"$" "\\1" LLAMAHERD_LLAMA_COMMIT "${commit_line}")
  set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
               ${LLAMAHERD_VENDOR_DIR}/llama_cpp.lock.toml)
endif()

set(CMAKE_PROJECT_ggml_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/ggml_flags.cmake)
set(LLAMA_BUILD_NUMBER 0)
set(LLAMA_BUILD_COMMIT ${LLAMAHERD_LLAMA_COMMIT})
add_subdirectory(${LLAMA_CPP_DIR} ${PROJECT_BINARY_DIR}/llama.cpp EXCLUDE_FROM_ALL)

# Listed by name, to exclude the argument parser, downloader and console of upstream's tools.
set(common_dir ${LLAMA_CPP_DIR}/common)
include(${common_dir}/parsers/sources.cmake)
set(BUILD_NUMBER ${LLAMA_BUILD_NUMBER})
set(BUILD_COMMIT ${LLAMA_BUILD_COMMIT})
set(BUILD_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
set(BUILD_TARGET "${CMAKE_SYSTEM_NAME} ${CMAKE_SYSTEM_PROCESSOR}")
configure_file(${common_dir}/build-info.cpp.in ${PROJECT_BINARY_DIR}/build-info.cpp)
set(common_names
  chat-auto-parser-generator chat-auto-parser-helpers chat-diff-analyzer chat-peg-parser chat common
  fit json-schema-to-grammar json-schema json llguidance log ngram-cache ngram-map ngram-mod
  peg-parser reasoning-budget sampling speculative trie unicode
  jinja/lexer jinja/parser jinja/runtime jinja/value jinja/string jinja/caps)
list(TRANSFORM common_names PREPEND ${common_dir}/ OUTPUT_VARIABLE common_sources)
list(TRANSFORM common_sources APPEND .cpp)
add_library(herd_common STATIC EXCLUDE_FROM_ALL
  ${common_sources} ${LLAMA_CHAT_PARSERS_SOURCES} ${PROJECT_BINARY_DIR}/build-info.cpp)
target_include_directories(herd_common SYSTEM PUBLIC ${common_dir} ${LLAMA_CPP_DIR}/vendor)
target_compile_options(herd_common PRIVATE -w)
# Counts the steps of chat templates: see csrc/llama/chat/template_steps.h.
set_source_files_properties(${common_dir}/jinja/runtime.cpp PROPERTIES
  COMPILE_OPTIONS "-include;${PROJECT_SOURCE_DIR}/csrc/llama/chat/template_steps.h"
  OBJECT_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/llama/chat/template_steps.h)
add_library(herd_template_budget STATIC EXCLUDE_FROM_ALL
  ${PROJECT_SOURCE_DIR}/csrc/llama/chat/template_budget.cpp)
target_include_directories(herd_template_budget PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_link_libraries(herd_common PUBLIC llama herd_template_budget)
