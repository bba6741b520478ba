"""Docstrings, formulas and notebooks on their way into the site."""

from __future__ import annotations

import sys

import pytest
from pages import REPOSITORY

sys.path.append(str(REPOSITORY / "docs" / "_ext"))

import docstrings
import notebooks

CASES = {
    "prose keeps its code": (["``|v|`` of *all* filters."], ["``|v|`` of *all* filters."]),
    "bars and stars are no marks": (["|v| is 2 * t."], [r"\|v\| is 2 \* t."]),
    "a last underscore is no link": (["see scaler_ and V_i"], [r"see scaler\_ and V_i"]),
    "code in the plural": (["the ``grad``s of"], [r"the ``grad``\ s of"]),
    "a formula": (["minimise |v|^2", "over v."], ["::", "", "    minimise |v|^2", "    over v."]),
    "a definition": (["F_c(x) = b_c + 1"], ["::", "", "    F_c(x) = b_c + 1"]),
    "an indented formula": (["Text:", "", "    a |b|"], ["Text:", "", "::", "", "        a |b|"]),
    "arguments are no formulas": (["Args:", "    v: |v| > 0."], ["Args:", r"    v: \|v\| > 0."]),
}


@pytest.mark.parametrize("case", CASES)
def test_docstrings_become_restructuredtext(case: str) -> None:
    given, expected = CASES[case]
    assert docstrings.rewrite(given) == expected


def test_a_notebook_becomes_markdown() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "display_data", "data": {"image/png": "QUJD\n"}},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
            ],
        },
    ]
    title, code, printed, drawn, value = notebooks.to_markdown({"cells": cells})
    assert title == "## Title\ntext"
    assert code.splitlines()[1:-1] == ["print(1)"]
    assert printed.splitlines()[1:-1] == ["1"]
    assert drawn.endswith("(data:image/png;base64,QUJD)")
    assert value.splitlines()[1:-1] == ["2"]
