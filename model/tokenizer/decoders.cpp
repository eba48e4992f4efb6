#include "model/tokenizer/decoders.hpp"

#include <algorithm>
#include <utility>

#include "model/tokenizer/byte_level.hpp"
#include "model/tokenizer/unicode.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {
namespace {

constexpr std::uint32_t stripped_max = 1024;

// Takes the characters at the front of `bytes` that are complete, U+FFFD for what is no UTF-8. `all`: nothing follows.
std::string take_complete(std::string& bytes, bool all) {
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    auto step = next_utf8(rest);
    if (step.state == utf8_state::incomplete && !all) break;
    text += step.state == utf8_state::valid ? rest.substr(0, step.bytes) : replacement_character;
    rest.remove_prefix(step.bytes);
  }
  bytes.erase(0, bytes.size() - rest.size());
  return text;
}

// Base of the states that need a whole token.
class whole_token_state : public decoder_state {
 public:
  void push(token_part part, token_parts& out) final {
    token_ += part.text;
    if (part.ends_token) take(std::exchange(token_, {}), out);
  }

 protected:
  virtual void take(std::string token, token_parts& out) = 0;

 private:
  std::string token_;
};

// Characters of GPT-2's alphabet back to bytes, and those to text; the whole text is one token from here on.
class byte_level final : public decoder_step {
 public:
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(); }
  // A token with any other character stands for itself.
  std::string bytes_of(std::string token) const override {
    auto bytes = from_byte_level(token);
    return bytes ? std::move(*bytes) : token;
  }

 private:
  class state final : public whole_token_state {
   public:
    void take(std::string token, token_parts& out) override {
      bytes_ += step_.bytes_of(std::move(token));
      out.push_back({take_complete(bytes_, false), false});
    }
    void finish(token_parts& out) override { out.push_back({take_complete(bytes_, true), true}); }

   private:
    static const byte_level step_;
    std::string bytes_;
  };
};
const byte_level byte_level::state::step_{};

// A run of tokens <0xNN> is one token of those bytes if they are UTF-8 as a whole, else U+FFFD for each of them. So
// nothing of a run is certain before it ends.
class byte_fallback final : public decoder_step {
 public:
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(); }
  std::string bytes_of(std::string token) const override {
    auto byte = byte_of_token(token);
    return byte ? std::string(1, static_cast<char>(*byte)) : token;
  }

 private:
  class state final : public whole_token_state {
   public:
    void take(std::string token, token_parts& out) override {
      if (auto byte = byte_of_token(token)) {
        run_ += static_cast<char>(*byte);
        return;
      }
      finish(out);
      out.push_back({std::move(token), true});
    }
    void finish(token_parts& out) override {
      if (is_valid_utf8(run_)) {
        if (!run_.empty()) out.push_back({run_, true});
      } else {
        out.insert(out.end(), run_.size(), {std::string{replacement_character}, true});
      }
      run_.clear();
    }

   private:
    std::string run_;
  };
};

// All tokens become one.
class fuse final : public decoder_step {
 public:
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(); }

 private:
  class state final : public decoder_state {
   public:
    void push(token_part part, token_parts& out) override { out.push_back({std::move(part.text), false}); }
    void finish(token_parts& out) override { out.push_back({{}, true}); }
  };
};

// At most `start` of a character at the front of every token and at most `stop` at its end fall away.
class strip final : public decoder_step {
 public:
  strip(char32_t character, std::uint32_t start, std::uint32_t stop) : start_(start), stop_(stop) {
    append_character(character_, character);
  }
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(*this); }

 private:
  class state final : public decoder_state {
   public:
    explicit state(const strip& step) : step_(step), to_strip_(step.start_) {}

    void push(token_part part, token_parts& out) override {
      std::string_view text = part.text;
      const std::string_view wanted = step_.character_;
      while (to_strip_ > 0 && text.starts_with(wanted)) {
        text.remove_prefix(wanted.size());
        --to_strip_;
      }
      if (!text.empty()) to_strip_ = 0;
      out.push_back({keep(text), part.ends_token});
      if (part.ends_token) {
        held_ = 0;
        to_strip_ = step_.start_;
      }
    }

   private:
    // Up to `stop` wanted characters at the end are held back until something else follows.
    std::string keep(std::string_view text) {
      const std::string_view wanted = step_.character_;
      std::string kept;
      while (!text.empty()) {
        if (text.starts_with(wanted)) {
          text.remove_prefix(wanted.size());
          if (held_ < step_.stop_) {
            ++held_;
          } else {
            kept += wanted;
          }
        } else {
          for (; held_ > 0; --held_) kept += wanted;
          auto end = std::min(text.find(wanted), text.size());
          kept += text.substr(0, end);
          text.remove_prefix(end);
        }
      }
      return kept;
    }

    const strip& step_;
    std::uint32_t to_strip_;
    std::uint32_t held_{};  // wanted characters at the end of what came so far
  };

  std::string character_;
  std::uint32_t start_;
  std::uint32_t stop_;
};

class replace final : public decoder_step {
 public:
  replace(pattern searched, std::string content) : searched_(std::move(searched)), content_(std::move(content)) {}
  std::unique_ptr<decoder_state> begin() const override {
    if (searched_.is_one_character()) return std::make_unique<part_state>(*this);
    return std::make_unique<token_state>(*this);
  }
  std::string bytes_of(std::string token) const override {  // a byte of byte fallback may have come before
    return is_valid_utf8(token) ? searched_.replace_all(token, content_) : token;
  }

