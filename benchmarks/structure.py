"""Prints how a checkout is built, as a Markdown table: what an addition touches, how long functions are.

    python benchmarks/structure.py                      # this checkout
    python benchmarks/structure.py ../before .          # two checkouts, side by side
    python benchmarks/structure.py . --where            # and which files each count is made of
 Sources are parsed, never imported, so that any state of any checkout can be measured. Everything is counted
from the syntax tree by the rule in the docstring of its function; no file and no name of a stage, a command
or a denoiser is written down here.
"""

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGES = ("codi", "data", "training")
MODALITIES = ("text", "image", "audio", "video")
HOME = "codi/modalities/"  # each modality's own file lies here
BORDERS = (HOME, "codi/io/", "codi/convert/")  # rooms that may ask which modality something is
RELEASED = ("codi/convert/", "codi/models/released/")  # four released files, and there will never be a fifth

# Docstrings that begin with a word ending in -s and go on like this begin with a plural: "Options of a run".
AFTER_A_NOUN = set(
    "and are as at by for from in is of on or per that to which who whose with without".split()
)
IMPERATIVES = set(
    "act add advance allow answer appear append apply ask assemble assign attach attend average blend "
    "bound bring build cache calculate call cap centre change check choose clear clip close collect "
    "combine compare complete compute concatenate connect continue convert convolve copy count create cut "
    "deal decide decode deduce delete denoise derive describe detect determine disable discard divide do "
    "download draw drop embed empty enable encode end enter estimate evaluate exchange expand explain "
    "export extract fail fetch fill filter find finish fit flatten fold forget format forward free fuse "
    "gather generate get give guess guide hand hash have help hide hold ignore import initialise "
    "initialize insert install interpolate interrupt invert iterate join judge keep kill lay lead leave "
    "let limit link list listen load lock log look make map mark match mean measure mend merge mix move "
    "name normalise note notice number offer open order pack pad pair parse pass pick pin place plan plot "
    "point pool predict prepare preview print probe process produce project propose prune publish push "
    "put quote raise read recognise record reduce refuse register reject release remove render repeat "
    "replace report represent require reset resize resolve restore resume return rewrite rotate round run "
    "sample save say scale scan score search see seed seek select send serve set settle shape share shift "
    "shorten show shrink shuffle sign silence skip sort spell split spread stack start state step stop "
    "store strip subtract sum support swap switch take teach tell test time tokenize trace train trim try "
    "turn undo unfuse unload unpack update upload upsample use verify view wait walk warm warn watch "
    "weigh wrap write yield zero".split()
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COLLECTIONS = (ast.Tuple, ast.List, ast.Set)


@dataclass(frozen=True)
class Source:
    """One parsed file: its path below the checkout, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def aliases(self) -> set[str]:
        """Names that stand for one modality here: `TEXT` after `TEXT = Modality.TEXT`, or imported so."""
        found = set()
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom):
                found |= {name.asname or name.name for name in node.names if name.name.lower() in MODALITIES}
            elif isinstance(node, ast.Assign):
                found |= set(_assigned_members(node))
        return {name for name in found if name.isupper()}

    def is_modality(self, node: ast.AST | None) -> bool:
        """Tells whether an expression is one modality: `Modality.TEXT`, its alias, or the string "text"."""
        if isinstance(node, ast.Attribute) and node.attr == "value":
            return self.is_modality(node.value)
        if isinstance(node, ast.Name):
            return node.id in self.aliases
        return _is_member(node) or (isinstance(node, ast.Constant) and node.value in MODALITIES)

    def members(self, node: ast.AST) -> int:
        """Counts the modalities in a literal collection; 0 for whatever is none."""
        return sum(map(self.is_modality, node.elts)) if isinstance(node, COLLECTIONS) else 0


def _is_member(node: ast.AST | None) -> bool:
    owned = (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Modality"
    )
    return owned and node.attr.lower() in MODALITIES


def _assigned_members(node: ast.Assign) -> Iterator[str]:
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts))
        for name, value in pairs:
            if isinstance(name, ast.Name) and _is_member(value):
                yield name.id


@dataclass(frozen=True)
class Checkout:
    """All sources and tests of one checkout."""

    root: Path

    @cached_property
    def sources(self) -> list[Source]:
        return [source for package in PACKAGES for source in _read(self.root, package)]

    @cached_property
    def tests(self) -> list[Source]:
        return _read(self.root, "tests")

    @cached_property
    def num_lines(self) -> int:
        return sum(len(source.lines) for source in self.sources)


def _read(root: Path, folder: str) -> list[Source]:
    paths = sorted((root / folder).rglob("*.py"))
    return [Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


# Knowledge of a modality by its name -----------------------------------


def comparisons(source: Source) -> int:
    """Counts comparisons with a modality's name.

    That is any of `==`, `!=`, `is`, `in` and their negations with a modality on either side, or with a
    literal collection that holds one; and every `case` of a `match` that is a modality.
    """
    found = 0
    for node in source.nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found += any(source.is_modality(side) or source.members(side) > 0 for side in sides)
        found += isinstance(node, ast.MatchValue) and source.is_modality(node.value)
    return found


def tables(source: Source) -> int:
    """Counts dict literals of which two keys or more are modalities."""
    dicts = (node for node in source.nodes if isinstance(node, ast.Dict))
    return sum(sum(map(source.is_modality, node.keys)) >= 2 for node in dicts)


def lists(source: Source) -> int:
    """Counts literal collections of three modalities or more that are not part of a comparison."""
    compared = {
        id(side) for node in source.nodes if isinstance(node, ast.Compare) for side in node.comparators
    }
    return sum(source.members(node) >= 3 and id(node) not in compared for node in source.nodes)


def signatures(source: Source) -> int:
    """Counts functions and classes with parameters or fields for three modalities or more.

    `image`, `image_prompt` and `image_autoencoder` are all for images: the first word of the name counts.
    """
    found = 0
    for node in source.nodes:
        names: list[str] = []
        if isinstance(node, FUNCTIONS):
            names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.ClassDef):
            fields = [field.target for field in node.body if isinstance(field, ast.AnnAssign)]
            names = [field.id for field in fields if isinstance(field, ast.Name)]
        found += len({name.split("_")[0] for name in names} & set(MODALITIES)) >= 3
    return found


def enumerations(source: Source) -> int:
    """Counts classes that give three modalities or more a name, as the enum `Modality` does."""
    found = 0
    for node in source.nodes:
        if isinstance(node, ast.ClassDef):
            values = [statement.value for statement in node.body if isinstance(statement, ast.Assign)]
            found += (
                sum(isinstance(value, ast.Constant) and value.value in MODALITIES for value in values) >= 3
            )
    return found


def zips(source: Source) -> int:
    """Counts calls of `zip` with `Modality` itself: what stands beside it has a place for each."""
    calls = [node for node in source.nodes if isinstance(node, ast.Call) and _name(node.func) == "zip"]
    return sum(any(_name(argument) == "Modality" for argument in call.args) for call in calls)


def for_a_modality(checkout: Checkout) -> Counter[str]:
    """Finds the files in which a fifth modality may have to be added, beside its own.

    Those that define the enum, or hold a table, a list, a signature or a `zip` of modalities, or compare with
    the name of one. Not counted: the four modalities' own files in codi/modalities, and what is only about
    the four files that were released with the paper.
    """
    rules = (enumerations, tables, lists, signatures, zips, comparisons)
    found = _count(checkout, lambda source: sum(rule(source) for rule in rules))
    own = {f"{HOME}{name}.py" for name in MODALITIES}
    return Counter(
        {path: n for path, n in found.items() if path not in own and not path.startswith(RELEASED)}
    )


# Other additions -------------------------------------------------------


def for_a_condition(checkout: Checkout) -> Counter[str]:
    """Finds the files in which a new condition, beside prompt and partners, may have to be added.

    Those with a registry of conditions (a table named CONDITIONS); those that name a branch of guidance, as
    members of an enum `Branch`, where each further condition doubles the members; and those with a function
    that takes `context` and `env` one by one, so that a third condition is a third parameter. A function that
    takes `conditions` too has a place for it.
    """
    registered = set(_keys(checkout, "CONDITIONS"))

    def places(source: Source) -> int:
        branches = sum(
            isinstance(node, ast.Attribute) and _name(node.value) == "Branch" for node in source.nodes
        )
        threaded = sum(_threads_conditions(node) for node in source.nodes if isinstance(node, FUNCTIONS))
        return branches + threaded + _registries(source, registered, least=1)

    return _count(checkout, places)


def _threads_conditions(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    return {"context", "env"} <= names and not names & {"conditions", "inputs"}


def for_a_denoiser(checkout: Checkout) -> Counter[str]:
    """Finds the files in which a new class of denoiser may have to be named or provided for, beside its own.

    Denoisers are the classes of codi/models/denoisers and codi/compose whose names end in "Denoiser". Counted
    are files that ask with `isinstance` for one of them, that name two or more of them (a table or a chain of
    cases; not an `__init__.py`, which only passes names on), or that ask a denoiser by `hasattr`, or by
    `getattr` with a default, what it can do.
    """
    rooms = ("codi/models/denoisers/", "codi/compose/")
    homes = [source for source in checkout.sources if source.path.startswith(rooms)]
    known = {node.name for home in homes for node in home.tree.body if _is_class(node, "Denoiser")}

    def places(source: Source) -> int:
        if source.path.endswith("__init__.py") or source.path.startswith(RELEASED):
            return 0
        own = {node.name for node in source.tree.body if isinstance(node, ast.ClassDef)}
        named = {node.id for node in source.nodes if isinstance(node, ast.Name)} & (known - own)
        calls = [node for node in source.nodes if isinstance(node, ast.Call)]
        return sum(_asks_for_class(call, known) or _probes(call, "denoiser") for call in calls) + (
            len(named) >= 2
        )

    return _count(checkout, places)


def _is_class(node: ast.AST, ending: str) -> bool:
    return isinstance(node, ast.ClassDef) and node.name.endswith(ending)


def _asks_for_class(call: ast.Call, known: set[str]) -> bool:
    if _name(call.func) != "isinstance" or len(call.args) != 2:
        return False
    kinds = call.args[1].elts if isinstance(call.args[1], ast.Tuple) else [call.args[1]]
    return any(_name(kind) in known for kind in kinds)


def _probes(call: ast.Call, what: str) -> bool:
    probing = _name(call.func) == "hasattr" or (_name(call.func) == "getattr" and len(call.args) == 3)
    return probing and what in ast.unparse(call.args[0]).lower()


def for_an_objective(checkout: Checkout) -> Counter[str]:
    """Finds the files in which a new objective of training may have to be registered or provided for.

    Objectives are the keys of the table STAGES, and the classes that it names. Counted are files of training/
    with that table or another by them, files that compare with the name of one, and files that ask with
    `isinstance` for the class of one or by `hasattr`, or `getattr` with a default, what a stage can do.
    """
    names = set(_keys(checkout, "STAGES"))
    classes = {value.rpartition(":")[2] for value in _values(checkout, "STAGES") if ":" in value}

    def places(source: Source) -> int:
        if not source.path.startswith("training/"):
            return 0
        calls = [node for node in source.nodes if isinstance(node, ast.Call)]
        asked = sum(_asks_for_class(call, classes) or _probes(call, "stage") for call in calls)
        return asked + _registries(source, names, least=2) + _compared(source, names - set(MODALITIES))

    return _count(checkout, places)


def for_a_command(checkout: Checkout) -> Counter[str]:
    """Finds the files in which a new command may have to be registered or provided for.

    Commands are the keys of a table COMMANDS, or the first arguments of `add_parser`. Counted are files with
    either, with another table by them, or with a comparison with the name of one.
    """
    calls = [node for source in checkout.sources for node in source.nodes if _adds_parser(node)]
    names = {call.args[0].value for call in calls} | set(_keys(checkout, "COMMANDS"))

    def places(source: Source) -> int:
        added = sum(_adds_parser(node) for node in source.nodes)
        return added + _registries(source, names, least=2) + _compared(source, names)

    return _count(checkout, places)


def _adds_parser(node: ast.AST) -> bool:
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_parser"
    ):
        return False
    return bool(node.args) and isinstance(node.args[0], ast.Constant)


def _tables_named(checkout: Checkout, name: str) -> Iterator[ast.Dict]:
    for source in checkout.sources:
        for node in source.tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if _name(target) == name and isinstance(node.value, ast.Dict):
                yield node.value


def _keys(checkout: Checkout, name: str) -> list[str]:
    """Lists the string keys of every table at the top of a module that is called `name`."""
    return [text for table in _tables_named(checkout, name) for text in _strings(table.keys)]


def _values(checkout: Checkout, name: str) -> list[str]:
    return [text for table in _tables_named(checkout, name) for text in _strings(table.values)]


def _strings(nodes: Iterable[ast.AST | None]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _registries(source: Source, names: set[str], least: int) -> int:
    """Counts dict literals with at least `least` of `names` among their keys."""
    dicts = (node for node in source.nodes if isinstance(node, ast.Dict))
    return sum(len(names & set(_strings(node.keys))) >= least for node in dicts)


def _compared(source: Source, names: set[str]) -> int:
    """Counts comparisons with one of `names`, or with a literal collection that holds one."""
    found = 0
    for node in source.nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [
                part for side in sides for part in (side.elts if isinstance(side, COLLECTIONS) else [side])
            ]
            found += bool(names & set(_strings(parts)))
    return found


def _name(node: ast.AST | None) -> str:
    """Gives the last part of a name, `b` for `a.b`; nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _count(checkout: Checkout, rule: Callable[[Source], int], outside: Sequence[str] = ()) -> Counter[str]:
    counts = {
        source.path: rule(source) for source in checkout.sources if not source.path.startswith(tuple(outside))
    }
    return Counter({path: count for path, count in counts.items() if count})


# How it reads ----------------------------------------------------------


def function_lengths(checkout: Checkout) -> list[tuple[int, str]]:
    """Lists (lines, path:name) of all functions, nested ones and methods too, the shortest first.

    The lines of a docstring are left out.
    """
    found = []
    for source in checkout.sources:
        for node in source.nodes:
            if isinstance(node, FUNCTIONS):
                length = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
                found.append((length, f"{source.path}:{node.name}"))
    return sorted(found)


def _docstring_lines(node: ast.AST) -> int:
    """Return the lines of the docstring of a module, a class or a function."""
    first = node.body[0] if node.body else None
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return first.end_lineno - first.lineno + 1 if is_docstring else 0


def code_lines(source: Source) -> int:
    """Count the lines of a file that are neither empty, nor a comment alone, nor a docstring."""
    filled = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in source.lines)
    documented = [ast.Module, ast.ClassDef, *FUNCTIONS]
    texts = [node for node in source.nodes if isinstance(node, tuple(documented))]
    blank = 0  # empty lines inside docstrings, which `filled` leaves out already
    for node in texts:
        count = _docstring_lines(node)
        if count:
            first = node.body[0].lineno
            blank += sum(not line.strip() for line in source.lines[first - 1 : first - 1 + count])
    return filled - sum(map(_docstring_lines, texts)) + blank


