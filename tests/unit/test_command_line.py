"""The command line around the measuring: options, environment variables, streams, signals, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from made_up import Cli, result

from genbench import cli as commands
from genbench import console, pipeline, progress, requests
from genbench.errors import GenbenchError, InputRejected, Interrupted, Unmeasured
from genbench.outcome import Outcome


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve small images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=np.arange(12) % 3)
    return tmp_path / "a.npz"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `run` and `score` hand to the pipeline, which does nothing here."""
    seen: dict[str, Any] = {}

    def run(spec: Any, measurements: Any, **more: Any) -> Outcome:
        seen.update(more, spec=spec, measurements=[str(m) for m in measurements])
        return Outcome(results=(result(),))

    def score(generated: Any, reference: Any, measurements: Any, **more: Any) -> Outcome:
        seen.update(more, measurements=[str(m) for m in measurements])
        return Outcome(results=(result(),))

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(pipeline, "score", score)
    return seen


SCORE = ("score", "a.npz", "--reference", "a.npz")


def test_every_option_has_a_variable_of_its_own_name_and_a_text() -> None:
    seen: list[str] = []
    for name, command in commands.cli.commands.items():
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            flag = max(option.opts, key=len)
            assert option.envvar == f"GENBENCH_{name}_{flag.lstrip('-').replace('-', '_')}".upper()
            assert option.help and option.show_envvar, f"{name} {flag}"
            seen.append(str(option.envvar))
    assert {"GENBENCH_SCORE_METRIC", "GENBENCH_SCORE_PROTOCOL", "GENBENCH_SCORE_FORMAT", "GENBENCH_RUN_DEVICE"} <= set(
        seen
    )
    assert len(seen) == len(set(seen))


def test_help_is_whole_at_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("--help")
    assert code == 0 and "..." not in out.split("Commands:")[1].split("Exit codes")[0]
    for name, command in commands.cli.commands.items():
        _, out, _ = cli(name, "--help")
        assert f"  genbench {name}" in out, f"{name} has no example"
        assert len(command.get_short_help_str(60)) <= 60


