// The tokens that end an answer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::model {

// `eos_token_id` of generation_config.json, one number or a list; without that file or key, that of config.json. Empty
// when neither names one. invalid_request when a value is no token below `vocabulary`.
[[nodiscard]] result<std::vector<token_number>> read_end_tokens(const std::filesystem::path& folder,
                                                                std::string_view config_json, std::uint32_t vocabulary);

}  // namespace troupe::model
