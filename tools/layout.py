"""The packages of this repository: their tree, and what depends on what.

    python tools/layout.py                       # the tree, each package's dependencies, and what stands against the layers
    python tools/layout.py --picture FILE.svg    # the dependencies as a picture: every arrow should point downwards

It reads the import statements and imports nothing, so it can be given any checkout: `--root FOLDER`.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recipes", "casc_seq", "casc_lab", "casc_core")
"""The packages, uppermost first. The scripts in `recipes` import each other from that folder, without its name."""

Graph = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Import:
    """An import of a module of ours.

    Attributes:
        target: the module.
        line: where it stands.
        is_late: it stands within a function.
    """

    target: str
    line: int
    is_late: bool


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        name: as it is imported; that of a package's `__init__` is the package's.
        path: relative to the root.
        summary: the first line of its docstring.
        is_package: whether it is a package's `__init__`.
        imports: of modules of ours, under `TYPE_CHECKING` too.
    """

    name: str
    path: Path
    summary: str
    is_package: bool
    imports: tuple[Import, ...]


def modules(root: Path) -> dict[str, Module]:
    """The modules of a checkout, by name."""
    files = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        is_package = path.name == "__init__.py"
        found[name] = Module(name, path.relative_to(root), summary, is_package, tuple(_imports(tree, files)))
    return found


def _imports(tree: ast.Module, known: Collection[str]) -> Iterator[Import]:
    late = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in named:
            target = _module_of(name, known)
            if target is not None:
                yield Import(target, node.lineno, node in late)


def _module_of(name: str, known: Collection[str]) -> str | None:
    """The module of ours that an imported name is, or is in."""
    for candidate in (name, f"recipes.{name}"):
        while candidate and candidate != "recipes":
            if candidate in known:
                return candidate
            candidate = candidate.rpartition(".")[0]
    return None


def unit_of(name: str) -> str:
    """What a module is counted to: the package right below the topmost one that holds it, or itself if it lies in that."""
    return ".".join(name.split(".")[:2])


def module_graph(known: Mapping[str, Module]) -> dict[str, set[str]]:
    """By module, those that it imports."""
    return {name: {each.target for each in module.imports} - {name} for name, module in known.items()}


def unit_graph(known: Mapping[str, Module]) -> dict[str, set[str]]:
    """By unit, those that its modules import."""
    graph: dict[str, set[str]] = {}
    for name, module in known.items():
        unit = unit_of(name)
        graph.setdefault(unit, set()).update(unit_of(each.target) for each in module.imports)
    return {unit: targets - {unit} for unit, targets in graph.items()}


