#include "expert_node/shell/loader.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/daemon/process.hpp"
#include "common/limits.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "model/checkpoint.hpp"

namespace troupe::expert {
namespace {

using std::chrono::steady_clock;

// Verified bytes with what they are.
struct found_bundle {
  std::shared_ptr<const model::bundle_layout> layout;
  std::shared_ptr<bundle_buffer> bytes;
  sha256_digest digest{};
  std::string source;
  bool is_in_slot{false};  // packed already: it came from slot to slot
};

}  // namespace

class loader::impl {
 public:
  explicit impl(loader_settings settings)
      : settings_{std::move(settings)}, links_{[this] {
          settings_.fetching.cancelled = [this] { return stopping_.load(); };
          return settings_.fetching;
        }()} {
    thread_ = std::thread{[this] { run(); }};
  }
  ~impl() { stop(); }

  void add(std::variant<load_job, slot_index> job) {
    {
      std::lock_guard lock{mutex_};
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

  void stop() {
    {
      std::lock_guard lock{mutex_};
      stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  loader_counters counters;

 private:
  void run();
  void load(const load_job& job);
  [[nodiscard]] result<finished_load> try_load(const load_job& job);
  [[nodiscard]] result<found_bundle> find(const load_job& job);
  [[nodiscard]] result<std::shared_ptr<const model::checkpoint>> checkpoint_of(const load_job& job);
  [[nodiscard]] result<found_bundle> read_checkpoint(const load_job& job,
                                                     std::shared_ptr<const model::checkpoint> from);
  [[nodiscard]] result<found_bundle> fetch(const load_job& job);
  [[nodiscard]] result<found_bundle> fetch_linked(const load_job& job, const peer_source& peer);
  [[nodiscard]] result<found_bundle> fetch_from(const load_job& job, const peer_source& peer, peer_fetch& transfer);
  [[nodiscard]] std::optional<sha256_digest> expected_digest(const load_job& job) const;
  [[nodiscard]] result<void> verify(const load_job& job, found_bundle& found);

  loader_settings settings_;
  std::shared_ptr<const model::checkpoint> refreshed_;  // the loader's thread: the newest folder of a refresh
  peer_links links_;                                    // the loader's thread
  http::histogram* seconds_{};                          // the loader's thread: of where the newest bundle came from
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::variant<load_job, slot_index>> jobs_;  // guarded by mutex_
  std::atomic<bool> stopping_{};                         // written under mutex_
  std::thread thread_;
};

void loader::impl::run() {
  daemon::take_duty(daemon::thread_duty::background);
  while (true) {
    std::variant<load_job, slot_index> job;
    {
      std::unique_lock lock{mutex_};
      const auto has_work = [this] { return stopping_ || !jobs_.empty(); };
      if (!changed_.wait_for(lock, limits::peer_bundle_idle, has_work)) {
        links_.forget();
        changed_.wait(lock, has_work);
      }
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    if (const auto* slot = std::get_if<slot_index>(&job)) {
      settings_.memory->unload(*slot);
      settings_.unloaded(*slot);
    } else {
      load(std::get<load_job>(job));
    }
  }
}

void loader::impl::load(const load_job& job) {
  const auto begin = steady_clock::now();
  result<finished_load> done;
  try {
    done = try_load(job);
  } catch (const std::exception& e) {
    done = fail(errc::internal, fmt::format("loading expert {} failed: {}", to_string(job.content.expert), e.what()));
  }
  if (done) {
    seconds_->observe(std::chrono::duration<double>(steady_clock::now() - begin).count());
    counters.bytes_loaded.add(static_cast<double>(done->facts.bundle_bytes));
    settings_.loaded(std::move(*done));
  } else {
    settings_.memory->unload(job.slot);
    counters.loads_failed.add();
    settings_.failed(job.slot, done.error());
  }
}

result<finished_load> loader::impl::try_load(const load_job& job) {
  auto found = find(job);
  if (!found) return fail(found.error());
  const auto packed_bytes = settings_.memory->slot_bytes(found->layout->shape);
  if (packed_bytes > settings_.slot_bytes) {
    return fail(errc::out_of_memory,
                fmt::format("expert {} takes {} bytes, a slot of this node has {}; start it with larger slots",
                            to_string(job.content.expert), packed_bytes, settings_.slot_bytes));
  }
  auto finite = model::check_finite(*found->layout, found->bytes->bytes());
  if (!finite && !settings_.allow_nonfinite) return fail(finite.error());
  std::shared_ptr<const compute::probe_sample> sample;
  if (finite) {
    auto made = compute::make_probe(*found->layout, found->bytes->bytes(), settings_.type);
    if (!made) return fail(made.error());
    sample = std::make_shared<compute::probe_sample>(std::move(*made));
  }
  if (!found->is_in_slot) {
    auto packed = settings_.memory->load(job.slot, *found->layout, found->bytes->bytes());
    if (!packed) return fail(packed.error());
  }
  settings_.layers->learn(*found->layout);
  spdlog::debug("expert {} loaded from {} into slot {}", to_string(job.content.expert), found->source, job.slot.value);
  loaded_facts facts{found->digest, found->bytes->bytes().size(), packed_bytes};
  return finished_load{job.slot, found->layout, facts, std::move(sample)};
}

// The checkpoint first: reading a file costs nobody else anything. Then each peer; what one sent wrongly is fetched
// again from the next.
result<found_bundle> loader::impl::find(const load_job& job) {
  std::vector<std::string> reasons;
  error last{errc::unavailable, ""};
  auto checkpoint = checkpoint_of(job);
  if (!checkpoint || *checkpoint != nullptr) {
    auto found = checkpoint ? read_checkpoint(job, *checkpoint) : result<found_bundle>{fail(checkpoint.error())};
    if (!found && checkpoint && *checkpoint == refreshed_) {
      // Other files may have taken the place of those that were opened for an earlier refresh.
      refreshed_.reset();
      checkpoint = checkpoint_of(job);
      if (checkpoint) found = read_checkpoint(job, *checkpoint);
    }
    if (found) {
      counters.loads_from_checkpoint.add();
      seconds_ = &counters.seconds_from_checkpoint;
      return found;
    }
    last = found.error();
    reasons.push_back(last.message);
  }
  if (!job.peers.empty()) {
    auto found = fetch(job);
    if (found) {
      counters.loads_from_peer.add();
      seconds_ = found->is_in_slot ? &counters.seconds_over_links : &counters.seconds_from_peer;
      return found;
    }
    last = found.error();
    reasons.push_back(last.message);
  }
  if (reasons.empty()) {
    return fail(errc::unavailable, fmt::format("expert {} is not in this node's checkpoint and no peer was named; "
                                               "start the node with --model",
                                               to_string(job.content.expert)));
  }
  return fail(last.code, fmt::format("{}", fmt::join(reasons, "; then ")));
}

// The one that has this version of the expert; nullptr: none on this node.
result<std::shared_ptr<const model::checkpoint>> loader::impl::checkpoint_of(const load_job& job) {
  auto own = settings_.layers->checkpoint();
  if (job.folder.empty()) {
    bool has_it = own != nullptr && own->model().find(job.content.expert) != nullptr;
    return has_it ? own : nullptr;
  }
  if (refreshed_ == nullptr || refreshed_->folder() != job.folder) {
    auto opened = model::checkpoint::open(job.folder);
    if (!opened) return fail(opened.error());
    refreshed_ = std::make_shared<const model::checkpoint>(*std::move(opened));
  }
  const auto* next = refreshed_->model().find(job.content.expert);
  const auto* served = own == nullptr ? next : own->model().find(job.content.expert);
  if (next == nullptr || served == nullptr || next->bytes() != served->bytes() || next->shape != served->shape) {
    return fail(errc::invalid_request, fmt::format("expert {} of {} has not the shape of the model's own",
                                                   to_string(job.content.expert), job.folder));
  }
  return refreshed_;
}

result<found_bundle> loader::impl::read_checkpoint(const load_job& job, std::shared_ptr<const model::checkpoint> from) {
  found_bundle found;
  found.layout = {from, from->model().find(job.content.expert)};
  found.source = from->folder().string();
  auto buffer = bundle_buffer::make(found.layout->bytes());
  if (!buffer) return fail(buffer.error());
  if (auto read = from->read_bundle(*found.layout, buffer->bytes()); !read) return fail(read.error());
  found.bytes = std::make_shared<bundle_buffer>(std::move(*buffer));
  if (auto right = verify(job, found); !right) return fail(right.error());
  return found;
}

result<found_bundle> loader::impl::fetch(const load_job& job) {
  peer_fetch transfer{links_, job.content, settings_.layers->layout(job.content.expert)};
  std::vector<std::string> reasons;
  errc code = errc::unavailable;
  for (const auto& peer : job.peers) {
    if (settings_.open_link) {
      auto linked = fetch_linked(job, peer);
      if (linked) return linked;
      spdlog::info("expert {} comes over ZeroMQ from {}, not over a link of GPUs: {}", to_string(job.content.expert),
                   peer.node.value, linked.error().message);
    }
    // Bytes of an earlier peer may be what is wrong: then this one gets the chance to give all of them.
    bool mixed = transfer.has_some();
    auto found = fetch_from(job, peer, transfer);
    if (!found && found.error().code == errc::corrupt && mixed) found = fetch_from(job, peer, transfer);
    if (found) return found;
    code = found.error().code;
    reasons.push_back(fmt::format("{}: {}", peer.node.value, found.error().message));
    if (code == errc::cancelled) break;
  }
  return fail(code, fmt::format("no peer gave expert {}: {}", to_string(job.content.expert), fmt::join(reasons, "; ")));
}

// What is in the slot is given back as the checkpoint's bytes, so that it is verified like any other copy.
result<found_bundle> loader::impl::fetch_linked(const load_job& job, const peer_source& peer) {
  auto layout =
      fetch_over_gpus(settings_.open_link, *settings_.memory, settings_.type, links_, peer, job.content, job.slot);
  if (!layout) return fail(layout.error());
  const auto give_up = [&](const error& reason) {
    settings_.memory->unload(job.slot);
    return fail(reason);
  };
  auto buffer = bundle_buffer::make((*layout)->bytes());
  if (!buffer) return give_up(buffer.error());
  auto read = settings_.memory->export_bundle(job.slot, **layout, buffer->bytes());
  if (!read) return give_up(read.error());
  found_bundle found{*layout, std::make_shared<bundle_buffer>(std::move(*buffer)), {}, peer.node.value, true};
  if (auto right = verify(job, found); !right) return give_up(right.error());
  counters.loads_over_links.add();
  return found;
}

result<found_bundle> loader::impl::fetch_from(const load_job& job, const peer_source& peer, peer_fetch& transfer) {
  if (auto here = transfer.from(peer); !here) return fail(here.error());
  found_bundle found{
      transfer.layout(), std::make_shared<bundle_buffer>(std::move(transfer.bundle())), {}, peer.node.value, false};
  auto right = verify(job, found);
  if (right) return found;
  transfer.bundle() = std::move(*found.bytes);
  transfer.discard();
  return fail(right.error());
}

// What every replica has; before there is a first one, what the checkpoint's manifest says of the model's own version.
std::optional<sha256_digest> loader::impl::expected_digest(const load_job& job) const {
  if (job.expected || !job.folder.empty() || !settings_.manifest) return job.expected;
  const auto listed = settings_.manifest->digests.find(job.content.expert);
  return listed == settings_.manifest->digests.end() ? std::nullopt : std::optional{listed->second};
}

result<void> loader::impl::verify(const load_job& job, found_bundle& found) {
  found.digest = model::digest_of(found.bytes->bytes());
  const auto expected = expected_digest(job);
  if (!expected || *expected == found.digest) return {};
  counters.digest_mismatches.add();
  return fail(errc::corrupt, fmt::format("expert {} from {} has SHA-256 {}, expected {}; it is not served",
                                         to_string(job.content.expert), found.source, model::to_hex(found.digest),
                                         model::to_hex(*expected)));
}

// -----------------------------------------------------------------------------------------------------------------

loader::loader(loader_settings settings) : impl_{std::make_unique<impl>(std::move(settings))} {}
loader::~loader() = default;
void loader::load(load_job job) { impl_->add(std::move(job)); }
void loader::unload(slot_index slot) { impl_->add(slot); }
void loader::stop() { impl_->stop(); }
const loader_counters& loader::counters() const { return impl_->counters; }

}  // namespace troupe::expert
