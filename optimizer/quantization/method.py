"""How a run turns weights into codes: a quantizer, and the name under which its results are kept."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.formats.matrix import Quantizer
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.clipping import ClippedRounding
from optimizer.quantization.gptq import Gptq
from optimizer.quantization.rtn import round_to_nearest
from optimizer.quantization.static_activations import StaticActivations


@dataclass(frozen=True)
class Method:
    """`name` as in model.yaml, `+clip` where ranges are clipped; `calibration` is the digest of what it calibrated on."""

    name: str
    quantize: Quantizer
    calibration: str | None = None

    @property
    def key(self) -> str:
        """A folder name that tells apart whatever gives other codes of the same weights."""
        return self.name if self.calibration is None else f"{self.name}-{self.calibration[:16]}"


ROUND_TO_NEAREST = Method("rtn", round_to_nearest)


def clipped_rounding_method(calibration: Calibration) -> Method:
    """Round to nearest on clipped ranges."""
    return Method("rtn+clip", ClippedRounding(calibration), calibration.digest)


def gptq_method(calibration: Calibration, *, clip: bool = False) -> Method:
    """GPTQ, also on clipped ranges."""
    return Method("gptq+clip" if clip else "gptq", Gptq(calibration, clip), calibration.digest)


def with_static_activations(method: Method, calibration: Calibration) -> Method:
    """`method`, which also gives the scales of activations that `calibration` found, to schemes that have them."""
    return Method(method.name, StaticActivations(method.quantize, calibration), calibration.digest)
