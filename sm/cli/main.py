"""`sm`: the command line, as a table of commands."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm import log
from sm.cli import (
    doctor,
    explain,
    gc_commands,
    gc_history,
    gc_metrics,
    gc_pause,
    gc_plan,
    gc_status,
    host_commands,
    sr_commands,
    tree_view,
    vdi_commands,
)
from sm.cli.admin import Admin, open_admin
from sm.cli.guard import Parser, guarded
from sm.cli.image_table import IMAGE_COMMANDS, FileCommand, Option
from sm.cli.output import Output
from sm.cowutil.registry import FORMATS
from sm.drivers.registry import DRIVERS
from sm.errors import InvalidArgument, SmError

MOST = 1 << 31

Run = Callable[[Admin, argparse.Namespace], int | None]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, what it does, its arguments, and the function that does it."""

    group: str
    name: str
    run: Run
    arguments: tuple[Option, ...] = ()

    @property
    def about(self) -> str:
        """What it does, in a line."""
        return self.description.splitlines()[0]

    @property
    def description(self) -> str:
        """What it does, whole."""
        return inspect.cleandoc(self.run.__doc__ or "")


def _count(text: str) -> int:
    """A whole number from 1, for `argparse`; beyond `MOST` there is nothing to count."""
    if not 1 <= (number := int(text)) <= MOST:
        raise ValueError(text)
    return number


def _arg(*names: str, **keywords: Any) -> Option:
    return names, keywords


_SR = _arg("sr", help="the SR: UUID, a unique beginning of it, or name")
_VDI = _arg("vdi", help="the VDI: UUID, a unique beginning of it, or name")
_OF_SR = _arg("--sr", required=True, help="the SR: UUID, a unique beginning of it, or name")
_ANY_SR = _arg("--sr", help="only this SR")
_WATCH = _arg("--watch", action="store_true", help="show it anew at each change, until ctrl-C")
_DRY = _arg("--dry-run", action="store_true", help="only say what it would cost, or why not")
_NAME = _arg("--name", default="", help="a name for it")
_ABOUT = _arg("--description", default="", help="a description")
_CONFIG = _arg(
    "--device-config",
    action="append",
    default=[],
    metavar="KEY=VALUE",
    help="how to reach the storage; may be given several times",
)
_TYPE = _arg("--type", default="file", choices=sorted(DRIVERS), help="the type of storage")
_SHARED = _arg("--shared", action="store_true", help="several hosts may attach it")
_UUID = _arg("--uuid", help="its UUID, when it must be a certain one")
_SIZE = _arg("--size", required=True, help="for example 10GiB")

COMMANDS: Sequence[Command] = (
    Command(
        "sr",
        "create",
        sr_commands.create,
        (
            *(_TYPE, _NAME, _ABOUT, _CONFIG, _UUID, _SHARED),
            _arg("--size", default="0", help="for devices"),
        ),
    ),
    Command(
        "sr", "introduce", sr_commands.introduce, (_TYPE, _NAME, _ABOUT, _CONFIG, _UUID, _SHARED)
    ),
    Command("sr", "probe", sr_commands.probe, (_TYPE, _CONFIG)),
    Command("sr", "list", sr_commands.list_),
    Command("sr", "show", sr_commands.show, (_SR,)),
    Command("sr", "scan", sr_commands.scan, (_SR,)),
    Command(
        "sr",
        "release",
        sr_commands.release,
        (_SR, _arg("record", help="the name of the record, as 'sm doctor' tells it")),
    ),
    Command("sr", "trim", sr_commands.trim, (_SR,)),
    Command("sr", "attach", sr_commands.attach, (_SR, _CONFIG)),
    Command("sr", "detach", sr_commands.detach, (_SR,)),
    Command("sr", "destroy", sr_commands.destroy, (_SR,)),
    Command("sr", "forget", sr_commands.forget, (_SR,)),
    Command(
        "vdi",
        "create",
        vdi_commands.create,
        (_OF_SR, _SIZE, _arg("--format", choices=FORMATS, help="the image format"), _NAME, _ABOUT),
    ),
    Command(
        "vdi",
        "list",
        vdi_commands.list_,
        (_ANY_SR, _arg("--all", action="store_true", help="hidden images as well")),
    ),
    Command("vdi", "show", vdi_commands.show, (_VDI,)),
    Command("vdi", "snapshot", vdi_commands.snapshot, (_VDI, _NAME, _DRY)),
    Command("vdi", "clone", vdi_commands.clone, (_VDI, _NAME, _DRY)),
    Command("vdi", "resize", vdi_commands.resize, (_VDI, _SIZE)),
    Command("vdi", "delete", vdi_commands.delete, (_VDI,)),
    Command("vdi", "forget", vdi_commands.forget, (_VDI,)),
    Command(
        "vdi",
        "tree",
        tree_view.tree,
        (_arg("vdi", nargs="?", help="only the tree of this VDI"), _ANY_SR, _WATCH),
    ),
    Command("vdi", "check", vdi_commands.check, (_VDI,)),
    Command(
        "vdi",
        "activate",
        vdi_commands.activate,
        (_VDI, _arg("--read-only", action="store_true", help="only to read")),
    ),
    Command("vdi", "deactivate", vdi_commands.deactivate, (_VDI,)),
    Command(
        "vdi",
        "reset",
        vdi_commands.reset,
        (
            _VDI,
            _arg("--host", required=True, help="the host: UUID, a unique beginning, or name"),
            _arg("--host-is-off", action="store_true", help="it does not run, for certain"),
        ),
    ),
    Command(
        "gc",
        "run",
        gc_commands.run,
        (_OF_SR, _arg("--dry-run", action="store_true", help="only say what would be done")),
    ),
    Command("gc", "status", gc_status.status, (_ANY_SR, _WATCH)),
    Command("gc", "plan", gc_plan.plan, (_ANY_SR,)),
    Command(
        "gc",
        "history",
        gc_history.history,
        (
            _ANY_SR,
            _arg("--limit", type=_count, default=50, help="at most so many (default: 50)"),
        ),
    ),
    Command(
        "gc",
        "metrics",
        gc_metrics.metrics,
        (
            _arg("--output", metavar="FILE", help="into a file, replaced whole"),
            _arg("--listen", metavar="ADDRESS", help="unix:/path, HOST:PORT or PORT"),
        ),
    ),
    Command(
        "gc",
        "pause",
        gc_pause.pause,
        (
            _OF_SR,
            _arg("--for", dest="span", metavar="TIME", help="for so long, such as 2h"),
            _arg("--until", metavar="TIME", help="until then, such as 2031-01-31T18:00"),
            _arg("--reason", default="", help="why, for whoever asks"),
        ),
    ),
    Command("gc", "resume", gc_pause.resume, (_OF_SR,)),
    Command(
        "gc",
        "limit",
        gc_pause.limit,
        (
            _OF_SR,
            _arg("--rate-mib", metavar="N", help="copy at most N MiB per second"),
            _arg("--hours", metavar="FROM-TO", help="copy only then, such as 22:00-06:00"),
        ),
    ),
    Command(
        "host",
        "add",
        host_commands.add,
        (
            _arg("name", help="a name for it"),
            _arg(
                "--address", default="", help="unix:/path or tls://name:port; it may say it itself"
            ),
            _arg("--uuid", help="its UUID, when it has one already"),
        ),
    ),
    Command("host", "list", host_commands.list_),
    Command(
        "host",
        "remove",
        host_commands.remove,
        (_arg("host", help="the host: UUID, a unique beginning of it, or name"),),
    ),
)

