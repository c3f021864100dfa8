"""One run at a time on one output: a lock file with a heartbeat.

A run that dies leaves its lock behind. On the same host its process is seen to be dead, and the next run takes the
lock over at once; elsewhere once the heartbeat is too old by the clock of the store, which is the same for all.

How the file changes hands without two runs winning: lock_files.py.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from audioclf import storage
from audioclf.errors import AudioclfError, ConfigError, LockLostError, StorageError
from audioclf.lock_files import LocalLockFile, LockFile, S3LockFile

log = logging.getLogger("audioclf")

HEARTBEAT_S, EXPIRY_S = 20.0, 120.0
SETTLE_S = 2.0
"""Between writing a lock and reading whose it is, where no step excludes other runs."""

_TRIES = 5
"""Of reading and writing: a step that is refused since another run was faster is followed by reading again."""
_UNKNOWN = "an unknown run (its lock file is damaged)"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


@contextlib.contextmanager
def hold(
    uri: str, job: str, *, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S, settle_s: float = SETTLE_S
) -> Iterator["RunLock"]:
    """Hold a lock while the with-block runs; `check` it before whatever two runs must not both do.

    Args:
        uri: of the lock file, below the output that one run at a time may write.
        job: who holds it, for others to read.
        heartbeat_s: seconds from one heartbeat to the next.
        expiry_s: seconds without a heartbeat after which another run may take the lock over.
        settle_s: seconds to wait for other runs' locks on a store without conditional PUT or flock.

    Raises:
        ConfigError: another run holds it.
        StorageError: the lock can't be read or written.
    """
    holder = dataclasses.replace(_this_process(), token=secrets.token_hex(16), job=job, expiry_s=expiry_s)
    path = storage.local_path(uri)
    file = S3LockFile(uri, holder.token, settle_s) if path is None else LocalLockFile(path, settle_s)
    lock = RunLock(storage.display(uri), file, holder)
    stop = threading.Event()
    heart = threading.Thread(target=lock.beat_until, args=(stop, heartbeat_s), name="run lock", daemon=True)
    try:
        lock.acquire()
        heart.start()
        yield lock
    finally:
        stop.set()
        if heart.ident is not None:
            heart.join()  # a later heartbeat would write the lock anew
        lock.release()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: the content of its file."""

    token: str
    job: str
    host: str
    machine: str
    """/etc/machine-id; "" where there is none, as in most containers."""
    boot: str
    """Of the kernel; "" where it does not tell."""
    pid_namespace: str
    """Process numbers mean something within one only."""
    pid: int
    started: str
    """When the process began, in ticks since boot: a number that is used again is another process."""
    since: str
    heartbeat: str
    expiry_s: float

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """The holder by its lock file; None for a damaged one."""
        try:
            fields = json.loads(content)
            kept = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
            return cls(**{**kept, "pid": int(kept["pid"]), "expiry_s": float(kept["expiry_s"])})
        except (ValueError, TypeError, KeyError):
            return None

    def to_bytes(self) -> bytes:
        """The lock file with a heartbeat of now."""
        return (json.dumps({**dataclasses.asdict(self), "heartbeat": _now()}, indent=2) + "\n").encode()

    def __str__(self) -> str:
        return f"job {self.job} on {self.host}, process {self.pid}, since {self.since}"

    def death(self) -> str | None:
        """How its process is known to be dead; None if it lives or can't be seen from here."""
        here = _this_process()
        if not self.boot or not here.boot or self.host != here.host:
            return None
        if self.boot != here.boot:
            # Two machines may have one name; those that know who they are can tell a restart from that.
            return "its host was started anew" if self.machine and self.machine == here.machine else None
        if self.pid_namespace != here.pid_namespace:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "its process is dead"
        except (PermissionError, OverflowError):
            pass
        stat = _stat(self.pid)  # None where the processes of others are hidden
        return "its process is dead" if stat and (stat[0] in "ZX" or stat[1] != self.started) else None


