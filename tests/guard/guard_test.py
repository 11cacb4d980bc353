#!/usr/bin/env python3
"""Guarded samples (HAKMEM_GUARD=1): wrong uses of memory end in a report, and right ones are left alone.

    guard_test.py BUILD_FOLDER [unittest arguments]
"""

from harness import *

SOURCE = pathlib.Path(__file__).with_name("wrong_use.c")
FRAME = re.compile(r"hakmem:     #(\d+) 0x\w+(?: in (\w+)\+0x\w+)?(?: \((.*)\+(0x\w+)\))?")


def guarded(**variables):
    return environment(**{"HAKMEM_GUARD": "1", "HAKMEM_SAMPLE_BYTES": "1"} | variables)


def program():
    return built("tests/guard_wrong_use")


def run(*acts, **variables):
    result = subprocess.run([program(), *acts], env=guarded(**variables), capture_output=True, text=True, timeout=60,
                            check=False)
    return result.returncode, result.stdout, result.stderr


def stacks_of(report):
    """Title -> frames of each stack."""
    stacks = {}
    for line in report.splitlines()[1:]:
        if title := re.fullmatch(r"hakmem:   (.*) by thread \d+:", line):
            stacks[title[1]] = frames = []
        else:
            frames.append(FRAME.fullmatch(line).groups())
    return stacks


# What is done -> kind and the first line of its report; an address of the pool is 0x...
PLACE = r" a block of 40 bytes at 0x\w+"
AT_ACCESS = {
    "overflow_write": ("overflow", r"overflow: write at 0x\w+, 8 bytes behind the end of"),
    "overflow_read": ("overflow", r"overflow: read at 0x\w+, 20 bytes behind the end of"),
    "underflow_write": ("underflow", r"underflow: write at 0x\w+, 8 bytes before"),
    "use_after_free_read": ("use_after_free", r"use after free: read at 0x\w+, 8 bytes into"),
    "use_after_free_write": ("use_after_free", r"use after free: write at 0x\w+, at the start of"),
    "small_alternate_stack": ("use_after_free", r"use after free: write at 0x\w+, at the start of"),
}
AT_CALL = {
    "overflow_found_at_free": ("overflow", r"overflow: found at the free, a write at 0x\w+, just behind"),
    "underflow_found_at_free": ("underflow", r"underflow: found at the free, a write at 0x\w+, 1 byte before"),
    "double_free": ("double_free", r"double free: free of 0x\w+, at the start of"),
    "realloc_after_free": ("use_after_free", r"use after free: realloc of 0x\w+, at the start of"),
    "size_of_freed": ("use_after_free", r"use after free: malloc_usable_size of 0x\w+, at the start of"),
    "invalid_free": ("invalid_free", r"invalid free: free of 0x\w+, 16 bytes into"),
}
FREED = ("use_after_free", "double_free")