 private:
  class part_state final : public decoder_state {
   public:
    explicit part_state(const replace& step) : step_(step) {}
    void push(token_part part, token_parts& out) override {
      out.push_back({step_.searched_.replace_all(part.text, step_.content_), part.ends_token});
    }

   private:
    const replace& step_;
  };
  class token_state final : public whole_token_state {
   public:
    explicit token_state(const replace& step) : step_(step) {}
    void take(std::string token, token_parts& out) override {
      out.push_back({step_.searched_.replace_all(token, step_.content_), true});
    }

   private:
    const replace& step_;
  };

  pattern searched_;
  std::string content_;
};

// U+2581 to blanks; in the first token it falls away where encoding put it there.
class metaspace final : public decoder_step {
 public:
  metaspace(char32_t replacement, bool drops_first) : drops_first_(drops_first) {
    std::string text;
    append_character(text, replacement);
    space_ = pattern::literal(std::move(text));
  }
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(*this); }
  std::string bytes_of(std::string token) const override {
    return is_valid_utf8(token) ? space_.replace_all(token, " ") : token;
  }

 private:
  class state final : public decoder_state {
   public:
    explicit state(const metaspace& step) : step_(step), drops_(step.drops_first_) {}
    void push(token_part part, token_parts& out) override {
      out.push_back({step_.space_.replace_all(part.text, drops_ ? "" : " "), part.ends_token});
      if (part.ends_token) drops_ = false;
    }

   private:
    const metaspace& step_;
    bool drops_;
  };

  pattern space_{pattern::literal({})};
  bool drops_first_;
};

class blank_joiner final : public decoder_step {
 public:
  std::unique_ptr<decoder_state> begin() const override { return std::make_unique<state>(); }

 private:
  class state final : public decoder_state {
   public:
    void push(token_part part, token_parts& out) override {
      if (std::exchange(follows_, true)) out.push_back({" ", false});
      out.push_back(std::move(part));
    }

   private:
    bool follows_{};
  };
};

void read_replace(construct& source, decoder_chain& chain) {
  source.only({"pattern", "content"});
  auto searched = source.search("pattern");
  auto content = source.text("content");
  source.state().grow(source.where(), replacement_growth(searched, content));
  chain.push_back(std::make_unique<replace>(std::move(searched), std::move(content)));
}

void read_strip(construct& source, decoder_chain& chain) {
  source.only({"content", "start", "stop"});
  auto character = source.character("content");
  auto start = source.count("start", stripped_max);
  chain.push_back(std::make_unique<strip>(character, start, source.count("stop", stripped_max)));
}

void read_metaspace(construct& source, decoder_chain& chain) {
  source.only({"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"});
  auto replacement = source.character("replacement");
  auto scheme = source.text("prepend_scheme", source.flag("add_prefix_space", true) ? "always" : "never");
  chain.push_back(std::make_unique<metaspace>(replacement, scheme != "never"));
}

}  // namespace

decoding::decoding(const decoder_chain& chain) {
  states_.reserve(chain.size());
  for (const auto& step : chain) states_.push_back(step->begin());
}

void decoding::run(std::size_t first_step, token_parts& parts) {
  token_parts out;
  for (auto i = first_step; i < states_.size() && !parts.empty(); ++i) {
    out.clear();
    for (auto& part : parts) states_[i]->push(std::move(part), out);
    std::swap(parts, out);
  }
}

std::string decoding::push(std::string token) {
  token_parts parts;
  parts.push_back({std::move(token), true});
  run(0, parts);
  std::string text;
  for (const auto& part : parts) text += part.text;
  return text;
}

std::string decoding::finish() {
  std::string text;
  for (std::size_t i = 0; i < states_.size(); ++i) {  // what a step held back goes through the steps behind it
    token_parts parts;
    states_[i]->finish(parts);
    run(i + 1, parts);
    for (const auto& part : parts) text += part.text;
  }
  return text;
}

std::unique_ptr<const decoder_step> make_blank_joiner() { return std::make_unique<blank_joiner>(); }

void read_decoder(construct source, decoder_chain& chain) {
  const auto type = source.type();
  if (type == "Sequence") {
    source.only({"decoders"});
    for (auto& step : source.list("decoders")) read_decoder(step, chain);
    return;
  }
  if (type == "ByteLevel") {
    source.only({"add_prefix_space", "trim_offsets", "use_regex"});  // all three are about encoding
    source.state().grow(source.where(), replacement_character.size());
    chain.push_back(std::make_unique<byte_level>());
    return;
  }
  if (type == "Replace") return read_replace(source, chain);
  if (type == "Strip") return read_strip(source, chain);
  if (type == "Metaspace") return read_metaspace(source, chain);
  if (type == "ByteFallback" || type == "Fuse") source.only({});
  if (type == "ByteFallback") {
    chain.push_back(std::make_unique<byte_fallback>());
  } else if (type == "Fuse") {
    chain.push_back(std::make_unique<fuse>());
  } else {
    source.refuse_type("Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace");
  }
}

}  // namespace troupe::model
