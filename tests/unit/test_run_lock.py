"""Of two runs on one output, one goes on; a dead one's lock is no hindrance; who lost it is told."""

import contextlib
import dataclasses
import email.utils
import errno
import fcntl
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from audioclf import lock_files, run_lock, s3, s3_conditional, storage
from audioclf.errors import ConfigError, LockLostError, StorageError
from audioclf.lock_files import LocalLockFile, LockFile, S3LockFile
from audioclf.run_lock import Holder
from audioclf.s3 import Patience
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy

HOLD = """
import sys
from audioclf import run_lock
from audioclf.errors import ConfigError
print("ready", flush=True)
sys.stdin.readline()
try:
    with run_lock.hold(sys.argv[1], "tag"):
        print("held", flush=True)
        sys.stdin.readline()
except ConfigError as error:
    print(error, flush=True)
"""


class Run:
    """A process that takes a lock when it is told to, and releases it when it is told to."""

    def __init__(self, uri: str):
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, uri], **pipes)
        assert self.said() == "ready"

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def held(self) -> "Run":
        self.go_on()
        assert self.said() == "held"
        return self

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[str], Run]]:
    with contextlib.ExitStack() as ends:

        def started(uri: str) -> Run:
            run = Run(uri)
            ends.callback(run.end)
            return run

        yield started


@pytest.fixture
def local(tmp_path: Path) -> str:
    return storage.to_uri(str(tmp_path / "out put" / "lock.json"))


