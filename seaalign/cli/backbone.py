"""For commands that need the backbone of a YAML file of `fit` and nothing else of it: no data, judge or trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from seaalign.backbones import Backbone
from seaalign.cli.explain import told
from seaalign.cli.training import Parser


def parsed(
    command: str, about: str, argv: Sequence[str], options: Callable[[LightningArgumentParser], None]
) -> tuple[Any, Backbone]:
    """The options of a command, and the backbone that the file names.

    Args:
        command: its name, for messages.
        about: what it does, for `--help`.
        argv: arguments; `--backbone.KEY` changes what the file says of the backbone.
        options: adds the command's own to the parser.

    Raises:
        ValueError: the file names no backbone, or the backbone refuses its settings.
    """
    parser = Parser(prog=f"seaalign {command}", description=about)
    parser.add_argument(
        "--config", type=str, required=True, help="YAML file as for `seaalign fit`: its backbone is used"
    )
    parser.add_subclass_arguments(
        Backbone, "backbone", required=False, fail_untyped=False, help="to change what the file says of it"
    )
    options(parser)
    named = [value for flag, value in zip(argv, argv[1:], strict=False) if flag == "--config"]
    named += [argument.partition("=")[2] for argument in argv if argument.startswith("--config=")]
    if named:
        parser.set_defaults({"backbone": _written(Path(named[-1]))})
    given = parser.parse_args(list(argv))
    try:
        return given, parser.instantiate(given).backbone
    except ValueError as error:
        raise ValueError(told(error)) from error


def _written(path: Path) -> dict[str, Any]:
    """What the file says at model.init_args.backbone."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check --config")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    for key in ("model", "init_args", "backbone"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or "class_path" not in found:
        raise ValueError(
            f"{path} names no backbone: it needs model: init_args: backbone: class_path: ..., as for `fit`"
        )
    return found
