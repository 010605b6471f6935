"""Jittor's lines about kernels that it compiles are heard, and nothing else of standard error is lost or changed."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import threading
import weakref

from jboat.backend import kernel_messages
from jboat.backend.kernel_messages import Compiling, KernelMessages
import jittor as jt
import pytest

SOURCE = """
#include <iomanip>
#include <iostream>

// as src/parallel_compiler.cc writes
extern "C" void compile(int n) {
    std::cerr << "\\n";
    for (int i = 1; i <= n; i++)
        std::cerr << "Compiling Operators(" << i << '/' << n << ")"
            << " used: " << std::setprecision(3) << std::setw(4) << 2.25 * i << "s eta: "
            << std::setprecision(3) << std::setw(4) << 2.25 * (n - i) << "s \\r";
    std::cerr << std::endl;
}

extern "C" void write(const char* text) { std::cerr << text; }
extern "C" void end_line() { std::cerr << std::endl; }
extern "C" void say(int number) { std::cerr << "number " << number << '\\n'; }
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """What some library in C++ does, and what does the same under the name of Jittor's."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "writes.cc").write_text(SOURCE)
    command = [jt.flags.cc_path, "-O1", "-fPIC", "-shared", "writes.cc", "-o", "writes.so"]
    subprocess.run(command, cwd=folder, check=True)
    shutil.copy(folder / "writes.so", folder / "jittor_core_writes.so")
    return folder


@pytest.fixture(scope="module")
def cpp(libraries):
    return ctypes.CDLL(str(libraries / "writes.so"))


@pytest.fixture(scope="module")
def jittor(libraries):
    return ctypes.CDLL(str(libraries / "jittor_core_writes.so"))


def test_messages_are_heard_and_all_else_is_written_at_once(cpp, jittor, capfd):
    heard = []
    messages = KernelMessages(heard.append)
    cpp.write(b"before\n")
    jittor.compile(3)
    cpp.compile(1)
    cpp.say(5)
    os.write(2, b"by the descriptor\n")
    jittor.write(b"Compiling Operators is no message")
    jittor.end_line()
    cpp.end_line()
    os.write(2, b"once more\n")
    jittor.compile(1)
    jittor.write(b"Compiling Operators(otherwise\n")
    jittor.write(b"after")
    messages.end()
    assert heard == [Compiling(1, 3, 2.25, 4.5), Compiling(2, 3, 4.5, 2.25), Compiling(3, 3, 6.75, 0), (1, 1, 2.25, 0)]
    expected = (
        "before\n\nCompiling Operators(1/1) used: 2.25s eta:    0s \r\nnumber 5\nby the descriptor\n"
        "Compiling Operators is no message\n\nonce more\nCompiling Operators(otherwise\nafter"
    )
    assert capfd.readouterr().err == expected


def test_after_the_end_lines_are_as_ever(jittor, capfd):
    KernelMessages(lambda compiling: None).end()
    jittor.compile(1)
    assert capfd.readouterr().err == "\nCompiling Operators(1/1) used: 2.25s eta:    0s \r\n"


def test_the_end_of_a_line_of_jittors_waits_until_settle_at_most(jittor, capfd):
    messages = KernelMessages(lambda compiling: None)
    jittor.write(b"line")
    jittor.write(b"\n")
    messages.settle()
    assert capfd.readouterr().err == "line\n"
    messages.end()


def test_other_threads_write_past_it(jittor, capfd):
    heard = []
    messages = KernelMessages(heard.append)
    thread = threading.Thread(target=jittor.compile, args=(1,))
    thread.start()
    thread.join()
    messages.end()
    assert heard == []
    assert "Compiling Operators(1/1)" in capfd.readouterr().err


def test_the_second_listener_at_once_hears_nothing_and_leaves_the_first_alone(jittor, capfd):
    heard = {1: [], 2: []}
    first, second = (KernelMessages(heard[number].append) for number in (1, 2))
    second.end()
    jittor.compile(1)
    first.end()
    third = KernelMessages(heard[2].append)
    jittor.compile(1)
    third.end()
    assert [len(each) for each in heard.values()] == [1, 1]
    assert capfd.readouterr().err == ""


def test_what_the_listener_raises_comes_out_of_settle(jittor, capfd):
    def stop(compiling):
        raise KeyboardInterrupt("a second Ctrl-C")

    messages = KernelMessages(stop)
    jittor.compile(2)
    with pytest.raises(KeyboardInterrupt, match="a second"):
        messages.settle()
    messages.settle()
    jittor.compile(1)
    with pytest.raises(KeyboardInterrupt):
        messages.end()
    messages.end()
    assert capfd.readouterr().err == ""


def test_without_a_compiler_lines_stay(jittor, capfd, monkeypatch, tmp_path):
    flags = type("Flags", (), {"cache_path": str(tmp_path), "cc_path": str(tmp_path / "no-compiler")})
    monkeypatch.setattr(kernel_messages, "jt", type("Jittor", (), {"flags": flags}))
    monkeypatch.setattr(kernel_messages, "_library", kernel_messages._library.__wrapped__)
    messages = KernelMessages(lambda compiling: None)
    jittor.compile(1)
    messages.settle()
    messages.end()
    assert "Compiling Operators(1/1)" in capfd.readouterr().err


def test_jittor_writes_what_is_listened_for():
    """Its source, to which the pattern belongs."""
    source = os.path.join(os.path.dirname(jt.__file__), "src", "parallel_compiler.cc")
    with open(source) as file:
        text = file.read()
    assert 'std::cerr << "Compiling Operators(" << i << \'/\' << n << ")"' in text
    assert '<< " used: "' in text
    assert '<< "s eta: "' in text
    assert '<< "s \\r"' in text


def test_a_process_that_ends_in_between_ends_well(libraries):
    program = (
        "from jboat.backend.kernel_messages import KernelMessages; import ctypes, sys;"
        "messages = KernelMessages(print); library = ctypes.CDLL(sys.argv[1]);"
        "library.write(b'text'); library.write(b'\\n')"
    )
    command = [sys.executable, "-c", program, str(libraries / "jittor_core_writes.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "text\n"


def test_a_listener_that_nobody_holds_any_more_may_still_be_called(jittor):
    heard = []
    messages = KernelMessages(heard.append)
    library = messages._library
    listener = weakref.ref(messages._listener)
    del messages
    gc.collect()
    assert listener() is not None  # C++ calls it
    jittor.compile(1)
    assert len(heard) == 1
    library.listen(kernel_messages._LISTENER())
    kernel_messages._at_work.clear()
    kernel_messages._taken.release()
