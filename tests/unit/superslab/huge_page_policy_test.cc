// When superslabs may stand on huge pages.
#include "allocator/superslab/huge_page_policy.h"

#include <gtest/gtest.h>

namespace hakmem {
namespace {

class HugePagePolicyTest : public testing::Test {
 protected:
  void SetUp() override {
    if (has(Mitigation::kGuardPages)) GTEST_SKIP() << "a build with guard pages has no huge pages";
  }
  HugePagePolicy policy_;
};

TEST_F(HugePagePolicyTest, FromSoMuchAThread) {
  EXPECT_FALSE(policy_.is_dense(767 * kKiB));
  EXPECT_TRUE(policy_.is_dense(768 * kKiB));
  policy_.set_thread_count(8);
  EXPECT_FALSE(policy_.is_dense(7 * kMiB));
  EXPECT_TRUE(policy_.is_dense(8 * kMiB));
  policy_.set_thread_count(18);
  EXPECT_FALSE(policy_.is_dense(37 * kMiB));
  EXPECT_TRUE(policy_.is_dense(38 * kMiB));
}

TEST_F(HugePagePolicyTest, NotWhereManyThreadsHaveHardlyBegunTheirSlabs) {
  constexpr size_t kUsed = 80 * kMiB;
  policy_.set_thread_count(16);
  policy_.slab_begun(kUsed - 19 * kMiB);
  EXPECT_FALSE(policy_.is_dense(kUsed));
  policy_.slab_not_begun(1 * kMiB);
  EXPECT_TRUE(policy_.is_dense(kUsed));
}

TEST_F(HugePagePolicyTest, FewThreadsMayHaveJustBegunThem) {
  constexpr size_t kUsed = 20 * kMiB;
  policy_.set_thread_count(8);
  policy_.slab_begun(kUsed);
  EXPECT_TRUE(policy_.is_dense(kUsed));
}

}  // namespace
}  // namespace hakmem
