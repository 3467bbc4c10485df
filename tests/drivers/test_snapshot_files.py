"""Snapshots on a real disk: permissions, locks between processes, and disks that do not want to."""

import asyncio
import json
import os
import subprocess
import sys
import threading

import pytest

from ticketgate import Issuer, KeyPolicy, ResourceServer, averify, verify
from ticketgate.drivers import aio, blocking, files
from ticketgate.trusted_paths import trusted_folder

API = "https://api.example"


@pytest.fixture(params=["aio", "blocking"])
def judge(request):
    if request.param == "blocking":
        return lambda server, raw: verify(server, raw, driver=blocking.Driver())
    return lambda server, raw: asyncio.run(averify(server, raw, driver=aio.Driver()))


def worker(issuer, folder):
    return ResourceServer(API, Issuer(issuer.url, keys=KeyPolicy(snapshot=folder)))


def test_a_snapshot_is_for_its_owner_alone(issuer, tmp_path, judge):
    folder = tmp_path / "made" / "for it"
    judge(worker(issuer, folder), issuer.token())
    (written,) = folder.glob("*.json")
    assert written.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert json.loads(written.read_text())["issuer"] == issuer.url
    assert {path.suffix for path in folder.iterdir()} == {".json", ".lock"}
    judge(worker(issuer, folder), issuer.token())
    assert issuer.hits["/jwks"] == 1


def test_a_start_while_the_issuer_is_away(issuer, tmp_path, judge):
    judge(worker(issuer, tmp_path), issuer.token())
    issuer.break_everywhere(lambda connection: connection.answer(b"", 500))
    assert judge(worker(issuer, tmp_path), issuer.token()).subject == "alice"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_have_written_is_not_used(issuer, tmp_path, judge, mode, caplog):
    judge(worker(issuer, tmp_path), issuer.token())
    (written,) = tmp_path.glob("*.json")
    written.chmod(mode)
    judge(worker(issuer, tmp_path), issuer.token())
    assert "others may write to it" in caplog.text
    assert issuer.hits["/jwks"] == 2
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_file_without_end_is_not_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    path.chmod(0o600)
    assert files.load(str(path)) == b""


def test_a_folder_that_cannot_be_used_is_a_warning(issuer, tmp_path, judge, caplog):
    (tmp_path / "file").write_text("no folder")
    assert judge(worker(issuer, tmp_path / "file"), issuer.token()).subject == "alice"
    assert "cannot be shared" in caplog.text
    assert "cannot be written" in caplog.text
    (tmp_path / "folder.json").mkdir()
    assert files.load(str(tmp_path / "folder.json")) is None
    assert "folder.json is not used: it is not a regular file" in caplog.text


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_not_used(issuer, tmp_path, judge, mode, caplog):
    folder = tmp_path / "shared"
    judge(worker(issuer, folder), issuer.token())
    folder.chmod(mode)
    assert judge(worker(issuer, folder), issuer.token()).subject == "alice"
    assert "is not used: others may write to" in caplog.text
    assert "cannot be written: others may write to" in caplog.text
    assert "cannot be shared: others may write to" in caplog.text
    assert issuer.hits["/jwks"] == 2
    judge(worker(issuer, folder / "below"), issuer.token())
    assert judge(worker(issuer, folder / "below"), issuer.token()).subject == "alice"
    assert issuer.hits["/jwks"] == 3
    judge(worker(issuer, folder / "below" / "lower"), issuer.token())
    judge(worker(issuer, folder / "below" / "lower"), issuer.token())
    is_sticky = mode & 0o1000  # what is in it can be replaced by nobody else
    assert issuer.hits["/jwks"] == (4 if is_sticky else 5)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_somebody_else_is_not_used(issuer, tmp_path, judge, what, caplog, monkeypatch):
    folder = tmp_path / "theirs"
    judge(worker(issuer, folder), issuer.token())
    (written,) = folder.glob("*.json")
    owner, fstat = os.geteuid(), os.fstat
    stranger = {os.stat(folder if what == "folder" else written).st_ino}

    def seen(descriptor):
        status = fstat(descriptor)
        return os.stat_result((*status[:4], owner + 1 if status.st_ino in stranger else owner, *status[5:]))

    monkeypatch.setattr(os, "fstat", seen)
    assert judge(worker(issuer, folder), issuer.token()).subject == "alice"
    assert "belongs to another user" in caplog.text
    assert issuer.hits["/jwks"] == 2