def circles(graph: Graph) -> list[list[str]]:
    """What depends on itself by way of others: the strongly connected components of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in number:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], number[target])
        if lowest[node] == number[node]:
            at = stack.index(node)
            component = sorted(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def heights(graph: Graph) -> dict[str, int]:
    """How many layers lie below each node; those of one circle are on one layer."""
    circle = {node: tuple(component) for component in circles(graph) for node in component}
    found: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in found:
            members = circle.get(node, (node,))
            below = {target for member in members for target in graph[member]} - set(members)
            found.update(dict.fromkeys(members, max((height(target) + 1 for target in below), default=0)))
        return found[node]

    for node in graph:
        height(node)
    return found


def tree(known: Mapping[str, Module]) -> Iterator[str]:
    """The tree, a line for each file."""
    for package in PACKAGES:
        of_it = [module for module in known.values() if module.path.parts[0] == package]
        if package not in known:
            yield f"{package}/"
        yield from _branch(package, of_it, 0)


def _branch(folder: str, known: Sequence[Module], depth: int) -> Iterator[str]:
    indent = "  " * depth
    own = next((module for module in known if module.name == folder and module.is_package), None)
    if own is not None:
        yield _line(f"{indent}{folder.rpartition('.')[2]}/", own.summary)
    inside = sorted({module.name.removeprefix(f"{folder}.").partition(".")[0] for module in known if module is not own})
    by_name = {module.name: module for module in known}
    packages = [name for name in inside if not _is_file(by_name.get(f"{folder}.{name}"))]
    for name in [name for name in inside if name not in packages]:
        module = by_name[f"{folder}.{name}"]
        yield _line(f"{indent}  {module.path.name}", module.summary)
    for name in packages:
        below = f"{folder}.{name}"
        yield from _branch(below, [each for each in known if f"{each.name}.".startswith(f"{below}.")], depth + 1)


def _is_file(module: Module | None) -> bool:
    return module is not None and not module.is_package


def _line(name: str, summary: str) -> str:
    return f"{name:<28}{summary}".rstrip()


def dependencies(known: Mapping[str, Module]) -> Iterator[str]:
    """What each package imports, and what stands against the layers."""
    graph = unit_graph(known)
    level = heights(graph)
    for unit in sorted(graph, key=lambda unit: (PACKAGES.index(unit.partition(".")[0]), -level[unit], unit)):
        if graph[unit]:
            yield f"{unit:<28}-> {', '.join(sorted(graph[unit]))}"
    flat = [name for name, module in known.items() if name.startswith("casc_core.") and name.count(".") == 1]
    yield ""
    yield f"modules that lie flat in casc_core: {sum(not known[name].is_package for name in flat)}"
    for what, found in (("modules", circles(module_graph(known))), ("packages", circles(graph))):
        yield f"circles of imports among {what}: {len(found)}"
        yield from (f"  {' <-> '.join(component)}" for component in found)
    late = [(module, each) for module in known.values() for each in module.imports if each.is_late]
    yield f"imports of ours inside functions: {len(late)}"
    yield from (f"  {module.path}:{each.line}: {each.target}" for module, each in late)


# The picture.

FONTS = "system-ui, Helvetica, Arial, 'DejaVu Sans', sans-serif"
WIDTH, MARGIN, PADDING = 1120, 16, 14
LETTER, BOX, GAP = 7.3, 28, 16
"""Of a letter in a box the width; of a box, and between two, the height."""
BETWEEN = 50
RED = "#c0282d"
COLOURS = {"recipes": "#fdf3e1", "casc_seq": "#e6f4ea", "casc_lab": "#fbe9ee", "casc_core": "#e8eefb"}


@dataclass(frozen=True)
class Box:
    """Where a unit is drawn."""

    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def picture(known: Mapping[str, Module]) -> str:
    """The dependencies as SVG: packages as frames, and in each what it holds, above what that imports.

    What follows from other arrows is left out, and so are the names that a package re-exports. An arrow of a circle is red.
    """
    graph = unit_graph(known)
    boxes: dict[str, Box] = {}
    frames: list[tuple[str, float, float]] = []
    top = float(MARGIN)
    for package in PACKAGES:
        inside = {unit: graph[unit] for unit in graph if unit.startswith(f"{package}.")}
        if not inside:
            continue
        own = {unit: [each for each in targets if each in inside] for unit, targets in inside.items()}
        placed, bottom = _placed(own, top + 30)
        boxes |= placed
        frames.append((package, top, bottom))
        top = bottom + BETWEEN
    height = top - BETWEEN + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="{FONTS}" '
        'font-size="12.5">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for package, above, below in frames:
        lines.append(
            f'<rect x="{MARGIN}" y="{above:.0f}" width="{WIDTH - 2 * MARGIN}" height="{below - above:.0f}" rx="8" '
            f'fill="{COLOURS[package]}" stroke="#b8c0cc"/>'
            f'<text x="{MARGIN + 12}" y="{above + 20:.0f}" font-weight="bold">{package}</text>'
        )
    lines += _between_frames(frames, graph)
    lines += _arrows(boxes, graph)
    for unit, box in boxes.items():
        label = unit.partition(".")[2]
        is_package = known[unit].is_package if unit in known else True
        lines.append(
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{BOX}" rx="5" fill="#ffffff" '
            f'stroke="#40506a" stroke-width="{2 if is_package else 1}"/>'
            f'<text x="{box.middle:.1f}" y="{box.y + 18.5:.1f}" text-anchor="middle">'
            f"{escape(label)}{'/' if is_package else ''}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _placed(graph: Graph, top: float) -> tuple[dict[str, Box], float]:
    """The boxes of a package, what imports above what is imported, and where they end."""
    level = heights(graph)
    users = {unit: [other for other in graph if unit in graph[other]] for unit in graph}
    boxes: dict[str, Box] = {}
    y = top
    for height in sorted(set(level.values()), reverse=True):
        row = [unit for unit in graph if level[unit] == height]

        def above(unit: str) -> float:
            """The middle of what imports it."""
            there = [boxes[user].middle for user in users[unit] if user in boxes]
            return sum(there) / len(there) if there else WIDTH / 2

        for line in _lines(sorted(row, key=lambda unit: (above(unit), unit))):
            widths = [_width(unit) for unit in line]
            space = (WIDTH - 2 * MARGIN - sum(widths)) / (len(line) + 1)
            x = MARGIN + space
            for unit, width in zip(line, widths, strict=True):
                boxes[unit] = Box(x, y, width)
                x += width + space
            y += BOX + GAP
        y += 2 * GAP
    return boxes, y - 3 * GAP + PADDING


def _lines(row: Sequence[str]) -> Iterator[list[str]]:
    """As many boxes side by side as there is room for."""
    line: list[str] = []
    for unit in row:
        if line and sum(_width(each) + GAP for each in [*line, unit]) > WIDTH - 4 * MARGIN:
            yield line
            line = []
        line.append(unit)
    yield line


def _width(unit: str) -> float:
    return (len(unit.partition(".")[2]) + 1) * LETTER + PADDING


def _between_frames(frames: Sequence[tuple[str, float, float]], graph: Graph) -> Iterator[str]:
    uses = {(unit.partition(".")[0], target.partition(".")[0]) for unit, targets in graph.items() for target in targets}
    for (upper, _, bottom), (lower, top, _) in itertools.pairwise(frames):
        used = [package for package, _, _ in frames if (package, lower) in uses and package != lower]
        wrong = (lower, upper) in uses
        colour = RED if wrong else "#40506a"
        yield (
            f'<path d="M{WIDTH / 2} {bottom} V{top - 8}" stroke="{colour}" stroke-width="4"/>'
            + _head(WIDTH / 2, top - 1, 8, colour)
            + f'<text x="{WIDTH / 2 + 16}" y="{(bottom + top) / 2 + 4:.0f}" fill="{colour}">'
            f"{', '.join(used)} import{'s' if len(used) == 1 else ''} {lower}</text>"
        )


def _head(x: float, y: float, size: float, colour: str) -> str:
    """The head of an arrow that ends at a place, from above; from below, where its size is negative."""
    return f'<path d="M{x:.1f} {y:.1f} l{-size / 2} {-size} h{size} z" fill="{colour}"/>'


def _arrows(boxes: Mapping[str, Box], graph: Graph) -> Iterator[str]:
    circle = {node: tuple(component) for component in circles(graph) for node in component}
    inside = {
        unit: {each for each in graph[unit] if each in boxes and _package(each) == _package(unit)} for unit in boxes
    }
    reach = {unit: _reached(inside, unit) for unit in inside}
    for unit, targets in inside.items():
        for target in sorted(targets):
            turns = target in circle and circle.get(unit) == circle[target]
            if not turns and any(target in reach[other] for other in targets - {target}):
                continue
            start, end = boxes[unit], boxes[target]
            down = end.y > start.y
            size, colour = 6 if down else -6, RED if turns else "#7a8699"
            y, to = (start.y + BOX, end.y) if down else (start.y, end.y + BOX)
            bend = (to - y) * 0.45
            yield (
                f'<path d="M{start.middle:.1f} {y:.1f} C{start.middle:.1f} {y + bend:.1f} {end.middle:.1f} '
                f'{to - bend:.1f} {end.middle:.1f} {to - size:.1f}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
                + _head(end.middle, to, size, colour)
            )


def _package(unit: str) -> str:
    return unit.partition(".")[0]


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for target in graph[left.pop()]:
            if target not in found:
                found.add(target)
                left.append(target)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    line = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    line.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the checkout; default: this one")
    line.add_argument("--picture", type=Path, metavar="FILE", help="write the dependencies to FILE, as SVG")
    options = line.parse_args(arguments)
    known = modules(options.root)
    if not known:
        sys.exit(f"{options.root} holds none of {', '.join(PACKAGES)}")
    if options.picture is not None:
        options.picture.write_text(picture(known), encoding="utf-8")
        return
    print("\n".join([*tree(known), "", *dependencies(known)]))


if __name__ == "__main__":
    main()
