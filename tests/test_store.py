import fcntl
import gzip
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from gpt2lab.archive import create, list_experiments, read_manifest, read_summary, resolve
from gpt2lab.archive.manifest import refreshed, write_entries
from gpt2lab.archive.store import slug
from gpt2lab.archive.verify import verify
from gpt2lab.errors import ArchiveError
from gpt2lab.record.disk import file_sha256
from gpt2lab.record.metrics import MetricsWriter
from gpt2lab.record.rundir import RunDir


def make_run(path: Path, *, state: str = "finished", run_id: str | None = None, reason: str | None = None) -> Path:
    with RunDir.claim(path) as run:
        run.write_config({"name": None, "hypothesis": "it learns", "seed": 0})
        run.write_overrides(["seed=0"])
        run.write_provenance({"run_id": run_id or path.name})
        with MetricsWriter(run.metrics) as metrics:
            metrics.append({"step": 0, "val_loss": 5.5})
        run.samples.mkdir()
        (run.samples / "0.txt").write_text("once upon a time")
        run.source_archive.write_bytes(gzip.compress(bytes(10_240), mtime=0))  # an empty tar
        run.model.write_bytes(b"weights" * 100)
        run.state.write_bytes(b"moments")
        run.write_status(state, reason=reason)
    return path


def write_small_report(directory: Path, title: str) -> None:
    (directory / "summary.json").write_text(json.dumps({"name": title, "status": "finished"}))
    (directory / "figures").mkdir(exist_ok=True)
    (directory / "figures" / "loss.svg").write_text("<svg/>")
    (directory / "README.md").write_text(f"# {title}\n")


def archive(run_dir: Path, root: Path, name: str = "first light", **options) -> Path:
    return create(run_dir, root, **{"name": name, "hypothesis": None, "write_report": write_small_report, **options})


def archive_five(root: Path, runs: list[Path]) -> list[str]:
    return [archive(run, root, name=f"Run {run.name}").name for run in runs]


@pytest.fixture
def finished_run(tmp_path):
    return make_run(tmp_path / "runs" / "a")


@pytest.fixture
def archived_run(tmp_path, finished_run):
    return archive(finished_run, tmp_path / "experiments")


def test_a_hidden_file_among_the_samples_is_not_copied(finished_run, tmp_path):
    (finished_run / "samples" / ".DS_Store").write_text("a window's place")
    path = archive(finished_run, tmp_path / "experiments")
    assert [sample.name for sample in (path / "samples").iterdir()] == ["0.txt"]
    assert verify(path, weights=True).faults == ()


def test_a_damaged_status_of_an_experiment_does_not_stop_a_snapshot_of_its_run(finished_run, archived_run, tmp_path):
    (archived_run / "status.json").write_text("{")
    assert archive(finished_run, tmp_path / "experiments", name="again").name == "00002-again"


def test_an_experiment_holds_the_whole_record(archived_run, finished_run):
    assert archived_run.name == "00001-first-light"
    files = {path.relative_to(archived_run).as_posix() for path in archived_run.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "config.yaml",
        "figures/loss.svg",
        "manifest.json",
        "metrics.csv",
        "model.bin",
        "notes.md",
        "overrides.yaml",
        "provenance.json",
        "samples/0.txt",
        "source.tar.gz",
        "status.json",
        "summary.json",
    }
    for name in ("metrics.csv", "provenance.json", "status.json", "overrides.yaml", "samples/0.txt", "source.tar.gz"):
        assert (archived_run / name).read_bytes() == (finished_run / name).read_bytes()
    assert "## Question" in (archived_run / "notes.md").read_text()


def test_the_manifest_lists_every_file_with_its_hash_and_size(archived_run):
    manifest = read_manifest(archived_run)
    on_disk = {path.relative_to(archived_run).as_posix(): path for path in archived_run.rglob("*") if path.is_file()}
    assert list(manifest) == sorted(set(on_disk) - {"manifest.json"})
    for name, entry in manifest.items():
        assert entry == {
            "sha256": file_sha256(on_disk[name]),
            "bytes": on_disk[name].stat().st_size,
            "in_git": name != "model.bin",
        }


def test_name_and_hypothesis_of_the_snapshot_go_into_its_config_only(tmp_path, finished_run):
    before = (finished_run / "config.yaml").read_bytes()
    path = archive(finished_run, tmp_path / "experiments", name="Bänd: 256", hypothesis="a: b")
    assert path.name == "00001-band-256"
    assert RunDir(path).read_config() == {"name": "Bänd: 256", "hypothesis": "a: b", "seed": 0}
    assert read_summary(path)["name"] == "Bänd: 256"
    assert (finished_run / "config.yaml").read_bytes() == before


