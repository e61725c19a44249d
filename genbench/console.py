"""The terminal around the commands: options with their environment variables, streams, signals, errors as exit codes.

While a command runs, whatever else is printed, by a model or below Python, goes to stderr. Stdout holds the answer.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from genbench import stopping
from genbench.errors import ComponentError, GenbenchError, Interrupted, UsageError, nearest, of_system, shown
from genbench.progress import Bars

GENERAL = ("GENBENCH_CACHE", "GENBENCH_COPY_GIB", "GENBENCH_OFFLINE")
"""Environment variables that are no options."""
_SEPARATOR = ";"


class Option(click.Option):
    """An option that is never empty. Several values in its environment variable are separated by semicolons."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Refuses a text without content, which is what an unset variable of a shell leaves."""
        _refuse_empty(self.opts[-1], value)
        return super().process_value(ctx, value)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Splits the variable at semicolons only, because arguments and paths may hold spaces."""
        given = self.resolve_envvar_value(ctx)
        if given is None or not self.multiple:
            return super().value_from_envvar(ctx)
        return tuple(part.strip() for part in given.split(_SEPARATOR) if part.strip())


class Argument(click.Argument):
    """A positional argument that is never empty."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Refuses a text without content, as `Option.process_value` does."""
        _refuse_empty(self.make_metavar(ctx), value)
        return super().process_value(ctx, value)


def _refuse_empty(name: str, value: Any) -> None:
    given = value if isinstance(value, tuple | list) else (value,)
    if any(isinstance(text, str) and not text.strip() for text in given):
        raise UsageError(f"{name} is empty; is a variable of the shell not set? Leave it out for its default.")


class Command(click.Command):
    """A command whose options have environment variables, GENBENCH_COMMAND_OPTION, and whose stdout is its own."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for option in self.params:
            if isinstance(option, click.Option) and not option.envvar:
                longest = max(option.opts, key=len).lstrip("-").replace("-", "_")
                option.envvar = f"GENBENCH_{self.name}_{longest}".upper()
                option.show_envvar = True

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command with `say` bound to the real stdout."""
        columns = shutil.get_terminal_size((120, 24)).columns
        try:
            with _aside() as stream, Bars(sys.stderr) as bars:
                ctx.obj = _Terminal(stream, bars, columns)
                _Handler.bars = bars
                return super().invoke(ctx)
        except BrokenPipeError:
            # Who reads stdout has seen enough. Python would complain again when it flushes at the end.
            if _descriptor(sys.stdout) == 1:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise click.exceptions.Exit(141) from None
        except KeyboardInterrupt as error:
            raise _Stopped(error) from error  # click would print an empty line and forget what was said
        finally:
            _Handler.bars = None


class _Stopped(Exception):
    """An interrupt of a command."""