def docstrings(checkout: Checkout, kinds: tuple[type, ...], public: bool = False) -> tuple[int, int]:
    """Counts (documented, all) of a kind of node.

    public: without names that begin with an underscore, and without functions inside functions.
    """
    documented = everything = 0
    for source in checkout.sources:
        nested = _nested(source) if public else set()
        for node in source.nodes:
            if not isinstance(node, kinds):
                continue
            if not (public and (node.name.startswith("_") or node in nested)):
                everything += 1
                documented += ast.get_docstring(node) is not None
    return documented, everything


def _nested(source: Source) -> set[ast.AST]:
    functions = [node for node in source.nodes if isinstance(node, FUNCTIONS)]
    return {
        inner
        for outer in functions
        for inner in ast.walk(outer)
        if inner is not outer and isinstance(inner, FUNCTIONS)
    }


def begins_with_a_verb(text: str) -> bool:
    """Guesses whether a docstring begins with a verb.

    It does if the first word is in the imperative by a short list ("Return"), or ends in -s, but not in -ss,
    -us or -is, and no preposition, relative or "and" follows, as behind a plural ("Returns a tensor", not
    "Options of a run").
    """
    words = re.findall(r"[A-Za-z'-]+|[^\sA-Za-z]", text)[:2]
    first = words[0].lower() if words else ""
    if first in IMPERATIVES:
        return True
    third_person = first.endswith("s") and not first.endswith(("ss", "us", "is", "'s"))
    return third_person and not (len(words) > 1 and words[1].lower() in AFTER_A_NOUN)


