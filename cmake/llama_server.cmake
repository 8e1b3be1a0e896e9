# Builds llama.cpp's server for benchmarks, from the pinned sources, in a separate folder and build,
# so that it does not affect the package.
include(ExternalProject)
find_package(Python REQUIRED COMPONENTS Interpreter)

file(STRINGS "${CMAKE_SOURCE_DIR}/vendor/llama_cpp.lock.toml" commit REGEX "^commit = ")
string(REGEX REPLACE "^commit = \"(.*)\"$" "\\1" commit "${commit}")
set(sources "${CMAKE_BINARY_DIR}/llama_server/sources")
ExternalProject_Add(llama-server
  PREFIX "${CMAKE_BINARY_DIR}/llama_server"
  SOURCE_DIR "${sources}"
  BINARY_DIR "${CMAKE_BINARY_DIR}/llama_server/build"
  DOWNLOAD_COMMAND ${Python_EXECUTABLE} "${CMAKE_SOURCE_DIR}/vendor/fetch.py" core gpu bench
    --dest "${sources}"
  CMAKE_ARGS
    -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}
    -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
    -DCMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER}
    -DCMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER}
    -DCMAKE_PROJECT_ggml_INCLUDE=${CMAKE_SOURCE_DIR}/cmake/ggml_flags.cmake
    -DLLAMA_BUILD_NUMBER=0
    -DLLAMA_BUILD_COMMIT=${commit}
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF
    -DLLAMA_USE_PREBUILT_UI=OFF
  BUILD_COMMAND ${CMAKE_COMMAND} --build <BINARY_DIR> --target llama-server
  INSTALL_COMMAND ""
  EXCLUDE_FROM_ALL ON
  USES_TERMINAL_BUILD ON
)