class RunLock:
    """A lock that this run holds, or wants to."""

    def __init__(self, name: str, file: LockFile, holder: Holder):
        self._name, self._file, self._holder = name, file, holder
        self._lost: str | None = None
        self._last_good_s: float | None = None  # before it was written; None: never

    def check(self) -> None:
        """Go on only while the lock is still this run's.

        Raises:
            LockLostError: another run has it, or may have it since no heartbeat could be written.
        """
        silent_s = self._silent_s()
        if self._lost is None and silent_s > self._holder.expiry_s:
            self._lost = f"no heartbeat could be written for {silent_s:.0f} s, so that another run may have taken over"
        if self._lost is not None:
            raise LockLostError(
                f"{self._name}: {self._lost}; this run ends. What it has committed stays; run it again later"
            )

    def _silent_s(self) -> float:
        """Since the last heartbeat that is known to be written."""
        assert self._last_good_s is not None, "not acquired"
        return time.clock_gettime(_CLOCK) - self._last_good_s

    def acquire(self) -> None:
        """Get the lock, taking it over where its holder is dead or silent. Raises as `hold`."""
        taken: str | None = None
        for _ in range(_TRIES):
            content = self._file.read()
            if content is None:
                taken = None
                self._file.create(self._first_beat())
                continue
            holder = Holder.parse(content)
            if holder is not None and holder.token == self._holder.token:
                if taken is not None:
                    log.warning("%s: %s", self._name, taken)
                return
            why = self._why_free(holder)
            if why is not None:
                taken = f"taken over from {holder or _UNKNOWN}: {why}"
                self._file.take_over(self._first_beat(), content)
        raise StorageError(f"{self._name}: this lock can't be had: what is read is not what was written")

    def _first_beat(self) -> bytes:
        self._last_good_s = time.clock_gettime(_CLOCK)
        return self._holder.to_bytes()

    def _why_free(self, holder: Holder | None) -> str | None:
        """Why a lock may be taken over, None if it is gone by now. Raises ConfigError if it may not."""
        death = holder and holder.death()
        if death:
            return death
        age_s, expiry_s = self._file.age_s(), (holder or self._holder).expiry_s
        if age_s is None:
            return None
        if age_s >= expiry_s:
            return f"its last heartbeat is {age_s:.0f} s old"
        raise ConfigError(
            f"another run is writing this output: {holder or _UNKNOWN}, last heartbeat {age_s:.0f} s ago. Wait until "
            f"it has ended. If it is certainly dead, the next run goes ahead {expiry_s:.0f} s after that heartbeat, or "
            f"at once if you remove {self._name}"
        )

    def beat_until(self, stop: threading.Event, heartbeat_s: float) -> None:
        """Write a heartbeat now and then, until told to stop or another run has the lock."""
        while self._lost is None and not stop.wait(heartbeat_s):
            try:
                self.beat()
            except AudioclfError as error:
                log.warning("%s: no heartbeat: %s", self._name, error)

    def beat(self) -> None:
        """Write a heartbeat, or find out that the lock is another's.

        Raises:
            StorageError, ConfigError: it can't be read or written.
        """
        sent, sent_s = b"", 0.0
        for _ in range(_TRIES):
            content = self._file.read()
            if content == sent and sent:  # written, only the answer was lost
                self._last_good_s = sent_s
                return
            holder = None if content is None else Holder.parse(content)
            if content is not None and (holder is None or holder.token != self._holder.token):
                self._lost = f"taken over by another run: {holder or _UNKNOWN}"
                return
            if content is None and self._silent_s() > self._holder.expiry_s:
                self._lost = "gone after it had expired, so that another run may have taken over, and ended"
                return
            sent, sent_s = self._holder.to_bytes(), time.clock_gettime(_CLOCK)
            # None: removed by hand, and no other run has come.
            if self._file.create(sent) if content is None else self._file.renew(sent, content):
                self._last_good_s = sent_s
                return
        raise StorageError(f"{self._name}: the heartbeat is not written; check the store")

    def release(self) -> None:
        """Remove the lock if it is this run's."""
        if self._last_good_s is None or self._lost is not None:
            return
        try:
            self.beat()  # makes sure of it, and that nobody takes it over before it is gone
            if self._lost is None:
                self._file.remove()
        except AudioclfError as error:
            log.warning("%s: not removed, it expires by itself: %s", self._name, error)


@functools.cache
def _this_host() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
    }


def _this_process() -> Holder:
    """The holder that this process would be, without token and job."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it is no path)
    except OSError:
        namespace = ""
    pid = os.getpid()
    started = (_stat(pid) or ("", ""))[1]
    return Holder("", "", **_this_host(), pid_namespace=namespace, pid=pid, started=started, since=_now(),
                  heartbeat="", expiry_s=0)  # fmt: skip


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start of a process; None where /proc does not show it. Source: proc(5), fields 3 and 22."""
    after_name = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (after_name[0], after_name[19]) if after_name else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
