"""One pattern as a project of its own: its files, what they import, what runs and checks them.

Nothing is written twice. A project's files are this repository's, found by the pattern's name and
by what is imported, less what belongs to other patterns or to a gallery; only its README.md has a
template here. So a project is held to the same laws as its pattern, by the same files.
"""

from __future__ import annotations

import ast
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

PROJECT = Path(__file__).parent.parent
TEMPLATES = PROJECT / "templates"
# Where the files lie that carry a pattern's name.
OWN = (".ci/", "lambdas/", "scenarios/", "stacks/", "tests/", "workers/")
# What every project has besides. Modules that these or the pattern's files import come with them.
SHARED = (
    ".ci/run",
    ".editorconfig",
    ".github/*",
    ".gitignore",
    ".npmrc",
    ".pre-commit-config.yaml",
    "GAPS.md",
    "Makefile",
    "app.py",
    "cdk.json",
    "bin/*",
    "gallery.py",
    "install.py",
    "package*.json",
    "pyproject.toml",
    "requirements.lock",
    "rules/[!_]*.py",
    "sandbox/*.in",
    "sandbox/*.lock",
    "sandbox/__main__.py",
    "sandbox/gaps/*",
    "sandbox/guarded/*",
    "sandbox/launcher.py",
    "scenarios/__main__.py",
    "tests/conftest.py",
    "tests/mutate.py",
    "tests/scenarios/test_scenarios.py",
    "tests/stateful_ids.json",
    "tests/test_patterns.py",
)
# Commands and folders that only a gallery has.
ONLY_HERE = ("bench", "docs", "fork", "templates", "test-forks")
# What a gallery throws away with a stack, a project keeps.
DISPOSABLE = 'DEFAULTS = {"removal_policy": "destroy", "termination_protection": False}'
PRODUCTION = 'DEFAULTS = {"removal_policy": "retain", "termination_protection": True}'

# Prints the snapshot of the stack whose folder and name it is told, when it has loaded the CDK.
SNAPSHOT = """
import sys, types
sys.modules["cdk_nag"] = types.SimpleNamespace(AwsSolutionsChecks=None)  # slow, and not asked here
import app, json, pathlib, aws_cdk
from tests.synthesis import FLAGS, masked
folder, name = sys.stdin.read().splitlines()
sys.path.insert(0, folder)
app.STACKS = pathlib.Path(folder, "stacks")
of_all = aws_cdk.App(context=FLAGS)
app.stack_class(name)(of_all, name)
template = of_all.synth().get_stack_by_name(name).template
print(json.dumps(masked(template), indent=2, sort_keys=True, ensure_ascii=False))
"""
LONGEST = 24  # letters of a project's name; a bucket's name has room for no more

Files = dict[str, str]  # path to text


class Refusal(Exception):
    """One line: what is wrong and what to do."""


def fork(pattern: str, to: str, name: str = "") -> Path:
    """Make a project in the folder `to`, with a first commit unless it lies in a repository.

    pattern: a deploy name. name: that of the project's class; the pattern's if none. Returns the
    folder. Refusal and OSError leave everything as it was.
    """
    if not to:
        raise Refusal(f"say where to, such as TO=../{kebab(name or pattern)}")
    target = Path(to).expanduser().resolve()
    if target.is_relative_to(PROJECT):
        raise Refusal(f"{target} lies in this repository; choose a folder outside")
    if not target.parent.is_dir():
        raise Refusal(f"there is no folder {target.parent}; make it first")
    if target.exists() and not target.is_dir():
        raise Refusal(f"{target} is a file; choose a folder that is new or empty")
    if target.exists() and any(target.iterdir()):
        raise Refusal(f"{target} is not empty; choose a folder that is new or empty")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary) / "project"
        make(pattern, name, folder)
        if not repository_of(target.parent):
            first_commit(folder, name or pattern)
        if target.exists():
            for child in folder.iterdir():
                child.rename(target / child.name)
        else:
            folder.rename(target)
    return target


