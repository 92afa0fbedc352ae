"""The graph that the passes of a conversion rewrite: operations in the user's own numbers, before any grid is chosen."""

from casc_core.conversion.graph.by_level import ByLevel, Levels, is_boolean, levels_of
from casc_core.conversion.graph.factors import (
    Factor,
    Normalisation,
    NormalisedDrive,
    Offset,
    Rescaled,
    Zeroed,
    as_map,
    as_normalisation,
    map_before,
)
from casc_core.conversion.graph.graph import Graph
from casc_core.conversion.graph.inputs import Argument, AttributeOf, Encoded, FunctionCall, Known
from casc_core.conversion.graph.level_population import LevelPopulation
from casc_core.conversion.graph.map_node import MapNode
from casc_core.conversion.graph.maps import ConvolutionMap, LinearMap, TableLookup, TableMap
from casc_core.conversion.graph.node import (
    FILLED,
    ComparingNode,
    Folding,
    InputNode,
    Node,
    PartsNode,
    Place,
    PopulationNode,
    SignalNode,
    Snapped,
    Snapping,
    SpikingNode,
)
from casc_core.conversion.graph.population import Population
from casc_core.conversion.graph.products import Product
from casc_core.conversion.graph.signals import Addition, Applied, Concatenation, Counted, Filled, Maximum, Split

__all__ = [
    "FILLED",
    "Addition",
    "Applied",
    "Argument",
    "AttributeOf",
    "ByLevel",
    "ComparingNode",
    "Concatenation",
    "ConvolutionMap",
    "Counted",
    "Encoded",
    "Factor",
    "Filled",
    "Folding",
    "FunctionCall",
    "Graph",
    "InputNode",
    "Known",
    "LevelPopulation",
    "Levels",
    "LinearMap",
    "MapNode",
    "Maximum",
    "Node",
    "Normalisation",
    "NormalisedDrive",
    "Offset",
    "PartsNode",
    "Place",
    "Population",
    "PopulationNode",
    "Product",
    "Rescaled",
    "SignalNode",
    "Snapped",
    "Snapping",
    "SpikingNode",
    "Split",
    "TableLookup",
    "TableMap",
    "Zeroed",
    "as_map",
    "as_normalisation",
    "is_boolean",
    "levels_of",
    "map_before",
]