@pytest.mark.parametrize(
    ("owner", "words"),
    [(0, ""), (1, "belongs to another user")],
)
@pytest.mark.parametrize("what", ["folder", "link"])
def test_the_way_to_the_folder_is_trusted_too(tmp_path, what, owner, words, caplog, monkeypatch):
    real, above = tmp_path / "real", tmp_path / "above"
    real.mkdir()
    if what == "link":
        above.symlink_to(real)
    else:
        above.mkdir()
    lstat, one = os.lstat, os.lstat(above).st_ino

    def seen(path):
        status = lstat(path)
        uid = status.st_uid + owner if status.st_ino == one else status.st_uid
        return os.stat_result((*status[:4], uid, *status[5:]))

    monkeypatch.setattr(os, "lstat", seen)
    path = str(above / "cache" / "x.json")
    files.save(path, b"{}")
    assert files.load(path) == (None if words else b"{}")
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)
    made = (real if what == "link" else above) / "cache"
    assert made.exists() == (not words)


@pytest.mark.parametrize("target", ["real", "../{folder}/./real", "{root}/real", "second"])
def test_links_of_ours_are_followed(tmp_path, target):
    (tmp_path / "real").mkdir()
    (tmp_path / "second").symlink_to("real")
    (tmp_path / "link").symlink_to(target.format(folder=tmp_path.name, root=tmp_path))
    assert trusted_folder(tmp_path / "link" / ".." / "real") == str(tmp_path / "real")
    files.save(str(tmp_path / "link" / "cache" / "x.json"), b"{}")
    assert (tmp_path / "real" / "cache" / "x.json").read_bytes() == b"{}"


def test_links_that_lead_nowhere_end(tmp_path, caplog):
    (tmp_path / "link").symlink_to("link")
    files.save(str(tmp_path / "link" / "cache" / "x.json"), b"{}")
    assert "too many symbolic links" in caplog.text


@pytest.mark.parametrize("what", ["folder", "file", "lock"])
def test_a_symbolic_link_is_not_followed(issuer, tmp_path, judge, what, caplog):
    real, folder = tmp_path / "real", tmp_path / "link"
    judge(worker(issuer, real), issuer.token())
    (written,) = real.glob("*.json")
    if what == "folder":
        folder.symlink_to(real)
    else:
        folder.mkdir(mode=0o700)
        name = written.name if what == "file" else f"{written.name}.lock"
        (folder / name).symlink_to(real / name)
    before = {path: path.stat().st_mtime_ns for path in real.iterdir()}
    assert judge(worker(issuer, folder), issuer.token()).subject == "alice"
    expected = {"folder": "its folder is a symbolic link", "file": "is not used", "lock": "cannot be shared"}
    assert expected[what] in caplog.text
    assert issuer.hits["/jwks"] == 2
    assert {path: path.stat().st_mtime_ns for path in real.iterdir()} == before


def test_a_pipe_is_not_waited_for(tmp_path, caplog):
    path = tmp_path / "x.json"
    os.mkfifo(path, 0o600)
    assert files.load(str(path)) is None
    assert "it is not a regular file" in caplog.text
    files.save(str(path), b"{}")
    assert files.load(str(path)) == b"{}"


def test_files_are_not_left_open(tmp_path):
    (tmp_path / "folder.json").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        files.load(str(tmp_path / "folder.json"))
        files.load(str(tmp_path / "nothing.json"))
        files.save(str(tmp_path / "folder.json"), b"{}")
        files.ProcessLock(str(tmp_path / "x.json")).release()
    assert len(os.listdir("/proc/self/fd")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"folder.json", "x.json.lock"}


def test_a_name_without_a_folder_is_in_the_current_one(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    files.save("x.json", b"{}")
    assert files.load("x.json") == b"{}"


FULL_DISK = """
import os, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from ticketgate import *
server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"], keys=KeyPolicy(snapshot=os.environ["FOLDER"])))
print(verify(server, os.environ["TOKEN"]).subject)
"""


def test_a_full_disk_refuses_nobody(issuer, tmp_path):
    env = os.environ | {"ISSUER": issuer.url, "FOLDER": str(tmp_path), "TOKEN": issuer.token()}
    env.pop("COVERAGE_PROCESS_CONFIG", None)  # what measures coverage writes files too
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], capture_output=True, text=True, env=env, timeout=60
    )
    assert (done.stdout, done.returncode) == ("alice\n", 0), done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))


