"""The macro workloads and their arguments.

The arguments were fixed before the allocator was first tuned, with peers only,
so that none of them was chosen because hakmem likes it. A change here makes
older results incomparable; `compare` refuses to compare them.

Quick and full runs have the same heaps and differ in the number of operations,
so that peak RSS means the same in both. Workloads without quick arguments take
part in full runs only, so that quick runs stay quick.

Nobody chose the workloads of `--drawn`: each draws all it does from its seed.
"""

from dataclasses import dataclass

from errors import BenchError

QUICK_RUNS = 5  # the fewest at which one side can be better than the other with p < 0.01
FULL_RUNS = 7


@dataclass(frozen=True)
class Workload:
    name: str
    description: str
    heap: tuple[str, ...]  # arguments that shape the heap
    full: tuple[str, ...]  # arguments that give the length of a full run
    quick: tuple[str, ...] | None = None  # and of a quick one, if it takes part

    @property
    def program(self) -> str:
        """larson-sized is another set of arguments for larson."""
        return f"bench_{self.name.partition('-')[0]}"

    def arguments(self, quick: bool) -> list[str]:
        return [*self.heap, *(self.quick if quick else self.full)]


WORKLOADS = (
    Workload(
        name="larson",
        description="threads replace random chunks of 8 to 128 bytes and hand their arrays to new threads",
        heap=("--threads=2", "--arrays=64", "--chunks=2048", "--smallest=8", "--largest=128", "--replacements=20000"),
        quick=("--rounds=300",),
        full=("--rounds=900",),
    ),
    Workload(
        name="random",
        description="random allocation and free of 16 bytes to 1 KiB, one in fifty up to 32 KiB, 100,000 slots",
        heap=("--slots=100000", "--smallest=16", "--largest=1024", "--large-period=50", "--large=32768"),
        quick=("--operations=3000000",),
        full=("--operations=9000000",),
    ),
    Workload(
        name="bursty",
        description="malloc storms of up to 150,000 blocks in changing bands of 16 bytes to 1 KiB, other work between",
        heap=("--blocks=150000", "--work=4"),
        quick=("--bursts=24",),
        full=("--bursts=72",),
    ),
    Workload(
        name="mixed",
        description="60,000 long-lived blocks among short-lived ones in each of two threads, 16 bytes to 16 KiB",
        heap=("--threads=2", "--short-lived=1000", "--long-lived=60000", "--long-period=16"),
        quick=("--operations=3000000",),
        full=("--operations=9000000",),
    ),
    Workload(
        name="varsize",
        description="log-uniform sizes of 16 bytes to 64 KiB in a window that drifts up and down, 6,000 slots",
        heap=("--slots=6000",),
        quick=("--operations=2000000", "--drifts=2"),
        full=("--operations=6000000", "--drifts=6"),
    ),
    Workload(
        name="crossthread",
        description="messages of 16 to 512 bytes freed by another thread: symmetric, one to three, three to one",
        heap=("--pattern=all", "--threads=3", "--window=120000", "--depth=16", "--smallest=16", "--largest=512"),
        quick=("--messages=500000",),
        full=("--messages=1500000",),
    ),
    Workload(
        name="larson-sized",
        description="larson by operator new and the operator delete that is told the size",
        heap=(
            *("--free=sized", "--threads=2", "--arrays=64", "--chunks=2048", "--smallest=8", "--largest=128"),
            "--replacements=20000",
        ),
        full=("--rounds=450",),
    ),
    Workload(
        name="churn",
        description="short threads, four at a time, that free what an earlier thread left and leave as much behind",
        heap=("--alive=4", "--parcels=512", "--blocks=200", "--working-set=50", "--operations=300"),
        full=("--threads=6000",),
    ),
    Workload(
        name="large",
        description="24 blocks of 32 KiB to 32 MiB, log-uniform, an eighth to the whole of each touched",
        heap=("--slots=24",),
        full=("--operations=2000",),
    ),
    Workload(
        name="buffers",
        description="1,000 buffers of 32 bytes to 1 MiB that grow through realloc: doubling, by half, by steps",
        heap=("--buffers=1000",),
        full=("--operations=300000",),
    ),
    Workload(
        name="phases",
        description="grows to 48 MiB, releases 85 % in random order, rests, grows again with blocks of other sizes",
        heap=("--peak-mib=48", "--kept-percent=15", "--rest-ms=100"),
        full=("--phases=4",),
    ),
    Workload(
        name="batches",
        description="batches of 100 blocks of 16 bytes to 2 KiB, freed at once by whichever of two threads is there",
        heap=("--pairs=2", "--depth=64"),
        full=("--batches=40000",),
    ),
    Workload(
        name="exchange",
        description="four threads swap blocks of 16 bytes to 256 KiB through a shared table and retain some per phase",
        heap=(
            *("--threads=4", "--own=5000", "--shared=2000", "--swap-period=3", "--retain-period=20"),
            "--operations=100000",
        ),
        full=("--phases=10",),
    ),
    Workload(
        name="tiny",
        description="bursts of 1 to 1,600 blocks of one size of 8 to 128 bytes, freed in three orders",
        heap=(),
        full=("--rounds=3000",),
    ),
    Workload(
        name="service",
        description="sixteen threads answer requests with blocks of all sizes to 64 KiB and keep some in a shared store",
        heap=("--threads=16", "--store=4096", "--store-period=2"),
        full=("--requests=6000",),
    ),
)

# Time in seconds that the micro benchmarks spend on each benchmark of a run.
MICRO_MIN_TIME_QUICK = "0.02"
MICRO_MIN_TIME_FULL = "0.1"


def drawn_workloads(count: int) -> list[Workload]:
    """Those of seeds 1 to `count`, the same in quick and full runs."""
    return [
        Workload(
            name=f"drawn-{seed}",
            description="threads, sizes, lifetimes, calls and who frees drawn from a seed; the program tells",
            heap=(),
            quick=(f"--seed={seed}",),
            full=(f"--seed={seed}",),
        )
        for seed in range(1, count + 1)
    ]


def selected_workloads(only: str | None, quick: bool, drawn: int | None = None) -> list[Workload]:
    """The workloads, or `drawn` drawn ones in their place, as far as `only` names them."""
    candidates = drawn_workloads(drawn) if drawn else WORKLOADS
    taking_part = [workload for workload in candidates if workload.quick or not quick]
    if only is None:
        return taking_part
    names = {workload.name for workload in taking_part}
    wanted = only.split(",")
    for name in wanted:
        if name not in names:
            where = " in quick runs" if quick else ""
            raise BenchError(f"--only {name}: no such test{where}; there are {', '.join(sorted(names))}")
    return [workload for workload in taking_part if workload.name in wanted]
