#include "model/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;

constexpr std::size_t length_bytes = 8;
constexpr std::string_view metadata_key = "__metadata__";

// Reads the header's one fixed form; whatever does not fit it (so also any deeper nesting) stops the parser at once.
class header_handler final : public nlohmann::json_sax<json> {
 public:
  bool start_object(std::size_t /*elements*/) override {
    if (place_ == place::document) return enter(place::root);
    if (place_ == place::root && key_ == metadata_key) return enter(place::metadata);
    if (place_ == place::root) {
      tensor_ = {};
      tensor_.name = key_;
      fields_seen_ = 0;
      return enter(place::tensor);
    }
    return misplaced("an object");
  }

  bool key(string_t& value) override {
    if (place_ == place::tensor) return begin_field(value);
    auto& seen = place_ == place::root ? names_ : metadata_names_;
    if (!seen.insert(value).second) return stop(fmt::format("duplicate key \"{}\"", printable(value)));
    key_ = std::move(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == place::metadata) {
      header.metadata.emplace(key_, std::move(value));
      return true;
    }
    if (place_ != place::tensor || field_ != dtype_field) return misplaced("a string");
    auto type = parse_dtype(value);
    if (!type) return stop(fmt::format("tensor \"{}\": unknown dtype \"{}\"", printable(key_), printable(value)));
    tensor_.type = *type;
    return true;
  }

  bool start_array(std::size_t /*elements*/) override {
    if (place_ != place::tensor || field_ == dtype_field) return misplaced("a list");
    numbers_.clear();
    return enter(place::numbers);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != place::numbers) return misplaced("a number");
    numbers_.push_back(value);
    return true;
  }

  bool end_array() override {
    if (field_ == shape_field) {
      tensor_.shape = std::move(numbers_);
    } else if (numbers_.size() == 2) {
      begin_ = numbers_[0];
      end_ = numbers_[1];
    } else {
      return stop(fmt::format("tensor \"{}\": data_offsets has {} numbers, not 2", printable(key_), numbers_.size()));
    }
    numbers_.clear();
    return enter(place::tensor);
  }

  bool end_object() override {
    if (place_ == place::tensor) return finish_tensor();
    return enter(place_ == place::metadata ? place::root : place::end);
  }

  bool null() override { return misplaced("null"); }
  bool boolean(bool /*value*/) override { return misplaced("a boolean"); }
  bool number_integer(number_integer_t value) override { return misplaced(fmt::format("the number {}", value)); }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return misplaced(fmt::format("the number {}", printable(text)));
  }
  bool binary(binary_t& /*value*/) override { return misplaced("binary data"); }
  bool parse_error(std::size_t position, const std::string& /*token*/, const json::exception& reason) override {
    return stop(fmt::format("byte {}: {}", length_bytes + position, printable(reason.what())));
  }

  safetensors_header header;  // offsets still relative to the data
  std::string failure;

 private:
  enum class place { document, root, metadata, tensor, numbers, end };
  static constexpr unsigned dtype_field = 1;
  static constexpr unsigned shape_field = 2;
  static constexpr unsigned offsets_field = 4;

  bool enter(place next) {
    place_ = next;
    return true;
  }

  bool stop(std::string reason) {
    failure = std::move(reason);
    return false;
  }

  bool misplaced(const std::string& what) {
    return stop(fmt::format("{} where the format has none, in \"{}\"", what, printable(key_)));
  }

  bool begin_field(const std::string& name) {
    field_ = name == "dtype" ? dtype_field : name == "shape" ? shape_field : name == "data_offsets" ? offsets_field : 0;
    if (field_ == 0) return stop(fmt::format("tensor \"{}\": unknown key \"{}\"", printable(key_), printable(name)));
    if ((fields_seen_ & field_) != 0)
      return stop(fmt::format("tensor \"{}\": duplicate key \"{}\"", printable(key_), name));
    fields_seen_ |= field_;
    return true;
  }

  bool finish_tensor() {
    if (fields_seen_ != (dtype_field | shape_field | offsets_field)) {
      return stop(fmt::format("tensor \"{}\" lacks one of dtype, shape, data_offsets", printable(key_)));
    }
    if (end_ < begin_) {
      return stop(fmt::format("tensor \"{}\" ends at {} before it begins at {}", printable(key_), end_, begin_));
    }
    tensor_.offset = begin_;
    tensor_.bytes = end_ - begin_;
    header.tensors.push_back(std::move(tensor_));
    return enter(place::root);
  }

  place place_{place::document};
  std::string key_;  // of the root or the metadata
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_names_;
  tensor_info tensor_;
  unsigned field_{};
  unsigned fields_seen_{};
  std::vector<std::uint64_t> numbers_;
  std::uint64_t begin_{};
  std::uint64_t end_{};
};

result<void> check_size(const tensor_info& tensor) {
  auto bytes = checked_bytes(tensor.type, tensor.shape);
  if (!bytes) {
    return fail(errc::invalid_request, fmt::format("tensor \"{}\": {}", printable(tensor.name), bytes.error().message));
  }
  if (*bytes != tensor.bytes) {
    return fail(errc::invalid_request,
                fmt::format("tensor \"{}\": {} [{}] takes {} bytes, data_offsets hold {}; the file is damaged",
                            printable(tensor.name), to_string(tensor.type), fmt::join(tensor.shape, ", "), *bytes,
                            tensor.bytes));
  }
  return {};
}

