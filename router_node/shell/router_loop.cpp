#include "router_node/shell/router_loop.hpp"

#include <algorithm>

#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "router_node/shell/router_metrics.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;

// Metrics and health are derived this often, and the loop never sleeps longer.
constexpr auto refresh_interval = 1s;

}  // namespace

router_loop::router_loop(loop_settings settings, std::vector<wire::socket> clients, wire::wake_signal wake)
    : settings_(std::move(settings)),
      random_(settings_.seed),
      service_(*settings_.plan, *settings_.engine, *settings_.links, *settings_.metrics, random_),
      desk_(*settings_.self, *settings_.plan, settings_.ask_coordinator),
      inbox_(std::move(wake)),
      clients_(std::move(clients), *settings_.self, *settings_.plan, service_, desk_, *settings_.metrics, random_(),
               [this] { inbox_.signal().wake(); }) {
  service_.record_loads(settings_.recorder);
  service_.keep_inputs(settings_.reservoir);
  service_.explore(settings_.explore_bias);
}

router_loop::~router_loop() = default;

void router_loop::run() {
  refreshed_ = std::chrono::steady_clock::now();
  fill_poller();
  while (true) {
    auto now = std::chrono::steady_clock::now();
    poller_.wait(time_to_wait(now));
    now = std::chrono::steady_clock::now();
    for (auto& order : inbox_.take()) {
      std::visit([&](auto& what) { obey(std::move(what), now); }, order);
    }
    // Answers before new requests: what is begun is finished first.
    service_.run(poller_, now);
    clients_.handle(poller_, now);
    desk_.tick(now);
    if (now - refreshed_ >= refresh_interval) refresh(now);
    if (service_.take_links_changed()) count_links();
    if (service_.socket_generation() != polled_generation_) fill_poller();
    const bool is_idle = service_.requests_in_flight() == 0 && clients_.streams().size() == 0;
    if (stop_at_ && (is_idle || now >= *stop_at_)) break;
  }
  const error stopped{errc::unavailable, "this router has stopped; use another one"};
  clients_.streams().abort_all(stopped);
  service_.abort_all(stopped);
}

void router_loop::fill_poller() {
  poller_.clear();
  poller_.add(inbox_.signal());
  clients_.add_to(poller_);
  service_.add_to(poller_);
  polled_generation_ = service_.socket_generation();
}

std::chrono::nanoseconds router_loop::time_to_wait(time_point now) const {
  auto until = std::min({refreshed_ + refresh_interval, service_.next_tick(), desk_.next_tick(), clients_.next_tick()});
  if (stop_at_) until = std::min(until, *stop_at_);
  return std::max<std::chrono::nanoseconds>(until - now, 0ns);
}

void router_loop::refresh(time_point now) {
  const std::chrono::duration<double> passed = now - refreshed_;
  refreshed_ = now;
  service_.refresh_metrics(passed.count());
  health_.batches = service_.batches();
  if (settings_.report) settings_.report();
  if (service_.map() && uses_since_ < service_.map()->epoch) acknowledge();
}

void router_loop::count_links() {
  const auto links = service_.count_links();
  health_.hosts_wanted = static_cast<std::uint32_t>(links.wanted);
  health_.hosts_ready = static_cast<std::uint32_t>(links.ready);
}

// -- orders -------------------------------------------------------------------------------------------------------

void router_loop::obey(new_job&& order, time_point now) {
  if (stop_at_) return order.job.done(fail(errc::unavailable, "this router is stopping; use another one"));
  const auto number = order.number;
  auto done = std::move(order.job.done);
  order.job.done = [this, number, finished = std::move(done)](layer_outcome outcome) {
    by_number_.erase(number);
    finished(std::move(outcome));
  };
  if (const auto id = service_.submit(std::move(order.job), now)) by_number_.emplace(number, *id);
}

void router_loop::obey(cancelled_job&& order, time_point) {
  const auto node = by_number_.extract(order.number);
  if (!node.empty()) service_.cancel(node.mapped());
}

void router_loop::obey(new_map&& order, time_point now) {
  const auto& map = *order.map;
  const auto& ours = settings_.self->model->fingerprint;
  if (!map.model_fingerprint.empty() && map.model_fingerprint != ours) {
    if (!health_.is_other_model.exchange(true)) {
      spdlog::error("the cluster serves a checkpoint with fingerprint {}, this router has {}; check --model",
                    map.model_fingerprint, ours);
    }
    return;
  }
  health_.is_other_model = false;
  const auto before = service_.map();
  if (!service_.use_map(order.map, now)) return;
  if (before && !is_same_model(*before, map)) {
    auto layers = layers_of_other_versions(*before, map);
    if (!layers.empty()) versions_changed_ = map.epoch;
    if (settings_.model_changed) settings_.model_changed({before->epoch, map.epoch, std::move(layers)});
  }
  desk_.use_map(order.map);
  health_.unroutable = map.unroutable_experts();
  health_.masked = static_cast<std::uint64_t>(std::ranges::count(map.experts, true, &map_expert::masked));
  health_.epoch = map.epoch.value;
  count_links();
  acknowledge();
}

// What texts still go by is known for sure only once the engine has heard of the newest versions.
void router_loop::acknowledge() {
  const auto& map = *service_.map();
  const auto pinned = settings_.uses_since ? settings_.uses_since() : map.epoch;
  uses_since_ = std::max(uses_since_, pinned >= versions_changed_ ? map.epoch : pinned);
  service_.release_versions(uses_since_);
  settings_.acknowledge(map.term, map.epoch, uses_since_);
}

void router_loop::obey(coordinator_reply&& order, time_point) { desk_.on_reply(order.query_id, std::move(order.json)); }
void router_loop::obey(new_question&& order, time_point now) { desk_.ask(order.kind, {}, std::move(order.done), now); }

void router_loop::obey(cold_news&& order, time_point) {
  service_.use_cold(order.cold);
  health_.cold_fingerprint = order.fingerprint;
}

void router_loop::obey(new_text&& order, time_point) { clients_.streams().use(std::move(order.text)); }

void router_loop::obey(close_order&&, time_point) { clients_.close(); }

void router_loop::obey(stop_order&& order, time_point now) {
  clients_.close();
  stop_at_ = now + order.grace;
}

// -- any thread ---------------------------------------------------------------------------------------------------

result<std::uint64_t> router_loop::submit(layer_job job) {
  const auto number = ++last_number_;
  if (auto put = inbox_.put(new_job{number, std::move(job)}); !put) return fail(put.error());
  return number;
}

void router_loop::cancel(std::uint64_t number) { inbox_.put_always(cancelled_job{number}); }

void router_loop::use_map(std::shared_ptr<const cluster_map> map) { inbox_.put_always(new_map{std::move(map)}); }

result<void> router_loop::ask(info_kind kind, info_desk::answer done) {
  return inbox_.put(new_question{kind, std::move(done)});
}

void router_loop::on_coordinator_reply(std::uint64_t query_id, result<std::string> json) {
  inbox_.put_always(coordinator_reply{query_id, std::move(json)});
}

void router_loop::use_cold(std::uint64_t fingerprint, std::vector<expert_id> cold) {
  inbox_.put_always(cold_news{fingerprint, std::move(cold)});
}

void router_loop::use_text(client_streams::text_or_reason text) { inbox_.put_always(new_text{std::move(text)}); }

void router_loop::close_clients() { inbox_.put_always(close_order{}); }

void router_loop::stop(std::chrono::milliseconds grace) { inbox_.put_always(stop_order{grace}); }

}  // namespace troupe::router
