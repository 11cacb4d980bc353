"""Processes that the demo and its tests start, and that are gone when they end.

Every child gets a session of its own, so that Ctrl-C reaches only the demo,
which then stops the children in order; should the demo be killed outright, the
kernel kills them (PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import errno
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

PR_SET_PDEATHSIG = 1
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


class DemoError(Exception):
    """What went wrong, in one line for the user."""


def free_port(preferred=0, taken=()):
    """`preferred` if nobody has it on loopback, else any free port."""
    for port in (preferred, 0, 0, 0):
        if port in taken and port != 0:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            found = probe.getsockname()[1]
        if found not in taken:
            return found
    raise DemoError("no free port on 127.0.0.1")


def http_get(url, timeout=5.0):
    """The body of a URL on loopback; OSError when there is none."""
    # No proxy of the environment may stand between us and loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return response.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from None


@contextlib.contextmanager
def ending_signals_held_back():
    """Signals that end the demo come after this. Yields the mask of before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Processes:
    """Starts processes and, as a context manager, stops all of them."""

    def __init__(self, folder):
        self._folder = folder
        self._running = []  # (name, Popen), in order of start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop_all()

    def log_path(self, name):
        return os.path.join(self._folder, f"{name}.log")

    def start(self, name, arguments, environment=None):
        """Starts a process with its output in a log of the temporary folder."""
        # A signal in the middle would leave a process that stop_all() does not know.
        with ending_signals_held_back() as mask:
            process = self._start(name, arguments, environment or {}, mask)
            self._running.append((name, process))
        return process

    def _start(self, name, arguments, environment, signal_mask):
        parent = os.getpid()

        def die_with_parent():
            signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        # Nothing that the caller's shell preloads or asks of hakmem reaches the children by accident.
        merged = {key: value for key, value in os.environ.items()
                  if key != "LD_PRELOAD" and not key.startswith("HAKMEM_")} | environment
        try:
            with open(self.log_path(name), "wb") as log:
                return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=merged,
                                        start_new_session=True, preexec_fn=die_with_parent)
        except FileNotFoundError:
            raise DemoError(f"{arguments[0]} is not installed") from None
        except OSError as error:
            raise DemoError(f"cannot start {name}: {error.strerror}") from None

    def last_words(self, name):
        """The last line that a process wrote."""
        with open(self.log_path(name), encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1] if lines else "no output"

    def check(self):
        """Raises when a process has ended by itself."""
        for name, process in self._running:
            if process.poll() is not None:
                raise DemoError(f"{name} ended with status {process.returncode}: {self.last_words(name)}")

    def cause_of(self, error):
        """The end of a process if there was one: it explains a lost connection better than the connection does."""
        time.sleep(0.1 if isinstance(error, OSError) else 0)
        try:
            self.check()
        except DemoError as cause:
            return cause
        return error

    def wait_for(self, what, condition, seconds=15.0):
        """Polls until `condition()` is true; an OSError counts as not yet."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                if condition():
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > deadline:
                names = "; ".join(f"{name}: {self.last_words(name)}" for name, _ in self._running)
                raise DemoError(f"{what} did not come up within {seconds:.0f} s ({names})")
            time.sleep(0.05)

    def stop(self, process):
        """Stops one process."""
        self._stop([process])
        self._running = [(name, other) for name, other in self._running if other is not process]

    def stop_all(self):
        """Stops all processes, the last started first, each by its own pid."""
        self._stop([process for _, process in reversed(self._running)])
        self._running.clear()

    @staticmethod
    def _stop(processes):
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
