"""The rules of the house, which no reviewer should have to check: import order, packages, size, opening paragraphs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def reading_order():
    """README's list of files -> dotted names in gptft, in the order in which they stand there."""
    text, folder = (ROOT / "README.md").read_text(encoding="utf-8"), ""
    for line in text[text.index("```\ngptft/") :].split("  assets/")[0].splitlines()[2:]:
        name = line.split()[0]
        if name.endswith("/"):
            folder = name.replace("/", ".")
        else:
            yield (folder if line.startswith("    ") else "") + name.removesuffix(".py")


ORDER = list(reading_order())  # a file imports only files above it
SOURCES = sorted(
    p for folder in ("gptft", "data_prep", "scripts") for p in (ROOT / folder).rglob("*.py")
)
ALLOWED = {"torch", "tiktoken", "numpy", "gptft", "data_prep"} | sys.stdlib_module_names


def imported(tree):
    """The dotted names that a file's syntax tree imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path):
    return ".".join(path.relative_to(ROOT / "gptft").with_suffix("").parts)


def test_imports_run_only_downward():
    files = [p for p in SOURCES if p.is_relative_to(ROOT / "gptft") and p.name != "__init__.py"]
    assert sorted(map(name_of, files)) == sorted(ORDER)
    for path in files:
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            name = name.removeprefix("gptft.")
            if name in ORDER:
                assert ORDER.index(name) < ORDER.index(name_of(path)), (
                    f"{path.name} imports {name}, which stands below it"
                )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_the_rules(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert {name.split(".")[0] for name in imported(tree)} <= ALLOWED | (
        {"scripts"} if path.parent.name == "scripts" else set()
    )
    assert text.count("\n") <= 520, "one subject, one sitting"
    assert path.name == "__init__.py" or ast.get_docstring(tree), "a file opens with what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 170, (
                f"{node.name} is too long to be read at once"
            )


def names_that_mean_the_same_everywhere():
    """The names that README explains once and for all."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("\n| name | what it is |") :].split("\n\n")[0]
    return {
        name
        for line in table.splitlines()[3:]
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }


def public_functions(tree):
    """Yields each public function or method of a syntax tree and its docstring, to which that of its class belongs."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            for method, text in public_functions(node):
                yield method, f"{text}\n{ast.get_docstring(node)}"
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            yield node, ast.get_docstring(node) or ""


def raised(node):
    """The names of the exceptions that a function itself raises."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc:
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            if isinstance(error, ast.Name):
                yield error.id
        if not isinstance(child, ast.FunctionDef):
            yield from raised(child)


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if p.parent.name != "scripts"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_public_functions_say_what_they_take_and_raise(path):
    known = names_that_mean_the_same_everywhere() | {"self", "cls"}
    for node, text in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        if node.name in ("main", "parse"):  # of a command, whose --help says it
            continue
        short = node.end_lineno - node.lineno < 6
        assert short or node.name in ("__init__", "forward") or ast.get_docstring(node), (
            f"{node.name} has no docstring"
        )
        # Either each parameter by its name, or all of them as what goes in -> what comes out.
        names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)} - known
        missing = {name for name in names if not re.search(rf"\b{name}\b", text)}
        assert not missing or "->" in (ast.get_docstring(node) or ""), (
            f"{node.name} does not explain {missing}"
        )
        for error in set(raised(node)) - {"KeyboardInterrupt"}:
            assert error in text, f"{node.name} does not say that it raises {error}"
        for before in re.findall(
            r"(.{0,40})\b(?:int32|int64|float64)\b", ast.get_docstring(node) or ""
        ):
            assert ")" in before, f"{node.name} names the type of an array without its shape"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda p: p.name)
def test_tests_import_the_project_and_its_packages_alone(path):
    # Peers come inside functions, behind pytest.importorskip or in a program that is run by hand.
    known = ALLOWED | {"pytest", "scripts"} | {p.stem for p in path.parent.glob("*.py")}
    top = ast.Module(
        [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if not isinstance(node, ast.FunctionDef)
        ],
        [],
    )
    assert {name.split(".")[0] for name in imported(top)} <= known


def code_lines(path):
    """Lines of a file that hold code: no blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and n not in docstrings
        for n, line in lines
    )


def test_library_stays_small():
    assert sum(code_lines(p) for p in SOURCES if p.is_relative_to(ROOT / "gptft")) <= 6000


def test_readme_names_every_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("```\ngptft/") :]
    tree = tree[: tree.index("```", 3)]
    for path in SOURCES:
        assert path.name == "__init__.py" or path.name in tree, (
            f"{path.name} is missing in README's tree"
        )
    for word in tree.replace(",", " ").split():
        assert not word.endswith(".py") or any(path.name == word for path in SOURCES), (
            f"README's tree names {word}"
        )


def test_only_the_known_folders_are_in_git():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name}
    assert folders <= {"gptft", "data_prep", "scripts", "tests", ".ci"}


@pytest.mark.parametrize("script", ["finetune_alpaca.py", "finetune_imdb.py", "pretrain.py"])
def test_script_runs_from_any_folder_without_installing(tmp_path, script):
    # It must find the package beside it, and exit with main's code.
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--epochs", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: --epochs must be")
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "command",
    [
        [str(p.relative_to(ROOT))]
        for p in sorted((ROOT / "scripts").glob("*.py"))
        if "def main" in p.read_text(encoding="utf-8")
    ]
    + [
        ["-m", f"data_prep.{p.stem}"]
        for p in sorted((ROOT / "data_prep").glob("*.py"))
        if p.stem in ("alpaca", "imdb")
    ]
    + [["-m", "gptft.generate"], ["-m", "gptft.predict"], ["-m", "gptft.report"]],
)
def test_help_is_light(command):
    # torch takes over a second to import; a person who asks for help should not wait for it.
    code = (
        "import sys; sys.argv = ['x', '--help']; sys.path.insert(0, '.')\nimport runpy\ntry:\n    "
    )
    run = (
        f"runpy.run_module({command[-1]!r}, run_name='__main__')"
        if command[0] == "-m"
        else f"runpy.run_path({command[0]!r}, run_name='__main__')"
    )
    code += (
        run
        + "\nexcept SystemExit as e:\n    assert not e.code, e.code\nassert 'torch' not in sys.modules and 'tiktoken' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout and "--" in done.stdout
