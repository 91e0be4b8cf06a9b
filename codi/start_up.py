"""Shorten the start of a process that only generates: import nothing that generating does not need.

diffusers and transformers import with every model what some of their models need: the compiler of PyTorch,
its distributed tensors, SciPy's solvers, all transformers that diffusers has. That is more than half of the
time from a command to its first picture. Both libraries run without whatever is not installed. `lean_imports`
makes use of that: while they are imported, it lets them find only what generating needs.

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

# Optional libraries that diffusers and transformers use in losses, training, tracking and for other media.
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

# Where diffusers and transformers remember what is installed, as soon as any of their modules is imported.
ASKING = ("diffusers.utils.import_utils", "transformers.utils.import_utils")

# Packages that import all of their modules, or read all of their files, where generating needs one or two of
# them; and attention that is compiled for its mask, which no part of codi has.
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
    """Let threads of a computation sleep while they wait for each other, unless the user has said otherwise.

    Call it before torch is imported. By default GNU's OpenMP lets waiting threads spin. Where another program
    wants the same cores, spinning takes them from the very thread that is waited for: on two busy cores a
    picture then took 14 s in place of one.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "passive"


@contextlib.contextmanager
def lean_imports(lora: bool = False) -> Iterator[None]:
    """Import diffusers and transformers, within this context, without what generating does not need.

    What cannot be left out, in this or a later version of either library, is imported as always.

    Args:
        lora: whether a LoRA will be loaded, which is the only thing that peft is needed for.

    Yields:
        Nothing.
    """
    import torch

    not_needed = NOT_NEEDED if lora else (*NOT_NEEDED, "peft")
    if any(name in sys.modules for name in ASKING):
        not_needed = ()  # what was installed is remembered, and would be missed
    hidden = [name for name in not_needed if name not in sys.modules]
    packages = _Deferred([name for name in DEFERRED if name not in sys.modules])
    with contextlib.ExitStack() as undo:
        sys.modules.update(dict.fromkeys(hidden))
        undo.callback(_show, hidden)
        leave_out_broken()  # before transformers remembers what is installed
        sys.meta_path.insert(0, packages)
        undo.callback(sys.meta_path.remove, packages)
        # diffusers lists the files of everything that is installed, which takes a third of a second, to find
        # versions that it also finds without
        _replace(undo, importlib.metadata, "packages_distributions", dict)
        _replace(undo, torch.distributed, "is_available", lambda: False)
        _replace(undo, torch.compiler, "disable", _mark)
        # a compiler that was imported already stays as it is
        spec = None if COMPILER in sys.modules else importlib.util.find_spec(COMPILER)
        if spec is not None:
            torch._dynamo = sys.modules[COMPILER] = _Compiler(spec)
        _without_flex_attention(undo)
        yield


def _show(hidden: Sequence[str]) -> None:
    """Let libraries be found again that were hidden by an entry of None in `sys.modules`."""
    for name in hidden:
        if sys.modules.get(name, name) is None:
            del sys.modules[name]


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is unwound; one that is not there is left alone."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _mark(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Return the function as it is, as decorators for the compiler do in a process that compiles nothing.

    Called without a function, as a decorator with options is, it returns such a decorator.
    """
    return function if function is not None else lambda decorated: decorated


class _Compiler(ModuleType):
    """Stands in for PyTorch's compiler, so that the compiler itself need not be imported.

    It has the marks that libraries put on functions for the compiler, and the class of modules that were
    compiled. Anything else that is asked of it imports the compiler after all, which then takes its place.
    """

    def __init__(self, spec: ModuleSpec):
        super().__init__(COMPILER)
        self.__spec__ = spec
        self.__path__ = list(spec.submodule_search_locations or ())
        self.allow_in_graph = self.assume_constant_result = self.disable = _mark
        # libraries ask whether a module is one that was compiled: none is
        self.eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # the stand-in makes room for the compiler, and so does what was imported as a part of it
        if sys.modules[COMPILER] is self:
            for module in list(sys.modules):
                if f"{module}.".startswith(f"{COMPILER}."):
                    del sys.modules[module]
        return getattr(importlib.import_module(COMPILER), name)


def _without_flex_attention(undo: contextlib.ExitStack) -> None:
    """Make transformers believe that torch lacks flex attention; it asks before it imports it."""
    import transformers.utils
    import transformers.utils.import_utils

    for module in (transformers.utils, transformers.utils.import_utils):
        _replace(undo, module, "is_torch_flex_attn_available", lambda: False)


class _Deferred:
    """Finds packages and modules whose own code is to run only when something is asked of them.

    For a package, asking for one of its modules does not count: that module is imported by itself.
    """

    def __init__(self, names: Sequence[str]):
        self.names = set(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as usual, once, with a loader that does not run it."""
        if name not in self.names:
            return None
        self.names.discard(name)
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Makes an empty module, for which `_Module` runs the real loader later."""

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
                # to ask for one module of a package is not to ask for all of them
                return importlib.import_module(f"{self.__name__}.{name}")
            vars(self)["_ran"] = True
            self.__spec__.loader.exec_module(self)
        now = sys.modules[self.__name__]
        if name in vars(now):
            return vars(now)[name]
        if now is not self:  # it put another object in its place
            return getattr(now, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
