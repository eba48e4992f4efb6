#include "cli/simulation/load_simulation.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "cli/application.hpp"
#include "cli/load_trace.hpp"

namespace troupe::cli {
namespace {

using testing::HasSubstr;

result<load_trace> parse(const std::string& text) {
  std::istringstream csv{text};
  return parse_load_trace(csv, "loads.csv");
}

TEST(load_trace, reads_columns_by_name_in_any_order) {
  const auto trace =
      parse("\xEF\xBB\xBFload, host ,expert,layer,step\r\n2.5,a,1,7,3\r\n\r\n1e3,b,0,7,0\r\n4,c,2,9,3\r\n");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->steps, (std::vector<std::uint32_t>{0, 3}));
  EXPECT_EQ(trace->layers, (std::vector<std::uint32_t>{7, 9}));
  EXPECT_EQ(trace->experts, (std::vector<std::uint32_t>{2, 3}));
  std::vector<std::vector<std::vector<double>>> seen;
  trace->each_step([&](std::uint32_t, const auto& loads) { seen.push_back(loads); });
  using step = std::vector<std::vector<double>>;
  EXPECT_EQ(seen, (std::vector<step>{{{1000, 0}, {0, 0, 0}}, {{0, 2.5}, {0, 0, 4}}}));
}

TEST(load_trace, reads_quoted_fields) {
  const auto trace = parse("\"\",\"step\",\"layer\",\"expert\",\"load\"\n\"1\",0,\"2\",1,\"3.5\"\n");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->layers, (std::vector<std::uint32_t>{2}));
  EXPECT_EQ(trace->rows.at(0).load, 3.5);
  EXPECT_FALSE(parse("step,layer,expert,load\n0,0,0,\"\n"));
}

struct bad_file {
  const char* text;
  const char* message;
};
class load_trace_refusals : public testing::TestWithParam<bad_file> {};

