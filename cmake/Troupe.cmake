# Two functions, so that every target is built the same way: sources are always listed by name.

add_library(troupe_options INTERFACE)
target_include_directories(troupe_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(troupe_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast
                       -Wcast-align -Woverloaded-virtual -Wconversion -Wno-sign-conversion)
if(NOT TROUPE_ONLY_GPU)  # scripts/gpu-check meets compilers that warn of other things
  target_compile_options(troupe_options INTERFACE -Werror)
endif()
if(TROUPE_SANITIZE)
  target_compile_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE})
  if(TROUPE_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC says that it does not follow atomic_thread_fence, which Boost.Asio's headers use; and its instrumented code
    # hides from it that an optional has been tested.
    target_compile_options(troupe_options INTERFACE -Wno-tsan -Wno-maybe-uninitialized)
  endif()
else()
  target_compile_options(troupe_options INTERFACE -fstack-protector-strong)
endif()

if(TROUPE_FUZZ)  # coverage counters in the code under test, without libFuzzer's main
  target_compile_options(troupe_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# troupe_library(NAME SOURCES a.cpp ... DEPENDS target ...): a static library.
function(troupe_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPENDS} PRIVATE troupe_options)
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()

# troupe_program(NAME SOURCES main.cpp ... DEPENDS target ...): ends up in build/bin.
function(troupe_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} troupe_options)
endfunction()

# troupe_test(NAME SOURCES x_test.cpp ... DEPENDS target ... [TIMEOUT seconds]): GoogleTest, registered with ctest.
function(troupe_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gmock GTest::gtest_main troupe_options)
  # Test code runs once: compiling it at -O1 takes a third less time than at Release's -O3.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name} PRIVATE TROUPE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" TROUPE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

# troupe_fuzz(NAME SOURCES x_fuzz.cpp DEPENDS target ...): libFuzzer; built only with TROUPE_FUZZ.
function(troupe_fuzz name)
  if(NOT TROUPE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} troupe_options)
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_property(GLOBAL APPEND PROPERTY TROUPE_FUZZ_TARGETS ${name})
endfunction()
