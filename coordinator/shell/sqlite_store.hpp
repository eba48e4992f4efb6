// The store in one SQLite file: WAL, synchronous=FULL, a schema version in user_version. Readable with sqlite3 by hand:
// tables cluster, nodes, experts, commands, wishes, operations, sources, schedule, epochs, runs, watches
// (docs/wire-admin.md says what the columns mean).
#pragma once

#include <filesystem>
#include <memory>

#include "coordinator/shell/store.hpp"

namespace troupe::coordinator {

inline constexpr int store_schema_version = 5;

// Opens or makes the file. wrong_version when a newer program wrote it (faults.md D5); corrupt when it is no database
// (D4); permission_denied when the folder cannot be written (D6).
[[nodiscard]] result<std::unique_ptr<store>> open_sqlite_store(const std::filesystem::path& file);

}  // namespace troupe::coordinator
