#!/usr/bin/env python3
"""An installed hakmem is found by CMake and by pkg-config, and programs that link it run on it.

    install_test.py BUILD_DIRECTORY LIBDIR [unittest arguments]
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

CONSUMER = pathlib.Path(__file__).with_name("consumer")
BUILD = pathlib.Path(sys.argv[1])
LIBDIR = sys.argv[2]


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        raise AssertionError(f"{command} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def origins(output):
    """The objects that a consumer found its malloc and operator new in."""
    found = dict(re.findall(r"^(malloc|new) (.*)$", output, flags=re.M))
    return {name: os.path.basename(path) for name, path in found.items()}


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.work = pathlib.Path(directory.name)
        cls.prefix = cls.work / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)

    def test_find_package_links_shared_and_static(self):
        build = self.work / "build"
        run("cmake", "-G", "Ninja", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", build)
        self.assertEqual(origins(run(build / "with_hakmem")), {"malloc": "libhakmem.so", "new": "libhakmem.so"})
        static = build / "with_hakmem_static"
        self.assertEqual(origins(run(static)), {"malloc": static.name, "new": static.name})
        run(build / "quiet_with_hakmem")
        run(build / "quiet_with_hakmem_static")

    def test_pkg_config_links(self):
        environment = dict(os.environ, PKG_CONFIG_PATH=str(self.prefix / LIBDIR / "pkgconfig"))
        flags = run("pkg-config", "--cflags", "--libs", "hakmem", env=environment).split()
        program = self.work / "with_pkg_config"
        run("c++", "-std=c++20", CONSUMER / "main.cc", "-o", program, *flags)
        environment = dict(os.environ, LD_LIBRARY_PATH=str(self.prefix / LIBDIR))
        self.assertEqual(origins(run(program, env=environment)), {"malloc": "libhakmem.so", "new": "libhakmem.so"})
        quiet = self.work / "quiet_with_pkg_config"
        run("c++", "-O0", "-Wl,--as-needed", CONSUMER / "quiet.cc", "-o", quiet, *flags)
        run(quiet, env=environment)

    def test_nothing_is_left_out(self):
        files = {path.relative_to(self.prefix).as_posix() for path in self.prefix.rglob("*") if path.is_file()}
        for name in ("include/hakmem.h", f"{LIBDIR}/libhakmem.so", f"{LIBDIR}/libhakmem.a",
                     f"{LIBDIR}/pkgconfig/hakmem.pc", f"{LIBDIR}/cmake/hakmem/hakmem-config.cmake"):
            self.assertIn(name, files)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
