// Parsing of the envelope: what Protobuf checks, and what it lets through.
#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"

namespace troupe::wire {
namespace {

namespace pb = google::protobuf;
using pb::internal::WireFormatLite;

struct type_plan;

// A field that needs a second look: it is of a oneof, an enum, or a message in which there is either at any depth.
struct field_plan {
  const pb::FieldDescriptor* field{};
  const type_plan* inner{};  // of a message
  bool is_enum{};
};

// What has to be looked at in messages of one type. Made once: every call of an expert passes here twice.
struct type_plan {
  bool has_enum{};  // at any depth
  bool has_oneof{};
  std::vector<field_plan> fields;  // ascending by number
};

class type_plans {
 public:
  const type_plan& of(const pb::Descriptor* type) {
    {
      const std::shared_lock lock(mutex_);
      if (const auto found = known_.find(type); found != known_.end()) return *found->second;
    }
    const std::unique_lock lock(mutex_);
    return make(type);
  }

 private:
  const type_plan& make(const pb::Descriptor* type) {
    auto& place = known_[type];
    if (place != nullptr) return *place;
    // Until it is known better: a type that contains itself is looked at whole.
    place = std::make_unique<type_plan>(type_plan{true, true, {}});
    auto& plan = *place;
    bool has_enum = false;
    bool has_oneof = type->real_oneof_decl_count() > 0;
    for (int i = 0; i < type->field_count(); ++i) {
      field_plan field{.field = type->field(i)};
      field.is_enum = field.field->cpp_type() == pb::FieldDescriptor::CPPTYPE_ENUM;
      if (field.field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE) {
        const auto& inner = make(field.field->message_type());
        if (inner.has_enum || inner.has_oneof) field.inner = &inner;
        has_enum |= inner.has_enum;
        has_oneof |= inner.has_oneof;
      }
      has_enum |= field.is_enum;
      const bool is_of_oneof = field.field->real_containing_oneof() != nullptr;
      if (is_of_oneof || field.is_enum || field.inner != nullptr) plan.fields.push_back(field);
    }
    std::ranges::sort(plan.fields, {}, [](const field_plan& field) { return field.field->number(); });
    plan.has_enum = has_enum;
    plan.has_oneof = has_oneof;
    return plan;
  }

  std::shared_mutex mutex_;
  std::unordered_map<const pb::Descriptor*, std::unique_ptr<type_plan>> known_;
};

const type_plan& plan_of(const pb::Descriptor* type) {
  static type_plans plans;
  return plans.of(type);
}

// Where in a message something is; put into words only when it is wrong.
struct trail {
  const trail* outer{};  // nullptr: the message itself, whose type is `root`
  const pb::Descriptor* root{};
  const pb::FieldDescriptor* field{};
  int index{-1};  // of a repeated field

  [[nodiscard]] std::string text() const {
    if (outer == nullptr) return root->name();
    if (index < 0) return fmt::format("{}.{}", outer->text(), field->name());
    return fmt::format("{}.{}[{}]", outer->text(), field->name(), index);
  }
};

const field_plan* find(const type_plan& plan, int number) {
  const auto at = std::ranges::find(plan.fields, number, [](const field_plan& field) { return field.field->number(); });
  return at == plan.fields.end() ? nullptr : &*at;
}

result<void> damaged() { return fail(errc::invalid_request, "damaged envelope"); }

// Protobuf lets the last of two fields of a oneof win; we refuse, since two readers could disagree on what was meant.
// @pre the bytes have been parsed as the plan's type, so depth is bounded.
result<void> check_oneofs(std::span<const std::byte> bytes, const type_plan& plan, const trail& here) {
  pb::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  std::uint64_t seen = 0;  // a bit for each oneof
  while (const std::uint32_t tag = stream.ReadTag()) {
    const auto* found = find(plan, WireFormatLite::GetTagFieldNumber(tag));
    const auto* oneof = found == nullptr ? nullptr : found->field->real_containing_oneof();
    const trail inside{&here, nullptr, found == nullptr ? nullptr : found->field};
    if (oneof != nullptr) {
      const auto bit = std::uint64_t{1} << oneof->index();
      if ((seen & bit) != 0) {
        return fail(errc::invalid_request, fmt::format("{}: the oneof '{}' is given twice; send one of its fields",
                                                       inside.text(), oneof->name()));
      }
      seen |= bit;
    }
    const bool is_nested = found != nullptr && found->inner != nullptr && found->inner->has_oneof &&
                           WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (!is_nested) {
      // What is damaged here was refused by the parser already.
      if (!WireFormatLite::SkipField(&stream, tag)) return damaged();
      continue;
    }
    std::uint32_t length = 0;
    if (!stream.ReadVarint32(&length)) return damaged();
    const auto start = static_cast<std::size_t>(stream.CurrentPosition());
    if (length > bytes.size() - start || !stream.Skip(static_cast<int>(length))) return damaged();
    if (auto checked = check_oneofs(bytes.subspan(start, length), *found->inner, inside); !checked) return checked;
  }
  return {};
}

result<void> check_enum_value(int number, const trail& here) {
  const auto* type = here.field->enum_type();
  if (type->FindValueByNumber(number) != nullptr) return {};
  return fail(errc::invalid_request, fmt::format("{}: {} is no {} that this node knows; upgrade it or the sender",
                                                 here.text(), number, type->name()));
}

// proto3 keeps enum numbers that it does not know; code behind this point may switch over the names alone.
result<void> check_enums(const pb::Message& message, const type_plan& plan, const trail& here) {
  const auto* reflection = message.GetReflection();
  for (const auto& [field, inner, is_enum] : plan.fields) {
    if (!is_enum && (inner == nullptr || !inner->has_enum)) continue;
    if (!field->is_repeated()) {
      if (!reflection->HasField(message, field)) continue;
      const trail inside{&here, nullptr, field};
      auto checked = is_enum ? check_enum_value(reflection->GetEnumValue(message, field), inside)
                             : check_enums(reflection->GetMessage(message, field), *inner, inside);
      if (!checked) return checked;
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      const trail inside{&here, nullptr, field, i};
      auto checked = is_enum ? check_enum_value(reflection->GetRepeatedEnumValue(message, field, i), inside)
                             : check_enums(reflection->GetRepeatedMessage(message, field, i), *inner, inside);
      if (!checked) return checked;
    }
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
  const auto& plan = plan_of(type);
  const trail here{nullptr, type};
  if (plan.has_oneof) {
    if (auto checked = check_oneofs(envelope, plan, here); !checked) return checked;
  }
  if (auto checked = check_body(target); !checked) return checked;
  if (plan.has_enum) return check_enums(target, plan, here);
  return {};
}

}  // namespace troupe::wire
