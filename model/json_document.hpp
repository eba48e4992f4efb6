// Strict JSON for small files (config.json, shard index, digest manifest): bounded in size and depth, valid UTF-8, no
// duplicate keys, nothing behind the value. Header files of the project see nlohmann::json only as a declaration.
#pragma once

#include <cstddef>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "common/error.hpp"

namespace troupe::model {

// invalid_request naming byte offset and reason, and what to do; too_large above `bytes_max`.
[[nodiscard]] result<nlohmann::json> parse_json(std::string_view text, std::size_t bytes_max,
                                                std::string_view advice = "repair the file");

}  // namespace troupe::model
