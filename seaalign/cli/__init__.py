"""The command line: `seaalign COMMAND ...`. This file stays light; every command is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from seaalign import __version__


class Command(NamedTuple):
    """A function `list of arguments -> exit code or None`, where it lives, and what it does in one line."""

    home: str
    help: str


COMMANDS = {
    "demo": Command("seaalign.demo:main", "see Synthetic Erosion and its repair on a miniature model, in six minutes"),
    "prepare": Command("seaalign.cli.prepare:prepare", "turn a corpus (CosyVoice, Kaldi, NeMo, ...) into utterances"),
    "erosion": Command(
        "seaalign.cli.erosion:erosion", "before training: filter synthetic speech, plan what a share of it will do"
    ),
    "fit": Command("seaalign.cli.training:fit", "train: SFT, DGSA or your own LightningModule, from a YAML file"),
    "tdsc": Command("seaalign.cli.critique:tdsc", "improve a policy without recordings: explore, judge, learn, repeat"),
    "mine": Command(
        "seaalign.cli.mine:mine", "make and judge speech for one iteration of tdsc, on many machines; no training"
    ),
    "evaluate": Command(
        "seaalign.cli.evaluate:evaluate", "compare systems on the same texts: errors, F0, H_p, similarity"
    ),
    "report": Command("seaalign.cli.report:report", "one page of what runs left on disk, with players, blind"),
    "listen": Command(
        "seaalign.cli.listen:listen", "listening tests without a server: pages for raters, and their answers"
    ),
    "export": Command("seaalign.cli.export:export", "save a trained policy as its own inference code loads it"),
    "check": Command("seaalign.cli.training:check", "does the backbone of a YAML file obey the contract?"),
    "validate": Command("seaalign.cli.training:validate", "the validation numbers of a checkpoint"),
    "test": Command("seaalign.cli.training:test", "the test numbers of a checkpoint, for modules with a test_step"),
    "predict": Command(
        "seaalign.cli.training:predict",
        "what a checkpoint says to data, for modules with a predict_step, such as stages",
    ),
}
EXAMPLES = """\
  seaalign demo --quick                       the whole story in a minute
  seaalign fit --config examples/fit_dgsa.yaml --trainer.max_steps 100
  seaalign tdsc --config examples/fit_tdsc.yaml     the same command goes on after a kill
  seaalign mine --config examples/fit_tdsc.yaml --out runs/mined --trainer.devices 8 --trainer.num_nodes 4
  seaalign evaluate --config examples/evaluate.yaml --out runs/eval && seaalign report runs/eval
"""


def usage() -> str:
    """What `seaalign --help` says."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: seaalign COMMAND ...\n\nRepair Synthetic Erosion in spoken language models by preference alignment.\n\n"
        f"commands:\n{listed}\n\nexamples:\n{EXAMPLES}\n"
        "`seaalign COMMAND --help` explains a command, `seaalign fit --model.help DGSA` a class, and\n"
        "`seaalign fit --config FILE --print_config` shows every setting in force. `seaalign --version`.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; default: those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 not understood, 130 interrupted.

    Example:
        >>> main(["--version"])
        seaalign 0.1.0
        0
    """
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if name in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if name in ("-V", "--version", "version"):
        print(f"seaalign {__version__}")
        return 0
    if name not in COMMANDS:
        return _unknown(name)
    module, _, function = COMMANDS[name].home.partition(":")
    if os.getcwd() not in sys.path:  # YAML files name classes of the user's own, which lie where the command is typed
        sys.path.append(os.getcwd())
    try:
        return int(getattr(import_module(module), function)(rest) or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # the Trainer's answer to Ctrl-C
            return _interrupted()
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except Exception as error:
        if os.environ.get("SEAALIGN_TRACEBACK", "") not in ("", "0") or not _says_it_all(error):
            raise
        print(f"seaalign: error: {error}\n(SEAALIGN_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        return 1


def _says_it_all(error: Exception) -> bool:
    """Are these words for the user: a missing file, a value that does not fit, a model or judge that cannot?

    The library's own classes are known by name, because importing them would load torch.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError | ValueError) or not names.isdisjoint(
        {"Unsupported", "BackboneError", "JudgeError", "MisconfigurationException"}
    )


def _unknown(name: str) -> int:
    if not name:
        print(usage(), end="", file=sys.stderr)
        return 2
    kind, known = ("option", ("--help", "--version")) if name.startswith("-") else ("command", tuple(COMMANDS))
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean `seaalign {near[0]}`?" if near else f"there are {', '.join(known)}; see `seaalign --help`"
    print(f"seaalign: error: no {kind} {name!r}; {hint}", file=sys.stderr)
    return 2


def _interrupted() -> int:
    print("seaalign: interrupted", file=sys.stderr)
    return 130
