#include "compute/dnnl_product.hpp"

#include <omp.h>

#include <list>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <vector>

#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "common/limits.hpp"

namespace troupe::compute {
namespace {

struct product_key {
  dtype type;
  panel_form form;
  std::uint32_t rows, inputs, panel_count, width;
  friend auto operator<=>(const product_key&, const product_key&) = default;
};

struct compiled_product {
  dnnl::matmul primitive;
  dnnl::memory::desc a, panels, c, scratch;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::format_tag blocked_tag(panel_form form, std::uint32_t width) {
  using tag = dnnl::memory::format_tag;
  bool pairs = form == panel_form::k_pairs;
  switch (width) {
    case 16:
      return pairs ? tag::BA16a16b2a : tag::BA16a16b;
    case 32:
      return pairs ? tag::BA16a32b2a : tag::BA16a32b;
    case 48:
      return pairs ? tag::BA16a48b2a : tag::BA16a48b;
    case 64:
      return pairs ? tag::BA16a64b2a : tag::BA16a64b;
    default:
      throw std::logic_error(fmt::format("no layout for panels of {} outputs", width));
  }
}

compiled_product compile(const product_key& key) {
  using desc = dnnl::memory::desc;
  using number = dnnl::memory::dim;
  auto type = key.type == dtype::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  number rows = key.rows;
  number inputs = key.inputs;
  number outputs = number{key.panel_count} * key.width;
  desc a({rows, inputs}, type, dnnl::memory::format_tag::ab);
  desc c({rows, outputs}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
  desc panels({inputs, outputs}, type,
              key.form == panel_form::rows ? dnnl::memory::format_tag::ba : blocked_tag(key.form, key.width));
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(a, panels, c), attributes, cpu_engine());
  return {.primitive = dnnl::matmul(chosen), .a = a, .panels = panels, .c = c, .scratch = chosen.scratchpad_desc()};
}

// The least recently used products leave first. Any thread.
class product_cache {
 public:
  std::shared_ptr<const compiled_product> find_or_compile(const product_key& key) {
    {
      std::lock_guard lock(mutex_);
      if (auto found = places_.find(key); found != places_.end()) {
        entries_.splice(entries_.begin(), entries_, found->second);
        return found->second->second;
      }
    }
    auto made = std::make_shared<const compiled_product>(compile(key));
    std::lock_guard lock(mutex_);
    if (auto found = places_.find(key); found != places_.end()) return found->second->second;
    entries_.emplace_front(key, made);
    places_[key] = entries_.begin();
    if (entries_.size() > limits::cached_products_max) {
      places_.erase(entries_.back().first);
      entries_.pop_back();
    }
    return made;
  }

 private:
  using entry = std::pair<product_key, std::shared_ptr<const compiled_product>>;
  std::mutex mutex_;
  std::list<entry> entries_;
  std::map<product_key, std::list<entry>::iterator> places_;
};

product_cache& shared_cache() {
  static product_cache cache;
  // Ours is the bounded one; oneDNN's own would keep a thousand more.
  static const bool once = [] {
    dnnl::set_primitive_cache_capacity(0);
    return true;
  }();
  static_cast<void>(once);
  return cache;
}

// What oneDNN wants of each thread that calls it.
struct thread_context {
  thread_context() : stream(cpu_engine()) {
    omp_set_num_threads(1);  // of this thread only: oneDNN then runs inside it instead of forking a pool
  }
  dnnl::stream stream;
  std::vector<std::byte> scratch;
};

thread_context& this_thread() {
  thread_local thread_context context;
  return context;
}

bool has(dnnl::cpu_isa effective, dnnl::cpu_isa wanted) {
  auto have = static_cast<unsigned>(effective);
  auto want = static_cast<unsigned>(wanted);
  return (have & want) == want;
}

}  // namespace

dnnl_abilities probe_dnnl() {
  auto effective = dnnl::get_effective_cpu_isa();
  return {.avx512 = has(effective, dnnl::cpu_isa::avx512_core),
          .avx512_bf16 = has(effective, dnnl::cpu_isa::avx512_core_bf16),
          .amx = has(effective, dnnl::cpu_isa::avx512_core_amx)};
}

std::string dnnl_version_text() {
  const auto* version = dnnl::version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

void dnnl_multiply(const product& p, dtype type, panel_form form) {
  auto compiled = shared_cache().find_or_compile({.type = type,
                                                  .form = form,
                                                  .rows = padded_rows(p.rows),
                                                  .inputs = p.inputs,
                                                  .panel_count = p.panel_count,
                                                  .width = p.width});
  auto& thread = this_thread();
  if (thread.scratch.size() < compiled->scratch.get_size()) thread.scratch.resize(compiled->scratch.get_size());
  const auto& engine = cpu_engine();
  // oneDNN takes inputs through the same non-const handle as outputs; it does not write them.
  dnnl::memory a(compiled->a, engine, const_cast<std::byte*>(p.a));
  dnnl::memory panels(compiled->panels, engine, const_cast<std::byte*>(p.panels));
  dnnl::memory c(compiled->c, engine, p.c);
  dnnl::memory scratch(compiled->scratch, engine, thread.scratch.data());
  compiled->primitive.execute(
      thread.stream,
      {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, panels}, {DNNL_ARG_DST, c}, {DNNL_ARG_SCRATCHPAD, scratch}});
  thread.stream.wait();
}

}  // namespace troupe::compute
