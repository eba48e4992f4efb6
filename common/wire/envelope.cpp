// Parsing of the envelope: what Protobuf checks, and what it lets through.
#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/wire_format_lite.h>

#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"

namespace troupe::wire {
namespace {

namespace pb = google::protobuf;
using pb::internal::WireFormatLite;

// Does a message type contain enums or oneofs at any depth? A cluster map has tens of thousands of submessages that
// need no second look.
struct type_traits {
  bool has_enum{};
  bool has_oneof{};
};

type_traits inspect(const pb::Descriptor* type, std::set<const pb::Descriptor*>& seen) {
  type_traits traits;
  if (!seen.insert(type).second) return traits;
  traits.has_oneof = type->real_oneof_decl_count() > 0;
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    if (field->cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM) traits.has_enum = true;
    if (field->cpp_type() != pb::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const auto inner = inspect(field->message_type(), seen);
    traits.has_enum |= inner.has_enum;
    traits.has_oneof |= inner.has_oneof;
  }
  return traits;
}

type_traits traits_of(const pb::Descriptor* type) {
  static std::shared_mutex mutex;
  static std::map<const pb::Descriptor*, type_traits> known;
  {
    const std::shared_lock lock(mutex);
    if (const auto found = known.find(type); found != known.end()) return found->second;
  }
  std::set<const pb::Descriptor*> seen;
  const auto traits = inspect(type, seen);
  const std::unique_lock lock(mutex);
  return known.emplace(type, traits).first->second;
}

std::string path_of(const std::string& parent, const pb::FieldDescriptor* field, int index = -1) {
  const char* dot = parent.empty() ? "" : ".";
  if (index < 0) return fmt::format("{}{}{}", parent, dot, field->name());
  return fmt::format("{}{}{}[{}]", parent, dot, field->name(), index);
}

result<void> check_oneofs(std::span<const std::byte> bytes, const pb::Descriptor* type, const std::string& path);

// One field of a message whose oneofs are checked: notes its oneof and looks into it. Advances `stream`.
result<void> check_field(pb::io::CodedInputStream& stream, std::uint32_t tag, std::span<const std::byte> bytes,
                         const pb::Descriptor* type, std::set<const pb::OneofDescriptor*>& seen,
                         const std::string& path) {
  const auto* field = type->FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
  const auto* oneof = field == nullptr ? nullptr : field->real_containing_oneof();
  if (oneof != nullptr && !seen.insert(oneof).second) {
    return fail(errc::invalid_request, fmt::format("{}: the oneof '{}' is given twice; send one of its fields",
                                                   path_of(path, field), oneof->name()));
  }
  const bool nested = field != nullptr && field->type() == pb::FieldDescriptor::TYPE_MESSAGE &&
                      WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED &&
                      traits_of(field->message_type()).has_oneof;
  if (!nested) {
    // What is damaged here was refused by the parser already.
    if (!WireFormatLite::SkipField(&stream, tag)) return fail(errc::invalid_request, "damaged envelope");
    return {};
  }
  std::uint32_t length = 0;
  if (!stream.ReadVarint32(&length)) return fail(errc::invalid_request, "damaged envelope");
  const auto start = static_cast<std::size_t>(stream.CurrentPosition());
  if (length > bytes.size() - start || !stream.Skip(static_cast<int>(length))) {
    return fail(errc::invalid_request, "damaged envelope");
  }
  return check_oneofs(bytes.subspan(start, length), field->message_type(), path_of(path, field));
}

// Protobuf lets the last of two fields of a oneof win; we refuse, since two readers could disagree on what was meant.
// @pre the bytes have been parsed as `type`, so depth is bounded.
result<void> check_oneofs(std::span<const std::byte> bytes, const pb::Descriptor* type, const std::string& path) {
  pb::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  std::set<const pb::OneofDescriptor*> seen;
  while (const std::uint32_t tag = stream.ReadTag()) {
    if (auto checked = check_field(stream, tag, bytes, type, seen, path); !checked) return checked;
  }
  return {};
}

result<void> check_enums(const pb::Message& message, const std::string& path);

result<void> check_enum_value(const pb::FieldDescriptor* field, int number, const std::string& path) {
  if (field->enum_type()->FindValueByNumber(number) != nullptr) return {};
  return fail(errc::invalid_request, fmt::format("{}: {} is no {} that this node knows; upgrade it or the sender", path,
                                                 number, field->enum_type()->name()));
}

result<void> check_enum_field(const pb::Message& message, const pb::FieldDescriptor* field, const std::string& path) {
  const auto* reflection = message.GetReflection();
  const bool is_enum = field->cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM;
  if (!field->is_repeated()) {
    const auto here = path_of(path, field);
    if (is_enum) return check_enum_value(field, reflection->GetEnumValue(message, field), here);
    return check_enums(reflection->GetMessage(message, field), here);
  }
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const auto here = path_of(path, field, i);
    auto checked = is_enum ? check_enum_value(field, reflection->GetRepeatedEnumValue(message, field, i), here)
                           : check_enums(reflection->GetRepeatedMessage(message, field, i), here);
    if (!checked) return checked;
  }
  return {};
}

// proto3 keeps enum numbers that it does not know; code behind this point may switch over the names alone.
result<void> check_enums(const pb::Message& message, const std::string& path) {
  const auto* type = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    const bool is_enum = field->cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM;
    const bool nested =
        field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE && traits_of(field->message_type()).has_enum;
    if (!is_enum && !nested) continue;
    if (!field->is_repeated() && !reflection->HasField(message, field)) continue;
    if (auto checked = check_enum_field(message, field, path); !checked) return checked;
  }
  return {};
}

// Every conversation's message is a oneof `body`; without one there is nothing to act on.
result<void> check_body(const pb::Message& message) {
  const auto* body = message.GetDescriptor()->FindOneofByName("body");
  const auto* reflection = message.GetReflection();
  if (body == nullptr || reflection->HasOneof(message, body)) return {};
  const bool newer = !reflection->GetUnknownFields(message).empty();
  return fail(errc::invalid_request,
              fmt::format("{}.body: {}", message.GetDescriptor()->name(),
                          newer ? "a kind of message that this node does not know; upgrade it" : "is not set"));
}

}  // namespace

result<void> parse_envelope(std::span<const std::byte> envelope, pb::Message& target) {
  const auto* type = target.GetDescriptor();
  if (envelope.size() > limits::envelope_bytes_max) {
    return fail(errc::too_large, fmt::format("{}: {} bytes are above the limit of {}", type->name(), envelope.size(),
                                             limits::envelope_bytes_max));
  }
  pb::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(envelope.data()),
                                  static_cast<int>(envelope.size()));
  stream.SetRecursionLimit(limits::envelope_depth_max);
  stream.SetTotalBytesLimit(static_cast<int>(limits::envelope_bytes_max));
  target.Clear();
  if (!target.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    return fail(errc::invalid_request,
                fmt::format("{}: {} bytes are no such Protobuf message, or nested deeper than "
                            "{}; damage was found near byte {}",
                            type->name(), envelope.size(), limits::envelope_depth_max, stream.CurrentPosition()));
  }
  const auto traits = traits_of(type);
  if (traits.has_oneof) {
    if (auto checked = check_oneofs(envelope, type, type->name()); !checked) return checked;
  }
  if (auto checked = check_body(target); !checked) return checked;
  if (traits.has_enum) return check_enums(target, type->name());
  return {};
}

}  // namespace troupe::wire
