// The variables of hakmem: what is accepted, what is said about the rest.
#include "allocator/base/environment.h"

#include <gmock/gmock.h>

#include <cstring>

#include "tests/telemetry/in_child.h"

namespace hakmem {
namespace {

using telemetry::ChildResult;
using telemetry::in_child;

TEST(Environment, DefaultsWithoutAnyVariable) {
  ChildResult child = in_child({}, [] {
    EXPECT_FALSE(is_set(Variable::kListen));
    EXPECT_STREQ(environment_text(Variable::kListen), "");
    EXPECT_STREQ(environment_text(Variable::kPages), "/dev/shm");
    EXPECT_EQ(environment_number(Variable::kSampleBytes), 524288u);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.error_text, "");
}

TEST(Environment, GoodValuesAreKeptWhenTheEnvironmentIsOverwritten) {
  ChildResult child = in_child({{"HAKMEM_LISTEN", "127.0.0.1:19464"}, {"HAKMEM_SAMPLE_BYTES", "0"}}, [] {
    // As programs do that set their title.
    memset(getenv("HAKMEM_LISTEN"), 'x', strlen(getenv("HAKMEM_LISTEN")));
    EXPECT_STREQ(environment_text(Variable::kListen), "127.0.0.1:19464");
    EXPECT_TRUE(is_set(Variable::kSampleBytes));
    EXPECT_EQ(environment_number(Variable::kSampleBytes), 0u);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.error_text, "");
}

TEST(Environment, EachFormKeepsAGoodValue) {
  for (const auto& [variable, name, value] : std::initializer_list<std::tuple<Variable, const char*, const char*>>{
           {Variable::kProgram, "HAKMEM_PROGRAM", "15-characters-x"},
           {Variable::kAuth, "HAKMEM_AUTH", "/etc/secret"},
           {Variable::kPages, "HAKMEM_PAGES", "/pages"},
           {Variable::kOnError, "HAKMEM_ON_ERROR", "abort"},
           {Variable::kGuard, "HAKMEM_GUARD", "1"},
           {Variable::kControl, "HAKMEM_CONTROL", "0"}}) {
    ChildResult child = in_child({{name, value}}, [variable = variable, value = value] {
      EXPECT_TRUE(is_set(variable));
      EXPECT_FALSE(was_refused(variable));
      EXPECT_STREQ(environment_text(variable), value);
    });
    EXPECT_EQ(child.status, 0) << name;
    EXPECT_EQ(child.error_text, "");
  }
}

TEST(Environment, EachBadValueGivesOneLineAndTheDefault) {
  ChildResult child = in_child({{"HAKMEM_LISTEN", "nonsense"}, {"HAKMEM_SAMPLE_BYTES", "1k"}}, [] {
    EXPECT_FALSE(is_set(Variable::kListen));
    EXPECT_TRUE(was_refused(Variable::kListen));
    EXPECT_EQ(environment_number(Variable::kSampleBytes), 524288u);
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.error_text,
              testing::HasSubstr("hakmem: HAKMEM_LISTEN=nonsense is not an IPv4 address and a port such as "
                                 "127.0.0.1:19464; no endpoint\n"));
  EXPECT_THAT(child.error_text,
              testing::HasSubstr("hakmem: HAKMEM_SAMPLE_BYTES=1k is not a number of bytes; the default is used\n"));
  EXPECT_EQ(std::count(child.error_text.begin(), child.error_text.end(), '\n'), 2);
}

TEST(Environment, AMisuseEndsTheProcessUnlessItIsToBeReported) {
  ChildResult report =
      in_child({{"HAKMEM_ON_ERROR", "report"}}, [] { EXPECT_STREQ(environment_text(Variable::kOnError), "report"); });
  EXPECT_EQ(report.status, 0);
  EXPECT_EQ(report.error_text, "");
  ChildResult wrong =
      in_child({{"HAKMEM_ON_ERROR", "ignore"}}, [] { EXPECT_STREQ(environment_text(Variable::kOnError), "abort"); });
  EXPECT_EQ(wrong.status, 0);
  EXPECT_EQ(wrong.error_text, "hakmem: HAKMEM_ON_ERROR=ignore is not abort or report; a misuse ends the process\n");
}

// In one way or another of each form; a value that stands beside it is kept.
TEST(Environment, AValueThatIsNotOfItsFormGivesOneLine) {
  const std::string long_path = "/" + std::string(5000, 'd');
  for (const auto& [name, value] :
       std::initializer_list<std::pair<std::string, std::string>>{{"HAKMEM_SAMPLE_BYTES", "18446744073709551616"},
                                                                  {"HAKMEM_PROGRAM", "more-than-15-characters"},
                                                                  {"HAKMEM_PAGES", "relative"},
                                                                  {"HAKMEM_PAGES", long_path},
                                                                  {"HAKMEM_AUTH", "relative"},
                                                                  {"HAKMEM_AUTH", long_path},
                                                                  {"HAKMEM_GUARD", "yes"},
                                                                  {"HAKMEM_CONTROL", "2"}}) {
    ChildResult child = in_child({{name, value}, {"HAKMEM_ON_ERROR", "report"}},
                                 [] { EXPECT_STREQ(environment_text(Variable::kOnError), "report"); });
    EXPECT_EQ(child.status, 0);
    EXPECT_THAT(child.error_text, testing::StartsWith("hakmem: " + name + "="));
    EXPECT_EQ(std::count(child.error_text.begin(), child.error_text.end(), '\n'), 1) << name;
  }
}

TEST(Environment, AnUnknownNameGivesOneLine) {
  ChildResult child = in_child({{"HAKMEM_LISTENN", "127.0.0.1:1"}}, [] {});
  EXPECT_EQ(child.error_text, "hakmem: HAKMEM_LISTENN is not a variable of hakmem and is ignored\n");
}

TEST(Environment, NamesOfOthersAreLeftAlone) {
  ChildResult child = in_child({{"HADOOP_HOME", "/opt"}, {"HAKMEMORY", "1"}, {"HAKMEM_LISTEN", ""}}, [] {});
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.error_text, "");
}

TEST(Environment, WhatATerminalCouldMisreadIsNotPrinted) {
  ChildResult child = in_child({{"HAKMEM_PAGES", "\x1b[31mred\x9b\n" + std::string(500, 'y')}}, [] {});
  EXPECT_THAT(child.error_text, testing::StartsWith("hakmem: HAKMEM_PAGES=?[31mred??yyy"));
  EXPECT_EQ(std::count(child.error_text.begin(), child.error_text.end(), '\n'), 1);
}

TEST(Environment, ListenAddresses) {
  ListenAddress address{};
  ASSERT_TRUE(parse_listen_address("10.1.2.3:65535", &address));
  EXPECT_EQ(address.address, 0x0a010203u);
  EXPECT_EQ(address.port, 65535);
  ASSERT_TRUE(parse_listen_address("localhost:80", &address));
  EXPECT_EQ(address.address, 0x7f000001u);
  for (const char* bad : {"", ":", "80", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
                          "127.0.0.1:8o", "127.0.0:80", "127.0.0.0.1:80", "256.0.0.1:80", "1..2.3:80", "0001.2.3.4:80",
                          "host:80", "[::1]:80", "127.0.0.1:80 ", "127.0.0.1:99999999999999999999"})
    EXPECT_FALSE(parse_listen_address(bad, &address)) << bad;
}

}  // namespace
}  // namespace hakmem
