"""The kernels of jboat's operations touch no number that is not theirs, and compute what plain loops in float64 do."""

import pytest
import sanitize

SHAPES = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    reason = sanitize.missing(folder)
    if reason:
        pytest.skip(reason)
    return folder


def test_random_shapes(folder):
    done = sanitize.run(sanitize.build(folder), SHAPES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{SHAPES} shapes, ")


FAULTS = {
    "reads one number too many": ("sums.cc", "j < places; j++) sum +=", "j <= places; j++) sum +=", "AddressSanitizer"),
    "writes one number too many": ("rectify.cc", "n - begin), result", "n - begin) + 1, result", "AddressSanitizer"),
    "forgets the last number": (
        "linear_algebra.cc",
        "std::min(n, begin",
        "std::min(n - 1, begin",
        "inner_product, numbers",
    ),
    "shifts too far": (
        "linear_algebra.cc",
        "double total = start;",
        "double total = start + 0 * (1 << n);",
        "shift exponent",
    ),
}


@pytest.mark.parametrize(("file", "right", "wrong", "said"), FAULTS.values(), ids=FAULTS)
def test_faults_are_found(folder, file, right, wrong, said):
    text = (sanitize.KERNELS / file).read_text()
    assert right in text
    done = sanitize.run(sanitize.build(folder, changed={file: text.replace(right, wrong)}), SHAPES)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
