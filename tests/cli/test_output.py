"""Tables for people, JSON and YAML of the same value for programs."""

from __future__ import annotations

import json

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.cli.output import cell, emit, encode, output_option, table


class Row(msgspec.Struct):
    name: str
    ready: bool


def test_table_aligns_text_left_and_numbers_right() -> None:
    assert table(["NODE", "PODS", "READY"], [("node1", 3, True), ("n2", 12, False), ("n3", None, None)]) == (
        "NODE   PODS  READY\n"
        "node1     3  yes\n"
        "n2       12  no\n"
        "n3        -  -"
    )  # fmt: skip


def test_table_without_rows_is_its_header() -> None:
    assert table(["A", "B"], []) == "A  B"


@given(st.lists(st.tuples(st.text("ab ", max_size=5), st.integers() | st.none(), st.text("xy", min_size=1))))
def test_table_has_a_line_a_row_and_straight_columns(rows: list[tuple[str, int | None, str]]) -> None:
    lines = table(["A", "B", "C"], rows).split("\n")
    assert len(lines) == len(rows) + 1
    column = lines[0].index("C")
    assert all(line[column:] == row[2] for line, row in zip(lines[1:], rows, strict=True))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ("", "-"), (0, "0"), (True, "yes"), (False, "no"), (1.005, "1.00"), ("a b", "a b")]
)
def test_cell(value: object, text: str) -> None:
    assert cell(value) == text


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_programs_read_back_what_was_given(value: object) -> None:
    assert json.loads(encode(value, "json")) == value
    assert yaml.safe_load(encode(value, "yaml")) == value


def test_structs_keep_the_order_of_their_fields() -> None:
    assert encode([Row("a", True)], "json") == '[\n  {\n    "name": "a",\n    "ready": true\n  }\n]'
    assert encode([Row("a", True)], "yaml") == "- name: a\n  ready: true"


@click.command()
@output_option
def probe(output: str) -> None:
    emit({"ok": True}, output, lambda: "all is well")


@pytest.mark.parametrize(
    ("args", "out"),
    [
        ([], "all is well\n"),
        (["-o", "table"], "all is well\n"),
        (["-o", "json"], '{\n  "ok": true\n}\n'),
        (["--output", "yaml"], "ok: true\n"),
    ],
)
def test_option(args: list[str], out: str) -> None:
    assert CliRunner().invoke(probe, args).output == out


def test_unknown_format_is_refused() -> None:
    assert CliRunner().invoke(probe, ["-o", "xml"]).exit_code == 2