def templates(pattern: str = "", name: str = "") -> Path:
    """Write what `cdk init --from-path` takes, templates/<name>/python, of one pattern or all.

    Returns the folder of the templates.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for one in [pattern] if pattern else patterns():
            make(one, name, Path(temporary) / (name or one) / "python")
        for one in [name or pattern]:  # all, if none is said: those that are no more go too
            shutil.rmtree(TEMPLATES / one, ignore_errors=True)
            shutil.copytree(Path(temporary) / one, TEMPLATES / one)
    return TEMPLATES


def make(pattern: str, name: str, folder: Path) -> None:
    """Write a project's files, in order, into a folder that is not there."""
    snapshot = f"tests/__snapshots__/test_patterns/test_snapshot[{patterns()[pattern]}].json"
    if not name or pattern.lower() not in (PROJECT / snapshot).read_text().lower():
        write(project(pattern, name), folder)
        return
    # More than names is made from the name: ids of what joins two resources, as a subscription,
    # have a hash of it in them. So the snapshot is synthesized, by a process that loads meanwhile.
    with subprocess.Popen(
        (sys.executable, "-B", "-c", SNAPSHOT),
        cwd=PROJECT,
        env=os.environ | {"CDK_VALIDATION": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            write(project(pattern, name), folder)
            printed, said = process.communicate(f"{folder}\n{name}\n")
        finally:
            process.kill()
    if process.returncode:
        raise Refusal(f"{name} cannot be synthesized: {said.strip().splitlines()[-1]}")
    (folder / renaming({pattern: name})(snapshot)).write_text(printed)


def project(pattern: str, name: str = "") -> Files:
    """All files of a project. Refusal if `name` is not fit for a class, a module and a stack."""
    stem = patterns()[pattern]
    own, shared = chosen(stem)
    stack = ast.parse(own[f"stacks/{stem}.py"])
    if name:
        check_name(name, stack)
    name = name or pattern
    everything = own | shared
    roots = requirements(everything)
    assert shared["app.py"].count(DISPOSABLE) == 1
    shared["app.py"] = shared["app.py"].replace(DISPOSABLE, PRODUCTION)
    shared["pyproject.toml"] = pyproject(
        shared["pyproject.toml"], pattern, stack, roots, everything
    )
    shared["requirements.lock"] = lock(shared["requirements.lock"], roots, pattern)
    shared["package-lock.json"] = with_name(shared["package-lock.json"], kebab(pattern))
    shared["tests/stateful_ids.json"] = only_of(shared["tests/stateful_ids.json"], stem)
    shared["GAPS.md"] = without_sections(shared["GAPS.md"], patterns().keys() - {pattern})
    shared["Makefile"] = without_targets(shared["Makefile"])
    for file in (".ci/run", ".gitignore"):
        shared[file] = without_lines(shared[file])
    shared["README.md"] = readme(pattern, stack, everything)
    # A file of all patterns names one as an example only; one of the pattern names no other.
    in_own = renaming({pattern: name})
    in_shared = renaming(dict.fromkeys(patterns(), name), gallery="project")
    renamed = {in_own(file): in_own(text) for file, text in own.items()}
    others = {in_shared(file): in_shared(text) for file, text in shared.items()}
    if taken := renamed.keys() & others.keys():
        raise Refusal(f"every project has a {min(taken)}; choose another NAME than {name}")
    return renamed | others


# ---- names


def patterns() -> dict[str, str]:
    """Deploy name to file stem."""
    stems = sorted(path.stem for path in (PROJECT / "stacks").glob("[!_]*.py"))
    return {pascal(stem): stem for stem in stems}


def pascal(stem: str) -> str:
    """sqs_lambda_dlq as SqsLambdaDlq."""
    return "".join(word.capitalize() for word in stem.split("_"))


def snake(name: str) -> str:
    """SqsLambdaDlq as sqs_lambda_dlq."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def kebab(name: str) -> str:
    """SqsLambdaDlq as sqs-lambda-dlq."""
    return snake(name).replace("_", "-")


def check_name(name: str, stack: ast.Module) -> None:
    """Refusal if a class cannot be called so, or would not be found by its file's name."""
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        raise Refusal(f"NAME is a class's, in PascalCase such as OrderFulfilment, not {name!r}")
    if len(name) > LONGEST:
        raise Refusal(f"NAME has at most {LONGEST} letters: names of resources begin with it")
    if pascal(snake(name)) != name:
        raise Refusal(f"NAME is in PascalCase: {pascal(snake(name))}, not {name}")
    words = {node.id for node in ast.walk(stack) if isinstance(node, ast.Name)}
    if keyword.iskeyword(name) or keyword.iskeyword(snake(name)) or name in words:
        raise Refusal(f"{name} means something else in the stack's file; choose another NAME")


def renaming(names: dict[str, str], **words: str) -> Callable[[str], str]:
    """What renames patterns in a text or a path, however they are written, and whole words."""
    others = dict(words)
    for old, new in names.items():
        others |= {way(old): way(new) for way in (str, snake, kebab)}
    longest_first = "|".join(sorted(others, key=len, reverse=True))
    found = re.compile(rf"(?<![A-Za-z0-9])(?:{longest_first})(?![a-z0-9])")
    return lambda text: found.sub(lambda match: others[match[0]], text)


# ---- which files


def tracked() -> set[str]:
    """The files of this repository, with new ones that git does not ignore."""
    done = git(PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if done.returncode:
        raise Refusal("this folder is no clone of the repository; make one: git clone")
    return {file for file in done.stdout.split("\0") if file and (PROJECT / file).is_file()}


def chosen(stem: str) -> tuple[Files, Files]:
    """(the pattern's own files, those that it has in common with others)."""
    there = tracked()
    of_it = re.compile(rf"(/|/test_|\[){stem}[]./]")
    own = {file for file in there if file.startswith(OWN) and of_it.search(file)}
    # What programs of several patterns have in common, each a copy, is tested in one place.
    own |= {f"tests/{file.split('/')[0]}/test_program.py" for file in own if "/program.py" in file}
    found: set[str] = set()
    new = own | {file for file in there if any(fnmatch(file, glob) for glob in SHARED)}
    while new:
        found |= new
        new = {module for file in new for module in modules(file)} & there - found
    texts = {file: (PROJECT / file).read_text() for file in sorted(found)}
    return (
        {file: text for file, text in texts.items() if file in own},
        {file: text for file, text in texts.items() if file not in own},
    )


@cache
def modules(file: str) -> set[str]:
    """The files that the imports of a file may mean: from the top, or from a folder above it."""
    return {
        f"{folder.joinpath(*words[:depth])}{end}"
        for words in (name.split(".") for name in imported(file))
        for folder in PurePosixPath(file).parents
        for depth in range(1, len(words) + 1)
        for end in (".py", "/__init__.py")
    }


@cache
def imported(file: str) -> set[str]:
    """The dotted names that a file imports, if it is Python."""
    nodes = ast.walk(ast.parse((PROJECT / file).read_text())) if file.endswith(".py") else ()
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""  # from . import a neighbour
            names |= {f"{module}{alias.name}" for alias in node.names}
    return names


# ---- dependencies


def requirements(files: Files) -> set[str]:
    """The declared requirements that a project needs.

    Those that its files import, and the tools, which are those that no file here imports.
    """
    python = (file for file in tracked() if file.endswith(".py"))
    here = {
        top
        for file in python
        for top in re.findall(r"(?m)^ *(?:from|import) (\w+)", (PROJECT / file).read_text())
    }
    there = {name.split(".")[0] for file in files for name in imported(file)}
    names = {name_of(entry) for entry in declared((PROJECT / "pyproject.toml").read_text())}
    tops = {name: _top_level(name) for name in names}
    return {name for name in names if tops[name] & there or not tops[name] & here}


def _top_level(requirement: str) -> set[str]:
    """The modules that a requirement brings, by the files that it installed."""
    files = distribution(requirement).files or ()
    return {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}


def declared(pyproject_toml: str) -> list[str]:
    """The requirements of a project, such as "boto3==1.2.3"."""
    found = tomllib.loads(pyproject_toml)
    return [*found["project"]["dependencies"], *found["dependency-groups"]["dev"]]


def name_of(requirement: str) -> str:
    """aws-lambda-powertools[all]==3.37.0 as aws-lambda-powertools."""
    return re.split(r"[\[=]", requirement)[0]


def pyproject(text: str, pattern: str, stack: ast.Module, roots: set[str], files: Files) -> str:
    """pyproject.toml with the project's name, problem, requirements and folders."""
    for entry in declared(text):
        if name_of(entry) not in roots:
            text = text.replace(f'    "{entry}",\n', "")
    for entry in tomllib.loads(text)["tool"]["ty"]["src"]["include"]:
        if not has(files, entry):
            text = text.replace(f'"{entry}", ', "")
    problem = json.dumps(problem_of(stack), ensure_ascii=False)
    for key, line in (
        ("name", f'name = "{kebab(pattern)}"\n'),
        ("description", f"description = {problem}\n"),
        ("license", ""),
    ):
        text = re.sub(rf"(?m)^{key} = .*\n", lambda _, line=line: line, text, count=1)
    return text


def lock(text: str, roots: set[str], pattern: str) -> str:
    """The entries of a lock file for `roots` and what they require, hashes and all.

    Under each entry stands who requires it ("# via"): that is all one needs to know.
    """
    gallery = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["name"]
    entries = re.findall(r"(?ms)^[\w.-]+==.*?(?=^[\w.-]+==|\Z)", text)
    names = [name_of(entry) for entry in entries]
    via = [re.findall(r"(?m)^    # (?:via |  )(\S.*)$", entry) for entry in entries]
    needed: set[str] = set()
    new = set(roots)
    while new:
        needed |= new
        new = {name for name, by in zip(names, via, strict=True) if needed & set(by)} - needed
    kept = []
    for name, by, entry in zip(names, via, entries, strict=True):
        if name in needed:
            still = [
                one.replace(gallery, kebab(pattern))
                for one in by
                if one in needed or (name in roots and one.startswith(f"{gallery} "))
            ]
            lines = still if len(still) == 1 else ["", *(f"  {one}" for one in still)]
            says = "\n    # ".join([f"    # via {lines[0]}".rstrip(), *lines[1:]])
            kept.append(entry.partition("    # via")[0] + says + "\n")
    return "".join(kept)


# ---- what is less or other in a project


def has(files: Iterable[str], path: str) -> bool:
    """Whether a file or a folder is among files."""
    return any(f"{file}/".startswith(f"{path.rstrip('/')}/") for file in files)


def with_name(text: str, name: str) -> str:
    """A JSON object under another name."""
    return json.dumps(json.loads(text) | {"name": name}, indent=2) + "\n"


def only_of(text: str, stem: str) -> str:
    """JSON by pattern: one pattern's entry only."""
    return json.dumps({stem: json.loads(text)[stem]}, indent=2) + "\n"


def without_sections(text: str, titles: Iterable[str]) -> str:
    """Markdown less its sections of these titles."""
    sections = re.split(r"(?m)^(?=## )", text)
    left = [one for one in sections if one.partition("\n")[0].removeprefix("## ") not in titles]
    return "".join(left).rstrip() + "\n"


def without_targets(text: str) -> str:
    """A Makefile less the commands that only a gallery has: a command is a paragraph."""
    paragraphs = [
        re.sub(rf" (?:{'|'.join(ONLY_HERE)})(?= |$)", "", one, flags=re.M)
        if one.startswith(".DEFAULT_GOAL")
        else one
        for one in text.split("\n\n")
        if one.partition(":")[0] not in ONLY_HERE
    ]
    return "\n\n".join(paragraphs).rstrip() + "\n"


def without_lines(text: str) -> str:
    """A text less the lines that say nothing but a gallery's command or folder."""
    only_here = re.compile(rf"(?:make )?/?(?:{'|'.join(ONLY_HERE)})\b")
    return "".join(line for line in text.splitlines(True) if not only_here.match(line))


def docstring(node: ast.Module | ast.ClassDef) -> str:
    """What a module or class says of itself; nothing if it does not."""
    return ast.get_docstring(node) or ""


def problem_of(stack: ast.Module) -> str:
    """The problem that a stack solves, in one sentence."""
    return docstring(stack).partition("\n")[0]


def readme(pattern: str, stack: ast.Module, files: Files) -> str:
    """README.md about one pattern, from what its stack says, with the folders that there are."""
    (its_class,) = (
        node for node in stack.body if isinstance(node, ast.ClassDef) and node.name == pattern
    )
    options = re.findall(r"(?m)^(\w+): (.+(?:\n .+)*)", docstring(its_class))
    says = {
        "pattern": pattern,
        "problem": problem_of(stack),
        "says": docstring(stack).partition("\n")[2].strip("\n"),
        "options": "\n".join(
            f"- `{option}`: {' '.join(meaning.split())}" for option, meaning in options
        ),
    }
    text = (PROJECT / "fork" / "README.md").read_text()
    text = re.sub(r"%(\w+)%", lambda match: says[match[1]], text)
    return "".join(
        line
        for line in text.splitlines(True)
        if not (listed := re.match(r"(\S+\.\w+|\S+/)  +\S", line))
        or has({*files, "README.md"}, listed[1])
    )


# ---- the folder


def git(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run git on the repository of a folder, whichever one the environment may lead to."""
    leads = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    kept = {name: value for name, value in os.environ.items() if name not in leads}
    command = ("git", *words)
    if not shutil.which("git"):
        raise Refusal("git is missing; install it")
    return subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False
    )


def write(files: Files, folder: Path) -> None:
    """Write a project's files. Names of another length break lines elsewhere: ruff does that."""
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    ruff = [Path(sys.executable).parent / "ruff"]
    for words in (["check", "--select", "I", "--fix"], ["format"]):
        subprocess.run(
            [*ruff, *words, "-q", "--no-cache", "--no-respect-gitignore", "."],
            cwd=folder,
            check=True,
        )


def repository_of(folder: Path) -> str:
    """The repository in which a folder lies, or nothing."""
    return git(folder, "rev-parse", "--show-toplevel").stdout.strip()


def first_commit(folder: Path, name: str) -> None:
    """Make a repository of a folder. Who git does not know commits as the project."""
    nobody = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", kebab(name)), ("EMAIL", f"{kebab(name)}@localhost"))
    }
    author = {} if git(folder, "var", "GIT_AUTHOR_IDENT").returncode == 0 else nobody
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "--all"),
        ("commit", "-q", "--no-gpg-sign", "-m", f"Start {name}"),
    ):
        done = git(folder, *words, **author)
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())
            raise Refusal(f"git {words[0]} failed: {said}")
