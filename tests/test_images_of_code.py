"""Compiled bodies as files: what is kept runs without numba, with the same bits, and nothing else is ever run."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.dispatch import load_variants

load_variants(np.ndarray)
from bpnet_numpy import fused  # noqa: E402
from bpnet_numpy.fused import elf, image  # noqa: E402
from bpnet_numpy.fused.image import PAGE, Image, Unloadable  # noqa: E402

pytestmark = [
    pytest.mark.skipif(bool(fused.why_not()), reason=fused.why_not()),
    pytest.mark.skipif(not image.supported(), reason="images are made on Linux on x86-64"),
]

FORTY_TWO = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
WORD = b"\x48\xb8" + bytes(8) + b"\xc3"  # movabs rax, a word at 2; ret
IDENTITY = "key/name"


def small(code: bytes = FORTY_TWO, relocations: tuple[tuple[int, str, int], ...] = (), data: bytes = b"") -> Image:
    return Image(code.ljust(PAGE, b"\0") + data, PAGE, 0, relocations)


def called(start: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(start)())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "key"
    found.mkdir(mode=0o700)
    return found


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(**variables))


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "BPNET_FUSED"} | variables


JOB = """
import hashlib, sys, numpy as np, bpnet as bp
model = bp.Sequential(bp.Dense(300, 320), bp.ReLU(), bp.Dense(320, 3))
trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.Adam(1e-2, clip_norm=1.0), metrics=[bp.Accuracy()])
x = np.random.default_rng(0).standard_normal((96, 300), np.float32)
trainer.fit(x, np.arange(96) % 3, epochs=4, batch_size=32, progress=False)
found = trainer.evaluate(x, np.arange(96) % 3), model(x).tobytes(), trainer.predict(x[:1]).tobytes()
print(hashlib.sha256(repr(found).encode() + model.store.values.tobytes()).hexdigest())
print([name for name in ("numba", "llvmlite") if name in sys.modules], file=sys.stderr)
"""
LITTLE = "import sys, numpy as np, bpnet as bp; print(bp.ops.relu(np.arange(-2.0, 3)), 'numba' in sys.modules)"
"""It needs two bodies: that runs programs, and that of ReLU."""
RELU = "[0. 0. 0. 1. 2.]"
WITHOUT_IMAGES = "from bpnet_numpy.fused import image; image.supported = lambda: False\n"


def test_a_whole_job_runs_without_numba_where_its_bodies_are_kept() -> None:
    first = run(JOB, BPNET_THREADS="2")
    second = run(JOB, BPNET_THREADS="2")
    assert second.stdout == first.stdout, first.stderr
    assert second.stderr == "[]\n"


def test_images_give_the_bits_of_what_numba_has_loaded(tmp_path: Path) -> None:
    code = (
        "import hashlib, sys, numpy as np, bpnet as bp\n"
        "x = np.random.default_rng(0).standard_normal((40, 30), np.float32)\n"
        "loss = bp.ops.softmax_cross_entropy(x, np.arange(40) % 30, 3.0)\n"
        "found = [*loss, bp.ops.tanh(x), bp.ops.softmax(x)]\n"
        "print(*(hashlib.sha256(np.asarray(each).tobytes()).hexdigest() for each in found))\n"
        "print([name for name in ('numba', 'llvmlite') if name in sys.modules], file=sys.stderr)\n"
    )
    run(code)
    images, numba = run(code), run(WITHOUT_IMAGES + code, BPNET_CACHE_DIR=str(tmp_path))
    assert (images.stderr, numba.stderr) == ("[]\n", "['numba', 'llvmlite']\n")
    assert len(images.stdout) == 4 * 65
    assert images.stdout == numba.stdout
    assert not list(tmp_path.rglob("*.code"))
    assert list(tmp_path.rglob("*.nbi"))


def test_what_is_reported_is_true_without_numba() -> None:
    code = LITTLE + "\nprint(bp.get_backend('numpy').describe()['kernels'])"
    run(code)
    kept, version = run(code), bp.get_backend("numpy").describe()["kernels"]
    assert kept.stdout.splitlines() == [f"{RELU} False", version], kept.stderr
    import numba

    assert version == f"numba {numba.__version__}"


def test_every_body_becomes_an_image() -> None:
    """One that needed a function which nobody knows would bring numba back into every process."""
    from bpnet_numpy.fused import compiler, machine

    bodies = {
        name
        for module in compiler._MODULES
        for name, function in vars(module).items()
        if getattr(function, "__module__", "") == module.__name__
        and getattr(getattr(function, "__code__", None), "co_varnames", ())[:1] == ("p",)
        and function.__code__.co_argcount in (1, 3)
        and not hasattr(function, "py_func")
    }
    assert {"adam", "divided", "tiled_product", "softmax"} <= bodies
    for name in sorted(bodies):
        machine.address(name, np.dtype("float32"))
    assert machine._images


def test_an_image_is_run_as_it_was_saved(folder: Path) -> None:
    path = folder / "name.code"
    image.save(small(), path, IDENTITY, {"vector": 64})
    found, about = image.read(path, IDENTITY)
    assert (found, about) == (small(), {"vector": 64})
    assert called(image.load(found)) == 42
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == ["name.code"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "a damaged file"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "a damaged file"),
        (lambda path: path.write_bytes(b""), "a damaged file"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "a damaged file"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"\xb8\x2a", b"\xb8\x2b")), "a damaged file"),
        (lambda path: path.write_bytes(b"bpnet code 0" + path.read_bytes()[12:]), "a damaged file"),
        (lambda path: image.save(small(), path, "key/other", {}), "a file of something else"),
        (lambda path: image.save(small(), path, "another key/name", {}), "a file of something else"),
        (lambda path: path.chmod(0o620), "others may write here"),
        (lambda path: path.chmod(0o602), "others may write here"),
        (lambda path: path.parent.chmod(0o770), "others may write here"),
        (lambda path: path.parent.chmod(0o777), "others may write here"),
        (lambda path: path.unlink(), "no file"),
        (lambda path: (path.unlink(), path.mkdir()), "no file"),
    ],
)
def test_what_is_not_as_it_was_saved_is_not_taken(folder: Path, spoil: Callable[[Path], Any], reason: str) -> None:
    path = folder / "name.code"
    image.save(small(), path, IDENTITY, {})
    image.read(path, IDENTITY)
    spoil(path)
    with pytest.raises(Unloadable, match=reason):
        image.read(path, IDENTITY)


@pytest.mark.parametrize("whose", ["the file", "the folder"])
def test_what_belongs_to_somebody_else_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    path = folder / "name.code"
    image.save(small(), path, IDENTITY, {})
    name = "fstat" if whose == "the file" else "stat"
    true = getattr(os, name)

    def another(*args: Any) -> os.stat_result:
        found = list(true(*args))
        found[4] = os.geteuid() + 1
        return os.stat_result(found)

    monkeypatch.setattr(image.os, name, another)
    with pytest.raises(Unloadable, match="others may write here"):
        image.read(path, IDENTITY)


def test_words_of_an_image_become_addresses() -> None:
    c = ctypes.CDLL(None)
    memset = ctypes.cast(c.memset, ctypes.c_void_p).value
    assert called(image.load(small(WORD, ((2, "memset", 0),)))) == memset
    start = image.load(small(WORD, ((2, "", PAGE + 8),), bytes(8) + b"abcdefgh"))
    assert called(start) == start + PAGE + 8
    assert ctypes.string_at(called(start), 8) == b"abcdefgh"
    assert called(image.load(small(WORD, ((2, "_Py_NoneStruct", 0),)))) == id(None)


def test_code_cannot_be_written_and_data_can() -> None:
    start = image.load(small(WORD, ((2, "", PAGE),), bytes(8)))
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, right, *_ = line.split()
        first, last = (int(each, 16) for each in ends.split("-"))
        rights |= {place: right for place in (start, start + PAGE) if first <= place < last}
    assert rights == {start: "r-xp", start + PAGE: "rw-p"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (small(WORD, ((2, "system", 0),)), "nobody knows what 'system' is"),
        (small(WORD, ((2, "PyRun_SimpleString", 0),)), "nobody knows what 'PyRun_SimpleString' is"),
        (small(WORD, ((PAGE - 7, "", 0),)), "an address outside of the memory"),
        (small(WORD, ((-8, "", 0),)), "an address outside of the memory"),
        (small()._replace(entry=PAGE), "a memory without a function"),
        (small()._replace(entry=-1), "a memory without a function"),
        (small()._replace(writable=2 * PAGE), "a memory without a function"),
        (small()._replace(writable=8), "a memory without a function"),
        (Image(b"", 0, 0, ()), "a memory without a function"),
    ],
)
def test_an_image_that_cannot_be_right_is_not_loaded(bad: Image, reason: str) -> None:
    with pytest.raises(Unloadable, match=reason):
        image.load(bad)


def test_a_system_that_makes_no_memory_executable_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    true, given_back = image._c(), []

    class Refusing:
        mmap = true.mmap

        def mprotect(self, *args: int) -> int:
            assert args[2] == mmap.PROT_READ | mmap.PROT_EXEC
            ctypes.set_errno(13)
            return -1

        def munmap(self, *args: int) -> int:
            given_back.append(args)
            return int(true.munmap(*args))

    monkeypatch.setattr(image, "_c", Refusing)
    with pytest.raises(Unloadable, match="the system makes no memory executable: Permission denied"):
        image.load(small())
    assert [size for _, size in given_back] == [PAGE]


COUNTING = """
target triple = "x86_64-unknown-linux-gnu"
@count = internal global i64 40
@tally = common global i64 0
@table = internal constant [2 x i64 (i64)*] [i64 (i64)* @twice, i64 (i64)* @more]
define internal i64 @twice(i64 %x) noinline { %y = mul i64 %x, 2 ret i64 %y }
define internal i64 @more(i64 %x) noinline { %y = add i64 %x, 1 ret i64 %y }
define i64 @counted(i64 %k) {
  %place = getelementptr [2 x i64 (i64)*], [2 x i64 (i64)*]* @table, i64 0, i64 %k
  %f = load i64 (i64)*, i64 (i64)** %place
  %before = load i64, i64* @count
  %after = call i64 @more(i64 %before)
  store i64 %after, i64* @count
  %seen = load i64, i64* @tally
  %now = add i64 %seen, 100
  store i64 %now, i64* @tally
  %result = call i64 %f(i64 %after)
  %sum = add i64 %result, %now
  ret i64 %sum
}
"""


def counting(relocation: str, model: str, source: str = COUNTING) -> bytes:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(opt=2, reloc=relocation, codemodel=model)
    return bytes(machine.emit_object(llvm.parse_assembly(source)))


@pytest.mark.parametrize(
    ("relocation", "model", "kind"),
    [("static", "large", "common"), ("static", "large", "internal"), ("pic", "small", "internal")],
)
def test_a_function_with_data_tables_and_calls_runs(relocation: str, model: str, kind: str) -> None:
    """By addresses in the large code model, by distances in the small one."""
    code = counting(relocation, model, COUNTING.replace("common", kind))
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(image.load(elf.image(code, "counted")))
    assert [function(0), function(1), function(0)] == [2 * 41 + 100, 43 + 200, 2 * 43 + 300]


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_function_that_needs_a_table_of_a_linkers_is_refused(model: str) -> None:
    with pytest.raises(Unloadable, match=r"^relocation \d+ of '(tally|_GLOBAL_OFFSET_TABLE_)'$"):
        elf.image(counting("pic", model), "counted")


def object_file() -> bytes:
    return counting("static", "large")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_object_file_that_is_cut_off_or_altered_is_refused_or_read(data: st.DataObject) -> None:
    code = bytearray(object_file())
    if data.draw(st.booleans()):
        del code[data.draw(st.integers(0, len(code) - 1)) :]
    for _ in range(data.draw(st.integers(1, 4))):
        if code:
            code[data.draw(st.integers(0, len(code) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unloadable):
        assert isinstance(elf.image(bytes(code), "counted"), Image)


def test_objects_of_another_kind_are_refused() -> None:
    code = object_file()
    for bad, reason in (
        (code[:18] + b"\xb7\x00" + code[20:], "not an object file for x86-64"),  # AArch64
        (code[:16] + b"\x03\x00" + code[18:], "not an object file for x86-64"),  # a shared library
        (b"\xcf\xfa\xed\xfe" + code[4:], "not an object file for x86-64"),  # Mach-O
        (b"", "not an object file"),
    ):
        with pytest.raises(Unloadable, match=reason):
            elf.image(bad, "counted")
    for name in ("other", "memset", "tally"):
        with pytest.raises(Unloadable, match=f"0 functions of the name {name}"):
            elf.image(code, name)


def test_processes_that_begin_at_the_same_time_share_a_cache(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", LITTLE],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(BPNET_CACHE_DIR=str(tmp_path)),
        )
        for _ in range(2)
    ]  # fmt: skip
    for each in both:
        out, errors = each.communicate(timeout=120)
        assert (out.split("]")[0] + "]", errors, each.returncode) == (RELU, "", 0)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"execute.code", "relu-float64.code"}
    assert run(LITTLE, BPNET_CACHE_DIR=str(tmp_path)).stdout == f"{RELU} False\n"


def test_a_cache_is_used_that_cannot_be_written_healed_that_is_damaged_and_none_is_taken_from_elsewhere(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    assert run(LITTLE, BPNET_CACHE_DIR=str(cache)).stdout == f"{RELU} True\n"
    (folder,) = (cache / "fused").iterdir()
    good = {path: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o500)
    assert run(LITTLE, BPNET_CACHE_DIR=str(cache)).stdout == f"{RELU} False\n"
    folder.chmod(0o700)
    relu = folder / "relu-float64.code"
    shutil.copy(folder / "execute.code", relu)  # a whole image, of another function
    assert run(LITTLE, BPNET_CACHE_DIR=str(cache)).stdout == f"{RELU} True\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == good
    other = "NUMBA_OPT", "2"  # another key: nothing that is here belongs to it
    assert run(LITTLE, BPNET_CACHE_DIR=str(cache), **dict([other])).stdout == f"{RELU} True\n"
    (new,) = set((cache / "fused").iterdir()) - {folder}
    for path in good:
        shutil.copy(path, new / path.name)
    assert run(LITTLE, BPNET_CACHE_DIR=str(cache), **dict([other])).stdout == f"{RELU} True\n"


def test_a_thread_that_trains_when_the_interpreter_ends_does_no_harm() -> None:
    done = run(
        "import threading, time, numpy as np, bpnet as bp\n"
        "x = np.ones((64, 64), np.float32)\n"
        "def work():\n"
        "    while True:\n"
        "        bp.ops.tanh(x)\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print('end')\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)
