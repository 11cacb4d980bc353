"""More programs of Debian give the same with and without the preload: output, status, and the files that they write.

The programs of bench/programs.py with their work, and others with many threads and processes of their own.
"""

import glob
import hashlib
import os
import re
import shutil
import sys

import harness

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench"))
import foreign  # noqa: E402
import inputs  # noqa: E402
import programs  # noqa: E402

COLLECTORS = ("-XX:+UseSerialGC", "-XX:+UseParallelGC", "-XX:+UseG1GC", "-XX:+UseZGC")


class ProgramsTest(harness.PreloadTest):
    def digests(self, folder, pattern):
        found = {}
        for path in filter(os.path.isfile, glob.glob(os.path.join(folder, pattern), recursive=True)):
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.sha256(file.read()).hexdigest()
        return found

    def check_same_files(self, command, *, outputs="", witness=None, variables=None):
        """Runs it in an empty folder of the same name, without and with the preload; {scratch} is that folder."""
        folder = os.path.join(self.scratch, "work")
        seen = []
        for preload in (False, True):
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            words = [word.replace("{scratch}", folder) for word in command]
            status, output, errors = harness.run(words, preload, cwd=folder, timeout=600, variables=variables)
            self.check_quiet(errors)
            if witness:
                output = b"".join(re.findall(witness.encode(), output))
                self.assertNotEqual(b"", output)
            seen.append((status, output, None if witness else errors, self.digests(folder, outputs) if outputs else {}))
            if outputs:
                self.assertNotEqual({}, seen[-1][3])
        self.assertEqual(*seen)
        return seen[0]

    def check_benchmark(self, name):
        (program,) = (program for program in programs.PROGRAMS if program.name == name)
        folders = {"scratch": "{scratch}", "scripts": foreign.SCRIPTS,
                   "input": inputs.prepared(program.generate) if program.generate else None}
        command = [word.format(**folders) for word in program.command]
        command[0] = harness.program(os.path.basename(command[0]))
        status, output, _, _ = self.check_same_files(command, outputs=program.outputs, witness=program.witness)
        self.assertEqual(0, status, output)

    def test_clang_on_a_project(self):
        """cmake, ninja and clang make the same files of this project's telemetry library."""
        source = os.path.join(HERE, "..", "..")
        folder = os.path.join(self.scratch, "project")
        definitions = ["HAKMEM_BUILD=telemetry", "HAKMEM_TESTS=OFF", "CMAKE_BUILD_TYPE=RelWithDebInfo",
                       "CMAKE_C_COMPILER=clang", "CMAKE_CXX_COMPILER=clang++"]
        configure = ["cmake", "-G", "Ninja", "-S", source, "-B", folder, *(f"-D{each}" for each in definitions)]
        build = ["ninja", "-C", folder, "-j2", "hakmem_telemetry"]
        seen = []
        for preload in (False, True):
            for command in (configure, build):
                status, output, errors = harness.run([harness.program(command[0]), *command[1:]], preload, timeout=1500,
                                                     variables={"CCACHE_DISABLE": "1"})
                self.assertEqual(0, status, (output + errors).decode(errors="replace")[-3000:])
                self.check_quiet(errors)
            seen.append(self.digests(folder, "**/*.o") | self.digests(folder, "*.so"))
            shutil.rmtree(folder)
        self.assertGreater(len(seen[0]), 40)
        self.assertEqual(*seen)

    def test_node_with_workers(self):
        status, output, _, _ = self.check_same_files([harness.program("node"), os.path.join(HERE, "node_workload.js")])
        self.assertEqual((17, 360), (status, output.count(b"\n")))

    def test_java_with_many_threads(self):
        for collector in COLLECTORS:
            with self.subTest(collector=collector):
                command = [harness.program("java"), collector, "-Xmx400m", os.path.join(HERE, "java_workload.java")]
                status, output, errors, _ = self.check_same_files(command)
                self.assertEqual(21, status, errors)
                self.assertTrue(output.endswith(b"\nhanded over 1999000\n"), output)

    def test_ruby(self):
        status, output, errors, _ = self.check_same_files(
            [harness.program("ruby"), os.path.join(HERE, "ruby_workload.rb")], variables={"RUBY_FREE_AT_EXIT": "1"})
        self.assertEqual((19, b""), (status, errors))
        self.assertIn(b"from a shell", output)

    def test_ffmpeg(self):
        """Pictures and sound made, coded in several ways, read again and filtered by threads, and digested."""
        ffmpeg = [harness.program("ffmpeg"), "-nostdin", "-v", "error", "-threads", "4"]
        sources = ["-f", "lavfi", "-i", "testsrc2=size=426x240:rate=25:duration=5",
                   "-f", "lavfi", "-i", "sine=frequency=440:beep_factor=3:duration=5"]
        exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1"]
        kept = os.path.join(self.scratch, "kept.mkv")
        self.assertEqual((0, b"", b""), harness.run(
            [*ffmpeg, *sources, "-c:v", "mpeg4", "-threads", "1", "-c:a", "flac", *exact, kept], False))
        # Each by one thread and alone in its file: what several write differs from run to run, with any allocator.
        for name, coding in (("mkv", "-an -c:v libx264 -preset fast"), ("mp4", "-an -c:v mpeg4"),
                             ("webm", "-an -c:v libvpx -deadline good -cpu-used 4"), ("avi", "-an -c:v mjpeg"),
                             ("m4a", "-vn -c:a aac"), ("mp3", "-vn -c:a libmp3lame"), ("ogg", "-vn -c:a libopus")):
            with self.subTest(form=name):
                result = self.check_same_files([*ffmpeg, *sources, *coding.split(), "-threads", "1", *exact,
                                                "{scratch}/out." + name], outputs="out.*")
                self.assertEqual(0, result[0], result[2])
        for _ in range(3):
            result = harness.run([*ffmpeg, *sources, "-c:v", "libx264", "-preset", "fast", "-c:a", "aac",
                                  "-threads", "6", "-y", os.path.join(self.scratch, "threads.mkv")], True)
            self.assertEqual((0, b"", b""), result)
        filters = "split[a][b];[a]scale=640:-2,hue=h=40,unsharp[c];[b]scale=640:-2,edgedetect[d];[c][d]overlay=80,gblur"
        status, output, _, _ = self.check_same_files(
            [*ffmpeg, "-i", kept, "-filter_complex", filters, "-f", "framemd5", *exact, "-"])
        self.assertEqual(0, status)
        self.assertGreater(output.count(b"\n"), 125)


for benchmark in programs.PROGRAMS:
    if isinstance(benchmark, foreign.Program):
        setattr(ProgramsTest, f"test_bench_{benchmark.name}",
                lambda self, name=benchmark.name: self.check_benchmark(name))


if __name__ == "__main__":
    harness.main()