def test_variables_set_options_and_semicolons_separate_values(
    cli: Cli, images: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_SCORE_METRIC", "kid(subsets=1, subset_size=20); recall@pixels")
    monkeypatch.setenv("GENBENCH_SCORE_PROTOCOL", "adm")
    monkeypatch.setenv("GENBENCH_SCORE_FORMAT", "json")
    weights = images.parent / "a file; not two.pth".replace("; not two", "")
    weights.write_bytes(b"")
    monkeypatch.setenv("GENBENCH_SCORE_WEIGHTS", f"inception={weights}")
    code, out, err = cli(*SCORE)
    assert (code, err) == (0, "") and json.loads(out)["results"]
    assert asked["measurements"] == ["kid(subsets=1, subset_size=20)", "recall@pixels"]
    assert asked["protocol"].name == "adm" and asked["execution"].weights == {"inception": weights}
    cli(*SCORE, "--protocol", "tf1")
    assert asked["protocol"].name == "tf1", "the command line goes before the variable"


def test_unknown_variables_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_SCORE_METRICS", "kid")
    monkeypatch.setenv("GENBENCH_NONSENSE", "1")
    code, _, err = cli("list", "metrics")
    assert code == 0 and "GENBENCH_SCORE_METRICS is no variable" in err and "'GENBENCH_SCORE_METRIC'" in err
    assert "GENBENCH_NONSENSE" in err and "GENBENCH_CACHE is no" not in err and "GENBENCH_OFFLINE is no" not in err


@pytest.mark.parametrize(("value", "code"), [("2", 2), ("y es", 2), ("enabled", 2), ("1", 6), ("TRUE ", 6), ("yes", 6)])
def test_the_word_that_forbids_downloads_is_understood_or_refused(
    cli: Cli, value: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", value)
    found, _, err = cli("fetch", "inception")
    assert found == code and ("GENBENCH_OFFLINE is " in err) == (code == 2)


EMPTY = [
    (*SCORE, "--held-out", ""), (*SCORE, "--protocol", ""), (*SCORE, "--metric", ""), (*SCORE, "--metric", "  "),
    ("score", "", "--reference", "a.npz"), ("score", "a.npz", "--reference", ""), (*SCORE, "--device", ""),
    (*SCORE, "--weights", ""), (*SCORE, "--data-dir", ""), (*SCORE, "--leaderboard", ""), ("info", ""), ("fetch", ""),
    ("run", "--model", ""), ("run", "--model", "ddim", "-o", ""), ("sample", "--model", "ddim", "--npz", ""),
]  # fmt: skip


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
def test_an_empty_text_is_refused(cli: Cli, images: Path, asked: dict[str, Any], words: tuple[str, ...]) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "") and "is empty" in err and not asked


REFUSED = [
    ((*SCORE, "--device", "gpu"), 2, "cuda:INDEX"),
    ((*SCORE, "--weights", "nope=a.npz"), 2, "No weights are named 'nope'"),
    ((*SCORE, "--weights", "compact=a.npz", "--weights", "compact=a.npz"), 2, "given twice"),
    ((*SCORE, "--weights", "compact=absent.pth"), 6, "no file absent.pth"),
    ((*SCORE, "--weights", "compact"), 2, "NAME=PATH"),
    ((*SCORE, "--weights", f"compact={'a' * 300}"), 2, "too long"),
    ((*SCORE, "--metric", "fid(blocks=20, blocks=30)"), 2, "twice"),
    ((*SCORE, "--metric", "fid(blocks=" + "-" * 5000 + "1)"), 2, "Cannot read"),
    ((*SCORE, "--reference", "shapes(count='x')"), 2, "count"),
    ((*SCORE, "--reference", "shapes(count=1.5)"), 2, "count"),
    ((*SCORE, "--reference", "shapes(count=999999999)"), 2, "50000 images"),
    ((*SCORE, "--reference", "shapes(split=3)"), 2, "split"),
    (("score", "a" * 300, "--reference", "a.npz"), 5, "neither a path"),
    (("score", "a/" * 3000, "--reference", "a.npz"), 5, "no folder"),
    (("score", "a.npz", "--metric", "fid"), 2, "no reference was given"),
    (("run", "--model", "ddim", "--leaderboard", "/dev/null"), 2, "device"),
    (("run", "--model", "ddim", "--leaderboard", "."), 2, "folder"),
    (("sample", "--model", "ddim", "--npz", "/dev/null"), 2, ".npz"),
    (("sample", "--model", "ddim", "--grid", "g.jpg"), 2, ".png"),
    (("sample", "--model", "ddim", "--strip", "g"), 2, ".png"),
    (("export", "a.npz"), 2, "--png"),
    (("run",), 2, "See `genbench run --help`"),
    (("info", "metric:genbench.metrics.frechet:NOTHING"), 2, "cannot be imported"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "says"), REFUSED, ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else ""
)
def test_what_would_be_ignored_or_fail_late_is_refused(
    cli: Cli, images: Path, asked: dict[str, Any], words: tuple[str, ...], code: int, says: str
) -> None:
    found, out, err = cli(*words)
    assert (found, out) == (code, "") and says in err and err.count("\n") == 1 and not asked
    assert len(err) < 800


def test_without_a_command_the_help_is_whole(cli: Cli) -> None:
    code, out, err = cli()
    assert code == 2 and out == "" and "\n  score " in err and "Usage: genbench" in err


def test_a_component_of_ones_own_is_described(cli: Cli) -> None:
    code, out, _ = cli("info", "metric:genbench.metrics.frechet:FID")
    assert code == 0 and "higher_is_better: False" in out
    code, out, err = cli("info", "model:os:system")
    assert (code, out) == (2, "") and "no function that loads one" in err


def test_the_working_folder_is_searched_last(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "my_model_of_today.py").write_text("def load(*, dataset, device, precision, steps=3):\n    pass\n")
    (tmp_path / "json.py").write_text("raise AssertionError('the working folder goes before the library')\n")
    code, out, err = cli("info", "model:my_model_of_today:load")
    assert (code, err) == (0, "") and "steps = 3" in out
    assert sys.path[-1] == str(tmp_path)


def test_what_a_model_prints_does_not_reach_stdout(cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: Any, **__: Any) -> Outcome:
        sys.stdout.write("a model says hello")
        sys.stdout.close()
        return Outcome(results=(result(),))

    monkeypatch.setattr(pipeline, "score", score)
    code, out, err = cli(*SCORE, "--format", "json")
    assert code == 0 and json.loads(out)["results"][0]["metric"] == "fid" and "hello" in err
    assert sys.stdout.write("stdout is itself again")


LOUD = """
import os, sys
import torch
print("IMPORT")
class Model:
    shape, key, conditioning, classes, evaluations = (3, 8, 8), "k", "none", 0, 1
    def sample(self, seeds, *, labels=None, captions=None, watch=None):
        print("PRINT"); os.write(1, b"WRITE\\n"); os.system("echo CHILD"); sys.stdout.close()
        return torch.rand(len(seeds), 3, 8, 8) * 2 - 1
def load(*, dataset, device, precision):
    return Model()
"""


@pytest.mark.slow
def test_stdout_is_the_answer_alone_below_python_too(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    command = [sys.executable, "-m", "genbench", "run", "--model", "loud:load", "-n", "8", "--metric", "is@pixels"]
    command = [*command[:-1], "vendi@pixels", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["metric"] == "vendi"
    for word in ("IMPORT", "PRINT", "WRITE", "CHILD"):
        assert word in done.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def score(*_: Any, **__: Any) -> Outcome:
        raise error

    monkeypatch.setattr(pipeline, "score", score)


ENDINGS = [
    (MemoryError(), 7, "Out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 7, "Out of memory"),
    (OSError(28, "No space left on device", "/x"), 7, "No space left"),
    (PermissionError(13, "Permission denied", "/elsewhere/x"), 7, "/elsewhere/x"),
    (OSError(36, "File name too long", "a" * 300), 2, "too long"),
    (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
    (Interrupted(224, 384), 130, "224 of 384 images are kept"),
    (SystemExit(0), 1, "ended the program"),
    (ValueError("a bug"), 1, "unexpected failure: ValueError: a bug"),
    (InputRejected("a\x1b[31mred"), 5, "a\\x1b[31mred"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code", "says"), ENDINGS, ids=[repr(e[0])[:30] for e in ENDINGS])
def test_every_end_has_its_code_and_its_line(
    cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    failing(monkeypatch, error)
    found, out, err = cli(*SCORE)
    assert (found, out) == (code, "") and says in err.splitlines()[-1] and "\x1b" not in err
    if code != 1:
        assert err.count("\n") == 1


def test_what_was_measured_before_an_error_is_printed(cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = InputRejected("clip-score needs captions")
    error.results = (result(),)
    failing(monkeypatch, error)
    code, out, err = cli(*SCORE, "--leaderboard", "board.csv")
    assert code == 5 and "fid@compact" in out and "needs captions" in err
    assert (images.parent / "board.csv").read_text().count("\n") == 2
    code, out, _ = cli(*SCORE, "--format", "json")
    assert code == 5 and json.loads(out)["results"][0]["metric"] == "fid"


def test_what_was_measured_before_an_interrupt_is_printed(
    cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, Unmeasured((result(),)))
    code, out, err = cli(*SCORE)
    assert code == 130 and "fid@compact" in out and "interrupted" in err


def test_a_leaderboard_that_would_be_refused_is_refused_before_the_work(
    cli: Cli, images: Path, asked: dict[str, Any]
) -> None:
    (images.parent / "other.csv").write_text("a,b\n1,2\n")
    code, out, err = cli(*SCORE, "--leaderboard", "other.csv")
    assert (code, out) == (5, "") and "other.csv" in err and not asked


def test_nothing_measured_is_no_success(cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "score", lambda *_, **__: Outcome(results=()))
    for form in ("table", "json", "csv"):
        code, out, err = cli(*SCORE, "--format", form)
        assert (code, out) == (4, "") and "Nothing could be measured" in err


def test_an_error_of_several_lines_is_shown_whole(cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, GenbenchError("first\nsecond  with   spaces"))
    assert cli(*SCORE)[2] == "genbench: first\n          second with spaces\n"


def test_warnings_are_shown_without_control_characters(cli: Cli, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging
    import warnings

    def score(*_: Any, **__: Any) -> Outcome:
        logging.getLogger("genbench.images").warning("%s: passed over", "x\x1b[2J.gif")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a\x07b", UserWarning, stacklevel=1)
        return Outcome(results=(result(name="out\x1b]0;title\x07"),))

    monkeypatch.setattr(pipeline, "score", score)
    code, out, err = cli(*SCORE)
    assert code == 0 and "x\\x1b[2J.gif: passed over" in err and "a\\x07b" in err
    assert not any(c in out + err for c in "\x1b\x07") and "title" in out


OWN = """
import sys
import numpy as np
from genbench import Dataset, Metric, Samples, Score
def fails(**_): raise ZeroDivisionError("division by zero")
def ends(**_): sys.exit(0)
def score(*, generated, reference): return fails()
def leaves(*, generated, reference): sys.exit(0)
def metric(name, compute): return Metric(name=name, summary="s", source="s", compute=compute, taps=(), images=True)
FAILS, ENDS = (metric(c.__name__, c) for c in (score, leaves))
def nothing(split): raise ZeroDivisionError("no images today")
DATA = Dataset(name="mine", summary="s", source="s", load=nothing, splits={"reference": "all"})
def extractor(*, device, precision, weights=None): raise ZeroDivisionError("no network today")
def model(*, dataset, device, precision): raise ZeroDivisionError("no model today")
def leaving(*, dataset, device, precision): sys.exit(0)
"""

USERS = [
    (("--metric", "own_code:FAILS"), "metric own_code:FAILS raised ZeroDivisionError: division by zero (own_code.py"),
    (("--metric", "own_code:ENDS"), "The metric own_code:ENDS ended the program"),
    (("--metric", "vendi@own_code:extractor"), "The extractor own_code:extractor raised ZeroDivisionError"),
    (("--reference", "own_code:DATA"), "The data set own_code:DATA raised ZeroDivisionError: no images today"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "says"), USERS, ids=[u[0][1] for u in USERS])
def test_errors_of_a_users_code_name_it(cli: Cli, images: Path, words: tuple[str, ...], says: str) -> None:
    (images.parent / "own_code.py").write_text(OWN)
    sys.modules.pop("own_code", None)
    code, out, err = cli(*SCORE, *words)
    assert (code, out) == (1, "") and says in " ".join(err.split()), err


@pytest.mark.parametrize(("name", "says"), [("model", "raised ZeroDivisionError"), ("leaving", "ended the program")])
def test_errors_of_a_model_name_it(cli: Cli, images: Path, name: str, says: str) -> None:
    (images.parent / "own_code.py").write_text(OWN)
    sys.modules.pop("own_code", None)
    code, out, err = cli("run", "--model", f"own_code:{name}", "-n", "4")
    assert (code, out) == (1, "") and f"The model own_code:{name} {says}" in err
    assert not (images.parent / "runs").exists()


def test_a_device_that_is_not_there_is_refused_although_a_result_is_stored(cli: Cli, tmp_path: Path) -> None:
    command = ("run", "--model", "ddim(steps=1)", "-n", "4", "--metric", "vendi@pixels(side=4)")
    assert cli(*command)[0] == 0
    code, _, err = cli(*command, "--device", "cuda:99")
    assert code == 2 and "cuda:99" in err


def test_a_plan_ends_with_the_code_of_what_is_missing(cli: Cli) -> None:
    words = ("plan", "--model", "adm-g", "--dataset", "imagenet256")
    code, out, err = cli(*words)
    assert (code, err) == (6, "") and "sampling: unknown" in out and "\nmissing:\n  " in out and "None" not in out
    code, out, _ = cli(*words, "--format", "json")
    assert code == 6 == json.loads(out)["exit_code"]


def test_a_run_is_scored_and_exported(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("sample", "--model", "ddim(steps=1)", "-n", "6", "--npz", "a.npz")
    assert code == 0
    directory = next((tmp_path / "runs").iterdir())
    measured = []
    for samples in (directory, "a.npz"):
        code, out, err = cli(
            "score",
            samples,
            "--reference",
            "shapes(count=20)",
            "--metric",
            "fid@pixels(side=2)",
            "--format",
            "json",
            "--leaderboard",
            f"{Path(samples).stem}.csv",
        )
        assert code == 0, err
        measured.append(json.loads(out)["results"][0])
    assert measured[0]["value"] == measured[1]["value"] and measured[0]["n_generated"] == 6
    assert "fid" in (tmp_path / "a.csv").read_text()
    code, _, err = cli("export", directory, "--png", "out")
    assert code == 0 and len(list((tmp_path / "out").glob("*.png"))) == 6


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_count_whole_images_and_are_gone_before_the_answer() -> None:
    stream = Terminal()
    with progress.Bars(stream) as bars:
        for done in (0.0, 12.8, 100.2, 128.0):
            bars("sampling", done, 128)
        bars("measuring fid", 0, 0)
    text = stream.getvalue()
    assert "12.8" not in text and "images/s]measuring" not in text
    assert text.endswith("\r"), "the bar is wiped out, and the cursor is at the beginning of the line"


def test_off_a_terminal_there_is_a_line_now_and_then() -> None:
    stream = io.StringIO()
    bars = progress.Bars(stream, interval=0.0)
    bars("sampling", 12.8, 128)
    bars("measuring f\x1bid", 0, 0)
    assert stream.getvalue() == "sampling 12 of 128 images\nmeasuring f\\x1bid\n"
    quiet = io.StringIO()
    progress.Bars(quiet, interval=1e9)("sampling", 1, 2)
    assert quiet.getvalue() == "" and progress.INTERVAL > 0
    progress.Bars(None, interval=0.0)("sampling", 1, 2)
    stream.close()
    bars("sampling", 64, 128)


def child(code: str, environment: dict[str, str], where: Path, shell: str = "") -> subprocess.CompletedProcess[str]:
    words = f"{sys.executable} -c {json.dumps(code)} {shell}"
    return subprocess.run(
        ["bash", "-c", words], cwd=where, env=environment, capture_output=True, text=True, check=False
    )


PRINTS = "import sys; from genbench.cli import main; sys.exit(main(['list', 'metrics']))"


def test_closed_and_narrow_streams_do_no_harm(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    done = child(PRINTS, clean_environment, tmp_path, "2>&-")
    assert done.returncode == 0 and "fid" in done.stdout
    done = child(PRINTS, clean_environment, tmp_path, ">&-")
    assert done.returncode == 0 and done.stderr == ""
    done = child(PRINTS, clean_environment, tmp_path, "| head -1; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141) and done.stdout == "metrics\n" and done.stderr == ""
    done = child(PRINTS, clean_environment, tmp_path, ">/dev/full")
    assert done.returncode == 7 and "No space left" in done.stderr and done.stderr.count("\n") == 1
    says = "from genbench import cli, console; cli.cli.commands['list'].callback = lambda **_: console.say('\\u4e2d'); "
    code = "import sys; " + says + "sys.exit(cli.main(['list']))"
    done = child(code, clean_environment | {"PYTHONIOENCODING": "latin-1"}, tmp_path)
    assert (done.returncode, done.stdout) == (0, "\\u4e2d\n"), done.stderr


WAITS = """
import signal, sys, time
from genbench import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell hands it on as ignored to what it runs beside itself
signal.signal(signal.SIGHUP, signal.SIG_DFL)
def wait(**_):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
cli.cli.commands["list"].callback = wait
sys.exit(cli.main(["list"]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_end_with_a_line_and_their_code(name: str, tmp_path: Path, clean_environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], env=clean_environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None and process.stderr.readline() == "ready\n"
    number = getattr(signal, name)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, "genbench: interrupted; the same command continues\n")


def test_images_are_exported_for_other_tools(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("export", "shapes(split='test', count=5)", "--png", "out", "--npz", "out.npz")
    assert code == 0 and "5 images" in out and "labels" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *(f"{i:06d}.png" for i in range(5)),
        "metadata.jsonl",
    ]
    from genbench.images import open_images

    folder, arrays = open_images(tmp_path / "out"), open_images(tmp_path / "out.npz")
    np.testing.assert_array_equal(folder.read(0, 5), arrays.read(0, 5))
    assert list(folder.captions or ()) == list(arrays.captions or ()) and arrays.labels is not None
    code, _, err = cli("export", "out", "--png", "out")
    assert code == 2 and "holds files already" in err
    assert len(open_images(tmp_path / "out").read(0, 5)) == 5


def test_python_and_the_command_line_ask_for_the_same(cli: Cli, tmp_path: Path, asked: dict[str, Any]) -> None:
    """The reference names a data set of papers, which brings its protocol and its held-out images to both."""
    import genbench

    pixels = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    for name in ("celeba", "celeba-test", "mine"):
        np.savez(tmp_path / f"{name}.npz", arr_0=pixels)
    (tmp_path / "w.pth").write_bytes(b"")
    common: dict[str, Any] = {"data_dir": tmp_path, "weights": {"inception": "w.pth"}, "device": "cpu"}
    for metrics in (["fid"], ["all"], ["fid@compact", "recall(k=5)"], None):
        asked.clear()
        words = [word for metric in metrics or [] for word in ("--metric", metric)]
        words += ["--weights", "inception=w.pth", "--device", "cpu", "--data-dir", str(tmp_path)]
        code, _, err = cli("score", "mine.npz", "--reference", "celeba", *words)
        assert code == 0, err
        first = dict(asked)
        more = {} if metrics is None else {"metrics": metrics[0] if metrics == ["all"] else metrics}
        genbench.score("mine.npz", "celeba", **common, **more)
        for key in ("measurements", "protocol"):
            assert asked[key] == first[key], key
        assert first["protocol"].name == "tf1" and first["held_out"].count == asked["held_out"].count == 30
        for field in ("device", "workers", "data_dir", "weights"):
            assert getattr(asked["execution"], field) == getattr(first["execution"], field)
    cli("run", "--model", "adm-g", "--dataset", "imagenet256", "--metric", "all")
    first = dict(asked)
    genbench.run("adm-g", dataset="imagenet256", metrics="all")
    assert (
        first["spec"] == asked["spec"] and first["spec"].num_samples == 50_000 and first["spec"].quantise == "truncate"
    )
    assert first["measurements"] == asked["measurements"] and first["protocol"].name == "adm"


def test_all_leaves_out_what_is_not_named_itself() -> None:
    from genbench.protocols import PROTOCOLS

    found = requests.measurements_of(["all", "recall", "fid@inception"], PROTOCOLS["adm"])
    assert {str(m): m.optional for m in found} == {
        "fid": True, "sfid": True, "is": True, "precision": True, "recall": False, "fid@inception": False,
    }  # fmt: skip
    assert requests.measurements_of("fid", PROTOCOLS["adm"])[0].optional is False
    with pytest.raises(GenbenchError, match="No metric was given"):
        requests.measurements_of([], PROTOCOLS["adm"])


def test_descriptors_that_are_closed_are_filled() -> None:
    before = os.dup(2)
    os.close(before)
    console._open_descriptors()
    after = os.dup(2)
    os.close(after)
    assert after == before, "nothing stays open"


def test_the_time_between_signs_of_life_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    bars = progress.Bars(stream, interval=30.0)
    for seconds in range(100):
        clock[0] = float(seconds)
        bars("sampling", seconds, 100)
    assert stream.getvalue().splitlines() == [f"sampling {s} of 100 images" for s in (30, 60, 90)]