@pytest.fixture
def remote(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/output/lock.json"


@pytest.fixture(params=["local", "remote"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def file_of(uri: str) -> LockFile:
    path = storage.local_path(uri)
    return S3LockFile(uri, "token", 0) if path is None else LocalLockFile(path, 0)


def content_of(uri: str) -> dict[str, Any]:
    return json.loads(storage.read_bytes(uri))


def names_beside(uri: str) -> set[str]:
    """Hidden ones as well."""
    path = storage.local_path(uri)
    if path is not None:
        return {file.name for file in path.parent.iterdir()}
    return {name.rsplit("/", 1)[-1] for name in storage.names_in(uri.rsplit("/", 1)[0])}


def leave(uri: str, **changes: Any) -> Holder:
    """A lock of another host's run, or one with these differences to this very process."""
    here = dataclasses.replace(run_lock._this_process(), token="theirs", job="tag", expiry_s=100.0)
    holder = dataclasses.replace(here, **(changes or {"host": "elsewhere"}))
    storage.write_bytes(uri, holder.to_bytes())
    return holder


def set_back(uri: str, seconds: float) -> None:
    """As if a local file had been written earlier."""
    path = storage.local_path(uri)
    assert path is not None
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def no_flock(handle: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def no_flock_of_folders(handle: int, operation: int, flock: Callable[[int, int], None] = fcntl.flock) -> None:
    """As NFS."""
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(handle, operation)


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


# --- One run at a time


def test_the_second_is_told_who_holds_it(uri: str, start: Callable[[str], Run]) -> None:
    first = start(uri).held()
    before = storage.read_bytes(uri)
    with pytest.raises(ConfigError) as caught, run_lock.hold(uri, "tag"):
        pass
    said = (
        f"job tag on {os.uname().nodename}, process {first.process.pid}, since {content_of(uri)['since']}, last "
        r"heartbeat \d+ s ago. Wait until it has ended. If it is certainly dead, the next run goes ahead 120 s after "
        f"that heartbeat, or at once if you remove {storage.display(uri)}"
    )
    assert re.search(said.replace("+00:00", r"\+00:00"), str(caught.value))
    assert storage.read_bytes(uri) == before
    first.go_on()
    assert first.process.wait() == 0
    with run_lock.hold(uri, "tag"):
        pass


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, LockLostError])
def test_it_is_released_whatever_happens(local: str, error: type[BaseException] | None) -> None:
    with contextlib.suppress(*[error] if error else []), run_lock.hold(local, "tag"):
        assert names_beside(local) == {"lock.json"}
        if error:
            raise error
    assert names_beside(local) == set()
    assert "run lock" not in {thread.name for thread in threading.enumerate()}


def test_nothing_is_left_on_s3(remote: str) -> None:
    with run_lock.hold(remote, "tag") as lock:
        lock.check()
        assert names_beside(remote) == {"lock.json"}
    assert names_beside(remote) == set()


def test_a_folder_that_cant_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), run_lock.hold(storage.to_uri(str(tmp_path / "file/lock")), "tag"):
        pass


# --- Left behind by the dead


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_is_taken_over_from_at_once(
    uri: str, start: Callable[[str], Run], reaped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(uri).held()
    os.kill(run.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, run.process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie
    if reaped:
        run.process.wait()
    with run_lock.hold(uri, "tag") as lock:
        lock.check()
        assert content_of(uri)["pid"] == os.getpid()
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "taken over from job tag" in warning
    assert f"process {run.process.pid}, " in warning
    assert "process is dead" in warning
    assert not storage.exists(uri)


@pytest.mark.parametrize("changes", [{"started": "1"}, {"boot": "another", "machine": "m"}], ids=["pid", "boot"])
def test_a_process_number_used_again_is_not_its_holder(
    local: str, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {**run_lock._this_host(), "machine": "m"}
    monkeypatch.setattr(run_lock, "_this_host", lambda: here)
    leave(local, **changes)
    with run_lock.hold(local, "tag"):
        assert content_of(local)["token"] != "theirs"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere", "pid": 2**22 + 1},
        {"boot": "another", "machine": ""},
        {"boot": "another", "machine": "a namesake"},
        {"boot": "", "pid": 2**22 + 1},
        {"pid_namespace": "pid:[1]", "pid": 2**22 + 1},
        {"job": "itself"},
        {"pid": 1, "started": ""},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_may_live_is_left_alone_until_it_expires(
    local: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "machine" in changes:
        here = {**run_lock._this_host(), "machine": changes["machine"] and "m"}
        monkeypatch.setattr(run_lock, "_this_host", lambda: here)
    if changes.get("pid") == 1:  # of another user, whose processes /proc does not show
        monkeypatch.setattr(run_lock, "_stat", lambda _: None)
    leave(local, **changes)
    set_back(local, 50)
    with pytest.raises(ConfigError, match="another run is writing this output"), run_lock.hold(local, "tag"):
        pass
    assert content_of(local)["token"] == "theirs"
    set_back(local, 51)
    with run_lock.hold(local, "tag"):
        assert content_of(local)["token"] != "theirs"


def test_it_expires_on_s3_by_the_clock_of_the_store(remote: str) -> None:
    leave(remote)
    later_s = 50

    def answer(response_dict: Any, **_: object) -> None:
        headers = response_dict["headers"]
        written = email.utils.parsedate_to_datetime(headers["Last-Modified"])
        headers["Date"] = email.utils.format_datetime(written + timedelta(seconds=later_s), usegmt=True)

    s3.client(s3.FIRST_CONTACT).meta.events.register("before-parse.s3.HeadObject", answer)
    assert file_of(remote).age_s() == 50
    with pytest.raises(ConfigError, match="last heartbeat 50 s ago"), run_lock.hold(remote, "tag"):
        pass
    later_s = 100
    with run_lock.hold(remote, "tag"):
        assert content_of(remote)["token"] != "theirs"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}', b"\xff\xfe"])
def test_a_damaged_lock_expires(local: str, content: bytes) -> None:
    storage.write_bytes(local, content)
    with pytest.raises(ConfigError, match="unknown run"), run_lock.hold(local, "tag"):
        pass
    set_back(local, 121)
    with run_lock.hold(local, "tag"):
        assert content_of(local)["job"] == "tag"


# --- Heartbeats


def test_a_heartbeat_makes_the_lock_young(local: str) -> None:
    with run_lock.hold(local, "tag") as lock:
        first = content_of(local)
        set_back(local, 1_000)
        lock.beat()
        second = content_of(local)
        age_s = file_of(local).age_s()
    assert first.pop("heartbeat") < second.pop("heartbeat")
    assert first == second
    assert age_s is not None
    assert age_s < 300


def test_heartbeats_go_on_by_themselves(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = threading.Semaphore(0)
    beat = run_lock.RunLock.beat
    monkeypatch.setattr(run_lock.RunLock, "beat", lambda lock: (beat(lock), enough.release()))
    with run_lock.hold(uri, "tag", heartbeat_s=0.001) as lock:
        first = content_of(uri)["heartbeat"]
        for _ in range(3):
            assert enough.acquire(timeout=60)
        assert content_of(uri)["heartbeat"] > first
        lock.check()
    assert not storage.exists(uri)


def test_who_was_taken_over_from_is_told(uri: str) -> None:
    with run_lock.hold(uri, "tag") as lock:
        leave(uri)
        lock.check()
        lock.beat()
        for _ in range(2):
            with pytest.raises(LockLostError, match="taken over by another run: job tag on elsewhere") as caught:
                lock.check()
            assert storage.display(uri) in str(caught.value)
    assert content_of(uri)["token"] == "theirs"  # not removed


def test_the_heart_stops_once_the_lock_is_lost(local: str) -> None:
    with run_lock.hold(local, "tag", heartbeat_s=0.001) as lock:
        # Looked for before the lock is lost: it may stop at once.
        [heart] = [thread for thread in threading.enumerate() if thread.name == "run lock"]
        leave(local)
        heart.join(60)
        assert not heart.is_alive()
        with pytest.raises(LockLostError, match="elsewhere"):
            lock.check()


def test_a_lock_removed_by_hand_is_written_again(uri: str) -> None:
    with run_lock.hold(uri, "tag") as lock:
        storage.remove(uri)
        lock.beat()
        lock.check()
        assert content_of(uri)["pid"] == os.getpid()


def test_a_lock_that_is_gone_after_it_expired_is_lost(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept; meanwhile another run has taken over and ended."""
    now_s = 0.0
    monkeypatch.setattr(run_lock.time, "clock_gettime", lambda _: now_s)
    with run_lock.hold(uri, "tag") as lock:
        storage.remove(uri)
        now_s = 121.0
        lock.beat()
        with pytest.raises(LockLostError, match="gone after it had expired"):
            lock.check()
    assert not storage.exists(uri)


def test_failing_heartbeats_are_borne_until_it_expires(
    remote: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_CONTACT", Patience(0.01, 30))
    now_s = 0.0
    monkeypatch.setattr(run_lock.time, "clock_gettime", lambda _: now_s)
    failed = threading.Event()
    monkeypatch.setattr(run_lock.log, "warning", lambda *_: failed.set())
    with run_lock.hold(remote, "tag", heartbeat_s=0.001) as lock:
        proxy.faults = lambda *_: fault_proxy.INTERNAL_ERROR
        assert failed.wait(60)
        now_s = 119.0
        lock.check()
        now_s = 121.0
        with pytest.raises(LockLostError, match="no heartbeat could be written for 121 s"):
            lock.check()
        proxy.faults = lambda *_: None
        with pytest.raises(LockLostError):  # from then on, even if heartbeats are written again
            lock.check()


# --- Several at once


def outcomes(uri: str, n: int) -> list[str]:
    """What comes of n threads that want one lock at the same time."""
    begun, tried = threading.Barrier(n, timeout=60), threading.Barrier(n, timeout=60)

    def run(_: int) -> str:
        begun.wait()
        try:
            with run_lock.hold(uri, "tag") as lock:
                tried.wait()
                lock.check()
                return "held"
        except ConfigError:
            tried.wait()
            return "refused"

    with ThreadPoolExecutor(n) as pool:
        return sorted(pool.map(run, range(n)))


@pytest.mark.parametrize("flock", [fcntl.flock, no_flock_of_folders])
@pytest.mark.parametrize("stale", [True, False])
def test_one_of_many_threads_gets_it(
    local: str, stale: bool, flock: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_files.fcntl, "flock", flock)
    monkeypatch.setattr(lock_files.time, "sleep", pytest.fail)  # there is a flock: no need to wait
    for _ in range(25):
        if stale:
            leave(local, started="1")
        assert outcomes(local, 8) == ["held", *["refused"] * 7]
        assert names_beside(local) <= {".lock.json.flock"}


@pytest.mark.parametrize("stale", [True, False])
def test_one_of_many_processes_gets_it(local: str, start: Callable[[str], Run], stale: bool) -> None:
    for _ in range(2):
        if stale:
            leave(local, started="1")
        runs = [start(local) for _ in range(4)]
        for run in runs:
            run.go_on()
        said = sorted(run.said() for run in runs)
        assert [words[:30] for words in said] == [*["another run is writing this ou"] * 3, "held"]
        for run in runs:
            run.process.communicate("\n")
        assert names_beside(local) == set()


@pytest.mark.parametrize("lacking", ["nothing", "flock", "links", "both"])
def test_who_is_late_takes_nothing(uri: str, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking in ("flock", "both"):
        monkeypatch.setattr(lock_files.fcntl, "flock", no_flock)
    if lacking in ("links", "both"):
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    late, quick = file_of(uri), file_of(uri)
    assert late.create(b"stale")
    assert not quick.create(b"another")
    before = late.read()
    assert quick.read() == before == b"stale"
    assert quick.take_over(b"quick", b"stale")
    assert not late.take_over(b"late", b"stale")
    assert not late.renew(b"late", b"stale")
    assert storage.read_bytes(uri) == b"quick"
    assert quick.read() == b"quick"
    assert quick.renew(b"on", b"quick")
    assert storage.read_bytes(uri) == b"on"
    quick.remove()
    quick.remove()
    assert not late.renew(b"late", b"stale")
    assert not late.take_over(b"late", b"stale")
    assert late.age_s() is None
    assert names_beside(uri) <= {".lock.json.flock"}


def test_who_wrote_between_looking_and_taking_over_has_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(uri, started="1")
    cls = type(file_of(uri))
    take_over = cls.take_over

    def too_late(file: LockFile, data: bytes, before: bytes) -> bool:
        monkeypatch.setattr(cls, "take_over", take_over)
        leave(uri, token="quick", host="elsewhere")
        return take_over(file, data, before)

    monkeypatch.setattr(cls, "take_over", too_late)
    with pytest.raises(ConfigError, match="on elsewhere"), run_lock.hold(uri, "tag"):
        pass
    assert content_of(uri)["token"] == "quick"


def require_the_last_to_write_has_it(uri: str, is_stale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run writes its lock while this one waits to see whose it is."""
    if is_stale:
        leave(uri, started="1")
    waited = []
    monkeypatch.setattr(lock_files.time, "sleep", lambda seconds: (waited.append(seconds), leave(uri, token="last")))
    with pytest.raises(ConfigError), run_lock.hold(uri, "tag"):
        pass
    assert waited == [2.0]
    assert content_of(uri)["token"] == "last"


@pytest.mark.parametrize("is_stale", [True, False])
def test_without_flock_it_is_whose_it_is_after_a_moment(
    local: str, is_stale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_files.fcntl, "flock", no_flock)
    require_the_last_to_write_has_it(local, is_stale, monkeypatch)


# --- Stores


def bend_conditions(bend: Callable[[Any], None]) -> None:
    """Change the headers of PUT requests on their way to the store."""
    events = s3.client(s3.FIRST_CONTACT).meta.events
    events.register("before-sign.s3.PutObject", lambda request, **_: bend(request.headers))


def ignoring(*names: str) -> Callable[[Any], None]:
    """A store that knows no such headers."""

    def drop(headers: Any) -> None:
        for name in names:
            del headers[name]

    return drop


def bare_only(headers: Any) -> None:
    """A store that compares the text of If-Match with an ETag without quotes."""
    if '"' in headers.get("If-Match", ""):
        headers.replace_header("If-Match", "never")


@pytest.mark.parametrize(
    ("bend", "quotes"),
    [
        (lambda _: None, '"'),
        (bare_only, ""),
        (ignoring("If-Match"), None),
        (ignoring("If-None-Match"), None),
        (ignoring("If-Match", "If-None-Match"), None),
    ],
    ids=["all", "bare", "no If-Match", "no If-None-Match", "none"],
)
def test_conditions_are_relied_on_only_where_they_hold(remote: str, bend: Any, quotes: str | None) -> None:
    bend_conditions(bend)
    assert s3_conditional.proven_quotes(remote + ".probe-x") == quotes
    assert names_beside(remote) == set()
    with run_lock.hold(remote, "tag", settle_s=0) as lock:
        lock.beat()
        with pytest.raises(ConfigError), run_lock.hold(remote, "tag", settle_s=0):
            pass
        lock.check()
    leave(remote, started="1")
    with run_lock.hold(remote, "tag", settle_s=0) as lock:
        lock.beat()
        lock.check()
        assert content_of(remote)["token"] != "theirs"
    assert names_beside(remote) == set()


@pytest.mark.parametrize("status", [400, 501])
def test_a_store_that_refuses_conditions_is_used_without(
    remote: str, proxy: FaultProxy, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = Fault(status=status, code="NotImplemented", asked=False)
    proxy.faults = lambda index, method, path: refusal if method == "PUT" and "probe" in path else None
    with run_lock.hold(remote, "tag", settle_s=0.01) as lock:
        lock.beat()
        lock.check()
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "two runs that begin within 0.0 s of each other may both go on" in warning


@pytest.mark.parametrize("stale", [True, False])
def test_without_conditions_the_last_to_write_has_it(remote: str, stale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bend_conditions(ignoring("If-Match", "If-None-Match"))
    require_the_last_to_write_has_it(remote, stale, monkeypatch)


def test_lost_answers_do_not_confuse(remote: str, proxy: FaultProxy) -> None:
    """A PUT made again after its answer was lost is refused, though it did what it should."""
    lost: set[str] = set()

    def lose(index: int, method: str, path: str) -> Fault | None:
        if method != "PUT" or path in lost:
            lost.discard(path)
            return None
        lost.add(path)
        return fault_proxy.LOST_ANSWER

    proxy.faults = lose
    with run_lock.hold(remote, "tag") as lock:
        lock.beat()
        lock.check()
        assert content_of(remote)["pid"] == os.getpid()
    assert names_beside(remote) == set()
    leave(remote, started="1")
    with run_lock.hold(remote, "tag") as lock:
        lock.check()
    assert names_beside(remote) == set()


def test_no_bucket_is_bad_usage(remote: str) -> None:
    gone = urllib.parse.urlsplit(remote)._replace(netloc="no-such-bucket").geturl()
    with pytest.raises(ConfigError, match="no such bucket"), run_lock.hold(gone, "tag"):
        pass
