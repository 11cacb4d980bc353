#!/usr/bin/env python3
"""The layering check finds each kind of broken rule in a tree made for it, and nothing in a sound one."""

import pathlib
import tempfile
import unittest

import layering

SOUND = {
    "allocator/base/bits.h": "#pragma once\n#include <cstdint>\n",
    "allocator/base/build_profile.h": "#if HAKMEM_BUILD_RELEASE\n#endif\n",
    "allocator/metrics/catalogue.def": "",
    "allocator/metrics/catalogue.h": '#include "allocator/metrics/catalogue.def"\n#include "allocator/base/bits.h"\n',
    "allocator/api/malloc.cc": '#include "allocator/metrics/catalogue.h"\n#if defined(__x86_64__)\n#endif\n',
    "telemetry/page.h": '#include "allocator/metrics/catalogue.h"\n',
    "telemetry/preload.cpp": '#include "telemetry/page.h"\n#include "allocator/api/control.h"\n',
    "exporter/main.cpp": '#include "telemetry/page.h"\n#include <prometheus/registry.h>\n',
}

# (file, its text, a part of the expected finding)
BROKEN = [
    ("allocator/base/up.h", '#include "allocator/metrics/catalogue.h"\n', "allocator/base must not include"),
    ("allocator/base/angle.h", "#include <allocator/api/malloc.cc>\n", "allocator/base must not include"),
    ("allocator/metrics/up.h", '\n#  include "allocator/page_arena/arena.h"\n', ":2: allocator/metrics must not"),
    ("allocator/api/out.cc", '#include "telemetry/page.h"\n', "allocator/api must not include telemetry"),
    ("allocator/api/far.cc", '#include "exporter/main.cpp"\n', "allocator/api must not include exporter"),
    ("allocator/api/beside.cc", '#include "../../telemetry/page.h"\n', "must not include telemetry/page.h"),
    ("allocator/attic/old.cc", "", "is on no floor"),
    ("allocator/api/short.cc", '#include "malloc.cc"\n', "write it from the root"),
    ("allocator/api/gone.cc", '#include "nowhere/gone.h"\n', "not a file of the tree"),
    ("allocator/api/build.cc", "#if !HAKMEM_BUILD_RELEASE\n#endif\n", "asks about the build"),
    ("allocator/api/ndebug.cc", "#ifdef NDEBUG\n#endif\n", "asks about the build"),
    ("allocator/api/split.cc", "#if defined(__linux__) && \\\n  HAKMEM_BUILD_DEBUG\n#endif\n", "asks about the build"),
    ("telemetry/deep.cpp", '#include "allocator/superslab/slab.h"\n', "telemetry must not include"),
    ("telemetry/up.cpp", '#include "exporter/main.cpp"\n', "telemetry must not include"),
    ("exporter/deep.cpp", '#include "allocator/superslab/slab.h"\n', "exporter must not include"),
]


class LayeringTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        for name, text in SOUND.items():
            self.write(name, text)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def test_sound_tree_has_no_findings(self):
        self.assertEqual(layering.check_tree(self.root), ([], len(SOUND)))

    def test_each_broken_rule_is_the_one_finding(self):
        for name, text, expected in BROKEN:
            with self.subTest(name):
                self.write(name, text)
                findings, _ = layering.check_tree(self.root)
                (self.root / name).unlink()
                self.assertEqual(len(findings), 1, findings)
                self.assertIn(expected, findings[0])
                self.assertTrue(findings[0].startswith(name), findings[0])


if __name__ == "__main__":
    unittest.main()