class Group(click.Group):
    """Names what is near a misspelt command.

    Args:
        default: the command that is meant where none is named.
    """

    command_class = Command

    def __init__(self, *args: Any, default: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.default = default

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command; variables of one within a group have both names, such as GENBENCH_CACHE_PRUNE_OLDER_THAN."""
        super().add_command(cmd, name)
        for option in cmd.params:
            own = f"GENBENCH_{cmd.name}_".upper()
            if self.name != "cli" and isinstance(option.envvar, str) and option.envvar.startswith(own):
                option.envvar = f"GENBENCH_{self.name}_{option.envvar.removeprefix('GENBENCH_')}".upper()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Names the default command where options or nothing are given."""
        if self.default and (not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UsageError for an unknown command."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(f"No command {args[0]!r}. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class _Terminal:
    """Where the command that runs writes to."""

    def __init__(self, stream: TextIO | None, bars: Bars, width: int) -> None:
        self.stream, self.bars, self.width = stream, bars, max(width, 40)


def _terminal() -> _Terminal:
    terminal: _Terminal = click.get_current_context().obj
    return terminal


def say(text: str) -> None:
    """Writes to stdout, after the progress bar is gone."""
    terminal = _terminal()
    terminal.bars.close()
    if terminal.stream is not None:
        terminal.stream.write(f"{text}\n")
        terminal.stream.flush()


def aside(text: str) -> None:
    """Writes to stderr, after the progress bar is gone: what must not stand beside a document on stdout."""
    _terminal().bars.close()
    click.echo(text, err=True)


def bars() -> Bars:
    """The progress of the command that runs."""
    return _terminal().bars


def width() -> int:
    """Columns of the terminal, at least 40; 120 where there is none."""
    return _terminal().width


class _Aside(io.TextIOBase):
    """Stands for stdout while a command runs. Closing it does nothing."""

    def write(self, text: str) -> int:
        """Hands the text on to stderr."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return 2


@contextlib.contextmanager
def _aside() -> Iterator[TextIO | None]:
    """Sends what is printed inside the block to stderr, below Python too; yields a stream to the real stdout."""
    real = sys.stdout
    handle = _descriptor(real)
    if handle != 1:  # it was replaced by a file in memory, as tests do, or is closed
        with contextlib.redirect_stdout(_Aside()):
            yield real
        return
    real.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        # A stream of its own: code that closes stdout closes another one. What a terminal cannot show is escaped.
        encoding = getattr(real, "encoding", None) or "utf-8"
        with (
            open(saved, "w", encoding=encoding, errors="backslashreplace", closefd=False) as stream,
            contextlib.redirect_stdout(_Aside()),
        ):
            yield stream
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


class _Handler(logging.Handler):
    """Warnings of the package, on stderr, after the bar is gone, without control characters."""

    bars: Bars | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line a line of the message."""
        if self.bars is not None:
            self.bars.close()
        _tell(record.getMessage())


def _tell(message: str, beginning: str = "") -> None:
    for number, line in enumerate(message.splitlines() or [""]):
        click.echo(f"{beginning if not number else ' ' * len(beginning)}{shown(' '.join(line.split()))}", err=True)


def known_variables(group: click.Group) -> set[str]:
    """Every environment variable that has an effect."""
    found = set(GENERAL)
    for command in group.commands.values():
        found |= {str(option.envvar) for option in command.params if option.envvar}
        if isinstance(command, click.Group):
            found |= known_variables(command)
    return found


def _warn_of_unknown(group: click.Group) -> None:
    known = known_variables(group)
    for name in sorted(os.environ):
        if name.startswith("GENBENCH_") and name not in known:
            near = nearest(name, known)
            _tell(f"{name} is no variable of genbench and has no effect.{f' {near}' if 'Did you' in near else ''}")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt, at once, and SIGUSR1 when the batch in work is stored.

    Yields a list of the signals that came. SIGUSR1 is what schedulers send some time before they take a machine away.
    """
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def stop_soon(number: int, frame: object) -> None:
        came.append(number)
        stopping.ask()

    before: dict[int, Any] = {}
    for name, handler in (("SIGTERM", stop), ("SIGHUP", stop), ("SIGUSR1", stop_soon)):
        number = getattr(signal, name, None)
        # nohup has SIGHUP ignored, which stays so; only the main thread may set handlers.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, handler)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_descriptors() -> None:
    """Fills closed standard descriptors, or the next file opened would get their messages."""
    if os.name == "posix":
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)


def _find_own_modules() -> None:
    """Puts the working folder at the end of the module path, so that `module:attribute` finds code that lies there."""
    with contextlib.suppress(OSError):
        here = str(Path.cwd())
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)


def run(group: click.Group, args: Sequence[str] | None, name: str, *, assist: Callable[[], None] | None = None) -> int:
    """Runs the command line and returns the exit code. Every error a user can cause is told in a line on stderr.

    Args:
        assist: what a process does that `genbench.ranks` counts as a helper of another one.
    """
    _open_descriptors()
    _find_own_modules()
    logger, handler = logging.getLogger("genbench"), _Handler()
    logger.addHandler(handler)
    try:
        with _signals() as came, warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                if os.environ.get("WORLD_SIZE", "1") != "1" and assist is not None:
                    return _of_several(group, args, name, assist, came)
                return _alone(group, args, name)
            except BaseException as error:
                return _ending(error, came)
    finally:
        logger.removeHandler(handler)


def _alone(group: click.Group, args: Sequence[str] | None, name: str) -> int:
    _warn_of_unknown(group)
    code = group.main(args=None if args is None else list(args), prog_name=name, standalone_mode=False)
    if sys.stdout is not None:
        sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _of_several(
    group: click.Group, args: Sequence[str] | None, name: str, assist: Callable[[], None], came: Sequence[int]
) -> int:
    """The command as one of several processes, of which one speaks."""
    from genbench import ranks

    if ranks.count() == 1:
        return _alone(group, args, name)
    if ranks.rank() == 0:
        with ranks.leading():
            try:
                return _alone(group, args, name)
            except BaseException as error:
                # Whoever started the processes ends all of them when one is lost. The cause is worth more than that.
                return _ending((isinstance(error, _Stopped) and ranks.lost()) or error, came)
    try:
        assist()
    except KeyboardInterrupt:
        return 128 + (came[0] if came else signal.SIGINT)
    except ranks.Lost as error:
        return _ending(error, came) if ranks.rank() == 1 else error.exit_code
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    _tell(f"{category.__name__}: {message}")


def _ending(ended: BaseException, came: Sequence[int]) -> int:
    """Tells how a command ended and gives its exit code.

    Args:
        came: the signals that were received.
    """
    try:
        raise ended
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        return 2
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        hint = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        return _fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except GenbenchError as error:
        if isinstance(error, ComponentError) and error.__cause__ is not None:
            _trace(error.__cause__)
        return _fail(str(error), error.exit_code)
    except (_Stopped, KeyboardInterrupt, click.Abort) as error:
        by = error.__cause__
        kept = f"{by.kept} of {by.total} images are kept, " if isinstance(by, Interrupted) else ""
        return _fail(f"interrupted; {kept}the same command continues", 128 + (came[0] if came else signal.SIGINT))
    except SystemExit as error:
        return _fail(f"the code of a component ended the program (SystemExit: {error.code}); it must return", 1)
    except Exception as error:
        if (told := of_system(error)) is not None:
            return _fail(str(told), told.exit_code)
        _trace(error)
        return _fail(f"unexpected failure: {type(error).__name__}: {error}", 1)


def _trace(error: BaseException) -> None:
    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(shown(line), err=True)


def _fail(message: str, code: int) -> int:
    _tell(message, "genbench: ")
    return code


class FileToWrite(click.ParamType):
    """The path of a file that a command is to write: no folder, no device, and of the ending that its content has."""

    name = "file"

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; raises UsageError for one that is not to be written to."""
        path = Path(value)
        where = f"{param.opts[-1]} {shown(value)}" if param else shown(value)
        if self.endings and path.suffix.lower() not in self.endings:
            raise UsageError(f"{where}: the file is written as {' or '.join(self.endings)}; give it that ending.")
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device or a pipe, which would be replaced"
            raise UsageError(f"{where} is {kind}; give the path of a file.")
        return path


class Share(click.ParamType):
    """Which of how many jobs: I/N with I in 0..N, where N/N is the same job as 0/N."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Both numbers; raises UsageError for anything else."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value.strip(), re.ASCII)
        number, count = (int(found[1]), int(found[2])) if found else (1, 0)
        if number > count or not count:
            raise UsageError(
                f"--shard is I/N, job I of N, such as $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT, with jobs numbered "
                f"0 to N-1 or 1 to N; got {value!r}."
            )
        return number, count


def names_of(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completion in the shell of the names of a kind of component."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from genbench import protocols, registry

        names: Iterable[str] = protocols.PROTOCOLS if kind == "protocol" else registry.table(kind)
        return [name for name in names if name.startswith(incomplete)]

    return complete


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows of texts with every column but the last padded. The last is wrapped below itself to fit the terminal."""
    import textwrap

    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(rows[0]) - 1)] if rows else []
    lines = []
    for row in rows:
        head = indent + "".join(f"{shown(cell).ljust(w)}  " for cell, w in zip(row, widths, strict=False))
        room = max(width() - len(head), 24)
        parts = textwrap.wrap(re.sub(r"\s+", " ", shown(row[-1])), room, break_on_hyphens=False) or [""]
        lines += [(head + parts[0]).rstrip(), *(" " * len(head) + part for part in parts[1:])]
    return lines
