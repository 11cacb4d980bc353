"""The inputs of the program benchmarks that are not scripts: generated from fixed seeds, the same everywhere."""

import hashlib
import inspect
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Callable

FOLDER = Path(__file__).resolve().parent.parent / "build" / "bench-inputs"
SEED = 20240501

# Writes one input into a folder of its own.
Generate = Callable[[Path], None]


def prepared(generate: Generate, version: str = "") -> Path:
    """The folder that `generate` fills, filled when it is asked for first.

    It is another one when the generator changes, or the version of the program
    that the input is for.
    """
    stamp = hashlib.sha256(f"{version} {SEED} {inspect.getsource(generate)}".encode()).hexdigest()[:12]
    folder = FOLDER / f"{generate.__name__}-{stamp}"
    if not folder.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            generate(whole)
            whole.rename(folder)
    return folder


def cpp_source(folder: Path) -> None:
    """source.cc: standard headers, and templates of our own over them, instantiated with many types."""
    rng = random.Random(SEED)
    headers = "algorithm array chrono functional iostream iterator map memory numeric optional random set sstream"
    headers += " string tuple unordered_map variant vector"
    lines = [f"#include <{header}>" for header in headers.split()]
    lines.append(
        """
template <typename Key, typename Value>
struct Index {
  std::map<Key, std::vector<Value>> ordered;
  std::unordered_map<Key, std::shared_ptr<Value>> latest;
  void put(const Key& key, Value value) {
    ordered[key].push_back(value);
    latest[key] = std::make_shared<Value>(std::move(value));
  }
  template <typename Visit>
  auto fold(Visit visit) const {
    decltype(visit(std::declval<const Key&>(), std::declval<const Value&>())) sum{};
    for (const auto& [key, values] : ordered)
      for (const Value& value : values) sum += visit(key, value);
    return sum;
  }
};
template <int N>
struct Tower : Tower<N - 1> {
  std::tuple<std::array<int, N>, Tower<N - 1>*> floor{};
  int height() const { return std::get<0>(floor)[N - 1] + Tower<N - 1>::height(); }
};
template <>
struct Tower<0> {
  int height() const { return 0; }
};
"""
    )
    keys = ("int", "long", "std::string", "char")
    calls = []
    for i in range(2):
        fields = [rng.choice(("int", "double", "std::string", "std::vector<int>")) for _ in range(rng.randint(2, 6))]
        lines.append(f"struct Record{i} {{")
        lines += [f"  {field} field{k}{{}};" for k, field in enumerate(fields)]
        lines.append(f"  std::size_t weight() const {{ return sizeof(field0) + {rng.randint(1, 99)}; }}\n}};")
        key = keys[i % len(keys)]
        lines.append(
            f"std::size_t use{i}(const std::vector<{key}>& keys) {{\n"
            f"  Index<{key}, Record{i}> index;\n"
            f"  for (const auto& key : keys) index.put(key, Record{i}{{}});\n"
            f"  std::vector<std::variant<{key}, Record{i}>> mixed(keys.begin(), keys.end());\n"
            f"  std::function<std::size_t(const Record{i}&)> weigh = [&](const auto& r) {{ return r.weight(); }};\n"
            f"  Tower<{20 + i}> tower;\n"
            f"  return index.fold([&](const {key}&, const Record{i}& record) {{ return weigh(record); }}) +\n"
            f"         mixed.size() + static_cast<std::size_t>(tower.height());\n}}"
        )
        calls.append(f"use{i}({{}})")
    lines.append(f"int main() {{ return static_cast<int>({' + '.join(calls)}); }}")
    (folder / "source.cc").write_text("\n".join(lines) + "\n", encoding="utf-8")


def smt_problem(folder: Path) -> None:
    """problem.smt2: job-shop schedules, and chains of writes to arrays."""
    rng = random.Random(SEED)
    lines = []

    def block(*commands: str) -> None:
        lines.extend(["(push)", *commands, "(check-sat)", "(pop)"])

    jobs, machines = 10, 6
    for limit in (60, 62, 66):
        lengths = [[rng.randint(1, 9) for _ in range(machines)] for _ in range(jobs)]
        facts = [f"(declare-const s{j}_{m} Int)" for j in range(jobs) for m in range(machines)]
        for j in range(jobs):
            order = rng.sample(range(machines), machines)
            facts.append(f"(assert (>= s{j}_{order[0]} 0))")
            for before, after in zip(order, order[1:]):
                facts.append(f"(assert (>= s{j}_{after} (+ s{j}_{before} {lengths[j][before]})))")
            facts.append(f"(assert (<= (+ s{j}_{order[-1]} {lengths[j][order[-1]]}) {limit}))")
        for m in range(machines):
            for a in range(jobs):
                for b in range(a):
                    first = f"(>= s{a}_{m} (+ s{b}_{m} {lengths[b][m]}))"
                    second = f"(>= s{b}_{m} (+ s{a}_{m} {lengths[a][m]}))"
                    facts.append(f"(assert (or {first} {second}))")
        block(*facts)

    for writes in (110, 130):
        facts = ["(declare-const a0 (Array Int Int))", "(declare-const k Int)"]
        for i in range(writes):
            index = f"(+ k {rng.randint(0, writes)})" if i % 2 else f"{rng.randint(0, writes)}"
            facts.append(f"(define-fun a{i + 1} () (Array Int Int) (store a{i} {index} (+ (select a{i} {i}) {i})))")
        facts += [f"(assert (> (select a{writes} {i}) {rng.randint(0, 40)}))" for i in range(0, writes, 3)]
        block(*facts)
    lines.append("(get-info :rlimit)")  # the steps taken
    (folder / "problem.smt2").write_text("\n".join(lines) + "\n", encoding="utf-8")


def git_repository(folder: Path) -> None:
    """A bare repository: 220 commits that change a few lines in five of 120 files each, in a pack without deltas."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(3000)]
    files = {f"part{i % 12}/file{i}.txt": [] for i in range(120)}
    stream = []
    for commit in range(1, 221):
        changes = []
        for name in rng.sample(sorted(files), 4) + ["part0/file0.txt"]:
            lines = files[name]
            at = rng.randint(0, len(lines))
            added = [" ".join(rng.choices(words, k=rng.randint(3, 14))) for _ in range(rng.randint(1, 25))]
            lines[at : at + rng.randint(0, 8)] = added
            content = "\n".join(lines) + "\n"
            changes.append(f"M 100644 inline {name}\ndata {len(content)}\n{content}")
        message = f"Change {commit}: {' '.join(rng.choices(words, k=8))}"
        author = f"Author {commit % 7} <author{commit % 7}@example.org> {1700000000 + commit * 3600} +0000"
        stream.append(f"commit refs/heads/main\nauthor {author}\ncommitter {author}\ndata {len(message)}\n{message}")
        stream += changes
    git = ["git", "-C", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run([*git, "init", "--quiet", "--bare", "--initial-branch=main"], env=environment, check=True)
    importing = [*git, "fast-import", "--quiet", "--depth=0"]
    subprocess.run(importing, env=environment, input="\n".join(stream), text=True, check=True)
