#include "model/checkpoint_files.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/json_document.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view single_name = "model.safetensors";
constexpr std::string_view index_name = "model.safetensors.index.json";
constexpr std::size_t index_bytes_max = limits::safetensors_header_bytes_max;
constexpr std::string_view advice = "restore the files, or write the index again";

using weight_map = std::map<std::string, std::string>;  // tensor -> shard

bool is_pickled(std::string_view name) {
  constexpr std::array<std::string_view, 6> endings{".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack"};
  return std::ranges::any_of(endings, [&](std::string_view ending) { return name.ends_with(ending); });
}

error pickled_error(const std::string& names) {
  return {errc::invalid_request, fmt::format("{}: pickled weights are never loaded, because loading them can run code; "
                                             "convert to safetensors",
                                             names)};
}

// C14: a folder without safetensors deserves to hear why what it has is not enough.
error no_weights_error(const fs::path& folder) {
  std::vector<std::string> pickled;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    auto name = entry.path().filename().string();
    if (is_pickled(name)) pickled.push_back(printable(name));
  }
  std::ranges::sort(pickled);
  if (!pickled.empty()) return pickled_error(fmt::format("{}: {}", folder.string(), fmt::join(pickled, ", ")));
  return {errc::not_found, fmt::format("{} holds neither {} nor {}; give the folder of a safetensors checkpoint",
                                       folder.string(), single_name, index_name)};
}

result<weight_map> read_index(const fs::path& path) {
  auto text = read_text(path, index_bytes_max);
  if (!text) return fail(text.error());
  auto index = parse_json(*text, index_bytes_max);
  if (!index) return fail(index.error().code, fmt::format("{}: {}", path.string(), index.error().message));
  auto found = index->is_object() ? index->find("weight_map") : index->end();
  if (found == index->end() || !found->is_object() || found->empty()) {
    return fail(errc::invalid_request,
                fmt::format("{}: no weight_map that names the shard of each tensor; {}", path.string(), advice));
  }
  weight_map shards;
  for (const auto& [tensor, shard] : found->items()) {
    if (!shard.is_string()) {
      return fail(errc::invalid_request, fmt::format("{}: the shard of tensor \"{}\" is not a string; {}",
                                                     path.string(), printable(tensor), advice));
    }
    shards.emplace(tensor, shard.get<std::string>());
  }
  return shards;
}

result<std::vector<tensor_info>> read_header(const file& shard) {
  auto in_file = [&](error e) {
    e.message = shard.path().string() + ": " + e.message;
    return fail(std::move(e));
  };
  std::array<std::byte, 8> first{};
  auto readable = std::min<std::uint64_t>(first.size(), shard.bytes());
  if (auto read = shard.read(0, std::span{first}.first(readable)); !read) return fail(read.error());
  auto head_bytes = safetensors_head_bytes(std::span{first}.first(readable), shard.bytes());
  if (!head_bytes) return in_file(head_bytes.error());
  std::vector<std::byte> head(*head_bytes);
  if (auto read = shard.read(0, head); !read) return fail(read.error());
  auto header = parse_safetensors(head, shard.bytes());
  if (!header) return in_file(header.error());
  return std::move(header->tensors);
}

// C3: every tensor stands in the shard that the index names, and no other tensor stands anywhere.
void compare_with_index(const tensor_index& tensors, const std::vector<std::string>& names, const weight_map& index,
                        const std::set<std::string>& unreadable, problem_list& problems) {
  for (const auto& [tensor, shard] : index) {
    auto found = tensors.find(tensor);
    if (found == tensors.end()) {
      if (!unreadable.contains(shard)) problems.add(printable(tensor), "in " + printable(shard), "missing");
    } else if (names[found->second.file] != shard) {
      problems.add(printable(tensor), "in " + printable(shard), "in " + printable(names[found->second.file]));
    }
  }
  for (const auto& [tensor, info] : tensors) {
    if (!index.contains(tensor))
      problems.add(printable(tensor), "listed in the index", "only in " + printable(names[info.file]));
  }
}

struct shard_set {
  std::vector<std::string> names;
  std::optional<weight_map> index;  // none: a single file
};

