# Run at each build: writes OUTPUT, a source that says of which commit the programs are, when that has changed.
# cmake -D SOURCE_DIR=... -D OUTPUT=... -D GIVEN=... -P BuildCommit.cmake
set(commit "${GIVEN}")
if(commit STREQUAL "")
  # A release's folder inside somebody else's repository is not of that repository's commit.
  execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --show-toplevel OUTPUT_VARIABLE top ERROR_QUIET
                  RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  file(REAL_PATH "${SOURCE_DIR}" source)
  if(failed EQUAL 0 AND top STREQUAL source)
    execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit ERROR_QUIET
                    OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} @ONLY CONTENT [[
#include "common/build_commit.hpp"
const char* const troupe::build_commit = "@commit@";
]])
