// Internal to the doors: the fields that both endpoints share.
#pragma once

#include "router_node/shell/openai_request.hpp"

namespace troupe::router {

// Strict: at most 64 levels deep (faults.md W6), no duplicate keys, valid UTF-8.
[[nodiscard]] tl::expected<nlohmann::json, request_refusal> read_object(std::string_view body);

// Sampling, stops, limits of time, streaming, n. Refuses what would change the answer and is not supported.
void read_settings(field_reader& fields, const served_model& model, const request_arrival& arrival, text_request& into);

// `max_tokens` for prompts that are tokens now: given or as large as the context leaves room for. Refuses prompts that
// are too long (faults.md W15), naming both numbers.
void read_length(field_reader& fields, const served_model& model, text_request& into);

// Texts without a tokenizer (faults.md C7).
void refuse_without_tokenizer(field_reader& fields, const served_model& model, const std::string& param);

}  // namespace troupe::router
