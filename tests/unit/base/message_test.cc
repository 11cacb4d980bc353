#include "allocator/base/message.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "allocator/base/assert.h"

namespace hakmem {
namespace {

std::string text_of(Message message, uintptr_t address) {
  testing::internal::CaptureStderr();
  print_message(message, address);
  return testing::internal::GetCapturedStderr();
}

TEST(Message, TextsAreExact) {
  EXPECT_EQ(text_of(Message::kDoubleFree, 0x10), "hakmem: double free of 0x10\n");
  EXPECT_EQ(text_of(Message::kForeignPointer, 0x7ffe01234560),
            "hakmem: not a pointer that hakmem allocated: 0x7ffe01234560\n");
  EXPECT_EQ(text_of(Message::kInvalidPointer, 0xffffffffffffffff),
            "hakmem: not the start of an allocated block: 0xffffffffffffffff\n");
  EXPECT_EQ(text_of(Message::kCorruptedFreeList, 0),
            "hakmem: corrupted free list, a freed block was written to: 0x0\n");
  EXPECT_EQ(text_of(Message::kWrongSize, 0x20), "hakmem: freed with a wrong size or alignment: 0x20\n");
}

TEST(Message, KeepsErrno) {
  errno = 77;
  EXPECT_THAT(text_of(Message::kNoBadAlloc, 1), testing::StartsWith("hakmem: out of memory"));
  EXPECT_EQ(errno, 77);
}

TEST(MessageDeathTest, FailEndsTheProcess) {
  EXPECT_EXIT(fail(Message::kDoubleFree, 0xabc), testing::KilledBySignal(SIGABRT), "^hakmem: double free of 0xabc\n$");
}

TEST(MessageDeathTest, AssertionsTellThePlace) {
  if (!kBuild.assertions) {
    HAKMEM_ASSERT(1 == 2);  // not evaluated
    GTEST_SKIP() << "this build has no assertions";
  }
  EXPECT_EXIT(HAKMEM_ASSERT(1 == 2), testing::KilledBySignal(SIGABRT),
              "^hakmem: assertion failed: 1 == 2 at .*base/message_test.cc:[0-9]+\n$");
}

TEST(LineBuffer, Numbers) {
  LineBuffer line;
  line.number(0).text(" ").number(7).text(" ").number(UINT64_MAX).text(" ").hex(0).text(" ").hex(0xA0).text(" ");
  line.hex(UINT64_MAX);
  EXPECT_EQ(std::string(line.data(), line.size()), "0 7 18446744073709551615 0x0 0xa0 0xffffffffffffffff");
  line.clear();
  EXPECT_EQ(line.size(), 0u);
}

TEST(LineBuffer, CutsWhatDoesNotFit) {
  LineBuffer line;
  for (int i = 0; i < 200; ++i) line.text("12345");
  EXPECT_EQ(line.size(), 512u);
  testing::internal::CaptureStderr();
  line.print();
  EXPECT_EQ(testing::internal::GetCapturedStderr().size(), 512u);
  EXPECT_EQ(line.size(), 0u);  // and starts anew
}

}  // namespace
}  // namespace hakmem
