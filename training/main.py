"""Trains one stage: `accelerate launch -m training.main --config configs/world/<stage>.yaml`.

Plain `python -m training.main ...` does the same in one process. The same command resumes.

Exit codes: 0 done, 1 the run failed, 2 something given cannot be used, 130 interrupted (and saved).
"""

import argparse
import sys
from pathlib import Path

from codi.modalities import load_plugins_aloud
from codi.types import InputError


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which loads nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="training.main", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file, see training/config.py")
    parser.add_argument(
        "--small",
        action="store_true",
        help="the miniature of the run: the `small:` section laid over the rest",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, repeatable: --set part.channels=64",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the run would need and take; reads and writes nothing else",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="with --dry-run: how many processes share the run"
    )
    parser.add_argument(
        "--zero", type=int, default=0, metavar="STAGE", help="with --dry-run: DeepSpeed ZeRO stage 2 or 3"
    )
    parser.add_argument(
        "--samples-per-second", type=float, help="with --dry-run: speed of all processes, as a log has it"
    )
    parser.add_argument(
        "--tflops", type=float, help="with --dry-run: 10^12 operations a second that one device sustains"
    )
    parser.add_argument(
        "--restart", action="store_true", help="forget checkpoints, log and previews of this run first"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the exit code."""
    load_plugins_aloud()
    options = make_parser().parse_args(arguments)
    from training.config import load_config

    try:
        config = load_config(options.config, small=options.small, overrides=options.set)
        if options.dry_run:
            from training.plan import HardwareSpec, plan

            speed = {"samples_per_second": options.samples_per_second, "tflops": options.tflops}
            print(
                plan(
                    config,
                    Path(options.config).parent,
                    HardwareSpec(processes=options.processes, zero=options.zero, **speed),
                )
            )
            return 0
        from training.folder import refusal
        from training.loop import TrainingError, train
    except InputError as error:
        return _fail(error, 2)
    try:
        return train(config, restart=options.restart)
    except InputError as error:
        return _fail(error, 2)
    except TrainingError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (said := refusal(error)) is None:
            raise
        return _fail(
            f"cannot write: {said}: free some space and give the same command again; checkpoints are "
            "untouched",
            2,
        )


def _fail(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