class WrongUse(unittest.TestCase):
    def check_report(self, act, kind, pattern, errors):
        self.assertRegex(errors.splitlines()[0], "^hakmem: " + pattern + PLACE + "$", act)
        stacks = stacks_of(errors)
        self.assertEqual(list(stacks)[1:], ["allocated", "freed"] if kind in FREED else ["allocated"], errors)
        for title, frames in stacks.items():
            self.assertEqual([int(frame[0]) for frame in frames], list(range(len(frames))), title)
            names = [frame[1] for frame in frames]
            # From what the program did, not from how hakmem came to know it, down to its start.
            self.assertEqual(frames[0][2], program(), errors)
            self.assertTrue({act, "main", "__libc_start_main"} <= set(names), errors)
        wanted = ("read", "written") if act in AT_ACCESS else ("freed", "freed again", "used", "found")
        self.assertIn(list(stacks)[0], wanted)

    def test_an_access_ends_by_the_fault_after_a_report(self):
        for act, (kind, pattern) in AT_ACCESS.items():
            status, output, errors = run(act)
            self.assertEqual((status, output), (-signal.SIGSEGV, ""), (act, errors))
            self.check_report(act, kind, pattern, errors)

    def test_a_call_ends_by_abort_after_a_report(self):
        for act, (kind, pattern) in AT_CALL.items():
            status, output, errors = run(act)
            self.assertEqual((status, output), (-signal.SIGABRT, ""), (act, errors))
            self.check_report(act, kind, pattern, errors)

    def test_the_lines_of_the_source(self):
        source = SOURCE.read_text(encoding="utf-8").splitlines()
        wanted = {"read": "sink = block[8];", "allocated": "block = malloc(kBytes);", "freed": "free(block);"}
        for title, frames in stacks_of(run("use_after_free_read")[2]).items():
            place = subprocess.run(["addr2line", "-e", frames[0][2], frames[0][3]], capture_output=True, text=True,
                                   timeout=60, check=True).stdout
            line = int(re.search(r"wrong_use\.c:(\d+)", place)[1])
            self.assertEqual(source[line - 1].strip(), wanted[title])

    def test_threads_at_once_give_one_whole_report(self):
        for _ in range(10):
            status, output, errors = run("threads_at_once")
            self.assertEqual((status, output), (-signal.SIGSEGV, ""), errors)
            self.assertEqual(list(stacks_of(errors)), ["read", "allocated", "freed"], errors)
            self.assertIn("main", [frame[1] for frame in stacks_of(errors)["freed"]])

    def test_a_block_of_one_byte(self):
        status, _, errors = run("double_free_of_a_byte")
        self.assertEqual(status, -signal.SIGABRT, errors)
        self.assertRegex(errors, r"^hakmem: double free: free of 0x\w+, at the start of a block of 1 byte at 0x\w+\n")

    def test_with_a_heap_profile_beside_it(self):
        with Program(program(), "right_use", "use_after_free_write", HAKMEM_GUARD="1", HAKMEM_SAMPLE_BYTES="1") as process:
            self.assertEqual(process.end(), -signal.SIGSEGV)
            self.check_report("use_after_free_write", *AT_ACCESS["use_after_free_write"], process.error_text())

    def test_without_guard_there_is_neither_pool_nor_handler(self):
        for value, caught in (("1", True), ("0", False), ("", False)):
            with Program("cat", listen=False, HAKMEM_GUARD=value, HAKMEM_SAMPLE_BYTES="1") as cat:
                self.assertEqual(cat.do("ready"), "ready")
                handled = int(status_field(cat.pid, "SigCgt"), 16)
                self.assertEqual(bool(handled >> (signal.SIGSEGV - 1) & 1), caught, value)
                self.assertEqual(cat.end(), 0)

    def test_a_value_that_is_none(self):
        status, _, errors = run(HAKMEM_GUARD="yes")
        self.assertEqual((status, errors), (0, "hakmem: HAKMEM_GUARD=yes is not 0 or 1; the default is used\n"))


class Reporting(unittest.TestCase):
    """HAKMEM_ON_ERROR=report: the process goes on after each report."""

    def test_it_goes_on(self):
        for act, (_, pattern) in (AT_ACCESS | AT_CALL).items():
            status, output, errors = run(act, HAKMEM_ON_ERROR="report")
            self.assertEqual((status, output), (0, "done\n"), (act, errors))
            self.assertRegex(errors.splitlines()[0], "^hakmem: " + pattern + PLACE + "$", act)

    def test_several_in_turn(self):
        acts = [*AT_ACCESS, *AT_CALL]
        status, output, errors = run(*acts, HAKMEM_ON_ERROR="report")
        self.assertEqual((status, output), (0, "done\n"), errors)
        self.assertEqual(len(re.findall(r"^hakmem: [a-z]", errors, flags=re.M)), len(acts), errors)


    def test_threads_at_once(self):
        status, output, errors = run("threads_at_once", HAKMEM_ON_ERROR="report")
        self.assertEqual((status, output), (0, "done\n"), errors)
        self.assertEqual(list(stacks_of(errors)), ["read", "allocated", "freed"], "one report, whole")


class Counted(unittest.TestCase):
    def test_the_counter_outlives_the_process(self):
        port = free_port()
        with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
            status, _, errors = run("right_use", "use_after_free_write", HAKMEM_PAGES=pages)
            self.assertEqual(status, -signal.SIGSEGV, errors)
            with subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{port}", "--pages", pages],
                                  env=environment(preload=False), stderr=subprocess.DEVNULL) as exporter:
                try:
                    wait_until(lambda: is_serving(port), "hakmem-exporter answers")
                    scrape = Scrape(get(port))
                finally:
                    exporter.terminate()
            counts = {dict(key[1])["kind"]: value for key, value in
                      scrape.matching("hakmem_memory_errors_total", comm="guard_wrong_use").items()}
            self.assertEqual(counts, {"use_after_free": 1}, "the exporter of a machine leaves zeroes out")


