"""Modality `molecule`: SMILES put together from fragments; what RDKit computes from them decides the values.

In: a random generator.  Out: an `Example` with a SMILES string (random atom order) and the values that `describe`
reads off the molecule.  The wanted rings, group and halogens are drawn evenly; the mass follows where it can.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

_GRAMMAR = GRAMMARS["molecule"]
# Fragments with a free bond at their end (groups) or at both ends (the others); all bonds go to carbon.
_GROUP_ENDS = {
    "alcohol": "OC",
    "carboxylic acid": "OC(=O)",
    "amine": "NC",
    "amide": "NC(=O)",
    "ester": "COC(=O)",
    "nitrile": "N#C",
    "ketone": "CC(=O)",
    "nitro": "O=N(=O)C",
    "thiol": "SC",
}
_GROUP_PATTERNS = {
    "alcohol": "[OX2H][CX4]",
    "carboxylic acid": "[CX3](=O)[OX2H]",
    "amine": "[NX3H2][CX4]",
    "amide": "[CX3](=O)[NX3H2]",
    "ester": "[CX3](=O)[OX2][#6]",
    "nitrile": "[CX2]#[NX1]",
    "ketone": "[#6][CX3](=O)[#6]",
    "nitro": "[NX3+](=O)[O-]",
    "thiol": "[SX2H]",
}
_RING_UNITS = {
    1: ("c1ccc(cc1)", "c1cccc(c1)", "C1CCC(CC1)", "C1CC(CC1)", "c1ccc(nc1)", "C1CC1", "c1cc(sc1)"),
    2: ("c1ccc2cc(ccc2c1)", "C1CCC2CC(CCC2C1)", "c1ccc2occ(c2c1)"),
    3: ("c1ccc2cc3cc(ccc3cc2c1)", "c1ccc2c(c1)oc1cc(ccc12)"),
}
_SPACERS = ("C", "CC", "C(C)", "COC", "CC(C)C", "C(CC)", "CCCC")
_HALOGENS = {"fluorinated": "F", "chlorinated": "Cl", "brominated": "Br", "iodinated": "I"}
_MOST_ATOMS = {"F": 3, "Cl": 2}
_MASS_EDGES = (245.0, 300.0, 350.0, 397.0, 445.0)
_MASS_MARGIN = 4.0
_MASS_RANGE = (70.0, 480.0)
_METHANE = 16.0313
_DRAFTS = 4
_FILL_SLACK = 12.0
_ATTEMPTS = 400


def make(rng: np.random.Generator) -> Example:
    """One molecule."""
    wanted = _GRAMMAR.sample(rng)
    for _ in range(_ATTEMPTS):
        molecule = Chem.MolFromSmiles(_assemble(wanted, rng))
        values = describe(molecule)
        # Mass is what comes out; a molecule whose group is ambiguous or whose mass lies on an edge is not used.
        if {**values, "mass": ""} == {**wanted, "mass": ""} and not _near_edge(
            rdMolDescriptors.CalcExactMolWt(molecule)
        ):
            seed = int(rng.integers(1 << 30))
            smiles = Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)[0]
            return Example(str(smiles), values)
    raise RuntimeError(f"no molecule with {wanted} in {_ATTEMPTS} attempts")


def describe(molecule: Chem.Mol) -> dict[str, str]:
    """Values of a molecule; an attribute that the grammar has no single phrase for is left out."""
    values: dict[str, str] = {}
    rings = rdMolDescriptors.CalcNumRings(molecule)
    if rings < len(_GRAMMAR.values("rings")):
        values["rings"] = _GRAMMAR.values("rings")[rings]
    groups = [name for name, pattern in _patterns().items() if molecule.HasSubstructMatch(pattern)]
    if len(groups) == 1:
        values["group"] = groups[0]
    values["halogen"] = _halogen_phrase({atom.GetSymbol() for atom in molecule.GetAtoms()})
    level = int(np.searchsorted(_MASS_EDGES, rdMolDescriptors.CalcExactMolWt(molecule)))
    values["mass"] = _GRAMMAR.values("mass")[level]
    return values


@cache
def _patterns() -> dict[str, Chem.Mol]:
    return {name: Chem.MolFromSmarts(smarts) for name, smarts in _GROUP_PATTERNS.items()}


def _halogen_phrase(symbols: set[str]) -> str:
    present = [phrase for phrase, symbol in _HALOGENS.items() if symbol in symbols]
    if len(present) == 1:
        return present[0]
    return "mixed halogens" if present else "halogen free"


def _near_edge(mass: float) -> bool:
    """Masses that only a scale could tell apart are not used."""
    return bool(np.abs(np.array(_MASS_EDGES) - mass).min() < _MASS_MARGIN)


def _assemble(wanted: dict[str, str], rng: np.random.Generator) -> str:
    """A SMILES with the wanted rings and halogens behind the wanted group, about as heavy as a target drawn evenly."""
    end = _GROUP_ENDS[wanted["group"]]
    target = rng.uniform(*_MASS_RANGE) - _unit_mass(end)
    drafts = [_required_units(wanted, rng) for _ in range(_DRAFTS)]
    masses = [sum(map(_unit_mass, units)) for units in drafts]
    # The heaviest draft that leaves room, else the lightest: four rings with iodine are never light.
    best = max(range(_DRAFTS), key=lambda i: masses[i] if masses[i] <= target else -masses[i])
    units, mass = drafts[best], masses[best]
    while mass < target - _FILL_SLACK:
        units.append(str(rng.choice(_SPACERS)))
        mass += _unit_mass(units[-1])
    order = rng.permutation(len(units))
    return end + "".join(units[i] for i in order) + "C"


@cache
def _unit_mass(unit: str) -> float:
    """Mass that a fragment adds to a molecule."""
    return float(rdMolDescriptors.CalcExactMolWt(Chem.MolFromSmiles(f"{unit}C")) - _METHANE)


def _required_units(wanted: dict[str, str], rng: np.random.Generator) -> list[str]:
    """Rings and halogens, without a group and without filling."""
    rings = _ring_units(_GRAMMAR.level("rings", wanted["rings"]), rng)
    return rings + [f"C({symbol})" for symbol in _halogen_atoms(wanted["halogen"], rng)]


def _ring_units(count: int, rng: np.random.Generator) -> list[str]:
    """Ring systems that hold `count` rings together."""
    units: list[str] = []
    while count:
        rings = int(rng.integers(1, min(count, 3) + 1))
        units.append(str(rng.choice(_RING_UNITS[rings])))
        count -= rings
    return units


def _halogen_atoms(phrase: str, rng: np.random.Generator) -> list[str]:
    if phrase == "halogen free":
        return []
    if phrase == "mixed halogens":
        return [str(symbol) for symbol in rng.choice(list(_HALOGENS.values()), size=2, replace=False)]
    symbol = _HALOGENS[phrase]
    return [symbol] * int(rng.integers(1, _MOST_ATOMS.get(symbol, 1) + 1))
