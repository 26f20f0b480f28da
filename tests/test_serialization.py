"""Calls and values as bytes: what comes back, and what is refused."""

import functools
import math
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastworker_lite import serialization
from fastworker_lite.errors import SerializationError
from fastworker_lite.job import Command
from fastworker_lite.payloads import (
    checksum,
    decode_command,
    decode_environment,
    encode_command,
    encode_environment,
    encode_json,
    encode_json_call,
    is_json,
    read_json_result,
)
from fastworker_lite.serialization import (
    Target,
    decode,
    decode_call,
    decode_target,
    encode,
    encode_call,
    encode_result,
    encode_target,
    import_function,
    importable_name,
    is_async,
)

ROOT = Path(__file__).parent.parent
TAG = sys.implementation.cache_tag.encode()


def module_function(value):
    return value + 1


async def module_coroutine():
    return 1


class Adder:
    def __init__(self, step):
        self.step = step

    def add(self, value):
        return value + self.step

    async def __call__(self, value):
        return value


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ).stdout.strip()


# ---- values

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_equal(value):
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.10"),
        datetime(2026, 1, 2, tzinfo=UTC),
        {1, 2},
        frozenset("ab"),
        1 << 5000,
        Path("/x"),
        b"\0" * 100,
        ...,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_that_pickle_come_back_equal(value):
    assert decode(encode(value)) == value


def test_plain_values_are_plain_pickles_that_any_python_reads():
    data = encode({"a": [1, 2]})

    assert data[:2] == b"\x80\x05"
    assert pickle.loads(data) == {"a": [1, 2]}


def test_a_value_that_only_mentions_main_comes_back():
    assert decode(encode(["__main__", b"__main__"])) == ["__main__", b"__main__"]


def test_a_closure_travels_by_value():
    step = 3

    data = encode(lambda value: value + step)

    assert data.startswith(b"V" + TAG + b"\n")
    assert decode(data)(1) == 4


def test_things_of_main_travel_by_value_to_another_process(tmp_path):
    script = """
import sys
from fastworker_lite.serialization import encode
class Point:
    def __init__(self, x): self.x = x
    def double(self): return self.x * 2
open(sys.argv[1], "wb").write(encode([Point(21)]))
"""
    run(script, str(tmp_path / "value"))

    (point,) = decode((tmp_path / "value").read_bytes())

    assert (type(point).__name__, point.double()) == ("Point", 42)


def test_a_value_pickled_by_another_python_is_refused_before_it_is_read():
    data = b"V" + b"cpython-399" + b"\n" + b"this is no pickle"

    with pytest.raises(SerializationError, match=r"pickled by value in cpython-399 and cannot be read in cpython-3"):
        decode(data)


def test_an_open_file_is_refused_with_the_remedy(tmp_path):
    with (
        open(tmp_path / "x", "w") as file,
        pytest.raises(SerializationError, match="an open file does not travel; send its path"),
    ):
        encode([file])


@pytest.mark.parametrize("make", [lambda: (n for n in ()), lambda: __import__("threading").Lock()])
def test_what_does_not_pickle_is_refused_by_its_type(make):
    value = make()

    with pytest.raises(SerializationError, match=f"^{type(value).__name__} cannot be pickled: "):
        encode(value)


def test_a_value_nested_too_deep_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(SerializationError, match=r"^list cannot be pickled: "):
        encode(value)


@pytest.mark.parametrize("data", [b"", b"X", b"\x80", b"\x80\x05garbage", b"J{", b"V", b"V" + TAG + b"\n", b"\0" * 10])
def test_bytes_that_are_no_value_are_refused(data):
    with pytest.raises(SerializationError):
        decode(data)


def test_a_value_whose_class_is_gone_is_refused():
    with pytest.raises(SerializationError, match="cannot be read: ModuleNotFoundError"):
        decode(b"\x80\x05cno_such_module_\nThing\n.")


# ---- JSON


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_values_come_back_equal_and_can_be_read_without_unpickling(value):
    data = encode_json(value)

    assert is_json(data)
    assert decode(data) == read_json_result(data) == value


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": (1,)}, math.nan, b"x", {1}, object()], ids=repr)
def test_json_that_would_come_back_changed_is_refused(value):
    with pytest.raises(SerializationError, match="cannot be stored as JSON"):
        encode_json(value)


def test_a_result_is_json_only_where_the_caller_spoke_json():
    assert is_json(encode_result([1], True))
    assert not is_json(encode_result([1], False))
    assert decode(encode_result((1,), True)) == (1,)


def test_a_pickled_result_is_not_read_by_those_who_must_not_unpickle():
    assert read_json_result(encode([1])) is None
    assert read_json_result(None) is None


