// Of which commit a program was built. In a library of its own (troupe_build_commit) that only the programs' main files
// are linked with: what has not changed is not built anew because of a commit.
#pragma once

namespace troupe {

extern const char* const build_commit;  // 12 hexadecimal digits; empty: not known

}  // namespace troupe
