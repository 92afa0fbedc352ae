"""Imports point downwards only: between packages in the order that stands here, and between modules without a circle."""

from __future__ import annotations

from pathlib import Path

import layout
import pytest
from pages import ROOT

LAYERS = (
    {"recipes"},
    {"casc_seq"},
    {"casc_lab"},
    {"casc_core", "casc_core.extend", "casc_core.operations"},
    {"casc_core.evidence", "casc_core.rivals"},
    {"casc_core.conversion"},
    {"casc_core.spiking_model", "casc_core.simulation"},
    {"casc_core.export"},
    {"casc_core.engine"},
    {
        "casc_core.activation", "casc_core.composed_activations", "casc_core.neuron", "casc_core.numerics",
        "casc_core.reporting", "casc_core.schedule", "casc_core.storage",
    },
    {"casc_core.errors"},
)  # fmt: skip
"""Uppermost first. What stands in one layer may import each other, in no circle."""
WITHOUT_THE_LAB = ("casc_seq.layers.rnn", "casc_seq.spiking.recurrence", "casc_seq.classifier", "casc_seq.adapter")
"""What a network of this family needs to be converted and to run: no experiments."""
DEFERRED = {("casc_lab.cli", "casc_core.errors")}
"""Imports that wait until a command runs: `casc --help` answers without torch."""
KNOWN = layout.modules(ROOT)
IMPORTS = [(module, each) for module in KNOWN.values() for each in module.imports]


def depth(name: str) -> int:
    """The layer of a module, the uppermost being 0."""
    for at, layer in enumerate(LAYERS):
        if layout.unit_of(name) in layer or name.partition(".")[0] in layer - {"casc_core"}:
            return at
    raise AssertionError(f"{name} is in no layer: give it a place in {Path(__file__).name}")


def test_every_module_has_a_layer() -> None:
    assert len(KNOWN) > 150
    assert {depth(name) for name in KNOWN} == set(range(len(LAYERS)))


def test_imports_point_downwards() -> None:
    upwards = [
        f"{module.path}:{each.line} imports {each.target}"
        for module, each in IMPORTS
        if depth(each.target) < depth(module.name)
    ]
    assert not upwards


def test_no_module_depends_on_itself() -> None:
    assert layout.circles(layout.module_graph(KNOWN)) == []
    assert layout.circles(layout.unit_graph(KNOWN)) == []


def test_imports_of_ours_stand_at_the_top() -> None:
    late = {(module.name, each.target) for module, each in IMPORTS if each.is_late}
    assert late == DEFERRED


@pytest.mark.parametrize("name", WITHOUT_THE_LAB)
def test_a_family_of_networks_needs_the_core_alone(name: str) -> None:
    graph = layout.module_graph(KNOWN)
    needed, left = {name}, [name]
    while left:
        for target in graph[left.pop()] - needed:
            needed.add(target)
            left.append(target)
    assert not [each for each in needed if each.startswith("casc_lab")]


@pytest.mark.parametrize("package", ["evidence", "rivals", "conversion", "export", "engine", "storage", "reporting"])
def test_what_is_internal_says_so(package: str) -> None:
    assert "\n\nInternal" in (ROOT / "casc_core" / package / "__init__.py").read_text(encoding="utf-8")


def written(root: Path, **files: str) -> dict[str, layout.Module]:
    """The modules of a checkout with these files, `__` standing for a folder."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return layout.modules(root)


def test_what_the_script_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = written(
        tmp_path,
        casc_core__a='"""First."""\nfrom casc_core.b import x\n',
        casc_core__b="def f():\n    import casc_core.c.d\n",
        casc_core__c__d="from casc_core import a\nimport os\n",
        recipes__one="import two.three\n",
        recipes__two__three="from casc_core.c import d\n",
    )
    assert layout.module_graph(known) == {
        "casc_core.a": {"casc_core.b"},
        "casc_core.b": {"casc_core.c.d"},
        "casc_core.c.d": {"casc_core.a"},
        "recipes.one": {"recipes.two.three"},
        "recipes.two.three": {"casc_core.c.d"},
    }
    assert layout.circles(layout.module_graph(known)) == [["casc_core.a", "casc_core.b", "casc_core.c.d"]]
    assert layout.circles(layout.unit_graph(known)) == [["casc_core.a", "casc_core.b", "casc_core.c"]]
    assert [each.is_late for each in known["casc_core.b"].imports] == [True]
    layout.main(["--root", str(tmp_path)])
    printed = capsys.readouterr().out
    for line in (
        "  a.py                      First.",
        "casc_core.a <-> casc_core.b <-> casc_core.c",
        "inside functions: 1",
    ):
        assert line in printed


def test_the_picture_draws_what_is_there(tmp_path: Path) -> None:
    drawn = layout.picture(KNOWN)
    units = layout.unit_graph(KNOWN)
    assert all(f">{unit.partition('.')[2]}" in drawn for unit in units if "." in unit)
    assert layout.RED not in drawn
    assert drawn == (ROOT / "docs" / "images" / "layers.svg").read_text(encoding="utf-8"), (
        "the picture is of other packages: python tools/layout.py --picture docs/images/layers.svg"
    )
    written(tmp_path, casc_core__a="import casc_core.b\n", casc_core__b="import casc_core.a\n")
    layout.main(["--root", str(tmp_path), "--picture", str(tmp_path / "now.svg")])
    assert layout.RED in (tmp_path / "now.svg").read_text(encoding="utf-8")


def test_families_use_what_is_public_alone() -> None:
    """Of the engine, an adapter sees `casc_core.extend` and `casc_core.operations`, as one of another package would."""
    inside = [
        f"{module.path}:{each.line} imports {each.target}"
        for module, each in IMPORTS
        if module.name.startswith("casc_seq") and each.target.startswith("casc_core.engine")
    ]
    assert not inside
