// From a JSON document (docs/cli.md) to what is printed: the only place that knows the output formats. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::cli {

enum class output_format { table, json, yaml, wide, name };
[[nodiscard]] std::optional<output_format> parse_format(std::string_view text);

using json = nlohmann::ordered_json;  // keeps the order of keys, which is part of how readable an answer is

enum class cell { text, bytes, share, count };

struct column {
  std::string title;
  std::string path;  // "a/b" inside one item; of a list, its elements; "#a" the length of list a
  cell kind{cell::text};
  bool only_wide{};
};

// How one kind of document is shown to a person.
struct view {
  std::string items;  // the key of the list of rows; empty: the document itself is the only row
  std::vector<column> columns;
  std::string name;  // what `-o name` prints per row: "{layer}/{expert}"
  bool vertical{};   // one "title  value" line per column instead of a table: for one-row documents
};

// Ends with a newline unless empty.
[[nodiscard]] std::string render(const json& document, output_format format, const view& shown);

// "3", "encoder.1": of the layer in a document, which is a number or a text.
[[nodiscard]] std::string layer_name(const json& layer);

// 1536 -> "1.5 KiB"
[[nodiscard]] std::string human_bytes(double bytes);

}  // namespace troupe::cli
