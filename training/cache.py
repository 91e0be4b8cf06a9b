"""Encodes the media files of a run once.

    python -m training.cache --config configs/paper/denoise_image.yaml

What training would encode as it reads lies in safetensors shards beside the model folder afterwards, checked
by sha256, and the run of the same configuration takes it from there. The same command goes on where it was
stopped. Several processes share the shards:

    # on one machine; or with accelerate launch, on as many as it is told
    torchrun --nproc_per_node 8 -m training.cache --config ...
    # on the machines of a Ray cluster (pip install 'ray[data]')
    python -m training.cache --config ... --ray

Exit codes: 0 done, 2 something given cannot be used, 130 interrupted (finished shards stay).
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codi.modalities import load_plugins_aloud
from codi.types import InputError


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which loads nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="training.cache", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file of the run, see training/config.py")
    parser.add_argument("--small", action="store_true", help="the miniature of the run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, repeatable"
    )
    parser.add_argument(
        "--shard-size", type=int, default=1024, metavar="N", help="samples of one shard (default %(default)s)"
    )
    parser.add_argument("--ray", action="store_true", help="spread the shards over a Ray cluster")
    parser.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="N",
        help="with --ray: what one worker asks of the cluster",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Fill the caches of one run and return the exit code."""
    load_plugins_aloud()
    options = make_parser().parse_args(arguments)
    try:
        if options.shard_size < 1:
            raise InputError(f"--shard-size is {options.shard_size}: expected 1 or more")
        fill = fill_with_ray if options.ray else fill_here
        for folder in fill(options):
            print(folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from training.folder import refusal

        if (said := refusal(error)) is None:
            raise
        print(
            f"error: cannot write: {said}: free some space and give the same command again",
            file=sys.stderr,
            flush=True,
        )
        return 2
    return 0


def encodings(options: argparse.Namespace) -> list[Any]:
    """Return what the run of these options trains on, as `training.stages.latents.Encoding`.

    A run that trains on no latents of media files raises `InputError`.
    """
    from training.config import load_config
    from training.stages import open_stage

    config = load_config(options.config, small=options.small, overrides=options.set)
    if not config.data:
        raise InputError(
            f"{options.config} has no section `data`: latents of the world are encoded when training starts"
        )
    stage = open_stage(config)
    found = [encoding for encoding in stage.encodings() if encoding.parts]
    if not found:
        raise InputError(f"stage {config.stage} trains on the media themselves: there is nothing to encode")
    return found


def fill_here(options: argparse.Namespace) -> list[Path]:
    """Fill the caches by the processes that were launched together, which share the shards.

    Args:
        options: the arguments of the command line.

    Returns:
        The folders of the caches, in the main process; nothing in the others.
    """
    import torch
    from accelerate import PartialState

    from training.engine import on_cpu

    wanted = encodings(options)
    cpu = on_cpu(wanted[0].config)
    # a launcher such as torchrun sets WORLD_SIZE; without one, this process works alone
    together = PartialState(cpu=cpu) if "WORLD_SIZE" in os.environ else None
    device = together.device if together else torch.device("cpu" if cpu else "cuda")
    main = together is None or together.is_main_process
    folders = []

    def share(numbers: list[int]) -> list[int]:
        if together is None:
            return numbers
        with together.split_between_processes(numbers) as mine:
            return mine

    for encoding in wanted:
        folders.append(fill(encoding, device, options.shard_size, share, show=main))
        if together:
            together.wait_for_everyone()
        finish(folders[-1])
    if together:
        together.destroy_process_group()
    return folders if main else []


def fill(
    encoding: Any, device: Any, shard_size: int, share: Callable[[list[int]], list[int]], show: bool
) -> Path:
    """Make this process's share of the shards of one cache; those that are there and whole are left alone.

    Args:
        encoding: what to encode, a `training.stages.latents.Encoding`.
        device: where the encoders run.
        shard_size: how many samples a shard holds.
        share: chooses the shards of this process from the numbers of all.
        show: whether to show a progress bar.

    Returns:
        The folder of the cache.
    """
    from tqdm import tqdm

    from data.cache import build_cache, whole
    from training.stages.latents import why_not

    with encoding.files(shuffle=False) as source:
        if (reason := why_not(source)) is not None:
            raise InputError(reason)
        folder = encoding.folder(source)
        count = len(source)
        if whole(folder, count, shard_size):
            return folder
        mine = share(list(range(-(-count // shard_size))))
        total = sum(min(shard_size, count - number * shard_size) for number in mine)
        with tqdm(
            total=total,
            desc=f"encoding {'+'.join(encoding.parts)}",
            unit="samples",
            file=sys.stderr,
            disable=not show,
        ) as bar:
            settings = {"identity": encoding.identity(source), "shard_size": shard_size, "numbers": mine}
            build_cache(folder, source, encoding.encoder(device), count, **settings, progress=bar.update)
    return folder


def finish(folder: Path) -> None:
    """Mark a cache as complete: only then does training look at the folder."""
    (folder / "complete").touch()


def fill_with_ray(options: argparse.Namespace) -> list[Path]:
    """Fill the caches by one task per shard on a Ray cluster and return their folders.

    The machines of the cluster must see the same files under the same names.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "--ray needs Ray Data, which is not installed: pip install 'ray[data]'; or launch with torchrun"
        ) from None
    wanted = encodings(options)
    folders = []
    ray.init(ignore_reinit_error=True)
    check_cluster(ray.cluster_resources(), options.gpus_per_worker)
    for number, encoding in enumerate(wanted):
        with encoding.files(shuffle=False) as source:
            shards = -(-len(source) // options.shard_size)
            folders.append(encoding.folder(source))
        shared = {"options": vars(options), "encoding": number, "place": os.getcwd()}
        items = [{**shared, "shard": k} for k in range(shards)]
        tasks = ray.data.from_items(items, override_num_blocks=shards)
        done = tasks.map(encode_shard, num_gpus=options.gpus_per_worker or None).take_all()
        if refused := [row["refused"] for row in done if row["refused"]]:
            raise InputError(refused[0])
        finish(folders[-1])
    return folders


def check_cluster(resources: dict[str, float], gpus: float) -> None:
    """Raise InputError if no task could ever start, since Ray would wait for it without end."""
    if not 0 <= gpus <= resources.get("GPU", 0):
        raise InputError(
            f"--gpus-per-worker is {gpus:g}: expected 0 or more, and this Ray cluster has "
            f"{resources.get('GPU', 0):g} GPUs in all"
        )


def encode_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Encode one shard, on whichever machine this runs.

    Args:
        task: {"options", "encoding", "place", "shard"}: the arguments of the command line, the number of the
            encoding, the working folder and the number of the shard.

    Returns:
        {"shard", "refused"}: a user's mistake comes back as words, since Ray would wrap it in errors of its
        own; "" where there was none.
    """
    import torch

    from training.engine import on_cpu

    try:
        os.chdir(task["place"])
        encoding = encodings(argparse.Namespace(**task["options"]))[task["encoding"]]
        device = torch.device("cpu" if on_cpu(encoding.config) else "cuda")
        fill(encoding, device, task["options"]["shard_size"], lambda numbers: [task["shard"]], show=False)
    except FileNotFoundError as error:
        return {
            "shard": task["shard"],
            "refused": f"{os.uname().nodename} has no {error.filename}: a cluster must see the same files",
        }
    except InputError as error:
        return {"shard": task["shard"], "refused": str(error)}
    return {"shard": task["shard"], "refused": ""}


if __name__ == "__main__":
    sys.exit(main())