def verbs(checkout: Checkout) -> tuple[int, int]:
    """Counts (docstrings of functions that begin with a verb, docstrings of functions).

    Properties are left out: theirs name what they are, as those of attributes do.
    """
    functions = [
        node
        for source in checkout.sources
        for node in source.nodes
        if isinstance(node, FUNCTIONS) and not any("property" in ast.unparse(d) for d in node.decorator_list)
    ]
    texts = [text for text in map(ast.get_docstring, functions) if text]
    return sum(map(begins_with_a_verb, texts)), len(texts)


def comments(checkout: Checkout) -> int:
    """Counts comments, those behind code included."""
    found = 0
    for source in checkout.sources:
        tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
        found += sum(token.type == tokenize.COMMENT for token in tokens)
    return found


def comprehensions(checkout: Checkout) -> int:
    """Counts comprehensions of lists, sets and dicts, and generator expressions."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return sum(isinstance(node, kinds) for source in checkout.sources for node in source.nodes)


def packed_assignments(checkout: Checkout) -> int:
    """Counts assignments of several values to several names in one line, `a, b = x, y`."""
    assignments = [
        node for source in checkout.sources for node in source.nodes if isinstance(node, ast.Assign)
    ]
    return sum(
        isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple) for node in assignments
    )


def long_lines(checkout: Checkout, limit: int) -> float:
    """Gives the per cent of lines that are longer than `limit` characters; empty lines are left out."""
    filled = [line for source in checkout.sources for line in source.lines if line.strip()]
    return 100 * sum(len(line) > limit for line in filled) / max(1, len(filled))


def test_ratio(checkout: Checkout, room: str = "") -> float:
    """Gives the lines of tests for each line of source: lines of code, so that documenting costs nothing.

    room: of tests/<room> and codi/<room> alone; without it of everything.
    """
    sources = [
        source for source in checkout.sources if source.path.startswith(f"codi/{room}/" if room else "")
    ]
    tests = [source for source in checkout.tests if source.path.startswith(f"tests/{room}/" if room else "")]
    return sum(map(code_lines, tests)) / max(1, sum(map(code_lines, sources)))


# Imports ---------------------------------------------------------------


def import_circles(checkout: Checkout) -> list[list[str]]:
    """Lists the sets of modules that import each other, directly or through others.

    Imports inside functions count; those under `if TYPE_CHECKING` do not, since nothing runs them. That
    importing a module also runs the `__init__.py` above it is left out.
    """
    modules = {_module(source.path): source for source in checkout.sources}
    graph = {name: _imported(source, name, modules) for name, source in modules.items()}
    reach = {name: _reachable(name, graph) for name in graph}
    circles = {frozenset(m for m in reach[name] if name in reach[m]) for name in graph if name in reach[name]}
    return sorted(sorted(circle) for circle in circles)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(source: Source, name: str, modules: dict[str, Source]) -> set[str]:
    package = name if source.path.endswith("__init__.py") else name.rpartition(".")[0]
    found = set()
    for node in _running(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names} & modules.keys()
            found |= whole | ({base} if len(whole) < len(node.names) else set())
    return (found & modules.keys()) - {name}


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walks over a tree without the branches that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _running(node)


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


# The table -------------------------------------------------------------

TOUCHED = {
    "a fifth modality": for_a_modality,
    "a new condition": for_a_condition,
    "a new denoiser": for_a_denoiser,
    "a new objective": for_an_objective,
    "a new command": for_a_command,
}
KNOWN_BY_NAME = {
    "comparisons with a modality's name": comparisons,
    "tables by modality": tables,
}


def rows(checkout: Checkout) -> dict[str, str]:
    """Measures everything: what a row is about -> what it says."""
    lengths = function_lengths(checkout)
    counts = [length for length, _ in lengths]
    thousands = checkout.num_lines / 1000
    found = {"files; lines": f"{len(checkout.sources)}; {checkout.num_lines:,}"}
    for what, rule in TOUCHED.items():
        found[f"files to touch for {what}"] = str(len(rule(checkout)))
    for what, rule in KNOWN_BY_NAME.items():
        everywhere = _count(checkout, rule)
        above = _count(checkout, rule, outside=BORDERS)
        found[f"{what}, outside modalities, io, convert"] = f"{above.total()} in {len(above)} files"
        found[f"{what}, everywhere"] = f"{everywhere.total()} in {len(everywhere)} files"
    longest, where = lengths[-1]
    found["lines of a function: median; 90th percentile"] = (
        f"{statistics.median(counts):g}; {_percentile(counts, 90)}"
    )
    found["longest function"] = f"{longest} ({where})"
    found["lines over 100; over 110 characters"] = (
        f"{long_lines(checkout, 100):.1f} %; {long_lines(checkout, 110):.1f} %"
    )
    found["functions with a docstring: public; all"] = _shares(checkout, FUNCTIONS)
    found["classes with a docstring: public; all"] = _shares(checkout, (ast.ClassDef,))
    found["modules with a docstring"] = _share(docstrings(checkout, (ast.Module,)))
    found["functions' docstrings that begin with a verb"] = _share(verbs(checkout))
    found["comments per 100 lines"] = f"{comments(checkout) / thousands / 10:.1f}"
    found["comprehensions; packed assignments per 1,000 lines"] = (
        f"{comprehensions(checkout) / thousands:.0f}; {packed_assignments(checkout) / thousands:.1f}"
    )
    found["lines of tests per line of source"] = f"{test_ratio(checkout):.2f}"
    for room in ("models", "bench", "world"):
        found[f"... of codi/{room}"] = f"{test_ratio(checkout, room):.2f}"
    found["circles of imports, lazy ones included"] = str(len(import_circles(checkout)))
    return found


def _percentile(values: list[int], percent: int) -> int:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _share(counts: tuple[int, int]) -> str:
    return f"{100 * counts[0] / max(1, counts[1]):.0f} %"


def _shares(checkout: Checkout, kinds: tuple[type, ...]) -> str:
    return f"{_share(docstrings(checkout, kinds, public=True))}; {_share(docstrings(checkout, kinds))}"


def places(checkout: Checkout) -> dict[str, list[str]]:
    """Says what counts are made of: what a row is about -> files with their counts, circles of modules."""
    found = {f"files to touch for {what}": _listed(rule(checkout)) for what, rule in TOUCHED.items()}
    for what, rule in KNOWN_BY_NAME.items():
        found[f"{what}, outside modalities, io, convert"] = _listed(_count(checkout, rule, outside=BORDERS))
    found["circles of imports"] = [" <-> ".join(circle) for circle in import_circles(checkout)]
    return found


def _listed(counts: Counter[str]) -> list[str]:
    return [f"{path} ({count})" for path, count in sorted(counts.items())]


def markdown(names: Sequence[str], columns: Sequence[dict[str, str]]) -> str:
    """Lays out one column of `rows` for each checkout beside each other."""
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(column[row] for column in columns)} |" for row in columns[0]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prints how one checkout, or two side by side, is built.")
    parser.add_argument("checkout", nargs="*", type=Path, help="one or two folders (default: this checkout)")
    parser.add_argument("--where", action="store_true", help="also list the files that each count is made of")
    asked = parser.parse_args(arguments)
    folders = asked.checkout or [Path(__file__).resolve().parent.parent]
    if len(folders) > 2:
        parser.error(f"{len(folders)} checkouts: expected one or two")
    for folder in folders:
        if not (folder / "codi").is_dir():
            parser.error(f"{folder} is no checkout of codi: it has no folder codi/")
    checkouts = [Checkout(folder) for folder in folders]
    names = ["before", "after"] if len(folders) == 2 else [folders[0].resolve().name]
    print(markdown(names, [rows(checkout) for checkout in checkouts]))
    if asked.where:
        for name, checkout in zip(names, checkouts):
            for what, found in places(checkout).items():
                print(f"\n{name}: {what}\n" + "\n".join(f"- {line}" for line in found or ["none"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
