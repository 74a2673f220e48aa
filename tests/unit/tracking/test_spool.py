"""Records on disk until the store has taken them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.tracking.spool import Spool, abandoned, any_waiting

HEADER = {"name": "meta train", "store": "s", "key": "k"}


def test_records_come_back_in_order_and_the_space_is_given_back(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    empty = spool.path.stat().st_size
    for number in range(100):
        spool.append({"number": number})
    records, position = spool.read()
    assert [record["number"] for record in records] == list(range(100))
    spool.append({"number": 100})
    spool.delivered(position)
    assert spool.path.stat().st_size > empty, "one record still waits"
    records, position = spool.read()
    assert records == [{"number": 100}]
    spool.delivered(position)
    assert spool.path.stat().st_size == empty and spool.pending_bytes == 0
    spool.release(remove=True)
    assert not any_waiting(tmp_path)


def test_a_record_larger_than_a_read_is_read_whole(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    spool.append({"text": "x" * 10_000})
    spool.append({"text": "y"})
    records, position = spool.read(max_bytes=64)
    assert records[0] == {"text": "x" * 10_000}
    spool.delivered(position)
    rest = spool.read()[0]
    assert (records + rest)[-1] == {"text": "y"}
    spool.release(remove=True)


def test_the_spool_of_a_living_process_is_nobody_elses(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    code = (
        "from pathlib import Path\n"
        "from pipeline.tracking.spool import abandoned\n"
        f"print(len(list(abandoned(Path({str(tmp_path)!r}), 's'))))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0\n"
    spool.release(remove=False)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


def test_what_a_killed_process_wrote_is_there(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from pipeline.tracking.spool import Spool\n"
        f"spool = Spool.create(Path({str(tmp_path)!r}), {HEADER!r})\n"
        "for number in range(1000): spool.append({'number': number})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (spool,) = abandoned(tmp_path, "s")
    assert spool.header == HEADER
    assert [record["number"] for record in spool.read()[0]] == list(range(1000))
    spool.release(remove=True)


def test_only_spools_of_this_store_and_run_are_taken(tmp_path: Path) -> None:
    for header in (HEADER, HEADER | {"store": "other"}, HEADER | {"key": "other"}):
        Spool.create(tmp_path, header).release(remove=False)
    found = [spool.header for spool in abandoned(tmp_path, "s", key="k")]
    assert found == [HEADER]


def test_half_a_record_of_a_killed_process_is_left_out(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    spool.append({"number": 1})
    os.write(spool._descriptor, b'{"number": 2')
    assert spool.read()[0] == [{"number": 1}]
    spool.release(remove=True)


def test_a_damaged_header_is_said_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.jsonl").write_text("no json\n")
    assert list(abandoned(tmp_path, "s")) == []
    assert "bad.jsonl is no spool" in caplog.text


def test_a_full_disk_is_said_once_and_does_not_stop_training(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    full = os.open("/dev/full", os.O_RDWR | os.O_APPEND)
    own, spool._descriptor = spool._descriptor, full
    for number in range(3):
        spool.append({"number": number})
    assert caplog.text.count("takes no more records") == 1
    os.close(full)
    spool._descriptor = own
    spool.append({"number": 3})
    assert spool.read()[0] == [{"number": 3}]
    spool.release(remove=True)


def test_threads_may_append_while_one_delivers(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)

    def append(base: int) -> None:
        for number in range(500):
            spool.append({"number": base + number})

    threads = [threading.Thread(target=append, args=(base,)) for base in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < 1500:
        records, position = spool.read()
        seen += [record["number"] for record in records]
        spool.delivered(position)
    for thread in threads:
        thread.join()
    assert sorted(seen) == [base + number for base in (0, 1000, 2000) for number in range(500)]
    spool.release(remove=True)