def test_a_hypothesis_that_is_not_given_stays(archived_run):
    assert RunDir(archived_run).read_config()["hypothesis"] == "it learns"


def test_notes_that_the_run_has_are_kept(tmp_path, finished_run):
    (finished_run / "notes.md").write_text("mine")
    assert (archive(finished_run, tmp_path / "experiments") / "notes.md").read_text() == "mine"


def test_weights_are_linked_and_a_later_checkpoint_does_not_change_them(archived_run, finished_run):
    assert (archived_run / "model.bin").stat().st_ino == (finished_run / "model.bin").stat().st_ino
    new = finished_run / "model.bin.new"
    new.write_bytes(b"later")
    new.replace(finished_run / "model.bin")
    assert (archived_run / "model.bin").read_bytes() == b"weights" * 100


def test_weights_are_copied_where_they_cannot_be_linked(tmp_path, finished_run, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = archive(finished_run, tmp_path / "experiments")
    assert (path / "model.bin").read_bytes() == b"weights" * 100


def test_four_processes_get_twenty_numbers_in_a_row(tmp_path):
    root = tmp_path / "experiments"
    runs = [make_run(tmp_path / "runs" / f"{k:02d}") for k in range(20)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        names = pool.starmap(archive_five, [(root, runs[k : k + 5]) for k in range(0, 20, 5)])
    experiments = list_experiments(root)
    assert [experiment.number for experiment in experiments] == list(range(1, 21))
    assert {experiment.path.name for experiment in experiments} == {name for part in names for name in part}
    assert {experiment.provenance["run_id"] for experiment in experiments} == {run.name for run in runs}
    for experiment in experiments:
        assert experiment.damage == ()
        assert len(read_manifest(experiment.path)) == 12
    assert {path.name for path in root.iterdir() if path.name.startswith(".")} == {".lock"}


def test_the_number_follows_the_highest_even_after_a_gap(tmp_path, archived_run):
    archived_run.rename(archived_run.with_name("00041-first-light"))
    assert archive(make_run(tmp_path / "b"), archived_run.parent).name == "00042-first-light"


def test_nothing_is_half_made_when_the_report_fails(tmp_path, finished_run):
    def fail(directory, title):
        (directory / "README.md").write_text("half")
        raise RuntimeError("no font")

    root = tmp_path / "experiments"
    with pytest.raises(RuntimeError, match="no font"):
        archive(finished_run, root, write_report=fail)
    assert list(root.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_the_archive_as_it_was(tmp_path, finished_run, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    root = tmp_path / "experiments"
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(ArchiveError, match="no space left on device") as caught:
        archive(finished_run, root)
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


def test_a_stale_staging_folder_is_ignored(tmp_path, archived_run):
    root = archived_run.parent
    stale = root / ".staging-dead"
    stale.mkdir()
    (stale / "provenance.json").write_text('{"run_id": "b"}')
    assert archive(make_run(tmp_path / "b"), root).name == "00002-first-light"
    assert [experiment.number for experiment in list_experiments(root)] == [1, 2]


def test_the_number_is_taken_under_the_lock(tmp_path, finished_run):
    root = tmp_path / "experiments"
    root.mkdir()
    with (root / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = multiprocessing.get_context("spawn").Process(target=archive, args=(finished_run, root))
        process.start()
        process.join(2)
        assert process.is_alive() and list_experiments(root) == []
    process.join(30)
    assert process.exitcode == 0 and len(list_experiments(root)) == 1


def test_a_run_is_archived_once_unless_forced(tmp_path, archived_run, finished_run):
    with pytest.raises(ArchiveError, match=r"archived already, as 00001-first-light; --force"):
        archive(finished_run, archived_run.parent, name="other")
    assert archive(finished_run, archived_run.parent, name="other", force=True).name == "00002-other"


def test_a_run_that_is_archived_meanwhile_is_refused_under_the_lock(tmp_path, finished_run):
    root = tmp_path / "experiments"

    def report_while_another_archives(directory, title):
        write_small_report(directory, title)
        archive(finished_run, root)

    with pytest.raises(ArchiveError, match="archived already, as 00001-first-light"):
        archive(finished_run, root, write_report=report_while_another_archives)
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["00001-first-light"]


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_a_run_that_is_not_finished_is_archived_only_by_force(tmp_path, state):
    run = make_run(tmp_path / "a", state=state, reason="SIGINT")
    with pytest.raises(ArchiveError, match=rf"the run is {state} \(SIGINT\).*--force"):
        archive(run, tmp_path / "experiments")
    assert not (tmp_path / "experiments").exists()
    assert archive(run, tmp_path / "experiments", force=True).name == "00001-first-light"


def test_what_is_not_a_run_directory_is_refused(tmp_path, finished_run):
    with pytest.raises(ArchiveError, match="not a run directory"):
        archive(tmp_path, tmp_path / "experiments")
    (finished_run / "metrics.csv").unlink()
    with pytest.raises(ArchiveError, match=r"lacks metrics\.csv"):
        archive(finished_run, tmp_path / "experiments", force=True)


def test_an_archive_that_is_a_file_is_refused(tmp_path, finished_run):
    (tmp_path / "experiments").write_text("")
    with pytest.raises(ArchiveError, match="cannot create experiment"):
        archive(finished_run, tmp_path / "experiments")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("First Light!", "first-light"),
        ("../../etc/passwd", "etc-passwd"),
        ("naïve  café", "naive-cafe"),
        ("日本語", "experiment"),
        ("", "experiment"),
        ("---", "experiment"),
        ("fc1_band=256", "fc1-band-256"),
        ("x" * 200, "x" * 60),
        ("word " * 50, "-".join(["word"] * 12)),
    ],
)
def test_a_slug_is_safe_short_and_never_empty(name, expected):
    assert slug(name) == expected


def test_an_experiment_is_found_by_number_folder_path_and_name(archived_run):
    root = archived_run.parent
    for ref in ("1", "00001", "00001-first-light", "first-light", "first light", f"{root}/00001-first-light/"):
        assert resolve(root, ref) == archived_run, ref


def test_a_name_of_two_experiments_is_refused_with_both(tmp_path, archived_run):
    root = archived_run.parent
    archive(make_run(tmp_path / "b"), root)
    with pytest.raises(
        ArchiveError, match=r"names 2 experiments .*00001-first-light, 00002-first-light; use the folder's whole name"
    ):
        resolve(root, "first-light")


@pytest.mark.parametrize("ref", ["7", "nothing", "..", "", "../experiments", ".lock", "²"])
def test_an_unknown_reference_lists_what_there_is(archived_run, ref):
    with pytest.raises(ArchiveError, match=r"names no experiment .*there are 00001-first-light"):
        resolve(archived_run.parent, ref)


def test_an_empty_archive_says_so(tmp_path):
    assert list_experiments(tmp_path / "nowhere") == []
    with pytest.raises(ArchiveError, match="there are no experiments"):
        resolve(tmp_path / "nowhere", "1")


def test_a_damaged_experiment_is_listed_and_named(tmp_path, archived_run):
    (archived_run / "summary.json").write_text("{")
    (listed,) = list_experiments(archived_run.parent)
    assert listed.summary == {} and listed.status["state"] == "finished"
    assert len(listed.damage) == 1 and "summary.json: damaged" in listed.damage[0]
    with pytest.raises(ArchiveError, match=r"summary\.json: damaged"):
        read_summary(archived_run)
    assert archive(make_run(tmp_path / "b"), archived_run.parent).name == "00002-first-light"


def test_a_new_report_is_taken_into_the_manifest_and_the_record_is_not(archived_run):
    before = read_manifest(archived_run)
    (archived_run / "README.md").write_text("# another report\n")
    (archived_run / "notes.md").write_text("a person's words")
    (archived_run / "figures" / "loss.svg").unlink()
    (archived_run / "figures" / "lr.svg").write_text("<svg></svg>")
    (archived_run / "metrics.csv").write_text("tampered")
    (archived_run / "model.bin").unlink()  # a fresh clone has no weights
    write_entries(archived_run, refreshed(archived_run, archived_run))
    after = read_manifest(archived_run)
    for name in ("README.md", "notes.md", "figures/lr.svg"):
        assert after[name]["sha256"] == file_sha256(archived_run / name)
    assert "figures/loss.svg" not in after
    for name in ("metrics.csv", "model.bin", "config.yaml"):
        assert after[name] == before[name]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"files": []}'])
def test_a_damaged_manifest_is_named_and_not_replaced(archived_run, content):
    manifest = archived_run / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(ArchiveError, match=r"manifest\.json"):
        write_entries(archived_run, refreshed(archived_run, archived_run))
    assert manifest.exists() == (content is not None)
