"""What is installed from a wheel: all that the package needs, and nothing of this folder. And the image's recipe."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run in an environment that knows nothing of the sources."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    builder = pytest.importorskip("hatchling.build")  # of the extra dev
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / builder.build_wheel(str(folder))
    finally:
        os.chdir(before)


def test_a_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "splitcom").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= packed
    assert {name.split("/")[0] for name in packed - sources} == {f"splitcom-{PROJECT['version']}.dist-info"}


def test_an_installed_wheel_runs_without_the_sources(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment: a folder on the path, whose own .pth files are not read."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    binaries = tmp_path / "venv" / "bin"
    run(
        sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet", "--no-deps", "--no-index",
        "--no-compile", "--disable-pip-version-check", wheel,
    )  # fmt: skip
    own = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(binaries / "splitcom", "--version", cwd=tmp_path) == f"splitcom {PROJECT['version']}\n"
    place = (
        "import splitcom; from splitcom.report.markup import page; page('', '', [], {}, is_live=True); "
        "print(splitcom.__file__)"
    )
    assert Path(run(binaries / "python", "-c", place, cwd=tmp_path).strip()).is_relative_to(own)


@pytest.mark.slow
def test_a_clean_installation_does_what_the_readme_says(wheel: Path, tmp_path: Path) -> None:
    """Everything is fetched. SPLITCOM_TEST_PYTHON names another interpreter than this one."""
    python = os.environ.get("SPLITCOM_TEST_PYTHON", sys.executable)
    run(python, "-m", "venv", tmp_path / "venv")
    binaries = tmp_path / "venv" / "bin"
    run(
        binaries / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "constraints.txt",
        wheel,
    )
    rows = "".join(
        f'{{"messages": [{{"role": "user", "content": "What is {n} and {n}?"}}, '
        f'{{"role": "assistant", "content": "It is {2 * n}."}}]}}\n'
        for n in range(60)
    )
    (tmp_path / "conversations.jsonl").write_text(rows)
    splitcom = binaries / "splitcom"
    run(splitcom, "init", "conversations.jsonl", "--model", "bundled", cwd=tmp_path)
    run(splitcom, "data", "run.toml", cwd=tmp_path)
    run(splitcom, "train", "run.toml", "--out", "runs/mine", "--set", "training.rounds=1", cwd=tmp_path)
    run(splitcom, "watch", "runs/mine", cwd=tmp_path)
    assert "Hello" in run(splitcom, "generate", "runs/mine", "--prompt", "Hello", cwd=tmp_path)
    run(splitcom, "export", "runs/mine", "merged", "--merge", cwd=tmp_path)
    assert (tmp_path / "merged" / "model.safetensors").exists() and (
        tmp_path / "runs/mine/report.html"
    ).exists()


def test_the_recipe_of_the_image_fits_the_project() -> None:
    """No engine is here: what can be told from the text."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    known = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in steps} == known
    python = re.fullmatch(r"python:(\d+)\.(\d+)-slim", next(rest for word, rest in steps if word == "FROM"))
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert python and least and tuple(map(int, python.groups())) >= tuple(map(int, least.groups()))
    copied = {name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "src"} and all(
        (ROOT / name).exists() for name in copied
    )
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sent[0] == "*" and {line[1:] for line in sent if line.startswith("!")} == copied
    extras = next(rest for word, rest in steps if rest.startswith("EXTRAS="))
    assert (
        set(extras.removeprefix("EXTRAS=").strip('"').split(",")) <= PROJECT["optional-dependencies"].keys()
    )
    words = [word for word, _ in steps]
    assert words.index("USER") > words.index("RUN") and ["USER", "splitcom"] in steps
    torch = next(name for name in PROJECT["dependencies"] if name.startswith("torch"))
    assert f'"{torch}"' in text


def test_the_least_protobuf_takes_the_generated_modules() -> None:
    """They refuse a library that is older than the compiler that made them."""
    least = next(name for name in PROJECT["dependencies"] if name.startswith("protobuf"))
    for module in (ROOT / "src").rglob("*_pb2.py"):
        made = re.findall(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+)", module.read_text(encoding="utf-8"))
        assert tuple(map(int, least.removeprefix("protobuf>=").split("."))) >= tuple(map(int, made[0]))


def test_the_page_on_installing_names_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == PROJECT["optional-dependencies"].keys()
