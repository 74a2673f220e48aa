"""RDKit's fingerprints as a classical encoder of molecules: nothing learnt, nothing downloaded.

In: SMILES strings.  Out: one hashed fingerprint a molecule, as numbers.

Named in a configuration as `pipeline.encoders.molecule_fingerprints:MoleculeFingerprint`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.signal import Signal

_DEFAULT_WIDTH = 2048
_GENERATORS = {
    "morgan": "GetMorganGenerator",
    "rdkit": "GetRDKitFPGenerator",
    "atom_pair": "GetAtomPairGenerator",
    "torsion": "GetTopologicalTorsionGenerator",
}
_DEFAULTS: dict[str, str | int | float | bool] = {"algorithm": "morgan", "radius": 2, "counts": False}


class MoleculeFingerprint:
    """A hashed fingerprint of `width` numbers (2048 unless configured).

    Options: `algorithm` (`morgan`, `rdkit`, `atom_pair`, `torsion`), `radius` (of `morgan`), and `counts` (how often a
    feature occurs, instead of whether it does).
    """

    def __init__(self, config: EncoderConfig, kind: SignalKind, device: str = "cpu") -> None:
        import rdkit
        from rdkit.Chem import rdFingerprintGenerator

        if kind != "molecule":
            raise ValueError(f"it reads molecules, not {kind}")
        options = _checked(config.options)
        self.name = config.name
        self.width = config.width or _DEFAULT_WIDTH
        self.fingerprint = f"rdkit {rdkit.__version__}"
        algorithm = options["algorithm"]
        arguments: dict[str, Any] = {"fpSize": self.width}
        if algorithm == "morgan":
            arguments["radius"] = options["radius"]
        generator = getattr(rdFingerprintGenerator, _GENERATORS[algorithm])(**arguments)
        self._vector: Callable[[Any], npt.NDArray[Any]] = (
            generator.GetCountFingerprintAsNumPy if options["counts"] else generator.GetFingerprintAsNumPy
        )

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """Fingerprints `[n, width]`."""
        vectors = np.zeros((len(signals), self.width), dtype=np.float32)
        for row, signal in enumerate(signals):
            vectors[row] = self._vector(_molecule(signal))
        return vectors


def _molecule(signal: Signal) -> Any:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(signal.text) if signal.text is not None else None
    if molecule is None:
        raise ValueError(f"not a SMILES string: {(signal.text or '')[:60]!r}")
    return molecule


def _checked(given: Mapping[str, str | int | float | bool]) -> dict[str, Any]:
    unknown = sorted(given.keys() - _DEFAULTS.keys())
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)}: valid ones are {', '.join(_DEFAULTS)}")
    options: dict[str, Any] = {**_DEFAULTS, **given}
    if options["algorithm"] not in _GENERATORS:
        raise ValueError(f"option algorithm is {options['algorithm']!r}, must be one of {', '.join(_GENERATORS)}")
    if type(options["radius"]) is not int or options["radius"] < 0:
        raise ValueError(f"option radius is {options['radius']!r}, must be a whole number, 0 or more")
    if type(options["counts"]) is not bool:
        raise ValueError(f"option counts is {options['counts']!r}, must be true or false")
    return options