class Handlers(unittest.TestCase):
    def test_a_fault_of_another_kind_is_the_systems(self):
        self.assertEqual(run("null_read"), (-signal.SIGSEGV, "", ""))

    def test_the_programs_handler_from_before_is_called_after_the_report(self):
        status, output, errors = run("handle_faults_first", "use_after_free_write")
        self.assertEqual(status, 7, errors)
        self.assertRegex(errors.splitlines()[0], "^hakmem: " + AT_ACCESS["use_after_free_write"][1])
        # With the mask that it asked for.
        self.assertRegex(output, "^the program's handler: 0x.*, 1 0\n$")
        self.assertEqual(run("handle_faults_first", "null_read"), (7, "the program's handler: (nil), 1 0\n", ""))

    def test_a_fault_where_no_block_ever_was_is_the_programs(self):
        for act in ("far_write", "far_write_between", "far_write_before_the_next"):
            for variables in ({}, {"HAKMEM_ON_ERROR": "report"}):
                self.assertEqual(run(act, **variables), (-signal.SIGSEGV, "", ""), act)
                status, output, errors = run("handle_faults_first", act, **variables)
                self.assertEqual((status, errors), (7, ""), act)
                self.assertRegex(output, r"^the program's handler: 0x\w+, 1 0\n$")

    def test_the_programs_handler_for_one_fault(self):
        called = "the program's handler: 1\n"
        self.assertEqual(run("handle_one_fault_and_exit_first", "null_read"), (7, called, ""))
        self.assertEqual(run("handle_one_fault_first", "null_read"), (-signal.SIGSEGV, called, ""))

    def test_where_the_program_ignores_faults(self):
        self.assertEqual(run("ignore_faults_first", "send_a_fault"), (0, "done\n", ""))
        self.assertEqual(run("ignore_faults_first", "null_read"), (-signal.SIGSEGV, "", ""))

    def test_the_programs_later_handler_takes_all(self):
        status, output, errors = run("handle_faults", "use_after_free_write")
        self.assertEqual((status, errors), (7, ""))
        self.assertTrue(output.startswith("the program's handler: 0x"))

    def test_a_signal_that_somebody_sends_ends_the_process(self):
        with Program("cat", listen=False, HAKMEM_GUARD="1", HAKMEM_SAMPLE_BYTES="1") as cat:
            cat.do("ready")
            cat.process.send_signal(signal.SIGSEGV)
            self.assertEqual(cat.process.wait(10), -signal.SIGSEGV)


class RightUse(unittest.TestCase):
    def test_everything_that_is_allowed(self):
        self.assertEqual(run("right_use"), (0, "done\n", ""))

    def test_a_child_by_fork(self):
        status, output, errors = run("right_use_in_a_child")
        self.assertEqual((status, output), (0, f"child {signal.SIGSEGV.value}\ndone\n"))
        self.assertRegex(errors.splitlines()[0], "^hakmem: use after free: read at ")

    def test_python(self):
        script = ("import json, re, sqlite3, subprocess, threading\n"
                  "data = [{'n': i, 't': str(i) * (i % 50)} for i in range(20000)]\n"
                  "assert json.loads(json.dumps(data)) == data\n"
                  "db = sqlite3.connect(':memory:'); db.execute('create table t(a, b)')\n"
                  "db.executemany('insert into t values(?, ?)', [(i, 'x' * (i % 300)) for i in range(20000)])\n"
                  "assert db.execute('select count(*), sum(length(b)) from t where a % 3 = 0').fetchone()[0] == 6667\n"
                  "ts = [threading.Thread(target=lambda: [re.sub('a', 'b', 'abc' * i) for i in range(500)]) for _ in range(4)]\n"
                  "[t.start() for t in ts]; [t.join() for t in ts]\n"
                  "print(subprocess.run(['echo', 'well'], capture_output=True, text=True).stdout.strip())\n")
        for sample in ("64", "524288"):
            result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False,
                                    env=guarded(HAKMEM_SAMPLE_BYTES=sample, PYTHONMALLOC="malloc"))
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "well\n", ""))

    def test_redis(self):
        server = shutil.which("redis-server")
        self.assertTrue(server, "redis-server is not installed")
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/redis.sock"
            process = subprocess.Popen([server, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "",
                                        "--enable-debug-command", "yes"],
                                       env=guarded(HAKMEM_SAMPLE_BYTES="64"), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)

            def cli(*arguments):
                return subprocess.run(["redis-cli", "-s", path, *arguments], capture_output=True, text=True, timeout=60,
                                      check=False).stdout.strip()

            try:
                wait_until(lambda: cli("ping") == "PONG", "redis answers")
                loop = "for i = 1, 20000 do redis.call(ARGV[1], 'k' .. i % 700, string.rep('x', i % 900)) end return 'ok'"
                self.assertEqual(cli("eval", loop, "0", "set"), "ok")
                self.assertEqual(cli("eval", loop, "0", "append"), "ok")
                self.assertEqual(cli("debug", "reload"), "OK")
                self.assertEqual(cli("flushall"), "OK")
            finally:
                process.terminate()
                errors = process.communicate(timeout=20)[1]
            self.assertEqual((process.returncode, errors), (0, ""))


if __name__ == "__main__":
    main()
