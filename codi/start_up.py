"""A short start for a process that does nothing but generate: what generating does not need is not imported.

diffusers and transformers import with every model what some of their models need: the compiler of PyTorch,
its distributed tensors, SciPy's solvers, all transformers that diffusers has. That is more than half of the
time from a command to its first picture. Both libraries go on without what is not installed, and so they do
here: while they are imported, `lean_imports` lets them find only what generating needs.

Only a command that owns its process does this, and only around its imports. Whatever is asked for afterwards
is imported as always.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

from codi.libraries import leave_out_broken

# Optional libraries that diffusers and transformers use in losses, training, tracking and other kinds of
# media.
NOT_NEEDED = (
    "scipy",
    "sklearn",
    "torchvision",
    "boto3",
    "triton",
    "pandas",
    "bitsandbytes",
    "torchao",
    "gguf",
    "hqq",
    "librosa",
    "matplotlib",
)

# Packages that import all of their modules, or read all of their files, where generating needs one or two;
# and attention that is compiled for its mask, which no part here has.
DEFERRED = (
    "diffusers.models.transformers",
    "diffusers.models.autoencoders",
    "diffusers.models.unets",
    "diffusers.hooks",
    "transformers.models",
    "torch.nn.attention.flex_attention",
)

COMPILER = "torch._dynamo"


def wait_passively() -> None:
    """Lets threads of a computation sleep while they wait for each other, unless the user has said otherwise.

    Call it before torch is imported.
    GNU's OpenMP lets them spin. Where another program wants the same cores, that takes it from the thread
    that is waited for: on two busy cores a picture then took 14 s in place of one.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "passive"


@contextlib.contextmanager
def lean_imports(lora: bool = False) -> Iterator[None]:
    """While it lasts, diffusers and transformers are imported without what generating does not need; peft is
    needed for a LoRA alone.

    What cannot be left out, in this or a later version of either library, is imported as always.
    """
    import torch

    hidden = [name for name in (*NOT_NEEDED, *(() if lora else ("peft",))) if name not in sys.modules]
    packages = _Deferred([name for name in DEFERRED if name not in sys.modules])
    with contextlib.ExitStack() as undo:
        sys.modules.update(dict.fromkeys(hidden))
        undo.callback(_show, hidden)
        leave_out_broken()  # before transformers remembers what is installed
        sys.meta_path.insert(0, packages)
        undo.callback(sys.meta_path.remove, packages)
        # diffusers lists the files of everything that is installed, which takes a third of a second, to find
        # versions that it finds without
        _replace(undo, importlib.metadata, "packages_distributions", dict)
        _replace(undo, torch.distributed, "is_available", lambda: False)
        _replace(undo, torch.compiler, "disable", _mark)
        spec = None if COMPILER in sys.modules else importlib.util.find_spec(COMPILER)
        if spec is not None:
            torch._dynamo = sys.modules[COMPILER] = _Compiler(spec)
        _without_flex_attention(undo)
        yield


def _show(hidden: Sequence[str]) -> None:
    for name in hidden:
        if sys.modules.get(name, name) is None:
            del sys.modules[name]


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute until the stack is undone; one that is not there is left alone."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _mark(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What decorators for the compiler come to in a process that compiles nothing."""
    return function if function is not None else lambda decorated: decorated


class _Compiler(ModuleType):
    """The marks that libraries put on functions for the compiler, and the class of what it has compiled,
    without the compiler itself.

    For anything else that is asked of it the compiler is imported after all, and takes its place.
    """

    def __init__(self, spec: ModuleSpec):
        super().__init__(COMPILER)
        self.__spec__, self.__path__ = spec, list(spec.submodule_search_locations or ())
        self.allow_in_graph = self.assume_constant_result = self.disable = _mark
        # of which there are none
        self.eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules[COMPILER] is self:
            for module in [loaded for loaded in sys.modules if f"{loaded}.".startswith(f"{COMPILER}.")]:
                del sys.modules[module]
        return getattr(importlib.import_module(COMPILER), name)


def _without_flex_attention(undo: contextlib.ExitStack) -> None:
    """Tells transformers, which asks before it imports it, that torch does not offer it."""
    import transformers.utils
    import transformers.utils.import_utils

    for module in (transformers.utils, transformers.utils.import_utils):
        _replace(undo, module, "is_torch_flex_attn_available", lambda: False)


class _Deferred:
    """A finder of packages and modules whose own code runs when something is asked of them: of a package,
    more than its modules give.
    """

    def __init__(self, names: Sequence[str]):
        self.names = set(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds a module as usual, once, with a loader that does not run it."""
        if name not in self.names:
            return None
        self.names.discard(name)
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Makes an empty module; `_Module` runs the real loader."""

    def __init__(self, loader: Any):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self.loader


class _Module(ModuleType):
    """A module or package that runs its own code when it is asked for the first thing that it lacks."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not vars(self).get("_ran"):
            if PathFinder.find_spec(f"{self.__name__}.{name}", vars(self).get("__path__", ())) is not None:
                # one module of a package does not ask for all of them
                return importlib.import_module(f"{self.__name__}.{name}")
            vars(self)["_ran"] = True
            self.__spec__.loader.exec_module(self)
        now = sys.modules[self.__name__]
        if name in vars(now):
            return vars(now)[name]
        if now is not self:  # it put another object in its place
            return getattr(now, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