TEST_P(load_trace_refusals, name_the_line) {
  const auto trace = parse(GetParam().text);
  ASSERT_FALSE(trace);
  EXPECT_EQ(trace.error().code, errc::invalid_request);
  EXPECT_THAT(trace.error().message, HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    files, load_trace_refusals,
    testing::Values(bad_file{"", "loads.csv line 1: is empty"}, bad_file{"step,layer,expert,load\n", "line 1: no row"},
                    bad_file{"step,layer,load\n0,0,1\n", "line 1: column 'expert' is missing"},
                    bad_file{"step,layer,expert,load,load\n", "line 1: column 'load' is there twice"},
                    bad_file{"step,layer,expert,load\n0,0,0,1\n0,0,1,-3\n", "line 3: load is '-3'"},
                    bad_file{"step,layer,expert,load\n0,0,0,nan\n", "line 2: load is 'nan'"},
                    bad_file{"step,layer,expert,load\n0,0,0,1e300\n", "give a number from 0 to 1e100"},
                    bad_file{"step,layer,expert,load\n0,0,0,inf\n", "line 2: load is 'inf'"},
                    bad_file{"step,layer,expert,load\n0,0,0,1e300\n", "line 2: load is '1e300'"},
                    bad_file{"step,layer,expert,load\n0,0,0,\n", "line 2: load is ''"},
                    bad_file{"step,layer,expert,load\n0,0,0,1 2\n", "line 2: load is '1 2'"},
                    bad_file{"step,layer,expert,load\n0,0,0\n", "line 2: 3 columns"},
                    bad_file{"step,layer,expert,load\n0,0,-1,2\n", "line 2: expert is '-1'"},
                    bad_file{"step,layer,expert,load\n0,0,4096,2\n", "line 2: expert is '4096'"},
                    bad_file{"step,layer,expert,load\n0,1024,0,2\n", "line 2: layer is '1024'"},
                    bad_file{"step,layer,expert,load\n0.5,0,0,2\n", "line 2: step is '0.5'"},
                    bad_file{"step,layer,expert,load\n0,0,1,2\n0,0,0,1\n\n0,0,1,3\n",
                             "line 5: step 0 has expert 0/1 on line 2 already"}));

// Three steps of two layers, each step's loads shaken from the first.
std::string shaken_loads(std::uint32_t experts) {
  std::mt19937_64 random{11};
  std::string csv = "step,layer,expert,load\n";
  for (int step = 0; step < 3; ++step) {
    for (int layer = 0; layer < 2; ++layer) {
      for (std::uint32_t e = 0; e < experts; ++e) {
        const double shake = step == 0 ? 0 : static_cast<double>(random() % 1000) / 1000 - 0.5;
        csv += fmt::format("{},{},{},{}\n", step, layer, e, std::pow(e + 1.0, -0.8) * std::exp(shake));
      }
    }
  }
  return csv;
}

TEST(load_simulation, compares_planners_step_by_step) {
  const auto trace = parse(shaken_loads(64)).value();
  simulated_cluster cluster;
  cluster.node_slots.assign(8, 9);
  const std::vector<placing> planners{planner_settings{.kind = planner_kind::troupe, .moves_max = 10},
                                      planner_settings{.kind = planner_kind::keep},
                                      planner_settings{.kind = planner_kind::eplb}};
  const auto runs = simulate_loads(source_of(trace), cluster, planners, true).value();
  const auto &planned = runs[0].steps, &kept = runs[1].steps, &published = runs[2].steps;
  ASSERT_EQ(planned.size(), 3U);
  EXPECT_EQ(planned[0].moves_per_layer, 0);
  for (std::size_t step = 1; step < 3; ++step) {
    EXPECT_LE(planned[step].imbalance_max, 0.05);
    EXPECT_GT(planned[step].moves_per_layer, 0);
    EXPECT_LE(planned[step].moves_per_layer, 10);
    EXPECT_EQ(planned[step].wasted_slots_per_layer, 0);
    EXPECT_EQ(kept[step].moves_per_layer, 0);
    EXPECT_GT(kept[step].imbalance_mean, planned[step].imbalance_mean);
    EXPECT_GT(published[step].moves_per_layer, 2 * planned[step].moves_per_layer);
    EXPECT_EQ(planned[step].expert_of_slot.size(), 2U);
  }
}

class simulate_verb : public testing::Test {
 protected:
  struct outcome {
    exit_code code{};
    std::string out, err;
  };
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-simulate-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    file_ = (folder_ / "loads.csv").string();
    std::ofstream{file_} << shaken_loads(16);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  outcome simulate(std::initializer_list<const char*> more) {
    std::vector<const char*> words{"--loads", file_.c_str()};
    words.insert(words.end(), more);
    return run(words);
  }
  static outcome run(std::vector<const char*> words) {
    words.insert(words.begin(), {"troupe", "simulate"});
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const auto code = run_command_line(static_cast<int>(words.size()), words.data());
    return {code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
  }
  std::filesystem::path folder_;
  std::string file_;
};

TEST_F(simulate_verb, reports_each_step_as_json) {
  const auto shown = simulate({"--nodes", "4", "--slots", "20", "--max-moves", "6", "-o", "json", "--show-placement"});
  ASSERT_EQ(shown.code, exit_code::ok) << shown.err;
  const auto document = nlohmann::json::parse(shown.out);
  ASSERT_EQ(document.at("items").size(), 3U);
  for (const auto& item : document.at("items")) {
    EXPECT_LE(item.at("imbalance_mean"), item.at("imbalance_max"));
    EXPECT_LE(item.at("moves_per_layer"), 6);
    EXPECT_GE(item.at("plan_ms"), 0);
    ASSERT_EQ(item.at("placement").size(), 2U);
    for (const auto& layer : item.at("placement")) {
      std::set<int> placed;
      for (const auto& experts : layer.at("nodes")) placed.insert(experts.begin(), experts.end());
      EXPECT_EQ(placed.size(), 16U);
    }
  }
}

TEST_F(simulate_verb, takes_every_planner_and_unequal_nodes) {
  for (const char* planner : {"troupe", "eplb", "static"}) {
    EXPECT_EQ(simulate({"--nodes", "4", "--slots", "20", "--planner", planner}).code, exit_code::ok) << planner;
  }
  EXPECT_EQ(simulate({"--nodes", "4", "--slots", "20", "--planner", "eplb-hierarchical"}).code, exit_code::ok);
  EXPECT_EQ(simulate({"--node-slots", "9,4,5"}).code, exit_code::ok);
  EXPECT_EQ(simulate({"--nodes", "3", "--slots", "19", "--zones", "2"}).code, exit_code::ok);
}

TEST_F(simulate_verb, makes_loads_up_and_says_the_digest) {
  const std::vector<const char*> words{"--synthetic", "node-loss", "--nodes", "8", "--slots", "40", "--layers", "2",
                                       "--experts",   "16",        "--hours", "3", "--seed",  "7"};
  auto as_json = words;
  as_json.insert(as_json.end(), {"-o", "json"});
  const auto shown = run(as_json);
  ASSERT_EQ(shown.code, exit_code::ok) << shown.err;
  const auto document = nlohmann::json::parse(shown.out);
  EXPECT_EQ(document.at("items").size(), 36U);
  EXPECT_EQ(document.at("summary").at("digest"), document.at("digest"));
  const auto page = run(words);
  EXPECT_EQ(page.code, exit_code::ok);
  EXPECT_THAT(page.out, HasSubstr(document.at("digest").get<std::string>()));
  EXPECT_THAT(simulate({"--nodes", "4", "--slots", "20"}).out, HasSubstr("\ndigest "));
}

TEST_F(simulate_verb, compares_and_writes_files) {
  const auto csv = (folder_ / "day.csv").string(), svg = (folder_ / "day.svg").string();
  const auto shown = simulate({"--nodes", "4", "--slots", "20", "--compare", "--eplb-every", "2", "--csv", csv.c_str(),
                               "--plot", svg.c_str(), "-o", "json"});
  ASSERT_EQ(shown.code, exit_code::ok) << shown.err;
  const auto items = nlohmann::json::parse(shown.out).at("items");
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].at("planner"), "troupe");
  EXPECT_EQ(items[1].at("planner"), "static");
  EXPECT_EQ(items[2].at("planner"), "eplb every 2");
  EXPECT_EQ(items[2].at("items").size(), 3U);
  EXPECT_GT(std::filesystem::file_size(csv), 500U);
  EXPECT_GT(std::filesystem::file_size(svg), 2000U);
  const auto nowhere = simulate({"--nodes", "4", "--slots", "20", "--csv", "/nowhere/day.csv"});
  EXPECT_EQ(nowhere.code, exit_code::failed);
  EXPECT_THAT(nowhere.err, HasSubstr("/nowhere/day.csv cannot be written"));
}

