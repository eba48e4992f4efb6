#include "model/manifest.hpp"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/checkpoint.hpp"
#include "model/checkpoint_files.hpp"
#include "model/file.hpp"
#include "model/json_document.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

constexpr const char* manifest_name = "expert-digests.json";
constexpr std::uint64_t manifest_format = 1;
constexpr std::size_t manifest_bytes_max = 128 * limits::mib;  // a million experts take 80 MB
constexpr std::string_view advice = "write it again with `troupe model verify --write`";

std::string text_or_empty(const nlohmann::json& document, const char* key) {
  auto found = document.find(key);
  return found != document.end() && found->is_string() ? found->get<std::string>() : "";
}

std::map<expert_id, sha256_digest> read_digests(const nlohmann::json& listed, const description& model,
                                                problem_list& problems) {
  std::map<expert_id, sha256_digest> digests;
  for (const auto& [name, value] : listed.items()) {
    auto expert = parse_expert(name);
    auto digest = value.is_string() ? parse_digest(value.get_ref<const std::string&>()) : std::nullopt;
    if (!expert || model.find(*expert) == nullptr) {
      problems.add(printable(name), "an expert of this model", "unknown");
    } else if (!digest) {
      problems.add(printable(name), "64 hex digits", "something else");
    } else {
      digests.emplace(*expert, *digest);
    }
  }
  for (const auto& layer : model.layers) {
    for (const auto& expert : layer.experts) {
      if (!listed.contains(to_string(expert.id))) problems.add(to_string(expert.id), "64 hex digits", "missing");
    }
  }
  return digests;
}

}  // namespace

result<std::optional<digest_manifest>> read_manifest(const std::filesystem::path& folder, const description& model) {
  auto path = resolve_inside(folder, manifest_name);
  if (!path && path.error().code == errc::not_found) return std::optional<digest_manifest>{};
  if (!path) return fail(path.error());
  auto text = read_text(*path, manifest_bytes_max);
  if (!text) return fail(text.error());
  auto document = parse_json(*text, manifest_bytes_max);
  if (!document) return fail(document.error().code, fmt::format("{}: {}", path->string(), document.error().message));
  bool is_known = document->is_object() && document->value("format", nlohmann::json{}) == manifest_format &&
                  document->contains("digests") && (*document)["digests"].is_object();
  if (!is_known) {
    return fail(errc::invalid_request,
                fmt::format("{} is not a digest manifest of format {}; {}", path->string(), manifest_format, advice));
  }
  digest_manifest manifest{text_or_empty(*document, "fingerprint"), {}};
  if (manifest.fingerprint != model.fingerprint) {
    return fail(errc::conflict,
                fmt::format("{} was written for other files (fingerprint {}, the checkpoint has {}); {}",
                            path->string(), printable(manifest.fingerprint), model.fingerprint, advice));
  }
  problem_list problems;
  manifest.digests = read_digests((*document)["digests"], model, problems);
  if (!problems.empty()) return fail(problems.to_error(path->string(), advice));
  return std::optional{std::move(manifest)};
}

result<void> write_manifest(const std::filesystem::path& folder, const digest_manifest& manifest) {
  nlohmann::ordered_json digests = nlohmann::ordered_json::object();
  for (const auto& [expert, digest] : manifest.digests) digests[to_string(expert)] = to_hex(digest);
  nlohmann::ordered_json document{
      {"format", manifest_format}, {"fingerprint", manifest.fingerprint}, {"digests", digests}};
  return replace_file(folder / manifest_name, document.dump(1) + "\n");
}

result<void> check_digest(const digest_manifest& manifest, const expert_id& expert, const sha256_digest& digest) {
  auto listed = manifest.digests.find(expert);
  if (listed == manifest.digests.end()) {
    return fail(errc::invalid_request,
                fmt::format("the digest manifest lacks expert {}; {}", to_string(expert), advice));
  }
  if (listed->second == digest) return {};
  return fail(errc::corrupt,
              fmt::format("expert {}: its bytes have SHA-256 {}, the manifest says {}; restore the checkpoint's "
                          "files, or load the expert from another replica",
                          to_string(expert), to_hex(digest), to_hex(listed->second)));
}

}  // namespace troupe::model
