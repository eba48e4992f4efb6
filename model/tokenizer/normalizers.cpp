#include "model/tokenizer/normalizers.hpp"

#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/byte_level.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

class unicode_form final : public normalizer {
 public:
  explicit unicode_form(normal_form form) : form_(form) {}
  void apply(piece& changed) const override { changed.text = normalize(changed.text, form_); }

 private:
  normal_form form_;
};

class lowercase final : public normalizer {
 public:
  void apply(piece& changed) const override { changed.text = to_lower(changed.text); }
};

class strip final : public normalizer {
 public:
  strip(bool left, bool right) : left_(left), right_(right) {}

  void apply(piece& changed) const override {
    auto& text = changed.text;
    while (right_ && !text.empty()) {
      auto last = last_character(text);
      auto position = last;
      if (!is_white_space(take_character(text, position))) break;
      text.resize(last);
    }
    std::size_t begin = 0;
    for (auto next = begin; left_ && next < text.size(); begin = next) {
      if (!is_white_space(take_character(text, next))) break;
    }
    if (begin > 0) changed.at_start = false;
    text.erase(0, begin);
  }

 private:
  bool left_;
  bool right_;
};

class strip_accents final : public normalizer {
 public:
  void apply(piece& changed) const override {
    std::string kept;
    for (std::size_t i = 0; i < changed.text.size();) {
      auto begin = i;
      if (is_combining_mark(take_character(changed.text, i))) {
        if (begin == 0) changed.at_start = false;
      } else {
        kept.append(changed.text, begin, i - begin);
      }
    }
    changed.text = std::move(kept);
  }
};

class prepend final : public normalizer {
 public:
  explicit prepend(std::string text) : text_(std::move(text)) {}
  void apply(piece& changed) const override {
    if (!changed.text.empty()) changed.text.insert(0, text_);
  }

 private:
  std::string text_;
};

class replace final : public normalizer {
 public:
  replace(pattern searched, std::string content) : searched_(std::move(searched)), content_(std::move(content)) {}

  // As the reference counts, the new text comes from the last of the characters that it replaces.
  void apply(piece& changed) const override {
    const auto ranges = searched_.find_all(changed.text);
    if (!ranges.empty() && ranges[0].matched && ranges[0].end > 0) {
      std::size_t one_character = 0;
      static_cast<void>(take_character(changed.text, one_character));
      if (ranges[0].end > one_character || content_.empty()) changed.at_start = false;
    }
    changed.text = replace_matches(changed.text, ranges, content_);
  }

 private:
  pattern searched_;
  std::string content_;
};

class byte_level final : public normalizer {
 public:
  void apply(piece& changed) const override { changed.text = to_byte_level(changed.text); }
};

class sequence final : public normalizer {
 public:
  explicit sequence(std::vector<std::unique_ptr<const normalizer>> steps) : steps_(std::move(steps)) {}
  void apply(piece& changed) const override {
    for (const auto& step : steps_) step->apply(changed);
  }

 private:
  std::vector<std::unique_ptr<const normalizer>> steps_;
};

std::unique_ptr<const normalizer> read_form(construct& source, normal_form form) {
  source.only({});
  // Bytes per byte in the worst case: U+0390 in NFD and NFC (3), U+FDFA in the compatible ones (33 from 3).
  bool compatible = form == normal_form::nfkc || form == normal_form::nfkd;
  source.state().grow(source.where(), compatible ? 11 : 3);
  return std::make_unique<unicode_form>(form);
}

std::unique_ptr<const normalizer> read_replace(construct& source) {
  source.only({"pattern", "content"});
  auto searched = source.search("pattern");
  auto content = source.text("content");
  source.state().grow(source.where(), replacement_growth(searched, content));
  return std::make_unique<replace>(std::move(searched), std::move(content));
}

std::unique_ptr<const normalizer> read_sequence(construct& source) {
  source.only({"normalizers"});
  std::vector<std::unique_ptr<const normalizer>> steps;
  for (auto& step : source.list("normalizers")) {
    if (auto made = read_normalizer(step)) steps.push_back(std::move(made));
  }
  return std::make_unique<sequence>(std::move(steps));
}

}  // namespace

std::unique_ptr<const normalizer> read_normalizer(construct source) {
  const auto type = source.type();
  if (type == "Sequence") return read_sequence(source);
  if (type == "Replace") return read_replace(source);
  if (type == "NFC") return read_form(source, normal_form::nfc);
  if (type == "NFD") return read_form(source, normal_form::nfd);
  if (type == "NFKC") return read_form(source, normal_form::nfkc);
  if (type == "NFKD") return read_form(source, normal_form::nfkd);
  if (type == "Prepend") {
    source.only({"prepend"});
    auto text = source.text("prepend");
    source.state().grow(source.where(), 1 + static_cast<double>(text.size()));
    return std::make_unique<prepend>(std::move(text));
  }
  if (type == "Strip") {
    source.only({"strip_left", "strip_right"});
    auto left = source.flag("strip_left");
    return std::make_unique<strip>(left, source.flag("strip_right"));
  }
  if (type == "StripAccents" || type == "Lowercase" || type == "ByteLevel") source.only({});
  if (type == "StripAccents") return std::make_unique<strip_accents>();
  if (type == "Lowercase") {
    source.state().grow(source.where(), 1.5);  // U+0130, U+023A
    return std::make_unique<lowercase>();
  }
  if (type == "ByteLevel") {
    source.state().grow(source.where(), byte_level_growth);
    return std::make_unique<byte_level>();
  }
  source.refuse_type("Sequence, Replace, NFC, NFD, NFKC, NFKD, Prepend, Strip, StripAccents, Lowercase, ByteLevel");
  return nullptr;
}

}  // namespace troupe::model