TEST_F(simulate_verb, carries_out_policies) {
  const auto shown = run({"--synthetic",
                          "zipf",
                          "--nodes",
                          "4",
                          "--slots",
                          "64",
                          "--layers",
                          "2",
                          "--experts",
                          "16",
                          "--hours",
                          "2",
                          "--policies",
                          "add,balance,prune",
                          "--active-experts",
                          "4",
                          "--prune-window",
                          "1h",
                          "--top-k",
                          "2",
                          "-o",
                          "json"});
  ASSERT_EQ(shown.code, exit_code::ok) << shown.err;
  const auto document = nlohmann::json::parse(shown.out);
  EXPECT_EQ(document.at("planner"), "policies");
  EXPECT_GT(document.at("items").front().at("masked_share"), document.at("items").back().at("masked_share"));
}

struct bad_flags {
  std::vector<const char*> words;
  const char* message;
};
class simulate_refusals : public testing::TestWithParam<bad_flags> {};

TEST_P(simulate_refusals, say_what_to_do) {
  std::vector<const char*> words{"troupe", "simulate", "--synthetic", "zipf",      "--nodes",
                                 "4",      "--slots",  "20",          "--experts", "16"};
  words.insert(words.end(), GetParam().words.begin(), GetParam().words.end());
  testing::internal::CaptureStderr();
  const auto code = run_command_line(static_cast<int>(words.size()), words.data());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(GetParam().message));
  EXPECT_EQ(code, exit_code::usage);
}
INSTANTIATE_TEST_SUITE_P(
    flags, simulate_refusals,
    testing::Values(bad_flags{{"--active-experts", "4"}, "--active-experts is for policies; add --policies"},
                    bad_flags{{"--prune-window", "1h"}, "--prune-window is for policies; add --policies"},
                    bad_flags{{"--policies", "add"}, "--policies add has nothing to add"},
                    bad_flags{{"--policies", "dance"}, "dance"},
                    bad_flags{{"--policies", "balance", "--max-moves", "3"}, "--max-moves is for a planner"},
                    bad_flags{{"--eplb-every", "3"}, "--eplb-every is for EPLB; add --compare or --planner eplb"},
                    bad_flags{{"--compare", "--show-placement"}, "--show-placement is for one planner"},
                    bad_flags{{"--compare", "--planner", "static"}, "leave out --planner"},
                    bad_flags{{"--hours", "10000", "--step-minutes", "0"}, "--step-minutes"},
                    bad_flags{{"--zones", "9"}, "9 zones are more than 4 nodes"}));

