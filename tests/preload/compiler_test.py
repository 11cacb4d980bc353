"""Compilers under the preload: the same object code, byte by byte, and a program that runs."""

import os

import harness

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compiler_source.cc")


class CompilerTest(harness.PreloadTest):
    def compile(self, compiler, preload, *arguments):
        """Compiles in the same directory to the same name, so that nothing but the preload differs."""
        output = os.path.join(self.scratch, "output")
        result = harness.run([harness.program(compiler), "-std=c++20", "-o", output, *arguments, SOURCE], preload,
                             cwd=self.scratch)
        self.assertEqual((0, b"", b""), result)
        with open(output, "rb") as file:
            content = file.read()
        return output, content

    def test_gcc_object_is_the_same(self):
        arguments = ["-c", "-O1", "-g"]
        _, plain = self.compile("g++", False, *arguments)
        _, preloaded = self.compile("g++", True, *arguments)
        self.assertGreater(len(plain), 200000)
        self.assertTrue(plain == preloaded, "g++ wrote another object file under the preload")

    def test_clang_object_is_the_same(self):
        arguments = ["-c", "-O0"]
        _, plain = self.compile("clang++", False, *arguments)
        _, preloaded = self.compile("clang++", True, *arguments)
        self.assertTrue(plain == preloaded, "clang++ wrote another object file under the preload")

    def test_linked_program_runs(self):
        """Compiler, assembler and linker under the preload, and then the program itself."""
        output, _ = self.compile("g++", True, "-O0")
        status, text, errors = self.check_same([output])
        self.assertEqual((0, b""), (status, errors))
        self.assertTrue(text.endswith(b"5 1\n"), text)

    def test_diagnostics_are_the_same(self):
        self.check_same([harness.program("g++"), "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
                        stdin=b"#include <vector>\nint main() { std::vector<int> v; v.push_back(\"no\"); }\n")


if __name__ == "__main__":
    harness.main()