// Tensors must cover the data exactly once, from its first byte to its last. @pre ordered by offset.
result<void> check_cover(const std::vector<tensor_info>& tensors, std::uint64_t data_bytes) {
  std::uint64_t covered = 0;
  for (const auto& tensor : tensors) {
    if (tensor.offset != covered) {
      return fail(errc::invalid_request,
                  fmt::format("tensor \"{}\" begins at byte {} of the data, {} the tensor before it, which ends at {}; "
                              "the file is damaged",
                              printable(tensor.name), tensor.offset,
                              tensor.offset < covered ? "inside" : "leaving a hole after", covered));
    }
    if (tensor.bytes > data_bytes - covered) {
      return fail(errc::invalid_request,
                  fmt::format("tensor \"{}\" ends at byte {} of the data, the file has {}; the file "
                              "is truncated",
                              printable(tensor.name), tensor.offset + tensor.bytes, data_bytes));
    }
    covered += tensor.bytes;
  }
  if (covered != data_bytes) {
    return fail(errc::invalid_request,
                fmt::format("the tensors end at byte {} of the data, the file has {}; the file is damaged", covered,
                            data_bytes));
  }
  return {};
}

}  // namespace

result<std::uint64_t> safetensors_head_bytes(std::span<const std::byte> first_bytes, std::uint64_t file_bytes) {
  if (file_bytes < length_bytes || first_bytes.size() < length_bytes) {
    return fail(errc::invalid_request,
                fmt::format("not a safetensors file: {} bytes, the header's length alone takes 8", file_bytes));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) length |= std::to_integer<std::uint64_t>(first_bytes[i]) << 8 * i;
  if (length > limits::safetensors_header_bytes_max) {
    return fail(errc::invalid_request,
                fmt::format("not a safetensors file: byte 0 says the header has {} bytes; at most {} are allowed",
                            length, limits::safetensors_header_bytes_max));
  }
  if (length > file_bytes - length_bytes) {
    return fail(errc::invalid_request, fmt::format("header truncated: byte 0 says it has {} bytes, {} follow", length,
                                                   file_bytes - length_bytes));
  }
  return length_bytes + length;
}

result<safetensors_header> parse_safetensors(std::span<const std::byte> head, std::uint64_t file_bytes) {
  auto head_bytes = safetensors_head_bytes(head, file_bytes);
  if (!head_bytes) return fail(head_bytes.error());
  if (*head_bytes > head.size()) return fail(errc::internal, "parse_safetensors was given less than the header");
  std::string_view text{reinterpret_cast<const char*>(head.data()) + length_bytes, *head_bytes - length_bytes};
  if (!text.starts_with('{')) return fail(errc::invalid_request, "not a safetensors file: byte 8 is not '{'");
  header_handler handler;
  if (!json::sax_parse(text.begin(), text.end(), &handler)) {
    return fail(errc::invalid_request, "safetensors header: " + handler.failure + "; the file is damaged");
  }
  auto header = std::move(handler.header);
  header.data_begin = *head_bytes;
  for (const auto& tensor : header.tensors) {
    if (auto sized = check_size(tensor); !sized) return fail(sized.error());
  }
  std::ranges::stable_sort(header.tensors, [](const tensor_info& a, const tensor_info& b) {
    return std::pair{a.offset, a.bytes} < std::pair{b.offset, b.bytes};  // empty tensors before what begins there
  });
  if (auto covered = check_cover(header.tensors, file_bytes - header.data_begin); !covered)
    return fail(covered.error());
  for (auto& tensor : header.tensors) tensor.offset += header.data_begin;
  return header;
}

std::vector<std::byte> write_safetensors(std::span<const named_tensor> tensors,
                                         const std::map<std::string, std::string>& metadata) {
  std::vector<const named_tensor*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [](const named_tensor* t) { return bytes_per_element(t->tensor.type); });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[std::string{metadata_key}] = metadata;
  std::uint64_t end = 0;
  for (const auto* tensor : order) {
    auto begin = end;
    end += tensor->tensor.bytes.size();
    header[tensor->name] = {
        {"dtype", to_string(tensor->tensor.type)}, {"shape", tensor->tensor.shape}, {"data_offsets", {begin, end}}};
  }
  auto text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize((text.size() + length_bytes - 1) / length_bytes * length_bytes, ' ');

  std::vector<std::byte> document(length_bytes + text.size() + end);
  for (std::size_t i = 0; i < length_bytes; ++i) document[i] = static_cast<std::byte>(text.size() >> 8 * i & 0xffU);
  std::memcpy(document.data() + length_bytes, text.data(), text.size());
  auto* target = document.data() + length_bytes + text.size();
  for (const auto* tensor : order) {
    auto bytes = tensor->tensor.bytes;
    target = std::copy(bytes.begin(), bytes.end(), target);
  }
  return document;
}

}  // namespace troupe::model