TEST_F(simulate_verb, says_which_flags_do_not_go_together) {
  const auto both = simulate({"--nodes", "4", "--slots", "20", "--synthetic", "zipf"});
  EXPECT_EQ(both.code, exit_code::usage);
  EXPECT_THAT(both.err, HasSubstr("both --loads and --synthetic are given; leave out one of them"));
  const auto none = run({"--nodes", "4", "--slots", "20"});
  EXPECT_EQ(none.code, exit_code::usage);
  EXPECT_THAT(none.err, HasSubstr("use --loads FILE.csv or --synthetic SHAPE"));
  const auto hours = simulate({"--nodes", "4", "--slots", "20", "--hours", "3"});
  EXPECT_EQ(hours.code, exit_code::usage);
  EXPECT_THAT(hours.err, HasSubstr("--hours describes synthetic loads"));
  const auto steps = run({"--synthetic", "zipf", "--nodes", "4", "--slots", "20", "--experts", "16", "--hours", "9999",
                          "--step-minutes", "1", "--show-placement"});
  EXPECT_EQ(steps.code, exit_code::failed);
  EXPECT_THAT(steps.err, HasSubstr("--show-placement would print"));
}

TEST_F(simulate_verb, refuses_bad_input_at_once) {
  const auto few = simulate({"--nodes", "3", "--slots", "15"});
  EXPECT_EQ(few.code, exit_code::failed);
  EXPECT_THAT(few.err, HasSubstr("layer 0 has 16 experts and all nodes together have 15 slots"));
  EXPECT_EQ(simulate({"--nodes", "3", "--slots", "20", "--planner", "eplb"}).code, exit_code::failed);
  EXPECT_EQ(simulate({"--nodes", "3", "--slots", "20", "--planner", "magic"}).code, exit_code::usage);
  EXPECT_EQ(simulate({"--node-slots", "9,9", "--nodes", "2"}).code, exit_code::usage);
  EXPECT_EQ(simulate({"--node-slots", "9,0"}).code, exit_code::usage);
  EXPECT_EQ(simulate({"--nodes", "4"}).code, exit_code::usage);
  EXPECT_EQ(simulate({"--nodes", "4", "--slots", "20", "--max-moves", "-2"}).code, exit_code::usage);
  std::ofstream{file_, std::ios::app} << "3,0,0,-1\n";
  const auto negative = simulate({"--nodes", "4", "--slots", "20"});
  EXPECT_EQ(negative.code, exit_code::failed);
  EXPECT_THAT(negative.err, HasSubstr("loads.csv line 98: load is '-1'"));
  std::filesystem::remove(file_);
  EXPECT_EQ(simulate({"--nodes", "4", "--slots", "20"}).code, exit_code::failed);
}

}  // namespace
}  // namespace troupe::cli
