"""Output folders that are none of a recipe, or of another: what is said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from casc_core.errors import StorageError
from casc_lab.evaluation.results_folder import results_of


def asked(folder: Path, kind: str = "text") -> Any:
    with results_of(folder, kind, "; name another") as results:
        return results["tokenizer"]


def test_what_is_there_is_given(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"options": {}, "tokenizer": "words"}')
    assert asked(tmp_path) == "words"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"options": {}}, "is damaged, or not that of a text recipe (KeyError: 'tokenizer')"),
        ({"options": {}, "recipe": "yolo"}, "(KeyError: 'tokenizer'); the recipe 'yolo' wrote it"),
        ({"options": 3}, "options must be an object"),
        ("{", "is damaged, or not that of a text recipe"),
        ([], "results must be an object"),
    ],
)
def test_others_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(StorageError, match=re.escape(message)):
        asked(tmp_path)


def test_where_it_may_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is not the output folder of a text recipe: .*; name another"):
        asked(tmp_path)
    for name in ("q4", "q8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
    with pytest.raises(StorageError, match=r"holds no results\.json; take one of the folders in it: q4, q8"):
        asked(tmp_path)
    (tmp_path / "q4/network").mkdir()
    (tmp_path / "q4/network/network.json").write_text("{}")
    with pytest.raises(StorageError, match="take the folder that it lies in"):
        asked(tmp_path / "q4/network")
