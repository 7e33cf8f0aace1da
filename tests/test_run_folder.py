import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import toy_run

from uncertainty.errors import InputError
from uncertainty.run_folder import RunFolder, RunFolderError
from uncertainty.run_info import RunInfo
from uncertainty.scores import read_examples, read_run, read_scores


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run; to be copied, not changed."""
    path = tmp_path_factory.mktemp("whole") / "toy"
    toy_run.score_toy(path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "toy"))


# --- one run from start to end


def test_a_run_leaves_its_parts_receipts_skips_and_info_and_nothing_else(whole):
    parts = [f"{table}/part-{k:05d}.parquet" for table in ("examples", "tokens") for k in range(3)]
    receipts = [f"receipts/part-{k:05d}.json" for k in range(3)]
    assert sorted(toy_run.contents(whole)) == sorted([*parts, *receipts, "run.json", "skipped.jsonl"])
    assert not (whole / ".tmp").exists()


def test_totals_of_a_run_are_those_of_its_tables(whole):
    totals = read_run(whole).totals
    files = [*whole.glob("tokens/*"), *whole.glob("examples/*")]
    assert {**totals, "rows_sha256": ""} == {
        "shards": 3,
        "examples": len(read_examples(whole)),
        "tokens": len(read_scores(whole)),
        "bytes": sum(file.stat().st_size for file in files),
        "skipped": {"empty_completion": 1, "nonfinite": 1},
        "rows_sha256": "",
    }
    assert len(totals["rows_sha256"]) == 64


def test_the_hash_of_all_rows_is_the_same_for_the_same_scores_only(whole, tmp_path):
    toy_run.score_toy(tmp_path / "same")
    toy_run.score_toy(tmp_path / "other", seed=1)
    hashes = [read_run(path).totals["rows_sha256"] for path in (whole, tmp_path / "same", tmp_path / "other")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_two_runs_of_the_same_settings_are_byte_identical(whole, tmp_path):
    toy_run.score_toy(tmp_path / "again")
    assert toy_run.contents(tmp_path / "again") == toy_run.contents(whole)


def test_skipped_rows_are_listed_in_the_order_of_the_data_set(whole):
    lines = (whole / "skipped.jsonl").read_text().splitlines()
    assert lines == [
        '{"detail":"logits are not finite","id":"broken-1","reason":"nonfinite","row":1}',
        '{"detail":"no text","id":"row-9","reason":"empty_completion","row":2}',
    ]


def test_times_and_facts_stand_beside_the_tables_and_never_in_them(whole, tmp_path):
    info = RunInfo(toy_run.SETTINGS, toy_run.RECORD, {"started": "today"})
    with RunFolder.open(tmp_path / "toy", info, 3) as folder:
        for shard in folder.todo:
            examples = toy_run.texts(shard)
            blocks = toy_run.scores(examples)
            tables = toy_run.shard_tables(blocks, examples, toy_run.kept())
            folder.commit(shard, *tables, facts={"seconds": np.float64(1.5), "log": Path("a")})
        done = folder.finish(timings={"seconds": 4.5}, totals={"extra": 1})
        assert [receipt["facts"] for receipt in folder.receipts()] == [{"seconds": 1.5, "log": "a"}] * 3
    assert done == read_run(tmp_path / "toy")
    assert done.timings == {"started": "today", "seconds": 4.5}
    assert done.totals["extra"] == 1
    for name, content in toy_run.contents(whole).items():
        if name.endswith("parquet"):
            assert (tmp_path / "toy" / name).read_bytes() == content


def test_a_run_cannot_be_finished_before_every_shard_is_committed(tmp_path):
    with RunFolder.open(tmp_path / "toy", toy_run.info(), 3) as folder:
        toy_run.commit(folder, 1)
        with pytest.raises(ValueError, match=r"shards \[0, 2\] are not committed"):
            folder.finish()
        with pytest.raises(ValueError, match="shard 3 of a run of 3"):
            toy_run.commit(folder, 3)


def test_an_example_in_two_shards_is_found_at_the_end(tmp_path):
    examples = toy_run.texts(0)
    tables = toy_run.shard_tables(toy_run.scores(examples), examples, toy_run.kept())
    with RunFolder.open(tmp_path / "toy", toy_run.info(), 2) as folder:
        folder.commit(0, *tables)
        folder.commit(1, *tables)
        with pytest.raises(ValueError, match=r"two shards.*'row-0-0'"):
            folder.finish()


def test_a_closed_folder_is_not_written_to(tmp_path):
    folder = RunFolder.open(tmp_path / "toy", toy_run.info(), 3)
    folder.close()
    folder.close()
    with pytest.raises(ValueError, match="was closed"):
        toy_run.commit(folder, 0)
    with pytest.raises(ValueError, match="was closed"):
        folder.finish()


# --- resume


def test_a_resumed_run_computes_only_what_is_missing(whole, tmp_path):
    with RunFolder.open(tmp_path / "toy", toy_run.info(), 3) as folder:
        assert not folder.resumed
        toy_run.commit(folder, 1)
        assert [folder.is_committed(shard) for shard in range(3)] == [False, True, False]
    assert toy_run.score_toy(tmp_path / "toy") == [0, 2]
    assert toy_run.contents(tmp_path / "toy") == toy_run.contents(whole)


def test_a_complete_run_has_nothing_left_to_do_and_is_not_touched(copy):
    before = {name: (copy / name).stat().st_mtime_ns for name in toy_run.contents(copy)}
    with RunFolder.open(copy, toy_run.info(), 3) as folder:
        assert folder.resumed
        assert (folder.todo, folder.info.status) == ((), "complete")
    assert {name: (copy / name).stat().st_mtime_ns for name in toy_run.contents(copy)} == before


def test_a_complete_run_that_lost_a_file_is_unfinished_again_until_it_is_mended(copy, whole):
    (copy / "examples" / "part-00002.parquet").unlink()
    with RunFolder.open(copy, toy_run.info(), 3) as folder:
        assert folder.todo == (2,)
    assert read_run(copy).status == "running"
    assert toy_run.score_toy(copy) == [2]
    (copy / "skipped.jsonl").unlink()
    assert toy_run.score_toy(copy) == []
    assert toy_run.contents(copy) == toy_run.contents(whole)


def test_what_the_record_says_otherwise_on_resume_is_kept(tmp_path):
    with RunFolder.open(tmp_path / "toy", toy_run.info(), 2) as folder:
        toy_run.commit(folder, 0)
        assert folder.record_changes == ()
    newer = RunInfo(toy_run.SETTINGS, {**toy_run.RECORD, "versions": {"torch": "2.14"}})
    with RunFolder.open(tmp_path / "toy", newer, 2) as folder:
        assert folder.todo == (1,)
        assert folder.record_changes == ('versions.torch: "2.13" -> "2.14"',)
        toy_run.commit(folder, 1)
        done = folder.finish()
    assert done.timings["record_changes"] == ['versions.torch: "2.13" -> "2.14"']
    assert done.record == toy_run.RECORD
    footers = [toy_run.footer(tmp_path / "toy" / "tokens" / f"part-{k:05d}.parquet") for k in range(2)]
    assert [footer["record"]["versions"]["torch"] for footer in footers] == ["2.13", "2.14"]


def damaged(content: bytes) -> list[bytes]:
    """Truncations, flipped bits and zeroed holes at many places of a file."""
    rng = np.random.default_rng(0)
    size = len(content)
    cuts = [content[: int(length)] for length in np.linspace(0, size - 1, 25)]
    flips = []
    for place in np.linspace(0, size - 1, 60).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        flips.append(bytes(flipped))
    starts = np.linspace(0, size - size // 8, 10).astype(int)
    holes = [content[:start] + bytes(size // 8) + content[start + size // 8 :] for start in starts]
    return [*cuts, *flips, *holes, content + b"\0"]


@pytest.mark.parametrize("table", ["tokens", "examples", "receipts"])
def test_damage_anywhere_in_a_shard_is_found_refused_by_name_and_mended(copy, whole, table):
    (file,) = copy.glob(f"{table}/part-00001.*")
    content = file.read_bytes()
    read = read_examples if table == "examples" else read_scores
    with RunFolder.open(copy, toy_run.info(), 3) as folder:
        for other in damaged(content):
            assert other != content
            file.write_bytes(other)
            assert not folder.is_committed(1)
            with pytest.raises(InputError) as caught:
                read(copy)
            assert str(caught.value).startswith(f"{file} is ")
            assert "\n" not in str(caught.value)
    assert toy_run.score_toy(copy) == [1]
    assert toy_run.contents(copy) == toy_run.contents(whole)


def test_a_receipt_of_another_run_or_another_shard_proves_nothing(copy, tmp_path):
    toy_run.score_toy(tmp_path / "other", seed=1)
    for source in (tmp_path / "other" / "receipts" / "part-00001.json", copy / "receipts" / "part-00000.json"):
        shutil.copy(source, copy / "receipts" / "part-00001.json")
        with RunFolder.open(copy, toy_run.info(), 3) as folder:
            assert folder.todo == (1,)


# --- what is refused before any work


def test_other_settings_are_refused_and_all_of_them_listed(copy):
    other = RunInfo({**toy_run.SETTINGS, "rate": 0.2, "model": {"id": "toy", "revision": "abc"}}, toy_run.RECORD)
    with pytest.raises(InputError) as caught:
        RunFolder.open(copy, other, 4)
    assert str(caught.value) == (
        f'{copy} holds a run with other settings: model.revision: null -> "abc"; rate: 0.1 -> 0.2; '
        "n_shards: 3 -> 4; add --overwrite to replace it or choose another --out"
    )


def test_a_refused_start_changes_nothing_and_gives_the_lock_back(copy):
    before = toy_run.contents(copy)
    with pytest.raises(InputError):
        RunFolder.open(copy, toy_run.info(seed=5), 3)
    assert toy_run.contents(copy) == before
    RunFolder.open(copy, toy_run.info(), 3).close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_and_no_run_is_refused_and_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "tokens").mkdir()
    with pytest.raises(InputError, match=r"holds other files \('thesis.tex' and 1 more\) and no run"):
        RunFolder.open(tmp_path, toy_run.info(), 3, overwrite=overwrite)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thesis.tex", "tokens"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_json_that_is_not_ours_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "run.json").write_text('{"lr": 0.1}')
    with pytest.raises(InputError, match="not written by unc-score"):
        RunFolder.open(tmp_path, toy_run.info(), 3, overwrite=overwrite)
    assert (tmp_path / "run.json").read_text() == '{"lr": 0.1}'


def test_a_path_that_is_or_lies_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="is, or lies under, a file"):
            RunFolder.open(path, toy_run.info(), 3)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch, number, call):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(InputError, match=f"cannot be written to .{os.strerror(number)}") as caught:
        RunFolder.open(tmp_path / "new", toy_run.info(), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to"):
        RunFolder.open(tmp_path / "new", toy_run.info(), 3)


def test_a_run_has_at_least_one_shard(tmp_path):
    with pytest.raises(ValueError, match="n_shards is 0"):
        RunFolder.open(tmp_path / "toy", toy_run.info(), 0)


# --- overwrite


def test_overwrite_removes_what_a_run_makes_and_keeps_every_other_file(copy, tmp_path):
    foreign = [
        "notes.md",
        "tokens/mine.csv",
        "receipts/part-1.json",
        "report/figure.png",
        "examples/part-00000.parquet.bak",
    ]
    for name in foreign:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    with RunFolder.open(copy, toy_run.info(seed=1), 2, overwrite=True) as folder:
        assert (folder.resumed, folder.todo) == (False, (0, 1))
        assert sorted(toy_run.contents(copy)) == sorted([*foreign, "run.json"])
    assert {name: (copy / name).read_text() for name in foreign} == {name: name for name in foreign}


def test_overwrite_of_a_new_folder_is_a_start(tmp_path, whole):
    assert toy_run.score_toy(tmp_path / "toy", overwrite=True) == [0, 1, 2]
    assert toy_run.contents(tmp_path / "toy") == toy_run.contents(whole)


# --- two processes


def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    path = tmp_path / "toy"
    program = (
        "import sys, toy_run\n"
        "from uncertainty.run_folder import RunFolder\n"
        "from pathlib import Path\n"
        "folder = RunFolder.open(Path(sys.argv[1]), toy_run.info(), 3)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"locked\n"
        for overwrite in (False, True):
            with pytest.raises(InputError, match=f"being written by process {first.pid} on "):
                RunFolder.open(path, toy_run.info(), 3, overwrite=overwrite)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert toy_run.score_toy(path) == [0, 1, 2]


# --- the disk refuses, the process dies: at every point

# (call, error, first, step): the first runs after every change, a few points of each kind; the second is all of them.
REFUSED = [
    *(
        (call, number, 1, 6)
        for call, number in (("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EROFS))
    ),
    *(
        pytest.param(call, number, 0, 1, marks=pytest.mark.slow)
        for call in ("write", "fsync", "replace")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    ),
]


def refused(
    path: Path, call: str, number: int, point: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, RunFolderError | None]:
    """Score while the disk refuses system call number ``point`` (from 0): whether it came to that, and the error."""
    real, left = getattr(os, call), [point]

    def refuse(*arguments):
        left[0] -= 1
        if left[0] == -1:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        try:
            toy_run.score_toy(path)
        except RunFolderError as error:
            return True, error
    return left[0] < 0, None


@pytest.mark.parametrize(("call", "number", "first", "step"), REFUSED)
def test_a_disk_that_refuses_at_any_point_is_one_line_and_the_rerun_resumes(
    tmp_path, whole, monkeypatch, call, number, first, step
):
    expected = toy_run.contents(whole)
    point = first
    while True:
        path = tmp_path / f"{point}"
        # Made before: what is refused below is what RunFolder puts into it.
        path.mkdir()
        happened, error = refused(path, call, number, point, monkeypatch)
        if not happened:
            break
        if error is None:
            # Only the text in the lock file, a courtesy to who finds it locked, may be refused and the run go on.
            assert (call, point) == ("write", 0)
        else:
            assert error.errno == number
            assert isinstance(error, InputError)
            assert f"{path}: {os.strerror(number)} while " in str(error)
            assert "run the same command again" in str(error)
            assert "\n" not in str(error)
        assert not list(path.glob(".tmp/*"))
        toy_run.score_toy(path)
        assert toy_run.contents(path) == expected
        point += step
    # Nine files of shards, skipped.jsonl and run.json twice need each of these calls at least once.
    assert point >= 12


def killed_everywhere(scenario: str, first: int, step: int) -> int:
    """Run ``kill_run.py``; the number of points at which it killed a process."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        script = Path(__file__).with_name("kill_run.py")
        program = [sys.executable, str(script), scenario, folder, str(first), str(step)]
        done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return int(done.stdout.split()[0])


@pytest.mark.parametrize(
    ("scenario", "first", "step", "least"),
    [
        ("fresh", 3, 11, 5),
        ("mend", 2, 11, 2),
        ("overwrite", 4, 11, 5),
        # 12 files of four calls and more, three folders, the lock.
        pytest.param("fresh", 1, 1, 60, marks=pytest.mark.slow),
        # A damaged shard in a complete run: run.json twice, three files, skipped.jsonl.
        pytest.param("mend", 1, 1, 30, marks=pytest.mark.slow),
        # The files of another run are removed first.
        pytest.param("overwrite", 1, 1, 70, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_any_system_call_resumes_to_the_same_bytes(scenario, first, step, least):
    assert killed_everywhere(scenario, first, step) >= least