result<shard_set> find_shards(const fs::path& folder) {
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(folder / single_name, ignored))) return shard_set{{std::string{single_name}}, {}};
  if (!fs::exists(fs::symlink_status(folder / index_name, ignored))) return fail(no_weights_error(folder));
  auto path = resolve_inside(folder, std::string{index_name});
  if (!path) return fail(path.error());
  auto index = read_index(*path);
  if (!index) return fail(index.error());
  std::set<std::string> names;
  for (const auto& [tensor, shard] : *index) names.insert(shard);
  for (const auto& name : names) {
    if (is_pickled(name)) return fail(pickled_error(printable(name)));
  }
  return shard_set{{names.begin(), names.end()}, std::move(*index)};
}

result<void> open_shards(checkpoint_files& files, const std::optional<weight_map>& index) {
  problem_list problems;
  std::set<std::string> unreadable;
  for (const auto& name : files.names) {
    auto number = static_cast<std::uint32_t>(files.shards.size());
    auto path = resolve_inside(files.folder, name);
    auto shard = path ? file::open(*path) : fail(path.error());
    auto header = shard ? read_header(*shard) : fail(shard.error());
    if (!header) {
      if (!index) return fail(header.error());
      problems.add(printable(name), "a shard that the index lists",
                   header.error().code == errc::not_found ? "missing" : header.error().message);
      unreadable.insert(name);
      continue;
    }
    for (auto& tensor : *header) {
      tensor.file = number;
      auto [place, is_new] = files.tensors.try_emplace(tensor.name, tensor);
      if (!is_new) problems.add(printable(tensor.name), "in one shard", "also in " + printable(name));
    }
    files.shards.push_back(std::move(*shard));
  }
  if (index) {
    std::erase_if(files.names, [&](const std::string& name) { return unreadable.contains(name); });
    compare_with_index(files.tensors, files.names, *index, unreadable, problems);
  }
  if (!problems.empty()) return fail(problems.to_error((files.folder / index_name).string(), advice));
  return {};
}

}  // namespace

result<fs::path> resolve_inside(const fs::path& folder, const std::string& name) {
  fs::path relative{name};
  bool climbs = std::ranges::any_of(relative, [](const fs::path& part) { return part == ".."; });
  if (name.empty() || name.find('\0') != std::string::npos || relative.is_absolute() || climbs) {
    return fail(errc::invalid_request,
                fmt::format("file name \"{}\" leads out of the model folder {}; names must stay inside it",
                            printable(name), folder.string()));
  }
  std::error_code failure;
  auto real = fs::canonical(folder / relative, failure);
  if (failure) {
    auto code = failure == std::errc::no_such_file_or_directory ? errc::not_found : errc::invalid_request;
    return fail(code, fmt::format("cannot open {}: {}", (folder / relative).string(), failure.message()));
  }
  auto [folder_end, real_end] = std::mismatch(folder.begin(), folder.end(), real.begin(), real.end());
  if (folder_end != folder.end()) {
    return fail(
        errc::invalid_request,
        fmt::format("{} is a symbolic link to {}, outside the model folder; copy the folder with its links resolved "
                    "(cp -rL) and use the copy",
                    (folder / relative).string(), real.string()));
  }
  return real;
}

result<checkpoint_files> open_checkpoint_files(const fs::path& folder) {
  checkpoint_files files;
  std::error_code failure;
  files.folder = fs::canonical(folder, failure);
  if (failure || !fs::is_directory(files.folder, failure)) {
    return fail(errc::not_found, fmt::format("{} is not a folder; give the folder of a checkpoint", folder.string()));
  }
  auto config_path = resolve_inside(files.folder, "config.json");
  if (!config_path) return fail(config_path.error());
  auto config = read_text(*config_path, limits::config_json_bytes_max);
  if (!config) return fail(config.error());
  files.config = std::move(*config);

  auto shards = find_shards(files.folder);
  if (!shards) return fail(shards.error());
  files.names = std::move(shards->names);
  if (auto opened = open_shards(files, shards->index); !opened) return fail(opened.error());
  return files;
}

}  // namespace troupe::model