# ---- calls


def test_a_call_comes_back_as_it_was_made():
    assert decode_call(encode_call((1, "x"), {"k": [2]})) == ((1, "x"), {"k": [2]})
    assert decode_call(encode_json_call([1, "x"], {"k": [2]})) == ((1, "x"), {"k": [2]})


def test_a_checksum_covers_the_task_the_target_and_the_payload():
    known = checksum("task", b"target", b"payload")

    assert known == checksum("task", b"target", b"payload")
    assert known != checksum("tasl", b"target", b"payload")
    assert known != checksum("task", b"targeu", b"payload")
    assert known != checksum("task", b"target", b"payloae")
    assert checksum("task", None, b"payload") != known


@given(st.binary(min_size=1), st.data())
def test_a_flipped_bit_in_a_payload_changes_its_checksum(payload, data):
    position = data.draw(st.integers(0, len(payload) * 8 - 1))
    flipped = bytearray(payload)
    flipped[position // 8] ^= 1 << position % 8

    assert checksum("t", None, payload) != checksum("t", None, bytes(flipped))


# ---- functions


def test_an_importable_function_travels_by_name():
    data = encode_target(Target.make(module_function))

    assert data == f"I{__name__}:module_function".encode()
    assert decode_target(data).function is module_function


def test_a_local_function_travels_by_value_with_what_is_called_around_it():
    seen = []

    def local():
        return 5

    found = decode_target(encode_target(Target.make(local, before=lambda: 1, after=seen.append)))

    assert (found.function(), found.before()) == (5, 1)


def test_a_function_that_came_by_value_keeps_its_globals_between_jobs():
    script = """
import sys
from fastworker_lite.serialization import Target, encode_target
count = 0
def bump():
    global count
    count += 1
    return count
sys.stdout.write(encode_target(Target.make(bump)).hex())
"""
    data = bytes.fromhex(run(script))

    assert [decode_target(data).function() for _ in range(3)] == [1, 2, 3]


def test_functions_of_main_and_methods_and_partials_have_no_importable_name():
    bound, partial = Adder(1).add, functools.partial(module_function, 1)

    assert importable_name(bound) is None
    assert importable_name(partial) is None
    assert importable_name(lambda: 1) is None
    assert (
        run("from fastworker_lite.serialization import importable_name\ndef f(): pass\nprint(importable_name(f))")
        == "None"
    )


def test_a_bound_method_travels_with_its_object():
    assert decode_target(encode_target(Target.make(Adder(5).add))).function(1) == 6


def test_a_function_that_was_replaced_under_its_name_travels_by_value(monkeypatch):
    original = module_function
    monkeypatch.setattr(sys.modules[__name__], "module_function", None)

    assert importable_name(original) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_:f", "No module named 'no_such_module_'"),
        ("os:no_such", 'module "os" has no function "no_such"'),
        ("os:sep", '"os:sep" is not a function'),
        ("os:", 'module "os" has no function ""'),
    ],
)
def test_a_name_that_leads_to_no_function_is_refused(name, message):
    with pytest.raises(ImportError, match=message):
        import_function(name)


def test_a_coroutine_function_is_known_as_one():
    assert is_async(module_coroutine)
    assert is_async(Adder(1))
    assert is_async(functools.partial(module_coroutine))
    assert not is_async(module_function)


def test_only_so_many_functions_are_kept(monkeypatch):
    monkeypatch.setattr(serialization, "_targets", type(serialization._targets)())
    monkeypatch.setattr(serialization, "_TARGETS_KEPT", 2)

    for name in ("os:getpid", "os:getppid", "os:getuid"):
        decode_target(b"I" + name.encode())

    assert list(serialization._targets) == [b"Ios:getppid", b"Ios:getuid"]


# ---- commands


def test_a_command_comes_back_even_with_bytes_that_are_not_utf_8():
    strange = os.fsdecode(b"caf\xe9")
    command = Command(argv=["ls", strange], shell=None, cwd="/tmp/" + strange)

    assert decode_command(encode_command(command)) == command


def test_an_environment_is_the_same_bytes_in_any_order():
    assert encode_environment({"A": "1", "B": "2"}) == encode_environment({"B": "2", "A": "1"})
    assert decode_environment(encode_environment({"A": os.fsdecode(b"\xff")})) == {"A": os.fsdecode(b"\xff")}


# ---- ownership


def test_cloudpickle_is_loaded_only_when_it_is_needed():
    script = """
import sys
from fastworker_lite.serialization import encode, decode
decode(encode([1, "x"]))
print("cloudpickle" in sys.modules)
"""
    assert run(script) == "False"
