"""What ``fit`` shows by itself: on a terminal, in pipes, in notebooks, and how the bar stands among other lines."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import types

from jboat.backend.kernel_messages import Compiling
from jboat.callbacks import Callback, CSVLogger, LambdaCallback, ModelCheckpoint, ProgressBar
from jboat.trainers.persistence import archive
import pytest
import small_trainers


class Terminal(io.StringIO):
    """A stream that calls itself a terminal, and shows what would stand on its screen."""

    def isatty(self):
        return True

    def screen(self):
        lines, column = [""], 0
        for character in self.getvalue():
            if character == "\r":
                column = 0
            elif character == "\n":
                lines.append("")
                column = 0
            else:
                lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    seen = types.SimpleNamespace(stderr=stream, modules=sys.modules)
    for module in ("jboat.callbacks.progress_bar", "jboat.trainers.progress"):
        monkeypatch.setattr(f"{module}.sys", seen)
    # The cache is shared: what another process of the suite compiles meanwhile would be counted too.
    monkeypatch.setattr("jboat.callbacks.progress_bar._Kernels.new", lambda self: 0)
    last = logging.StreamHandler(stream)
    last.setLevel(logging.WARNING)
    monkeypatch.setattr(logging, "lastResort", last)
    return stream


def test_on_a_terminal_a_bar_comes_by_itself(terminal):
    trainer = small_trainers.make()
    trainer.fit([{}, {}, {}], {}, max_epochs=2, val_loader={})
    lines = terminal.screen()
    assert len(lines) == 2
    assert lines[1] == ""  # the cursor stands below
    assert re.fullmatch(
        r"epoch 2/2: 100%\|[█#]+\| 6/6 \[00:0\d<00:00, .*step/s, ll_loss=\S+, "
        rf"ul_loss={trainer.history['ul_loss'][-1]:.4g}, "
        rf"val_ul_loss={trainer.history['val_ul_loss'][-1]:.4g}\]",
        lines[0],
    ), lines
    assert ": :" not in terminal.getvalue()
    assert "compiles" in terminal.getvalue().split("\r")[1]
    assert [type(c).__name__ for c in trainer.callbacks.callbacks] == ["HistoryRecorder"]


def test_without_a_known_length_there_is_no_doubled_colon(terminal):
    small_trainers.make().fit(lambda: iter([{}, {}]), {}, max_epochs=2)
    lines = terminal.screen()
    assert re.match(r"epoch 2/2: 4step \[", lines[0]), lines
    assert ": :" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("arguments", "fit", "total"),
    [
        ({}, {"max_epochs": 3}, 9),
        ({}, {"max_epochs": 3, "max_steps": 7}, 7),
        ({"accumulate": 2}, {"max_epochs": 3}, 5),
        ({"accumulate": 7}, {"max_epochs": 2}, 2),
        ({"lower_batches": "fresh", "lower_iters": 2}, {"max_epochs": 2}, 3),
        ({}, {"max_epochs": 2, "limit_batches": 2}, 4),
        ({"sl_op": "SOBA"}, {"max_epochs": 2}, 6),
    ],
)
def test_the_total_is_the_number_of_steps_that_there_are(terminal, arguments, fit, total):
    trainer = small_trainers.make(**arguments)
    trainer.fit([{}, {}, {}], {}, **fit)
    assert trainer.state.step == total
    assert f" {total}/{total} [" in terminal.screen()[0]


def test_a_resumed_run_goes_on_where_it_stood(terminal, tmp_path):
    trainer = small_trainers.make()
    trainer.fit({}, {}, max_steps=3)
    trainer.save_checkpoint(tmp_path / "c.npz")
    terminal.truncate(0)
    terminal.seek(0)
    small_trainers.make().fit({}, {}, max_steps=5, resume_from=tmp_path / "c.npz")
    assert " 3/5 [" in terminal.getvalue().split("\r")[1]
    assert " 5/5 [" in terminal.screen()[0]


def test_messages_stand_above_the_bar(terminal, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that has set up no logging

    def warn(trainer, state):
        logging.getLogger("jboat.trainers.somewhere").warning("a message of step %d", state.step)

    small_trainers.make(LambdaCallback(on_step_end=warn)).fit({}, {}, max_steps=3)
    lines = terminal.screen()
    assert lines[:3] == ["a message of step 1", "a message of step 2", "a message of step 3"]
    assert lines[3].startswith("100%")
    assert lines[4:] == [""]
    assert not any(type(h).__name__ == "BarAmongMessages" for h in logging.getLogger("jboat").handlers)


def test_a_run_that_fails_leaves_one_line(terminal):
    def fail(trainer, state):
        if state.step == 2:
            raise LookupError

    trainer = small_trainers.make(LambdaCallback(on_step_start=fail))
    with pytest.raises(LookupError):
        trainer.fit({}, {}, max_steps=9)
    assert [line[:4] for line in terminal.screen()] == [" 22%", ""]
    assert [type(c).__name__ for c in trainer.callbacks.callbacks] == ["LambdaCallback", "HistoryRecorder"]


@pytest.mark.parametrize("own", [ProgressBar(io.StringIO()), CSVLogger("unused")])
def test_ones_own_bar_or_logger_turns_it_off(terminal, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_trainers.make(own).fit({}, {}, max_steps=2)
    assert terminal.getvalue() == ""


def test_the_loggers_of_logger_dir_do_not(terminal, tmp_path):
    small_trainers.make(logger_dir=tmp_path).fit({}, {}, max_steps=2)
    assert "2/2" in terminal.getvalue()


def test_false_turns_it_off_and_true_turns_it_on(terminal, tmp_path):
    small_trainers.make().fit({}, {}, max_steps=2, progress=False)
    assert terminal.getvalue() == ""
    small_trainers.make(CSVLogger(tmp_path)).fit({}, {}, max_steps=2, progress=True)
    assert "2/2" in terminal.getvalue()
    with pytest.raises(TypeError, match="progress must be True, False or None, got 'yes'"):
        small_trainers.make().fit({}, {}, progress="yes")


def test_pipes_are_silent_and_get_lines_on_request(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    small_trainers.make().fit({}, {}, max_steps=2)
    assert pipe.getvalue() == ""
    trainer = small_trainers.make()
    trainer.fit([{}, {}], {}, max_epochs=2, progress=True)
    first, last = pipe.getvalue().splitlines()
    assert first == "epoch 1/2, step 0/4: first step; Jittor compiles kernels that are new"
    assert re.fullmatch(
        rf"epoch 2/2, step 4/4, ll_loss=\S+, ul_loss={trainer.history['ul_loss'][-1]:.4g}, \S+ steps/s", last
    )


def test_lines_come_every_few_seconds():
    stream = io.StringIO()
    small_trainers.make(ProgressBar(stream, lines=True, disable=False, every_seconds=0.0)).fit({}, {}, max_steps=3)
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0].split(":")[0] for line in lines] == [f"step {n}/3" for n in (0, 1, 2, 3, 3)]
    assert "left" in lines[1]
    with pytest.raises(ValueError, match="every_seconds"):
        ProgressBar(every_seconds=-1)


def test_a_notebook_without_widgets_gets_lines(monkeypatch):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("jboat.callbacks.progress_bar._has_widgets", lambda: False)
    cell = io.StringIO()
    monkeypatch.setattr(sys, "stderr", cell)
    small_trainers.make().fit({}, {}, max_steps=2)
    assert [line.split(",")[0].split(":")[0] for line in cell.getvalue().splitlines()] == ["step 0/2", "step 2/2"]


class Compiler(Callback):
    """Says in every step what Jittor says when it compiles, to who listens."""

    def __init__(self, monkeypatch):
        self.hears = self.settled = self.ended = 0
        monkeypatch.setattr("jboat.trainers.run.KernelMessages", self.listened)

    def listened(self, hear):
        self.hears = hear
        return self

    def on_lower_loop_start(self, trainer, state):
        if state.step == 1:
            for done in (2, 5):
                self.hears(Compiling(done, 5, 2.0 * done, 2.0 * (5 - done)))

    def settle(self):
        self.settled += 1

    def end(self):
        self.ended += 1


def test_kernels_are_no_longer_heard_where_the_bar_cannot_be_closed(terminal, monkeypatch):
    compiler, bar = Compiler(monkeypatch), ProgressBar(terminal, lines=True)

    def broken(text):
        raise OSError("broken pipe")

    def on_fit_end(trainer, state):
        terminal.write = broken

    with pytest.raises(OSError, match="broken pipe"):
        small_trainers.make(compiler, bar, LambdaCallback(on_fit_end=on_fit_end)).fit({}, {}, max_steps=1)
    assert compiler.ended == 1


def test_kernels_under_way_are_in_the_same_bar(terminal, monkeypatch):
    compiler = Compiler(monkeypatch)
    small_trainers.make(compiler).fit([{}, {}], {}, max_epochs=2)
    drawn = terminal.getvalue().split("\r")
    assert [d.split("|")[0] for d in drawn if "compiling" in d] == [
        "epoch 1/2, compiling kernels 2/5, 00:06 left:  25%",
        "epoch 1/2, compiling kernels 5/5:  25%",
    ]
    assert terminal.screen()[0].startswith("epoch 2/2: 100%")
    assert terminal.screen()[1:] == [""]
    assert (compiler.settled, compiler.ended) == (4, 1)


def test_kernels_under_way_are_in_lines_where_lines_are_written(monkeypatch):
    stream = io.StringIO()
    bar = ProgressBar(stream, lines=True, disable=False, every_seconds=0.0)
    small_trainers.make(Compiler(monkeypatch), bar).fit([{}, {}], {}, max_epochs=1)
    assert "epoch 1/1, step 1/2: compiling kernels 2/5, 00:06 left\n" in stream.getvalue()


@pytest.mark.parametrize("size", [(0, 0), (100, 0), (0, 30)])
def test_a_terminal_that_tells_no_size_gets_a_bar_all_the_same(terminal, monkeypatch, size):
    monkeypatch.setattr(terminal, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size(size))
    small_trainers.make().fit({}, {}, max_steps=2)
    assert "2/2" in terminal.screen()[0]


def test_kernels_that_were_compiled_are_counted(terminal, monkeypatch):
    from jboat.callbacks import progress_bar

    monkeypatch.setattr(progress_bar._Kernels, "new", lambda self: 12)
    small_trainers.make().fit({}, {}, max_steps=2)
    assert "kernels compiled=12]" in terminal.screen()[0]


def test_kernels_are_counted_by_the_files_of_the_cache(tmp_path, monkeypatch):
    from jboat.callbacks import progress_bar

    monkeypatch.setattr(
        progress_bar, "jt", types.SimpleNamespace(flags=types.SimpleNamespace(cache_path=str(tmp_path)))
    )
    none = progress_bar._Kernels()
    assert none.new() == 0
    (tmp_path / "jit").mkdir()
    (tmp_path / "jit" / "a_op.so").write_text("")
    some = progress_bar._Kernels()
    for name in ("b_op.so", "b_op.cc", "c_op.so"):
        (tmp_path / "jit" / name).write_text("")
    assert some.new() == 2
    assert none.new() == 3


def test_the_cache_is_not_looked_through_where_nothing_is_shown(monkeypatch):
    from jboat.callbacks import progress_bar

    asked = []
    monkeypatch.setattr(progress_bar._Kernels, "_number", lambda self: asked.append(self) or 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    small_trainers.make().fit({}, {}, max_steps=2)
    assert not asked  # tens of thousands of names, at every fit


def test_checkpoints_know_nothing_of_it(terminal, tmp_path, caplog):
    trainer = small_trainers.make(ModelCheckpoint(tmp_path, every_n_steps=1))
    trainer.fit({}, {}, max_steps=1)
    assert set(archive.read(tmp_path / "last.npz")["callbacks"]) == {
        "HistoryRecorder",
        "ModelCheckpoint(None, 1, None, None)",
    }
    small_trainers.make(ModelCheckpoint(tmp_path, every_n_steps=1)).fit({}, {}, max_steps=2, resume_from="last")
    assert not caplog.records


def test_a_program_in_a_pipe_says_nothing(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import small_trainers; small_trainers.make().fit({}, {}, max_steps=2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "step" not in done.stderr


def test_other_callbacks_hear_what_they_heard():
    heard = {True: [], False: []}
    for progress, calls in heard.items():

        class Hear(Callback):
            def on_step_end(self, trainer, state, calls=calls):
                calls.append(json.dumps(sorted(state.metrics)))

        small_trainers.make(Hear()).fit({}, {}, max_steps=2, progress=progress)
    assert heard[True] == heard[False]


def test_a_second_fit_has_a_bar_of_its_own(terminal):
    trainer = small_trainers.make()
    for steps in (2, 3):
        trainer.fit({}, {}, max_steps=steps)
    assert [line.split("|")[2].split("[")[0] for line in terminal.screen()[:2]] == [" 2/2 ", " 3/3 "]
    assert terminal.screen()[2:] == [""]
    assert terminal.getvalue().count("compiles") == 2
