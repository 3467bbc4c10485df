"""Where an issuer keeps its private keys: whose file it is, who locks it, and what two processes make of one."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import warnings

import pytest

from ticketgate.errors import ConfigurationError
from ticketgate.issuing.server import load_keys, save_keys
from ticketgate.issuing.stores import MemoryStore, SQLiteStore

LATER = 9e9
BESIDE = ["issuer.db-wal", "issuer.db-shm", "issuer.db-journal"]


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder / "issuer.db"


def refused(path, words):
    with pytest.raises(ConfigurationError, match=rf"{words}.* must belong to this user or root"):
        SQLiteStore(path)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(path, mode):
    path.parent.chmod(mode)
    refused(path, "others may write to")
    assert not path.exists()
    path.parent.chmod(0o755)
    SQLiteStore(path).close()


def test_a_folder_above_that_others_may_write_to_is_refused(path):
    path.parent.parent.chmod(0o777)
    refused(path, "others may write to")
    path.parent.parent.chmod(0o1777)
    SQLiteStore(path).close()


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
@pytest.mark.parametrize("name", ["issuer.db", *BESIDE])
def test_a_file_that_others_may_have_written_is_refused(path, name, mode):
    planted = path.with_name(name)
    planted.touch()
    planted.chmod(mode)
    refused(path, "others may write to")


@pytest.mark.parametrize("name", ["private", "issuer.db", *BESIDE])
@pytest.mark.parametrize("uid", [0, 4711])
def test_what_belongs_to_another_user_is_refused(path, name, uid, monkeypatch):
    """Root may open whatever others own, so it is the owner that counts and not whether it can be opened."""
    planted = path.parent if name == "private" else path.with_name(name)
    if planted != path.parent:
        planted.touch(0o600)
    lstat, one = os.lstat, os.lstat(planted).st_ino

    def seen(path):
        status = lstat(path)
        return os.stat_result((*status[:4], uid if status.st_ino == one else status.st_uid, *status[5:]))

    monkeypatch.setattr(os, "lstat", seen)
    if uid:
        refused(path, "belongs to another user")
    else:
        SQLiteStore(path).close()


@pytest.mark.parametrize("name", ["issuer.db", *BESIDE])
def test_a_link_is_refused(path, name):
    path.with_name(name).symlink_to(path.with_name("elsewhere"))
    refused(path, "is not a regular file")
    assert not path.with_name("elsewhere").exists()


def test_what_others_could_read_they_cannot_any_more(path):
    SQLiteStore(path).close()
    for name in ["issuer.db", *BESIDE]:
        path.with_name(name).touch()
        path.with_name(name).chmod(0o644)
    store = SQLiteStore(path)
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}
    store.close()


def test_a_closed_store_stays_closed(path):
    store = SQLiteStore(path)
    store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        store.get("a", "b", 0)


def test_a_path_means_the_same_after_a_change_of_the_folder(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    store = SQLiteStore("issuer.db")
    store.put("a", "b", {})
    monkeypatch.chdir("/")
    assert SQLiteStore(path).get("a", "b", 0) == {}
    store.close()


ANOTHER_PROCESS = """
import sys
from ticketgate.issuing.stores import SQLiteStore
store = SQLiteStore(sys.argv[1])
print(store.add("assertion", sys.argv[2], 9e9, 1.0))
store.close()
"""


def elsewhere(path, name):
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(path), name]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() == "True"


def test_a_second_store_in_a_process_leaves_the_locks_of_the_first(path):
    one, other = SQLiteStore(path), SQLiteStore(path)
    assert one.add("assertion", "x", LATER, 1)
    assert elsewhere(path, "y")  # its end would delete the log that ours is still writing to
    assert one.add("assertion", "z", LATER, 1)
    assert not elsewhere(path, "z")
    assert not other.add("assertion", "z", LATER, 1)
    one.close()
    other.close()


def in_a_child(work):
    """What ``work`` returns, as text, in a forked child that ends as others do."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if not child:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_has_a_connection_of_its_own(path):
    store = SQLiteStore(path)
    assert store.add("assertion", "before", LATER, 1)

    def work():
        ended = elsewhere(path, "third")
        return ended, store.add("assertion", "child", LATER, 1), elsewhere(path, "child")

    assert in_a_child(work) == "(True, True, False)"
    assert not store.add("assertion", "child", LATER, 1)
    assert not store.add("assertion", "before", LATER, 1)
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_that_python_is_not_told_of_leaves_the_parents_connection_alone(path, monkeypatch):
    store = SQLiteStore(path)
    inherited = store._database._connection
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert store.add("assertion", "x", LATER, 1)
    assert store._database._connection is not inherited
    store.close()
    assert inherited.execute("SELECT count(*) FROM entries").fetchall() == [(1,)]
    inherited.close()


def first_key(path, start, found):
    start.wait(30)
    store = SQLiteStore(path)
    ring = load_keys(store, "ES256")
    found.put((ring.signing.kid, load_keys(store).signing.kid))
    store.close()


def test_processes_that_start_at_once_sign_with_one_key(path):
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(4), context.Queue()
    processes = [context.Process(target=first_key, args=(path, start, found)) for _ in range(4)]
    for process in processes:
        process.start()
    keys = [found.get(timeout=180) for _ in processes]
    for process in processes:
        process.join(60)
    assert len({kid for pair in keys for kid in pair}) == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_key_that_another_process_saved_meanwhile_is_used(path, kind):
    class Raced(MemoryStore if kind == "memory" else SQLiteStore):
        """Another process is ahead: what it saved was not there yet when we looked."""

        looked = False

        def get(self, kind, name, now):
            if not self.looked:
                self.looked = True
                self.theirs = load_keys(self, "ES256")
                return None
            return super().get(kind, name, now)

    store = Raced() if kind == "memory" else Raced(path)
    assert load_keys(store, "ES256").signing.kid == store.theirs.signing.kid
    ring = load_keys(store)
    ring.rotate()
    save_keys(store, ring)
    assert load_keys(store).signing.kid == ring.signing.kid


def test_what_is_added_is_found_without_a_look_at_everything(path):
    store = SQLiteStore(path)
    statements = []
    store._database._connection.set_trace_callback(statements.append)
    assert store.add("assertion", "x", 10, 1)
    store.put("token", "x", {}, 10)
    plans = [
        " ".join(row[3] for row in store._run(f"EXPLAIN QUERY PLAN {one}"))
        for one in list(statements)
        if not one.startswith("EXPLAIN")
    ]
    assert len(plans) == 4
    assert [plan for plan in plans if "SCAN" in plan.replace("SCAN CONSTANT", "")] == []
    store.close()


def test_few_are_forgotten_at_a_time(path):
    store = SQLiteStore(path)
    for number in range(30):
        store.add("a", str(number), 10, 1)
    store.add("a", "new", 30, 20)
    assert len(store.all("a")) == 21
    for _ in range(3):
        store.add("a", "new", 30, 20)
    assert store.all("a").keys() == {"new"}
    store.close()
