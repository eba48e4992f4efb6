#include "coordinator/shell/sqlite_store.hpp"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/shell/record_json.hpp"

namespace troupe::coordinator {
namespace {

constexpr const char* schema = R"(
CREATE TABLE cluster(one INTEGER PRIMARY KEY CHECK (one = 1), cluster_id TEXT NOT NULL, model_fingerprint TEXT NOT NULL,
                     term INTEGER NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE nodes(name TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE experts(layer INTEGER NOT NULL, expert INTEGER NOT NULL, state INTEGER NOT NULL, version INTEGER NOT NULL,
                     digest BLOB, replicas TEXT NOT NULL, PRIMARY KEY (layer, expert));
CREATE TABLE commands(id TEXT PRIMARY KEY, number INTEGER NOT NULL, outcome TEXT NOT NULL);
)";

// What version 2 added; also run on a file of version 1.
constexpr const char* schema_of_version_2 = R"(
CREATE TABLE wishes(layer INTEGER NOT NULL, expert INTEGER NOT NULL, document TEXT NOT NULL,
                    PRIMARY KEY (layer, expert));
CREATE TABLE operations(number INTEGER PRIMARY KEY, document TEXT NOT NULL);
PRAGMA user_version = 2;
)";

// What version 3 added.
constexpr const char* schema_of_version_3 = R"(
ALTER TABLE experts ADD COLUMN masked INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 3;
)";

// What version 4 added.
constexpr const char* schema_of_version_4 = R"(
CREATE TABLE sources(version INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE schedule(one INTEGER PRIMARY KEY CHECK (one = 1), document TEXT NOT NULL);
PRAGMA user_version = 4;
)";

// What version 5 added. `undo`: NULL once the epoch's map leads back no more.
constexpr const char* schema_of_version_5 = R"(
CREATE TABLE epochs(epoch INTEGER PRIMARY KEY, document TEXT NOT NULL, undo TEXT);
CREATE TABLE runs(number INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE watches(layer INTEGER PRIMARY KEY, document TEXT NOT NULL);
ALTER TABLE cluster ADD COLUMN since_unix_ms INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 5;
)";

// One prepared statement; finalised with it.
class statement {
 public:
  explicit statement(sqlite3_stmt* handle) : handle_(handle) {}
  statement(statement&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  statement& operator=(statement&&) = delete;
  ~statement() { sqlite3_finalize(handle_); }
  [[nodiscard]] sqlite3_stmt* handle() const { return handle_; }

  statement& bind(int at, const std::string& text) {
    sqlite3_bind_text(handle_, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  // SQLite's integers are signed; ours come back through the same cast.
  statement& bind(int at, std::uint64_t number) {
    sqlite3_bind_int64(handle_, at, static_cast<sqlite3_int64>(number));
    return *this;
  }
  statement& bind(int at, const std::optional<sha256_digest>& digest) {
    if (digest) {
      sqlite3_bind_blob(handle_, at, digest->data(), static_cast<int>(digest->size()), SQLITE_TRANSIENT);
    } else {
      sqlite3_bind_null(handle_, at);
    }
    return *this;
  }
  [[nodiscard]] std::string text(int column) const {
    const auto* bytes = sqlite3_column_text(handle_, column);
    return bytes == nullptr ? std::string() : std::string(reinterpret_cast<const char*>(bytes));
  }
  [[nodiscard]] std::uint64_t number(int column) const {
    return static_cast<std::uint64_t>(sqlite3_column_int64(handle_, column));
  }
  [[nodiscard]] std::optional<sha256_digest> digest(int column) const {
    sha256_digest value{};
    if (sqlite3_column_bytes(handle_, column) != static_cast<int>(value.size())) return std::nullopt;
    std::memcpy(value.data(), sqlite3_column_blob(handle_, column), value.size());
    return value;
  }

 private:
  sqlite3_stmt* handle_;
};

class sqlite_store final : public store {
 public:
  sqlite_store(sqlite3* database, std::filesystem::path file) : database_(database), file_(std::move(file)) {}
  ~sqlite_store() override { sqlite3_close_v2(database_); }

  result<void> prepare() {
    sqlite3_busy_timeout(database_, static_cast<int>(limits::store_busy_timeout.count()));
    for (const char* setting : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"}) {
      if (auto done = run(setting); !done) return done;
    }
    auto version = query("PRAGMA user_version");
    if (!version) return fail(version.error());
    if (sqlite3_step(version->handle()) != SQLITE_ROW) return failure("read the version of");
    auto found = version->number(0);
    if (found <= store_schema_version) {
      constexpr const char* steps[store_schema_version] = {schema, schema_of_version_2, schema_of_version_3,
                                                           schema_of_version_4, schema_of_version_5};
      std::string script = "BEGIN;";
      for (auto step = found; step < store_schema_version; ++step) script += steps[step];
      return run((script + "COMMIT;").c_str());
    }
    return fail(errc::wrong_version,
                fmt::format("{} was written by a newer version (schema {}, this program knows {}); upgrade this "
                            "program, or use another data folder",
                            file_.string(), found, store_schema_version));
  }

  result<durable_state> load() override {
    durable_state state;
    auto done = each(
        "SELECT cluster_id, model_fingerprint, term, epoch, since_unix_ms FROM cluster",
        [&](statement& row) -> result<void> {
          state.cluster = cluster_record{
              row.text(0), row.text(1), {row.number(2)}, {row.number(3)}, static_cast<std::int64_t>(row.number(4))};
          return {};
        });
    if (!done) return fail(done.error());
    done = each("SELECT document FROM nodes ORDER BY name", [&](statement& row) -> result<void> {
      auto node = node_from_json(row.text(0));
      if (node) state.nodes.push_back(*std::move(node));
      return node ? result<void>{} : fail(node.error());
    });
    if (!done) return fail(done.error());
    done = each("SELECT layer, expert, state, version, digest, replicas, masked FROM experts ORDER BY layer, expert",
                [&](statement& row) -> result<void> {
                  auto replicas = replicas_from_json(row.text(5));
                  if (!replicas) return fail(replicas.error());
                  state.experts.push_back(
                      {{{static_cast<std::uint32_t>(row.number(0))}, static_cast<std::uint32_t>(row.number(1))},
                       static_cast<expert_state>(row.number(2)),
                       {static_cast<std::uint32_t>(row.number(3))},
                       row.digest(4),
                       *std::move(replicas),
                       row.number(6) != 0});
                  return {};
                });
    if (!done) return fail(done.error());
    done = each("SELECT id, number, outcome FROM commands", [&](statement& row) -> result<void> {
      auto outcome = outcome_from_json(row.text(2));
      if (outcome) state.commands.push_back({row.text(0), row.number(1), *std::move(outcome)});
      return outcome ? result<void>{} : fail(outcome.error());
    });
    if (!done) return fail(done.error());
    if (done = load_wishes(state); !done) return fail(done.error());
    if (done = load_operations(state); !done) return fail(done.error());
    if (done = load_sources(state); !done) return fail(done.error());
    if (done = load_epochs(state); !done) return fail(done.error());
    done = each("SELECT number, document FROM runs ORDER BY number", [&](statement& row) -> result<void> {
      auto run = run_from_json(row.number(0), row.text(1));
      if (run) state.runs.push_back(*std::move(run));
      return run ? result<void>{} : fail(run.error());
    });
    if (!done) return fail(done.error());
    done = each("SELECT document FROM schedule", [&](statement& row) -> result<void> {
      auto schedule = schedule_from_json(row.text(0));
      if (schedule) state.schedule = *std::move(schedule);
      return schedule ? result<void>{} : fail(schedule.error());
    });
    if (!done) return fail(done.error());
    done = each("SELECT layer, document FROM watches", [&](statement& row) -> result<void> {
      auto watch = watch_from_json({static_cast<std::uint32_t>(row.number(0))}, row.text(1));
      if (watch) state.watches.push_back(*std::move(watch));
      return watch ? result<void>{} : fail(watch.error());
    });
    if (!done) return fail(done.error());
    return state;
  }

  result<void> write(std::span<const store_record> records) override {
    if (auto begun = run("BEGIN IMMEDIATE"); !begun) return begun;
    for (const auto& item : records) {
      if (auto put = std::visit([this](const auto& row) { return this->put(row); }, item); !put) {
        roll_back();
        return put;
      }
    }
    auto committed = run("COMMIT");
    if (!committed) roll_back();
    return committed;
  }

 private:
  result<void> load_wishes(durable_state& state) {
    return each("SELECT layer, expert, document FROM wishes", [&](statement& row) -> result<void> {
      auto wish = wish_from_json(row.text(2));
      if (!wish) return fail(wish.error());
      expert_id expert{{static_cast<std::uint32_t>(row.number(0))}, static_cast<std::uint32_t>(row.number(1))};
      state.wishes.push_back({expert, *std::move(wish)});
      return {};
    });
  }
  result<void> load_operations(durable_state& state) {
    return each("SELECT number, document FROM operations ORDER BY number", [&](statement& row) -> result<void> {
      auto operation = operation_from_json(row.number(0), row.text(1));
      if (operation) state.operations.push_back(*std::move(operation));
      return operation ? result<void>{} : fail(operation.error());
    });
  }
  result<void> load_sources(durable_state& state) {
    return each("SELECT version, document FROM sources ORDER BY version", [&](statement& row) -> result<void> {
      auto source = source_from_json({static_cast<std::uint32_t>(row.number(0))}, row.text(1));
      if (source) state.sources.push_back(*std::move(source));
      return source ? result<void>{} : fail(source.error());
    });
  }

  result<void> load_epochs(durable_state& state) {
    return each("SELECT document, undo FROM epochs ORDER BY epoch", [&](statement& row) -> result<void> {
      auto what = epoch_from_json(row.text(0));
      if (!what) return fail(what.error());
      epoch_record record{*std::move(what), std::nullopt};
      if (auto undo = row.text(1); !undo.empty()) {
        auto before = experts_from_json(undo);
        if (!before) return fail(before.error());
        record.before = *std::move(before);
      }
      state.epochs.push_back(std::move(record));
      return {};
    });
  }

  void roll_back() { sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr); }

  result<void> put(const cluster_record& row) {
    return finish(query("INSERT OR REPLACE INTO cluster VALUES(1, ?, ?, ?, ?, ?)"), [&](statement& s) {
      s.bind(1, row.cluster_id).bind(2, row.model_fingerprint).bind(3, row.term.value).bind(4, row.epoch.value);
      s.bind(5, static_cast<std::uint64_t>(row.since_unix_ms));
    });
  }
  result<void> put(const node_record& row) {
    return finish(query("INSERT OR REPLACE INTO nodes VALUES(?, ?)"),
                  [&](statement& s) { s.bind(1, row.node.value).bind(2, to_json(row)); });
  }
  result<void> put(const node_erased& row) {
    return finish(query("DELETE FROM nodes WHERE name = ?"), [&](statement& s) { s.bind(1, row.node.value); });
  }
  result<void> put(const expert_record& row) {
    return finish(query("INSERT OR REPLACE INTO experts VALUES(?, ?, ?, ?, ?, ?, ?)"), [&](statement& s) {
      s.bind(1, std::uint64_t{row.expert.layer.value}).bind(2, std::uint64_t{row.expert.index});
      s.bind(3, static_cast<std::uint64_t>(row.state)).bind(4, std::uint64_t{row.version.value});
      s.bind(5, row.digest).bind(6, to_json(row.replicas)).bind(7, std::uint64_t{row.masked});
    });
  }
  result<void> put(const command_record& row) {
    return finish(query("INSERT OR REPLACE INTO commands VALUES(?, ?, ?)"),
                  [&](statement& s) { s.bind(1, row.command_id).bind(2, row.number).bind(3, to_json(row.outcome)); });
  }
  result<void> put(const wish_record& row) {
    bool is_kept = !row.wish.empty();
    return finish(query(is_kept ? "INSERT OR REPLACE INTO wishes VALUES(?, ?, ?)"
                                : "DELETE FROM wishes WHERE layer = ? AND expert = ?"),
                  [&](statement& s) {
                    s.bind(1, std::uint64_t{row.expert.layer.value}).bind(2, std::uint64_t{row.expert.index});
                    if (is_kept) s.bind(3, to_json(row.wish));
                  });
  }
  result<void> put(const operation_record& row) {
    return finish(query("INSERT OR REPLACE INTO operations VALUES(?, ?)"),
                  [&](statement& s) { s.bind(1, row.number).bind(2, to_json(row)); });
  }
  result<void> put(const source_record& row) {
    return finish(query("INSERT OR REPLACE INTO sources VALUES(?, ?)"),
                  [&](statement& s) { s.bind(1, std::uint64_t{row.version.value}).bind(2, to_json(row)); });
  }
  result<void> put(const schedule_record& row) {
    return finish(query("INSERT OR REPLACE INTO schedule VALUES(1, ?)"),
                  [&](statement& s) { s.bind(1, to_json(row)); });
  }
  // What follows it was written for another map that nobody has seen, or is there no more.
  result<void> put(const epoch_record& row) {
    const auto epoch = row.what.epoch.value;
    auto before = [&](std::size_t kept) { return epoch - std::min<std::uint64_t>(epoch, kept - 1); };
    auto gone = finish(query("DELETE FROM epochs WHERE epoch < ? OR epoch > ?"),
                       [&](statement& s) { s.bind(1, before(limits::placement_epochs_kept_max)).bind(2, epoch); });
    if (!gone) return gone;
    gone = finish(query("UPDATE epochs SET undo = NULL WHERE epoch < ?"),
                  [&](statement& s) { s.bind(1, before(limits::placement_maps_kept_max - 1)); });
    if (!gone) return gone;
    return finish(query("INSERT OR REPLACE INTO epochs VALUES(?, ?, ?)"), [&](statement& s) {
      s.bind(1, epoch).bind(2, to_json(row.what)).bind(3, row.before ? to_json(*row.before) : std::string());
    });
  }
  result<void> put(const scheduled_run& row) {
    auto gone = finish(query("DELETE FROM runs WHERE number <= ?"), [&](statement& s) {
      s.bind(1, row.number - std::min<std::uint64_t>(row.number, limits::scheduled_runs_kept_max));
    });
    if (!gone) return gone;
    return finish(query("INSERT OR REPLACE INTO runs VALUES(?, ?)"),
                  [&](statement& s) { s.bind(1, row.number).bind(2, to_json(row)); });
  }
  result<void> put(const watch_record& row) {
    return finish(query("INSERT OR REPLACE INTO watches VALUES(?, ?)"),
                  [&](statement& s) { s.bind(1, std::uint64_t{row.layer.value}).bind(2, to_json(row)); });
  }
  result<void> put(const operation_erased& row) {
    return finish(query("DELETE FROM operations WHERE number = ?"), [&](statement& s) { s.bind(1, row.number); });
  }
  result<void> put(const command_erased& row) {
    return finish(query("DELETE FROM commands WHERE id = ?"), [&](statement& s) { s.bind(1, row.command_id); });
  }

  tl::unexpected<error> failure(const char* what) const {
    auto code = sqlite3_errcode(database_);
    auto kind = code == SQLITE_FULL                                                         ? errc::no_space
                : code == SQLITE_NOTADB || code == SQLITE_CORRUPT                           ? errc::corrupt
                : code == SQLITE_READONLY || code == SQLITE_CANTOPEN || code == SQLITE_PERM ? errc::permission_denied
                                                                                            : errc::internal;
    const char* remedy = kind == errc::no_space  ? "free space on that disk"
                         : kind == errc::corrupt ? "restore it from a backup, or use another data folder"
                                                 : "check the folder's owner, mode and disk";
    return fail(kind, fmt::format("cannot {} {}: {}; {}", what, file_.string(), sqlite3_errmsg(database_), remedy));
  }

  result<void> run(const char* sql) {
    if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return failure("write");
    return {};
  }
  result<statement> query(const char* sql) {
    sqlite3_stmt* handle = nullptr;
    if (sqlite3_prepare_v2(database_, sql, -1, &handle, nullptr) != SQLITE_OK) return failure("use");
    return statement(handle);
  }
  template <class Bind>
  result<void> finish(result<statement> prepared, Bind bind) {
    if (!prepared) return fail(prepared.error());
    bind(*prepared);
    if (sqlite3_step(prepared->handle()) != SQLITE_DONE) return failure("write");
    return {};
  }
  template <class Row>
  result<void> each(const char* sql, Row use) {
    auto prepared = query(sql);
    if (!prepared) return fail(prepared.error());
    while (true) {
      auto code = sqlite3_step(prepared->handle());
      if (code == SQLITE_DONE) return {};
      if (code != SQLITE_ROW) return failure("read");
      if (auto used = use(*prepared); !used) return used;
    }
  }

  sqlite3* database_;
  std::filesystem::path file_;
};

}  // namespace

result<std::unique_ptr<store>> open_sqlite_store(const std::filesystem::path& file) {
  sqlite3* database = nullptr;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  int code = sqlite3_open_v2(file.c_str(), &database, flags, nullptr);
  auto opened = std::make_unique<sqlite_store>(database, file);
  if (code != SQLITE_OK) {
    return fail(errc::permission_denied, fmt::format("cannot open {}: {}; check the folder's owner and mode",
                                                     file.string(), sqlite3_errstr(code)));
  }
  if (auto ready = opened->prepare(); !ready) return fail(ready.error());
  return opened;
}

}  // namespace troupe::coordinator
