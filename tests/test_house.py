"""The rules of the repository: imports, packages, size, columns, docstrings, README's file tree."""

import ast
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

# A chapter imports only from itself and from chapters before it.
CHAPTERS = [
    "errors",
    "config",
    "distributed",
    "speed",
    "data",
    "model",
    "classifier",
    "lora",
    "checkpoints",
    "training",
    "generation",
    "evaluation",
    "baseline",
    "report",
    "generate",
    "predict",
]
PATH = [  # the evening's path
    "scripts/finetune_imdb.py",
    "gptft/data/tokenizer.py",
    "gptft/data/classification.py",
    "gptft/data/batches.py",
    "gptft/model.py",
    "gptft/classifier.py",
    "gptft/training/optimizer.py",
    "gptft/training/loop.py",
    "gptft/data/instructions.py",
    "gptft/generation/sampling.py",
    "gptft/generation/decoding.py",
    "gptft/checkpoints/names.py",
]
FOLDERS = ("gptft", "data_prep", "scripts")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PACKAGES = {"torch", "tiktoken", "numpy"}
TOKENS = 50_000  # in all sources
PATH_TOKENS = 10_000
TEST_TOKENS = 75_000  # without the makers of fixtures
COLUMNS = 100
FILE_LINES, FUNCTION_LINES, MAIN_LINES = 200, 40, 80  # of code
TOKENS_A_LINE = 9.5
SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def name_of(path):
    return str(path.relative_to(ROOT))


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """The dotted names of the modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def documented(tree):
    """The nodes that have a docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]


def code_tokens(path):
    """The tokens of a file without comments and docstrings; a formatted string counts as one."""
    docstrings = set()
    for node in documented(parse(path)):
        docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens, depth = [], 0
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            name = tokenize.tok_name[token.type]
            depth -= name == "FSTRING_END"
            if depth == 0 and token.type not in SKIPPED and token.start[0] not in docstrings:
                tokens += [token] * (name != "FSTRING_END")
            depth += name == "FSTRING_START"
    return tokens


def lines_of(tokens):
    return {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}


def n_tokens(paths):
    return sum(len(code_tokens(path)) for path in paths)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_keeps_the_rules(path):
    tree, tokens = parse(path), code_tokens(path)
    used = {name.split(".")[0] for name in imported(tree)} - set(sys.stdlib_module_names)
    peers = {"transformers"} if path.name == "contenders.py" else set()
    assert used <= PACKAGES | set(FOLDERS) | peers
    assert path.name == "__init__.py" or ast.get_docstring(tree), "no opening paragraph"
    lines = lines_of(tokens)
    assert len(lines) <= FILE_LINES
    assert len(tokens) <= TOKENS_A_LINE * len(lines) or len(lines) < 10, "packed lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            inside = lines & set(range(node.lineno, node.end_lineno + 1))
            assert len(inside) <= (MAIN_LINES if node.name == "main" else FUNCTION_LINES), node.name
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= COLUMNS, f"line {number}"
        assert "# fmt:" not in line, f"line {number}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-2] != "scripts"], ids=name_of)
def test_what_is_public_has_a_docstring(path):
    nodes = parse(path).body
    nodes += [node for outer in nodes if isinstance(outer, ast.ClassDef) for node in outer.body]
    for node in nodes:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        short = node.end_lineno - node.lineno < 4 or node.name in ("main", "parse", "forward")
        assert short or ast.get_docstring(node), node.name


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.is_relative_to(ROOT / "gptft")], ids=name_of
)
def test_chapters_import_only_what_is_before_them(path):
    own = path.relative_to(ROOT / "gptft").with_suffix("").parts[0]
    for name in imported(parse(path)):
        parts = name.split(".")
        if parts[0] == "gptft" and len(parts) > 1 and own != "__init__" and parts[1] in CHAPTERS:
            assert CHAPTERS.index(parts[1]) <= CHAPTERS.index(own), name


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_test_imports_peers_only_inside_functions(path):
    if path.parent.name == "fixtures":
        pytest.skip("makes fixtures, by hand, with the programs that they come from")
    body = [node for node in parse(path).body if not isinstance(node, ast.FunctionDef)]
    known = PACKAGES | {"pytest", *FOLDERS} | {p.stem for p in TESTS} | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imported(ast.Module(body, []))} <= known


def test_the_whole_stays_small():
    assert n_tokens(SOURCES) <= TOKENS
    assert n_tokens(ROOT / name for name in PATH) <= PATH_TOKENS
    assert n_tokens(path for path in TESTS if path.parent.name != "fixtures") <= TEST_TOKENS


def test_each_stop_of_the_path_names_the_next():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    places = [readme.index(f"]({name})") for name in PATH]
    assert places == sorted(places)
    for name, following in zip(PATH, PATH[1:]):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert following.removeprefix("gptft/") in text.split("\nimport ")[0], name


def test_the_tour_names_every_file():
    text = (ROOT / "gptft" / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("```\ngptft/") :].split("\n```")[0]
    for path in (ROOT / "gptft").rglob("*.py"):
        if not path.name.startswith("__"):
            assert path.stem in tree, path.name


def test_only_the_known_folders_are_in_git():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name}
    assert folders <= {*FOLDERS, "tests", ".ci"}


@pytest.mark.parametrize("module", ["data_prep.imdb", "data_prep.alpaca", "scripts.train_logreg"])
def test_what_needs_no_torch_does_not_load_it(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
