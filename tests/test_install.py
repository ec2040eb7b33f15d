"""make setup goes on where it stopped, and says why it failed in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import install


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing is installed; steps make their folders and are written down."""
    for lock in ("requirements.lock", "package-lock.json"):
        (tmp_path / lock).write_text(lock)
    (tmp_path / "sandbox").mkdir()
    for lock in ("requirements.lock", "layer.lock", "sam.lock"):
        (tmp_path / "sandbox" / lock).write_text(lock)
    monkeypatch.setattr(install, "PROJECT", tmp_path)
    monkeypatch.setattr(install, "SANDBOX", tmp_path / ".sandbox")
    monkeypatch.setattr(install, "LOG", tmp_path / ".sandbox" / "setup.log")
    return tmp_path


STEPS = {
    "make_environment": ".venv",
    "sync_tools": ".venv",
    "install_cdk": "node_modules",
    "sync_sandbox": ".sandbox/venv",
    "install_layer": ".sandbox/layer",
    "install_sam": ".sandbox/sam",
}


@pytest.fixture
def ran(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were done."""
    done: list[str] = []

    def step(name: str, folder: Path) -> None:
        done.append(name)
        folder.mkdir(exist_ok=True)

    for name, folder in STEPS.items():
        monkeypatch.setattr(
            install, name, lambda name=name, folder=folder: step(name, project / folder)
        )
    return done


def test_all_is_installed_once(project: Path, ran: list[str]) -> None:
    install.main()
    assert ran == list(STEPS) and (project / ".venv" / ".ready").exists()
    ran.clear()
    install.main()
    assert ran == []
    (project / "node_modules").rmdir()
    (project / "sandbox" / "layer.lock").write_text("another")
    install.main()
    assert ran == ["install_cdk", "install_layer"]


def test_a_second_try_goes_on(
    project: Path,
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    works = install.install_cdk

    def fails() -> None:
        install.run("sh", "-c", "echo npm error code ENOTFOUND >&2; exit 1")

    monkeypatch.setattr(install, "install_cdk", fails)
    with pytest.raises(SystemExit) as ended:
        install.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: setup 3/6 failed: a package registry does not answer")
    assert not (project / ".venv" / ".ready").exists()
    ran.clear()
    monkeypatch.setattr(install, "install_cdk", works)
    install.main()
    assert ran == ["install_cdk", "sync_sandbox", "install_layer", "install_sam"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("npm error code E404\nnpm error 404 Not Found\n", "npm error 404 Not Found"),
        ("OSError: [Errno 28] No space left on device\nnpm error x", "is full; make room"),
        ("x\nerror: Request failed\n  dns error: no such host\n", "does not answer"),
        ("", "it said nothing"),
    ],
)
def test_why(said: str, told: str) -> None:
    assert told in install.why(said)


def test_a_folder_that_cannot_be_written_is_no_missing_module(
    project: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / ".sandbox").write_text("a file in its place")
    with pytest.raises(SystemExit) as ended:
        install.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: setup cannot write here: ")


def test_a_python_without_venv_is_told_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".sandbox").mkdir()
    says = ("sh", "-c", "echo ensurepip is not available; exit 1")
    real = install.run
    monkeypatch.setattr(
        install, "run", lambda *words, **_: real(*(says if "venv" in words else ("true",)))
    )
    with pytest.raises(install.Failed, match="apt install python3-venv"):
        install.make_environment()


def test_make_installs_again_what_was_removed(tmp_path: Path) -> None:
    """Without a look at locks: node_modules alone is gone."""
    (tmp_path / "Makefile").write_bytes((Path(install.__file__).parent / "Makefile").read_bytes())
    (tmp_path / "install.py").write_text("print('installed')")
    for made in (
        ".venv",
        ".sandbox/venv",
        ".sandbox/layer",
        ".sandbox/sam",
        "node_modules",
        "sandbox",
    ):
        (tmp_path / made).mkdir(parents=True)
    for lock in ("requirements.lock", "package-lock.json", "sandbox/requirements.lock"):
        (tmp_path / lock).touch()
    for lock in ("layer.lock", "sam.lock"):
        (tmp_path / "sandbox" / lock).touch()
    (tmp_path / ".venv" / ".ready").touch()

    def setup() -> str:
        return subprocess.run(
            ["make", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert setup() == ""
    (tmp_path / "node_modules").rmdir()
    assert setup() == "installed\n"