HOLD = """
import sys
from ticketgate.drivers.files import ProcessLock
lock = ProcessLock(sys.argv[1])
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    path = str(tmp_path / "x.json")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        lock = files.ProcessLock(path)
        assert not lock.acquire()
        other.stdin.close()
        other.wait(10)
    assert lock.acquire()
    lock.release()


FORKED = """
import os, sys
from ticketgate.drivers.files import ProcessLock

def another():
    lock = ProcessLock(sys.argv[1])
    try:
        return lock.acquire()
    finally:
        lock.release()

lock = ProcessLock(sys.argv[1])
assert lock.acquire()
in_child, tell = os.pipe(), os.pipe()
child = os.fork()
if not child:
    before = another()                  # the parent holds it
    lock.release()                      # it is not the child's to release
    still = another()
    os.write(in_child[1], b"12"[before + still : before + still + 1])
    os.read(tell[0], 1)
    mine = lock.acquire()               # the parent let it go, and the child opens its own
    lock.release()
    os.write(in_child[1], b"ny"[mine : mine + 1])
    os.read(tell[0], 1)
    os._exit(0)
answers = os.read(in_child[0], 1)
lock.release()
os.write(tell[1], b".")
answers += os.read(in_child[0], 1)
print(answers.decode(), another())      # the child is there yet, and holds nothing
os.write(tell[1], b".")
os.waitpid(child, 0)
"""


def test_a_forked_child_neither_holds_nor_releases_its_parents_lock(tmp_path):
    command = [sys.executable, "-c", FORKED, str(tmp_path / "x.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1y True\n", "")


ORPHANED = """
import os, sys
from ticketgate.drivers.files import ProcessLock
lock = ProcessLock(sys.argv[1])
assert lock.acquire()
if os.fork():
    os._exit(0)  # the parent dies with the lock
print("there", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process_and_not_with_its_children(tmp_path):
    path = str(tmp_path / "x.json")
    command = [sys.executable, "-c", ORPHANED, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "there\n"
        assert parent.wait(10) == 0
        lock = files.ProcessLock(path)
        assert lock.acquire()
        lock.release()
        parent.stdin.close()


def test_whoever_waits_too_long_goes_on_without(issuer, tmp_path, judge):
    policy = KeyPolicy(snapshot=tmp_path, timeout=0.3)
    server = ResourceServer(API, Issuer(issuer.url, keys=policy))
    judge(worker(issuer, tmp_path), issuer.token())
    (written,) = tmp_path.glob("*.json")
    written.unlink()
    lock = files.ProcessLock(str(written))
    assert lock.acquire()
    try:
        assert judge(server, issuer.token()).subject == "alice"
    finally:
        lock.release()


def test_many_at_once_ask_once(issuer, tmp_path):
    issuer.faults["/jwks"] = lambda connection: (connection.pause(0.2), connection.answer(connection.body()))
    raw, subjects = issuer.token(), []
    threads = [
        threading.Thread(target=lambda: subjects.append(verify(worker(issuer, tmp_path), raw).subject))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert subjects == ["alice"] * 8
    assert issuer.hits["/jwks"] == 1


QUIET = """
import asyncio, os
from ticketgate import *
policy = KeyPolicy(snapshot=os.environ["FOLDER"])
server = ResourceServer("https://api.example", Issuer(os.environ["ISSUER"], keys=policy))
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    task = asyncio.create_task(averify(server, os.environ["TOKEN"]))
    await asyncio.sleep(float(os.environ["SECONDS"]))
asyncio.run(main(), debug=True)
print("ended")
"""


@pytest.mark.parametrize("seconds", ["0", "0.01", "0.2"])
def test_the_end_of_a_loop_is_quiet_at_any_moment(issuer, tmp_path, seconds):
    issuer.faults["/jwks"] = lambda connection: (connection.pause(0.5), connection.answer(connection.body()))
    env = {"ISSUER": issuer.url, "FOLDER": str(tmp_path), "TOKEN": issuer.token(), "SECONDS": seconds}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIET],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")
