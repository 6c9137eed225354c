"""Folders that are replaced as a whole: what a killed process leaves beside them is removed, and nothing else."""

from pathlib import Path

from kronos.utils.files import atomic_folder, remove_unfinished


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    kept = [write(tmp_path / name, name) for name in (
        "demo", ".demo.v2.abcd1234", ".demo.v2", ".demo-0123456789abcdef", ".other.abcd1234", ".demo.ABCD1234",
    )]  # fmt: skip
    write(tmp_path / ".demo.abcd_123", "half")
    write(tmp_path / ".demo.old.abcd1234" / "folder", "old")
    (tmp_path / ".demo.lock").write_text("")
    remove_unfinished(tmp_path / "demo")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / ".demo.lock"])
    assert (tmp_path / "demo" / "file").read_text() == "demo"


def test_a_whole_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    write(tmp_path / ".demo.old.abcd1234" / "folder", "old")
    write(tmp_path / ".demo.abcd1234", "half")
    remove_unfinished(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (tmp_path / "demo" / "file").read_text() == "old"


def test_the_names_that_are_looked_for_are_those_that_are_written(tmp_path: Path) -> None:
    never_finished = atomic_folder(tmp_path / "demo")
    never_finished.__enter__()
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