ALONE: Sequence[Command] = (
    Command(
        "",
        "doctor",
        doctor.doctor,
        (
            _ANY_SR,
            _arg("--check", action="store_true", help="examine every image whole"),
            _arg("--fix", action="store_true", help="mend what can be mended without risk"),
            _arg("--yes", action="store_true", help="do not ask before"),
        ),
    ),
    Command(
        "",
        "explain",
        explain.explain,
        (
            _arg(
                "code",
                help="a number or name, as in an error, a reason of the collector, or a finding",
            ),
        ),
    ),
)
"""Commands of one word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Told by itself, so that it holds for a wrong line as well.
    output = Output(as_json="--json" in given)
    return guarded(output, lambda: _run(given, output))


def _run(given: Sequence[str], output: Output) -> int | None:
    words = [word for word in given if word != "--json"]
    options = _parser(frozenset(words)).parse_args(words)
    command: Command | FileCommand = options.command
    if isinstance(command, FileCommand):
        return command.load()(output, options)
    for word in words:
        _require_text(word)
    try:
        admin = open_admin(options.root, as_json=output.as_json)
    except OSError as error:
        raise SmError(f"{error}; choose another place with --root or SM_ROOT") from error
    log.start(admin.settings.log_target, admin.settings.log_file)
    with admin.pool:
        return command.run(admin, options)


def _require_text(word: str) -> None:
    """Raise `InvalidArgument` for what no name in the pool can be."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{word!r} is no UTF-8") from error


def _parser(words: frozenset[str]) -> argparse.ArgumentParser:
    """A parser of command lines with these words.

    It knows all that such a line can need, and no more: to make one of all takes longer than most
    commands.
    """
    parser = Parser(prog="sm", description="Manage storage repositories and virtual disks.")
    _accept_everywhere(parser, json=False, root=None)
    named = _only(words)
    groups = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=named)
    made: dict[str, Any] = {}
    helps = {
        "sr": "storage repositories",
        "vdi": "virtual disks",
        "image": "plain image files, without an SR",
        "gc": "the garbage collector",
        "host": "the hosts of the pool",
    }
    commands: tuple[Command | FileCommand, ...] = (*COMMANDS, *IMAGE_COMMANDS)
    for command in commands:
        if command.group not in made:
            group = groups.add_parser(command.group, help=helps[command.group])
            if group is not None:
                _accept_everywhere(group, json=argparse.SUPPRESS, root=argparse.SUPPRESS)
            made[command.group] = group and group.add_subparsers(
                metavar="ACTION", required=True, parser_class=named
            )
        if made[command.group] is not None:
            _add(made[command.group], command)
    for command in ALONE:
        _add(groups, command)
    return parser


def _only(words: frozenset[str]) -> Any:
    """What makes the parsers of commands; of one that is not among the words only help tells."""

    def made(**keywords: Any) -> argparse.ArgumentParser | None:
        name = str(keywords["prog"]).rpartition(" ")[2]
        return Parser(**keywords) if name in words else None

    return made


def _add(actions: Any, command: Command | FileCommand) -> None:
    """Let a parser know one command, and its arguments when the command is among the words."""
    sub = actions.add_parser(command.name, help=command.about, description=command.description)
    if sub is None:
        return
    _accept_everywhere(sub, json=argparse.SUPPRESS, root=argparse.SUPPRESS)
    for names, keywords in command.arguments:
        sub.add_argument(*names, **keywords)
    sub.set_defaults(command=command)


def _accept_everywhere(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Take these options before the command as well as after it."""
    parser.add_argument(
        "--json", action="store_true", default=defaults["json"], help="print one JSON document"
    )
    parser.add_argument(
        "--root", type=Path, default=defaults["root"], help="where all state lives (SM_ROOT)"
    )


if __name__ == "__main__":
    sys.exit(main())
